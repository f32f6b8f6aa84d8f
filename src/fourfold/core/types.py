"""The few types that verbs speak besides the ecosystem's own (frames, arrays, PIL images)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

DOCUMENT = "document"
Document = Annotated[str, DOCUMENT]
"""A text. On the command line: literal text, `@file`, `-` for stdin, or an existing file's name
(said aloud); over HTTP and from Python only the text itself."""

SOURCE = "source"
Source = Annotated[Any, SOURCE]
"""Examples: a path, a glob, several of them, a catalog name, or in-memory data (Python only).
None means the system's own test split or embedded default."""


ROWS = "rows"
Rows = Annotated[Any, SOURCE, ROWS]
"""Examples that are rows of a table whatever the system reads, as what `encode` wrote: a table's path, a frame, an array."""

RUN = "run"
RunName = Annotated[str, RUN]
"""Another run: its folder, `ollama:NAME`, a server's address, a GGUF file. On the command line and from Python only:
over HTTP nobody may say what a server opens."""

AUDIO = "audio"
Audio = Annotated[Any, AUDIO]
"""Sound: its samples, (N, channels) float32 in [-1, 1], and their rate in Hz, as a pair."""


@dataclass(frozen=True)
class Picture:
    """A picture that a report, a page or a file can hold."""

    title: str
    png: bytes = field(repr=False)
    caption: str = ""
    svg: str = field(default="", repr=False)
    """The same drawn as SVG, where it can be looked into (links, titles, steps); empty if only pixels exist."""
    audio: bytes = field(default=b"", repr=False)
    """What it is a picture of, to be played: a WAV file; empty where there is nothing to hear."""

    def save(self, path: str | Path) -> None:
        """Write the PNG or, where there is one, the SVG; or convert by extension (.jpg, .webp, .pdf) through Pillow."""
        path = Path(path)
        if path.suffix.lower() == ".svg" and self.svg:
            path.write_text(self.svg, encoding="utf-8")
        elif path.suffix.lower() == ".png":
            path.write_bytes(self.png)
        else:
            import io

            from PIL import Image

            Image.open(io.BytesIO(self.png)).convert("RGB").save(path)

    def _repr_png_(self) -> bytes:
        return self.png


@dataclass(frozen=True)
class Drawn:
    """A table that can be seen as well: written as a picture where a picture is asked for, else as a table."""

    table: Any
    """A polars frame."""
    draw: Callable[[], Picture]

    def __str__(self) -> str:
        return str(self.table)

    def _repr_png_(self) -> bytes:
        return self.draw().png


@dataclass(frozen=True)
class Score:
    """Named numbers with their units, in the order in which they should be read."""

    values: dict[str, float]
    units: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """Sentences a reader should see beside the numbers: what was cut, dropped or unknown."""

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def __str__(self) -> str:
        width = max((len(name) for name in self.values), default=0)
        lines = [
            f"{name:<{width}}  {value:,.6g} {self.units.get(name, '')}".rstrip()
            for name, value in self.values.items()
        ]
        return "\n".join([*lines, *self.notes])


@dataclass(frozen=True)
class Table:
    """A small table for a report: a title, column names and rows of plain values."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Explanation:
    """What `explain` and `inspect` give: a verdict in words, with the evidence in tables and pictures."""

    title: str
    sentences: tuple[str, ...] = ()
    """The verdict first, then what it rests on."""
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()

    def __str__(self) -> str:
        return "\n".join(self.sentences)
