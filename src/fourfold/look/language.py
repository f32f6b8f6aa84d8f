"""Pictures of language models: how often each word occurs, and what surprises the model in a text."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from fourfold.core.types import Picture
from fourfold.core.words import short
from fourfold.look.attention import visible
from fourfold.look.figures import drawable, picture, plain_ticks, subplots

COLUMNS = 88
"""Characters in a line of a passage."""


def zipf(counts: np.ndarray, names: Sequence[str]) -> Picture:
    """Counts against ranks, both logarithmic, beside Zipf's law: the n-th word is 1/n as frequent (Zipf 1935).

    Args:
        counts: (V,) integers, not all 0.
        names: of the entries.
    """
    order = np.argsort(-counts, kind="stable")
    ranked = counts[order][counts[order] > 0].astype(float)
    ranks = np.arange(1, len(ranked) + 1)
    fig, axes = subplots()
    axes.plot(ranks, ranked, marker="." if len(ranked) < 200 else "", label="counted")
    middle = min(len(ranked), 10) - 1
    law = ranked[middle] * ranks[middle] / ranks
    axes.plot(ranks, law, linestyle="--", color="#888888", linewidth=1.2, label="1 / rank")
    axes.set(xscale="log", yscale="log", xlabel="rank", ylabel="count in the training text")
    axes.set_ylim(bottom=max(0.7, ranked[-1] * 0.7))
    shown = sorted({0, 9, 99, 999, 9_999} & set(range(len(ranked))))
    for place in shown:
        axes.annotate(
            visible(names[order[place]]), (ranks[place], ranked[place]), xytext=(5, 8),
            textcoords="offset points", fontsize=9, parse_math=False,
        )  # fmt: skip
    plain_ticks(axes.xaxis, axes.yaxis)
    axes.legend()
    once = int((ranked == 1).sum())
    caption = (
        f"{len(ranked):,} entries occur in the training text of {short(float(ranked.sum()))} tokens, "
        f"{once:,} of them once."
    )
    return picture(fig, "How often each entry occurs", caption)


class Cell(NamedTuple):
    """A stretch of text in one line of a passage."""

    column: int
    line: int
    text: str
    bits: float


def passage(pieces: Sequence[str], bits: Sequence[float], columns: int = COLUMNS) -> Picture:
    """A text on the colour of each token's surprise.

    Args:
        pieces: what each token adds to the text.
        bits: its surprise.
        columns: characters in a line; Chinese ones count twice.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize, to_hex

    cells, lines = laid_out(pieces, bits, columns)
    top = max(8.0, *bits)
    shades = ScalarMappable(Normalize(0, top), "YlOrRd")
    rgba = shades.to_rgba(np.array([cell.bits for cell in cells])).tolist()
    colors = [to_hex(tuple(color)) for color in rgba]
    inks = ["white" if cell.bits > 0.6 * top else "black" for cell in cells]
    fig, axes = painted(cells, colors, inks, columns, lines)
    fig.colorbar(shades, ax=axes, orientation="horizontal", label="bits", aspect=60, pad=0.02)
    caption = "A held-out text; the darker, the less the model expected that token."
    made = picture(fig, "What surprises the model", caption)
    drawn = markup(cells, colors, inks, columns, lines)
    return replace(made, svg=drawn) if not drawable("".join(pieces)) else made


def painted(
    cells: Sequence[Cell],
    colors: Sequence[str],
    inks: Sequence[str],
    columns: int,
    lines: int,
) -> tuple[Any, Any]:
    """A figure and its axes with a text, each cell on its colour in its ink."""
    from matplotlib.patches import Rectangle

    fig, axes = subplots(width=8.8, height=0.9 + 0.22 * lines)
    for cell, color, ink in zip(cells, colors, inks, strict=True):
        place = cell.column, cell.line
        axes.add_patch(Rectangle(place, _width(cell.text), 1, color=color, linewidth=0))
        column = float(cell.column)
        for character in cell.text:
            axes.text(
                column + _width(character) / 2, cell.line + 0.55, character, ha="center",
                va="center", fontsize=8, family="monospace", color=ink, parse_math=False,
            )  # fmt: skip
            column += _width(character)
    axes.set(xlim=(0, columns), ylim=(lines, 0))
    axes.axis("off")
    return fig, axes


def _width(text: str) -> int:
    """Columns that a text takes."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def laid_out(pieces: Sequence[str], bits: Sequence[float], columns: int) -> tuple[list[Cell], int]:
    """Where each piece stands, in whole words where they fit, and how many lines there are."""
    cells: list[Cell] = []
    line = column = 0
    for piece, surprise in zip(pieces, bits, strict=True):
        for number, part in enumerate(piece.split("\n")):
            if number:
                line, column = line + 1, 0
            if column and column + _width(part) > columns:
                line, column, part = line + 1, 0, part.lstrip(" ")
            while part:
                fits = len(part)
                while _width(part[:fits]) > columns - column:
                    fits -= 1
                cells.append(Cell(column, line, part[:fits], surprise))
                column += _width(part[:fits])
                part = part[fits:]
                if part:
                    line, column = line + 1, 0
    return cells, line + 1


def markup(
    cells: Sequence[Cell], colors: Sequence[str], inks: Sequence[str], columns: int, lines: int
) -> str:
    """The same as SVG, for a reader whose machine has the letters that this one lacks."""
    wide, high = 10, 22
    parts = []
    for cell, color, ink in zip(cells, colors, inks, strict=True):
        x, y, width = wide * cell.column, high * cell.line, wide * _width(cell.text)
        parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{high}" fill="{color}"/>')
        parts.append(
            f'<text x="{x}" y="{y + 16}" textLength="{width}" xml:space="preserve" fill="{ink}">'
            f"{html.escape(cell.text)}</text>"
        )
    size = f"{wide * columns} {high * lines}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-size="15" '
        f'font-family="monospace">{"".join(parts)}</svg>'
    )
