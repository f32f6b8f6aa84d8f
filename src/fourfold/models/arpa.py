"""n-gram models as ARPA files, the field's text form: written here, read in `arpa_read`.

    \\data\\
    ngram 1=3
    ngram 2=1

    \\1-grams:
    -0.9	<s>	-0.3

Each line has log10 of the probability, the words, and log10 of the back-off weight where a longer n-gram goes
on from these. A sentence begins with <s>, which is only ever a context, and ends with </s>; <unk> stands for
every other word. Words cannot hold white space: such characters, and the first one of a word that is spelled
like a mark of the format, are written by their number, <U+000A>.
Shapes: V words, M n-grams.
"""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.state import atomically
from fourfold.kernels.ngram import Tables

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
LINES = 1 << 19
"""Lines made at once."""
NEVER = -99.0
"""log10 of what is never predicted, as the field writes it."""
_UNWRITABLE = re.compile(r"\s|<(?=U\+[0-9A-F]{4,6}>)")
_NUMBERED = re.compile(r"<U\+([0-9A-F]{4,6})>")


def escaped(word: str) -> str:
    """A word as it stands in a file; `unescaped` gives it back."""
    if word in (BEGIN, END, UNKNOWN):
        return _number(word[0]) + word[1:]
    return _UNWRITABLE.sub(lambda found: _number(found[0]), word)


def unescaped(word: str) -> str:
    """The word that `escaped` wrote."""
    return _NUMBERED.sub(lambda found: chr(min(int(found[1], 16), 0x10FFFF)), word)


def _number(character: str) -> str:
    return f"<U+{ord(character):04X}>"


def write_arpa(path: Path, tables: Tables, words: Sequence[str], unknown: int | None) -> None:
    """Write a model as an ARPA file, gzipped where the name ends in .gz.

    Args:
        path: the file; it is there whole or not at all.
        tables: the model.
        words: the name of each of the V words.
        unknown: the one that stands for all others, if there is one.

    Raises:
        UserError: two words have the same name, or the disk is full.
    """
    names = [escaped(word) for word in words]
    names[tables.stop] = END
    if unknown is not None:
        names[unknown] = UNKNOWN
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path}: two entries of the vocabulary are called {twice!r}")

    def write(temporary: Path) -> None:
        opened = gzip.open(temporary, "wb", 3) if path.suffix == ".gz" else temporary.open("wb")
        with opened as file:
            _write(cast(IO[bytes], file), tables, names, unknown)

    atomically(path, write)


def level_edges(tables: Tables) -> list[int]:
    """Where each order's nodes begin, and at the end M."""
    edges = [0, int(tables.first[0])]
    while len(edges) <= tables.order:
        edges.append(int(tables.first[edges[-1]]) if edges[-1] < len(tables.first) else edges[-1])
    return edges


def paths(tables: Tables, nodes: np.ndarray) -> list[list[int]]:
    """The words of some nodes, first to last."""
    found: list[list[int]] = [[] for _ in nodes]
    inside = np.arange(len(nodes))
    nodes = nodes.astype(np.int32)  # of another type, `first` would be copied to it for the search
    while len(inside):
        for place, word in zip(inside.tolist(), tables.words[nodes].tolist(), strict=True):
            found[place].insert(0, word)
        deeper = nodes >= tables.first[0]
        inside, nodes = inside[deeper], parents_of(tables, nodes[deeper])
    return found


def parents_of(tables: Tables, nodes: np.ndarray) -> np.ndarray:
    """The nodes whose children some nodes beyond the first level are, int32."""
    return (np.searchsorted(tables.first, nodes.astype(np.int32), side="right") - 1).astype(
        np.int32
    )


def _write(file: IO[bytes], tables: Tables, names: list[str], unknown: int | None) -> None:
    import polars as pl

    edges = level_edges(tables)
    sizes = np.diff(edges).tolist()
    sizes[0] += 1 + (unknown is None)  # <s>, and <unk> where the vocabulary needs none
    file.write(b"\\data\\\n")
    file.writelines(f"ngram {order}={size}\n".encode() for order, size in enumerate(sizes, 1))
    before = names.copy()
    before[tables.stop] = BEGIN
    shown = pl.Series(names, dtype=pl.String), pl.Series(before, dtype=pl.String)
    parents: list[np.ndarray] = []  # of each level's nodes, within the level above
    for order in range(1, tables.order + 1):
        file.write(f"\n\\{order}-grams:\n".encode())
        if order == 1:
            file.write(_special(tables, unknown))
        for low in range(edges[order - 1], edges[order], LINES):
            nodes = np.arange(low, min(low + LINES, edges[order]))
            grams = _grams(nodes, edges, tables, parents, shown)
            weights = _weights(nodes, tables, order, edges)
            logs = pl.Series((tables.logs[nodes] / math.log(10)).astype(np.float32))
            lines = pl.DataFrame({"log": logs, "grams": grams, "weight": weights})
            text = lines.select(pl.concat_str(pl.all(), separator="\t", ignore_nulls=True))
            text.write_csv(file, include_header=False, quote_style="never")
        if order < tables.order:
            inner = tables.first[edges[order - 1] : edges[order] + 1]
            parents.append(np.repeat(np.arange(len(inner) - 1, dtype=np.int32), np.diff(inner)))
    file.write(b"\n\\end\\\n")


def _special(tables: Tables, unknown: int | None) -> bytes:
    """The lines of <s>, and of <unk> where the vocabulary has none."""
    weight = tables.backoffs[tables.stop] / math.log(10) if tables.order > 1 else 0.0
    lines = f"{NEVER}\t{BEGIN}\t{np.float32(weight)}\n"
    return (lines + (f"{NEVER}\t{UNKNOWN}\n" if unknown is None else "")).encode()


def _grams(
    nodes: np.ndarray,
    edges: list[int],
    tables: Tables,
    parents: list[np.ndarray],
    shown: tuple[object, object],
) -> object:
    """The words of some nodes of the newest level, as one column of strings."""
    import polars as pl

    names, before = shown
    columns: list[pl.Series] = []
    for level in range(len(parents), -1, -1):
        words = tables.words[nodes]
        columns.insert(0, (before if level == 0 and parents else names)[words])  # type: ignore[index]
        if level:
            nodes = parents[level - 1][nodes - edges[level]] + edges[level - 1]
    if len(columns) == 1:
        return columns[0]
    frame = pl.DataFrame({str(i): column for i, column in enumerate(columns)})
    return frame.select(pl.concat_str(pl.all(), separator=" ")).to_series()


def _weights(nodes: np.ndarray, tables: Tables, order: int, edges: list[int]) -> object:
    """Back-off weights of some nodes, null where nothing goes on from them."""
    import polars as pl

    if order == tables.order:
        return pl.Series([None] * len(nodes), dtype=pl.String)
    weights = pl.Series((tables.backoffs[nodes] / math.log(10)).astype(np.float32)).cast(pl.String)
    goes_on = tables.first[nodes + 1] > tables.first[nodes]
    if order == 1:
        goes_on &= nodes != tables.stop  # as </s>; the weight is that of <s>
    return weights.zip_with(pl.Series(goes_on), pl.Series([None], dtype=pl.String))


def open_arpa(path: Path) -> IO[bytes]:
    """A file for reading, unpacked where it is gzipped, whatever it is called."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path, "rb")) if packed else path.open("rb")
