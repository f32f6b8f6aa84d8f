"""Which tokens of a row are hidden, and behind what: BERT's masks, Devlin et al. 2018.

What chance decides is a function of (seed, epoch, row, position), so that a row's mask depends neither on the
rows beside it nor on those before it. B rows, T positions, K places of a row at most.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LONGEST_WORD = 10
"""Tokens of a word that are hidden together; a longer one, as a run of a script without spaces, is cut."""
IGNORE = -100
"""Target of places that do not count."""


class Masked(NamedTuple):
    """Rows with hidden tokens."""

    tokens: np.ndarray
    """(B, T) int64, the hidden ones replaced."""
    places: np.ndarray
    """(B, K) int64 positions of the hidden ones in ascending order, then zeros."""
    targets: np.ndarray
    """(B, K) int64 what was there; `IGNORE` where a row has fewer."""


class Chance:
    """Uniform numbers by counter: SplitMix64 (Steele et al. 2014) from a key of (seed, epoch, purpose)."""

    def __init__(self, *key: int) -> None:
        self.key = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """A float64 in [0, 1) for each place, any integers from 0 on."""
        with np.errstate(over="ignore"):
            x = (places.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + self.key
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x ^= x >> np.uint64(31)
        return (x >> np.uint64(11)) * 2.0**-53


def hide(
    tokens: np.ndarray,
    free: np.ndarray,
    begins: np.ndarray | None,
    rows: np.ndarray,
    *,
    key: tuple[int, ...],
    mask: int,
    ordinary: np.ndarray,
    rate: float,
    random: float,
    kept: float,
) -> Masked:
    """Choose tokens of each row and hide them behind the mask token, a random one, or themselves.

    Of n tokens that may be chosen, round(rate n) are, and one at least.

    Args:
        tokens: (B, T) int64, whole.
        free: (B, T) bool, which may be chosen.
        begins: (B, T) bool, where words begin that are hidden as wholes; None chooses single tokens.
        rows: (B,) int64 numbers of the rows, for chance.
        key: what chance is fixed by, as (seed, epoch).
        mask: the mask token.
        ordinary: (V',) int64 tokens that random ones are drawn from.
        rate: share of the tokens that are chosen.
        random: share of the chosen that are replaced by a random token.
        kept: share of the chosen that stay as they are.
    """
    counters = rows[:, None] * tokens.shape[1] + np.arange(tokens.shape[1])
    draws = Chance(*key, 0)(counters)
    wanted = np.where(free.any(1), np.maximum(1, np.rint(rate * free.sum(1))), 0).astype(np.int64)
    if begins is None:
        chosen = _tokens(draws, free, wanted)
    else:
        chosen = _words(draws, free, begins, wanted)
    how = Chance(*key, 1)(counters)
    other = ordinary[(Chance(*key, 2)(counters) * len(ordinary)).astype(np.int64)]
    hidden = np.where(how < kept, tokens, np.where(how < kept + random, other, mask))
    return Masked(np.where(chosen, hidden, tokens), *_gathered(tokens, chosen))


def _tokens(draws: np.ndarray, free: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Those with the lowest draws."""
    order = np.argsort(np.where(free, draws, 2.0), axis=1)
    chosen = np.zeros_like(free)
    np.put_along_axis(chosen, order, np.arange(free.shape[1]) < wanted[:, None], axis=1)
    return chosen


def _words(
    draws: np.ndarray, free: np.ndarray, begins: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """Words in the order of their first tokens' draws, until the nearest number of tokens is reached."""
    places = np.broadcast_to(np.arange(free.shape[1]), free.shape)
    after = np.zeros_like(free)
    after[:, 1:] = ~free[:, :-1]
    first = _latest(begins | after, places)
    first = _latest((places - first) % LONGEST_WORD == 0, places)
    of_word = np.where(free, np.take_along_axis(draws, first, 1), 2.0)
    order = np.argsort(of_word, axis=1, kind="stable")  # the tokens of a word stay together
    first = np.take_along_axis(first, order, 1)
    new = np.ones_like(free)
    new[:, 1:] = first[:, 1:] != first[:, :-1]
    rank = _latest(new, places)  # how many tokens come before this word
    length = _next(new, places) - rank
    taken = ((rank + length / 2 <= wanted[:, None]) | (rank == 0)) & (wanted > 0)[:, None]
    chosen = np.zeros_like(free)
    np.put_along_axis(chosen, order, taken, axis=1)
    return chosen & free


def _latest(here: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The last place up to each, where it is so; 0 before any."""
    return np.maximum.accumulate(np.where(here, places, 0), axis=1)


def _next(here: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The first place after each, where it is so; the end after all."""
    width = here.shape[1]
    after = np.full(here.shape, width)
    after[:, :-1] = np.where(here[:, 1:], places[:, 1:], width)
    return np.minimum.accumulate(after[:, ::-1], axis=1)[:, ::-1]


def _gathered(tokens: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts = chosen.sum(1)
    most = max(1, int(counts.max(initial=0)))
    # a stable sort puts the chosen places first, in their order
    places = np.argsort(~chosen, axis=1, kind="stable")[:, :most]
    counted = np.arange(most) < counts[:, None]
    targets = np.where(counted, np.take_along_axis(tokens, places, 1), IGNORE)
    return np.where(counted, places, 0), targets
