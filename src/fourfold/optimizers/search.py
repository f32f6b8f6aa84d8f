"""One gradient search under way: the step, and what happens between steps."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from fourfold.core.device import keep_freed_memory
from fourfold.core.errors import Interrupted, UserError
from fourfold.core.evaluation import measure, to_device
from fourfold.core.parts import Batch, Data, Move, Objective
from fourfold.core.run import Run, describe
from fourfold.core.types import Picture
from fourfold.optimizers.average import Average
from fourfold.optimizers.budget import Budget
from fourfold.optimizers.cadence import Cadence
from fourfold.optimizers.diagnosis import Diverged, first_bad_gradient, first_bad_module
from fourfold.optimizers.memory import in_words, refuse_what_cannot_fit
from fourfold.optimizers.players import Player
from fourfold.optimizers.precision import autocast, chosen, has_compiler, pays
from fourfold.optimizers.signals import Signals
from fourfold.optimizers.stopping import Stopping

if TYPE_CHECKING:
    from fourfold.optimizers.gradient import Gradient

SHOW_EVERY = 0.1
"""Seconds between updates of the console."""
SAID_FROM = 1 << 27
"""Bytes from which the memory that a search takes is said."""
CHECK_EVERY = 10
"""Steps between looks at the losses on a GPU, where each look waits for the device."""


class Counted(NamedTuple):
    """A move that was differentiated, with its numbers: plain ones on the CPU, tensors on a GPU."""

    move: Move
    loss: Any
    weight: Any


class Tally:
    """Sums of losses and weights since the last line of the log."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.weights: dict[str, float] = {}
        self.counted = 0.0
        self.since = 0.0

    def add(self, name: str, loss: float, weight: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + loss
        self.weights[name] = self.weights.get(name, 0.0) + weight

    def take(self, seconds: float) -> dict[str, float]:
        """Means and the rate since the last time, and a new beginning."""
        means = {name: self.sums[name] / self.weights[name] for name in self.sums}
        if self.counted and seconds > self.since:
            means["rate"] = self.counted / (seconds - self.since)
        self.sums, self.weights, self.counted, self.since = {}, {}, 0.0, seconds
        return means

    def state_dict(self) -> dict[str, Any]:
        return {
            "sums": self.sums,
            "weights": self.weights,
            "counted": self.counted,
            "since": self.since,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums, self.weights = dict(state["sums"]), dict(state["weights"])
        self.counted, self.since = state["counted"], state["since"]


class Search:
    """State of a search; everything in `state` is what a checkpoint holds."""

    def __init__(
        self, config: Gradient, objective: Objective, model: nn.Module, data: Data, run: Run
    ) -> None:
        self.config, self.objective, self.model, self.data, self.run = (
            config,
            objective,
            model,
            data,
            run,
        )
        self.device = run.device
        if self.device.type == "cpu":
            keep_freed_memory()
        self.done, self.epoch = 0, 0
        self.players: dict[str, Player] = {}
        log = run.folder / "progress.bin" if run.folder else None
        self.budget = Budget.of(
            config.steps, config.epochs, config.minutes, data, config.accumulate, log
        )
        self.average = Average(model, config.ema) if config.ema else None
        self.stopping = Stopping(config.patience)
        self.evaluating = Cadence(config.evaluate_every)
        self.checkpointing = Cadence(config.checkpoint_every)
        self.logging = Cadence(config.log_every)
        self.tally = Tally()
        self.pending: list[tuple[int, str, Tensor, Tensor | float, list[Batch]]] = []
        self.last_norm: Any = 0.0
        self.shown = 0.0
        self.evaluated_at = -1
        self.dtype = chosen(config.precision, model, run.device)
        self.autocast = autocast(self.dtype, run.device)
        self.seeds: dict[torch.dtype, Tensor] = {}
        self.on_cpu = run.device.type == "cpu"
        self.penalized = bool(config.l1 or config.l2)

    # --- the step -----------------------------------------------------------------------------------

    def step(self, batches: list[Batch]) -> None:
        """One step of every player on the micro-batches of one step.

        The micro-batches' games advance in lockstep: every micro-batch's first move, one step, then
        every second move.
        """
        games = [self.objective.losses(self.model, batch) for batch in batches]
        factor = self.config.factor(self.done, self.budget.progress)
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
            first = False
        if first:
            raise UserError(f"step {self.done + 1}: the objective yielded no move")
        if self.average:
            self.average.update()
        self.done += 1
        self.budget.advance(self.done)

    def _backward(self, games: list[Iterator[Move]], batches: list[Batch]) -> list[Counted] | None:
        """The next move of every game, differentiated: gradients of the sum over the step's weight."""
        with self.autocast:
            move = next(games[0], None)
        if move is None and len(games) == 1:
            return None
        if len(games) == 1:
            assert move is not None  # noqa: S101
            counted = self._looked_at(move, batches)
            self._differentiate(move, 1 / self._positive(counted.weight, batches))
            return [counted]
        rows: list[Counted] = []
        for number, game in enumerate(games):
            if number:
                with self.autocast:
                    move = next(game, None)
            if move is None:
                continue
            rows.append(self._looked_at(move, batches))
            # divided once the weight of the whole step is known; the graph is free before the next runs
            self._differentiate(move, 1.0)
        if not rows:
            return None
        if len(rows) < len(games) or len({r.move.player for r in rows}) > 1:
            raise ValueError(
                "the micro-batches of a step must yield the same players in the same order"
            )
        total = self._positive(sum(r.weight for r in rows), batches)
        torch._foreach_mul_(self._player(rows[0].move.player).gradients(), 1 / total)
        return rows

    def _differentiate(self, move: Move, scale: Tensor | float) -> None:
        loss = move.loss
        seed = self.seeds.get(loss.dtype)
        if seed is None:
            seed = self.seeds[loss.dtype] = torch.empty((), dtype=loss.dtype, device=loss.device)
        seed.fill_(scale)
        player = self._player(move.player)
        # a game's move must leave no gradient in the other players
        alone = player.module is self.model and len(self.players) == 1
        loss.backward(seed, inputs=None if alone else player.parameters)

    def _player(self, name: str) -> Player:
        if name not in self.players:
            module = self.model if name == "model" else self.model.get_submodule(name)
            self.players[name] = Player(module, self.config.settings(name))
            self.players[name].zero()
        return self.players[name]

    def _limit(self, player: Player) -> None:
        clip = self.config.clip
        if self.on_cpu:
            grads = player.gradients()
            # a hypotenuse of few numbers is cheaper than two more kernels
            self.last_norm = value = math.hypot(*(n.item() for n in torch._foreach_norm(grads)))
            if not value < math.inf:
                raise Diverged(self._sentence("the gradient", first_bad_gradient(self.model)))
            if clip and value > clip:
                torch._foreach_mul_(grads, clip / (value + 1e-6))
            return
        self.last_norm = norm = torch.nn.utils.get_total_norm(player.gradients())
        if clip:
            torch.nn.utils.clip_grads_with_norm_(player.parameters, clip, norm)

    # --- what is looked at ----------------------------------------------------------------------------

    def _looked_at(self, move: Move, batches: list[Batch]) -> Counted:
        """The numbers of a move; on a GPU they are looked at later, so that the device is not waited for."""
        if not self.on_cpu:
            return Counted(move, move.loss.detach(), move.weight)
        loss = move.loss.item()
        if not abs(loss) < math.inf:
            where = first_bad_module(self.objective, self.model, batches)
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
        if self.run.folder:
            from fourfold.core.state import latest_checkpoint

            last = latest_checkpoint(self.run.folder / "checkpoints")
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

    # --- around the step --------------------------------------------------------------------------------

    def run_to_end(self) -> None:
        """Resume if there is a checkpoint, step until the budget is spent, keep the best."""
        run = self.run
        needed = refuse_what_cannot_fit(
            self.config, self.objective, self.model, self.data, self.device
        )
        if sum(needed.values()) > SAID_FROM:
            run.console.say(
                f"Memory: about {in_words(sum(needed.values()))} ({', '.join(needed)})."
            )
        self._resume()
        self.model.train()
        self._compile()
        run.console.start(
            f"{run.system.name} · {describe(run.sources)}", self.data.unit, self.budget.total
        )
        with Signals() as signals:
            try:
                self.budget.start()
                for batches in self._batches():
                    self.step(batches)
                    self._between()
                    if signals.received is not None:
                        self._interrupted(signals.received)
                    if self.budget.spent or self.stopping.stop:
                        break
                self.budget.pause()
                self._end()
                run.console.stop()
            finally:
                self.budget.close()
                run.metrics.close()
                run.console.close()
                self.model._compiled_call_impl = None
        self.model.eval()

    def _batches(self) -> Iterator[list[Batch]]:
        """The micro-batches of each step, epoch after epoch; a step never crosses an epoch's end."""
        many = self.config.accumulate
        while not (self.budget.spent or self.stopping.stop):
            group: list[Batch] = []
            empty = True
            for batch in self.data.batches("train", epoch=self.epoch, model=self.model):
                empty = False
                group.append(to_device(batch, self.device))
                if len(group) == many:
                    yield group
                    group = []
            if group:
                yield group
            if empty and self.data.size("train") == 0:
                raise UserError(
                    "the training split is empty: give more data or a smaller --data.split"
                )
            self.epoch += 1

    def _between(self) -> None:
        now = self.budget.elapsed()
        progress = self.budget.progress
        if self.logging.due(self.done, progress, now):
            self._log(now)
        elif now - self.shown > SHOW_EVERY:
            self._show(now)
        if self.evaluating.due(self.done, progress, now) and not self.budget.spent:
            self.budget.pause()
            self._evaluate()
            self.budget.start()
        if self.checkpointing.due(self.done, progress, now) and not self.budget.spent:
            self.budget.pause()
            self._checkpoint()
            self.budget.start()

    def _log(self, now: float) -> None:
        self._look()
        rate = next(iter(self.players.values())).optimizers[0].param_groups[0]["lr"]
        values = self.tally.take(now)
        self.run.metrics.log(
            step=self.done,
            **values,
            lr=rate,
            grad_norm=self.last_norm,
            progress=self.budget.progress,
            seconds=round(now, 3),
        )
        if now - self.shown > SHOW_EVERY or self.budget.spent or self.stopping.stop:
            self.shown = now
            speed = values.pop("rate", None)
            self.run.console.step(self.budget.progress, self.done, values, speed)

    def _show(self, now: float) -> None:
        self.shown = now
        self._look()
        means = {n: self.tally.sums[n] / self.tally.weights[n] for n in self.tally.sums}
        span = now - self.tally.since
        rate = self.tally.counted / span if span > 0 and self.tally.counted else None
        self.run.console.step(self.budget.progress, self.done, means, rate)

    def _evaluate(self) -> None:
        """Measure the validation split, keep the weights if they are the best so far, show a sample."""
        self._look()
        self.evaluated_at = self.done
        if self.average:
            with self.average.applied():
                self._measure_and_show()
        else:
            self._measure_and_show()
        self.model.train()

    def _measure_and_show(self) -> None:
        run = self.run
        if self.data.size("valid"):
            began = time.perf_counter()
            with self.autocast:
                values = measure(
                    self.objective, self.model, self.data, "valid", self.device, run.seed
                )
            run.metrics.log(
                step=self.done,
                **{f"valid.{name}": value for name, value in values.items()},
                evaluation_seconds=round(time.perf_counter() - began, 3),
            )
            run.console.evaluation(self.done, values)
            if self.stopping.improved(next(iter(values.values())), self.done):
                run.keep_weights()
        else:
            run.keep_weights()
        self._preview()

    def _preview(self) -> None:
        run = self.run
        sample = run.preview()
        if sample is None:
            return
        run.console.preview(sample)
        if isinstance(sample, Picture):
            if run.folder:
                name = f"previews/{self.done:09d}.png"
                (run.folder / "previews").mkdir(exist_ok=True)
                sample.save(run.folder / name)
                run.metrics.log(step=self.done, picture=name)
        else:
            run.metrics.log(step=self.done, sample=sample)

    def _end(self) -> None:
        self._look()
        if self.tally.sums:
            self._log(self.budget.elapsed())
        if self.evaluated_at != self.done:
            self._evaluate()
        if self.stopping.stop:
            self.run.note(
                f"Stopped early after step {self.done:,}: {self.stopping.waited} evaluations without a better one."
            )
        self._checkpoint()

    def _interrupted(self, signum: int) -> None:
        self.budget.pause()
        self._checkpoint()
        raise Interrupted(signum, self.done)

    def _compile(self) -> None:
        config = self.config
        wanted = config.compile
        if wanted is None:
            wanted = pays(self.device, self.budget.steps, config.minutes)
        if wanted and not has_compiler(self.device):
            if config.compile:
                self.run.note("No compiler was found here: training without torch.compile.")
            wanted = False
        if wanted:
            torch._dynamo.config.suppress_errors = (
                True  # a graph that does not compile runs as it is
            )
            self.model.compile()

    # --- checkpoints --------------------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        if self.run.folder is None:
            return
        from fourfold.core.state import save_checkpoint

        self._look()
        if self.evaluated_at < 0:  # a run that is stopped before its first evaluation can be used
            self.run.keep_weights(self.average.weights() if self.average else None)
        save_checkpoint(self.run.folder / "checkpoints", self.done, self.state())

    def state(self) -> dict[str, Any]:
        """Everything that going on exactly needs."""
        generators = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "done": self.done,
            "epoch": self.epoch,
            "model": dict(self.model.state_dict()),
            "players": {name: player.state_dict() for name, player in self.players.items()},
            "average": self.average.state_dict() if self.average else None,
            "objective": self.objective.state_dict(),
            "data": self.data.state_dict(),
            "budget": self.budget.state_dict(),
            "stopping": self.stopping.state_dict(),
            "cadences": [
                c.state_dict() for c in (self.evaluating, self.checkpointing, self.logging)
            ],
            "tally": self.tally.state_dict(),
            "evaluated_at": self.evaluated_at,
            "last_norm": float(self.last_norm),
            "generators": generators,
            "lines": len(self.run.metrics.lines),
        }

    def _resume(self) -> None:
        if self.run.folder is None:
            return
        from fourfold.core.state import latest_checkpoint, load_state, remove_leftovers

        remove_leftovers(self.run.folder)
        last = latest_checkpoint(self.run.folder / "checkpoints")
        if last is None:
            self.budget.begin()
            self.run.metrics.cut(0)
            return
        path = last / "state.safetensors"
        state = load_state(path)
        try:
            self.load_state(state)
        except (KeyError, RuntimeError, ValueError) as error:
            detail = str(error).splitlines()[-1].strip()
            raise UserError(f"{path}: this checkpoint does not fit this run: {detail}") from error
        self.run.metrics.cut(state["lines"])

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.done, self.epoch = state["done"], state["epoch"]
        self.model.load_state_dict(state["model"])
        for name, saved in state["players"].items():
            self._player(name).load_state_dict(saved)
        if self.average and state["average"]:
            self.average.load_state_dict(state["average"])
        self.objective.load_state_dict(state["objective"])
        self.data.load_state_dict(state["data"])
        self.budget.load_state_dict(state["budget"], self.done)
        self.stopping.load_state_dict(state["stopping"])
        for cadence, saved in zip(
            (self.evaluating, self.checkpointing, self.logging), state["cadences"], strict=True
        ):
            cadence.load_state_dict(saved)
        self.tally.load_state_dict(state["tally"])
        self.evaluated_at, self.last_norm = state["evaluated_at"], state["last_norm"]
        torch.set_rng_state(state["generators"]["cpu"])
        if "cuda" in state["generators"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["generators"]["cuda"], self.device)
