"""Optimizers for large batches: the step of each tensor is as long as its weights ask for.

LARS: You, Gitman & Ginsburg 2017, https://arxiv.org/abs/1708.03888. LAMB: You et al. 2020,
https://arxiv.org/abs/1904.00962. The rate grows with the batch (Goyal et al. 2017: `--optimizer.lr-batch`) after a
warm-up. Vectors (norms, biases) move as under SGD and Adam, as the authors leave them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

Parameters = Iterable[Any]


class LARS(torch.optim.Optimizer):
    """Momentum in which a tensor's gradient is scaled by trust |w| / (|g| + decay |w|).

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        momentum: of the steps.
        weight_decay: added to the gradient as decay * w, within the scaling.
        trust: the coefficient eta of the paper.
        nesterov: whether the step looks ahead.
        eps: least norm to divide by.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
        nesterov: bool = False,
        eps: float = 1e-9,
    ) -> None:
        if not 0 <= momentum < 1 or trust <= 0:
            raise ValueError(
                f"LARS expects 0 <= momentum < 1 and trust > 0, got {momentum} and {trust}"
            )
        super().__init__(
            params,
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "nesterov": nesterov, "eps": eps},
        )  # fmt: skip

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            for param in (p for p in group["params"] if p.grad is not None):
                change = param.grad + group["weight_decay"] * param
                if param.ndim > 1:
                    size, slope = param.norm(), param.grad.norm()
                    below = slope + group["weight_decay"] * size + group["eps"]
                    change = change * _ratio(group["trust"] * size, below, size, slope)
                state = self.state[param]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(param)
                # the rate is within the momentum, as in the paper: a rate that falls does not shorten old steps
                buffer = (
                    state["momentum_buffer"].mul_(group["momentum"]).add_(change, alpha=group["lr"])
                )
                param.sub_(
                    buffer.mul(group["momentum"]).add_(change, alpha=group["lr"])
                    if group["nesterov"]
                    else buffer
                )


class LAMB(torch.optim.Optimizer):
    """Adam whose step of a tensor, decay included, is scaled to the length |w|.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: decays of both moments.
        eps: added to the root of the second.
        weight_decay: decay * w is added to Adam's step, within the scaling.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        if not all(0 <= b < 1 for b in betas):
            raise ValueError(f"LAMB expects betas from 0 to below 1, got {betas}")
        super().__init__(
            params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            first, second = group["betas"]
            for param in (p for p in group["params"] if p.grad is not None):
                state = self.state[param]
                if not state:
                    state.update(
                        step=0, exp_avg=torch.zeros_like(param), exp_avg_sq=torch.zeros_like(param)
                    )
                state["step"] += 1
                mean = state["exp_avg"].lerp_(param.grad, 1 - first)
                square = (
                    state["exp_avg_sq"]
                    .mul_(second)
                    .addcmul_(param.grad, param.grad, value=1 - second)
                )
                number = state["step"]
                root = (square / (1 - second**number)).sqrt_().add_(group["eps"])
                move = mean / (1 - first**number) / root + group["weight_decay"] * param
                if param.ndim > 1:
                    size, length = param.norm(), move.norm()
                    move = move * _ratio(size, length, size, length)
                param.sub_(move, alpha=group["lr"])


def _ratio(above: Tensor, below: Tensor, size: Tensor, slope: Tensor) -> Tensor:
    """above / below, and 1 for weights or gradients that are all zero."""
    return torch.where((size > 0) & (slope > 0), above / below, torch.ones_like(size))
