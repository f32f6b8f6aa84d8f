"""Maximum likelihood of n-grams by counting, then smoothing: one pass for each order, in bounded memory.

A search that is stopped keeps nothing: counting begins anew, to the same tables, when the run is resumed. It
takes seconds for millions of words.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from annotated_types import Le
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, field_validator
from torch import nn

from fourfold.core.errors import Interrupted, UserError
from fourfold.core.parts import Data, Objective, Optimizer
from fourfold.core.run import Run
from fourfold.core.sources import describe
from fourfold.kernels.ngram_smoothing import Order, Smoothing
from fourfold.optimizers.signals import Signals

COUNTING = 0.7
"""Share of the work that is counting; the rest is smoothing."""


class Counting(Optimizer):
    """Counts of n-grams, smoothed."""

    kind: Literal["counting"] = "counting"
    smoothing: Smoothing = "modified-kneser-ney"
    """How probability is taken from n-grams that were seen for those that were not."""
    k: PositiveFloat = 0.1
    """What add-k adds to every count."""
    prune: tuple[NonNegativeInt, ...] = ()
    """Counts up to which n-grams are left out of the model, for orders 2, 3, ... and not falling; the last holds
    for the orders beyond: 0,1 leaves out what came once from order 3 on. What they were worth goes to backing off."""
    memory: Annotated[PositiveInt, Le(1 << 20)] = 1024
    """Megabytes of working memory beside the finished tables; a text that needs more is counted in runs, on disk."""

    @field_validator("prune")
    @classmethod
    def _rising(cls, prune: tuple[int, ...]) -> tuple[int, ...]:
        if sorted(prune) != [*prune]:
            raise ValueError(
                f"expected counts that do not fall from order to order, got {', '.join(map(str, prune))}"
            )
        return prune

    def minimize(self, objective: Objective, model: nn.Module, data: Data, run: Run) -> None:
        """Count the training split and put the model's tables in place.

        Raises:
            UserError: the training split has no tokens, or too many.
            Interrupted: Ctrl-C or SIGTERM; nothing is kept.
        """
        if not data.size("train"):
            raise UserError("the training split is empty: give more text or a smaller --data.split")
        _Search(self, model, data, run).run_to_end()


class _Search:
    """One search under way."""

    def __init__(self, config: Counting, model: Any, data: Any, run: Run) -> None:
        self.config, self.model, self.data, self.run = config, model, data, run
        self.tokens = data.tokens("train")
        self.total = len(self.tokens) - 1
        self.began = time.perf_counter()

    def run_to_end(self) -> None:
        from fourfold.kernels import ngram_counts, ngram_smoothing

        run, model, config = self.run, self.model, self.config
        if self.total > ngram_counts.LARGEST:
            raise UserError(
                f"the training split has {self.total:,} tokens; at most {ngram_counts.LARGEST:,} can be counted"
            )
        run.metrics.cut(0)  # of a run that is counted again
        run.console.start(
            f"{run.system.name} · {describe(run.sources)}", "tokens", f"{self.total:,} tokens"
        )
        with Signals() as signals:
            try:
                with ngram_counts.Store(self.total, config.memory << 20) as store:
                    levels = ngram_counts.count(
                        self.tokens, model.order, model.vocabulary, model.end, model.stop,
                        store=store, between=self._between(signals, 0.0, COUNTING),
                    )  # fmt: skip
                    tables, told = ngram_smoothing.smooth(
                        levels, config.smoothing, model.end, model.stop, k=config.k,
                        prune=config.prune, store=store,
                        between=self._between(signals, COUNTING, 1 - COUNTING),
                    )  # fmt: skip
                model.take(tables, told)
                self._end(told)
            finally:
                run.metrics.close()
                run.console.close()

    def _between(self, signals: Signals, done: float, share: float) -> Callable[[float], None]:
        """What is called between two pieces of work: progress is said, a wish to stop is granted."""

        def between(part: float) -> None:
            progress = done + share * part
            if signals.received is not None:
                folder = self.run.folder
                command = f"fourfold fit {self.run.system.name} --resume {folder}" if folder else ""
                after = f"{progress:.0%} of the counting, which begins anew (it keeps nothing half done)"
                raise Interrupted(signals.received, 0, command, after=after)
            spent = time.perf_counter() - self.began
            self.run.console.step(progress, 1, {}, progress * self.total / max(spent, 1e-9))

        return between

    def _end(self, told: list[Order]) -> None:
        """Say what was estimated how, measure, keep."""
        run, seconds = self.run, time.perf_counter() - self.began
        amiss = [number for number, order in enumerate(told, 1) if order.fallback]
        if amiss:
            run.note(_fallback_note(self.config.smoothing, amiss))
        values = {"loss": float(self.model.surprises(self.tokens).mean())}
        if self.data.size("valid"):
            values["valid.loss"] = float(self.model.surprises(self.data.tokens("valid")).mean())
        run.metrics.log(
            step=1, seconds=round(seconds, 6), seen=self.total, rate=self.total / seconds, **values
        )
        run.console.step(1.0, 1, {"loss": values["loss"]}, self.total / seconds)
        if "valid.loss" in values:
            run.console.evaluation(1, {"loss": values["valid.loss"]})
        run.keep_weights()
        run.console.stop()


def _fallback_note(smoothing: str, orders: list[int]) -> str:
    which = ", ".join(map(str, orders))
    many = f"order{'s' * (len(orders) > 1)} {which}"
    if smoothing == "good-turing":
        return f"{many}: the counts of counts are too few or too uneven for all of Good-Turing's discounts; fewer counts are discounted there"
    fallback = "0.5, 1, 1.5" if smoothing == "modified-kneser-ney" else "0.5"
    return f"{many}: the counts of counts are too few or too uneven to tell discounts from, as on small or artificial texts; {fallback} stands in, as in KenLM"
