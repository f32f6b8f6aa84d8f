"""Stochastic gradient descent by compiled kernels on shared matrices without locks: Niu et al. 2011, arXiv 1106.5730.

The kernels step the matrices of a `WordVectors` in place, one window at a time, at a rate that falls
linearly with the words seen. Threads take short stretches of the text from one queue, so that they
walk through it side by side: where each had a half of its own, what one epoch taught was worse
(WordSim-353 0.13 in place of 0.19), since the text that is seen last counts most. On a CUDA GPU its
programs take the place of the threads (`kernels.word2vec_blocks`).
"""

from __future__ import annotations

import os
import queue
import threading
import time
from typing import Any, Literal

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import nn

from fourfold.core.errors import Interrupted, UserError
from fourfold.core.evaluation import measure
from fourfold.core.parts import Data, Objective, Optimizer
from fourfold.core.run import Run
from fourfold.core.sources import describe
from fourfold.optimizers.cadence import Cadence, Every
from fourfold.optimizers.signals import Signals

STRETCH = 20_000
"""Words that a thread takes at once."""
SAID_FROM = 3.0
"""Seconds of compiling from which it is said."""
ROUND = 1_000_000
"""Words between two looks at signals, log and checkpoints."""


class Hogwild(Optimizer):
    """Compiled kernels, any number of threads; exact resumption with one."""

    kind: Literal["hogwild"] = "hogwild"
    epochs: PositiveInt = 5
    """Passes over the text."""
    lr: PositiveFloat | None = None
    """Learning rate at the beginning; None means 0.05 for skip-gram and 0.1 for CBOW."""
    final_lr: NonNegativeFloat = 1e-4
    """Learning rate at the end; in between it falls linearly with the words seen."""
    threads: PositiveInt | None = None
    """Threads; None means one for each core. With several, or on a GPU, two runs differ a little and resumption is
    not exact."""
    checkpoint_every: Every = "60s"
    """How often a checkpoint is written."""
    evaluate_every: Every = "20%"
    """How often the validation split is measured and a sample shown."""

    def minimize(self, objective: Objective, model: nn.Module, data: Data, run: Run) -> None:
        """Step the model's matrices over all epochs; resumes where `run` holds a checkpoint.

        Raises:
            UserError: the training split has no words.
            Interrupted: Ctrl-C or SIGTERM, after a checkpoint was written.
        """
        if not data.size("train"):
            raise UserError("the training split is empty: give more text or a smaller --data.split")
        if run.device.type not in ("cpu", "cuda"):
            run.console.say(f"The kernels run on the processor, not on {run.device}")
            run.device_name = "cpu"
            model.to("cpu")
        _Search(self, objective, model, data, run).run_to_end()


class _Search:
    """One search under way."""

    def __init__(self, config: Hogwild, objective: Any, model: Any, data: Any, run: Run) -> None:
        from fourfold.kernels import word2vec as kernel

        self.config, self.objective, self.model, self.data, self.run = (
            config,
            objective,
            model,
            data,
            run,
        )
        part = data.part("train")
        self.corpus = kernel.Corpus(np.ascontiguousarray(part.words), part.ends)
        self.tables = objective.tables(data.keep())
        together = model.algorithm == "cbow"
        kinds = {
            "negative": kernel.SIGMOIDS, "sampled": kernel.SOFTMAX, "softmax": kernel.SOFTMAX,
            "contrast": kernel.CONTRAST, "hierarchical": kernel.PATH,
        }  # fmt: skip
        rate = config.lr or (0.1 if together else 0.05)
        self.total = len(part.words) * config.epochs
        self.settings = kernel.Settings(
            data.options.window,
            -1 if objective.loss == "softmax" else objective.negatives,
            kinds[objective.loss],
            together,
            model.mean,
            model.bias,
            rate,
            min(config.final_lr, rate),
            float(self.total),
        )
        self.grams: Any = model.grams() if hasattr(model, "grams") else None
        """Input rows of each word, where there are several."""
        if self.grams is not None and model.inputs.device.type != "cpu":
            raise UserError(
                "vectors of character n-grams are learned on the CPU only: --device cpu"
            )
        self.blocks: Any = None
        """On a GPU, what steps the matrices there."""
        if model.inputs.device.type != "cpu":
            from fourfold.kernels.word2vec_blocks import Blocks

            matrices = model.inputs.detach(), model.outputs.detach()
            self.blocks = Blocks(self.corpus, self.tables, self.settings, *matrices)
        self.threads = 1 if self.blocks else config.threads or os.cpu_count() or 1
        self.seen = np.zeros((self.threads, 8), np.int64)
        self.stats = np.zeros((self.threads, 8))
        seeds = np.random.default_rng([run.seed, 3]).integers(
            1, 2**63, self.threads, dtype=np.uint64
        )
        self.states = [seeds[t : t + 1].copy() for t in range(self.threads)]
        self.stretches = _stretches(part.ends, STRETCH)
        self.round = max(1, ROUND // STRETCH)
        self.done = 0
        """Stretches done, over all epochs."""
        self.checkpointing, self.evaluating = (
            Cadence(config.checkpoint_every),
            Cadence(config.evaluate_every),
        )
        self.stopping_loss = np.inf
        self.seconds = 0.0

    @property
    def progress(self) -> float:
        """Share of the budget that is spent."""
        return self.done / (self.config.epochs * len(self.stretches))

    def run_to_end(self) -> None:
        run = self.run
        self._resume()
        run.console.start(
            f"{run.system.name} · {describe(run.sources)}", "words", f"{self.total:,} words"
        )
        with Signals() as signals:
            try:
                self._compile()
                while self.progress < 1:
                    began = time.perf_counter()
                    before, self.stats[:, :2] = int(self.seen[:, 0].sum()), 0
                    self._advance()
                    spent = time.perf_counter() - began
                    self.seconds += spent
                    self._log((int(self.seen[:, 0].sum()) - before) / spent)
                    if (
                        self.evaluating.due(self.done, self.progress, self.seconds)
                        or self.progress >= 1
                    ):
                        self._evaluate()
                    if signals.received is not None:
                        self._checkpoint()
                        folder = run.folder
                        command = (
                            f"fourfold fit {run.system.name} --resume {folder}" if folder else ""
                        )
                        raise Interrupted(signals.received, self.done, command)
                    if (
                        self.checkpointing.due(self.done, self.progress, self.seconds)
                        and self.progress < 1
                    ):
                        self._checkpoint()
                self._checkpoint()
                run.console.stop()
            finally:
                run.metrics.close()
                run.console.close()

    def _compile(self) -> None:
        """Make the kernels' machine code now, of which no rate should tell; it is kept for later processes."""
        if self.blocks is not None:
            return
        began = time.perf_counter()
        nothing: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        nothing.put((0, 0))
        self._work(0, nothing)
        if (spent := time.perf_counter() - began) > SAID_FROM:
            self.run.console.say(f"The kernels were compiled, once for this machine: {spent:.0f} s")

    def _advance(self) -> None:
        """A round: as many stretches as make up a million words, in order, and never over an epoch's end."""
        in_epoch = self.done % len(self.stretches)
        todo = self.stretches[in_epoch : in_epoch + self.round]
        if self.blocks is not None:
            self._advance_block(todo[0][0], todo[-1][1])
            self.done += len(todo)
            return
        waiting: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        for stretch in todo:
            waiting.put(stretch)
        if self.threads == 1:
            self._work(0, waiting)
        else:
            failures: list[BaseException] = []
            workers = [
                threading.Thread(target=self._guarded, args=(me, waiting, failures), daemon=True)
                for me in range(self.threads)
            ]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            if failures:
                raise failures[0]
        self.done += len(todo)

    def _advance_block(self, first: int, last: int) -> None:
        """A round on the GPU; what chance decides in it depends on the seed and on how far the search is."""
        seen = int(self.seen[:, 0].sum())
        seed = int(np.random.default_rng([self.run.seed, 4, self.done]).integers(2**62))
        losses, predictions = self.blocks.advance(first, last, seen, seed)
        self.seen[0, 0] += int(self.corpus.ends[last] - self.corpus.ends[first])
        self.stats[0, :2] += losses, predictions

    def _guarded(self, me: int, waiting: Any, failures: list[BaseException]) -> None:
        try:
            self._work(me, waiting)
        except BaseException as error:
            failures.append(error)

    def _work(self, me: int, waiting: Any) -> None:
        from fourfold.kernels import subwords
        from fourfold.kernels import word2vec as kernel

        inputs, outputs = self.model.inputs.detach().numpy(), self.model.outputs.detach().numpy()
        room = kernel.scratch(self.tables, self.settings, inputs, outputs)
        counted = self.seen, self.states[me], self.stats
        while True:
            try:
                first, last = waiting.get_nowait()
            except queue.Empty:
                return
            if self.grams is None:
                kernel.train(
                    self.corpus, self.tables, self.settings, inputs, outputs, first, last, me,
                    *counted, room,
                )  # fmt: skip
            else:
                subwords.train(
                    self.corpus, self.tables, self.grams, self.settings, inputs, outputs, first, last,
                    me, *counted,
                )  # fmt: skip

    # --- around -------------------------------------------------------------------------------------

    def _log(self, rate: float) -> None:
        run, sums = self.run, self.stats.sum(0)
        values = {"loss": float(sums[0] / sums[1])} if sums[1] else {}
        if values and not np.isfinite(values["loss"]):
            raise UserError(
                f"the loss is {values['loss']} after {self.progress:.0%} of the text; a lower --lr may help"
            )
        now = self.settings.rate + (self.settings.rate_end - self.settings.rate) * self.progress
        run.metrics.log(
            step=self.done, seen=int(self.seen[:, 0].sum()), **values, lr=now, rate=rate,
            progress=self.progress, seconds=round(self.seconds, 3),
        )  # fmt: skip
        run.console.step(self.progress, self.done, values, rate)

    def _evaluate(self) -> None:
        run = self.run
        if self.data.size("valid"):
            values = measure(self.objective, self.model, self.data, "valid", run.device, run.seed)
            first = next(iter(values.values()))
            run.metrics.log(step=self.done, **{f"valid.{k}": v for k, v in values.items()})
            run.console.evaluation(self.done, values)
            if first < self.stopping_loss:
                self.stopping_loss = first
                run.keep_weights()
        else:
            run.keep_weights()
        sample = run.preview()
        if isinstance(sample, str):
            run.console.preview(sample)
            run.metrics.log(step=self.done, sample=sample)

    def state(self) -> dict[str, Any]:
        """Everything that going on takes."""
        return {
            "done": self.done,
            "seen": torch.from_numpy(self.seen),
            "stats": torch.from_numpy(self.stats),
            "states": [int(s[0]) for s in self.states],
            "model": dict(self.model.state_dict()),
            "best": float(self.stopping_loss),
            "cadences": [self.checkpointing.state_dict(), self.evaluating.state_dict()],
            "seconds": self.seconds,
            "lines": len(self.run.metrics.lines),
        }

    def _checkpoint(self) -> None:
        if self.run.folder is None:
            return
        from fourfold.core.state import save_checkpoint

        if not (self.run.folder / "weights.safetensors").exists():
            self.run.keep_weights()
        save_checkpoint(self.run.folder / "checkpoints", self.done, self.state())

    def _resume(self) -> None:
        if self.run.folder is None:
            return
        from fourfold.core.state import latest_checkpoint, load_state, remove_leftovers

        remove_leftovers(self.run.folder)
        last = latest_checkpoint(self.run.folder / "checkpoints")
        if last is None:
            self.run.metrics.cut(0)
            return
        state = load_state(last / "state.safetensors")
        self.model.load_state_dict(state["model"])
        self.done, self.seconds, self.stopping_loss = state["done"], state["seconds"], state["best"]
        seen, stats = state["seen"].numpy(), state["stats"].numpy()
        self.seen[0], self.stats[0] = seen.sum(0), stats.sum(0)
        for me, known in enumerate(state["states"][: self.threads]):
            self.states[me][0] = known
        for cadence, kept in zip(
            (self.checkpointing, self.evaluating), state["cadences"], strict=True
        ):
            cadence.load_state_dict(kept)
        self.run.metrics.cut(state["lines"])


def _stretches(ends: np.ndarray, words: int) -> list[tuple[int, int]]:
    """Sentences first to last - 1 of about so many words each, in order."""
    cuts = np.searchsorted(ends, np.arange(0, ends[-1], words))
    cuts = np.unique(np.append(cuts, len(ends) - 1))
    return [(int(a), int(b)) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
