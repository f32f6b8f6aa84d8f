"""The learning verdict: under-fitting, over-fitting, fine or not enough data, and what it rests on.

Errors on training and held-out rows are set beside those of a constant and of gradient boosting on the
same rows, and beside those of fits on fewer rows where these are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np

from fourfold.core.evaluation import held_out
from fourfold.core.metrics import best_line
from fourfold.core.parts import Split
from fourfold.core.run import Run
from fourfold.core.words import number
from fourfold.data.splits import TEST, TRAIN, VALID
from fourfold.data.table import TableData
from fourfold.objectives.supervised import Supervised
from fourfold.tasks.gathering import Predictions, Sample, answers, gather, sample, samples
from fourfold.tasks.losses import (
    MOST,
    constant,
    mean,
    measure_of,
    places,
    rowwise,
    shown,
    standard_error,
)
from fourfold.tasks.reference import reference_losses
from fourfold.tasks.refit import budget, codes_of, refitted, rows_of, share_of, told

Verdict = Literal["under-fitting", "over-fitting", "fine", "not enough data"]
SHARES = (0.1, 0.2, 0.4, 0.8, 1.0)
"""Of the training rows."""
# The bounds below compare errors as they are told: of numbers root mean squared errors.
GAP = 0.2
"""Share of the held-out error from which its distance from the training error is wide,"""
NOTHING = 0.1
"""and share of a constant's error below which no distance is."""
HELPS = 0.1
"""Relative fall of the error from two fifths of the rows to all of them that counts."""
BETTER = 0.1
"""Relative distance by which gradient boosting must be better."""
RISEN, FALLING = 0.05, 0.1
"""Relative rise of the validation measure after its best, and fall over the second half, that count."""
LITTLE = 0.95
"""Share of a constant's error above which next to nothing was learned."""
EVALUATIONS = 8
"""Below so many the course of the validation measure says nothing."""


@dataclass(frozen=True)
class RowCurve:
    """Losses of fits on growing shares of the training rows."""

    rows: tuple[int, ...]
    train: tuple[float, ...]
    held: tuple[float, ...]


@dataclass(frozen=True)
class Evidence:
    """What the verdict rests on. Losses are means over rows: squared errors, or nats, or shares of wrong ones."""

    measure: str
    """What the losses are."""
    where: str
    """Which rows were held out, in words."""
    train: float
    held: float
    spread: float
    """Standard error of held - train."""
    constant: float
    """Of predicting the training rows' mean or frequencies for the held-out rows."""
    blind: float
    """The same for the training rows."""
    reference: float | None = None
    """Of gradient boosting fitted on the same rows, on the held-out rows; None where it was not fitted."""
    reference_spread: float = 0.0
    """Standard error of its difference from `held`."""
    best_step: int = 0
    last_step: int = 0
    risen: float = 0.0
    """How much worse the validation measure was in the end than at its best, relative."""
    falling: float = 0.0
    """How much better it still became over the second half of the steps, relative."""
    rows: RowCurve | None = None

    def over(self, loss: float, other: float) -> float:
        """One loss over another, as they are told."""
        return shown(self.measure, loss) / max(shown(self.measure, other), 1e-300)


def gathered(run: Run) -> Evidence:
    """Measure a run on its training and its held-out rows, beside a constant and gradient boosting.

    Raises:
        UserError: nothing was held out, or the source is gone.
    """
    held_out(run)
    data = cast(TableData, run.examples())
    target, probable = data.target, cast(Supervised, run.objective).probabilistic
    seen, unseen = sample(data, "train", MOST), samples(data, _splits(data), MOST)
    train, held = _predicted(run, seen), _predicted(run, unseen)
    losses, own = rowwise(target, held, probable), rowwise(target, train, probable)
    nothing, blind = (rowwise(target, constant(target, train, f), probable) for f in (held, train))
    found = Evidence(
        measure=measure_of(target, probable),
        where=f"{len(losses):,} rows of the {' and '.join(_splits(data))} split",
        train=mean(own, train.weight),
        held=mean(losses, held.weight),
        spread=math.hypot(standard_error(losses), standard_error(own)),
        constant=mean(nothing, held.weight),
        blind=mean(blind, train.weight),
        **_curve(run),
    )
    boosted = reference_losses(target, seen, unseen, probable)
    if boosted is None:
        return found
    return replace(
        found,
        reference=mean(boosted, held.weight),
        reference_spread=standard_error(boosted - losses),
    )


def _splits(data: TableData) -> list[Split]:
    """What is held out: the validation rows too, which have only chosen among weights."""
    names: tuple[Split, ...] = ("valid", "test")
    return [split for split in names if data.size(split)]


def _predicted(run: Run, rows: Sample) -> Predictions:
    return Predictions(answers(run, rows.features), {}, rows.true, rows.weight)


def judge(seen: Evidence) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict, and the sentences that say it and what it rests on."""
    gap = seen.held - seen.train
    wide = (
        gap > 2 * seen.spread
        and seen.over(seen.train, seen.held) < 1 - GAP
        and seen.over(seen.held, seen.constant) > NOTHING
    )
    verdict, why = _of_wide_gap(seen) if wide else _of_narrow_gap(seen)
    return verdict, (f"{verdict.capitalize()}: {why}", *_facts(seen))


def _of_wide_gap(seen: Evidence) -> tuple[Verdict, str]:
    """Errors on held-out rows are well above those on training rows: the model's fault or the data's."""
    above = "errors on held-out rows are well above those on the training rows"
    cure = "A smaller model, more weight decay or dropout, or fewer steps narrow the gap."
    more = _more_rows_help(seen)
    if more:
        return "not enough data", f"{above}, and still fall with every further row."
    if _beaten(seen):
        return (
            "over-fitting",
            f"{above}, and gradient boosting does better on the same rows. {cure}",
        )
    if _rose(seen):
        return "over-fitting", f"{above}, and the validation measure rose during training. {cure}"
    if more is False:
        return "over-fitting", f"{above}, and more rows hardly help. {cure}"
    return "not enough data", f"{above}, and gradient boosting does no better with these rows."


def _of_narrow_gap(seen: Evidence) -> tuple[Verdict, str]:
    """Errors are alike on both: all is found that can be, or the model or its training falls short."""
    hopeless = min(seen.held, seen.reference or 0.0)
    if seen.over(hopeless, seen.constant) > LITTLE:
        return "not enough data", (
            "neither this model nor gradient boosting predicts much better than a constant; "
            "these columns, or so few rows, say next to nothing about the target."
        )
    if seen.falling > FALLING:
        return "under-fitting", (
            "the validation measure was still falling when the budget ended; "
            "train longer or at a higher rate."
        )
    if _beaten(seen):
        return "under-fitting", (
            "gradient boosting finds more in the same columns, and errors on the training rows are as high "
            "as on held-out ones; a larger model or longer training should find it too."
        )
    if seen.over(seen.train, seen.blind) > LITTLE:
        return (
            "under-fitting",
            "it predicts hardly better than a constant, on the training rows too.",
        )
    tried = ""
    if seen.reference is not None:
        better = seen.over(seen.reference, seen.held) < 1 - BETTER
        tried = (
            "; gradient boosting looks better, but so few held-out rows do not tell"
            if better
            else ", and gradient boosting finds no more"
        )
    return "fine", f"errors on held-out rows are close to those on the training rows{tried}."


def row_curve(run: Run, seen: Evidence) -> Evidence:
    """The evidence with errors of fits on 10, 20, 40, 80 and 100% of the training rows, in as many steps."""
    frame, parts = rows_of(run)
    data = cast(TableData, run.examples())
    target, probable = data.target, cast(Supervised, run.objective).probabilistic
    codes, everything = codes_of(run, frame), np.flatnonzero(parts == TRAIN)
    rows = np.concatenate([np.flatnonzero(parts == part) for part in (VALID, TEST)])
    held = frame[rows[places(len(rows))]]
    true = gather(run, data.reopen(held, seed=run.seed, whole=True), "test")
    found: list[tuple[int, float, float]] = []
    for share in SHARES:
        # one order for all: each share holds the one before
        rows = share_of(codes, everything, share, np.random.default_rng(run.seed))
        again = refitted(run, rows, budget(run, share))
        own = _predicted(again, sample(cast(TableData, again.examples()), "train", MOST))
        outer = replace(true, values=told(run, again, held).values)
        trained = rowwise(again.data.target, own, probable)  # type: ignore[attr-defined]
        losses = rowwise(target, outer, probable)
        found.append((len(rows), mean(trained, own.weight), mean(losses, true.weight)))
    return replace(seen, rows=RowCurve(*zip(*found, strict=True)))  # type: ignore[arg-type]


# --- over training and over rows --------------------------------------------------------------------


def _curve(run: Run) -> dict[str, Any]:
    """Best and last step of the validation measure, how it rose after the best, whether it still fell."""
    best = best_line(run.metrics.lines)
    if best is None:
        return {}
    name = next(key for key in best if key.startswith("valid."))
    values = run.metrics.series(name)[1]
    last = int(max(line.get("step", 0) for line in run.metrics.lines))
    found: dict[str, Any] = {"best_step": int(best["step"]), "last_step": last}
    if len(values) < EVALUATIONS or not all(map(math.isfinite, values)):
        return found
    losses = np.array(values)
    if name.removeprefix("valid.") in run.objective.higher:
        losses = 1 - losses
    if name.endswith("mse"):
        losses = np.sqrt(losses)
    scale = float(np.abs(losses).min()) or 1.0
    half = len(losses) // 2
    return {
        **found,
        "risen": float(np.median(losses[-3:]) - losses.min()) / scale,
        "falling": float(losses[:half].min() - losses[half:].min()) / scale,
    }


def _beaten(seen: Evidence) -> bool:
    """Whether gradient boosting is better by far, and by more than chance."""
    if seen.reference is None:
        return False
    sure = seen.reference + 2 * seen.reference_spread < seen.held
    return sure and seen.over(seen.reference, seen.held) < 1 - BETTER


def _rose(seen: Evidence) -> bool:
    """Whether training went on well beyond the best weights, to worse ones."""
    return seen.risen > RISEN and seen.best_step < 0.8 * seen.last_step


def _more_rows_help(seen: Evidence) -> bool | None:
    """Whether errors still fall from two fifths of the rows to all of them; None if that was not tried."""
    if seen.rows is None:
        return None
    before, after = seen.rows.held[SHARES.index(0.4)], seen.rows.held[-1]
    return seen.over(before, after) > 1 + HELPS


def _facts(seen: Evidence) -> tuple[str, ...]:
    root = seen.measure == "mean squared error"
    name = "root mean squared error" if root else seen.measure
    told_ = {
        "training rows": seen.train,
        f"held-out ({seen.where})": seen.held,
        "a constant": seen.constant,
    }
    if seen.reference is not None:
        told_["gradient boosting on the same rows"] = seen.reference
    parts = ", ".join(f"{key} {number(shown(seen.measure, v))}" for key, v in told_.items())
    sentences = [f"The {name}: {parts}."]
    if seen.risen > RISEN and seen.best_step < seen.last_step:
        sentences.append(
            f"The validation measure was best at step {seen.best_step:,} of {seen.last_step:,} and "
            f"{seen.risen:.0%} worse in the end; the weights that are kept are the best ones."
        )
    if seen.rows is not None:
        pairs = zip(seen.rows.rows, seen.rows.held, strict=True)
        parts = ", ".join(f"{n:,} rows {number(shown(seen.measure, v))}" for n, v in pairs)
        sentences.append(f"Held-out {name} after fits on fewer rows: {parts}.")
    return tuple(sentences)


def table_rows(seen: Evidence) -> Sequence[tuple[str, float]]:
    """What is compared with what, for a table and a picture."""
    rows: Mapping[str, float | None] = {
        "this model, training rows": seen.train,
        "this model, held-out rows": seen.held,
        "a constant": seen.constant,
        "gradient boosting, held-out rows": seen.reference,
    }
    return [(k, shown(seen.measure, v)) for k, v in rows.items() if v is not None]
