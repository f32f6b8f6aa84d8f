"""Quality of translations drawn against the length of what is translated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fourfold.core.types import Picture
from fourfold.look.figures import COLORS, picture, subplots


def quality_by_length(
    curves: Mapping[str, Sequence[tuple[str, int, float]]],
    title: str = "Quality by length",
    measure: str = "BLEU",
) -> Picture:
    """A measure by the words of the source, a line for each system.

    Args:
        curves: by name (words as "11-20", sentences, measure), the groups the same for all.
        title: of the picture.
        measure: its name.
    """
    fig, axes = subplots()
    names: list[str] = []
    for number, (name, groups) in enumerate(curves.items()):
        values = [value for _, _, value in groups]
        axes.plot(range(len(values)), values, "o-", color=COLORS[number % len(COLORS)], label=name)
        names = [f"{words}\n({count})" for words, count, _ in groups]
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="words of the source (sentences)", ylabel=measure)
    if len(curves) > 1:
        axes.legend()
    caption = f"{measure} of held-out sentences, by how many words their source has."
    return picture(fig, title, caption)
