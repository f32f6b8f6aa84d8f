"""`fourfold index DOCUMENTS --out KB`: a knowledge base, made or brought up to date."""

from __future__ import annotations

import sys
from typing import Any

from fourfold.cli.fit import fit_parameters, of_options, several
from fourfold.cli.parse import flag, parse

TEXT = """Make a knowledge base of documents (text, Markdown, HTML, PDF, DOCX, code, JSON lines), or bring one up to date.

    fourfold index docs/ --out kb        # make it; again later: only what changed is read
    fourfold index kb                    # bring it up to date
    fourfold index kb --undo             # as it was before the last change
    fourfold find kb "how is a run resumed?"
"""


def index_flags() -> list[Any]:
    """The command line: the options of `knowledge`, and what a knowledge base has besides."""
    from fourfold.core.registry import load_system

    common = [
        flag("out", ["--out", "-o"], str, "Folder of the knowledge base.", "runs/knowledge-<n>"),
        flag("remove", ["--remove"], str, "Sources that it should no longer hold, with commas between."),
        flag("undo", ["--undo"], bool, "Go back to the state before the last change."),
        flag("quiet", ["--quiet", "-q"], bool, "Say nothing but errors."),
        flag("json", ["--json"], bool, "One JSON object, for machines."),
        flag("debug", ["--debug"], bool, "Show the traceback of an error."),
    ]  # fmt: skip
    return fit_parameters(load_system("knowledge"), common)


def index_command(tokens: list[str]) -> None:
    """Make a knowledge base, or bring one up to date."""
    parsed = parse("fourfold index", TEXT, index_flags(), tokens, loose=True)
    if parsed is None:
        return
    sources, values = parsed
    options, given = of_options(values)
    from fourfold.core.console import make_console
    from fourfold.core.sources import command_line
    from fourfold.indexing import index

    as_json, quiet = bool(given.get("json")), bool(given.get("quiet"))
    removed = several(given["remove"]) if "remove" in given else []
    run = index(
        list(sources) or None, out=given.get("out"), undo=bool(given.get("undo")),
        remove=[removed] if isinstance(removed, str) else removed,
        console=make_console(quiet=quiet or as_json, json=False), command=command_line(), **options,
    )  # fmt: skip
    about = run.data.summary()
    if as_json:
        import json

        told = {k: v for k, v in about.items() if k not in ("notes", "fingerprint")}
        print(json.dumps({"path": str(run.folder), **told}, ensure_ascii=False), flush=True)
    elif not quiet:
        changes = f" ({about['changes']})" if "changes" in about else ""
        print(
            f"{about['documents']:,} documents{changes}, {about['passages']:,} passages in {run.folder}"
        )
        print(f'Next: fourfold find {run.folder} "..."', file=sys.stderr)
