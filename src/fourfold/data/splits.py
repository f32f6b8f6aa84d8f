"""Which rows train, validate and test: hold-out and K folds; stratified, by whole groups, forward in time.

Stratified as scikit-learn's StratifiedKFold, grouped as its StratifiedGroupKFold, forward-chaining as its
TimeSeriesSplit. Everything is fixed by the seed.
Shapes: N rows, P parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field

NONE, TRAIN, VALID, TEST = -1, 0, 1, 2
"""The part of a row; NONE is left out."""
Share = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole."""


def _whole(shares: tuple[float, float, float]) -> tuple[float, float, float]:
    if abs(sum(shares) - 1) > 1e-6 or shares[0] == 0:
        raise ValueError(f"expected shares that sum to 1, training not 0, got {shares}")
    return shares


Shares = Annotated[tuple[Share, Share, Share], AfterValidator(_whole)]
"""An option: the shares of training, validation and test."""


@dataclass(frozen=True)
class Fold:
    """One of `count` folds: the rows of fold `number`, from 1, are the test rows."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Fold:
        """What "2/5" means.

        Raises:
            ValueError: it is not of that form.
        """
        number, _, count = text.partition("/")
        if number.strip().isdecimal() and count.strip().isdecimal():
            found = cls(int(number), int(count))
            if 1 <= found.number <= found.count and found.count >= 2:
                return found
        raise ValueError(f"fold: expected a fold and how many there are, as 2/5, got {text!r}")


def divide(
    count: int,
    shares: tuple[float, float, float],
    seed: int,
    *,
    fold: Fold | None = None,
    ordered: bool = False,
    classes: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """The part of each row.

    Args:
        count: N.
        shares: of the training, validation and test rows; they need not sum to 1.
        seed: fixes what is drawn.
        fold: the test rows are those of this fold, and the shares divide the rest.
        ordered: the last rows test, and the last of the others validate; with `fold` the rows are blocks
            of time, the test block is trained on what lies before it, and what lies after is left out.
        classes: (N,) int, spread over the parts in equal proportions.
        groups: (N,) int, each kept whole.

    Returns:
        (N,) int8 of TRAIN, VALID, TEST and NONE.
    """
    if ordered:
        return _in_order(count, shares, fold)
    if fold is None:
        random = np.random.default_rng([seed, 0x5EED])
        return allot(count, shares, random, classes, groups)
    random = np.random.default_rng([seed, 0xF01D])
    equal = np.ones(fold.count)
    parts = np.full(count, TEST, np.int8)
    rest = np.flatnonzero(allot(count, equal, random, classes, groups) != fold.number - 1)
    parts[rest] = allot(
        len(rest),
        shares[:2],
        np.random.default_rng([seed, 0xF01D, fold.number]),
        None if classes is None else classes[rest],
        None if groups is None else groups[rest],
    )
    return parts


def _in_order(count: int, shares: tuple[float, float, float], fold: Fold | None) -> np.ndarray:
    parts = np.full(count, NONE, np.int8)
    if fold is None:
        valid, test = (round(count * share / sum(shares)) for share in shares[1:])
        end = count
    else:
        test = count // (fold.count + 1)
        end = count - (fold.count - fold.number) * test
        valid = round((end - test) * shares[1] / sum(shares[:2]))
    parts[:end] = TEST
    parts[: end - test] = VALID
    parts[: end - test - valid] = TRAIN
    return parts


def allot(
    count: int,
    shares: Sequence[float] | np.ndarray,
    random: np.random.Generator,
    classes: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Deal N rows out to P parts at random.

    Args:
        count: N.
        shares: (P,) of the parts.
        random: draws.
        classes: (N,) int: each part gets its share of every class, and the first one row at least.
        groups: (N,) int: rows of a group get the same part, and parts come as near to their shares as
            whole groups allow; no part with a share stays empty while there are groups enough.

    Returns:
        (N,) int8, the part of each row.
    """
    if groups is not None:
        return _whole_groups(groups, classes, np.asarray(shares, float), random)
    sizes = [round(count * share / sum(shares)) for share in shares[1:]]
    sizes = [count - sum(sizes), *sizes]
    if (
        len(set(shares)) == 1
    ):  # equal parts: one after the other, so that sizes differ by one at most
        dealt = (np.arange(count) % len(sizes)).astype(np.int8)
    elif classes is None:
        dealt = np.repeat(np.arange(len(sizes), dtype=np.int8), sizes)
    else:
        dealt = _interleaved(sizes)
    if classes is None:
        random.shuffle(dealt)
        return dealt
    order = random.permutation(count)
    order = order[np.argsort(classes[order], kind="stable")]  # random within each class
    parts = np.empty(count, np.int8)
    parts[order] = dealt
    if len(set(shares)) > 1:
        _one_of_each(parts, classes)
    return parts


def _interleaved(sizes: Sequence[int]) -> np.ndarray:
    """Each part's number as often as its size says, spread so that any stretch has the same proportions."""
    numbers = np.repeat(np.arange(len(sizes), dtype=np.int8), sizes)
    places = np.concatenate([(np.arange(size) + 0.5) / max(1, size) for size in sizes])
    return numbers[np.argsort(places, kind="stable")]


def _one_of_each(parts: np.ndarray, classes: np.ndarray) -> None:
    """Move a row of each class that the first part lacks into it."""
    for number in np.setdiff1d(classes, classes[parts == 0]):
        parts[np.flatnonzero(classes == number)[0]] = 0


def _whole_groups(
    groups: np.ndarray, classes: np.ndarray | None, shares: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Groups from the largest down, each to the part whose wanted rows of each class it brings nearest."""
    _, groups = np.unique(groups, return_inverse=True)
    kinds = np.zeros(len(groups), np.int64) if classes is None else classes
    table = np.zeros((groups.max() + 1, kinds.max() + 1))  # rows of each group and class
    np.add.at(table, (groups, kinds), 1)
    wanted = np.outer(shares / shares.sum(), table.sum(axis=0))  # (P, classes)
    given = wanted > 0
    scale = np.where(given, np.maximum(wanted, 1e-9), 1.0)
    filled, chosen = np.zeros_like(wanted), np.zeros(len(table), np.int8)
    order = random.permutation(len(table))
    order = order[np.argsort(-table[order].sum(axis=1), kind="stable")]
    barred = np.where(shares > 0, 0.0, np.inf)
    for group in order:
        rows = table[group]
        # what sum((filled - wanted)^2 / wanted) gains by giving the group to each part
        gain = (rows * (2 * (filled - wanted) + rows) / scale).sum(axis=1) + barred
        chosen[group] = part = int(gain.argmin())
        filled[part] += rows
    _none_empty(chosen, shares, table.sum(axis=1))
    return chosen[groups]


def _none_empty(chosen: np.ndarray, shares: np.ndarray, sizes: np.ndarray) -> None:
    """Give each part that should have rows and has none the smallest group of the part with the most groups."""
    for part in np.flatnonzero(shares > 0)[::-1]:  # of two groups one tests, and none validates
        counts = np.bincount(chosen, minlength=len(shares))
        most = int(counts.argmax())
        if counts[part] == 0 and counts[most] > 1:
            members = np.flatnonzero(chosen == most)
            chosen[members[sizes[members].argmin()]] = part
