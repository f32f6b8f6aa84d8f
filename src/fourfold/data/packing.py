"""Examples of different lengths put together into rows of one length."""

from __future__ import annotations

from collections import deque

import numpy as np


def pack(lengths: np.ndarray, order: np.ndarray, window: int) -> list[np.ndarray]:
    """Best fit decreasing: the longest first, each into the fullest row that still holds it (Johnson 1973).

    It uses at most 11/9 of the fewest possible rows and one more. How many it makes depends on the lengths alone, which
    examples share a row on the order too.

    Args:
        lengths: (N,) int64 of every example, 1 to window.
        order: (N,) int64 a permutation of the examples: it breaks ties between equal lengths.
        window: length of a row.

    Returns:
        The examples of each row, int64, in the order in which they came in.
    """
    longest_first = order[np.argsort(-lengths[order], kind="stable")]
    rows: list[list[int]] = []
    by_space: list[deque[int]] = [deque() for _ in range(window + 1)]
    spaces = 0  # bit s is set where some row has s places left
    for example in longest_first.tolist():
        length = int(lengths[example])
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            row = by_space[space].popleft()
            if not by_space[space]:
                spaces &= ~(1 << space)
        else:
            space, row = window, len(rows)
            rows.append([])
        rows[row].append(example)
        if left := space - length:
            by_space[left].append(row)
            spaces |= 1 << left
    return [np.array(row, np.int64) for row in rows]
