"""`fourfold bench generate RUN`: tokens a second by engine, beside what the machine's memory lets it."""

from __future__ import annotations

import inspect
import json
from typing import Any

from fourfold.cli.fit import whole
from fourfold.cli.parse import flag, parse, positional
from fourfold.core.errors import UserError, nearest

TEXT = """Measure how fast a run generates, by engine: time to the first token, tokens a second, and the memory's limit.

fourfold bench generate runs/chat --rows 8"""
WHAT = ("generate",)


def bench_flags() -> list[inspect.Parameter]:
    """The command line."""
    return [
        positional("what", "What is measured, generate; then the run.", many=True),
        flag("tokens", ["--tokens"], str, "To generate.", 128),
        flag("prompt", ["--prompt"], str, "Tokens that are read before.", 32),
        flag("rows", ["--rows"], str, "Texts at once.", 1),
        flag("threads", ["--threads"], str, "That compute.", "torch's number"),
        flag("device", ["--device"], str, "cpu, cuda, cuda:1, mps.", "auto"),
        flag("json", ["--json"], bool, "JSON for machines."),
        flag("debug", ["--debug"], bool, "Show the traceback of an error."),
    ]  # fmt: skip


def bench_command(tokens: list[str]) -> None:
    """Measure a run."""
    parsed = parse("fourfold bench", TEXT, bench_flags(), tokens)
    if parsed is None:
        return
    words, given = parsed
    if not words or words[0] not in WHAT:
        got = words[0] if words else "nothing"
        raise UserError(
            f"bench: expected generate and a run, got {got}{nearest(got, WHAT)}: fourfold bench generate runs/x"
        )
    if len(words) != 2:
        raise UserError(f"bench generate: expected one run, got {len(words) - 1}")
    options = {
        name: _positive(name, given[name])
        for name in ("tokens", "prompt", "rows", "threads")
        if given.get(name) is not None
    }
    import torch

    from fourfold.core.run import Run
    from fourfold.tasks.speeds import speed_table, speeds

    if threads := options.pop("threads", None):
        torch.set_num_threads(threads)
    run = Run.open(words[1], device=given.get("device") or "auto")
    found, refused, memory = speeds(run, **options)
    if given.get("json"):
        told: dict[str, Any] = {
            "engines": [speed._asdict() for speed in found],
            "not_served": refused,
            "memory_bytes_per_second": memory,
            "threads": torch.get_num_threads(),
        }
        print(json.dumps(told))
        return
    _show(speed_table(found, memory, options.get("rows", 1)), refused)


def _positive(name: str, text: str) -> int:
    value = whole(name, text)
    if not value:
        raise UserError(f"--{name}: expected 1 or more, got {text}")
    return value


def _show(table: Any, refused: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=table.title, caption=table.caption)
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if number < 2 else "right")
    for row in table.rows:
        shown.add_row(*row)
    console = Console()
    console.print(shown)
    for sentence in refused:
        console.print(sentence, highlight=False, markup=False)
