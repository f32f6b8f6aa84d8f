"""Module calls of a forward pass as they happen: hooks, with time, memory and statistics."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fourfold.core.parts import Batch
from fourfold.look.modules import Call


@dataclass
class Inputs:
    """The batch as it came, as it was given, and the leaves of what can have a gradient."""

    batch: Batch
    given: _Read
    leaves: dict[str, Tensor]


class _Read(dict[str, Any]):
    """A batch that notes which of its entries are read."""

    def __init__(self, batch: Mapping[str, Any]) -> None:
        super().__init__(batch)
        self.read: dict[str, None] = {}

    def __getitem__(self, name: str) -> Any:
        self.read[name] = None
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """See `dict.get`."""
        return self[name] if name in self else default


def with_gradients(batch: Batch) -> Inputs:
    """The batch with gradients for its real numbers: copies, so that they may be changed in place."""
    leaves, given = {}, _Read(batch)
    for name, value in batch.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            leaves[name] = value.detach().clone().requires_grad_()
            given[name] = leaves[name].clone()
        elif isinstance(value, Tensor):
            given[name] = value.clone()
    return Inputs(batch, given, leaves)


def without_gradients(batch: Batch) -> Inputs:
    """The batch as it is, in copies."""
    copies = {k: v.clone() if isinstance(v, Tensor) else v for k, v in batch.items()}
    return Inputs(batch, _Read(copies), {})


class Recorder:
    """Writes down every module call while it is entered."""

    def __init__(self, model: nn.Module, inputs: Inputs, device: torch.device) -> None:
        self.model, self.device = model, device
        self.names = {m: n or type(m).__name__ for n, m in model.named_modules()}
        self.inputs = inputs
        self.backward = False
        """Whether the loss itself is being differentiated."""
        self._handles: list[Any] = []
        parameters = [p for p in model.parameters()]
        self._weights = {p.untyped_storage().data_ptr() for p in parameters}
        self.clear()

    def clear(self) -> None:
        """Forget a move that is done."""
        self.inputs.given.read.clear()
        self.calls: list[Call] = []
        self.breaks: list[tuple[int, Call | None]] = [(-1, None)]
        """From which sequence number on which call was running."""
        self.takes: list[tuple[Call, Tensor]] = []
        """Tensors without a graph that a call was given."""
        self.gives: dict[int, tuple[Tensor, Call]] = {}
        """Tensors without a graph that a call returned, by identity."""
        self._stack: list[tuple[Call, float]] = []
        self._counts: dict[str, int] = {}
        self._seen: set[int] = set()

    def __enter__(self) -> Recorder:
        for module in self.names:
            self._handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            self._handles.append(
                module.register_forward_hook(self._leave, with_kwargs=True, always_call=True)
            )
        self._saving = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept)
        self._saving.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._saving.__exit__(*exception)
        for handle in self._handles:
            handle.remove()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.backward:
            return  # a checkpointed block runs again
        name = self.names[module]
        self._counts[name] = self._counts.get(name, 0) + 1
        parent = self._stack[-1][0] if self._stack else None
        call = Call(name, module, parent, len(self.calls), self._counts[name])
        self.calls.append(call)
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and not _has_graph(value):
                self.takes.append((call, value))
        self.breaks.append((_sequence_number(), call))
        self._stack.append((call, self._now()))

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self.backward:
            return
        call, began = self._stack.pop()
        call.seconds = self._now() - began
        self.breaks.append((_sequence_number(), call.parent))
        values = [v for v in tree_leaves(output) if isinstance(v, Tensor)]
        call.shapes = [tuple(v.shape) for v in values]
        for value in values:
            if not _has_graph(value):
                self.gives[id(value)] = (value, call)
        real = next((v for v in values if v.is_floating_point() and v.numel()), None)
        if real is not None:
            wide = real.detach().double() if self.device.type != "mps" else real.detach().float()
            call.mean, call.deviation = float(wide.mean()), float(wide.std(correction=0))
            if _has_graph(real):
                real.register_hook(lambda gradient: self._gradient(call, gradient))

    def _gradient(self, call: Call, gradient: Tensor) -> None:
        if (
            self.backward
        ):  # not where an objective differentiates by itself, as a gradient penalty does
            call.gradient = float(gradient.detach().float().square().mean().sqrt())

    def _pack(self, tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in self._seen and place not in self._weights:
            self._seen.add(place)
            for call, _ in self._stack:
                call.kept += tensor.untyped_storage().nbytes()
        return tensor


def _has_graph(tensor: Tensor) -> bool:
    return tensor.requires_grad and torch.is_grad_enabled()


def _sequence_number() -> int:
    """The number that autograd gives to the next node of this thread."""
    return int(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]
