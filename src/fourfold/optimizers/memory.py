"""What a search will need, before it is taken: weights, gradients, optimizer state, activations."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fourfold.core.device import available_memory
from fourfold.core.errors import UserError
from fourfold.core.evaluation import to_device
from fourfold.core.parts import Batch, Data, Objective
from fourfold.core.shares import rows_from, rows_of
from fourfold.optimizers.precision import autocast, chosen

if TYPE_CHECKING:
    from fourfold.optimizers.gradient import Gradient

MOMENTS = {
    "adamw": 2,
    "adam": 2,
    "nadam": 2,
    "radam": 2,
    "adamax": 2,
    "muon": 1,
    "lars": 1,
    "lamb": 2,
    "rmsprop": 1,
    "adagrad": 1,
    "adadelta": 2,
}
"""Tensors of the weights' size that an algorithm keeps; SGD keeps one with momentum."""
TRIVIAL = 1 << 16
"""Below this many numbers in weights and batch nothing needs to be estimated."""


def saved_bytes(objective: Objective, model: nn.Module, batch: Batch, context: Any) -> int:
    """Bytes that autograd keeps between forward and backward of the largest move."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    largest, seen = 0, set()
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in seen and pointer not in parameters:
            seen.add(pointer)
            kept.append(tensor)  # alive, so that no later tensor takes its address
            total += tensor.untyped_storage().nbytes()
        return tensor

    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), context:
        for _ in objective.losses(model, batch):
            largest, total = max(largest, total), 0
            seen.clear()
            kept.clear()
    return largest


def activations(
    config: Gradient, objective: Objective, model: nn.Module, batch: Batch, device: torch.device
) -> int | None:
    """Bytes of a whole micro-batch's activations, extrapolated from two small ones; None if it cannot be told."""
    size = rows_of(batch)
    if size < 4:
        return None
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    generators = [device] if device.type == "cuda" else []
    trial = copy.deepcopy(objective) if objective.state_dict() else objective
    dtype = chosen(config.precision, model, device)
    training = model.training
    model.train()
    try:
        with torch.random.fork_rng(devices=generators):
            two = saved_bytes(
                trial, model, to_device(rows_from(batch, 0, 2), device), autocast(dtype, device)
            )
            four = saved_bytes(
                trial, model, to_device(rows_from(batch, 0, 4), device), autocast(dtype, device)
            )
    except (RuntimeError, ValueError):
        return None  # a model that needs more examples at once than these
    finally:
        model.train(training)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if buffer.shape == buffers[name].shape:
                    buffer.copy_(buffers[name])
    slope = max(0.0, (four - two) / 2)
    return int(two + slope * (size - 2))


def estimate(
    config: Gradient, objective: Objective, model: nn.Module, data: Data, device: torch.device
) -> dict[str, int]:
    """Bytes by kind that a search will take; activations are missing where they cannot be told."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    weights += sum(b.numel() * b.element_size() for b in model.buffers())
    moving = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    name = config.algorithm.lower()
    moments = MOMENTS.get(name, 1 if config.arguments.get("momentum") else 0)
    needed = {"weights": weights, "gradients": moving, "optimizer": moments * moving}
    if config.ema:
        needed["average"] = moving
    batch = next(iter(data.batches("train")), None) if data.divisible else None
    if batch is None:
        return needed
    numbers = sum(v.numel() for v in batch.values() if isinstance(v, Tensor))
    if weights // 4 + numbers > TRIVIAL:
        found = activations(config, objective, model, batch, device)
        if found is not None:
            needed["activations"] = found
    return needed


def refuse_what_cannot_fit(
    config: Gradient, objective: Objective, model: nn.Module, data: Data, device: torch.device
) -> dict[str, int]:
    """The estimate, or a stop before memory is taken that is not there.

    Raises:
        UserError: the estimate is above what is free, with what would fit.
    """
    needed = estimate(config, objective, model, data, device)
    free = available_memory(device)
    # the weights are there already
    total = sum(needed.values()) - needed["weights"]
    if total <= free:
        return needed
    parts = ", ".join(f"{name} {in_words(value)}" for name, value in needed.items())
    fixed = total - needed.get("activations", 0)
    advice = "a smaller model would"
    if needed.get("activations") and fixed < free:
        batch = next(iter(data.batches("train")))
        # a batch may be counted in tokens
        whole = getattr(data, "batch_tokens", None) or rows_of(batch)
        fits = max(1, int(whole * (free - fixed) / needed["activations"]))
        advice = f"--data.batch {fits} with --optimizer.accumulate {-(-whole // fits)} would"
    raise UserError(
        f"this fit needs about {in_words(total)} more memory ({parts}) and {in_words(free)} is free; {advice} fit"
    )


def in_words(number: int) -> str:
    """Bytes as KiB, MiB or GiB."""
    if number >= 2**28:
        return f"{number / 2**30:.2f} GiB"
    return f"{number / 2**20:.1f} MiB" if number >= 2**18 else f"{number / 2**10:.1f} KiB"
