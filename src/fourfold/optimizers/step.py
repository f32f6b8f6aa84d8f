"""The step: every player's move differentiated, limited, taken; and the look at its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, Move, Objective
from fourfold.core.run import Run
from fourfold.core.shares import idle, set_share
from fourfold.optimizers.average import Average
from fourfold.optimizers.budget import Budget
from fourfold.optimizers.control import Controller
from fourfold.optimizers.diagnosis import Diverged, first_bad_gradient, first_bad_module
from fourfold.optimizers.freeze import Frozen
from fourfold.optimizers.players import Player
from fourfold.optimizers.precision import autocast, chosen
from fourfold.optimizers.tally import Tally

if TYPE_CHECKING:
    from fourfold.optimizers.gradient import Gradient
    from fourfold.optimizers.parallel import DataParallel

CHECK_EVERY = 10
"""Steps between looks at the losses on a GPU, where each look waits for the device."""


class Counted(NamedTuple):
    """A move that was differentiated, with its numbers: plain ones on the CPU, tensors on a GPU."""

    move: Move
    loss: Any
    weight: Any


class Stepper:
    """What a step needs and what it leaves: players, average of weights, sums for the log."""

    def __init__(
        self, config: Gradient, objective: Objective, model: nn.Module, run: Run, budget: Budget
    ) -> None:
        self.config, self.objective, self.model, self.run = config, objective, model, run
        self.frozen = Frozen(model, config.freeze)
        self.control = Controller(config.control, objective) if config.control else None
        self.budget = budget
        self.device = run.device
        self.on_cpu = run.device.type == "cpu"
        self.done = 0
        self.players: dict[str, Player] = {}
        self.average = Average(model, config.ema) if config.ema else None
        self.tally = Tally()
        self.pending: list[tuple[int, str, Tensor, Tensor | float, list[Batch]]] = []
        self.last_norm: Any = 0.0
        self.autocast = autocast(chosen(config.precision, model, run.device), run.device)
        self.seeds: dict[torch.dtype, Tensor] = {}
        self.penalized = bool(config.l1 or config.l2)
        self.parallel: DataParallel | None = None
        self.batch: int | None = None
        """Examples in a batch, where the data say."""

    def step(self, batches: list[Batch]) -> None:
        """One step of every player on the micro-batches of one step.

        The micro-batches' games advance in lockstep: every micro-batch's first move, one step, then
        every second move.
        """
        if self.parallel:
            self.parallel.begin(self.done)
        games = [self.objective.losses(self.model, batch) for batch in batches]
        factor = self.config.factor(self.done, self.budget.progress)
        if self.control:
            factor *= self.control.factor(self.config.lr)
        first = True
        while (counted := self._backward(games, batches)) is not None:
            player = self._player(counted[0].move.player)
            if self.penalized:
                player.penalize()
            self._limit(player)
            player.set_rate(factor)
            player.step()
            player.zero()
            for each in counted:
                self._count(each, first, batches)
            if self.control and first:
                self._steer(self.control, counted)
            first = False
        if first:
            raise UserError(f"step {self.done + 1}: the objective yielded no move")
        if self.parallel:
            set_share(None)
        if self.average:
            self.average.update()
        self.done += 1
        self.budget.advance(self.done)

    def _backward(self, games: list[Iterator[Move]], batches: list[Batch]) -> list[Counted] | None:
        """The next move of every game, differentiated: gradients of the sum over the step's weight."""
        move = self._next(games[0], batches[0])
        if move is None and len(games) == 1:
            return None
        if len(games) == 1 and self.parallel is None:
            assert move is not None  # noqa: S101
            counted = self._looked_at(move, batches)
            self._differentiate(move, 1 / self._positive(counted.weight, batches))
            return [counted]
        rows: list[Counted] = []
        for number, game in enumerate(games):
            if number:
                move = self._next(game, batches[number])
            if move is None:
                continue
            rows.append(self._looked_at(move, batches))
            if self.parallel and number == len(games) - 1:
                self.parallel.arm(move.player, self._player(move.player))
            # divided once the weight of the whole step is known; the graph is free before the next runs
            self._differentiate(move, 1.0)
        if not rows:
            return None
        if len(rows) < len(games) or len({r.move.player for r in rows}) > 1:
            raise ValueError(
                "the micro-batches of a step must yield the same players in the same order"
            )
        player = self._player(rows[0].move.player)
        if self.parallel:
            rows = [self.parallel.joined(rows, player)]
        total = self._positive(sum(r.weight for r in rows), batches)
        torch._foreach_mul_(player.gradients(), 1 / total)
        return rows

    def _next(self, game: Iterator[Move], batch: Batch) -> Move | None:
        if self.parallel is None:
            with self.autocast:
                return next(game, None)
        set_share(getattr(batch, "share", None))
        with self.autocast:
            move = next(game, None)
        # of a batch with fewer rows than processes some compute a row that does not count
        return move._replace(loss=0 * move.loss, weight=0.0) if move and idle() else move

    def _differentiate(self, move: Move, scale: Tensor | float) -> None:
        loss = move.loss
        seed = self.seeds.get(loss.dtype)
        if seed is None:
            seed = self.seeds[loss.dtype] = torch.empty((), dtype=loss.dtype, device=loss.device)
        seed.fill_(scale)
        player = self._player(move.player)
        # a game's move must leave no gradient in the other players
        alone = player.module is self.model and len(self.players) == 1
        # gathered weights stand in for sharded ones; what the others get is forgotten later
        alone = alone or (self.parallel is not None and self.parallel.spread is not None)
        loss.backward(seed, inputs=None if alone else player.parameters)

    def _player(self, name: str) -> Player:
        if name not in self.players:
            module = self.model if name == "model" else self.model.get_submodule(name)
            self.players[name] = Player(module, self.config.settings(name, self.batch))
            self.players[name].zero()
        return self.players[name]

    def _limit(self, player: Player) -> None:
        clip = self.config.clip
        spread = self.parallel.spread if self.parallel else None
        if self.on_cpu or spread:
            grads = player.gradients()
            # a hypotenuse of few numbers is cheaper than two more kernels
            value = (
                spread.norm([p.grad for p in player.parameters if p.grad is not None])
                if spread
                else math.hypot(*(n.item() for n in torch._foreach_norm(grads)))
            )
            self.last_norm = value
            if not value < math.inf:
                raise Diverged(self._sentence("the gradient", first_bad_gradient(self.model)))
            if clip and value > clip:
                torch._foreach_mul_(grads, clip / (value + 1e-6))
            return
        self.last_norm = norm = torch.nn.utils.get_total_norm(player.gradients())
        if clip:
            torch.nn.utils.clip_grads_with_norm_(player.parameters, clip, norm)

    def _steer(self, control: Controller, counted: list[Counted]) -> None:
        """Let the controller hear what the first move has logged; the number holds from the next step on."""
        weights = [float(each.weight) for each in counted]
        logged = [{**each.move.logs, "loss": each.loss / each.weight} for each in counted]
        heard = [float(control.heard(logs)) for logs in logged]
        control.step(sum(h * w for h, w in zip(heard, weights, strict=True)) / sum(weights))
        control.apply(self.objective)

    def forget(self, parameter: nn.Parameter) -> None:
        """A parameter that begins anew: its moments and its average go by its new values alone."""
        for player in self.players.values():
            for optimizer in player.optimizers:
                optimizer.state.pop(parameter, None)
        if self.average:
            self.average.restart(parameter)

    # --- what is looked at ----------------------------------------------------------------------------

    def _looked_at(self, move: Move, batches: list[Batch]) -> Counted:
        """The numbers of a move; on a GPU they are looked at later, so that the device is not waited for."""
        if not self.on_cpu:
            return Counted(move, move.loss.detach(), move.weight)
        loss = move.loss.item()
        if not abs(loss) < math.inf:
            spread = self.parallel is not None and self.parallel.spread is not None
            where = (
                "a part of the model that is not looked for where weights are spread over processes"
                if spread
                else first_bad_module(self.objective, self.model, batches)
            )
            raise Diverged(self._sentence(f"the loss ({loss:g})", where))
        return Counted(move, loss, float(move.weight))

    def _positive(self, weight: Any, batches: list[Batch]) -> Any:
        """The weight of a step as a divisor."""
        if isinstance(weight, Tensor) and weight.device.type != "cpu":
            return weight
        if not weight > 0:
            names = ", ".join(batches[0])
            raise UserError(
                f"step {self.done + 1}: nothing in this step counts (weight {float(weight):g}; the batch has {names}): "
                "every target is masked out or empty"
            )
        return weight

    def _sentence(self, what: str, where: str) -> str:
        kept = "no checkpoint had been written yet"
        if self.run.common:
            from fourfold.core.state import latest_checkpoint

            last = latest_checkpoint(self.run.common / "checkpoints")
            if last:
                kept = f"the checkpoint of step {int(last.name)} is kept"
        return (
            f"step {self.done + 1}: {what} is not finite; it went wrong first in {where}; {kept}; "
            "a smaller --optimizer.lr or --optimizer.clip 1 often helps"
        )

    def _count(self, counted: Counted, first: bool, batches: list[Batch]) -> None:
        move, loss, weight = counted
        name = "loss" if move.player == "model" else f"{move.player}_loss"
        if self.on_cpu:
            self.tally.add(name, loss, weight)
            if first:
                self.tally.counted += weight
            for key, value in move.logs.items():
                self.tally.add(key, float(value) * weight, weight)
            return
        self.pending.append((self.done, name, loss, weight, batches))
        for key, value in move.logs.items():
            self.pending.append((self.done, key, value.detach() * weight, weight, []))
        if first and self.done % CHECK_EVERY == 0:
            self._look()

    def _look(self) -> None:
        """Look at what a GPU has computed since the last look."""
        if not self.pending:
            return
        losses = torch.stack([p[2].double() for p in self.pending]).tolist()
        weights = torch.stack(
            [torch.as_tensor(p[3], device=self.device).double() for p in self.pending]
        ).tolist()
        pending, self.pending = self.pending, []
        first_name = pending[0][1]
        for (step, name, _, _, batches), loss, weight in zip(pending, losses, weights, strict=True):
            if batches and not weight > 0:
                raise UserError(
                    f"step {step + 1}: nothing in this step counts: every target is masked out or empty"
                )
            if batches and not abs(loss) < float("inf"):
                self.done = step
                raise Diverged(
                    self._sentence(
                        f"the loss ({loss:g})",
                        first_bad_module(self.objective, self.model, batches),
                    )
                )
            self.tally.add(name, loss, weight)
            if name == first_name and batches:
                self.tally.counted += weight
        if isinstance(self.last_norm, Tensor):
            self.last_norm = self.last_norm.item()
            if not self.last_norm < float("inf"):
                raise Diverged(self._sentence("the gradient", first_bad_gradient(self.model)))
