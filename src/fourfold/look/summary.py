"""A run on one screen of a terminal: what it is, how it went, where it is, what to type next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fourfold.core.sources import describe
from fourfold.core.words import number, printable, sparkline
from fourfold.look import facts

if TYPE_CHECKING:
    from fourfold.core.run import Run

LINE = 160  # characters of a data row; the report has all of it
ROWS = 8  # of the data, notes and verbs each


def summary_text(run: Run) -> str:
    """What `fourfold show RUN` prints. What cannot be read says so in its place."""
    lines = run.metrics.lines
    name = run.folder.name if run.folder else "run in memory"
    rows = [("", f"{name}: {facts.about_system(run.system)}"), ("", "")]
    data, notes = _data(run)
    rows += _labelled("data", [describe(run.sources), *data])
    results = [
        f"{f.label}: {f.value}" + (f" ({f.detail})" if f.detail else "")
        for f in facts.outcome(lines)
    ]
    rows += _labelled("result", results or ["nothing measured yet"])
    losses = [line["loss"] for line in lines if isinstance(line.get("loss"), (int, float))]
    if len(losses) > 1:
        ends = f"{number(losses[0])} to {number(losses[-1])}"
        rows.append(("loss", f"{sparkline(losses, 40)}  {ends}"))
    effort = [
        f"{f.label} {f.value}" + (f" ({f.detail})" if f.detail else "") for f in facts.effort(run)
    ]
    rows += _labelled("effort", effort)
    rows += _labelled("notes", _few(list(dict.fromkeys([*run.notes, *notes]))))
    rows.append(("command", facts.made_by(run)))
    if run.folder is not None:
        rows.append(("folder", str(run.folder)))
        if (run.folder / "report.html").is_file():
            rows.append(("report", str(run.folder / "report.html")))
    rows.append(("", ""))
    commands = facts.commands(run)
    width = max((len(command) for command, _ in commands), default=0)
    rows += _labelled("next", _few([f"{c:<{width}}  {what}" for c, what in commands], 12))
    return "\n".join(
        f"{label:<9}{printable(text)}".rstrip() if label else text for label, text in rows
    )


def _labelled(label: str, texts: list[str]) -> list[tuple[str, str]]:
    return [(label if i == 0 else " ", text) for i, text in enumerate(texts)]


def _few(texts: list[str], most: int = ROWS) -> list[str]:
    return (
        texts if len(texts) <= most else [*texts[: most - 1], f"and {len(texts) - most + 1} more"]
    )


def _data(run: Run) -> tuple[list[str], list[str]]:
    """Lines about the data, and its notes."""
    try:
        rows, notes = facts.data_rows(run.data.summary())
    except Exception as error:  # a damaged part must not hide the rest of the run
        return [f"{type(error).__name__}: {error}"], []
    texts = [f"{name}: {value}" for name, value in rows]
    return _few([text if len(text) <= LINE else f"{text[: LINE - 1]}…" for text in texts]), notes
