"""Texts as rows that go on from batch to batch, for back-propagation through time that carries a state.

Mikolov et al. 2010; Zaremba et al. 2014, https://arxiv.org/abs/1409.2329. The N tokens of a split are cut into
B rows of consecutive tokens, equal in length up to one token. Batch s holds the s-th window of every row, so
that row r of a batch goes on where row r of the batch before ended. T is the window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fourfold.core.parts import Batch


@dataclass(frozen=True)
class Rows:
    """How the tokens of a split are cut into rows, and rows into windows."""

    tokens: int
    """N: every one is a target exactly once."""
    rows: int
    """B."""
    window: int
    """T."""
    first: int
    """Tokens of the first window, 1 to T; the others are full, but for the last."""

    @property
    def longest(self) -> int:
        """Tokens of the first row; the last rows have one less where the rows do not divide the tokens."""
        return -(-self.tokens // self.rows)

    @property
    def steps(self) -> int:
        """Batches."""
        if not self.tokens:
            return 0
        return 1 + -(-max(0, self.longest - self.first) // self.window)

    def batch(self, tokens: np.ndarray, step: int, end: int, ignore: int) -> Batch:
        """One batch.

        Args:
            tokens: (N + 1,) integers, the first of them the end token before the text.
            step: which, from 0.
            end: read where a row has ended.
            ignore: the target there.

        Returns:
            "tokens" and "targets", (B, T) int64 or shorter, and "begins", (B,) bool: whether a row goes on
            from nothing, here for all rows of the first batch.
        """
        start = 0 if step == 0 else self.first + (step - 1) * self.window
        stop = min(self.first + step * self.window, self.longest)
        each, longer = divmod(self.tokens, self.rows)
        number = np.arange(self.rows)
        begins = number * each + np.minimum(number, longer)
        ends = begins + each + (number < longer)
        places = begins[:, None] + np.arange(start, stop)  # (B, T), of what is read
        over = places >= ends[:, None]
        places = np.minimum(places, self.tokens - 1)
        inputs, targets = (tokens[places + shift].astype(np.int64) for shift in (0, 1))
        inputs[over], targets[over] = end, ignore
        return {
            "tokens": torch.from_numpy(inputs),
            "targets": torch.from_numpy(targets),
            "begins": torch.full((self.rows,), step == 0),
        }


def rows_of(tokens: int, rows: int, window: int, seed: int, epoch: int | None) -> Rows:
    """The rows of one pass over a split.

    In an epoch the first window has between half a window and a whole one, fixed by (seed, epoch): back-propagation
    is then cut at other places than in the epoch before, and still every token is a target exactly once.

    Args:
        tokens: N.
        rows: B; fewer where there are fewer tokens.
        window: T.
        seed: fixes the first window.
        epoch: which pass; None is stored order, where the first window is a whole one.
    """
    first = window
    if epoch is not None:
        random = np.random.default_rng([seed, epoch, 0xC0]).integers(-(-window // 2))
        first = window - int(random)
    return Rows(tokens, max(1, min(rows, tokens)), window, first)
