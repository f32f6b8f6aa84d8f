"""The frozen model that a policy is compared with."""

from __future__ import annotations

from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.run import Run


def reference_model(run: Run, name: str | None) -> nn.Module:
    """The model of another run, frozen, on this run's device.

    Args:
        run: which is fitted.
        name: the other; None takes the run that this one was begun from.

    Raises:
        UserError: there is none, it is gone, or it is no language model of this kind.
    """
    origin = name or run.about.get("from")
    if origin is None:
        raise UserError("reference: there is none; begin from a run (--from RUN) or name one (--objective.reference RUN)")  # fmt: skip
    try:
        other = Run.open(origin, device=str(run.device))
    except UserError as error:
        raise UserError(f"reference: {error}") from error
    model = other.model
    if not hasattr(model, "states"):
        raise UserError(f"reference {origin}: a run of {other.system.name} is no language model of this kind")  # fmt: skip
    return model.requires_grad_(False)
