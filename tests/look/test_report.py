"""The report: complete, self-contained, escaped, and not lost when a part of it fails."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fourfold.core.parts import Batch, Data, DataOptions, Move, Objective, Optimizer
from fourfold.core.run import Run
from fourfold.core.system import System, system
from fourfold.core.types import Picture, Table
from fourfold.look import facts
from fourfold.look.report import Report, of, render, write
from fourfold.look.summary import summary_text

NASTY = "<script>alert(1)</script>\x1b[31m春眠不觉晓\u202e"


def png(size: tuple[int, int] = (8, 8)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (200, 10, 30)).save(out, "png")
    return out.getvalue()


class Points(Data):
    unit = "rows"

    def batches(
        self, split: Any, *, epoch: int | None = None, model: nn.Module | None = None
    ) -> Iterator[Batch]:
        yield {"x": torch.zeros(2, 3)}

    def size(self, split: Any) -> int:
        return 10

    def reopen(
        self, sources: Any, *, seed: int = 0, valid: Any = None, whole: bool = False
    ) -> Data:
        return self

    def save(self, folder: Path) -> None:
        pass

    def summary(self) -> dict[str, Any]:
        return {
            "split": {"train": 16512, "valid": 2064},
            "target": "median_house_value",
            "dropped": None,
            "notes": ["207 missing values are replaced by the median, 435"],
        }


class PointOptions(DataOptions):
    batch: int = 32
    """Rows in a batch."""

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> Data:
        return Points()

    def restore(self, folder: Path) -> Data:
        return Points()


class Squares(Objective):
    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        yield Move("model", model(batch["x"]).square().sum(), 2)


class Steps(Optimizer):
    lr: float = 0.1
    """Learning rate."""
    minutes: float | None = None
    """Budget (minutes)."""

    def minimize(self, objective: Objective, model: nn.Module, data: Data, run: Run) -> None:
        pass


class Pair(nn.Module):
    """A tied pair of layers among equal ones."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3, bias=False) for _ in range(4))
        self.out = nn.Linear(3, 3)
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.out.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x)


@system("pair", reads="table")
class PairSystem(System):
    """Two layers that share
    their weight.

    More about them.
    """

    data: PointOptions = PointOptions()
    width: int = 3
    """Size of a layer."""
    objective: Squares = Squares()
    optimizer: Steps = Steps(lr=0.5)

    def build(self, data: Data) -> nn.Module:
        return Pair()

    def predict(self, run: Run, source: Any, *, out: str = "") -> str:
        """Predict the target."""
        return out

    def pictures(self, run: Run) -> Iterator[Picture]:
        assert not run.model.training and not torch.is_grad_enabled()
        yield Picture("weights <b>", png(), "of the first layer")
        raise RuntimeError(f"no more {NASTY}")

    def tables(self, run: Run) -> Iterator[Table]:
        yield Table("coefficients", ("name", "value"), (("a", 0.25), (NASTY, None)))


def make_run(folder: Path | None, *, steps: int = 100) -> Run:
    run = Run(
        PairSystem(optimizer=Steps(lr=0.5, minutes=2.0)),
        folder=folder,
        sources=["housing.csv"],
        seed=3,
        about={
            "command": "fourfold fit pair 'housing & more.csv'",
            "data_seconds": 3.9,
            "threads": 7,
        },
    )
    run.data, run.model = Points(), Pair()
    run.notes.append(f"a note {NASTY}")
    for step in range(1, steps + 1):
        loss = math.nan if step == 5 else 1 + 3 / step
        run.metrics.log(step=step, loss=loss, lr=0.5 / step, rate=200.0, seconds=step * 0.5)
        if step % 20 == 0:
            worse = 0.1 * (step > 60)
            run.metrics.log(
                step=step, **{"valid.loss": 2 - step / 100 + worse * step}, evaluation_seconds=0.5
            )
            run.metrics.log(step=step, sample=f"{NASTY} at {step}")
    run.metrics.close()
    return run


class Reader(HTMLParser):
    """Tags with their attributes, and whether every one is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, Mapping[str, str | None]]] = []
        self.stack: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def visible(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", " ", page.partition("</style>")[2]))


@pytest.fixture
def page(tmp_path: Path) -> str:
    folder = tmp_path / "housing-1"
    folder.mkdir()
    run = make_run(folder)
    write(folder / "report.html", of(run))
    return (folder / "report.html").read_text(encoding="utf-8")


def test_page_is_whole_and_needs_nothing_else(page: str) -> None:
    reader = Reader(page)
    assert reader.stack == []
    names = {tag for tag, _ in reader.tags}
    assert not names & {"script", "link", "iframe", "object"}
    for _, attributes in reader.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert all((attributes.get(a) or "data:").startswith("data:") for a in ("src", "href"))
    assert "url(" not in page and "@import" not in page and "http://" not in page
    assert (
        "meta",
        {"name": "viewport", "content": "width=device-width, initial-scale=1"},
    ) in reader.tags
    assert "prefers-color-scheme: dark" in page and "default-src 'none'" in page


def test_page_shows_what_a_reader_needs(page: str) -> None:
    text = " ".join(visible(page).split())
    for words in (
        "housing-1",
        "Two layers that share their weight.",
        "pair on housing.csv",
        "loss, validation 1.400 best, at step 60 of 100",
        "trained for 50s 100 steps",
        "rows seen 10k",
        "parameters 51",
        "fourfold fit pair 'housing & more.csv'",
        "split train 16,512, valid 2,064",
        "207 missing values are replaced by the median, 435",
        "reading the data 3.9s",
        "training 50s",
        "evaluation 2.5s",
        "threads 7",
        f"torch {torch.__version__}",
        "optimizer.minutes 2 none Budget (minutes).",
        "coefficients",
        "of the first layer",
        "step 100",
    ):
        assert words in text, words
    titles = re.findall(r"<h3>([^<]*)</h3><svg", page)
    assert titles == ["loss", "learning rate", "rate"]
    assert "1 point is not finite" in text and "training, smoothed" in text


def test_every_text_is_escaped(page: str) -> None:
    assert "<script" not in page and "\x1b" not in page and "\u202e" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m春眠不觉晓\\u202e") >= 8
    assert "weights &lt;b&gt;" in page


def test_a_picture_that_fails_says_so_and_costs_nothing_else(page: str) -> None:
    text = visible(page)
    assert "pictures could not be made" in text
    assert "RuntimeError: no more <script>" in text
    assert page.count("data:image/png;base64,") == 1
    assert "coefficients" in text


def test_a_damaged_run_still_has_a_report(tmp_path: Path) -> None:
    run = Run(PairSystem(), folder=tmp_path, about={"command": "fourfold fit pair"})
    text = visible(render(of(run)))
    assert "model: UserError" in text and "missing; the fit was stopped" in text
    assert "fourfold fit pair" in text
    assert "UserError" in summary_text(run)


def test_run_in_memory_has_a_report_and_shows_itself() -> None:
    report = of(make_run(None))
    assert report.title == "pair" and ("run.predict(source)", "Predict the target.") in report.next
    frame = report._repr_html_()
    assert frame.startswith("<iframe srcdoc=")
    assert "<script" not in frame


def test_an_empty_report_renders() -> None:
    assert Reader(render(Report("nothing yet"))).stack == []
    lone = render(Report("half a pair: \ud83d"))
    assert "half a pair: \\ud83d" in lone
    lone.encode("utf-8")


def test_samples_are_chosen_evenly(tmp_path: Path) -> None:
    run = make_run(tmp_path, steps=400)  # 20 samples
    report = of(run)
    steps = [s.step for s in report.samples]
    assert len(steps) == 6 and (steps[0], steps[-1]) == (20, 400)
    assert "6 of 20 samples" in visible(render(report))
    run.metrics.log(step=401, sample="x" * 10_000)
    run.metrics.close()
    assert of(run).samples[-1].text.endswith("… 7,000 characters more")


def test_pictures_over_time_come_from_the_run_folder_only(tmp_path: Path) -> None:
    folder = tmp_path / "gan-1"
    (folder / "previews").mkdir(parents=True)
    (folder / "previews" / "1.png").write_bytes(png((200, 10)))
    (tmp_path / "secret.png").write_bytes(png())
    run = make_run(folder, steps=1)
    for name in ("previews/1.png", "previews/2.png", "../secret.png"):
        run.metrics.log(step=1, picture=name)
    run.metrics.close()
    found = [s.picture for s in of(run).samples if s.picture]
    assert (found[0].png, found[0].error, found[0].coarse) == (png((200, 10)), "", False)
    assert "previews/2.png: cannot be read" in found[1].error
    assert found[2].error == "../secret.png: lies outside the run's folder" and not found[2].png


def test_options_are_marked_against_the_defaults_of_the_system() -> None:
    found = {o.name: o for o in facts.options(make_run(None))}
    assert {n for n, o in found.items() if o.changed} == {"seed", "optimizer.minutes"}
    assert found["optimizer.lr"].value == "0.5"  # the system's own default, not the class's 0.1
    assert (found["optimizer.minutes"].default, found["data.batch"].help) == (
        "none",
        "Rows in a batch.",
    )


def test_modules_fold_equal_neighbours_and_count_shared_weights_once() -> None:
    rows = facts.modules(Pair())
    assert [(r.depth, r.name, r.parameters) for r in rows] == [
        (0, "model", 4 * 9 + 9 + 3 + 3),
        (1, "layers", 36),
        (2, "0 … 3, each", 9),
        (1, "out", 12),
        (1, "tied", 12),
    ]
    assert rows[2].kind == "Linear(in_features=3, out_features=3, bias=False)"


def test_games_draw_their_losses_together() -> None:
    lines: list[dict[str, Any]] = [
        {"step": i, "generator_loss": 1.0 + i, "discriminator_loss": 2.0 + i, "balance": 0.5 * i}
        for i in range(1, 4)
    ]
    drawn = dict(facts.charts(lines))
    assert list(drawn) == ["losses", "balance"]
    assert "generator loss" in drawn["losses"] and "discriminator loss" in drawn["losses"]


def test_axes_name_the_units_of_measures() -> None:
    lines: list[dict[str, Any]] = [
        {"step": i, "loss": 1.0 / i, "valid.loss": 2.0 / i, "valid.mae": 3.0 * i} for i in (1, 2, 3)
    ]
    drawn = dict(facts.charts(lines, units={"loss": "nats", "mae": "price"}))
    assert ">loss (nats)<" in drawn["loss"] and ">mae (price)<" in drawn["mae"]
    assert ">loss<" in dict(facts.charts(lines))["loss"]


def test_summary_fits_a_screen_and_says_what_to_type(tmp_path: Path) -> None:
    folder = tmp_path / "pair-1"
    folder.mkdir()
    run = make_run(folder)
    text = summary_text(run)
    assert len(text.splitlines()) < 30 and "\x1b" not in text
    for words in (
        "pair-1: Two layers that share their weight.",
        "data     housing.csv",
        "result   loss, validation: 1.400 (best, at step 60 of 100)",
        "4.000 to 1.030",
        "command  fourfold fit pair 'housing & more.csv'",
        f"folder   {folder}",
        f"fourfold predict {folder} SOURCE  Predict the target.",
        "207 missing values",
    ):
        assert words in text, words
    assert "█" in text and "report.html" not in text
