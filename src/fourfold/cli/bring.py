"""`fourfold import FILE`: a run of what another program wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fourfold.cli.parse import flag, parse, positional
from fourfold.core.errors import UserError


def import_command(tokens: list[str]) -> None:
    """Make a run of what another program wrote."""
    from fourfold.core.registry import index

    able = [f"- {name}: {entry.imports}" for name, entry in index().items() if entry.imports]
    text = "Make a run of what another program wrote; its verbs are those of the system that reads it.\n\n"
    parsed = parse("fourfold import", text + "\n".join(able), _parameters(), tokens)
    if parsed is None:
        return
    words, options = list(parsed[0]), parsed[1]
    if len(words) != 1:
        got = "none" if not words else f"{len(words)}: {', '.join(words)}"
        raise UserError(f"import: expected one file or folder, got {got}")
    from fourfold import api
    from fourfold.core.console import make_console
    from fourfold.core.sources import command_line

    quiet = bool(options.get("quiet"))
    run = api.import_(
        words[0], out=options.get("out"), system=options.get("system"), base=options.get("base"),
        console=make_console(quiet=quiet, json=False), command=command_line(),
    )  # fmt: skip
    from fourfold.cli.write import write
    from fourfold.core.system import verbs

    assert run.folder is not None  # noqa: S101
    if not quiet and not options.get("json"):
        print(f"A run of {run.system.name}; its verbs: {', '.join(verbs(run.system))}")
    write(Path(run.folder), None, as_json=bool(options.get("json")), verb="import", quiet=quiet)


def _parameters() -> list[Any]:
    return [
        positional("path", "The file or folder.", many=True),
        flag("out", ["--out", "-o"], str, "Folder of the run.", "runs/<system>-<n>", "Options", 1),
        flag(
            "system", ["--system"], str, "Which system reads it; found by its content otherwise.",
            None, "Options", 1,
        ),
        flag(
            "base", ["--base"], str, "For adapters: the folder or run of the model that they add to.",
            "what they name", "Options", 1,
        ),
        flag("json", ["--json"], bool, "JSON for machines.", None, "Options", 1),
        flag("quiet", ["--quiet", "-q"], bool, "Say nothing but the answer.", None, "Options", 1),
        flag("debug", ["--debug"], bool, "Show the traceback of an error.", None, "Options", 1),
    ]  # fmt: skip
