"""Fits over HTTP: real child processes, started, stopped, resumed; and what may not be asked of one."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fourfold.core.errors import UserError
from fourfold.core.folders import read_toml
from fourfold.serve.jobs import Jobs
from fourfold.serve.limits import Busy, Limits
from fourfold.serve.schema import Upload
from fourfold.serve.shelf import NoSuchRun, NotReady, Shelf
from serving import Client, Server

TEXT = " ".join(f"{a} and {b} make {a + b}." for a in range(20) for b in range(20)).encode()
SMALL = {
    "data.unit": "character", "data.window": 16, "data.batch": 4, "layers": 1, "width": 32, "heads": 1,
    "optimizer.checkpoint_every": "50",
}  # fmt: skip


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_a_fit_is_started_watched_stopped_and_resumed(client: Client, tmp_path: Path) -> None:
    """Through HTTP alone, on an uploaded text; what is watched is served while it learns."""
    folder = tmp_path / "runs"
    folder.mkdir()
    http = client(folder)
    asked = {"system": "gpt", "name": "sums", "seed": 3, "options": {**SMALL, "steps": 1_000_000}}
    answer = http.post(
        "/fits", data={"fit": json.dumps(asked)}, files={"file": ("../sums.txt", TEXT)}
    )
    assert answer.status_code == 201, answer.text
    assert answer.json()["name"] == "sums" and answer.json()["state"] in ("starting", "running")
    second = http.post("/fits", json={"system": "gpt", "options": SMALL})
    assert second.status_code == 429 and "sums: under way" in second.json()["detail"]

    def run() -> dict[str, Any]:
        found: dict[str, Any] = http.get("/runs/sums").json()
        return found

    until(lambda: http.get("/fits").json()[0]["state"] == "running" and run().get("steps", 0) > 0)
    assert run()["state"] in ("running", "waiting")
    until(lambda: bool(run()["ready"]))
    assert (
        http.post("/runs/sums/generate", json={"prompt": "1 and", "tokens": 3}).status_code == 200
    )
    busy = http.post("/fits/sums/resume")
    assert busy.status_code == 409 and "under way" in busy.json()["detail"]
    assert http.post("/fits/sums/stop").status_code == 202
    until(lambda: http.get("/fits").json()[0]["state"] == "stopped")
    assert run()["state"] == "stopped"
    stopped = run()["steps"]
    assert http.post("/fits/sums/stop").status_code == 409

    source = Path(read_toml(folder / "sums" / "system.toml")["fit"]["sources"][0])
    assert source.name == "sums.txt" and source.parent.parent == folder.resolve() / ".uploads"
    assert source.read_bytes() == TEXT
    assert read_toml(folder / "sums" / "system.toml")["fit"]["seed"] == 3

    assert http.post("/fits/sums/resume").status_code == 202
    until(lambda: int(run()["steps"]) > stopped)
    assert run()["state"] == "running" and len(http.get("/fits").json()) == 1
    http.__exit__(None, None, None)  # the end of the server stops its fits, with a checkpoint
    about = read_toml(folder / "sums" / "system.toml")
    assert about["finished"] is False and (folder / "sums" / "report.html").exists()
    last = max(int(p.name) for p in (folder / "sums" / "checkpoints").iterdir() if p.name.isdigit())
    assert last > stopped
    assert Shelf([folder]).names() == ["sums"]  # what lies beside it is no run


@pytest.mark.slow
def test_the_end_of_the_server_stops_its_fits_with_a_checkpoint(
    server: Callable[..., Server], tmp_path: Path
) -> None:
    import signal

    (tmp_path / "runs").mkdir()
    served = server(folder=tmp_path / "runs")
    asked = {"system": "gpt", "options": {**SMALL, "steps": 1_000_000}}
    status, answer = served.ask("/fits", json.dumps(asked).encode())
    assert status == 201 and json.loads(answer)["name"] == "gpt-1"
    folder = tmp_path / "runs" / "gpt-1"
    served.until(lambda: (folder / "metrics.jsonl").exists(), seconds=60)
    served.child.send(signal.SIGTERM)
    assert served.child.wait() == 0
    assert (
        any((folder / "checkpoints").iterdir())
        and read_toml(folder / "system.toml")["finished"] is False
    )


def jobs(folder: Path, **limits: Any) -> Jobs:
    folder.mkdir(exist_ok=True)
    return Jobs(Shelf([folder]), Limits(**limits))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"system": "gtp"}, "gtp: no such system; did you mean gpt?"),
        ({"system": "os:system"}, "no such system"),
        ({"options": {"layerz": 2}}, "unknown option layerz of gpt; did you mean layers?"),
        ({"options": {"layers": 0}}, "layers: expected greater than 0"),
        (
            {"options": {"data.tokenizer": "/etc/passwd"}},
            "data.tokenizer: names a place or a function",
        ),
        (
            {"options": {"data": {"tokenizer": "../../x"}}},
            "data.tokenizer: names a place or a function",
        ),
        ({"options": {"tokenizer": "~/x"}}, "tokenizer: names a place"),
        ({"options": {"tokenizer": "C:\\x"}}, "tokenizer: names a place"),
        ({"options": {"tokenizer": "s3://x/y"}}, "tokenizer: names a place"),
        ({"options": {"tokenizer": "module:function"}}, "tokenizer: names a place or a function"),
        ({"size": "huge"}, "--size huge: gpt has no such size"),
        ({"seed": -1}, "seed: expected a whole number from 0"),
        ({"source": "/etc/passwd"}, "/etc/passwd: no such data set in the catalog"),
        ({"source": "own.txt"}, "own.txt: no such data set in the catalog"),
        ({"source": "tinyshakespear"}, "did you mean tinyshakespeare?"),
        ({"name": "../x"}, "name: expected letters"),
        ({"name": ".x"}, "name: expected letters"),
        ({"name": "-x"}, "name: expected letters"),
        ({"name": ""}, "name: expected letters"),
        ({"name": "taken"}, "taken: there is a run of this name already"),
    ],
)
def test_what_may_not_be_asked_of_a_fit(
    settings: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    Path("own.txt").write_text("own")
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    made = jobs(tmp_path / "runs")
    with pytest.raises(UserError) as error:
        asyncio.run(made.start(**{"system": "gpt", **settings}))
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert made.all() == [] and sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["taken"]


@pytest.mark.slow
def test_a_fit_that_ends(tmp_path: Path) -> None:
    made = jobs(tmp_path / "runs")

    async def main() -> None:
        table = Upload(
            "x.csv", b"a,b\n" + b"".join(b"%d,%d\n" % (i, 2 * i + i % 3) for i in range(40))
        )
        name = await made.start("linear", [table], options={"target": "b"}, name="line")
        while made.fit(name).code is None:
            await asyncio.sleep(0.05)
        assert made.fit(name).state == "finished", made.fit(name)
        await made.close()

    asyncio.run(main())
    assert made.shelf.status("line").state == "finished"
    assert made.shelf.open("line").predict({"a": [10.0]})["prediction"][0] == pytest.approx(
        21, abs=1.5
    )


def test_a_fit_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    made = jobs(tmp_path / "runs")

    async def main() -> None:
        name = await made.start("linear", Upload("x.csv", b"a,b\n1,2\n"), options={"target": "c"})
        assert name == "linear-1"
        while made.fit(name).code is None:
            await asyncio.sleep(0.05)
        fit = made.fit(name)
        assert fit.state == "failed" and fit.code == 2 and "no column c" in fit.error
        with pytest.raises(NotReady, match="has ended already"):
            await made.stop(name)

    asyncio.run(main())
    assert not (tmp_path / "runs" / "linear-1").exists()


def test_where_no_fit_can_be(runs: Path, tmp_path: Path) -> None:
    single = Jobs(Shelf([runs / "books"]))
    with pytest.raises(NotReady, match="serve a folder of runs"):
        asyncio.run(single.start("gpt"))
    none = jobs(tmp_path / "runs", fits=0)
    with pytest.raises(Busy):
        asyncio.run(none.start("gpt"))
    with pytest.raises(NoSuchRun):
        asyncio.run(none.resume("gpt-1"))
    with pytest.raises(NoSuchRun, match="no fit of this name was started here"):
        asyncio.run(none.stop("gpt-1"))
