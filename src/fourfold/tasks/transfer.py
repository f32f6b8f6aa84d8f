"""Weights of another run, taken by name: what has the same name and shape, the rest begins anew."""

from __future__ import annotations

from torch import Tensor, nn

from fourfold.core.errors import UserError
from fourfold.core.run import Run

INSIDE = ("", "encoder.", "model.", "backbone.")
"""Modules in which another system may hold the network that is taken over."""


def fitting(model: nn.Module, other: Run) -> dict[str, Tensor]:
    """The other run's weights that fit, by the model's own names.

    Raises:
        UserError: none fits.
    """
    from safetensors.torch import load_file

    assert other.folder is not None  # noqa: S101  # only runs with a folder are begun from
    given = load_file(other.folder / "weights.safetensors")
    wanted = model.state_dict()
    best: dict[str, Tensor] = {}
    for inside in INSIDE:
        found = {
            name: given[inside + name]
            for name, own in wanted.items()
            if inside + name in given and given[inside + name].shape == own.shape
        }
        best = max(best, found, key=lambda some: sum(t.numel() for t in some.values()))
    if not any(wanted[name].ndim > 1 for name in best):
        raise UserError(
            f"none of its weights has the name and shape of one here (it has {', '.join(list(given)[:3])}, ...; "
            f"expected {', '.join(list(wanted)[:3])}, ...)"
        )
    return best


def taken_in_words(model: nn.Module, other: Run) -> str:
    """How much was taken from another run, and what was not."""
    found, wanted = fitting(model, other), dict(model.named_parameters())
    missing = [name for name in wanted if name not in found]
    taken = sum(p.numel() for name, p in wanted.items() if name in found)
    total = sum(p.numel() for p in wanted.values())
    rest = f"; anew: {', '.join(missing[:4])}" if missing else ""
    more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
    return (
        f"Took {taken:,} of {total:,} weights by name from {other.folder} "
        f"(a run of {other.system.name}){rest}{more}."
    )
