"""Ties: parameters of different layers that are one, as in recurrent and in auto-associative networks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.parameters import matching


def tie(model: nn.Module, patterns: Sequence[str]) -> None:
    """Make the parameters that match a pattern one parameter, the first of them.

    Args:
        model: changed in place.
        patterns: each as `core.parameters.matching` takes it, as "blocks.*.linear.weight".

    Raises:
        UserError: a pattern matches fewer than two parameters, or some that differ in shape.
    """
    for pattern in patterns:
        found = matching(model, [pattern], "tie")
        (first, kept), *others = found.items()
        if not others:
            raise UserError(f"--tie {pattern}: matches {first} alone; a tie needs two or more")
        for name, parameter in others:
            if parameter.shape != kept.shape:
                raise UserError(
                    f"--tie {pattern}: {name} is {tuple(parameter.shape)} and {first} is {tuple(kept.shape)}; "
                    "only parameters of one shape can be one"
                )
            owner, _, own = name.rpartition(".")
            setattr(model.get_submodule(owner), own, kept)
