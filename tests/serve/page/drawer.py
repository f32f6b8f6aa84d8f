"""A third party's system whose verbs answer in pictures and vectors, for the page's tests; installed as a package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Le
from PIL import Image

from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.core.types import Picture
from fourfold.look.figures import grid
from helpers import RowsOptions, RowSystem


@system("drawer", reads="rows")
class Drawer(RowSystem):
    """Draws."""

    data: RowsOptions = RowsOptions()

    def traverse(
        self,
        run: Run,
        *,
        shade: Annotated[float, Ge(0), Le(1)] = 0.5,
        columns: Annotated[int, Ge(1), Le(8)] = 3,
    ) -> Picture:
        """Go along the shades.

        Args:
            shade: how bright.
            columns: how many squares.
        """
        squares = np.full((columns, 16, 16), shade, dtype=np.float32)
        return grid(squares, f"shade {shade:.2f}, {columns} squares", columns=columns, width=160)

    def embed(self, run: Run, words: list[str]) -> np.ndarray:
        """Vectors of words.

        Args:
            words: one a line.
        """
        lengths = torch.tensor([[len(w), w.count("a"), ord(w[0])] for w in words])
        return lengths.to(torch.float32).numpy()

    def locate(self, run: Run, image: Image.Image) -> Image.Image:
        """Redden what is bright.

        Args:
            image: any picture.
        """
        pixels = np.array(image.convert("RGB"))
        pixels[pixels.mean(axis=-1) > 128] = (255, 0, 0)
        return Image.fromarray(pixels)

    def count(self, run: Run, *, seconds: float = 30.0) -> str:
        """Take a while.

        Args:
            seconds: how long.
        """
        import time

        until = time.monotonic() + seconds
        while time.monotonic() < until:
            run.model(torch.zeros(1, 3))  # where a call that nobody waits for ends
            time.sleep(0.01)
        return "done"

    def fail(self, run: Run) -> str:
        """Fail inside."""
        raise ZeroDivisionError("a secret of the inside")


def install(folder: Path) -> Path:
    """Put the system into a folder as an installed package; the folder goes on PYTHONPATH."""
    info = folder / "drawer-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: drawer\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fourfold.systems]\ndrawer = drawer:Drawer\n")
    return folder


def toy() -> tuple[Drawer, Any]:
    """A small one."""
    from fourfold.optimizers.gradient import Gradient

    return Drawer(optimizer=Gradient(algorithm="sgd", lr=0.05, steps=20)), None
