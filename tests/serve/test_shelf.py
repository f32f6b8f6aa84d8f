"""Which runs are served, their states, and reading what is being written."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from fourfold.core.errors import UserError
from fourfold.core.metrics import Metrics
from fourfold.core.state import write_text
from fourfold.serve.logs import Log, newest
from fourfold.serve.shelf import NoSuchRun, NotReady, Shelf


@pytest.fixture
def own(runs: Path, tmp_path: Path) -> Path:
    """A copy of the runs, to be written to."""
    return Path(shutil.copytree(runs, tmp_path / "runs"))


def age(folder: Path, seconds: float) -> None:
    """Make a run's files older."""
    then = time.time() - seconds
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (then, then))


def begin_again(folder: Path) -> None:
    """As a fit leaves its configuration until it ends."""
    text = (folder / "system.toml").read_text(encoding="utf-8")
    (folder / "system.toml").write_text(text.replace("finished = true\n", ""), encoding="utf-8")


def test_runs_by_name(runs: Path) -> None:
    shelf = Shelf([runs])
    assert shelf.names() == ["books", "polly", "rents"] and shelf.folder == runs
    info = shelf.status("books")
    assert (info.state, info.system, info.steps, info.ready, info.reason) == (
        "finished",
        "gpt",
        12,
        True,
        "",
    )
    assert {"generate", "score"} <= set(info.verbs) and info.last["valid.loss"] > 0
    assert [i.name for i in shelf.all()] == sorted(shelf.names(), key=lambda n: shelf.status(n).created, reverse=True) or len(shelf.all()) == 3  # fmt: skip
    single = Shelf([runs / "books", runs])
    assert single.names() == ["books", "polly", "rents"]  # the same folder twice is one run
    assert Shelf([runs / "books"]).folder is None


def test_wrong_folders(runs: Path, own: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="runz: no such folder; did you mean runs?"):
        Shelf([Path("runz")])
    with pytest.raises(UserError, match="no run to serve"):
        Shelf([])
    with pytest.raises(UserError) as error:
        Shelf([runs, own / "books"])
    assert f"{runs / 'books'} and {own / 'books'}: two runs of the name books" in str(error.value)
    shelf = Shelf([runs])
    with pytest.raises(NoSuchRun, match="bookz: no such run here; did you mean books?"):
        shelf.status("bookz")
    with pytest.raises(NoSuchRun, match="no such run here"):
        shelf.status("../runs/books")


def test_a_run_that_appears_and_one_that_goes(own: Path) -> None:
    shelf = Shelf([own])
    shutil.move(own / "books", own.parent / "elsewhere")
    assert shelf.names() == ["polly", "rents"]
    with pytest.raises(NoSuchRun):
        shelf.open("books")
    shutil.move(own.parent / "elsewhere", own / "tales")
    assert shelf.status("tales").system == "gpt" and shelf.open("tales").generate("1", tokens=1)


def test_a_second_run_of_a_name_is_said(own: Path, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    shelf = Shelf([own, tmp_path / "more"])
    shutil.copytree(runs / "books", tmp_path / "more" / "books")
    assert shelf.names() == ["books", "polly", "rents"]
    info = shelf.status("books")
    assert info.ready and f"only {own / 'books'} is served" in info.reason


def test_states(own: Path) -> None:
    shelf = Shelf([own])
    folder = own / "books"
    begin_again(folder)
    assert shelf.status("books").state == "running"
    age(folder, 3600)
    assert shelf.status("books").state == "stopped" and shelf.status("books").ready
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "loss": 0.5}\n')
    info = shelf.status("books")
    assert info.state == "running" and info.steps == 99 and info.last["loss"] == 0.5
    (folder / "weights.safetensors").unlink()
    (folder / "metrics.jsonl").unlink()
    (folder / "system.toml").touch()
    info = shelf.status("books")
    assert info.state == "waiting" and not info.ready
    with pytest.raises(NotReady, match="books: no weights yet: the fit has just begun"):
        shelf.open("books")
    age(folder, 3600)
    assert shelf.status("books").state == "stopped"
    with pytest.raises(NotReady, match="stopped before its first evaluation"):
        shelf.open("books")


def test_damaged_runs_do_not_disturb_the_others(own: Path) -> None:
    shelf = Shelf([own])
    (own / "books" / "system.toml").write_text("format = = 1")
    weights = own / "rents" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    info = shelf.status("books")
    assert info.state == "damaged" and "not valid TOML" in info.reason and info.verbs == ()
    info = shelf.status("rents")  # before anyone opens it
    assert info.state == "damaged" and "its weights are cut off" in info.reason
    content = bytearray((own / "polly" / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)  # of the right length
    with pytest.raises(NotReady, match="rents: .*damaged"):
        shelf.open("rents")
    info = shelf.status("rents")  # found when it was opened; until its files change it stays so
    assert info.state == "damaged" and not info.ready
    assert shelf.status("polly").state == "finished"
    assert {i.name for i in shelf.all()} == {"books", "polly", "rents"}
    shutil.copy(own / "polly" / "system.toml", own / "books" / "system.toml")
    assert shelf.status("books").system == "parrot"


def test_a_run_whose_files_make_no_sense_is_damaged_too(
    own: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = Shelf([own])
    (own / "books" / "data" / "data.json").write_text('{"format": 1}')
    with pytest.raises(NotReady, match="books: "):
        shelf.open("books")
    (own / "rents" / "data" / "table.json").write_text("[]")
    with pytest.raises(NotReady, match="rents: "):
        shelf.open("rents")
    assert {shelf.status(name).state for name in ("books", "rents")} == {"damaged"}


def test_what_is_known_of_a_fit_goes_before_what_its_files_tell(own: Path) -> None:
    shelf = Shelf([own])
    begin_again(own / "books")
    shelf.alive = lambda name: False
    assert shelf.status("books").state == "stopped"
    age(own / "books", 3600)
    shelf.alive = lambda name: True
    assert shelf.status("books").state == "running" and shelf.status("rents").state == "finished"


def test_weights_that_change_are_opened_again(own: Path, runs: Path) -> None:
    shelf = Shelf([own], keep=1)
    first = shelf.open("books")
    assert shelf.open("books") is first
    copy = own / "books" / "new"
    shutil.copy(own / "books" / "weights.safetensors", copy)
    os.replace(copy, own / "books" / "weights.safetensors")
    second = shelf.open("books")
    assert second is not first
    shelf.open("rents")
    assert shelf.opened == 1 and shelf.open("books") is not second


def test_a_log_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = Log(path)
    assert log.lines() == []
    path.write_bytes(b'{"step": 1}\n{"step": 2')
    assert log.lines() == [{"step": 1}]  # a line under way is no line yet
    with path.open("ab") as file:
        file.write(b'0}\nnonsense\n[1]\n{"step": 3}\n')
    assert log.lines() == [{"step": 1}, {"step": 20}, {"step": 3}] and log.age == 0
    write_text(path, '{"step": 1}\n')  # as a fit that goes on does
    assert log.lines() == [{"step": 1}] and log.age == 1
    assert newest(path) == [{"step": 1}] and newest(tmp_path / "none") == []
    path.write_text("".join(json.dumps({"step": i, "text": "x" * 100}) + "\n" for i in range(5000)))
    tail = newest(path)
    assert tail[-1]["step"] == 4999 and len(tail) < 1000
    assert [line["step"] for line in tail] == list(range(5000 - len(tail), 5000))


def test_a_run_is_read_while_it_is_written(own: Path) -> None:
    """What a fit does to its files, as fast as it can, beside a reader: never an error, never half a thing."""
    folder, until = own / "books", time.monotonic() + 1.0
    begin_again(folder)
    toml, weights = (
        (folder / "system.toml").read_text(),
        (folder / "weights.safetensors").read_bytes(),
    )

    def write() -> None:
        metrics = Metrics(folder / "metrics.jsonl")
        step = 100
        while time.monotonic() < until:
            for _ in range(20):
                step += 1
                metrics.log(step=step, loss=1 / step)
            metrics.cut(len(metrics.lines) - 5)
            write_text(folder / "system.toml", toml)
            (folder / "half").write_bytes(weights)
            os.replace(folder / "half", folder / "weights.safetensors")
        metrics.close()

    writer = threading.Thread(target=write)
    shelf = Shelf([own])
    log, looks = shelf.log("books"), 0
    writer.start()
    while writer.is_alive():
        info = shelf.status("books")
        assert info.state == "running" and info.ready and info.steps >= 12
        steps = [line["step"] for line in log.lines() if "loss" in line]
        assert steps == sorted(steps)
        assert shelf.open("books").system.name == "gpt"
        looks += 1
    writer.join()
    assert looks > 5
