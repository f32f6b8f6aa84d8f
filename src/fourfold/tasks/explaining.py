"""Why rows are predicted as they are: the part of each original column, in words, tables and pictures.

Shapes: N rows, D prepared columns, G original columns.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from fourfold.core.errors import UserError, nearest
from fourfold.core.run import Run
from fourfold.core.targets import Target
from fourfold.core.types import Explanation, Table
from fourfold.core.words import number
from fourfold.data.splits import TEST
from fourfold.data.table import TableData
from fourfold.look.attribution import contributions as picture_of
from fourfold.models.linear import Linear
from fourfold.objectives.supervised import Supervised
from fourfold.tasks.attribution import Shares, groups_of, linear, shapley
from fourfold.tasks.gathering import answers, sample

BACKGROUND = 100
"""Training rows that stand for "not known"."""
EXPLAINED = 1_000
"""Rows that are explained at most."""
NAMED = 5
"""Columns named in a sentence."""
DRAWN = 4
"""Rows drawn."""


def explain_rows(
    run: Run, source: Any, of: str | None, permutations: int, background: Any
) -> Explanation:
    """Why these rows are predicted as they are: each original column's part in the difference from the mean.

    Raises:
        UserError: no rows or too many; an unknown class; the training rows are gone and no other background is given.
    """
    data = cast(TableData, run.data).reopen(source, seed=run.seed, whole=True, targets=False)
    rows, target = sample(data, "test", EXPLAINED + 1).features, data.target
    if not len(rows):
        raise UserError(
            "explain: no row to explain; rows that --missing drop leaves out have no prediction"
        )
    if len(rows) > EXPLAINED:
        raise UserError(
            f"explain: expected {EXPLAINED:,} rows at most, got {data.size('test'):,}; give those in question"
        )
    chosen = _chosen(target, of)
    others = _background(run, background)
    names, group = groups_of([column.source for column in data.columns])
    told = answers(run, rows)
    if target.kind == "number":
        which = np.zeros(len(rows), dtype=int)
    else:
        which = told.argmax(axis=1) if chosen is None else np.full(len(rows), chosen)
    shares = [_shares(run, rows, others, group, which, c, permutations) for c in np.unique(which)]
    merged = _merged(shares, which)
    frame = data.rows.frame()[np.flatnonzero(data.parts == TEST)]  # type: ignore[union-attr]
    values = [[_cell(frame[name][i]) for name in names] for i in range(len(rows))]
    sentences, tables, pictures = [], [], []
    for i in range(len(rows)):
        what = _what(target, int(which[i]), cast(Supervised, run.objective).probabilistic)
        base, contributions, errors = (part[i] for part in merged)
        sentences.append(_sentence(i, len(rows), what, base, contributions, names, values[i]))
        tables.append(_table(i, len(rows), what, names, values[i], contributions, errors))
        if i < DRAWN:
            pictures.append(
                picture_of(
                    names, values[i], contributions, errors, float(base), what, sentences[-1]
                )
            )
    how = (
        "exact, w (x - mean)"
        if shares[0].permutations == 0
        else f"Shapley values from {shares[0].permutations:,} orders of the columns a row; bars are standard errors"
    )
    note = (
        f"Against {len(others):,} {'given' if background is not None else 'training'} rows: {how}. "
        "Contributions and the mean prediction add up to the prediction."
    )
    return Explanation("Why these predictions", (*sentences, note), tuple(tables), tuple(pictures))


# --- rows -------------------------------------------------------------------------------------------


def _background(run: Run, given: Any) -> np.ndarray:
    if given is not None:
        data = cast(TableData, run.data).reopen(given, seed=run.seed, whole=True, targets=False)
        return sample(data, "test", BACKGROUND).features
    try:
        return sample(cast(TableData, run.examples()), "train", BACKGROUND).features
    except UserError as error:
        raise UserError(
            f"{error}; explaining a row takes others to compare with: --background FILE names them"
        ) from error


def _shares(
    run: Run, rows: np.ndarray, others: np.ndarray, group: np.ndarray, which: np.ndarray,
    output: int, permutations: int,
) -> Shares:  # fmt: skip
    """Contributions to one output of the rows it is chosen for; exact where the model is linear."""
    data, some = cast(TableData, run.data), rows[which == output]
    if isinstance(run.model, Linear) and data.target.kind == "number":
        weights = run.model.weight[0].detach().double().cpu().numpy() * data.target.scale
        found = linear(weights, some.astype(float), others.mean(axis=0, dtype=float), group)
        return Shares(float(answers(run, others).mean()), found, np.zeros_like(found))

    def answer(features: np.ndarray) -> np.ndarray:
        told = answers(run, features)
        return told if told.ndim == 1 else told[:, output]

    random = np.random.default_rng([run.seed, 0x5A9])
    return shapley(answer, some, others, group, permutations=permutations, random=random)


def _merged(shares: list[Shares], which: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bases (N,), contributions (N, G) and errors (N, G) in the order of the rows."""
    width = shares[0].contributions.shape[1]
    base, found, errors = np.zeros(len(which)), *np.zeros((2, len(which), width))
    for output, share in zip(np.unique(which), shares, strict=True):
        rows = which == output
        base[rows], found[rows], errors[rows] = share.base, share.contributions, share.errors
    return base, found, errors


# --- words ------------------------------------------------------------------------------------------


def _chosen(target: Target, of: str | None) -> int | None:
    if of is None:
        return None
    if target.kind == "number":
        raise UserError(f"--of is for classes and labels; {target.name} is a number")
    if of not in target.classes:
        raise UserError(f"--of {of}: {target.name} has no such class{nearest(of, target.classes)}")
    return target.classes.index(of)


def _what(target: Target, output: int, probable: bool) -> str:
    if target.kind == "number":
        return target.name
    return f"{'p' if probable else 'score'}({target.classes[output]})"


def _cell(value: Any) -> str:
    if value is None:
        return "(missing)"
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def _sentence(
    row: int, rows: int, what: str, base: float, shares: np.ndarray, names: list[str],
    values: list[str],
) -> str:  # fmt: skip
    order = np.argsort(-np.abs(shares), kind="stable")[:NAMED]
    parts = ", ".join(f"{number_signed(shares[i])} from {names[i]} = {values[i]}" for i in order)
    begin = f"Row {row + 1}: " if rows > 1 else ""
    rest = f", and the other {len(shares) - len(order)} columns" if len(shares) > len(order) else ""
    total = number(float(base + shares.sum()))
    return f"{begin}{what} is {total}; the mean is {number(float(base))}, {parts}{rest}."


def number_signed(value: float) -> str:
    """A number with its sign."""
    return f"{'+' if value >= 0 else '-'}{number(abs(float(value)))}"


def _table(
    row: int, rows: int, what: str, names: list[str], values: list[str], shares: np.ndarray,
    errors: np.ndarray,
) -> Table:  # fmt: skip
    order = np.argsort(-np.abs(shares), kind="stable")
    title = f"Contributions to {what}" + (f", row {row + 1}" if rows > 1 else "")
    body = tuple((names[i], values[i], float(shares[i]), float(errors[i])) for i in order)
    return Table(title, ("column", "value", "contribution", "standard error"), body)
