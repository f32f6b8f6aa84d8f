"""Charts as ECharts options: what stands in which, and that nothing from a run becomes a key."""

import math
import re
from pathlib import Path
from typing import Any

from fourfold.look.figures import COLORS as FIGURES
from fourfold.serve.page import charts
from fourfold.serve.page.entrance import STYLE
from fourfold.serve.page.history import History
from fourfold.serve.page.words import Words

WORDS = Words("en-US")


def history(rows: list[dict[str, Any]]) -> History:
    made = History(Path("nowhere"))
    for row in rows:
        made._take(dict(row))
    return made


def keys(tree: Any) -> set[str]:
    if isinstance(tree, dict):
        return {str(k) for k in tree} | {k for v in tree.values() for k in keys(v)}
    return {k for v in tree for k in keys(v)} if isinstance(tree, (list, tuple)) else set()


def test_groups_put_a_measure_beside_its_validation() -> None:
    names = ["lr", "acc", "g_loss", "valid.g_loss", "d_loss", "valid.acc", "loss", "valid.loss"]
    names += ["progress", "evaluation_seconds", "grad_norm", "test.loss"]
    assert charts.groups(names) == {
        "loss": ["loss", "valid.loss"],
        "losses": ["g_loss", "valid.g_loss", "d_loss"],
        "acc": ["acc", "valid.acc"],
        "lr": ["lr"],
        "grad_norm": ["grad_norm"],
    }


def test_a_run_over_steps_and_over_time() -> None:
    rows = [{"step": s, "seconds": 10 * s, "loss": 1 / s, "valid.loss": 2 / s} for s in (1, 2, 4)]
    steps = charts.of_run(history(rows), WORDS, by_time=False)
    assert [c.title for c in steps] == ["loss"] and steps[0].x_label == "step"
    training, validation = steps[0].lines
    assert training.x == [1, 2, 4] and training.y == [1, 0.5, 0.25]
    assert validation.y == [2, 1, 0.5] and validation.dots and validation.color != training.color
    times = charts.of_run(history(rows), WORDS, by_time=True)
    assert times[0].lines[0].x == [10, 20, 40] and times[0].x_label == "training time (s)"


def test_the_weights_that_are_kept_draw_no_line_back() -> None:
    rows = [{"step": s, "seconds": s, "valid.loss": abs(s - 2.0)} for s in (1, 2, 3, 4)]
    rows.append({"step": 2, "valid.loss": 0.0})
    (line,) = charts.of_run(history(rows), WORDS, by_time=False)[0].lines
    assert list(line.x) == [1, 2, 3, 4] and list(line.y) == [1, 0, 1, 2]


def test_a_long_curve_is_smoothed_over_its_raw_one() -> None:
    rows = [{"step": s, "loss": 1 + (-1) ** s} for s in range(100)]
    raw, smooth = charts.of_run(history(rows), WORDS, by_time=False)[0].lines
    assert raw.faint and raw.y == [1 + (-1) ** s for s in range(100)]
    assert all(abs(y - 1) < 0.7 for y in smooth.y)


def test_what_was_logged_once_is_no_curve() -> None:
    assert charts.of_run(history([{"step": 1, "loss": 2.0}]), WORDS, by_time=False) == []


def test_several_runs_share_a_chart_where_two_have_the_measure() -> None:
    a = history([{"step": s, "loss": 1.0 + s, "mine": 1.0} for s in range(3)])
    b = history([{"step": s, "loss": 2.0 + s, "valid.loss": 3.0} for s in range(3)])
    found = charts.over_each_other({"a": a, "b": b}, WORDS, by_time=False)
    assert [c.title for c in found] == ["loss"]
    assert [(line.name, line.color, line.dashed) for line in found[0].lines] == [
        ("a", 0, False),
        ("b", 1, False),
        ("b, validation", 1, True),
    ]


def test_nothing_from_a_run_is_a_key_of_the_options() -> None:
    # NiceGUI takes the value of a key that begins with a colon as JavaScript
    rows = [{"step": s, ":formatter": 1.0 + s, "<script>": 2.0, "loss": 1.0 + s} for s in range(40)]
    for chart in charts.of_run(history(rows), WORDS, by_time=False):
        assert not any(key.startswith(":") or "<" in key for key in keys(charts.options(chart)))


def test_an_axis_is_logarithmic_where_values_lie_far_apart() -> None:
    def axis(values: list[float], log: bool | None = None) -> str:
        chart = charts.Chart("t", [charts.Line("l", range(len(values)), values)], log=log)
        return str(charts.options(chart)["yAxis"]["type"])

    assert axis([1.0, 10.0, 1000.0]) == "log"
    assert axis([1.0, 10.0]) == "value"
    assert axis([0.0, 10.0, 1000.0]) == "value"
    assert axis([1.0, 1000.0], log=False) == "value"


def test_sparkline() -> None:
    series = history([{"step": s, "loss": math.exp(-s / 100)} for s in range(500)]).series["loss"]
    points = re.findall(r"([\d.]+),([\d.]+)", charts.sparkline(series))
    places = [(float(x), float(y)) for x, y in points]
    assert len(places) <= 122 and places[0] == (2.0, 3.0) and places[-1] == (118.0, 29.0)
    assert all(a[0] < b[0] and a[1] <= b[1] for a, b in zip(places, places[1:], strict=False))
    assert charts.sparkline(history([{"step": 1, "loss": 1.0}]).series["loss"]) == ""
    flat = charts.sparkline(history([{"step": s, "loss": 1.0} for s in (1, 2)]).series["loss"])
    assert "29.0" in flat and "nan" not in flat


def test_the_colours_are_the_ones_of_every_figure() -> None:
    light = re.findall(r"--c\d: light-dark\((#\w+),", STYLE)
    assert len(light) == charts.COLORS == len(FIGURES)
    same = [a == b for a, b in zip(light, FIGURES, strict=True)]
    assert same == [True] * 4 + [False] + [True] * 2  # orange is darker: text and lines on white
