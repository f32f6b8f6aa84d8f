"""What a fit over HTTP may ask for: checked, without a place or a function in it, and spelled as TOML."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourfold.api import configure
from fourfold.core.errors import UserError, nearest
from fourfold.core.registry import index, load_system
from fourfold.data.catalog import CATALOG
from fourfold.data.table_frames import BUNDLED
from fourfold.serve.schema import Upload

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""`my_module:function`, which is for the command line only."""


def check(system: str, options: Mapping[str, Any], size: str | None, seed: int) -> None:
    """Whether a fit could be begun with these.

    Raises:
        UserError: an unknown system, option or size, a value out of range, or one that names a place.
    """
    if system not in index():
        raise UserError(f"{system[:80]}: no such system{nearest(system[:80], index())}")
    if not 0 <= seed < 2**53:
        raise UserError(f"seed: expected a whole number from 0, got {seed}")
    _refuse_places("", options)
    configure(load_system(system), dict(options), size)


def _refuse_places(where: str, value: Any) -> None:
    """Refuse an option that names a place on this machine or elsewhere, or a function."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _refuse_places(f"{where}.{key}".lstrip("."), inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _refuse_places(where, inner)
    elif isinstance(value, str) and len(value) > 1:
        parts = re.split(r"[/\\]", value)
        rooted = value[0] in "/\\~" or re.match(r"[A-Za-z]:[/\\]", value) or "://" in value
        if rooted or ".." in parts or FUNCTION.fullmatch(value):
            raise UserError(f"{where}: names a place or a function; from the command line only")


def stored_sources(source: Any, base: Path) -> list[str] | None:
    """Where a fit finds its data: a catalog name, or stored uploads by the SHA-256 of their content."""
    if source is None or source == []:
        return None
    if isinstance(source, str):
        if source not in CATALOG and source not in BUNDLED:
            hint = nearest(source[:80], [*CATALOG, *BUNDLED])
            raise UserError(
                f"{source[:80]}: no such data set in the catalog{hint}; or upload the file"
            )
        return [source]
    stored = []
    for upload in [source] if isinstance(source, Upload) else source:
        digest = hashlib.sha256(upload.content).hexdigest()[:16]
        path = base / ".uploads" / digest / _plain(upload.name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{time.monotonic_ns()}")
            temporary.write_bytes(upload.content)
            os.replace(temporary, path)
        stored.append(str(path))
    return stored


def _plain(name: str) -> str:
    """A sender's name for a file as a name that is safe here; its extension stays."""
    last = re.split(r"[/\\]", name)[-1]
    return re.sub(r"[^\w.-]", "_", last, flags=re.ASCII).lstrip(".-")[-80:] or "upload"


def reserved(base: Path, system: str, name: str | None, taken: set[str]) -> Path:
    """A new folder for a run.

    Raises:
        UserError: the name is none, or taken.
    """
    if name is not None and not NAME.fullmatch(name):
        raise UserError(f"name: expected letters, digits, '.', '_' and '-', got {name[:80]!r}")
    for number in itertools.count(1):
        folder = base / (name or f"{system}-{number}")
        with contextlib.suppress(FileExistsError):
            if folder.name not in taken:
                folder.mkdir(exist_ok=False)
                return folder
        if name is not None:
            break
    raise UserError(f"{name}: there is a run of this name already")


def spelled(value: Any) -> Any:
    """Values as TOML has them: None is the word."""
    if isinstance(value, Mapping):
        return {str(k): spelled(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [spelled(v) for v in value]
    return "none" if value is None else value


def write_toml(place: Path, tree: dict[str, Any]) -> None:
    """Write what a fit is told, as `fit.toml` in a folder."""
    import tomli_w

    place.mkdir(parents=True, exist_ok=True)
    (place / "fit.toml").write_text(tomli_w.dumps(tree), encoding="utf-8")
