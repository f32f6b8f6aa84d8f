"""Number formats and compilation of a training step."""

from __future__ import annotations

import importlib.util
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from fourfold.core.device import gains_from_bfloat16

Precision = Literal["auto", "float32", "bfloat16"]

BFLOAT16_FROM = 32 * 1024 + 1
"""Elements of the largest matrix from which bfloat16 products pay for their casts on a CPU."""


def chosen(precision: Precision, model: nn.Module, device: torch.device) -> torch.dtype:
    """The format of matrix products: bfloat16 over float32 weights where this hardware gains from it."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    largest = max((p.numel() for p in model.parameters() if p.ndim >= 2), default=0)
    small = device.type == "cpu" and largest < BFLOAT16_FROM
    floats = all(p.dtype == torch.float32 for p in model.parameters() if p.is_floating_point())
    if small or not floats or not gains_from_bfloat16(device.type):
        return torch.float32
    return torch.bfloat16


def autocast(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which a forward pass runs."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile can build code for this device here."""
    if device.type == "cuda":
        return importlib.util.find_spec("triton") is not None
    return (
        shutil.which(os.environ.get("CXX", "g++")) is not None
        or shutil.which("clang++") is not None
    )


def pays(device: torch.device, steps: int | None, minutes: float | None) -> bool:
    """Whether compiling (tens of seconds) is won back within the budget.

    On the CPU it gives 0 to 10% on Transformers and costs up to 30 s: not by default.
    """
    if device.type != "cuda":
        return False
    return (minutes or 0) >= 2 or (steps or 0) >= 1000
