"""A search that several processes share: each takes its rows of every batch, the step's sums are over all of them.

What a step counts (losses, weights, logs) is summed before anything is divided, so that a step on N processes is the
step of one. Decisions that a clock or a signal takes are rank 0's.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Data, Objective
from fourfold.core.ranks import Ranks
from fourfold.core.run import Run
from fourfold.core.shares import Share, SharedBatch, rows_from, rows_of, share_of
from fourfold.core.together import another_group
from fourfold.optimizers import rank_modules
from fourfold.optimizers.reducer import Reducer

if TYPE_CHECKING:
    from fourfold.optimizers.gradient import Gradient
    from fourfold.optimizers.players import Player
    from fourfold.optimizers.sharded import Spread
    from fourfold.optimizers.step import Counted


class DataParallel:
    """What a step of several processes does beside that of one.

    Raises:
        UserError: the data cannot be shared, or its batches hold fewer rows than there are processes.
    """

    def __init__(
        self,
        config: Gradient,
        objective: Objective,
        model: nn.Module,
        data: Data,
        run: Run,
        spread: Spread | None = None,
    ) -> None:
        self.ranks: Ranks = run.ranks
        self.spread = spread
        self.objective, self.model, self.data, self.run = objective, model, data, run
        self.device = run.device
        self.group = another_group() if spread is None else spread.data_group
        self.rank = spread.data_rank if spread else self.ranks.rank
        self.size = spread.data_size if spread else self.ranks.size
        """Of the processes that take different rows."""
        self.reducers: dict[str, Reducer] = {}
        self.cuts = data.divisible and not objective.compares
        """Whether each batch is cut by rank; otherwise whole ones are shared out."""
        self._check(config)
        if self.cuts:
            data.mine = self.share

    def _check(self, config: Gradient) -> None:
        size, name = self.size, self.run.system.name
        if self.data.undivided:
            raise UserError(
                f"{name} is fitted by one process: {self.data.undivided}; run it without torchrun"
            )
        batch = next(iter(self.data.batches("train")), None)
        rows = 0 if batch is None else rows_of(batch)
        told = int(getattr(self.data, "batch", rows) or rows)
        if self.cuts and max(rows, told) < size:
            raise UserError(
                f"{size} processes cannot share a batch of {max(rows, told)}: take at most that many processes, "
                f"or --data.batch {size}"
            )
        if not self.cuts and config.accumulate < size:
            why = "are compared with one another" if self.data.divisible else "are packed"
            raise UserError(
                f"{size} processes cannot share a step of {config.accumulate} batches, whose rows {why}: take "
                f"--optimizer.accumulate {size} or more, or fewer processes"
            )

    # --- batches --------------------------------------------------------------------------------------

    def share(self, total: int) -> Share:
        """This process's rows of a batch."""
        return share_of(total, self.rank, self.size)

    def mine(self, batches: list[Batch]) -> list[Batch]:
        """This process's part of a step's batches: rows of each, or, of packed ones, some of them."""
        if not self.cuts:
            mine: list[Batch] = [
                SharedBatch(b, Share(0, 1, 1)) for b in batches[self.rank :: self.size]
            ]
            # as many on each: a pass through the model may wait for the others, as moments and sharded weights do
            idle = SharedBatch(batches[0], Share(0, 0, 1))
            return mine + [idle] * (-(-len(batches) // self.size) - len(mine))
        return [b if isinstance(b, SharedBatch) else self._rows(b) for b in batches]

    def _rows(self, batch: Batch) -> Batch:
        share = self.share(rows_of(batch))
        return SharedBatch(rows_from(batch, share.first, max(1, share.rows)), share)

    def begin(self, done: int) -> None:
        """Before a step."""
        self.ranks.step = done
        rank_modules.begin_step(self.run.seed, done, self.rank)
        if not self.cuts and self.rank:
            # batches of their own want noise of their own; rank 0's generator is the one that a checkpoint holds
            rank_modules.seed_step(self.run.seed, done, self.rank, self.device)

    # --- sums -----------------------------------------------------------------------------------------

    def reducer(self, name: str, player: Player) -> Reducer:
        """That of a player."""
        if name not in self.reducers:
            self.reducers[name] = Reducer(player.parameters, self.ranks, self.group)
        return self.reducers[name]

    def arm(self, name: str, player: Player) -> None:
        """The backward pass that follows is the last of the step."""
        if self.reduces:
            self.reducer(name, player).arm()

    @property
    def reduces(self) -> bool:
        """Whether gradients are summed here; FSDP sums those of sharded weights itself."""
        return self.size > 1 and not (self.spread and self.spread.sharded)

    def joined(self, rows: list[Counted], player: Player) -> Counted:
        """The step's move over all micro-batches and processes: sums of loss, weight and logs; gradients likewise."""
        first = rows[0].move
        had = [p.grad is not None for p in player.parameters]
        if self.reduces:
            self.reducer(first.player, player).finish()
        if self.spread:
            self.spread.finish(player.parameters)
            self._forget_others(player)
        names = sorted(first.logs)
        numbers = torch.zeros(3 + len(names), dtype=torch.float64, device=self.device)
        for counted in rows:
            weight = _number(counted.weight)
            numbers[0] += _number(counted.loss)
            numbers[1] += weight
            for place, name in enumerate(names, 3):
                if not (isinstance(weight, float) and weight == 0):
                    numbers[place] += _number(counted.move.logs[name]) * weight
        numbers[2] = had.count(False) if self.reduces else 0
        numbers *= self.size / self.ranks.size  # tensor parallel processes count the same rows
        self.ranks.sum(numbers, f"the numbers of {first.player}'s move")
        if self.device.type == "cpu" and numbers[2]:
            self._forget_unused(player, had)
        weight = numbers[1].item() if self.device.type == "cpu" else numbers[1]
        loss = numbers[0].item() if self.device.type == "cpu" else numbers[0]
        logs = {name: numbers[place] / numbers[1] for place, name in enumerate(names, 3)}
        return rows[0]._replace(move=first._replace(logs=logs), loss=loss, weight=weight)

    def _forget_others(self, player: Player) -> None:
        """The gradients that a move of one player has left in another."""
        mine = {id(p) for p in player.parameters}
        for parameter in self.model.parameters():
            if id(parameter) not in mine:
                parameter.grad = None

    def _forget_unused(self, player: Player, had: list[bool]) -> None:
        """Parameters without a gradient on any process have none, as where one process computes all rows."""
        used = self.ranks.sum(torch.tensor(had, dtype=torch.int32), "which parameters moved")
        for parameter, count in zip(player.parameters, used.tolist(), strict=True):
            if not count:
                parameter.grad = None

    def joined_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """An objective's state; where it has an entry for each row, of all processes' rows."""
        if not self.objective.carries:
            return state
        joined: dict[str, Any] = tree_map_only(Tensor, self._joined_rows, state)
        return joined

    def _joined_rows(self, tensor: Tensor) -> Tensor:
        lengths = self.ranks.gather(len(tensor))
        padded = tensor.new_zeros(max(lengths), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        found = [torch.empty_like(padded) for _ in lengths]
        with self.ranks.waiting("the sum of carried states"):
            dist.all_gather(found, padded)
        return torch.cat([rows[:n] for rows, n in zip(found, lengths, strict=True)])

    def own_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """What of a joined state this process goes on from."""

        def rows(tensor: Tensor) -> Tensor:
            share = self.share(len(tensor))
            return tensor[share.first : share.first + share.rows]

        own: dict[str, Any] = (
            tree_map_only(Tensor, rows, state) if self.objective.carries else state
        )
        return own

    # --- decisions ------------------------------------------------------------------------------------

    def agreed(self, plan: list[float], signum: int | None) -> tuple[list[float], int | None]:
        """Rank 0's numbers, and the signal to heed, whichever process has received one."""
        main = self.ranks.main
        mine = [*plan, signum or 0] if main else [0.0] * (len(plan) + 1)
        told = torch.tensor([*mine, float(bool(signum))], dtype=torch.float64)
        *numbers, first, some = self.ranks.sum(told, "what comes next").tolist()
        return numbers, int(first) or (signal.SIGTERM if some else None)

    def check_weights(self) -> None:
        """Refuse to keep weights that are not the same on all ranks.

        Raises:
            RuntimeError: they differ: a model draws or counts something of its own in each process.
        """
        if self.spread:
            return
        with torch.no_grad():
            sums = [float(p.double().sum()) for p in self.model.parameters()]
        names = [name for name, _ in self.model.named_parameters()]
        for rank, other in enumerate(self.ranks.gather(sums)):
            for name, here, there in zip(names, sums, other, strict=True):
                if here != there:
                    raise RuntimeError(
                        f"{name} is not the same on rank {self.ranks.rank} and rank {rank}: {here} and {there}"
                    )


def _number(value: Any) -> Any:
    return value.detach().double() if isinstance(value, Tensor) else float(value)
