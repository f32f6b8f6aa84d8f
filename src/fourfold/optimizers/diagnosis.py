"""Where a search went wrong: the first module whose output, or parameter whose gradient, is not finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Objective


class Diverged(UserError):
    """The loss or a gradient became NaN or infinite; the last good checkpoint is kept."""


def _bad(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point() and not bool(torch.isfinite(value).all())
    if isinstance(value, (list, tuple)):
        return any(_bad(v) for v in value)
    if isinstance(value, dict):
        return any(_bad(v) for v in value.values())
    return False


def first_bad_module(objective: Objective, model: nn.Module, batches: list[Batch]) -> str:
    """A phrase that names what went wrong first in a forward pass over these batches."""
    for batch in batches:
        for name, value in batch.items():
            if _bad(value):
                return f'the data: "{name}" of this batch holds a value that is not finite'
    for name, parameter in model.named_parameters():
        if _bad(parameter):
            return f"parameter {name}, which is not finite any more"
    found: list[str] = []
    names = {module: name or "the model itself" for name, module in model.named_modules()}

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if not found and _bad(output) and not _bad(inputs):
            found.append(f"{names[module]} ({type(module).__name__})")

    handles = [m.register_forward_hook(hook) for m in model.modules()]
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for batch in batches:
                for _ in objective.losses(model, batch):
                    if found:
                        break
    except RuntimeError:
        pass  # an objective that needs gradients inside (a gradient penalty): hooks have seen its forward
    finally:
        for handle in handles:
            handle.remove()
    return f"module {found[0]}" if found else "the objective: every module's output is finite"


def first_bad_gradient(model: nn.Module) -> str:
    """A phrase that names the parameter nearest the output whose gradient is not finite."""
    bad = [n for n, p in model.named_parameters() if p.grad is not None and _bad(p.grad)]
    return f"the gradient of {bad[-1]}" if bad else "the norm of the gradient, which overflowed"
