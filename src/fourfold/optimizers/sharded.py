"""Weights spread over processes: FSDP2 block by block, tensor parallel Transformers, activations computed again.

Fully sharded: Zhao et al. 2023 (PyTorch FSDP), Rajbhandari et al. 2020 (ZeRO). Tensor parallel: Shoeybi et al. 2019
(Megatron-LM): the first product of a pair is cut by columns, the second by rows, with one sum after each pair.
Recomputation: Chen et al. 2016.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.utils.checkpoint import checkpoint

from fourfold.core.errors import UserError
from fourfold.core.ranks import Parallel, Ranks
from fourfold.core.shares import local
from fourfold.optimizers.rank_modules import same_masks

if TYPE_CHECKING:
    from fourfold.optimizers.average import Average
    from fourfold.optimizers.players import Player

COLUMNS = ("query", "key", "value", "gate", "up")
"""Linear maps of a Transformer's block that are cut by their outputs: heads, and features inside the feed-forward."""
ROWS = ("out", "down")
"""Those cut by their inputs, whose results are summed."""
WITHIN = ("query_norm", "key_norm")
"""What every head passes through: each process has the gradient of its heads only."""


class _Again:
    """Mixin: a block whose activations are computed again when its gradient is."""

    def forward(self, *args: Any, **named: Any) -> Any:
        """As without."""
        whole = super().forward  # type: ignore[misc]
        if not torch.is_grad_enabled():
            return whole(*args, **named)
        return checkpoint(whole, *args, use_reentrant=False, context_fn=same_masks, **named)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a network: what its lists of modules hold."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    inner = {
        id(x) for m in lists for block in m for x in block.modules() if isinstance(x, nn.ModuleList)
    }
    found = [b for m in lists if id(m) not in inner for b in m]
    return [block for block in found if any(True for _ in block.parameters())]


def recompute(model: nn.Module) -> None:
    """Let the blocks keep what goes in only.

    Raises:
        UserError: the model has no repeated blocks.
    """
    blocks = blocks_of(model)
    if not blocks:
        raise UserError(
            f"--parallel.recompute: {type(model).__name__} has no repeated blocks to compute again"
        )
    for block in blocks:
        block.__class__ = type(type(block).__name__, (_Again, type(block)), {})


class Spread:
    """A model whose weights are spread over processes.

    Args:
        model: changed in place: its parameters become DTensors.
        parallel: how.
        ranks: the processes.
        device: of the model.

    Raises:
        UserError: the processes or the model's heads do not divide by the tensor-parallel size.
    """

    def __init__(
        self, model: nn.Module, parallel: Parallel, ranks: Ranks, device: torch.device
    ) -> None:
        self.model, self.ranks, self.sharded = model, ranks, parallel.shard
        self.tensor = parallel.tensor
        if ranks.size % self.tensor:
            raise UserError(
                f"--parallel.tensor {self.tensor}: does not divide the {ranks.size} processes; "
                f"{_divisor(ranks.size, self.tensor)} does"
            )
        shape = (ranks.size // self.tensor, self.tensor)
        self.mesh: DeviceMesh = init_device_mesh(
            device.type, shape, mesh_dim_names=("data", "tensor")
        )
        if self.tensor > 1:
            self._cut_products()
        if parallel.shard:
            self._shard(torch.bfloat16 if parallel.weights == "bfloat16" else torch.float32)

    @property
    def players(self) -> tuple[str, ...]:
        """Children that are called by themselves, or the model."""
        return tuple(getattr(self.model, "players", ())) or ("model",)

    @property
    def data_rank(self) -> int:
        """Which share of a batch this process computes."""
        return self.ranks.rank // self.tensor

    @property
    def data_size(self) -> int:
        """In how many shares a batch is cut."""
        return self.ranks.size // self.tensor

    @property
    def data_group(self) -> Any:
        """Processes that hold the same part of the products."""
        return self.mesh["data"].get_group()

    # --- cutting --------------------------------------------------------------------------------------

    def _cut_products(self) -> None:
        from torch.distributed.tensor.parallel import (
            ColwiseParallel,
            RowwiseParallel,
            parallelize_module,
        )

        blocks = blocks_of(self.model)
        form: Any = getattr(self.model, "form", None)
        if form is None or not all(_named(b, COLUMNS[:3]) and _named(b, ROWS[:1]) for b in blocks):
            raise UserError(
                f"--parallel.tensor {self.tensor}: is for decoder-only Transformers; {type(self.model).__name__} is none"
            )
        for what, count in (
            ("heads", form.heads),
            ("kv_heads", form.kv_heads),
            ("hidden", form.hidden),
        ):
            if count % self.tensor:
                raise UserError(
                    f"--parallel.tensor {self.tensor}: does not divide {what} {count}; "
                    f"{_divisor(count, self.tensor)} does"
                )
        if getattr(getattr(self.model, "positions", None), "biased", False):
            raise UserError(
                f"--parallel.tensor {self.tensor}: positions {form.positions} have a bias for each head, which is not cut; "
                "--positions rotary goes"
            )
        columns, rows = ColwiseParallel(), RowwiseParallel()
        for block in blocks:
            plan: dict[str, Any] = {name: columns for name in _named(block, COLUMNS)}
            plan.update({name: rows for name in _named(block, ROWS)})
            parallelize_module(block, self.mesh["tensor"], plan)

    def _shard(self, dtype: torch.dtype) -> None:
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        if dtype == torch.float32:
            policy = MixedPrecisionPolicy()
        roots = [self.model if n == "model" else self.model.get_submodule(n) for n in self.players]
        for root in roots:
            # FSDP hooks what comes out, which a later operation in place must not drop
            root.register_forward_hook(lambda module, given, out: _no_view(out))
        for module in [*blocks_of(self.model), *roots]:
            fully_shard(module, mesh=self.mesh["data"], mp_policy=policy)
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                # sums: the weight of the step divides
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)

    # --- a step ---------------------------------------------------------------------------------------

    def finish(self, parameters: list[nn.Parameter]) -> None:
        """After the backward pass: sum over tensor-parallel processes what each has of its heads only."""
        if self.tensor == 1:
            return
        group = self.mesh["tensor"].get_group()
        mine = {id(p) for p in parameters}
        for place, module in self.model.named_modules():
            if place.rpartition(".")[2] in WITHIN:
                for parameter in module.parameters():
                    if id(parameter) in mine and parameter.grad is not None:
                        self.ranks.sum(
                            local(parameter.grad), "gradients of the heads' norms", group
                        )

    def norm(self, grads: list[Tensor]) -> float:
        """Euclidean norm of gradients, wherever their parts are."""
        own = 0.0
        if grads:
            norms = torch._foreach_norm([local(g).float() for g in grads])
            own = math.fsum(
                n.item() ** 2 / self._copies(g) for n, g in zip(norms, grads, strict=True)
            )
        total = self.ranks.sum(torch.tensor(own, dtype=torch.float64), "the norm of the gradient")
        return math.sqrt(total.item()) if total == total else math.nan

    def _copies(self, tensor: Tensor) -> int:
        """How many processes hold the same part of a tensor."""
        parts = 1
        if isinstance(tensor, DTensor):
            for size, placement in zip(tensor.device_mesh.shape, tensor.placements, strict=True):
                parts *= size if isinstance(placement, Shard) else 1
        return self.ranks.size // parts

    def whole(self, replacing: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The whole weights by name, on the CPU of rank 0; the others help and get nothing.

        Args:
            replacing: tensors by name that stand in for the model's own.
        """
        found = {}
        for name, tensor in {**self.model.state_dict(), **(replacing or {})}.items():
            value = full(tensor)
            if self.ranks.main:
                found[name] = value.cpu()
        return found

    def state_like(
        self, state: dict[str, Any], player: Callable[[str], Player], average: Average | None
    ) -> dict[str, Any]:
        """A search's state of whole tensors, spread as model, optimizers and average are."""
        own = self.model.state_dict()
        model = {n: like(t, own[n]) if n in own else t for n, t in state["model"].items()}
        players = {n: _state_like(player(n), saved) for n, saved in state["players"].items()}
        told = state["average"]
        if average and told:
            shadows = average.state_dict()["shadow"]
            pairs = zip(told["shadow"], shadows, strict=True)
            told = {**told, "shadow": [like(t, s) for t, s in pairs]}
        return {**state, "model": model, "players": players, "average": told}


def _no_view(out: Any) -> Any:
    return out.clone() if isinstance(out, Tensor) and out._base is not None else out


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor, of which processes may hold parts."""
    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()


def like(whole: Tensor, model: Tensor) -> Tensor:
    """A whole tensor, spread as another is."""
    if not isinstance(model, DTensor):
        return whole
    return distribute_tensor(
        whole.to(model.device), model.device_mesh, model.placements, src_data_rank=None
    )


def _state_like(player: Player, saved: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The whole states of a player's optimizers, spread as its parameters are."""
    found = []
    for optimizer, state in zip(player.optimizers, saved, strict=True):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        each = {
            number: {
                name: like(value, parameters[int(number)])
                if isinstance(value, Tensor) and value.shape == parameters[int(number)].shape
                else value
                for name, value in entry.items()
            }
            for number, entry in state["state"].items()
        }
        found.append({**state, "state": each})
    return found


def _named(block: nn.Module, names: tuple[str, ...]) -> list[str]:
    return [
        place
        for place, module in block.named_modules()
        if isinstance(module, nn.Linear) and place.rpartition(".")[2] in names
    ]


@functools.cache
def _divisor(number: int, near: int) -> int:
    """The divisor of a number that is nearest to another."""
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: abs(d - near))
