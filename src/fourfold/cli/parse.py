"""The one place that speaks with cyclopts: options and signatures in, explicit values out."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import cyclopts
from cyclopts import App, Group, Parameter

from fourfold.core.errors import UserError
from fourfold.core.options import Option, literal_choices, origins_of


@functools.cache
def _group(name: str, order: int) -> Group:
    return Group(name, sort_key=order)  # cyclopts wants one object for one name


def flag(
    destination: str,
    names: Sequence[str],
    annotation: Any,
    help: str,
    default: Any = None,
    group: str = "Every fit",
    order: int = 9,
    negative: bool = False,
) -> inspect.Parameter:
    """A keyword option; not giving it gives None, so that explicit values are known."""
    shown = None if default is None or default == "" else str(default)
    parameter = Parameter(
        name=list(names),
        help=help,
        group=_group(group, order),
        show_default=(lambda _: shown) if shown is not None else False,
        metavar=_metavar(annotation),
        negative=[f"--no-{n[2:]}" for n in names if n.startswith("--")]
        if negative and _is_bool(annotation)
        else [],
    )
    kind = _shape(annotation)
    return inspect.Parameter(
        destination,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, parameter],
    )


def _is_bool(annotation: Any) -> bool:
    if annotation is bool:
        return True
    return any(a is bool for a in get_args(annotation)) and get_origin(annotation) is not Literal


def _metavar(annotation: Any) -> str | None:
    origins = origins_of(annotation)
    for kind, word in (
        (dict, "JSON"),
        (list, "A,B,..."),
        (tuple, "A,B,..."),
        (float, "NUMBER"),
        (int, "WHOLE"),
    ):
        if kind in origins:
            return word
    return None if _is_bool(annotation) or literal_choices(annotation) else "TEXT"


def _shape(annotation: Any) -> Any:
    """What cyclopts parses: booleans and choices; everything else stays text for pydantic to judge."""
    if _is_bool(annotation):
        return bool
    choices = literal_choices(annotation)
    named = dict in origins_of(annotation)  # choices of its values, or beside them
    if choices and not named and all(isinstance(c, str) for c in choices):
        return Literal[tuple(choices)]
    return str


def of_option(option: Option, short: bool, order: int) -> inspect.Parameter:
    """The flag of a system's field, grouped by part."""
    names = [option.flag]
    if short:
        names.append("--" + option.path[-1].replace("_", "-"))
    group = (
        option.path[0].capitalize()
        if len(option.path) > 1 or option.path[0] in ("data", "objective", "optimizer")
        else "Model"
    )
    text = option.help
    if option.kinds:
        text = f"[{', '.join(option.kinds)}] {text}"
    default = "none" if option.default is None else option.default
    if isinstance(default, bool):
        default = str(default).lower()
    if isinstance(default, (list, tuple)):
        default = ",".join(map(str, default)) or None
    if isinstance(default, dict):
        default = None
    return flag(
        "o_" + "__".join(option.path), names, option.annotation, text, default, group, order, True
    )


def positional(
    name: str, help: str, many: bool = False, required: bool = False, annotation: Any = str
) -> inspect.Parameter:
    """An argument by position."""
    marked = Parameter(help=help)
    if many:
        return inspect.Parameter(
            name, inspect.Parameter.VAR_POSITIONAL, annotation=Annotated[annotation, marked]
        )
    kind = inspect.Parameter.POSITIONAL_ONLY
    if required:
        return inspect.Parameter(name, kind, annotation=Annotated[annotation, marked])
    return inspect.Parameter(
        name, kind, default=None, annotation=Annotated[annotation | None, marked]
    )


def parse(
    name: str,
    help: str,
    parameters: Sequence[inspect.Parameter],
    tokens: Sequence[str],
    loose: bool = False,
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Parse a line; None when only help was asked for (and printed).

    Args:
        name: as in "fourfold fit gpt".
        help: text above the options, markdown.
        parameters: from `flag`, `of_option` and `positional`.
        tokens: the line after the name.
        loose: keys below a dict option are allowed: --optimizer.arguments.momentum 0.9.

    Raises:
        UserError: one sentence with the nearest valid option.
    """
    extra: dict[str, str] = {}
    if loose:
        tokens, extra = _dict_keys(parameters, list(tokens))
    app = _app(name, help, parameters)
    try:
        result = app(list(tokens), exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        raise UserError(" ".join(str(error).split())) from None
    if result is None:
        return None
    args, kwargs = result
    args = tuple("-" if a == "@-" else a for a in args)
    return args, {**{k: v for k, v in kwargs.items() if v is not None}, **extra}


def _app(name: str, help: str, parameters: Sequence[inspect.Parameter]) -> App:
    app = App(
        name=name, help=help, version_flags=[], result_action="return_value", help_format="markdown"
    )
    app.default(collector(parameters))
    return app


def collector(parameters: Sequence[inspect.Parameter]) -> Callable[..., Any]:
    """A function that returns what it was called with, under this signature."""
    order: dict[Any, int] = {
        inspect.Parameter.POSITIONAL_ONLY: 0,
        inspect.Parameter.VAR_POSITIONAL: 1,
        inspect.Parameter.KEYWORD_ONLY: 2,
    }

    def collect(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs

    collect.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        sorted(parameters, key=lambda p: order[p.kind])
    )
    return collect


def _dict_keys(
    parameters: Sequence[inspect.Parameter], tokens: list[str]
) -> tuple[list[str], dict[str, str]]:
    """Take `--part.field.key value` out, where `--part.field` is an option and `--part.field.key` is not."""
    names = {
        n
        for p in parameters
        for m in get_args(p.annotation)[1:]
        for n in (getattr(m, "name", None) or ())
    }
    rest, extra = [], {}
    position = 0
    while position < len(tokens):
        token = tokens[position]
        key, equals, value = token.partition("=")
        owner = key.rpartition(".")[0]
        if key.startswith("--") and key not in names and owner in names and "." in owner:
            if not equals:
                position += 1
                if position >= len(tokens):
                    raise UserError(f"{key} requires an argument")
                value = tokens[position]
            extra[key[2:]] = value
        else:
            rest.append(token)
        position += 1
    return rest, extra


def terminal() -> bool:
    """Whether stdout is a person's terminal."""
    return sys.stdout.isatty()
