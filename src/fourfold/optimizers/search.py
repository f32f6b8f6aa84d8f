"""One gradient search under way: what happens between its steps, and its checkpoints."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

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
from fourfold.optimizers.precision import has_compiler, pays
from fourfold.optimizers.signals import Signals
from fourfold.optimizers.step import Stepper
from fourfold.optimizers.stopping import Stopping

if TYPE_CHECKING:
    from fourfold.optimizers.gradient import Gradient

SHOW_EVERY = 0.1
"""Seconds between updates of the console."""
MOST_LOOKING = 0.15
"""Share of the training time that evaluations may take where someone waits for minutes to pass."""
SAID_FROM = 1 << 27
"""Bytes from which the memory that a search takes is said."""


class Search(Stepper):
    """A stepper with its data, budget, evaluations and checkpoints; `state` is all that a checkpoint holds."""

    def __init__(
        self, config: Gradient, objective: Objective, model: nn.Module, data: Data, run: Run
    ) -> None:
        log = run.folder / "progress.bin" if run.folder else None
        budget = Budget.of(
            config.steps, config.epochs, config.minutes, data, config.accumulate, log
        )
        super().__init__(config, objective, model, run, budget)
        if self.on_cpu:
            keep_freed_memory()
        # torch's optimizers load it when the first one is made: 2 s that no budget in minutes should pay
        importlib.import_module("torch._dynamo")
        self.data, self.epoch = data, 0
        self.stopping = Stopping(config.patience)
        self.evaluating = Cadence(config.evaluate_every)
        self.checkpointing = Cadence(config.checkpoint_every)
        self.logging = Cadence(config.log_every)
        self.shown = 0.0
        self.evaluated_at = -1
        self.evaluated_before: set[int] = set()
        """Steps that a killed process had evaluated."""
        self.looking = 0.0
        """Seconds spent on evaluations and previews; under a budget in minutes they are kept few."""

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
        self.frozen.train()
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
        for parameter in self.run.system.advance(self.run, progress):
            self.forget(parameter)
        if self.logging.due(self.done, progress, now):
            self._log(now)
        elif now - self.shown > SHOW_EVERY:
            self._show(now)
        due = self.evaluating.due(self.done, progress, now) and not self.budget.spent
        if due and self._worth_a_look(now):
            self.budget.pause()
            self._evaluate()
            self.budget.start()
        if self.checkpointing.due(self.done, progress, now) and not self.budget.spent:
            self.budget.pause()
            self._checkpoint()
            self.budget.start()

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
                    self.objective, self.model, self.data, "valid", self.device, run.seed
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
        folder = self.run.folder
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
        still = self.frozen.still()  # what no step changes is in weights.safetensors already
        return {
            "done": self.done,
            "epoch": self.epoch,
            "model": {n: t for n, t in self.model.state_dict().items() if n not in still},
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
        from fourfold.core.state import (
            latest_checkpoint,
            load_state,
            load_weights,
            remove_leftovers,
        )

        remove_leftovers(self.run.folder)
        self.evaluated_before = {
            line["step"] for line in self.run.metrics.lines if "evaluation_seconds" in line
        }
        last = latest_checkpoint(self.run.folder / "checkpoints")
        if last is None:
            self.budget.begin()
            self.run.metrics.cut(0)
            return
        path = last / "state.safetensors"
        state = load_state(path)
        if self.frozen.still():
            load_weights(self.run.folder / "weights.safetensors", self.model)
        try:
            self.load_state(state)
        except (KeyError, RuntimeError, ValueError) as error:
            detail = str(error).splitlines()[-1].strip()
            raise UserError(f"{path}: this checkpoint does not fit this run: {detail}") from error
        self.run.metrics.cut(state["lines"])

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.done, self.epoch = state["done"], state["epoch"]
        missing, strange = self.model.load_state_dict(state["model"], strict=False)
        if strange or set(missing) - self.frozen.still():
            raise KeyError(f"its model differs in {', '.join([*strange, *missing][:3])}")
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
