"""The players of a search: each with its parameters and its torch optimizer.

torch's optimizers are taken by name with their own keyword arguments.
Muon: Jordan et al. 2024; decoupled weight decay: Loshchilov & Hutter 2019.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from fourfold.core.errors import UserError, nearest
from fourfold.core.shares import local
from fourfold.optimizers.large_batch import LAMB, LARS
from fourfold.optimizers.muon import Muon

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose filters are to Muon a matrix with a row for each output."""
OUTPUTS = {"head", "lm_head", "output", "lora"}
"""Names of what Muon leaves to AdamW: output layers, as its paper does, and adapters, which are no hidden matrices."""
DECOUPLED = {"AdamW", "Muon", "NAdam", "RAdam", "LARS", "LAMB"}
"""Optimizers that take weight decay themselves."""


KERNELS = ("foreach", "fused")


def _mixed(groups: list[tuple[list[nn.Parameter], float]]) -> bool:
    """Whether parameters are spread in different ways: no kernel takes such together."""
    every = {getattr(p, "device_mesh", None) for group, _ in groups for p in group}
    return len(every) > 1


def algorithms() -> dict[str, type[torch.optim.Optimizer]]:
    """torch's optimizers by lower-case name; those that need a closure are left out."""
    found = {}
    for name in dir(torch.optim):
        cls = getattr(torch.optim, name)
        if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer):
            if name not in ("Optimizer", "LBFGS", "SparseAdam"):
                found[name.lower()] = cls
    # torch's own Muon, in batches; torch has no optimizers for large batches
    return {**found, "muon": Muon, "lars": LARS, "lamb": LAMB}


def checked_arguments(algorithm: str, arguments: dict[str, Any]) -> None:
    """Refuse keyword arguments that the torch optimizer does not have.

    Raises:
        ValueError: an unknown algorithm or argument, with the nearest that exists.
    """
    known = algorithms()
    if algorithm not in known:
        raise ValueError(f'no torch optimizer is called "{algorithm}"{nearest(algorithm, known)}')
    accepted = set(inspect.signature(known[algorithm]).parameters) - {
        "params",
        "lr",
        "weight_decay",
    }
    for name in arguments:
        if name not in accepted:
            hint = (
                f"; it is the field {'lr' if name == 'lr' else 'decay (decoupled) or l2 (penalty)'} here"
                if name in ("lr", "weight_decay")
                else nearest(name, accepted)
            )
            raise ValueError(f'{known[algorithm].__name__} has no argument "{name}"{hint}')


class Player:
    """Parameters that move together and the optimizers that move them."""

    def __init__(self, module: nn.Module, settings: PlayerSettings) -> None:
        self.module = module
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        if not self.parameters:
            if any(True for _ in module.parameters()):
                raise UserError(f"--freeze leaves {type(module).__name__} nothing to search")
            raise ValueError(f"{type(module).__name__} has no parameter to search")
        self.settings = settings
        self.spread = any(local(p) is not p for p in self.parameters)
        """Whether other processes hold parts of them."""
        decayed, plain, matrices = _groups(module, settings.algorithm == "muon")
        self.penalized = decayed + matrices
        self.optimizers = settings.make(decayed, plain, matrices)
        self._peak = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self._factor: float | None = None

    def zero(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def set_rate(self, factor: float) -> None:
        """Set every group's learning rate to a factor of its peak."""
        if factor != self._factor:
            for optimizer, peaks in zip(self.optimizers, self._peak, strict=True):
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = peak * factor
            self._factor = factor

    def penalize(self) -> None:
        """Add the gradients of the L2 and L1 penalties of the mean loss."""
        weights = [p for p in self.penalized if p.grad is not None]
        if not weights:
            return
        grads = [local(p.grad) for p in weights if p.grad is not None]
        live = [local(p.detach()) for p in weights]
        if self.settings.l2:
            torch._foreach_add_(grads, live, alpha=self.settings.l2)
        if self.settings.l1:
            torch._foreach_add_(grads, torch._foreach_sign(live), alpha=self.settings.l1)

    def step(self) -> None:
        """Move."""
        if self.settings.own_decay:
            rate = self.optimizers[0].param_groups[0]["lr"]
            live = [local(p.detach()) for p in self.penalized if p.grad is not None]
            torch._foreach_mul_(live, 1 - rate * self.settings.decay)
        for optimizer in self.optimizers:
            optimizer.step()

    def gradients(self) -> list[Tensor]:
        """The gradients that there are, of those that processes share this one's parts."""
        if self.spread:
            return [local(p.grad) for p in self.parameters if p.grad is not None]
        return [p.grad for p in self.parameters if p.grad is not None]

    def state_dict(self) -> list[dict[str, Any]]:
        return [o.state_dict() for o in self.optimizers]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        for optimizer, saved in zip(self.optimizers, state, strict=True):
            # which kernel serves depends on where the parameters are now
            kernels = [{n: g[n] for n in KERNELS if n in g} for g in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            for group, kernel in zip(optimizer.param_groups, kernels, strict=True):
                group.update(kernel)
            _lay_out_alike(optimizer)
        self._factor = None


def _lay_out_alike(optimizer: torch.optim.Optimizer) -> None:
    """Moments in the memory order of their parameters: fused kernels go through both side by side.

    A checkpoint holds tensors row by row; parameters of convolutions may have their channels last.
    """
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            alike = isinstance(value, torch.Tensor) and value.shape == parameter.shape
            if alike and value.stride() != parameter.stride():
                ordered = torch.empty_like(parameter, dtype=value.dtype)
                moments[name] = ordered.copy_(value)


def _groups(
    module: nn.Module, muon: bool
) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Parameters that decay, those that do not (norms, biases, embeddings), and Muon's matrices."""
    embedded = {
        id(p) for m in module.modules() if isinstance(m, EMBEDDINGS) for p in m.parameters()
    }
    outputs = {
        id(p)
        for name, m in module.named_modules()
        if name.rpartition(".")[2] in OUTPUTS
        for p in m.parameters()
    }
    filters = {id(m.weight) for m in module.modules() if isinstance(m, CONVOLUTIONS)}
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    for parameter in module.parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2 or id(parameter) in embedded:
            plain.append(parameter)
        elif muon and _hidden_matrix(parameter, filters, outputs):
            matrices.append(parameter)
        else:
            decayed.append(parameter)
    return decayed, plain, matrices


def _hidden_matrix(parameter: nn.Parameter, filters: set[int], outputs: set[int]) -> bool:
    return (parameter.ndim == 2 or id(parameter) in filters) and id(parameter) not in outputs


class PlayerSettings:
    """What `Gradient` says about one player's optimizers."""

    def __init__(
        self,
        algorithm: str,
        arguments: dict[str, Any],
        *,
        lr: float,
        other_lr: float,
        decay: float,
        l2: float,
        l1: float,
    ) -> None:
        self.algorithm, self.arguments = algorithm, arguments
        self.lr, self.other_lr, self.decay, self.l2, self.l1 = lr, other_lr, decay, l2, l1
        cls = algorithms()[algorithm]
        self.own_decay = bool(decay) and cls.__name__ not in DECOUPLED

    def make(
        self, decayed: list[nn.Parameter], plain: list[nn.Parameter], matrices: list[nn.Parameter]
    ) -> list[torch.optim.Optimizer]:
        """torch optimizers over the three groups."""
        rest_algorithm = "adamw" if self.algorithm == "muon" else self.algorithm
        rest_arguments = {} if self.algorithm == "muon" else self.arguments
        rest_lr = self.other_lr if self.algorithm == "muon" else self.lr
        made = []
        if matrices:
            made.append(self._one("muon", self.arguments, [(matrices, self.decay)], self.lr))
        split = ((decayed, self.decay), (plain, 0.0)) if self.decay else ((decayed + plain, 0.0),)
        groups = [(g, d) for g, d in split if g]
        if groups:
            made.append(self._one(rest_algorithm, rest_arguments, groups, rest_lr))
        return made

    def _one(
        self,
        algorithm: str,
        arguments: dict[str, Any],
        groups: list[tuple[list[nn.Parameter], float]],
        lr: float,
    ) -> torch.optim.Optimizer:
        cls = algorithms()[algorithm]
        accepted = inspect.signature(cls).parameters
        keywords = dict(arguments)
        if "fused" in accepted and "fused" not in keywords and "foreach" not in keywords:
            # one kernel for all parameters; the classic loop where the dtype or device has none
            devices = {p.device.type for group, _ in groups for p in group}
            some = {"cpu"} if cls is torch.optim.Adagrad else {"cpu", "cuda", "mps"}
            keywords["fused"] = devices <= some
        if "foreach" in accepted and "foreach" not in keywords and _mixed(groups):
            keywords.update(
                {"foreach": False, "fused": False} if "fused" in accepted else {"foreach": False}
            )
        weight = cls.__name__ in DECOUPLED
        if weight and "decoupled_weight_decay" in accepted:
            keywords.setdefault("decoupled_weight_decay", True)
        parameters = [
            {"params": group, **({"weight_decay": decay} if weight else {})}
            for group, decay in groups
        ]
        try:
            return cls(parameters, lr=lr, **keywords)  # type: ignore[call-arg]
        except (TypeError, ValueError, RuntimeError) as error:
            if keywords.pop("fused", False) and "fused" not in arguments:
                return cls(parameters, lr=lr, **keywords)  # type: ignore[call-arg]
            raise UserError(f"--optimizer.algorithm {algorithm}: {error}") from error
