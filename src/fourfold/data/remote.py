"""Files on other machines (fsspec): brought here once, into the cache, and read from there.

An address is s3://bucket/corpus/*.txt, gs://..., https://..., or any other that fsspec knows, whose package must be
there. A file that has changed there, by its ETag, its time or its size, is brought again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

from fourfold.core.console import say
from fourfold.core.errors import UserError
from fourfold.core.registry import cache_folder
from fourfold.core.state import full_disk

SIGNS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created", "size")
"""Of what a file system tells of a file, what changes with it."""


def is_remote(name: str) -> bool:
    """Whether a word is an address of another machine."""
    scheme, colon, _ = name.partition("://")
    return bool(colon) and scheme.replace("+", "").isalnum() and scheme != "file"


def brought(address: str) -> list[tuple[str, Path]]:
    """The files at an address: a file, a folder with all below it, or what matches; in a fixed order.

    Returns:
        The address of each, and where it is here.

    Raises:
        UserError: there is nothing, the package for such addresses is missing, the other machine does not answer, or the
            disk is full.
    """
    import fsspec

    try:
        system, place = fsspec.core.url_to_fs(address)
        if any(letter in place for letter in "*?["):
            names = sorted(system.glob(place))
            names = [n for n in names if not system.isdir(n)]
        elif system.isdir(place):
            names = sorted(system.find(place))
        else:
            names = [place]
        if not names:
            raise UserError(f"{address}: no file matches")
        return [_one(system, name) for name in names]
    except ImportError as error:
        raise UserError(f"{address}: {error}") from error
    except ValueError as error:  # a scheme that nobody knows
        raise UserError(f"{address}: {error}") from error
    except FileNotFoundError as error:
        raise UserError(f"{address}: no such file there") from error
    except (OSError, TimeoutError) as error:
        if full_disk(error):
            raise UserError(
                f"{cache_folder()}: no room for {address}; FOURFOLD_CACHE names another place"
            ) from error
        raise UserError(f"{address}: cannot be read ({error})") from error


def _one(system: Any, name: str) -> tuple[str, Path]:
    """A file's address, and its copy, made where there is none of what is there now."""
    address, about = system.unstrip_protocol(name), system.info(name)
    signs = [str(about[sign]) for sign in SIGNS if about.get(sign) is not None]
    key = hashlib.sha256("\0".join([address, *signs]).encode()).hexdigest()[:24]
    path = cache_folder() / "remote" / key / Path(name).name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        say(f"Bringing {address} here, once.")
        try:
            system.get_file(name, str(part))
            size = about.get("size")
            if size is not None and part.stat().st_size != size:
                raise UserError(f"{address}: {part.stat().st_size:,} bytes came of {size:,}")
            part.replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                part.unlink()
    return address, path
