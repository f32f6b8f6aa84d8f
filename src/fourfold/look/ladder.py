"""The ladder of language models in one picture: perplexity and bits per byte of each rung."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fourfold.core.types import Picture
from fourfold.look.figures import COLORS, picture, plain_ticks, subplots

FAR = 5.0
"""How many times the best perplexity the worst may be on an axis that is not logarithmic."""


def ladder_picture(
    names: Sequence[str],
    perplexities: Sequence[float],
    bits: Sequence[float],
    compressors: Mapping[str, tuple[float, float | None]],
    caption: str,
) -> Picture:
    """Rungs from the oldest idea to the newest; lower is better on both sides.

    Args:
        names: of the rungs.
        perplexities: per token.
        bits: per byte.
        compressors: bits per byte of general compressors: of the text alone, and behind the training text.
        caption: what was measured on what.
    """
    wide = 1.6 + 0.62 * len(names)
    fig, (left, right) = subplots(
        1, 2, width=11.0, height=4.2, width_ratios=[wide, wide + 0.62 * len(compressors)]
    )
    places = range(len(names))
    left.plot(places, perplexities, color=COLORS[0], linewidth=1.2, alpha=0.35)
    left.plot(places, perplexities, "o", color=COLORS[0], markersize=8)
    left.set(title="Perplexity per token", xlim=(-0.5, len(names) - 0.5))
    left.margins(y=0.14)
    if max(perplexities) > FAR * min(perplexities):
        left.set_yscale("log")
        left.minorticks_off()
        left.set_yticks(_ticks(perplexities))
    plain_ticks(left.yaxis)
    right.set(title="Bits per byte")
    right.bar(places, bits, color=COLORS[0], width=0.7)
    others = range(len(names), len(names) + len(compressors))
    alone = [value for value, _ in compressors.values()]
    right.bar(others, alone, color="#b8b8b8", width=0.7)
    for place, (_, behind) in zip(others, compressors.values(), strict=True):
        if behind is not None:
            right.plot([place - 0.35, place + 0.35], [behind, behind], color="#333333", linewidth=2)
    right.margins(y=0.12)
    labelled = [*zip(places, perplexities, [left] * len(names), strict=True)]
    labelled += zip([*places, *others], [*bits, *alone], [right] * 99, strict=False)
    for place, value, axes in labelled:
        axes.annotate(
            f"{value:,.0f}" if value >= 10 else f"{value:.2f}", (place, value), xytext=(0, 6),
            textcoords="offset points", ha="center", fontsize=9,
        )  # fmt: skip
    for axes, shown in ((left, names), (right, [*names, *compressors])):
        axes.set_xticks(range(len(shown)), shown, rotation=35, ha="right")
        axes.grid(axis="x", visible=False)
    return picture(fig, "How far each idea went", caption)


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers across a range of more than `FAR`, for a logarithmic axis."""
    low, high = min(values) * 0.9, max(values) * 1.1
    wide = high > 100 * low
    steps = (1.0, 3.0) if wide else (1.0, 2.0, 5.0)
    return [s * 10.0**e for e in range(9) for s in steps if low <= s * 10.0**e <= high]
