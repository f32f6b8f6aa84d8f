"""What a model made along the way: texts, and pictures from the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import HTTPException
from fastapi.responses import FileResponse, Response
from nicegui.element import Element

from fourfold.serve.page.history import History, Sample
from fourfold.serve.page.house import House
from fourfold.serve.page.shell import element, text
from fourfold.serve.page.words import Words
from fourfold.serve.shelf import NoSuchRun


def picture(house: House, name: str, picture: str) -> Response:
    """A sample that is a picture in the run's folder, and nothing else from there.

    Raises:
        HTTPException: 404, there is none.
    """
    try:
        folder = (house.shelf.folder_of(name) / "previews").resolve()
    except NoSuchRun as error:
        raise HTTPException(404, str(error)) from error
    path = (folder / picture).resolve()
    if path.parent != folder or path.suffix != ".png" or not path.is_file():
        raise HTTPException(404, f"{name}: no such sample")
    return FileResponse(path, media_type="image/png", headers={"Cache-Control": "no-cache"})


def picture_address(name: str, stored: str) -> str:
    """Where a sample's picture is served."""
    return f"/page/samples/{quote(name, safe='')}/{quote(Path(stored).name, safe='')}"


class Samples:
    """What the model made along the way: a slider over the steps, the newest first seen."""

    def __init__(self, name: str, history: History, words: Words) -> None:
        self.name, self.history, self.words = name, history, words
        self.samples: list[Sample] = []
        self.chosen: int | None = None
        """Place of the sample looked at; None follows the newest."""
        self.place = element("div", "card stack")
        with self.place:
            text(words("no samples"), "p", "quiet")

    def show(self) -> None:
        """Show the samples made so far."""
        samples = list(self.history.samples)
        if samples == self.samples:
            return
        self.samples = samples
        self.place.clear()
        with self.place:
            if not samples:  # the log was begun anew
                text(self.words("no samples"), "p", "quiet")
                return
            last = len(samples) - 1
            place = last if self.chosen is None else min(self.chosen, last)
            if last:
                slider = element(
                    "input", type="range", min=0, max=last, step=1, defaultValue=place,
                    aria_label=self.words("sample number"),
                )  # fmt: skip
                slider.on(
                    "input", self._slide, js_handler="(e) => emit(e.target.value)", throttle=0.1
                )
            self.title = text("", "h2")
            self.body = element("div")
            self._draw(place)

    def _slide(self, event: Any) -> None:
        last = len(self.samples) - 1
        place = min(int(event.args), last)
        self.chosen = None if place == last else place
        self._draw(place)

    def _draw(self, place: int) -> None:
        sample = self.samples[place]
        self.title.say(self.words("sample at", step=f"{sample.step:,}"))
        self.body.clear()
        with self.body:
            sample_shown(sample, self.name, self.words)


def sample_shown(sample: Sample, name: str, words: Words) -> Element:
    """A sample: its text as text, or its picture."""
    if sample.picture:
        title = words("sample at", step=f"{sample.step:,}")
        with element("figure") as made:
            element("img", src=picture_address(name, sample.picture), alt=title)
        return made
    return text(sample.text, "pre", tabindex=0)
