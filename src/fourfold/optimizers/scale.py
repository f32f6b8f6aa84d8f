"""What a step takes on N devices: memory by kind, and bytes that each device sends, by formula.

All-reduce in a ring: Patarasuk & Yuan 2009. Sharded states: Rajbhandari et al. 2020. Activations: after Korthikanti et al.
2022, counted for the blocks here. Symbols: P parameters, N devices in D groups that take different rows by T that share
products, e bytes of a number. docs/scale.md derives them; tests hold them to small runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.optimizers.memory import MOMENTS, activations, in_words
from fourfold.optimizers.precision import chosen

MASTER = 4
"""Bytes of a weight, of its gradient and of each moment: float32."""


@dataclass(frozen=True)
class Shape:
    """What a model's step takes on one device.

    All bytes are for the rows that one device computes at a time.
    """

    parameters: int
    blocks: int = 0
    """Repeated blocks."""
    block: int = 0
    """Parameters of one."""
    cut: int = 0
    """Parameters that tensor parallel cuts."""
    moments: int = 2
    """Numbers that the optimizer keeps of each parameter."""
    inside: int = 0
    """Bytes of activations kept inside all blocks."""
    outside: int = 0
    """Bytes of the other activations."""
    entering: int = 0
    """Bytes that go from block to block, as the sums of tensor parallel move them."""


@dataclass(frozen=True)
class Plan:
    """How a step is spread."""

    devices: int
    tensor: int = 1
    shard: bool = False
    recompute: bool = False
    gathered: int = MASTER
    """Bytes of a weight while it is multiplied, under shard."""

    @property
    def data(self) -> int:
        """Groups of devices that take different rows."""
        return self.devices // self.tensor

    def __str__(self) -> str:
        words = ["sharded" if self.shard else "data parallel"]
        words += [f"tensor {self.tensor}"] if self.tensor > 1 else []
        return ", ".join([*words, *(["recompute"] if self.recompute else [])])


def memory(shape: Shape, plan: Plan) -> dict[str, float]:
    """Bytes on one device, by kind."""
    held = shape.parameters - shape.cut + shape.cut / plan.tensor
    parts = plan.data if plan.shard else 1
    found = {
        "weights": MASTER * held / parts,
        "gradients": MASTER * held / parts,
        "optimizer": shape.moments * MASTER * held / parts,
    }
    if plan.shard:
        each = _of_block(shape, plan)
        root = held - shape.blocks * each
        # the root stays, one block computes, the next is on its way; then the gradient of one block
        found["gathered"] = plan.gathered * (root + 3 * each)
    inside = shape.inside * _kept_when_cut(plan.tensor)
    if plan.recompute and shape.blocks:
        inside = shape.blocks * shape.entering + inside / shape.blocks
    found["activations"] = inside + shape.outside
    return found


def sent(shape: Shape, plan: Plan) -> dict[str, float]:
    """Bytes that one device sends in one step, by what they are."""
    held = shape.parameters - shape.cut + shape.cut / plan.tensor
    share = (plan.data - 1) / plan.data
    found: dict[str, float] = {}
    if plan.shard:
        again = shape.blocks * _of_block(shape, plan)  # blocks are let go of after the forward pass
        found["weights"] = share * plan.gathered * (held + again)
        found["gradients"] = share * MASTER * held
    else:
        found["gradients"] = 2 * share * MASTER * held
    if plan.tensor > 1:
        # forward after each of a block's two halves; the first again where a block is recomputed, which ends once all that
        # the gradient needs is there, before the second; backward before queries, keys, values, gate and up, each by itself
        sums = (8 if plan.recompute else 7) * shape.blocks
        found["activations"] = sums * 2 * (plan.tensor - 1) / plan.tensor * shape.entering
    return found


def _of_block(shape: Shape, plan: Plan) -> float:
    if not shape.blocks:
        return 0.0
    cut = shape.cut / shape.blocks
    return shape.block - cut + cut / plan.tensor


def _kept_when_cut(tensor: int) -> float:
    """Of activations inside a block what a device keeps: those of the residual stream stay whole."""
    return (10 + 24 / tensor) / 34


def gpt(
    layers: int,
    width: int,
    vocabulary: int,
    rows: int,
    window: int,
    *,
    hidden: int | None = None,
    tied: bool = False,
    bfloat16: bool = True,
    moments: int = 2,
) -> Shape:
    """A decoder-only Transformer as `gpt` has it by default: RMSNorm, rotary positions, SwiGLU, no biases.

    Args:
        layers, width, vocabulary, hidden, tied: of the model; hidden None means 8/3 widths, rounded up to 32.
        rows: windows that a device computes at a time.
        window: positions of each.
        bfloat16: whether products are; otherwise float32.
        moments: of the optimizer.
    """
    hidden = hidden or -(-8 * width // 96) * 32
    cut = 4 * width * width + 3 * width * hidden
    block = cut + 2 * width
    tokens = rows * window
    # counted with saved_tensors_hooks: 9 numbers of the width and 4 of the hidden size for each position; under autocast
    # 23 and 8 bytes, as the residual stream stays float32, and the copies of the weights
    inside = tokens * (23 * width + 8 * hidden) + 2 * block if bfloat16 else 4 * tokens * (9 * width + 4 * hidden)  # fmt: skip
    outside = tokens * (8 * width + (10 if bfloat16 else 8) * vocabulary)
    return Shape(
        layers * block + (1 if tied else 2) * vocabulary * width + width,
        layers, block, layers * cut, moments, layers * inside, outside, tokens * width * (2 if bfloat16 else 4),
    )  # fmt: skip


def resnet50(rows: int) -> Shape:
    """ResNet-50 (He et al. 2016) on images of 224 x 224 under SGD with momentum, in float32.

    25.6 million parameters; 11.1 million numbers come out of its convolutions for an image, and each is kept twice: before
    batch normalization and after the rectifier.
    """
    return Shape(25_557_032, moments=1, outside=rows * 2 * 11_100_000 * 4)


def shape_of(model: nn.Module, moments: int, activations: int, entering: int) -> Shape:
    """That of any model.

    Args:
        model: whose parameters and blocks are counted.
        moments: numbers that the optimizer keeps of each parameter.
        activations: bytes kept between forward and backward.
        entering: bytes that go into a block.
    """
    from fourfold.optimizers.sharded import COLUMNS, ROWS, blocks_of

    blocks = blocks_of(model)
    total = sum(p.numel() for p in model.parameters())
    in_blocks = sum(p.numel() for b in blocks for p in b.parameters())
    form: Any = getattr(model, "form", None)
    cut = 0
    if form is not None:
        names = (*COLUMNS, *ROWS)
        every = ((n.rpartition(".")[2], m) for b in blocks for n, m in b.named_modules())
        cut = sum(m.weight.numel() for n, m in every if n in names and isinstance(m, nn.Linear))
    # outside are embedding, output and loss: what is left when blocks take their share of the weights' products
    inside = int(activations * in_blocks / total) if blocks else 0
    return Shape(
        total, len(blocks), in_blocks // max(1, len(blocks)), cut, moments, inside, activations - inside, entering
    )  # fmt: skip


def plans(shape: Shape, devices: int, gathered: int = MASTER) -> list[Plan]:
    """The ways to spread a model over devices that are worth a look."""
    found = [Plan(devices)]
    if devices > 1:
        found.append(Plan(devices, shard=True, gathered=gathered))
        if shape.blocks:
            found.append(Plan(devices, shard=True, recompute=True, gathered=gathered))
        if shape.cut:
            tensors = [t for t in (2, 8) if devices % t == 0]
            found += [Plan(devices, t, True, True, gathered) for t in tensors]
    return found


KINDS = ("weights", "gradients", "optimizer", "gathered", "activations")


def rows(shape: Shape, devices: int, gathered: int = MASTER) -> list[tuple[str, ...]]:
    """A table: of each plan the memory of a device by kind and in all, and what it sends in a step."""
    found = []
    for plan in plans(shape, devices, gathered):
        held, moved = memory(shape, plan), sum(sent(shape, plan).values())
        cells = [in_words(int(held.get(kind, 0))) if held.get(kind) else "-" for kind in KINDS]
        words = in_words(int(moved)) if moved else "-"
        found.append((str(devices), str(plan), *cells, in_words(int(sum(held.values()))), words))
    return found


HEADER = ("devices", "spread", *KINDS, "together", "sent per step")


def of_run(run: Run) -> Shape:
    """The shape of a run's model with its batch on each device.

    Raises:
        UserError: it is not searched for by gradient, or its data cannot be read again.
    """
    from fourfold.optimizers.gradient import Gradient

    config = run.system.optimizer
    if not isinstance(config, Gradient):
        raise UserError(
            f"--scale: {run.system.name} is made by one process; a gradient search can be spread"
        )
    data, device = run.examples(), run.device
    batch = next(iter(data.batches("train")))
    kept = activations(config, run.objective, run.model, batch, device) or 0
    name = config.algorithm.lower()
    moments = MOMENTS.get(name, 1 if config.arguments.get("momentum") else 0)
    wide = 2 if chosen(config.precision, run.model, device) != torch.float32 else 4
    form: Any = getattr(run.model, "form", None)
    positions = batch["tokens"].numel() if form is not None and "tokens" in batch else 0
    return shape_of(run.model, moments, kept, positions * getattr(form, "width", 0) * wide)
