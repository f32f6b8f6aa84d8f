"""What a verb's signature says beyond its types; read by the command line, HTTP and the page alike."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from fourfold.core.types import SOURCE

F = TypeVar("F", bound=Callable[..., Any])


def extends(base: Callable[..., Any]) -> Callable[[F], F]:
    """Mark a verb that is `base` with further options, as the same verb of a subclass.

    The marked function ends in `**given`; it is called with all options of `base` in there, those at their
    defaults included. To the verb's faces it has the options of both, and the help of both.
    """

    def join(method: F) -> F:
        theirs, own = (inspect.signature(f).parameters.values() for f in (base, method))
        named = [p for p in own if p.kind is not p.VAR_KEYWORD]
        names = {p.name for p in named}
        more = [p for p in theirs if p.name not in names]
        places = [p for p in named if p.kind is not p.KEYWORD_ONLY]
        options = [p for p in named if p.kind is p.KEYWORD_ONLY]
        signature = inspect.signature(method).replace(parameters=[*places, *more, *options])

        @functools.wraps(method)
        def called(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return method(*bound.args, **bound.kwargs)

        head, own_help = _help(method)
        help_ = {**_help(base)[1], **own_help}
        lines = [
            f"    {p.name}: {help_[p.name]}" for p in [*places, *more, *options] if p.name in help_
        ]
        called.__doc__ = "\n\nArgs:\n".join([head, "\n".join(lines)])
        called.__signature__ = signature  # type: ignore[attr-defined]
        called.extended = base  # type: ignore[attr-defined]
        return called  # type: ignore[return-value]

    return join


def _help(method: Any) -> tuple[str, dict[str, str]]:
    """What a docstring says before its arguments, and of each."""
    head, _, section = (inspect.getdoc(method) or "").partition("\n\nArgs:\n")
    lines = (line.strip().partition(": ") for line in section.splitlines())
    return head, {name: text for name, _, text in lines}


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
