"""Rows of masked text: documents cut to what a row holds, short ones packed side by side.

D documents, P stretches of them, R rows, B of them taken, T positions of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fourfold.data.mask_tokens import Specials
from fourfold.data.masks import Chance
from fourfold.data.packing import pack


class Stretches(NamedTuple):
    """Pieces of a split's tokens: documents, or parts of them."""

    begins: np.ndarray
    """(P,) int64 places in the split's tokens."""
    lengths: np.ndarray
    """(P,) int64 tokens, [CLS] and [SEP] excluded."""

    def some(self, which: np.ndarray) -> Stretches:
        """Those of an index or a mask."""
        return Stretches(self.begins[which], self.lengths[which])


class Rows(NamedTuple):
    """An epoch's rows."""

    stretches: Stretches
    order: np.ndarray
    """(P,) int64 stretches, those of a row side by side."""
    edges: np.ndarray
    """(R + 1,) int64: row r holds order[edges[r]:edges[r + 1]]."""

    def take(
        self, tokens: np.ndarray, index: np.ndarray, window: int, specials: Specials
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows before anything is hidden.

        Args:
            tokens: of the split.
            index: (B,) int64 rows.
            window: positions of a row, T.
            specials: what stands around stretches and behind them.

        Returns:
            Tokens, their places in the split or -1, and the numbers of their stretches in the row, each (B, T) int64.
            Padding is a stretch of its own.
        """
        counts = self.edges[index + 1] - self.edges[index]
        row = np.repeat(np.arange(len(index)), counts)
        nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        piece = self.order[np.repeat(self.edges[index], counts) + nth]
        sizes = self.stretches.lengths[piece] + 2
        ends = np.cumsum(sizes)
        inside = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - sizes, sizes)
        before = ends - sizes  # of each row's stretches, less what other rows hold
        before = before - np.repeat(before[np.cumsum(counts) - counts], counts)
        place = np.repeat(row * window + before, sizes) + inside
        sources = np.full((len(index), window), -1, np.int64)
        sources.flat[place] = np.repeat(self.stretches.begins[piece], sizes) - 1 + inside
        segments = np.repeat(counts[:, None], window, 1)
        segments.flat[place] = np.repeat(nth, sizes)
        whole = np.full((len(index), window), specials.pad, np.int64)
        whole.flat[place] = tokens[np.minimum(sources.flat[place], len(tokens) - 1)]
        for edge, token in ((before, specials.cls), (before + sizes - 1, specials.sep)):
            whole[row, edge], sources[row, edge] = token, -1
        return whole, sources, segments


def documents(tokens: np.ndarray, end: int, after: int) -> Stretches:
    """The documents of a split.

    Args:
        tokens: (N + 1,) integers, the opening token first.
        end: the token that ends a document.
        after: how far behind it the next one begins.
    """
    ends = np.append(np.flatnonzero(tokens == end), len(tokens))
    begins = np.concatenate([[1], ends[:-1] + after])
    found = Stretches(begins, ends - begins)
    return found.some(found.lengths > 0)


def stretches(found: Stretches, room: int, key: tuple[int, ...] | None) -> Stretches:
    """Documents cut to what a row holds; the first stretch of a longer one is shorter by what the key decides.

    Args:
        found: the documents.
        room: tokens that a row holds between [CLS] and [SEP].
        key: fixes the cuts, as (seed, epoch); None cuts from the beginning.
    """
    begins, lengths = found
    shifts = np.zeros_like(lengths)
    if key is not None:
        draws = Chance(*key, 0x0FF)(begins)
        shifts = np.where(lengths > room, (draws * room).astype(np.int64), 0)
    counts = -(-(lengths + shifts) // room)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    shifts, lengths, begins = (np.repeat(v, counts) for v in (shifts, lengths, begins))
    first = np.maximum(0, number * room - shifts)
    last = np.minimum(lengths, (number + 1) * room - shifts)
    return Stretches(begins + first, last - first)


def weighed(
    found: Stretches, spans: Sequence[slice], shares: np.ndarray, room: int, key: tuple[int, ...]
) -> Stretches:
    """An epoch's stretches under a mixture: whole passes of each source, and of one more pass as many as are missing.

    Args:
        found: the documents of all sources.
        spans: of each source's tokens, the opening token not counted.
        shares: of the epoch that each source gives; they sum to 1.
        room: tokens that a row holds between [CLS] and [SEP].
        key: fixes cuts and choice, as (seed, epoch).
    """
    total, parts = found.lengths.sum(), []
    for span, share in zip(spans, shares, strict=True):
        mine = found.some((found.begins > span.start) & (found.begins <= span.stop))
        passes = share * total / max(1, mine.lengths.sum())
        for number in range(int(np.ceil(passes))):
            part = stretches(mine, room, (*key, number))
            if number + 1 > passes:
                order = np.random.default_rng([*key, number, 0x313C]).permutation(len(part.begins))
                part = part.some(order[: round((passes - number) * len(order))])
            parts.append(part)
    return Stretches(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def packed(found: Stretches, window: int, key: tuple[int, ...] | None) -> Rows:
    """Stretches put into rows.

    Args:
        found: the stretches, none longer than a row holds.
        window: positions of a row, [CLS] and [SEP] of each stretch included.
        key: fixes which ones share a row, as (seed, epoch); None takes them as they come.
    """
    count = len(found.begins)
    order = np.arange(count)
    if key is not None:  # other neighbours in a row each time
        order = np.random.default_rng([*key, 0x9AC]).permutation(count)
    full = found.lengths[order] == window - 2  # rows of their own: nothing is to be looked for
    short = order[~full]
    rows = pack(found.lengths[short] + 2, np.arange(len(short)), window)
    sizes = [np.ones(full.sum(), np.int64), np.array([len(row) for row in rows], np.int64)]
    edges = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
    return Rows(found, np.concatenate([order[full], *(short[row] for row in rows)]), edges)
