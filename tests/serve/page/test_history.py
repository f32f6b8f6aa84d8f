"""A run's log read on as it grows: nothing lost, nothing twice, however it is written."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.serve.page.history import NAMES, POINTS, SAMPLES, Histories, History, Series


def write(folder: Path, rows: list[dict[str, Any]], mode: str = "a") -> None:
    with (folder / "metrics.jsonl").open(mode, encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5000))
def test_thinning_keeps_the_mean_and_the_ends(values: list[float]) -> None:
    series = Series()
    for step, value in enumerate(values):
        series.add(step, step / 10, value)
    steps, seconds, thinned = series.points()
    assert len(thinned) <= 2 * POINTS and series.count == len(values)
    # each point stands for `stride` values, the last one for the rest
    rest = len(values) - series.stride * (len(thinned) - 1)
    assert 1 <= rest <= series.stride
    total = series.stride * math.fsum(thinned[:-1]) + rest * thinned[-1]
    assert total == pytest.approx(math.fsum(values), rel=1e-9, abs=1e-3)
    assert steps == sorted(steps) and len(seconds) == len(steps)
    assert steps[-1] >= len(values) - series.stride


def test_short_series_are_kept_as_they_are() -> None:
    series = Series()
    for step in range(POINTS):
        series.add(step, 0.0, step**2)
    assert series.points()[2] == [step**2 for step in range(POINTS)]


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    series = Series()
    for value in (1.0, math.nan, math.inf, -math.inf, 1e200, 2.0):
        series.add(0, 0, value)
    assert series.points()[2] == [1.0, 2.0] and series.missing == 4


def test_reads_on_where_it_was(tmp_path: Path) -> None:
    history = History(tmp_path)
    assert history.update() == 0 and history.series == {}
    write(tmp_path, [{"step": 1, "loss": 3.0, "seconds": 0.5}])
    first = history.update()
    assert history.series["loss"].points() == ([1.0], [0.5], [3.0])
    assert history.update() == first, "nothing new, nothing to draw"
    write(tmp_path, [{"step": 2, "loss": 2.0, "seconds": 1.0}, {"step": 2, "valid.loss": 2.5}])
    assert history.update() > first
    assert history.series["loss"].points()[2] == [3.0, 2.0]
    assert history.series["valid.loss"].points() == ([2.0], [1.0], [2.5])  # at the time known last


def test_a_line_under_way_is_taken_when_it_is_whole(tmp_path: Path) -> None:
    history, path = History(tmp_path), tmp_path / "metrics.jsonl"
    whole = json.dumps({"step": 1, "loss": 1.5, "sample": "é" * 50}).encode() + b"\n"
    for cut in range(len(whole)):
        path.write_bytes(whole + whole[:cut])
        os.utime(path)
        history = History(tmp_path)
        history.update()
        assert history.series["loss"].count == 1
    with path.open("ab") as file:
        file.write(whole[cut:])
    history.update()
    assert history.series["loss"].count == 2


def test_torn_and_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    lines = [b'{"step": 1, "loss": 1}', b'{"step": 2, "lo', b"[1, 2]", b"\xff\xfe", b"", b"null"]
    lines += [b'{"step": "x", "loss": 2}', b'{"step": 3, "loss": null, "seconds": NaN}']
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    history = History(tmp_path)
    history.update()
    assert history.series["loss"].points()[2] == [1.0, 2.0]


def test_a_log_that_was_cut_back_begins_anew(tmp_path: Path) -> None:
    history = History(tmp_path)
    write(tmp_path, [{"step": i, "loss": float(i)} for i in range(10)])
    before = history.update()
    # as a resumed run does: another file under the same name
    kept = tmp_path / "new"
    kept.write_text("".join(json.dumps({"step": i, "loss": 9.0}) + "\n" for i in range(4)))
    os.replace(kept, tmp_path / "metrics.jsonl")
    assert history.update() > before
    assert history.series["loss"].points()[2] == [9.0] * 4


def test_names_are_bounded(tmp_path: Path) -> None:
    write(tmp_path, [{"step": 1, **{f"name{i}": 1.0 for i in range(3 * NAMES)}}])
    history = History(tmp_path)
    history.update()
    assert len(history.series) == NAMES


@given(st.integers(1, 1200))
def test_samples_are_thinned_and_the_newest_is_there(count: int) -> None:
    history = History(Path("nowhere"))
    for step in range(count):
        history._take({"step": step, "sample": f"text {step}"})
    steps = [sample.step for sample in history.samples]
    assert len(steps) <= SAMPLES + 1 and steps[0] == 0 and steps[-1] == count - 1
    assert steps == sorted(set(steps))
    gaps = {b - a for a, b in zip(steps[:-1], steps[1:-1], strict=False)}
    assert len(gaps) <= 1, "evenly chosen"


def test_pictures_are_samples_too(tmp_path: Path) -> None:
    write(tmp_path, [{"step": 8, "picture": "previews/8.png"}])
    history = History(tmp_path)
    history.update()
    assert history.samples[0].picture == "previews/8.png" and history.samples[0].text == ""


def test_histories_are_shared_and_bounded(tmp_path: Path) -> None:
    histories = Histories()
    first = histories.of(tmp_path / "a")
    assert histories.of(tmp_path / "a") is first
    for i in range(300):
        histories.of(tmp_path / str(i))
    assert histories.of(tmp_path / "a") is not first
