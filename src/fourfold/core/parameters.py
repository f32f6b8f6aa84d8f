"""Parameters of a model by name pattern: "blocks.0.*" is every parameter of the first block."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from fourfold.core.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import nn


def matching(
    model: nn.Module, patterns: Sequence[str], option: str = "freeze"
) -> dict[str, nn.Parameter]:
    """The parameters whose names match one of the patterns, in the model's order; shared ones under each name.

    Args:
        model: its names are those of `named_parameters`.
        patterns: names, with * for any letters, ? for one and [01] for one of several; the name of a
            module stands for all of its parameters.
        option: the flag that the patterns come from, for the error.

    Raises:
        UserError: a pattern matches no parameter; with the nearest names.
    """
    known = dict(model.named_parameters(remove_duplicate=False))
    found: set[str] = set()
    for pattern in patterns:
        names = {n for n in known if fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}.*")}
        if not names:
            places = [n.split(".")[:-1] for n in known]
            modules = {".".join(p[: i + 1]) for p in places for i in range(len(p))}
            hint = nearest(pattern, [*known, *modules])
            raise UserError(
                f"--{option} {pattern}: no parameter of this name{hint or '; it has ' + _some(known)}"
            )
        found |= names
    return {name: parameter for name, parameter in known.items() if name in found}


def _some(names: dict[str, nn.Parameter]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(list(names)[:8]) + more
