"""Options: one schema for flags, TOML, HTTP and forms, taken from a system's fields.

An override changes its field only: it is merged into the system's own defaults, never into the
class's. A nested field may be given by its last name where that is unique in the system.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError

from fourfold.core.errors import UserError, nearest
from fourfold.core.parts import Part
from fourfold.core.system import System

COMMON = {
    "out", "seed", "seeds", "size", "device", "resume", "from", "valid", "dry_run", "quiet", "json",
    "debug", "tensorboard", "help", "sources", "system", "folds", "repeats", "trials", "space", "outer",
    "storage", "study",
}  # fmt: skip
"""Options that every fit has; no field's short name may hide them."""

P = TypeVar("P", bound=Part)


@dataclass(frozen=True)
class Option:
    """One settable field of a system."""

    path: tuple[str, ...]
    annotation: Any
    default: Any
    help: str
    kinds: tuple[str, ...] = ()
    """The variants of its part that have this field, where the part is a choice."""

    @property
    def name(self) -> str:
        """Dotted, as in TOML and Python."""
        return ".".join(self.path)

    @property
    def flag(self) -> str:
        """As on the command line."""
        return "--" + self.name.replace("_", "-")


def parts_of(annotation: Any) -> tuple[type[Part], ...]:
    """The Part classes that an annotation admits: one, or the variants of a choice."""
    if isinstance(annotation, type):
        return (annotation,) if issubclass(annotation, Part) else ()
    origin = get_origin(annotation)
    if origin is Annotated:
        return parts_of(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return tuple(p for argument in get_args(annotation) for p in parts_of(argument))
    return ()


def kind_of(part: type[Part]) -> str:
    """The tag of a variant: the default of its field `kind`.

    Raises:
        TypeError: it has none.
    """
    if "kind" not in part.model_fields:
        raise TypeError(
            f'{part.__name__} is one of several choices and needs a tag: kind: Literal["..."] = "..."'
        )
    return str(part.model_fields["kind"].default)


def admits_none(annotation: Any) -> bool:
    """Whether None is a value of this annotation."""
    if annotation is None or annotation is type(None) or annotation is Any:
        return True
    if get_origin(annotation) is Annotated:
        return admits_none(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return any(admits_none(a) for a in get_args(annotation))
    return get_origin(annotation) is Literal and None in get_args(annotation)


def _default_instance(part: type[Part]) -> Part | None:
    try:
        return part()
    except ValidationError:
        return None  # a field without a default: it must be given


def _walk(cls: type[Part], instance: Part | None, path: tuple[str, ...]) -> Iterator[Option]:
    for name, field in cls.model_fields.items():
        if name == "kind" and path:
            continue
        value = getattr(instance, name, None)
        variants = parts_of(field.annotation)
        doc = " ".join((field.description or "").split())
        if not variants:
            yield Option((*path, name), field.annotation, value, doc)
            continue
        if len(variants) == 1:
            yield from _walk(
                type(value) if value is not None else variants[0], value, (*path, name)
            )
            continue
        kinds = tuple(kind_of(v) for v in variants)
        yield Option((*path, name), Literal[kinds], getattr(value, "kind", None), doc)
        for variant in variants:
            inner = value if type(value) is variant else _default_instance(variant)
            for option in _walk(variant, inner, (*path, name)):
                yield Option(
                    option.path, option.annotation, option.default, option.help, (kind_of(variant),)
                )


@functools.cache
def options(system: type[System]) -> dict[tuple[str, ...], Option]:
    """Every settable field of a system by its path; variants' fields of one name are merged."""
    found: dict[tuple[str, ...], Option] = {}
    for option in _walk(system, _default_instance(system), ()):
        if option.path in found:
            first = found[option.path]
            option = Option(
                first.path, first.annotation, first.default, first.help, first.kinds + option.kinds
            )
        found[option.path] = option
    return found


@functools.cache
def short_names(system: type[System]) -> dict[str, tuple[str, ...]]:
    """Last names that are unique in the system, with the path each stands for."""
    count: dict[str, list[tuple[str, ...]]] = {}
    for path in options(system):
        count.setdefault(path[-1], []).append(path)
    return {n: p[0] for n, p in count.items() if len(p) == 1 and n not in COMMON}


def resolve(system: type[System], name: str) -> tuple[str, ...]:
    """The path that a user's word for an option means.

    Raises:
        UserError: unknown, or a short name that is not unique.
    """
    path = tuple(name.replace("-", "_").split("."))
    known = options(system)
    if path[-1] == "kind" and path[:-1] in known:
        path = path[:-1]
    if path in known or _optional_part(system, path):
        return path
    if len(path) == 1 and path[0] in short_names(system):
        return short_names(system)[path[0]]
    for end in range(len(path) - 1, 0, -1):  # a key inside a field that is a dict
        owner = known.get(path[:end])
        if owner and dict in origins_of(owner.annotation):
            return path
    same = [o.name for p, o in known.items() if p[-1] == path[-1]]
    if len(same) > 1 and len(path) == 1:
        raise UserError(f"option {name}: stands for {' and '.join(same)}; give the whole name")
    choices = [o.name for o in known.values()] + list(short_names(system))
    raise UserError(f"unknown option {name} of {system.name}{nearest(name, choices)}")


def _optional_part(system: type[System], path: tuple[str, ...]) -> bool:
    """Whether a path names a part that may be None, which is set whole."""
    owners = _classes_at(system, path[:-1])
    fields = [c.model_fields[path[-1]] for c in owners if path[-1] in c.model_fields]
    return any(parts_of(f.annotation) and admits_none(f.annotation) for f in fields)


def origins_of(annotation: Any) -> set[Any]:
    """The plain types that an annotation admits: {int}, {list, NoneType}, ..."""
    if get_origin(annotation) in (Annotated,):
        return origins_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return set().union(*(origins_of(a) for a in get_args(annotation)))
    return {get_origin(annotation) or annotation}


def parse(text: Any, annotation: Any) -> Any:
    """A flag's text as a value that pydantic can take for this annotation; other values pass through."""
    if not isinstance(text, str):
        return text
    if text.lower() == "none" and admits_none(annotation):
        return None
    origins = origins_of(annotation)
    if origins & {dict, list, tuple, set, frozenset} and text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except ValueError as error:
            raise UserError(f"{text}: not valid JSON: {error}") from error
    if dict in origins and "=" in text:
        pairs = (pair.partition("=") for pair in re.split(r",(?![^\[]*\])", text))
        return {key.strip(): parse(value.strip(), Any) for key, _, value in pairs}
    if origins & {list, tuple, set, frozenset}:
        return [part.strip() for part in text.split(",")] if text else []
    if Literal in origins:
        for choice in _choices(annotation):
            if str(choice) == text:
                return choice
    if annotation is Any:
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _choices(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [c for argument in get_args(annotation) for c in _choices(argument)]


def merge(
    system: type[System],
    overrides: Mapping[str, Any],
    *,
    base: System | None = None,
    where: str = "",
) -> System:
    """The system with some fields changed, everything else as the system (or `base`) has it.

    Args:
        system: the class.
        overrides: values by dotted, short or nested name: {"optimizer.lr": 1e-3}, {"lr": "1e-3"},
            {"optimizer": {"lr": 1e-3}} or {"optimizer": Gradient(...)}.
        base: a configured system to start from; None means the class's defaults.
        where: the file or flag that the values come from, for errors.

    Raises:
        UserError: an unknown name, or a value out of range.
    """
    base = base if base is not None else construct(system, {})
    tree = base.model_dump()
    given: dict[tuple[str, ...], Any] = {}
    for name, value in _flat(system, overrides):
        with _said_of(where):
            path = resolve(system, name)
            option = options(system).get(path)
            given[path] = parse(value, option.annotation if option else Any)
    _choose_kinds(system, given)
    for path in sorted(given, key=len):  # a part's kind before the part's fields
        value = given[path]
        variants = _variants(system, path)
        if variants:
            with _said_of(where):
                _set_part(tree, path, value, variants)
            continue
        _clear_exclusive(system, tree, path, given)
        node = tree
        for key in path[:-1]:
            if not isinstance(node.get(key), dict):  # a word stood where a dictionary may
                node[key] = {}
            node = node[key]
        node[path[-1]] = value
    for name, field in system.model_fields.items():
        value = getattr(base, name)
        if isinstance(value, Part) and type(value) not in parts_of(field.annotation):
            # a part of a class that the annotation only knows the base of stays of its class
            tree[name] = construct(type(value), tree[name], where=where)
    return construct(system, tree, where=where)


def _choose_kinds(system: type[Part], given: dict[tuple[str, ...], Any]) -> None:
    """Add the kinds that fields choose which are given without one."""
    for path, value in list(given.items()):
        if value is None or path[:-1] in given:
            continue
        for variant in _variants(system, path[:-1]):
            if path[-1] in variant.chosen_by:
                given[path[:-1]] = kind_of(variant)


@contextlib.contextmanager
def _said_of(where: str) -> Iterator[None]:
    """Begin an error with the file or flag that the value comes from."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from None


def _flat(
    system: type[System], overrides: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    for key, value in overrides.items():
        name = f"{prefix}{key}"
        path = tuple(name.replace("-", "_").split("."))
        inside = any(p[: len(path)] == path and len(p) > len(path) for p in options(system))
        if isinstance(value, Mapping) and inside:
            yield from _flat(system, value, f"{name}.")
        elif isinstance(value, Part):
            dump = value.model_dump()
            yield from _flat(system, dump, f"{name}.")
        else:
            yield name, value


def _variants(system: type[Part], path: tuple[str, ...]) -> tuple[type[Part], ...]:
    """The variants behind a path that names a choice of parts; empty for any other path."""
    classes = _classes_at(system, path)
    return classes if len(classes) > 1 else ()


def _classes_at(system: type[Part], path: tuple[str, ...]) -> tuple[type[Part], ...]:
    """The Part classes that a path may lead to."""
    classes: tuple[type[Part], ...] = (system,)
    for key in path:
        fields = [c.model_fields[key] for c in classes if key in c.model_fields]
        classes = tuple(p for f in fields for p in parts_of(f.annotation))
    return classes


def _set_part(
    tree: dict[str, Any], path: tuple[str, ...], kind: Any, variants: tuple[type[Part], ...]
) -> None:
    node = tree
    for key in path[:-1]:
        node = node[key]
    current = node.get(path[-1])
    if isinstance(current, dict) and current.get("kind") == kind:
        return
    for variant in variants:
        if kind_of(variant) == kind:
            instance = _default_instance(variant)
            node[path[-1]] = instance.model_dump() if instance else {"kind": kind}
            return
    kinds = [kind_of(v) for v in variants]
    raise UserError(
        f"--{'.'.join(path)} {kind}: no such choice{nearest(str(kind), kinds)}"
        if isinstance(kind, str)
        else f"{'.'.join(path)}: expected one of {', '.join(kinds)}, got {kind!r}"
    )


def _clear_exclusive(
    system: type[Part],
    tree: dict[str, Any],
    path: tuple[str, ...],
    given: Mapping[tuple[str, ...], Any],
) -> None:
    classes = _classes_at(system, path[:-1])
    node = tree
    for key in path[:-1]:
        node = node.get(key, {})
    for group in {g for c in classes for g in c.exclusive if path[-1] in g}:
        for other in group:
            if (*path[:-1], other) not in given and other in node and given[path] is not None:
                node[other] = None


def construct(part: type[P], tree: Mapping[str, Any], *, where: str = "") -> P:
    """Validate a tree of values; the first fault becomes one sentence.

    Raises:
        UserError: an unknown field, a wrong type or a value out of range.
    """
    try:
        return part.model_validate(tree)
    except ValidationError as error:
        raise UserError(_sentence(part, error, where)) from None


def _sentence(part: type[Part], error: ValidationError, where: str) -> str:
    first = min(
        error.errors(), key=lambda e: (e["type"] in ("literal_error", "model_type"), -len(e["loc"]))
    )
    classes: tuple[type[Part], ...] = (part,)
    owners = classes  # of the last name
    names: list[str] = []
    for item in first["loc"]:
        known = (
            [c.model_fields[item] for c in classes if item in c.model_fields]
            if isinstance(item, str)
            else []
        )
        if known:
            names.append(str(item))
            owners, classes = classes, tuple(p for f in known for p in parts_of(f.annotation))
        elif item == first["loc"][-1] and first["type"] == "extra_forbidden":
            names.append(str(item))
            owners = classes
    prefix = f"{where}: " if where else ""
    flag = "--" + ".".join(names).replace("_", "-") if not where else ".".join(names)
    if first["type"] == "extra_forbidden":
        known_names = [n for c in owners for n in c.model_fields]
        if names[-1] in known_names:
            kinds = [kind_of(c) for c in owners if names[-1] in c.model_fields]
            return f"{prefix}{flag} goes with {'.'.join(names[:-1])} {' and '.join(kinds)} only"
        return f"{prefix}unknown option {'.'.join(names)}{nearest(names[-1], known_names)}"
    message = first["msg"][0].lower() + first["msg"][1:]
    if first["type"] == "missing" and isinstance(first["loc"][-1], int):
        message = f"{1 + max(_places(error, first['loc'][:-1]))} values"
    elif first["type"] == "dict_type":
        message = "names with their values, as a=1,b=2 or JSON"
    message = message.removeprefix("value error, ").removeprefix("input should be ")
    if not names:
        return f"{prefix}{message}"
    if first["type"] == "value_error":
        return f"{prefix}{flag}: {message}"
    return f"{prefix}{flag}: expected {message}, got {first['input']!r}"


def _places(error: ValidationError, loc: tuple[Any, ...]) -> list[int]:
    """Places of a tuple that have no value."""
    return [e["loc"][-1] for e in error.errors() if e["loc"][:-1] == loc and e["type"] == "missing"]  # type: ignore[misc]


def complete(part: type[Part], tree: Mapping[str, Any]) -> dict[str, Any]:
    """A stored tree with its absent keys as None, wherever None is a value (TOML has no null)."""
    result = dict(tree)
    for name, field in part.model_fields.items():
        variants = parts_of(field.annotation)
        value = result.get(name)
        if variants and isinstance(value, Mapping):
            kind = value.get("kind")
            chosen = next(
                (v for v in variants if len(variants) > 1 and kind_of(v) == kind), variants[0]
            )
            if len(variants) > 1 and kind is None:  # written before there was a choice
                value = {"kind": kind_of(chosen), **value}
            result[name] = complete(chosen, value)
        elif name not in result and admits_none(field.annotation):
            result[name] = None
    return result


def literal_choices(annotation: Any) -> list[str]:
    """The words that a Literal annotation admits, for help and completion."""
    return [str(c) for c in _choices(annotation) if c is not None]


def hints(method: Any) -> dict[str, Any]:
    """Evaluated annotations of a verb's arguments, markers kept; what it returns may be a lazy import's name."""
    import inspect
    import sys

    names: dict[str, Any] = {}
    extended = method
    while (extended := getattr(extended, "extended", None)) is not None:
        # the options of a verb that is extended are annotated in its own module's words
        names = {**vars(sys.modules[extended.__module__]), **names}
    names = {**names, **vars(sys.modules[method.__module__]), **_late()}
    found = {}
    for parameter in list(inspect.signature(method).parameters.values())[2:]:
        annotation = parameter.annotation
        if isinstance(annotation, str):
            annotation = eval(annotation, names)  # noqa: S307  # the source of a system that is imported already
        found[parameter.name] = str if annotation is parameter.empty else annotation
    return found


def _late() -> dict[str, Any]:
    # names that verbs annotate under TYPE_CHECKING only
    from collections.abc import Iterator as It
    from collections.abc import Sequence as Sq
    from pathlib import Path

    from fourfold.core import types as t
    from fourfold.core.run import Run

    return {
        "Run": Run, "Iterator": It, "Sequence": Sq, "Path": Path, "Document": t.Document,
        "Source": t.Source, "Score": t.Score, "Picture": t.Picture, "Any": Any, "Literal": Literal,
    }  # fmt: skip
