"""The frozen model that a policy is compared with, and what the objectives that have one share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fourfold.core.device import seeded
from fourfold.core.errors import UserError
from fourfold.core.run import Run


def wide(values: Tensor) -> Tensor:
    """Values in float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def reference_model(run: Run, name: str | None) -> nn.Module:
    """The model of another run, frozen, on this run's device.

    Args:
        run: which is fitted.
        name: the other; None takes the run that this one was begun from, or, where it was begun from nothing, its own
            network as it was drawn.

    Raises:
        UserError: it is gone, or no language model of this kind.
    """
    origin = name or run.about.get("from")
    if origin is None:
        with seeded(run.seed, run.device):  # as when the run was begun: the same network again
            return run.system.build(run.data).to(run.device).eval().requires_grad_(False)
    try:
        other = Run.open(origin, device=str(run.device))
    except UserError as error:
        raise UserError(f"reference: {error}") from error
    model = other.model
    if not hasattr(model, "states"):
        raise UserError(f"reference {origin}: a run of {other.system.name} is no language model of this kind")  # fmt: skip
    return model.requires_grad_(False)
