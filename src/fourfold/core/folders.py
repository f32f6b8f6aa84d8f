"""Run folders by name: where new ones go, which there are, how `system.toml` is read."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from fourfold.core.errors import UserError, nearest

FORMAT = 1
"""Version of the run folder; older ones pass through `migrated`."""


def runs_folder() -> Path:
    """Where runs without --out go: `runs/` here, or FOURFOLD_RUNS."""
    return Path(os.environ.get("FOURFOLD_RUNS", "runs"))


def new_folder(name: str) -> Path:
    """`runs/<system>-<n>` with the next free n."""
    taken = [0]
    if runs_folder().is_dir():
        for path in runs_folder().iterdir():
            if match := re.fullmatch(rf"{re.escape(name)}-(\d+)", path.name):
                taken.append(int(match[1]))
    return runs_folder() / f"{name}-{max(taken) + 1}"


def all_runs(folder: Path | None = None) -> list[Path]:
    """Run folders under a folder, oldest first; damaged ones included."""
    folder = folder or runs_folder()
    found = [p.parent for p in folder.glob("*/system.toml")] if folder.is_dir() else []
    return sorted(found, key=lambda p: ((p / "system.toml").stat().st_mtime_ns, p.name))


def find_run(name: str | Path) -> Path:
    """The folder that a user's word for a run means: a path, a name under `runs/`, or `last`.

    Raises:
        UserError: there is no such run; the nearest one is offered.
    """
    path = Path(name)
    if str(name) == "last":
        known = all_runs()
        if not known:
            raise UserError(
                f"last: no run in {runs_folder()}/ yet; `fourfold fit SYSTEM` makes one"
            )
        return known[-1]
    for candidate in (path, runs_folder() / path):
        try:
            if (candidate / "system.toml").is_file():
                return candidate
        except OSError:  # a name longer than any file's
            raise UserError(f"{str(name)[:80]}…: no such run") from None
    known_names = [str(p) for p in all_runs(path.parent)] + [p.name for p in all_runs()]
    if path.exists():
        raise UserError(
            f"{path}: not a run (it has no system.toml){nearest(str(name), known_names)}"
        )
    raise UserError(f"{name}: no such run{nearest(str(name), known_names)}")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
        UserError: it cannot be read or parsed; the line is named.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def migrated(about: dict[str, Any], path: Path) -> dict[str, Any]:
    """The content of a `system.toml` in today's format.

    Raises:
        UserError: no format version, or a newer one.
    """
    version = about.get("format")
    if not isinstance(version, int) or version < 1:
        raise UserError(f"{path}: names no format version; is it a run's system.toml?")
    if version > FORMAT:
        raise UserError(
            f"{path}: written by a newer fourfold (format {version}, this one reads up to {FORMAT}); "
            "update fourfold to open it"
        )
    return about


def read_notes(path: Path) -> list[str]:
    if not path.exists():
        return []
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error})") from error
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise UserError(f"{path}: damaged: expected a list of sentences")
    return notes


def without_none(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: without_none(v) for k, v in tree.items() if v is not None}
    if isinstance(tree, (list, tuple)):
        return [without_none(v) for v in tree]
    return tree


def whole(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says; what is in it is checked when it is opened."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            told = json.loads(file.read(length)) if length < size else {}
        ends = [entry["data_offsets"][1] for name, entry in told.items() if name != "__metadata__"]
        return bool(told) and size == 8 + length + max(ends, default=0)
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError):
        return False
