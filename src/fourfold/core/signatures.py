"""What a verb's signature says beyond its types; read by the command line, HTTP and the page alike."""

from __future__ import annotations

import inspect
import types
from collections.abc import Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from fourfold.core.types import SOURCE


def argument_help(method: Any, name: str) -> str:
    """The line of an argument in the docstring's Args section."""
    lines = (inspect.getdoc(method) or "").splitlines()
    for line in lines:
        if line.strip().startswith(f"{name}:"):
            return line.strip()[len(name) + 1 :].strip()
    return ""


def marks(annotation: Any) -> list[Any]:
    """What is said of a type beside it: Annotated's further arguments, of a union's members too."""
    if get_origin(annotation) is Annotated:
        return [*marks(get_args(annotation)[0]), *get_args(annotation)[1:]]
    if get_origin(annotation) in (Union, types.UnionType):
        return [m for a in get_args(annotation) for m in marks(a)]
    return []


def takes_many(annotation: Any) -> bool:
    """Whether several words are one argument."""
    if SOURCE in marks(annotation):
        return True
    origin = get_origin(annotation)
    if origin is Annotated:
        return takes_many(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return any(takes_many(a) for a in get_args(annotation))
    return origin in (list, tuple) or (
        isinstance(origin, type) and issubclass(origin, Sequence) and origin is not str
    )
