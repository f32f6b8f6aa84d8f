"""One gradient search under way: what happens between its steps, and its checkpoints."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fourfold.core.device import keep_freed_memory
from fourfold.core.errors import Interrupted, UserError
from fourfold.core.evaluation import measure, to_device
from fourfold.core.metrics import KEPT
from fourfold.core.parts import Batch, Data, Objective
from fourfold.core.run import Run
from fourfold.core.sources import describe
from fourfold.core.types import Picture
from fourfold.optimizers.budget import Budget
from fourfold.optimizers.cadence import Cadence
from fourfold.optimizers.compiled import Compiled
from fourfold.optimizers.memory import in_words, refuse_what_cannot_fit
from fourfold.optimizers.parallel import DataParallel
from fourfold.optimizers.precision import has_compiler, pays
from fourfold.optimizers.rank_modules import spread
from fourfold.optimizers.saving import Saving
from fourfold.optimizers.signals import Signals
from fourfold.optimizers.step import Stepper
from fourfold.optimizers.stopping import Stopping

if TYPE_CHECKING:
    from fourfold.optimizers.gradient import Gradient
    from fourfold.optimizers.sharded import Spread

SHOW_EVERY = 0.1
"""Seconds between updates of the console."""
MOST_LOOKING = 0.15
"""Share of the training time that evaluations may take where someone waits for minutes to pass."""
SAID_FROM = 1 << 27
"""Bytes from which the memory that a search takes is said."""


def _spread_out(model: nn.Module, run: Run) -> Spread | None:
    """Spread a model over processes, as its run wants it."""
    parallel = run.parallel
    if not (parallel.recompute or parallel.shard or parallel.tensor > 1):
        return None
    from fourfold.optimizers import sharded

    if parallel.recompute:
        sharded.recompute(model)
    several = run.ranks.several and (parallel.shard or parallel.tensor > 1)
    return sharded.Spread(model, parallel, run.ranks, run.device) if several else None


class Search(Stepper):
    """A stepper with its data, budget, evaluations and checkpoints; `state` is all that a checkpoint holds."""

    def __init__(
        self, config: Gradient, objective: Objective, model: nn.Module, data: Data, run: Run
    ) -> None:
        log = run.folder / "progress.bin" if run.folder else None
        budget = Budget.of(
            config.steps, config.epochs, config.minutes, data, config.accumulate, log
        )
        self.spread = _spread_out(model, run)
        super().__init__(config, objective, model, run, budget)
        if self.on_cpu:
            keep_freed_memory()
        # torch's optimizers load it when the first one is made: 2 s that no budget in minutes should pay
        importlib.import_module("torch._dynamo")
        self.data, self.epoch = data, 0
        self.batch = getattr(data, "batch", None)
        if config.lr_batch and self.batch is None:
            raise UserError(
                "--optimizer.lr-batch: these data have no batches of a fixed number of examples"
            )
        self.stopping = Stopping(config.patience)
        self.evaluating = Cadence(config.evaluate_every)
        self.checkpointing = Cadence(config.checkpoint_every)
        self.logging = Cadence(config.log_every)
        self.shown = 0.0
        self.evaluated_at = -1
        self.evaluated_before: set[int] = set()
        """Steps that a killed process had evaluated."""
        self.parallel = (
            DataParallel(config, objective, model, data, run, self.spread)
            if run.ranks.several
            else None
        )
        checkpoints = run.common / "checkpoints" if run.common else None
        self.saving = Saving(checkpoints, run.ranks, parts=self.spread is not None)
        if self.spread:
            for name in self.spread.players:  # a forward pass puts whole weights in their place
                self._player(name)
        self.looking = 0.0
        """Seconds spent on evaluations and previews; under a budget in minutes they are kept few."""

    # --- around the step --------------------------------------------------------------------------------

    def run_to_end(self) -> None:
        """Resume if there is a checkpoint, step until the budget is spent, keep the best."""
        run = self.run
        needed = {}
        if self.spread is None:
            needed = refuse_what_cannot_fit(
                self.config, self.objective, self.model, self.data, self.device
            )
        if sum(needed.values()) > SAID_FROM:
            run.console.say(
                f"Memory: about {in_words(sum(needed.values()))} ({', '.join(needed)})."
            )
        self._resume()
        self.frozen.train()
        self._compile()
        run.console.start(
            f"{run.system.name} · {describe(run.sources)}", self.data.unit, self.budget.total
        )
        with Signals() as signals, spread(self.model, run.ranks, self.device):
            try:
                self.budget.start()
                for batches in self._batches():
                    self.step(batches)
                    signum = self._between(signals.received)
                    if signum is not None:
                        self._interrupted(signum)
                    if self.budget.spent or self.stopping.stop:
                        break
                self.budget.pause()
                self._end()
                run.console.stop()
            finally:
                self.saving.settle()
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
                group.append(batch if self.parallel else to_device(batch, self.device))
                if len(group) == many:
                    yield self._mine(group)
                    group = []
            if group:
                yield self._mine(group)
            if empty and self.data.size("train") == 0:
                raise UserError(
                    "the training split is empty: give more data or a smaller --data.split"
                )
            self.epoch += 1

    def _mine(self, batches: list[Batch]) -> list[Batch]:
        """Of a step's batches what this process computes."""
        if self.parallel is None:
            return batches
        return [to_device(batch, self.device) for batch in self.parallel.mine(batches)]

    def _between(self, signum: int | None = None) -> int | None:
        """What comes between two steps; the signal that is to be heeded, where one was received."""
        now = self.budget.elapsed()
        due = self._due(now)
        if self.parallel:
            told, signum = self.parallel.agreed([self.budget.progress, now, *due], signum)
            self.budget.progress, now, *due = told
        log, evaluate, checkpoint, written = due
        if written:
            self.saving.end()
        for parameter in self.run.system.advance(self.run, self.budget.progress):
            self.forget(parameter)
        if log:
            self._log(now)
        elif now - self.shown > SHOW_EVERY:
            self._show(now)
        if evaluate:
            self.budget.pause()
            self._evaluate()
            self.budget.start()
        if checkpoint:
            self.budget.pause()
            self._checkpoint(beside=True)
            self.budget.start()
        return signum

    def _due(self, now: float) -> list[float]:
        """Whether to log, to evaluate and to write a checkpoint, and whether one that was begun is written."""
        progress, spent = self.budget.progress, self.budget.spent
        log = self.logging.due(self.done, progress, now)
        evaluate = self.evaluating.due(self.done, progress, now) and not spent
        checkpoint = self.checkpointing.due(self.done, progress, now) and not spent
        return [log, evaluate and self._worth_a_look(now), checkpoint, self.saving.finished]

    def _worth_a_look(self, now: float) -> bool:
        """Under a budget in minutes evaluations are kept few; a step done again is evaluated if it was before."""
        if not self.config.minutes:
            return True
        if self.done <= self.budget.logged:
            return self.done in self.evaluated_before
        return self.looking <= MOST_LOOKING * now

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
        began = time.perf_counter()
        self._look()
        self.evaluated_at = self.done
        if self.average:
            with self.average.applied():
                self._measure_and_show()
        else:
            self._measure_and_show()
        self.frozen.train()
        self.looking += time.perf_counter() - began

    def _measure_and_show(self) -> None:
        run = self.run
        if self.data.size("valid"):
            began = time.perf_counter()
            with self.autocast:
                values = measure(
                    self.objective,
                    self.model,
                    self.data,
                    "valid",
                    self.device,
                    run.seed,
                    run.ranks,
                    together=self.spread is not None,
                )
            first, value = next(iter(values.items()))
            loss = -value if first in self.objective.higher else value
            better = self.stopping.improved(loss, self.done)
            run.metrics.log(
                step=self.done,
                **{f"valid.{name}": value for name, value in values.items()},
                evaluation_seconds=round(time.perf_counter() - began, 3),
                **({KEPT: first} if better else {}),
            )
            run.console.evaluation(self.done, values)
            if better:
                self._keep_weights()
        else:
            self._keep_weights()
        if self.spread is None:  # a sample needs all processes there
            self._preview()

    def _keep_weights(self, replacing: dict[str, Tensor] | None = None) -> None:
        """Keep the weights, which may be spread over processes."""
        if self.spread:
            replacing = self.spread.whole(replacing)
        self.run.keep_weights(replacing)

    def _preview(self) -> None:
        run = self.run
        sample = run.preview() if run.ranks.main else None
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
        folder = self.run.common
        command = f"fourfold fit {self.run.system.name} --resume {folder}" if folder else ""
        raise Interrupted(signum, self.done, command)

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
            self.model._compiled_call_impl = Compiled(self.model)  # type: ignore[assignment]

    # --- checkpoints --------------------------------------------------------------------------------------

    def _checkpoint(self, beside: bool = False) -> None:
        if self.run.common is None:
            return
        self._look()
        if self.parallel:
            self.parallel.check_weights()
        if self.evaluated_at < 0:  # a run that is stopped before its first evaluation can be used
            self._keep_weights(self.average.weights() if self.average else None)
        self.saving.save(self.done, self.state(), beside)

    def _sentence(self, what: str, where: str) -> str:
        """See `Stepper._sentence`: which checkpoint is kept is known once it is written."""
        self.saving.settle()
        return super()._sentence(what, where)

    def state(self) -> dict[str, Any]:
        """Everything that going on exactly needs."""
        generators = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        still = (
            set() if self.spread else self.frozen.still()
        )  # what no step changes is in weights.safetensors already
        return {
            "done": self.done,
            "epoch": self.epoch,
            "model": {n: t for n, t in self.model.state_dict().items() if n not in still},
            "players": {name: player.state_dict() for name, player in self.players.items()},
            "average": self.average.state_dict() if self.average else None,
            "objective": self._objective_state(),
            "control": self.control.state_dict() if self.control else None,
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

    def _objective_state(self) -> dict[str, Any]:
        state = self.objective.state_dict()
        return self.parallel.joined_state(state) if self.parallel else state

    def _resume(self) -> None:
        folder = self.run.common
        if folder is None:
            return
        from fourfold.core.state import (
            latest_checkpoint,
            load_state,
            load_weights,
            remove_leftovers,
        )

        if self.run.ranks.main:
            remove_leftovers(folder)
        self.evaluated_before = {
            line["step"] for line in self.run.metrics.lines if "evaluation_seconds" in line
        }
        last = latest_checkpoint(folder / "checkpoints")
        if last is None:
            self.budget.begin()
            self.run.metrics.cut(0)
            return
        path = last / "state.safetensors"
        state = load_state(path)
        if "files" in state:
            from fourfold.optimizers.shards import load_shards

            state = load_shards(last, state)
        if self.frozen.still():
            load_weights(folder / "weights.safetensors", self.model)
        try:
            self.load_state(state)
        except (KeyError, RuntimeError, ValueError) as error:
            detail = str(error).splitlines()[-1].strip()
            raise UserError(f"{path}: this checkpoint does not fit this run: {detail}") from error
        self.run.metrics.cut(state["lines"])

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.done, self.epoch = state["done"], state["epoch"]
        if self.spread:
            state = self.spread.state_like(state, self._player, self.average)
        missing, strange = self.model.load_state_dict(state["model"], strict=False)
        if strange or set(missing) - self.frozen.still():
            raise KeyError(f"its model differs in {', '.join([*strange, *missing][:3])}")
        for name, saved in state["players"].items():
            self._player(name).load_state_dict(saved)
        if self.average and state["average"]:
            self.average.load_state_dict(state["average"])
        objective = state["objective"]
        self.objective.load_state_dict(
            self.parallel.own_state(objective) if self.parallel else objective
        )
        if self.control and state.get("control"):
            self.control.load_state_dict(state["control"])
            self.control.apply(self.objective)
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
