"""Which pairs are learned from: empty sides, lengths that do not go together, splits that do not leak."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fourfold.data.pair_lengths import counted

SLACK = 10
"""Characters that are added to both lengths, so that the ratio of short texts is not judged by little."""


def kept_pairs(
    sources: Sequence[str], targets: Sequence[str], ratio: float | None, identical: str
) -> tuple[np.ndarray, list[str]]:
    """Numbers of the pairs to keep, (K,) int64 ascending, and sentences on those left out.

    Args:
        sources, targets: the texts.
        ratio: how far the ratio of a pair's lengths in characters may be from the usual one, as a factor.
        identical: "keep" or "drop" pairs whose sides are the same.
    """
    left = np.array([len(s) for s in sources], np.int64)
    right = np.array([len(t) for t in targets], np.int64)
    empty = (left == 0) | (right == 0)
    same = np.array([s == t for s, t in zip(sources, targets, strict=True)], bool) & ~empty
    off = np.zeros(len(left), bool)
    notes = list(_empty_notes(left, right))
    if same.any():
        what = (
            "left out"
            if identical == "drop"
            else "learned from as they are; --data.identical drop leaves them out"
        )
        notes.append(f"{counted(int(same.sum()))} of {len(same):,} with identical sides: {what}")
    if ratio is not None and (~empty).any():
        usual = float(np.median(right[~empty] / left[~empty]))
        # a pair's own excess over what the corpus' ratio lets expect
        off = _factor(left, right, usual) > ratio
        off &= ~empty
        if off.any():
            first = int(np.flatnonzero(off)[0])
            notes.append(
                f"{counted(int(off.sum()))} left out: one side is more than {ratio:g} times as long as the other lets expect "
                f"(usually {usual:.2f} characters for one); the first is pair {first + 1:,}: {sources[first][:40]!r} beside "
                f"{targets[first][:40]!r}; --data.ratio none keeps them"
            )
    out = empty | off | (same if identical == "drop" else np.zeros(len(same), bool))
    return np.flatnonzero(~out), notes


def _factor(left: np.ndarray, right: np.ndarray, usual: float) -> np.ndarray:
    """How many times one side is longer than the other lets expect, (N,) >= 1."""
    expected = usual * left
    found = (right + SLACK) / (expected + SLACK)
    return np.maximum(found, 1 / found)


def _empty_notes(left: np.ndarray, right: np.ndarray) -> Iterator[str]:
    both = (left == 0) & (right == 0)
    for which, side in (
        (both, "both sides are"), ((left == 0) & ~both, "the source is"), ((right == 0) & ~both, "the target is"),
    ):  # fmt: skip
        if which.any():
            first = int(np.flatnonzero(which)[0]) + 1
            yield f"{counted(int(which.sum()))} left out: {side} empty (the first is pair {first:,})"


def plan(sources: Sequence[str], shares: tuple[float, float, float], seed: int) -> np.ndarray:
    """The split of each pair, (N,) int8: 0 train, 1 valid, 2 test. Pairs with the same source stay together.

    Args:
        sources: the texts.
        shares: of the splits; their sum is 1.
        seed: of the draw.
    """
    numbers: dict[str, int] = {}
    group = np.array([numbers.setdefault(s, len(numbers)) for s in sources], np.int64)
    order = np.random.default_rng([seed, 0x5A1]).permutation(len(numbers))
    held = [round(share * len(numbers)) for share in shares[1:]]
    # a share that is asked for gets one text at least, where training keeps the most
    held = [max(h, int(s > 0 and len(numbers) > 4)) for h, s in zip(held, shares[1:], strict=True)]
    splits = np.zeros(len(numbers), np.int8)
    if shares[0] == 0:
        splits[:] = 2 if shares[2] else 1
    else:
        splits[order[: held[0]]] = 1
        splits[order[held[0] : held[0] + held[1]]] = 2
    return splits[group] if len(group) else np.zeros(0, np.int8)
