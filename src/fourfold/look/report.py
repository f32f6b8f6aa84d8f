"""The report of a run: one HTML file that needs nothing else, for a phone as for a customer's screen.

    write(run.folder / "report.html", of(run))

The page holds its style, curves (SVG) and pictures (PNG) itself, runs no script and asks no network.
"""

from __future__ import annotations

import base64
import html
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.core.sources import describe, timestamp
from fourfold.core.state import write_text
from fourfold.core.types import Picture, Table
from fourfold.core.words import duration, encodable, number, printable, short
from fourfold.look import facts, selection
from fourfold.look.facts import Fact, ModuleRow, Option
from fourfold.look.figures import drawable

if TYPE_CHECKING:
    from fourfold.core.run import Run

SAMPLES = 6  # texts shown, twice as many pictures; of more, as many are chosen evenly, the first and last among them
SAMPLE_LENGTH = 3000  # characters of one
ROWS = 200  # of a table


@dataclass(frozen=True)
class Shown:
    """A picture on the page, or the sentence why it could not be drawn."""

    title: str
    png: bytes = b""
    caption: str = ""
    error: str = ""
    svg: str = ""
    """Shown in place of the pixels: the reader's machine has fonts that this one lacks."""
    audio: bytes = b""
    """A WAV file to be played below it."""

    @property
    def source(self) -> str:
        """The picture as a data address."""
        if self.svg:
            encoded = base64.b64encode(self.svg.encode("utf-8")).decode("ascii")
            return f"data:image/svg+xml;base64,{encoded}"
        return f"data:image/png;base64,{base64.b64encode(self.png).decode('ascii')}"

    @property
    def sound(self) -> str:
        """The sound as a data address; empty where there is none."""
        if not self.audio:
            return ""
        return f"data:audio/wav;base64,{base64.b64encode(self.audio).decode('ascii')}"

    @property
    def coarse(self) -> bool:
        """Whether its pixels should stay squares when enlarged: under 160 of them across."""
        return (
            not self.svg and int.from_bytes(self.png[16:20], "big") < 160
        )  # the width stands there in every PNG


@dataclass(frozen=True)
class Sample:
    """What the model made at a step: text or a picture."""

    step: int
    text: str = ""
    picture: Shown | None = None


@dataclass
class Report:
    """All that the page shows, in plain values."""

    title: str
    about: str = ""
    """One sentence: what the system is."""
    source: str = ""
    """What it learned from, in words."""
    facts: Sequence[Fact] = ()
    notes: Sequence[str] = ()
    charts: Sequence[tuple[str, str]] = ()
    """Titles and SVG markup made by `look.curves`, which is the only text not escaped."""
    samples: Sequence[Sample] = ()
    samples_made: int = 0
    pictures: Sequence[Shown] = ()
    tables: Sequence[Table] = ()
    data: Sequence[tuple[str, str]] = ()
    command: str = ""
    folder: str = ""
    next: Sequence[tuple[str, str]] = ()
    """Commands that use the run, and what they do."""
    options: Sequence[Option] = ()
    environment: Sequence[tuple[str, str]] = ()
    timings: Sequence[tuple[str, str]] = ()
    modules: Sequence[ModuleRow] = ()
    made: str = field(default_factory=timestamp)

    def _repr_html_(self) -> str:
        page = html.escape(render(self))
        return f'<iframe srcdoc="{page}" width="100%" height="700" style="border:0"></iframe>'


def write(path: Path, report: Report) -> None:
    """Write the page, atomically.

    Raises:
        UserError: the disk is full or may not be written.
    """
    write_text(path, render(report))


def render(report: Report) -> str:
    """The page as HTML, every text escaped."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fourfold.look"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
    )
    charts = [(title, Markup(svg)) for title, svg in report.charts]  # noqa: S704  our own drawing
    page = environment.get_template("report.html.j2").render(
        report=report, charts=charts, cell=_cell, numeric=_numeric, rows=ROWS
    )
    return encodable(page, "utf-8")


def of(run: Run) -> Report:
    """The report of a run. What fails to be drawn or read shows its error in its place."""
    lines = run.metrics.lines
    problems: list[str] = []
    model = _attempt(lambda: run.model, None, problems, "model")
    data = _attempt(lambda: run.data, None, problems, "data")
    summary = _attempt(lambda: data.summary() if data else {}, {}, problems, "data summary")
    rows, notes = facts.data_rows(summary)
    units = _attempt(lambda: run.objective.units(), {}, problems, "units")
    samples, made = _samples(run)
    figures = [*facts.outcome(lines), *facts.effort(run)]
    if model is not None:
        parameters = facts.count(model)
        figures.append(Fact("parameters", short(parameters), f"{parameters:,}"))
    pictures, tables = _drawings(run) if model is not None else ([], [])
    return Report(
        title=run.folder.name if run.folder else run.system.name,
        about=facts.about_system(run.system),
        source=f"{run.system.name} on {describe(run.sources)}",
        facts=figures,
        notes=list(dict.fromkeys([*run.notes, *notes, *problems])),
        charts=facts.charts(lines, data.unit if data else "examples", units),
        samples=samples,
        samples_made=made,
        pictures=pictures,
        tables=tables,
        data=rows,
        command=facts.made_by(run),
        folder=str(run.folder) if run.folder else "",
        next=facts.commands(run),
        options=facts.options(run),
        environment=_environment(run),
        timings=[(name, duration(seconds)) for name, seconds in facts.timings(run).items()],
        modules=facts.modules(model) if model is not None else (),
    )


def _attempt(call: Callable[[], Any], otherwise: Any, problems: list[str], what: str) -> Any:
    """A part of the report must not cost the rest: its error becomes a sentence."""
    try:
        return call()
    except Exception as error:
        problems.append(f"{what}: {_sentence(error)}")
        return otherwise


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _samples(run: Run) -> tuple[list[Sample], int]:
    """Samples over time, evenly chosen, and how many there were."""
    lines = [line for line in run.metrics.lines if "sample" in line or "picture" in line]
    most = 2 * SAMPLES if any("picture" in line for line in lines) else SAMPLES
    chosen: Sequence[int] = range(len(lines))
    if len(lines) > most:
        chosen = [round(i * (len(lines) - 1) / (most - 1)) for i in range(most)]
    shown = []
    for line in (lines[i] for i in chosen):
        step = int(line.get("step", 0))
        if "sample" in line:
            text = str(line["sample"])
            more = f"\n… {len(text) - SAMPLE_LENGTH:,} characters more"
            shown.append(
                Sample(step, text[:SAMPLE_LENGTH] + (more if len(text) > SAMPLE_LENGTH else ""))
            )
        else:
            shown.append(Sample(step, picture=_stored(run, str(line["picture"]), step)))
    return shown, len(lines)


def _stored(run: Run, name: str, step: int) -> Shown:
    """A picture that the loop left in the run's folder, and nowhere else."""
    title = f"step {step:,}"
    if run.folder is None:
        return Shown(title, error=f"{name}: this run has no folder")
    path = (run.folder / name).resolve()
    if not path.is_relative_to(run.folder.resolve()):
        return Shown(title, error=f"{name}: lies outside the run's folder")
    try:
        return Shown(title, path.read_bytes())
    except OSError as error:
        return Shown(title, error=f"{name}: cannot be read ({error.strerror})")


def _drawings(run: Run) -> tuple[list[Shown], list[Table]]:
    """The system's own pictures and tables, drawn by the model in evaluation mode."""
    import torch

    training = run.model.training
    devices = [run.device] if run.device.type == "cuda" else []
    run.model.eval()
    pictures: list[Shown] = []
    tables: list[Table] = []
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(run.seed)
            for picture in _made(run, selection.pictures, run.system.pictures, "pictures"):
                if isinstance(picture, Picture):
                    svg = picture.svg if picture.svg and not drawable(picture.svg) else ""
                    picture = Shown(
                        picture.title, picture.png, picture.caption, svg=svg, audio=picture.audio
                    )
                pictures.append(picture)
            for table in _made(run, selection.tables, run.system.tables, "tables"):
                if isinstance(table, Table):
                    tables.append(table)
                else:
                    pictures.append(table)
    finally:
        run.model.train(training)
    return pictures, tables


def _made(
    run: Run, chosen: Callable[[Path], Any], own: Callable[[Run], Any], what: str
) -> Iterator[Any]:
    """What cross-validation and a search left in the folder, then the system's own."""
    if (folder := run.folder) is not None:
        yield from _until_error(lambda: chosen(folder), f"{what} of the selection")
    yield from _until_error(lambda: own(run), what)


def _until_error(make: Callable[[], Iterator[Any]], what: str) -> Iterator[Any]:
    try:
        yield from make()
    except Exception as error:
        yield Shown(f"{what} could not be made", error=_sentence(error))


def _environment(run: Run) -> list[tuple[str, str]]:
    """Versions and machine as recorded when the run was made, completed by those of now."""
    import torch

    from fourfold.core.version import __version__

    now: dict[str, Any] = {
        "fourfold": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
        "system": platform.system(),
        "device": _device(run),
    }
    hidden = {"format", "command", "data_seconds", "fit_seconds", "in_memory", "system"}
    recorded = {k: v for k, v in run.about.items() if k not in hidden}
    return [(name, facts.plain(value)) for name, value in {**now, **recorded}.items()]


def _device(run: Run) -> str:
    import torch

    if run.device.type == "cuda":
        return f"{run.device} ({torch.cuda.get_device_name(run.device)})"
    return str(run.device)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return number(value) if isinstance(value, float) else facts.plain(value, grouped=True)


def _numeric(table: Table) -> set[int]:
    """Columns that hold numbers, which are set flush right."""
    numbers = (int, float)
    columns = range(len(table.columns))
    return {
        i
        for i in columns
        if any(isinstance(row[i], numbers) and not isinstance(row[i], bool) for row in table.rows)
    }
