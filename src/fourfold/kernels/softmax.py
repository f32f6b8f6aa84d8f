"""Cross-entropy of bfloat16 logits with its gradient, compiled: a row at a time, in place.

A row is read, turned into probabilities in a float32 row that stays in the cache, and overwritten with the gradient
of its loss; torch's operations would go several times over float32 copies of all rows. The plain reference is
torch's cross-entropy of the same logits in float32. Shapes: N rows, V logits of a row.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from fourfold.kernels.cached import njit

LOG2E = np.float32(1.4426950408889634)
P1, P2, P3, P4 = (np.float32(c) for c in (0.6930448449, 0.2412802050, 0.0522424739, 0.0134266844))
"""2^f for 0 <= f < 1 is 1 + P1 f + P2 f^2 + ..., exact at 0: relative error below 3e-6, a bfloat16 has 2e-3."""
LEAST = np.float32(-126.0)
"""Exponents of 2 below it are taken as this one: float32 has no normal number there."""
FLAGS = {"reassoc", "contract", "arcp", "nsz"}
"""Sums may be reordered; numbers that are no numbers must stay so, as divergence is found by them."""


@njit(inline="always")
def _exp(x):  # type: ignore[no-untyped-def]
    """e^x of a float32, x <= 0."""
    t = x * LOG2E
    t = LEAST if t < LEAST else t
    n = np.floor(t)
    f = t - n
    p = np.float32(1) + f * (P1 + f * (P2 + f * (P3 + f * P4)))
    return p * np.uint32((np.int32(n) + np.int32(127)) << 23).view(np.float32)


@njit(inline="always")
def _wide(bits):  # type: ignore[no-untyped-def]
    """The float32 of a bfloat16 that is given as int16."""
    return np.uint32(np.uint32(np.uint16(bits)) << np.uint32(16)).view(np.float32)


@njit(inline="always")
def _narrow(x):  # type: ignore[no-untyped-def]
    """The nearest bfloat16 of a float32, as int16."""
    return np.int16((np.float32(x).view(np.uint32) + np.uint32(0x8000)) >> np.uint32(16))


@njit(inline="always")
def _largest(row):  # type: ignore[no-untyped-def]
    """The largest of bfloat16 numbers: as integers they are in order, negative ones in falling order."""
    most, least = row[0], row[0]
    for i in range(len(row)):
        most = max(most, row[i])
        least = min(least, row[i])
    return _wide(most if most >= 0 else least)


@njit(nogil=True, fastmath=FLAGS, boundscheck=False, cache=True)
def _rows(logits, targets, losses, begin, end, ignore):  # type: ignore[no-untyped-def]
    count = logits.shape[1]
    found = np.empty(count, np.float32)
    for r in range(begin, end):
        row, target = logits[r], targets[r]
        if target == ignore:
            row[:] = 0
            losses[r] = 0
            continue
        top = _largest(row)
        true = _wide(row[target])
        total = np.float32(0)
        for i in range(count):
            e = _exp(_wide(row[i]) - top)
            found[i] = e
            total += e
        losses[r] = np.log(total) + top - true
        share = np.float32(1) / total
        for i in range(count):
            row[i] = _narrow(found[i] * share)
        row[target] = _narrow(found[target] * share - np.float32(1))


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count)


def differentiate(logits: Tensor, targets: Tensor, ignore: int) -> Tensor:
    """Cross-entropies, and their gradients in place of the logits.

    Args:
        logits: (N, V) bfloat16 on the CPU, contiguous; overwritten with the gradient of the sum.
        targets: (N,) int64 from 0 to below V; `ignore` does not count.

    Returns:
        (N,) float32 in nats, 0 where a row does not count.

    Raises:
        IndexError: a target that is neither.
    """
    wrong = (targets < 0) | (targets >= logits.shape[1])
    if bool((wrong & (targets != ignore)).any()):
        raise IndexError(f"a target is out of bounds: expected 0 to {logits.shape[1] - 1}")
    losses = torch.empty(len(logits))
    arrays = logits.view(torch.int16).numpy(), targets.contiguous().numpy(), losses.numpy()
    count = min(torch.get_num_threads(), len(logits))
    if count == 1:
        _rows(*arrays, 0, len(logits), ignore)
        return losses
    bounds = np.linspace(0, len(logits), count + 1).astype(int).tolist()
    jobs = [
        _threads(count).submit(_rows, *arrays, begin, end, ignore)
        for begin, end in zip(bounds, bounds[1:], strict=False)
    ]
    for job in jobs:
        job.result()
    return losses
