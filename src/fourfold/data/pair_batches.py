"""Batches of pairs by how many tokens they hold, of sentences about as long as one another.

Cost of a batch: its sentences times the longest source and the longest target among them, padding included.
"""

from __future__ import annotations

import numpy as np

POOL = 64
"""Batches whose sentences are sorted by length together: a larger pool pads less, a smaller one mixes more."""


def epoch_batches(
    sources: np.ndarray, targets: np.ndarray, tokens: int, seed: int, epoch: int
) -> list[np.ndarray]:
    """The numbers of the pairs in each batch of an epoch, every pair once, fixed by (seed, epoch).

    Pairs are shuffled, sorted by length within pools of POOL batches, cut, and the batches shuffled.

    Args:
        sources: (N,) tokens of each source.
        targets: (N,) tokens of each target.
        tokens: most of a batch, of both sides together; a longer pair is a batch by itself.
        seed, epoch: of the order.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(sources))
    both = (sources + targets)[order]
    pool = np.cumsum(both) // (POOL * tokens)
    # of equal lengths the shuffled order stays
    order = order[np.lexsort((sources[order], targets[order], pool))]
    batches = cut(sources[order], targets[order], tokens)
    found = [order[begin:end] for begin, end in batches]
    return [found[i] for i in generator.permutation(len(found))]


def cut(sources: np.ndarray, targets: np.ndarray, tokens: int) -> list[tuple[int, int]]:
    """Where batches begin and end in an order of pairs, as long as each may be."""
    found = []
    begin = longest_source = longest_target = 0
    for place, (s, t) in enumerate(zip(sources.tolist(), targets.tolist(), strict=True)):
        longest_source, longest_target = max(longest_source, s), max(longest_target, t)
        if place > begin and (place - begin + 1) * (longest_source + longest_target) > tokens:
            found.append((begin, place))
            begin, longest_source, longest_target = place, s, t
    if len(sources) > begin:
        found.append((begin, len(sources)))
    return found


def padding(sources: np.ndarray, targets: np.ndarray, batches: list[np.ndarray]) -> float:
    """The share of padding in some batches: places that hold no token."""
    places = held = 0
    for rows in batches:
        places += len(rows) * (int(sources[rows].max()) + int(targets[rows].max()))
        held += int(sources[rows].sum() + targets[rows].sum())
    return 1 - held / places if places else 0.0
