"""From n-grams as lists of words, as files have them, to the tables that are searched.

Shapes: n n-grams of an order, k words of each, V words.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fourfold.core.errors import UserError
from fourfold.kernels.ngram import Tables, row_surprises
from fourfold.models.arpa import parents_of, paths


class Grams(NamedTuple):
    """The n-grams of one order."""

    words: np.ndarray
    """(n, k) int32."""
    logs: np.ndarray
    """(n,) float64, log10 of the probabilities; NaN of n-grams that only stand for longer ones."""
    weights: np.ndarray
    """(n,) float64, log10 of the back-off weights."""


def tree(
    orders: list[Grams], tokens: np.ndarray, vocabulary: int, marks: tuple[int, int]
) -> tuple[Tables, int, int]:
    """The tables of a model in which token 0 ends documents, and 2 ends sentences and, as a context, begins them.

    Args:
        orders: the n-grams of each order, by the file's numbers of words.
        tokens: the token of each of these.
        vocabulary: V.
        marks: the file's numbers of <s> and </s>, -1 where it has none.

    Returns:
        The tables; how many n-grams were left out, since nothing leads to them; and how many had to be put in,
        since longer ones begin with them.

    Raises:
        UserError: an n-gram is there twice.
    """
    begin, end = marks
    left_out = 0
    levels: list[Grams] = []
    for order, grams in enumerate(orders[1:], 2):
        reached = (grams.words[:, 1:] != begin).all(1) & (grams.words[:, :-1] != end).all(1)
        left_out += int((~reached).sum())
        levels.append(
            Grams(tokens[grams.words[reached]], grams.logs[reached], grams.weights[reached])
        )
        levels[-1].words.shape = (-1, order)
    logs = np.full(vocabulary, -100.0)
    weights = np.zeros(vocabulary)
    single = orders[0]
    places = tokens[single.words[:, 0]]
    predicted = single.words[:, 0] != begin
    logs[places[predicted]] = single.logs[predicted]
    goes_on = single.words[:, 0] != end
    weights[places[goes_on]] = single.weights[goes_on]
    tables, implied = _tables(levels, logs, weights, vocabulary), 0
    if tables is None:
        levels, implied = _with_beginnings(levels)
        tables = _tables(levels, logs, weights, vocabulary)
        assert tables is not None  # noqa: S101
        _fill_in(tables)
    return tables, left_out, implied


def _with_beginnings(levels: list[Grams]) -> tuple[list[Grams], int]:
    """The orders from 2 on, with the beginnings of all longer n-grams among the shorter ones."""
    levels, implied = list(levels), 0
    for i in range(len(levels) - 1, 0, -1):
        wanted = _rows(levels[i].words[:, :-1])
        missing = np.unique(wanted[~np.isin(wanted, _rows(levels[i - 1].words))])
        if len(missing):
            words = missing.view(np.int32).reshape(len(missing), -1).byteswap()
            implied += len(words)
            known = levels[i - 1]
            levels[i - 1] = Grams(
                np.concatenate([known.words, words]),
                np.concatenate([known.logs, np.full(len(words), np.nan)]),
                np.concatenate([known.weights, np.zeros(len(words))]),
            )
    return levels, implied


def _rows(words: np.ndarray) -> np.ndarray:
    """Each row as one value whose order is that of its words: their bytes, the largest first."""
    rows = np.ascontiguousarray(words.astype(">i4"))
    return rows.view(np.dtype((np.void, 4 * words.shape[1])))[:, 0]


def _tables(
    levels: list[Grams], logs: np.ndarray, weights: np.ndarray, vocabulary: int
) -> Tables | None:
    """The tables; None where an n-gram's beginning is missing."""
    order = 1 + len(levels)
    every = [np.arange(vocabulary, dtype=np.int32)]
    all_logs, all_weights, firsts = [logs], [weights], [np.array([vocabulary], np.int64)]
    above: list[np.ndarray] = []  # sorted keys of each level from 2 on
    size = vocabulary
    for k, grams in enumerate(levels, 2):
        parent = grams.words[:, 0].astype(np.int64)
        for j, keys in enumerate(above, 1):
            wanted = (parent << 32) | grams.words[:, j]
            parent = np.searchsorted(keys, wanted)
            if len(wanted) and not np.array_equal(keys[np.minimum(parent, len(keys) - 1)], wanted):
                return None
        keys = (parent << 32) | grams.words[:, -1]
        place = np.argsort(keys, kind="stable")
        keys = keys[place]
        if (keys[1:] == keys[:-1]).any():
            raise UserError(f"the ARPA file has a {k}-gram twice")
        parents = len(every[-1])
        begins = np.searchsorted(keys, np.arange(1, parents + 1, dtype=np.int64) << 32)
        firsts.append(size + begins)
        every.append(grams.words[place, -1].astype(np.int32))
        all_logs.append(grams.logs[place])
        all_weights.append(grams.weights[place])
        above.append(keys)
        size += len(keys)
    nats = math.log(10)
    inner = np.concatenate(all_weights[: order - 1]) if order > 1 else np.empty(0)
    return Tables(
        np.concatenate(every), np.concatenate(firsts).astype(np.int32),
        (np.concatenate(all_logs) * nats).astype(np.float32), (inner * nats).astype(np.float32),
        0, 2, order,
    )  # fmt: skip


def _fill_in(tables: Tables) -> None:
    """Probabilities of n-grams that only stand for longer ones: by backing off, shorter ones first."""
    nodes = np.flatnonzero(np.isnan(tables.logs))
    above = parents_of(tables, nodes).tolist()
    for node, parent, words in zip(nodes.tolist(), above, paths(tables, nodes), strict=True):
        value = -float(tables.logs[words[-1]])
        if len(words) > 2:
            found = np.zeros((1, 1))
            row_surprises(tables, np.array([words[1:-1]]), np.array([words[-1:]]), found)
            value = float(found[0, 0])
        tables.logs[node] = tables.backoffs[parent] - value
