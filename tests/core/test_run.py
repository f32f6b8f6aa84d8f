"""The run: found by name, its verbs as methods, its own generators, its source watched, nothing written in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fourfold
from faulty import FaultySystem, register_all
from fourfold.core.errors import UserError
from fourfold.core.folders import all_runs, find_run, new_folder
from fourfold.core.metrics import Metrics
from fourfold.core.registry import register
from fourfold.core.run import Run
from fourfold.core.system import system
from helpers import Rows, RowsOptions, RowSystem

SHORT: dict[str, Any] = {"steps": 4}


@pytest.fixture(autouse=True)
def systems() -> None:
    register_all()


def make(folder: Path, age: int = 0) -> Path:
    """A folder that looks like a run, last changed some seconds ago."""
    folder.mkdir(parents=True)
    path = folder / "system.toml"
    path.write_text('format = 1\nsystem = "rows"\n[options]\n')
    os.utime(path, (10**9 - age, 10**9 - age))
    return folder


# --- folders -----------------------------------------------------------------------------------------


def test_new_folders_are_numbered() -> None:
    assert new_folder("rows") == Path("runs/rows-1")
    for name in ("rows-1", "rows-3", "rows-x", "rows-big-7", "other-9"):
        make(Path("runs") / name)
    assert new_folder("rows") == Path("runs/rows-4")
    assert new_folder("rows-big") == Path("runs/rows-big-8")


def test_fits_without_a_name_take_the_next_number() -> None:
    folders = [fourfold.fit("rows", **SHORT).folder for _ in range(2)]
    assert folders == [Path("runs/rows-1"), Path("runs/rows-2")]
    assert find_run("last") == Path("runs/rows-2")


def test_runs_are_found_by_path_by_name_and_as_last(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = make(Path("runs/rows-2"), age=10), make(Path("runs/rows-1"), age=5)
    elsewhere = make(Path("elsewhere/mine"))
    assert find_run("rows-2") == find_run("runs/rows-2") == find_run(old) == old
    assert find_run("last") == new and all_runs() == [old, new]
    assert find_run(elsewhere) == elsewhere
    monkeypatch.setenv("FOURFOLD_RUNS", "elsewhere")
    assert find_run("last") == elsewhere == find_run("mine")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("runs/rows-22", "runs/rows-22: no such run; did you mean runs/rows-2?"),
        ("row-2", "row-2: no such run; did you mean rows-2?"),
        ("elsewhere/mien", "no such run; did you mean elsewhere/mine?"),
        ("notes", "notes: not a run \\(it has no system.toml\\)"),
    ],
)
def test_the_nearest_run_is_offered(name: str, message: str) -> None:
    make(Path("runs/rows-2"))
    make(Path("elsewhere/mine"))
    Path("notes").mkdir()
    with pytest.raises(UserError, match=message):
        find_run(name)


def test_last_where_there_is_none() -> None:
    with pytest.raises(UserError, match="last: no run in runs/ yet"):
        find_run("last")


@pytest.mark.parametrize("name", ["", "x" * 5000, "a\0b", "no/such/place"])
def test_odd_names_are_no_runs(name: str) -> None:
    with pytest.raises(UserError, match="no such run|not a run"):
        find_run(name)


def test_out_that_cannot_be() -> None:
    Path("file").write_text("")
    make(Path("taken"))
    for out, message in (
        ("file", "file: is a file; --out names a folder"),
        ("file/run", "file/run: .*file is a file; --out names a folder"),
        ("taken", "taken: holds a run already; --resume taken goes on with it"),
    ):
        with pytest.raises(UserError, match=message):
            fourfold.fit("rows", out=out, **SHORT)


# --- verbs -------------------------------------------------------------------------------------------


def test_verbs_are_methods(tmp_path: Path) -> None:
    fitted = fourfold.fit("rows", out=tmp_path / "run", **SHORT)
    for run in (fitted, fourfold.open(tmp_path / "run"), fourfold.open(str(tmp_path / "run"))):
        assert run.double(4) == 8 and run.double(4, times=3) == 12
        assert {"double", "evaluate", "folder", "note"} <= set(dir(run))
        assert "build" not in dir(run) and "preview" in dir(run)
        assert run.double.__doc__ == "Multiply."
        assert "verbs: double, evaluate" in repr(run)
    assert fitted.evaluate().values == fourfold.open(tmp_path / "run").evaluate().values


def test_an_unknown_verb_offers_the_nearest() -> None:
    run = fourfold.fit("rows", out=False, **SHORT)
    with pytest.raises(AttributeError, match="rows has no verb 'doubel'; did you mean double?"):
        run.doubel(2)
    assert not hasattr(run, "build") and not hasattr(run, "_hidden")


def test_a_streaming_verb_leaves_its_callers_gradients_on() -> None:
    class Streaming(RowSystem):
        def count(self, run: Run, many: int) -> Iterator[tuple[int, bool]]:
            for i in range(many):
                yield i, torch.is_grad_enabled()

    run = fourfold.fit(Streaming(), out=False, **SHORT)
    for _, inside in run.count(3):
        assert not inside and torch.is_grad_enabled()


# --- generators --------------------------------------------------------------------------------------


def test_generators_are_fixed_by_seed_purpose_and_number() -> None:
    def draw(seed: int, *purpose: Any) -> list[float]:
        return torch.rand(4, generator=Run(RowSystem(), seed=seed).generator(*purpose)).tolist()

    torch.manual_seed(1)
    first = draw(0, "noise")
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert draw(0, "noise") == first
    others = [draw(0, "noise", 1), draw(0, "sample"), draw(1, "noise"), first]
    assert len({tuple(o) for o in others}) == 4
    torch.set_rng_state(state)
    draw(0, "noise")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_preview_does_not_touch_the_training() -> None:
    class Previewing(FaultySystem):
        def preview(self, run: Run) -> str:
            assert not run.model.training and not torch.is_grad_enabled()
            return f"{torch.rand(()):.6f}"

    plain = fourfold.fit(FaultySystem(), out=False, steps=12)
    previewed = fourfold.fit(Previewing(), out=False, steps=12)
    for a, b in zip(plain.model.parameters(), previewed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    samples = previewed.metrics.series("sample")
    assert len([s for s in previewed.metrics.lines if "sample" in s]) == 3 and samples[0] == [
        4,
        8,
        12,
    ]


# --- sources -----------------------------------------------------------------------------------------


class Watched(RowsOptions):
    """Rows scaled by the number in a file."""

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> Any:
        rows = super().open(None)
        assert isinstance(rows, Rows)
        name = sources[0] if isinstance(sources, list) else sources
        content = (
            "1" if name is None else Path(name).read_text() if isinstance(name, str) else f"{name}"
        )
        rows.fingerprint = content
        rows.splits["train"]["y"] *= float(content)
        rows.reopen = lambda sources, **_: self.open(sources)  # type: ignore[method-assign]
        rows.save = lambda folder: (
            folder.mkdir(exist_ok=True),
            (folder / "print").write_text(content),
        )  # type: ignore[assignment, func-returns-value]
        return rows

    def restore(self, folder: Path) -> Any:
        rows = self.open(None)
        rows.fingerprint = (folder / "print").read_text()
        return rows


@system("watched", reads="numbers")
class WatchedSystem(RowSystem):
    """Rows from a file."""

    data: Watched = Watched()


def test_a_changed_source_is_refused() -> None:
    register(WatchedSystem)
    Path("numbers").write_text("2")
    fourfold.fit("watched", "numbers", out="run", **SHORT)
    run = fourfold.open("run")
    assert run.sources == [str(Path("numbers").resolve())]
    assert run.examples().size("train") == 64
    Path("numbers").write_text("3")
    with pytest.raises(UserError, match="run: its source .*numbers has changed since the fit"):
        fourfold.open("run").examples()
    with pytest.raises(UserError, match="has changed since it was fitted.*--from run"):
        fourfold.api.resume("run", steps=8)  # type: ignore[attr-defined]
    Path("numbers").write_text("2")
    assert fourfold.api.resume("run", steps=8).metrics.lines[-1]["step"] == 8  # type: ignore[attr-defined]


def test_data_in_memory_must_be_given_again() -> None:
    register(WatchedSystem)
    fourfold.fit("watched", 5.0, out="run", **SHORT)
    with pytest.raises(UserError, match="run: was fitted on data in memory; give the data"):
        fourfold.open("run").examples()
    with pytest.raises(UserError, match="run: was fitted on data in memory; give the data"):
        fourfold.api.resume("run", steps=8)  # type: ignore[attr-defined]
    resumed = fourfold.api.resume("run", source=5.0, steps=8)  # type: ignore[attr-defined]
    assert resumed.metrics.lines[-1]["step"] == 8
    with pytest.raises(UserError, match="its source float in memory has changed"):
        fourfold.api.resume("run", source=6.0, steps=9)  # type: ignore[attr-defined]


# --- memory and disk ---------------------------------------------------------------------------------


def test_a_run_in_memory_writes_nothing(tmp_path: Path) -> None:
    run = fourfold.fit(FaultySystem(), out=False, steps=12)
    assert not list(tmp_path.rglob("*"))
    assert run.folder is None and run.evaluate()["loss"] > 0
    assert run.best is not None and run.metrics.series("loss")[0] == list(range(1, 13))
    assert "in memory" in repr(run)


def test_memory_and_disk_learn_the_same(tmp_path: Path) -> None:
    a = fourfold.fit(FaultySystem(), out=False, steps=12)
    b = fourfold.fit(FaultySystem(), out=tmp_path / "run", steps=12)
    for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True):
        assert torch.equal(x, y)
    assert a.evaluate().values == b.evaluate().values


def test_a_run_folder_moves(tmp_path: Path) -> None:
    before = fourfold.fit("faulty", out=tmp_path / "a", steps=12).evaluate().values
    (tmp_path / "a").rename(tmp_path / "b")
    assert fourfold.open(tmp_path / "b").evaluate().values == before
    assert fourfold.api.resume(tmp_path / "b", steps=20).metrics.lines[-1]["step"] == 20  # type: ignore[attr-defined]


def test_nothing_in_a_run_is_a_pickle(tmp_path: Path) -> None:
    fourfold.fit("faulty", out=tmp_path / "run", steps=12)
    names = {p.suffix for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert names <= {".toml", ".safetensors", ".jsonl", ".json", ".html", ".bin", ".png", ""}
    assert not any(
        b"\x80\x04" in p.read_bytes()[:2] for p in (tmp_path / "run").rglob("*") if p.is_file()
    )


def test_notes_are_said_once_and_kept(tmp_path: Path) -> None:
    run = fourfold.fit("rows", out=tmp_path / "run", **SHORT)
    for _ in range(2):
        run.note("One é.")
    assert run.notes.count("One é.") == 1
    assert "One é." in fourfold.open(tmp_path / "run").notes
    assert "One é." in json.loads((tmp_path / "run" / "notes.json").read_text(encoding="utf-8"))


def test_a_note_before_there_is_a_folder_is_kept(tmp_path: Path) -> None:
    class Noting(RowSystem):
        def build(self, data: Any) -> torch.nn.Module:
            return super().build(data)

    class Objective(Noting.model_fields["objective"].annotation):  # type: ignore[name-defined, misc]
        def prepare(self, run: Run) -> Any:
            run.note("Prepared.")
            return self.model_copy()

    fourfold.fit(
        RowSystem.model_construct(**{**dict(RowSystem()), "objective": Objective()}),
        out=tmp_path / "run",
        **{},
    )
    assert fourfold.open(tmp_path / "run").notes == ["Prepared."]


def test_the_log_survives_what_a_kill_leaves(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = Metrics(path)
    for step in (1, 2, 3):
        log.log(step=step, loss=0.1 + step)
    log.close()
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    again = Metrics(path)
    assert again.lines == log.lines and again.series("loss") == ([1, 2, 3], [1.1, 2.1, 3.1])
    again.cut(2)
    again.log(step=3, loss=9.0)
    again.close()
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [1.1, 2.1, 9.0]


def test_a_run_shows_itself_in_a_notebook(tmp_path: Path) -> None:
    run = fourfold.fit("rows", out=tmp_path / "run", **SHORT)
    assert run._repr_html_().startswith("<iframe srcdoc=")
    memory = fourfold.fit("rows", out=False, **SHORT)
    assert memory._repr_html_().startswith("<pre>&lt;run of rows")


# --- going on ----------------------------------------------------------------------------------------


def test_resume_refuses_changed_options(tmp_path: Path) -> None:
    resume = fourfold.api.resume  # type: ignore[attr-defined]
    fourfold.fit("faulty", out=tmp_path / "run", steps=6)
    with pytest.raises(
        UserError, match=r"--resume goes on exactly, so optimizer.lr stays 0.02 \(got 0.5\).*--from"
    ):
        resume(tmp_path / "run", lr=0.5)
    with pytest.raises(UserError, match="unknown option lrr of faulty"):
        resume(tmp_path / "run", lrr=0.5)
    assert fourfold.open(tmp_path / "run").system.optimizer.steps == 6
    longer = resume(tmp_path / "run", steps=9)
    assert longer.metrics.lines[-1]["step"] == 9
    assert fourfold.open(tmp_path / "run").system.optimizer.steps == 9


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    fourfold.fit("faulty", out=tmp_path / "run", steps=6)
    weights = (tmp_path / "run" / "weights.safetensors").read_bytes()
    log = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    fourfold.api.resume(tmp_path / "run")  # type: ignore[attr-defined]
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == weights
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == log


def test_from_begins_a_new_schedule_on_the_old_weights(tmp_path: Path) -> None:
    first = fourfold.fit("faulty", out=tmp_path / "first", steps=30, lr=0.05)
    second = fourfold.fit("faulty", out=tmp_path / "second", from_=tmp_path / "first", steps=1)
    assert second.metrics.lines[0]["step"] == 1
    assert second.system.optimizer.lr == 0.05  # its configuration is where options begin
    assert second.about["from"] == str((tmp_path / "first").resolve())
    fresh = fourfold.fit("faulty", out=False, steps=1, lr=0.05)
    assert second.evaluate()["loss"] == pytest.approx(first.evaluate()["loss"], rel=0.1)
    assert fresh.evaluate()["loss"] > 1.2 * second.evaluate()["loss"]
    same = fourfold.fit("faulty", out=False, from_=first, steps=1)
    assert same.evaluate()["loss"] == second.evaluate()["loss"]


def test_other_conditions_are_said(tmp_path: Path) -> None:
    fourfold.fit("faulty", out=tmp_path / "run", steps=6)
    path = tmp_path / "run" / "system.toml"
    text = path.read_text()
    path.write_text(text.replace(f"threads = {torch.get_num_threads()}", "threads = 64"))
    resumed = fourfold.api.resume(tmp_path / "run", steps=8)  # type: ignore[attr-defined]
    assert any("threads was 64 and is 1" in note for note in resumed.notes)


def test_a_run_in_memory_can_be_saved_later(tmp_path: Path) -> None:
    columns = {"x": np.arange(40.0), "y": 3 * np.arange(40.0) + 1}
    run = fourfold.fit("linear", columns, target="y", out=False)
    folder = fourfold.save(run, tmp_path / "later")
    opened = fourfold.open(folder)
    assert (
        opened.predict(columns)["prediction"].to_list()
        == run.predict(columns)["prediction"].to_list()
    )
    assert opened.metrics.lines == run.metrics.lines and (folder / "report.html").exists()
    with pytest.raises(fourfold.UserError, match="is in .* already"):
        fourfold.save(run, tmp_path / "again")
    other = fourfold.fit("linear", columns, target="y", out=False)
    with pytest.raises(fourfold.UserError, match="holds a run already"):
        fourfold.save(other, folder)
