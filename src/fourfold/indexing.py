"""Knowledge bases from Python: made, brought up to date, and taken back by one state."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fourfold import api, fitting
from fourfold.core.console import Console
from fourfold.core.errors import UserError
from fourfold.core.options import merge
from fourfold.core.run import Run
from fourfold.core.sources import stored

SYSTEM = "knowledge"


def index(
    sources: Any = None,
    *,
    out: str | os.PathLike[str] | None = None,
    remove: Sequence[str | os.PathLike[str]] = (),
    undo: bool = False,
    console: Console | None = None,
    command: str | None = None,
    **options: Any,
) -> Run:
    """Make a knowledge base of documents, or bring one up to date: only what changed is read again.

    Args:
        sources: files, folders, globs; to those that a knowledge base has already these are added. A knowledge base
            alone is brought up to date.
        out: its folder; None makes `runs/knowledge-<n>`.
        remove: sources that it should no longer hold.
        undo: go back to the state before the last change instead.
        console: where progress is said; silent by default.
        command: the command line to record in the report.
        options: fields of `knowledge`; of a knowledge base that is there already they cannot change.

    Raises:
        UserError: no such file, nothing that can be read, other options than it was made with, or another process is
            indexing.
    """
    many = (
        []
        if sources is None
        else list(sources)
        if isinstance(sources, (list, tuple))
        else [sources]
    )
    if out is None and len(many) == 1 and _is_run(many[0]):
        out, many = many[0], []
    if out is None or not _is_run(out):
        if undo or remove:
            raise UserError(
                f"{'--undo' if undo else '--remove'} is for a knowledge base: fourfold index KB ..."
            )
        if not many:
            raise UserError(
                "index: expected files or folders to index: fourfold index docs/ --out kb"
            )
        given = many[0] if len(many) == 1 else many
        return api.fit(SYSTEM, given, out=out, console=console, command=command, **options)
    run = _opened(out, options, console)
    if undo:
        if many or remove:
            raise UserError("--undo goes back by itself; give it no documents")
        return api.update(run, run.data, run.system.optimizer.undo)  # type: ignore[attr-defined]
    if many and stored(many) is None:
        raise UserError(
            f"{out}: documents in memory make a knowledge base of their own; give another --out"
        )
    run.sources = _sources(run, many, remove)
    run.valid, run.notes = None, []
    data = run.system.data.open(run.sources, seed=run.seed)
    assert run.folder is not None  # noqa: S101
    data.place = run.folder / "data"  # type: ignore[attr-defined]
    return api.update(run, data)


def _is_run(place: Any) -> bool:
    return isinstance(place, (str, os.PathLike)) and (Path(place) / "system.toml").is_file()


def _opened(out: Any, options: dict[str, Any], console: Console | None) -> Run:
    run = Run.open(os.fspath(out))
    if run.system.name != SYSTEM:
        raise UserError(
            f"{out}: is a run of {run.system.name}; --out names a folder for a knowledge base"
        )
    if console is not None:
        run.console = console
    changed = merge(type(run.system), options, base=run.system)
    for path, before, after in fitting.differences(run.system.model_dump(), changed.model_dump()):
        raise UserError(
            f"{out}: was made with {path} {before!r}, not {after!r}; leave the option out, or make another: --out"
        )
    return run


def _sources(run: Run, more: Sequence[Any], remove: Sequence[Any]) -> list[str]:
    """What a knowledge base should hold from now on: absolute paths."""
    before = run.sources if isinstance(run.sources, list) else [run.sources] if run.sources else []
    if run.about.get("in_memory"):
        raise UserError(
            f"{run.folder}: was made of texts in memory; it cannot be brought up to date"
        )
    gone = {str(Path(p).resolve()) for p in remove}
    for path in gone:
        if path not in before:
            raise UserError(
                f"--remove {path}: not among its sources; choose from {', '.join(map(str, before))}"
            )
    after = [
        s for s in dict.fromkeys([*map(str, before), *(stored(list(more)) or [])]) if s not in gone
    ]
    if not after:
        raise UserError(f"{run.folder}: nothing would be left; remove the folder instead")
    return after


__all__ = ["index"]
