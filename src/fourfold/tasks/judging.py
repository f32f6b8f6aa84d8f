"""The learning verdict as an explanation: sentences first, then tables and pictures of the evidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from fourfold.core.run import Run
from fourfold.core.types import Explanation, Picture, Table
from fourfold.data.table import TableData
from fourfold.look import learning as look
from fourfold.look.figures import short_name
from fourfold.tasks.learning import Evidence, gathered, judge, row_curve, table_rows
from fourfold.tasks.losses import shown
from fourfold.tasks.variance import Spread, spreads


def verdict(
    run: Run, *, rows: bool = False, spread: Sequence[str] = (), fits: int = 5
) -> Explanation:
    """Whether a run under-fits, over-fits, is fine or lacks data.

    Args:
        run: the run, with its source at hand.
        rows: also fit on 10, 20, 40, 80 and 100% of the training rows.
        spread: options, or "rows", over which bias and variance are measured.
        fits: bootstrap samples for each of their values.

    Raises:
        UserError: nothing was held out, the source is gone, or an option is no number.
    """
    seen = gathered(run)
    if rows:
        seen = row_curve(run, seen)
    found = spreads(run, spread, fits)
    target = cast(TableData, run.data).target
    unit = "squared error" if target.kind == "number" else "Brier score"
    name = run.folder.name if run.folder else run.system.name
    return Explanation(
        f"What {name} has learned",
        judge(seen)[1] + tuple(_in_words(s) for s in found),
        (_table(seen), *(_spread_table(s, unit) for s in found)),
        (
            *drawn(run, seen),
            *(
                look.bias_variance(s.option, s.values, s.bias, s.variance, s.fits, unit)
                for s in found
            ),
        ),
    )


def drawn(run: Run, seen: Evidence) -> Iterator[Picture]:
    """The evidence in pictures."""
    root = seen.measure == "mean squared error"
    unit = cast(TableData, run.data).target.name
    measure = f"root mean squared error ({short_name(unit, 30)})" if root else seen.measure
    yield look.compared(table_rows(seen), measure, seen.where)
    curve = look.over_training(run.metrics.lines, seen.best_step)
    if curve is not None:
        yield curve
    if seen.rows is not None:
        train, held = (
            [shown(seen.measure, v) for v in values] for values in (seen.rows.train, seen.rows.held)
        )
        yield look.over_rows(seen.rows.rows, train, held, measure)


def _table(seen: Evidence) -> Table:
    root = seen.measure == "mean squared error"
    name = "root mean squared error" if root else seen.measure
    return Table(
        "Errors compared", ("of", name), tuple(table_rows(seen)), f"Held-out: {seen.where}."
    )


def _spread_table(found: Spread, unit: str) -> Table:
    rows = zip(found.values, found.bias, found.variance, strict=True)
    return Table(
        f"Bias and variance over {found.option}",
        (found.option, "bias² and noise", "variance", f"expected {unit}"),
        tuple((v, b, s, b + s) for v, b, s in rows),
        f"{found.fits} fits on bootstrap samples for each value.",
    )


def _in_words(found: Spread) -> str:
    total = [b + v for b, v in zip(found.bias, found.variance, strict=True)]
    best = min(range(len(total)), key=total.__getitem__)
    share = found.variance[best] / total[best] if total[best] > 0 else 0.0
    return (
        f"Over {found.option}, the expected error is least at {found.values[best]:,.4g}, "
        f"where variance is {share:.0%} of it."
    )
