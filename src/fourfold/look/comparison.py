"""Several runs' measures beside one another in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fourfold.core.types import Picture
from fourfold.look.figures import COLORS, picture, short_name, subplots


def comparison_picture(
    names: Sequence[str], measures: Mapping[str, Sequence[float | None]], units: Mapping[str, str]
) -> Picture:
    """A panel for each measure, a bar for each run; the first is the base.

    Args:
        names: of the runs.
        measures: by name one value for each run, None where there is none.
        units: of measures that have one.
    """
    shown = {n: v for n, v in measures.items() if any(x is not None for x in v)}
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    fig, axes = subplots(
        rows, columns, width=2.7 * columns, height=0.9 + rows * (0.8 + 0.36 * len(names)),
        squeeze=False,
    )  # fmt: skip
    for axis in list(axes.flat)[len(shown) :]:
        axis.set_visible(False)
    places = range(len(names))
    for number, (axis, (name, values)) in enumerate(zip(axes.flat, shown.items(), strict=False)):
        known = [0.0 if value is None else value for value in values]
        axis.barh(places, known, color=[COLORS[i % len(COLORS)] for i in places], height=0.7)
        for place, value in zip(places, values, strict=True):
            said = "not told" if value is None else f"{value:.3g}"
            axis.annotate(
                said, (value or 0.0, place), xytext=(3, 0), textcoords="offset points",
                va="center", fontsize=8,
            )  # fmt: skip
        axis.set_title(f"{name} ({units[name]})" if name in units else name, fontsize=9)
        axis.set_xlim(0, max([*known, 1e-12]) * 1.3)
        axis.set_yticks(places, [short_name(n, 18) for n in names] if number % columns == 0 else [])
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.locator_params(axis="x", nbins=4)
    return picture(fig, "The runs beside one another", "The first run is the base.")
