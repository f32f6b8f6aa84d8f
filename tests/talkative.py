"""A third party's system with a verb for every kind of argument and answer, for the tests of the command line."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import PositiveInt

from faulty import FaultyOptions, FaultySystem
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.core.types import Document, Picture, Source, Table

if TYPE_CHECKING:
    import polars as pl
    from PIL import Image


@system("talker", reads="words")
class Talker(FaultySystem):
    """Says things."""

    data: FaultyOptions = FaultyOptions()
    sizes = {"small": {"width": 2, "optimizer.steps": 4}, "large": {"width": 8}}

    def say(
        self,
        run: Run,
        text: Document,
        *,
        times: PositiveInt = 1,
        loud: bool = False,
        end: Literal[".", "!"] = ".",
    ) -> str:
        """Say a text.

        Args:
            text: what to say.
            times: how often.
            loud: in capitals.
        """
        said = " ".join([text] * times) + end
        return said.upper() if loud else said

    def count(self, run: Run, *, to: PositiveInt = 3, from_: int = 1) -> Iterator[str]:
        """Count, a line at a time."""
        for i in range(from_, to + 1):
            yield f"{i}\n"

    def rows(self, run: Run) -> pl.DataFrame:
        """A table."""
        import polars as pl

        return pl.DataFrame({"name": ["a", "b"], "value": [1.5, None]})

    def draw(self, run: Run) -> Picture:
        """A picture."""
        from PIL import Image

        file = io.BytesIO()
        Image.new("RGB", (3, 2), (255, 0, 0)).save(file, "PNG")
        return Picture("red", file.getvalue())

    def paint(self, run: Run) -> Image.Image:
        """An image."""
        from PIL import Image

        return Image.new("RGB", (3, 2))

    def numbers(self, run: Run) -> np.ndarray:
        """An array."""
        return np.array([[1.0, 2.5], [3.0, -4.0]])

    def facts(self, run: Run) -> dict[str, Any]:
        """Whatever is known."""
        return {"é": 1, "list": [1, 2]}

    def tell(self, run: Run) -> list[Table]:
        """Tables."""
        return [Table("T", ("a",), ((1,),))]

    def join(self, run: Run, words: list[str], *, by: str = "+") -> str:
        """Join words."""
        return by.join(words)

    def measure(self, run: Run, source: Source = None) -> str:
        """Say what the source is."""
        return repr(source)

    def export(self, run: Run, *, out: Path) -> Path:
        """Write a file."""
        out.write_text("exported")
        return out

    def refuse(self, run: Run) -> str:
        """Say no."""
        raise UserError("this cannot be done")

    def break_(self, run: Run) -> str:
        """A bug."""
        raise ZeroDivisionError("a bug")
