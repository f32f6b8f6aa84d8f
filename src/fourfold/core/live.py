"""The live display: progress, numbers, the loss as a sparkline, and a sample, redrawn in place."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import rich.console
from rich.color import Color
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.table import Table
from rich.text import Text

from fourfold.core.console import SAMPLE_LINES, Clock, Console
from fourfold.core.types import Picture
from fourfold.core.words import (
    ASCII_BLOCKS,
    BLOCKS,
    duration,
    encodable,
    named,
    printable,
    short,
    sparkline,
)


class Trail:
    """A long series in bounded memory: when full, neighbours are averaged."""

    def __init__(self, size: int = 256) -> None:
        self.size, self.points = size, list[float]()  # size: even
        self._each, self._waiting = 1, list[float]()

    def add(self, value: float) -> None:
        """Append; values that are not finite are left out."""
        if not math.isfinite(value):
            return
        self._waiting.append(value)
        if len(self._waiting) < self._each:
            return
        self.points.append(sum(self._waiting) / self._each)
        self._waiting.clear()
        if len(self.points) >= self.size:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points = [(a + b) / 2 for a, b in pairs]
            self._each *= 2


class Rich(Console):
    """A live display on stderr: progress, numbers, the loss as a sparkline, a sample while it learns."""

    def __init__(self, stream: TextIO | None = None, **options: Any) -> None:
        self._rich = rich.console.Console(
            file=stream,
            stderr=stream is None,
            highlight=False,
            emoji=False,
            markup=False,
            **options,
        )
        self._live: Any = None
        self._begin("", "examples", "")

    def _begin(self, title: str, unit: str, total: str) -> None:
        self._title, self._unit, self._total = title, unit, total
        self._clock, self._trail = Clock(), Trail()
        self._progress, self._step = 0.0, 0
        self._rate: float | None = None
        self._values: Mapping[str, float] = {}
        self._evaluated, self._sample_title = "", ""
        self._sample: Text | None = None

    def say(self, sentence: str) -> None:
        self._rich.print(self._text(sentence))

    def start(self, title: str, unit: str, total: str) -> None:
        self.close()
        self._begin(title, unit, total)
        self._live = Live(
            get_renderable=self._render,
            console=self._rich,
            refresh_per_second=3,  # one costs about 2 ms
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        )
        self._live.start()

    def step(
        self, progress: float, step: int, values: Mapping[str, float], rate: float | None
    ) -> None:
        self._clock.see(progress)
        self._progress, self._step, self._values, self._rate = progress, step, dict(values), rate
        if "loss" in values:
            self._trail.add(values["loss"])

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        self._evaluated = "  ".join([f"evaluated at step {step:,}", *named(values)])

    def preview(self, sample: str | Picture) -> None:
        self._sample_title = f"a sample at step {self._step:,}"
        if isinstance(sample, Picture):
            self._sample = self._picture(sample)
        else:
            self._sample = self._text(sample)

    def stop(self, sentence: str = "") -> None:
        self.close()
        if sentence:
            self.say(sentence)

    def error(self, sentence: str) -> None:
        self.close()
        self._rich.print(self._text("").append("error: ", "bold red").append(self._text(sentence)))

    def close(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    # --- drawing ------------------------------------------------------------------------------

    @property
    def _unicode(self) -> bool:
        return self._rich.encoding.lower().startswith("utf")

    def _text(self, text: str, style: str = "") -> Text:
        return Text(self._safe(printable(text)), style=style)

    def _safe(self, text: str) -> str:
        return encodable(text, self._rich.encoding)

    def _row(self, text: str, style: str = "") -> Text:
        row = self._text(text, style)
        row.no_wrap, row.overflow = True, "ellipsis" if self._unicode else "crop"
        return row

    def _render(self) -> Any:
        rows = [
            self._row("  ".join(s for s in (self._title, self._total) if s), "bold"),
            self._bar(),
        ]
        if self._values:
            parts = [f"step {self._step:,}", *named(self._values)]
            if self._rate is not None:
                parts.insert(2, f"{short(self._rate)} {self._unit}/s")
            rows.append(self._row("  ".join(parts)))
        else:
            rows.append(self._row("getting ready", "dim"))
        if len(self._trail.points) > 1:
            width = min(60, self._rich.width - 8)
            line = sparkline(self._trail.points, width, BLOCKS if self._unicode else ASCII_BLOCKS)
            rows.append(self._row(f"loss {line}", "cyan"))
        if self._evaluated:
            rows.append(self._row(self._evaluated, "green"))
        if self._sample is not None:
            rows += [self._row(self._sample_title, "dim"), self._lines(self._sample)]
        return rich.console.Group(*rows)

    def _bar(self) -> Any:
        left = self._clock.left
        words = f"{min(self._progress, 1):.0%}  {duration(self._clock.elapsed)}"
        if left is not None and self._live is not None and self._progress < 1:
            words += f", {duration(left)} left"
        row = Table.grid(padding=(0, 1))
        width = max(8, min(60, self._rich.width - len(words) - 1))
        row.add_row(ProgressBar(1.0, min(self._progress, 1), width=width), self._row(words))
        return row

    def _lines(self, text: Text) -> Text:
        lines = text.wrap(self._rich, max(8, self._rich.width - 2))
        rows = [Text("  ").append(line) for line in lines[:SAMPLE_LINES]]
        return Text("\n", no_wrap=True, overflow="crop").join(rows)

    def _picture(self, picture: Picture) -> Text:
        """Two pixels a character where the terminal has colours for it, otherwise the picture's name."""
        if (
            self._rich.color_system not in ("truecolor", "256")
            or self._rich.no_color
            or not self._unicode
        ):
            return self._text(f"picture: {picture.title}")
        import numpy as np
        from PIL import Image

        image = Image.open(io.BytesIO(picture.png)).convert("RGB")
        scale = min((self._rich.width - 2) / image.width, 2 * SAMPLE_LINES / image.height, 4)
        size = max(1, round(image.width * scale)), max(2, round(image.height * scale / 2) * 2)
        image = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)
        pixels = np.asarray(image)  # (height, width, 3) uint8
        rows = Text(no_wrap=True)
        for y in range(0, size[1], 2):
            for x in range(size[0]):
                top, bottom = (Color.from_rgb(*pixels[y + dy, x].tolist()) for dy in (0, 1))
                rows.append("▀", Style(color=top, bgcolor=bottom))
            rows.append("\n" if y + 2 < size[1] else "")
        return rows
