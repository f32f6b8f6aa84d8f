"""Low-rank adapters, W x + (alpha / rank) B A x beside weights that stay: LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685.

A begins uniform as in PEFT (the paper: normal), B at zero, so that an adapted model begins as the model it adapts.
With `rslora` the change is scaled by alpha / sqrt(rank) (Kalajdzievski 2023). An adapted layer keeps its weight
under the name that it had; the adapter is `lora.a`, `lora.b` beside it.
Shapes: O outputs, I inputs, R rank.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.core.errors import UserError, nearest
from fourfold.models.nf4 import NF4Linear

OUTPUTS = ("head",)
"""Layers that no adapter is put on unless they are named."""
M = TypeVar("M", bound=nn.Module)


class LowRank(nn.Module):
    """What an adapter adds to a layer: scale B A dropout(x).

    Args:
        inputs: I.
        outputs: O.
        rank: R, at least 1.
        scale: factor of the change.
        dropout: probability with which an input is left out of the change.
    """

    def __init__(
        self, inputs: int, outputs: int, rank: int, scale: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.rank, self.scale, self.dropout = rank, scale, dropout
        self.a = nn.Parameter(torch.empty(rank, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        if self.dropout:
            x = F.dropout(x, self.dropout, self.training)
        return F.linear(F.linear(x, self.a) * self.scale, self.b)

    def change(self) -> Tensor:
        """What it adds to the weight, (O, I)."""
        return (self.b * self.scale) @ self.a


class AdaptedLinear(nn.Linear):
    """A linear layer with an adapter beside its weight, which stays."""

    lora: LowRank

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        return super().forward(x) + self.lora(x)


class AdaptedNF4(NF4Linear):
    """A linear layer in 4 bits with an adapter beside it."""

    lora: LowRank

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        return super().forward(x) + self.lora(x)


Adapted = (AdaptedLinear, AdaptedNF4)


def adaptable(model: nn.Module, patterns: Sequence[str] = ()) -> list[str]:
    """The linear layers that patterns name, in the model's order.

    Args:
        model: any.
        patterns: whole names or ends of them, with * for any letters, as "query", "attention.*" or "blocks.0.*"; a
            name of a module stands for the layers in it. None takes all but the output.

    Raises:
        UserError: a pattern matches no linear layer, with the nearest that there are.
    """
    linears = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, NF4Linear))}
    if not patterns:
        return [name for name in linears if name.rpartition(".")[2] not in OUTPUTS]
    found: set[str] = set()
    for pattern in patterns:
        forms = [start + pattern + end for start in ("", "*.") for end in ("", ".*")]
        names = {name for name in linears if any(fnmatchcase(name, form) for form in forms)}
        if not names:
            parts = {".".join(n.split(".")[i:]) for n in linears for i in range(n.count(".") + 1)}
            parts |= {part for name in linears for part in name.split(".")[:-1]}
            ends = dict.fromkeys(n.rpartition(".")[2] for n in linears)
            hint = nearest(pattern, parts) or f"; it has {', '.join(ends)}"
            raise UserError(f"--adapt {pattern}: no linear layer of this name{hint}")
        found |= names
    return [name for name in linears if name in found]


def adapt(
    model: nn.Module,
    patterns: Sequence[str] = (),
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    rslora: bool = False,
) -> list[str]:
    """Put adapters on linear layers, and leave nothing else to be learned.

    Args:
        model: changed in place.
        patterns: see `adaptable`.
        rank: R.
        alpha: the change is scaled by alpha / rank.
        dropout: see `LowRank`.
        rslora: scale by alpha / sqrt(rank) instead.

    Returns:
        Names of the adapted layers.

    Raises:
        UserError: a pattern matches nothing; a layer's weight is also another's; a rank that no layer has.
    """
    names = adaptable(model, patterns)
    model.requires_grad_(False)
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    largest = 0
    for name in names:
        layer = _linear(model, name)
        shared = owners.get(id(layer.weight), [])
        if len(shared) > 1:
            raise UserError(
                f"--adapt {name}: shares its weight with {shared[0].removesuffix('.weight')}, so it cannot change alone"
            )
        largest = max(largest, min(layer.in_features, layer.out_features))
        scale = alpha / (math.sqrt(rank) if rslora else rank)
        adapter = LowRank(layer.in_features, layer.out_features, rank, scale, dropout)
        device = next(iter([*layer.parameters(), *layer.buffers()])).device
        new = _adapted(layer)
        new.lora = adapter.to(device).train(layer.training)
        model.set_submodule(name, new)
    if rank > largest:
        raise UserError(
            f"--rank {rank}: no adapted layer has more than rank {largest} itself; expected 1 to {largest}"
        )
    return names


def _linear(model: nn.Module, name: str) -> nn.Linear | NF4Linear:
    layer = model.get_submodule(name)
    assert isinstance(layer, (nn.Linear, NF4Linear))  # noqa: S101  # what `adaptable` names
    return layer


def _adapted(layer: nn.Linear | NF4Linear) -> AdaptedLinear | AdaptedNF4:
    """The layer, with the same tensors, as one that has room for an adapter."""
    new: Any = copy.copy(layer)
    new.__class__ = AdaptedNF4 if isinstance(layer, NF4Linear) else AdaptedLinear
    for table in ("_parameters", "_buffers", "_modules"):
        new.__dict__[table] = dict(new.__dict__[table])
    return new


def merged(model: M, *, add: bool = True) -> M:
    """The same model in plain linear layers: adapters added to the weights, 4 bits unpacked.

    The given model is not changed: it is the un-merged one. Weights that stay are shared with it; a model without
    adapters and 4-bit layers is handed back as it is.

    Args:
        model: any.
        add: False leaves the adapters out: what is below them.
    """
    changed = {n: m for n, m in model.named_modules() if isinstance(m, (*Adapted, NF4Linear))}
    if not changed:
        return model
    memo: dict[int, object] = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    for layer in changed.values():
        memo[id(layer)] = _plain(layer, add)
    return copy.deepcopy(model, memo)


@torch.no_grad()
def _plain(layer: nn.Linear | NF4Linear, add: bool) -> nn.Linear:
    weight: Tensor = layer.weight
    if add and isinstance(layer, Adapted):
        weight = weight + layer.lora.change()
    bias = layer.bias
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        plain.bias = bias
    return plain.train(layer.training)


def give(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a model with adapters or 4-bit layers the plain weights of another; the adapters stay.

    Args:
        model: changed in place.
        weights: by the names that they have in a plain model.

    Raises:
        UserError: one is missing, has no place or is of another shape.
    """
    rest = dict(weights)
    for name, layer in model.named_modules():
        if isinstance(layer, NF4Linear) and f"{name}.weight" in rest:
            try:
                layer.fill(rest.pop(f"{name}.weight"))
            except ValueError as error:
                raise UserError(f"{name}.weight: {error}") from error
            rest |= {f"{name}.{k}": b for k, b in layer.named_buffers(recurse=False)}
    own = model.state_dict()
    wanted = {n for n in own if not n.endswith((".lora.a", ".lora.b"))}
    for words, names in (("is missing", wanted - set(rest)), ("has no place", set(rest) - wanted)):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise UserError(f"the weights do not fit this model: {min(names)}{more} {words}")
    for name, tensor in rest.items():
        if own[name].shape != tensor.shape:
            raise UserError(
                f"the weights do not fit this model: {name} is {tuple(tensor.shape)} there and {tuple(own[name].shape)} here"
            )
    model.load_state_dict(rest, strict=False)


def adapters(model: nn.Module) -> dict[str, LowRank]:
    """The adapters by the name of the layer that each stands beside."""
    return {n: m.lora for n, m in model.named_modules() if isinstance(m, Adapted)}
