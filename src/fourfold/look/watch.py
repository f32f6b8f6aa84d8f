"""One batch forward and backward through any model, watched layer by layer, and nothing left changed.

`health` judges what is seen here. A layer is a module without children, or one with parameters of its
own; a block is an entry of a Sequential or ModuleList that has children. Rectifiers, tanh and sigmoid
are seen where they are called, as modules or as functions.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fourfold.core.errors import UserError
from fourfold.core.evaluation import to_device
from fourfold.core.parts import Batch, Move, Objective
from fourfold.look.seen import Call, Role, Watched, Weights, describe, norm, not_finite
from fourfold.look.symmetry import twins

FUNCTIONS: dict[Any, Role] = {
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, torch.Tensor.relu), "rectifier"),
    **dict.fromkeys((torch.Tensor.relu_, F.relu6), "rectifier"),
    **dict.fromkeys((torch.tanh, torch.tanh_, torch.Tensor.tanh, torch.Tensor.tanh_), "tanh"),
    F.tanh: "tanh",
    **dict.fromkeys((torch.sigmoid, torch.sigmoid_, torch.Tensor.sigmoid), "sigmoid"),
    **dict.fromkeys((torch.Tensor.sigmoid_, F.sigmoid, F.hardsigmoid), "sigmoid"),
}
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Tanh, nn.Sigmoid, nn.Hardsigmoid)
"""Modules whose function is seen instead, under their name."""
CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,  # batch and instance normalization
    nn.GroupNorm,
)
PARAMETRIZED = "parametrizations"
"""Child in which torch keeps what a parametrized weight is computed from."""
PASSES_ON = (nn.Identity, nn.modules.dropout._DropoutNd, nn.Flatten, nn.Unflatten)
"""Modules that leave an affine map affine once dropout is off."""


def watch(model: nn.Module, objective: Objective, batch: Batch, *, seed: int = 0) -> list[Watched]:
    """Run every player's first move on one batch, as a training step does, without a step.

    Args:
        model: any module; each submodule's training mode, the buffers, gradients and weights stay as they were.
        objective: prepared for the run; its state stays as it was.
        batch: of examples, on any device.
        seed: of what is drawn (dropout, noise); torch's global generators stay as they were.

    Returns:
        One for each player, in the order of play.

    Raises:
        UserError: the batch has one example and the model normalizes over the batch, or nothing in it counts.
    """
    like = next(iter(model.parameters()), torch.empty(0))
    batch = to_device(batch, like.device)
    count = max((len(v) for v in batch.values() if isinstance(v, Tensor) and v.ndim), default=1)
    if count == 1 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        raise UserError(
            "this batch has 1 example and the model normalizes over the batch: inspect takes at least 2"
        )
    devices = [like.device] if like.device.type == "cuda" else []
    found: dict[str, Watched] = {}
    with _unchanged(model, objective), torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(seed)
        model.train()
        with _Hooks(model) as hooks:
            for move in objective.losses(model, batch):
                if move.player not in found:
                    found[move.player] = _differentiated(model, move, hooks, count)
                hooks.clear()
    return list(found.values())


@contextmanager
def _unchanged(model: nn.Module, objective: Objective) -> Iterator[None]:
    """Put back what a training pass changes: modes, buffers, renormalized embeddings, the objective's state."""
    modes = [(m, m.training) for m in model.modules()]
    tensors = [(m, n, b) for m in model.modules() for n, b in m._buffers.items() if b is not None]
    kept = [b.detach().clone() for _, _, b in tensors]
    # max_norm rescales rows of the weight in the forward pass
    embeddings: list[Any] = [m for m in model.modules() if getattr(m, "max_norm", None) is not None]
    weights = [m.weight.detach().clone() for m in embeddings]
    state = copy.deepcopy(objective.state_dict())
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for (module, name, buffer), values in zip(tensors, kept, strict=True):
                module._buffers[name] = buffer.copy_(values)
            for embedding, values in zip(embeddings, weights, strict=True):
                embedding.weight.copy_(values)
        if state:
            objective.load_state_dict(state)


def _differentiated(model: nn.Module, move: Move, hooks: _Hooks, count: int) -> Watched:
    """Gradients of the move's mean loss with respect to its player's parameters; none is kept."""
    weight = float(move.weight)
    if not weight > 0:
        raise UserError("nothing in this batch counts (its weight is 0), so there is no gradient")
    player = model if move.player == "model" else model.get_submodule(move.player)
    prefix = "" if player is model else f"{move.player}."
    named = [(prefix + name, p) for name, p in player.named_parameters()]
    trained = [p for _, p in named if p.requires_grad]
    gradients: list[Tensor | None] = []
    if trained and move.loss.requires_grad:
        hooks.backward = True
        gradients = list(torch.autograd.grad(move.loss / weight, trained, allow_unused=True))
        hooks.backward = False
    by_parameter = dict(zip(map(id, trained), gradients, strict=bool(gradients)))
    owners = _owners(model, hooks)
    named.sort(key=lambda pair: owners[id(pair[1])][2])  # stable: weights before their bias
    weights = [_weights(n, p, by_parameter.get(id(p)), *owners[id(p)][:2]) for n, p in named]
    inside = {hooks.names[m] for m in player.modules()}
    calls = [c for c in hooks.calls if c.name.partition(":")[0] in inside]
    return Watched(move.player, float(move.loss.detach()) / weight, count, calls, weights)


def _owners(model: nn.Module, hooks: _Hooks) -> dict[int, tuple[str, nn.Module, float]]:
    """For each parameter the name and module of the layer that used it first, and when that ran."""
    ran: dict[str, int] = {}
    for i, call in enumerate(hooks.calls):
        ran.setdefault(call.name, i)
    found: dict[int, tuple[str, nn.Module, float]] = {}
    modules = dict(model.named_modules())
    for path, module in modules.items():
        words = path.split(".")
        if PARAMETRIZED in words:
            words = words[: words.index(PARAMETRIZED)]
        layer, when = ".".join(words), math.inf
        # weights may be used by an outer layer that does not call the module which holds them
        for length in range(len(words), -1, -1):
            when = min(when, ran.get(hooks.names[modules[".".join(words[:length])]], math.inf))
        for parameter in module._parameters.values():
            known = found.get(id(parameter))
            if parameter is not None and (known is None or when < known[2]):
                found[id(parameter)] = layer or type(model).__name__, modules[layer], when
    return found


def _weights(
    name: str, weight: Tensor, gradient: Tensor | None, layer: str, owner: nn.Module
) -> Weights:
    found = Weights(name, layer, tuple(weight.shape), norm(weight), weight.requires_grad)
    found.broken = not_finite(weight)
    if gradient is None:
        return found
    gradient = gradient.to_dense() if gradient.layout != torch.strided else gradient
    found.gradient, found.broken_gradient = norm(gradient), not_finite(gradient)
    embedding = isinstance(owner, (nn.Embedding, nn.EmbeddingBag))  # rows are entries, not units
    whole = not found.broken and not found.broken_gradient
    if weight.ndim >= 2 and whole and not embedding:
        transposed = bool(getattr(owner, "transposed", False))  # units stand second
        found.twins = twins(weight, gradient, dim=int(transposed))
    return found


class _Hooks:
    """Records every layer's calls while it is entered."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.calls: list[Call] = []
        self.backward = False
        self.names = {m: n or type(m).__name__ for n, m in model.named_modules()}
        self._stack: list[nn.Module] = []
        self._channels_first = False
        self._outputs: dict[int, tuple[Tensor, int, str]] = {}
        self._handles: list[Any] = []
        self._functions = _Functions(self._called)

    def __enter__(self) -> _Hooks:
        for module, name in self.names.items():
            if PARAMETRIZED in name.split("."):
                continue
            role = _listed(self.model, module)
            self._handles.append(module.register_forward_pre_hook(self._enter))
            self._handles.append(module.register_forward_hook(self._leave(role)))
        self._functions.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._functions.__exit__(*exception)
        for handle in self._handles:
            handle.remove()

    def clear(self) -> None:
        """Forget the calls of a move that is done."""
        self.calls, self._outputs, self._stack = [], {}, []

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self._stack.append(module)

    def _leave(self, listed: Literal["layer", "block", ""]) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if self._stack and self._stack[-1] is module:
                self._stack.pop()
            if self.backward or not listed:  # a checkpointed block runs again in the backward pass
                return
            read = self._reads(first_tensor(inputs))
            value = first_tensor(output)
            if isinstance(module, PASSES_ON):
                self._remember(value, read)
                return
            if isinstance(module, (nn.Linear, CHANNELS_FIRST)):
                # of (rows, units) the second dimension is the last too, whatever shape follows: rows
                # may be those of several members, or of positions
                flat = isinstance(module, nn.Linear) or value is None or value.ndim == 2
                self._channels_first = not flat
            call = Call(self.names[module], _kind(module), listed == "block", reads=read)
            self._record(call, value)

        return hook

    def _called(self, function: Any, role: Role, inputs: Any, output: Tensor) -> None:
        if self.backward or not self._stack:  # outside of the model: part of the objective
            return
        module, own = self._stack[-1], function.__name__.strip("_")
        name = self.names[module]
        if not isinstance(module, ACTIVATIONS):
            name = f"{name}:{own}"
        kind = _kind(module) if isinstance(module, ACTIVATIONS) else own
        self._record(Call(name, kind, False, role, reads=self._reads(first_tensor(inputs))), output)

    def _record(self, call: Call, value: Tensor | None) -> None:
        if value is None:
            return
        self.calls.append(call)
        describe(call, value.detach(), self._channels_first)
        self._remember(value, call.name)
        if value.requires_grad and not value.is_leaf:
            value.register_hook(lambda gradient: self._gradient(call, gradient))

    def _gradient(self, call: Call, gradient: Tensor) -> None:
        if (
            self.backward
        ):  # not where an objective differentiates by itself, as a gradient penalty does
            call.gradient, call.broken_gradient = norm(gradient), not_finite(gradient)

    def _remember(self, value: Tensor | None, name: str) -> None:
        if value is not None and name:
            # the tensor is kept so that no other takes its address; its version tells changes in place
            self._outputs[id(value)] = value, value._version, name

    def _reads(self, value: Tensor | None) -> str:
        kept, version, name = self._outputs.get(id(value), (None, 0, ""))
        return name if kept is value and value is not None and value._version == version else ""


class _Functions(TorchFunctionMode):
    """Tells of activation functions, wherever they are called."""

    def __init__(self, called: Callable[[Any, Role, Any, Tensor], None]) -> None:
        super().__init__()
        self._called = called

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        role = FUNCTIONS.get(func)
        if role is not None and isinstance(result, Tensor):
            self._called(func, role, args, result)
        return result


def _kind(module: nn.Module) -> str:
    """The class, without what torch prefixes where a weight is parametrized."""
    return type(module).__name__.removeprefix("Parametrized")


def _listed(model: nn.Module, module: nn.Module) -> Literal["layer", "block", ""]:
    """Whether a module's calls are recorded, and as what."""
    if isinstance(module, ACTIVATIONS):
        return ""
    children = [n for n, _ in module.named_children() if n != PARAMETRIZED]
    own = any(p is not None for p in module._parameters.values())
    if not children or own:
        return "layer"
    kinds = (nn.Sequential, nn.ModuleList)
    held = any(isinstance(m, kinds) and module in m.children() for m in model.modules())
    return "block" if held and not isinstance(module, kinds) else ""


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor of real numbers in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        usable = value.is_floating_point() and value.layout == torch.strided and value.numel()
        return value if usable else None
    values = value.values() if isinstance(value, dict) else value
    if isinstance(values, (tuple, list, type({}.values()))):
        return next((t for t in map(first_tensor, values) if t is not None), None)
    return None
