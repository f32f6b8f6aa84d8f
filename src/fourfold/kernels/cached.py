"""Numba's `njit`, whose cache on disk knows all files that a kernel is made of.

Numba keeps compiled functions with a stamp of the file they stand in, though they hold what they call of other files
too: where one of these had changed, the old code would go on being used.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, overload

import numba

IMPORT = re.compile(rb"^ *from fourfold\.kernels(?: import |\.)(\w+)", re.MULTILINE)
R = TypeVar("R")


@overload
def njit(function: Callable[..., R], **options: Any) -> Callable[..., R]: ...
@overload
def njit(**options: Any) -> Callable[[Callable[..., R]], Callable[..., R]]: ...
def njit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """As `numba.njit`; with `cache`, compiled anew where any kernel's file that the function's imports has changed."""
    if function is None:
        return functools.partial(njit, **options)
    compiled = numba.njit(**options)(function)
    if options.get("cache"):
        with contextlib.suppress(AttributeError, OSError):  # not public; else as Numba does it
            kept = compiled._cache._cache_file
            kept._source_stamp = kept._source_stamp, digest(Path(function.__code__.co_filename))
    return compiled


def sources(file: Path) -> list[Path]:
    """A kernel's file and those of the kernels that it imports, and so on, in order of their names."""
    found, left = {file}, [file]
    while left:
        for name in IMPORT.findall(left.pop().read_bytes()):
            other = file.with_name(f"{name.decode()}.py")
            if other not in found and other.exists():
                found.add(other)
                left.append(other)
    return sorted(found)


@functools.cache
def digest(file: Path) -> str:
    """Of the contents of `sources`."""
    whole = hashlib.sha256()
    for source in sources(file):
        whole.update(source.read_bytes())
    return whole.hexdigest()
