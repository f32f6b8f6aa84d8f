"""A system with a verb for every kind of argument and answer that a server has to do with, good and bad ones."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
import torch
from annotated_types import Ge, Le
from PIL import Image
from pydantic import NonNegativeFloat, PositiveInt

from faulty import FaultyOptions, FaultySystem
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.core.system import batchable, system
from fourfold.core.types import Audio, Document, Explanation, Picture, Score, Source, Table

Pause = Annotated[float, Ge(0), Le(0.5)]
TOGETHER: list[int] = []
"""How many texts each call of `shout` was given."""


def dot(color: tuple[int, int, int] = (255, 0, 0), size: tuple[int, int] = (3, 2)) -> bytes:
    """A PNG of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


@system("parrot", reads="tensors")
class Parrot(FaultySystem):
    """Says what it is told."""

    data: FaultyOptions = FaultyOptions()

    def say(
        self,
        run: Run,
        text: Document,
        *,
        times: PositiveInt = 1,
        loud: bool = False,
        end: Literal[".", "!"] = ".",
        from_: int | None = None,
        share: NonNegativeFloat = 0.5,
        words: tuple[str, ...] = (),
    ) -> str:
        """Say a text.

        What is said is the text.

        Args:
            text: what to say.
            times: how often.
        """
        said = " ".join([text, *words] * times) + end
        return said.upper() if loud else said

    def count(
        self, run: Run, *, to: PositiveInt = 3, pause: Pause = 0.0, noted: bool = False
    ) -> Iterator[str]:
        """Count, with pauses of some seconds."""
        for number in range(1, to + 1):
            time.sleep(pause)
            yield f"{number}\n"
        if noted:
            run.console.say(f"counted to {to}")

    @batchable("text", when=lambda _, given: given.get("end") != "alone")
    def shout(
        self, run: Run, text: str | list[str], *, end: str = "!", pause: Pause = 0.0
    ) -> Iterator[str]:
        """Shout one text, or several in one call."""
        texts = [text] if isinstance(text, str) else text
        TOGETHER.append(len(texts))
        time.sleep(pause)
        if "" in texts:
            raise UserError("text: is empty")
        for each in texts:
            if each == "noted":
                run.console.say("this was noted")
            yield each.upper() + end + ("\n" if len(texts) > 1 else "")

    def look(
        self, run: Run, image: Image.Image, *, other: Image.Image | None = None
    ) -> dict[str, Any]:
        """Size and first pixel of an image."""
        assert other is None or other.size
        return {"size": image.size, "pixel": image.convert("RGB").getpixel((0, 0))}

    def hear(self, run: Run, sound: Audio) -> Score:
        """Length of a sound."""
        samples, rate = sound
        return Score({"seconds": len(samples) / rate}, {"seconds": "s"})

    def norm(self, run: Run, values: np.ndarray) -> float:
        """Euclidean length."""
        return math.hypot(*values.ravel().tolist())

    def total(self, run: Run, values: torch.Tensor) -> torch.Tensor:
        """Sum over the rows."""
        return values.sum(0)

    def read(self, run: Run, source: Source) -> str:
        """What a source's file holds."""
        return Path(source).read_text(encoding="utf-8", errors="replace")

    def file(self, run: Run, path: Path) -> str:
        """What a file holds, and its extension."""
        return path.read_text(encoding="utf-8", errors="replace") + path.suffix

    def rows(self, run: Run) -> pl.DataFrame:
        """A table."""
        return pl.DataFrame({"name": ["a", "é"], "value": [1.5, None], "odd": [math.nan, 2.0]})

    def draw(self, run: Run) -> Picture:
        """A picture with a drawing."""
        return Picture("red", dot(), "a dot", "<svg xmlns='http://www.w3.org/2000/svg'/>")

    def paint(self, run: Run) -> Image.Image:
        """An image."""
        return Image.new("RGB", (3, 2))

    def album(self, run: Run) -> Iterator[Picture]:
        """Two pictures."""
        yield Picture("one", dot())
        yield Picture("two", dot((0, 0, 255)))

    def numbers(self, run: Run) -> np.ndarray:
        """An array."""
        return np.array([[1.0, np.nan], [3.0, -4.0]])

    def measure(self, run: Run) -> Score:
        """Numbers, one of which is none."""
        run.console.say("said beside it")
        return Score({"a": 1.0, "b": math.nan}, {"a": "m"}, ("noted in it",))

    def explains(self, run: Run) -> Explanation:
        """A verdict."""
        table = Table("T", ("a", "b"), ((1, "x"), (math.inf, None)))
        return Explanation("Verdict", ("It is well.",), (table,), (Picture("P", dot()),))

    def facts(self, run: Run) -> dict[str, Any]:
        """Whatever is known."""
        return {"é": 1, "list": [1, math.inf], 3: np.float32(0.5)}

    def export(self, run: Run, *, out: Path) -> Path:
        """Write a folder."""
        out.mkdir()
        (out / "a.txt").write_text("A")
        (out / "b").mkdir()
        (out / "b" / "c.txt").write_text("C")
        return out

    def save(self, run: Run, *, word: str = "saved", out: Path | None = None) -> Path:
        """Write a file."""
        assert out is not None
        out = out.with_suffix(".txt")
        out.write_text(word)
        return out

    def sleep(self, run: Run, *, seconds: NonNegativeFloat = 0.1) -> str:
        """Do nothing for a while, without ever looking up."""
        time.sleep(seconds)
        return "slept"

    def work(self, run: Run, *, seconds: NonNegativeFloat = 0.1) -> int:
        """Call the model for a while."""
        until, passes = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            run.model(torch.zeros(1, 3))
            passes += 1
        return passes

    def refuse(self, run: Run) -> str:
        """Say no."""
        raise UserError("this cannot be done")

    def fail(self, run: Run, *, late: bool = False) -> Iterator[str]:
        """A bug: at once, or after a piece."""
        if late:
            yield "a piece"
        raise ZeroDivisionError("the secret of this bug")
