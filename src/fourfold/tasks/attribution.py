"""Which columns a prediction rests on: Shapley values of rows, permutation importance, partial dependence.

Sampled Shapley values: Štrumbelj and Kononenko 2014; antithetic permutations: Mitchell et al. 2022,
https://arxiv.org/abs/2104.12199. Permutation importance: Breiman 2001; Fisher, Rudin and Dominici 2019.
Partial dependence: Friedman 2001. Prepared columns that come from one original column (one-hot,
indicator of missing cells) are one player.
Shapes: N rows, D prepared columns, G original columns, M background rows, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Answer = Callable[[np.ndarray], np.ndarray]
"""Prepared rows (N, D) to (N,) or (N, K) predicted values."""
AT_ONCE = 1 << 23
"""Numbers that are predicted from at a time."""


@dataclass(frozen=True)
class Shares:
    """Why rows are predicted as they are: `base` + the sum of a row's contributions is its prediction."""

    base: float
    """Mean prediction of the background rows."""
    contributions: np.ndarray
    """(N, G)."""
    errors: np.ndarray
    """(N, G) standard errors from sampling; zeros where the values are exact."""
    permutations: int = 0
    """Orders of the columns that were drawn for each row; 0 where the values are exact."""


def groups_of(sources: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Original columns in order, and of each prepared column (D,) which it comes from."""
    names = list(dict.fromkeys(sources))
    place = {name: i for i, name in enumerate(names)}
    return names, np.array([place[s] for s in sources], dtype=np.int64)


def linear(
    weights: np.ndarray, rows: np.ndarray, means: np.ndarray, group: np.ndarray
) -> np.ndarray:
    """(N, G) exact contributions w (x - mean) of a linear model of columns that are changed one by one.

    Args:
        weights: (D,).
        rows: (N, D).
        means: (D,) of the background.
        group: (D,) which original column each comes from.
    """
    each = weights * (rows - means)
    found = np.zeros((len(rows), int(group.max(initial=-1)) + 1))
    np.add.at(found.T, group, each.T)
    return found


def shapley(
    answer: Answer,
    rows: np.ndarray,
    background: np.ndarray,
    group: np.ndarray,
    *,
    permutations: int,
    random: np.random.Generator,
) -> Shares:
    """Contributions of a model of any kind, from drawn orders of the columns.

    A path begins at a background row and takes over the row's columns one by one, in a drawn order
    and then in the reverse; each step's change is that column's. Each background row begins equally
    many paths, so that contributions add up exactly, not only on average.

    Args:
        answer: the model, one value a row.
        rows: (N, D) to be explained.
        background: (M, D) rows that stand for "not known".
        group: (D,) which original column each comes from.
        permutations: orders drawn for each row, at least; rounded up to a multiple of 2 M.
        random: fixes the orders.
    """
    count = int(group.max()) + 1
    rounds = -(-permutations // (2 * len(background)))
    starts = np.tile(np.arange(len(background)), rounds)
    found, errors = np.zeros((len(rows), count)), np.zeros((len(rows), count))
    for number, row in enumerate(rows):
        orders = np.argsort(random.random((len(starts), count)), axis=1)
        pairs = _changes(answer, row, background[starts], orders, group)
        found[number] = pairs.mean(axis=0)
        # the background rows are not drawn, so that their part of the spread makes this an upper bound
        errors[number] = pairs.std(axis=0, ddof=1) / len(pairs) ** 0.5 if len(pairs) > 1 else 0
    base = float(np.asarray(answer(background), dtype=float).mean())
    return Shares(base, found, errors, 2 * len(starts))


def _changes(
    answer: Answer, row: np.ndarray, starts: np.ndarray, orders: np.ndarray, group: np.ndarray
) -> np.ndarray:
    """(paths, G) changes by column, each the mean of an order and its reverse."""
    paths, count = orders.shape
    ranks = np.empty_like(orders)
    np.put_along_axis(ranks, orders, np.arange(count)[None], axis=1)
    found = np.zeros((paths, count))
    step = max(1, AT_ONCE // ((count + 1) * starts.shape[1]))
    for begin in range(0, paths, step):
        some = slice(begin, begin + step)
        for rank in (ranks[some], count - 1 - ranks[some]):
            # (paths, steps, D): after t steps the columns of the first t ranks are the row's
            taken = rank[:, None, group] < np.arange(count + 1)[None, :, None]
            mixed = np.where(taken, row, starts[some, None, :])
            told = answer(mixed.reshape(-1, starts.shape[1])).reshape(len(rank), count + 1)
            found[some] += np.take_along_axis(np.diff(told, axis=1), rank, axis=1) / 2
    return found


def permutation(
    worse: Callable[[np.ndarray], float],
    rows: np.ndarray,
    group: np.ndarray,
    *,
    repeats: int,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """(G,) means and deviations of how much `worse` gets when an original column is shuffled.

    Args:
        worse: of prepared rows (N, D), in the rows' order, a measure of which less is better.
        rows: (N, D).
        group: (D,) which original column each comes from.
        repeats: shuffles of each column.
        random: fixes them.
    """
    before = worse(rows)
    found = np.zeros((repeats, int(group.max()) + 1))
    for column in range(found.shape[1]):
        which = np.flatnonzero(group == column)
        for repeat in range(repeats):
            shuffled = rows.copy()
            shuffled[:, which] = rows[np.ix_(random.permutation(len(rows)), which)]
            found[repeat, column] = worse(shuffled) - before
    return found.mean(axis=0), found.std(axis=0, ddof=1) if repeats > 1 else np.zeros(
        found.shape[1]
    )


def partial_dependence(
    answer: Answer, rows: np.ndarray, which: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """(V, K) mean predictions when prepared columns of every row are set to each of some values.

    Args:
        answer: the model.
        rows: (N, D) over which the mean is taken.
        which: (W,) the prepared columns that are set.
        values: (V, W) what they are set to.
    """
    found = []
    for value in values:
        changed = rows.copy()
        changed[:, which] = value
        told = np.asarray(answer(changed), dtype=float)
        found.append(told.reshape(len(rows), -1).mean(axis=0))
    return np.stack(found)
