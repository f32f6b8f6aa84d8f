"""word2vec's inner loops, compiled: Mikolov et al. 2013a (arXiv 1301.3781) and 2013b (arXiv 1310.4546).

One window at a time: its input rows (the context's words for skip-gram, their combination for CBOW)
and its output rows (the middle word and the sampled ones, or the nodes of its Huffman path) are
gathered into two small blocks that stay in the first-level cache; all products of the two are
formed, then all gradients, summed over the window, then both blocks' rows are stepped where they
lie. Several threads step the same matrices without locks (Hogwild: Niu et al. 2011).

`reference.py` beside this file says the same in plain NumPy; a test holds one to the other.
Shapes: V words, P columns of a row (its width and a bias, padded to a multiple of 16), W the widest
window, M <= 2 W input rows and K output rows of a window.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, uint64

LINE = 16
"""float32 in a cache line: rows are padded to whole ones."""
LONGEST = 10_000
"""Words of a sentence; a longer one is cut there, as in the papers' own program."""
REACH = 8.0
CELLS = 8192
SIGMOID = (1 / (1 + np.exp(-((np.arange(CELLS) + 0.5) / CELLS * 2 - 1) * REACH))).astype(np.float32)
"""The logistic function on [-8, 8] in steps of 1/512; a branch or an exponential in its place halves the speed."""

SIGMOIDS, SOFTMAX, CONTRAST, PATH = 0, 1, 2, 3
"""Kinds of loss: a sigmoid for each output row; a softmax over the true one and the sampled; noise-contrastive
estimation; sigmoids along a Huffman path."""


@njit(inline="always")
def _random(state):  # type: ignore[no-untyped-def]
    """The next of a xorshift64* generator (Vigna 2016)."""
    x = state[0]
    x ^= x >> uint64(12)
    x ^= x << uint64(25)
    x ^= x >> uint64(27)
    state[0] = x
    return x * uint64(2685821657736338717)


def _compiled(function):  # type: ignore[no-untyped-def]
    return njit(function, nogil=True, fastmath=True, boundscheck=False, cache=True)


@njit(inline="always")
def _uniform(state):  # type: ignore[no-untyped-def]
    """In [0, 1), in steps of 2^-24."""
    return np.float32(_random(state) >> uint64(40)) * np.float32(2.0**-24)


@_compiled
def sample(state, probability, alias):  # type: ignore[no-untyped-def]
    """A word from a distribution, by the alias method (Walker 1977): exact, two look-ups."""
    bits = _random(state)
    cell = np.int64(((bits >> uint64(32)) * uint64(len(alias))) >> uint64(32))
    share = np.float32(bits & uint64(0xFFFFFF)) * np.float32(2.0**-24)
    return cell if share < probability[cell] else np.int64(alias[cell])


@_compiled
def _scores(inputs, outputs, found, m, k):  # type: ignore[no-untyped-def]
    """found[a, b] = inputs[a] . outputs[b], two by three at a time; m is even or 1, k a multiple of 3."""
    width = inputs.shape[1]
    if m == 1:
        for b in range(0, k, 3):
            s0 = s1 = s2 = np.float32(0)
            for d in range(width):
                h = inputs[0, d]
                s0 += h * outputs[b, d]
                s1 += h * outputs[b + 1, d]
                s2 += h * outputs[b + 2, d]
            found[0, b], found[0, b + 1], found[0, b + 2] = s0, s1, s2
        return
    for a in range(0, m, 2):
        for b in range(0, k, 3):
            s00 = s01 = s02 = s10 = s11 = s12 = np.float32(0)
            for d in range(width):
                h0, h1 = inputs[a, d], inputs[a + 1, d]
                o0, o1, o2 = outputs[b, d], outputs[b + 1, d], outputs[b + 2, d]
                s00 += h0 * o0
                s01 += h0 * o1
                s02 += h0 * o2
                s10 += h1 * o0
                s11 += h1 * o1
                s12 += h1 * o2
            found[a, b], found[a, b + 1], found[a, b + 2] = s00, s01, s02
            found[a + 1, b], found[a + 1, b + 1], found[a + 1, b + 2] = s10, s11, s12


@_compiled
def _slopes(found, m, k, kind, labels, weights, shifts, sigmoid):  # type: ignore[no-untyped-def]
    """Scores to minus the loss's gradient by each score, times the row's weight (0 for rows that do not count)."""
    if kind == SOFTMAX:
        for a in range(m):
            top = found[a, 0]
            for b in range(1, k):
                top = max(top, found[a, b] if weights[b] > 0 else top)
            total = np.float32(0)
            for b in range(k):
                found[a, b] = np.exp(found[a, b] - top) if weights[b] > 0 else np.float32(0)
                total += found[a, b]
            for b in range(k):
                found[a, b] = (labels[b] - found[a, b] / total) * weights[b]
        return
    scale, last = np.float32(CELLS / (2 * REACH)), np.float32(CELLS - 1)
    for a in range(m):
        for b in range(k):
            place = (found[a, b] - shifts[b] + np.float32(REACH)) * scale
            cell = np.int32(min(max(place, np.float32(0)), last))
            cell = min(max(cell, np.int32(0)), np.int32(CELLS - 1))  # of what is no number, too
            found[a, b] = (labels[b] - sigmoid[cell]) * weights[b]


@_compiled
def _step_inputs(matrix, rows, m, outputs, slopes, k):  # type: ignore[no-untyped-def]
    """matrix[rows[a]] += sum over b of slopes[a, b] outputs[b]."""
    width = matrix.shape[1]
    for a in range(m):
        row = rows[a]
        for b in range(0, k, 3):
            g0, g1, g2 = slopes[a, b], slopes[a, b + 1], slopes[a, b + 2]
            for d in range(width):
                matrix[row, d] += (
                    g0 * outputs[b, d] + g1 * outputs[b + 1, d] + g2 * outputs[b + 2, d]
                )


@_compiled
def _step_outputs(matrix, rows, k, inputs, slopes, m):  # type: ignore[no-untyped-def]
    """matrix[rows[b]] += sum over a of slopes[a, b] inputs[a]; m is even or 1."""
    width = matrix.shape[1]
    for b in range(k):
        row = rows[b]
        if m == 1:
            g = slopes[0, b]
            for d in range(width):
                matrix[row, d] += g * inputs[0, d]
            continue
        for a in range(0, m, 2):
            g0, g1 = slopes[a, b], slopes[a + 1, b]
            for d in range(width):
                matrix[row, d] += g0 * inputs[a, d] + g1 * inputs[a + 1, d]


class Corpus(NamedTuple):
    """Sentences as numbers of words: sentence s is words[ends[s] : ends[s + 1]]."""

    words: np.ndarray
    """(N,) int32."""
    ends: np.ndarray
    """(sentences + 1,) int64, from 0."""


class Tables(NamedTuple):
    """What sampling and paths look up."""

    keep: np.ndarray
    """(V,) float32: the share of a word's occurrences that sub-sampling keeps; 1 and more keeps all."""
    probability: np.ndarray
    alias: np.ndarray
    """(V,) float32 and int32: the alias method's cells of the distribution of negatives."""
    shift: np.ndarray
    """(V,) float32: log(k q(word)) for noise-contrastive estimation, else zeros."""
    begins: np.ndarray
    """(V + 1,) int32: word w's Huffman path is nodes[begins[w] : begins[w + 1]]; (1,) without paths."""
    nodes: np.ndarray
    """int32: inner nodes from the root, rows of the output matrix."""
    turns: np.ndarray
    """float32: the label at each node, 1 where the code's bit is 0."""
    sigmoid: np.ndarray
    """`SIGMOID`."""


class Settings(NamedTuple):
    """How to train."""

    window: int
    negatives: int
    """Words drawn for a window; -1 takes all words."""
    kind: int
    """SIGMOIDS, SOFTMAX, CONTRAST or PATH."""
    together: bool
    """The context's words are combined to one input row (CBOW); else each is one (skip-gram)."""
    mean: bool
    """Of the context's words, else their sum."""
    bias: int
    """The column that is 1 in every input row, so that an output row has a bias there; -1 for none."""
    rate: float
    rate_end: float
    total: float
    """The learning rate falls linearly from `rate` to `rate_end` over this many words."""


@_compiled
def _thinned(words, start, stop, keep, kept, state):  # type: ignore[no-untyped-def]
    """What sub-sampling leaves of a sentence, into `kept`; returns how many words."""
    count = 0
    for p in range(start, stop):
        word = words[p]
        kept[count] = word
        count += 1 if keep[word] >= np.float32(1) or keep[word] > _uniform(state) else 0
    return count


@_compiled
def _sampled(middle, tables, negatives, rate, rows, labels, weights, shifts, state):  # type: ignore[no-untyped-def]
    """The true word and the negatives as output rows; one that hits the true word does not count."""
    rows[0], labels[0], weights[0], shifts[0] = middle, 1, rate, tables.shift[middle]
    for b in range(1, negatives + 1):
        word = sample(state, tables.probability, tables.alias)
        rows[b], labels[b], shifts[b] = word, 0, tables.shift[word]
        weights[b] = rate if word != middle else np.float32(0)
    return negatives + 1


@_compiled
def _everything(middle, words, rate, rows, labels, weights):  # type: ignore[no-untyped-def]
    """All words as output rows: the full softmax."""
    for word in range(words):
        rows[word], labels[word], weights[word] = word, 0, rate
    labels[middle] = 1
    return words


@_compiled
def _path(middle, tables, rate, rows, labels, weights):  # type: ignore[no-untyped-def]
    """The nodes of the true word's Huffman path as output rows."""
    start = tables.begins[middle]
    count = tables.begins[middle + 1] - start
    for b in range(count):
        rows[b] = tables.nodes[start + b]
        labels[b], weights[b] = tables.turns[start + b], rate
    return count


@_compiled
def _gather(matrix, rows, count, block, up_to):  # type: ignore[no-untyped-def]
    """block[a] = matrix[rows[a]], then zeros up to row `up_to`."""
    width = matrix.shape[1]
    for a in range(count):
        row = rows[a]
        for d in range(width):
            block[a, d] = matrix[row, d]
    for a in range(count, up_to):
        for d in range(width):
            block[a, d] = 0


@_compiled
def _combine(matrix, rows, count, share, block):  # type: ignore[no-untyped-def]
    """block[0] = share * the sum of the rows."""
    width = matrix.shape[1]
    for d in range(width):
        block[0, d] = 0
    for a in range(count):
        row = rows[a]
        for d in range(width):
            block[0, d] += matrix[row, d]
    for d in range(width):
        block[0, d] *= share


@_compiled
def _scatter(matrix, rows, count, outputs, slopes, k, change):  # type: ignore[no-untyped-def]
    """matrix[rows[a]] += sum over b of slopes[0, b] outputs[b], for every row alike.

    Also where the input was their mean: as in the papers' own program each word of the context takes
    the whole gradient, not its count-th part, which is the exact one at a rate some 6 times lower.
    """
    width = matrix.shape[1]
    for d in range(width):
        change[d] = 0
    for b in range(0, k, 3):
        g0, g1, g2 = slopes[0, b], slopes[0, b + 1], slopes[0, b + 2]
        for d in range(width):
            change[d] += g0 * outputs[b, d] + g1 * outputs[b + 1, d] + g2 * outputs[b + 2, d]
    for a in range(count):
        row = rows[a]
        for d in range(width):
            matrix[row, d] += change[d]


@_compiled
def _loss(scores, m, k, kind, labels, weights, shifts):  # type: ignore[no-untyped-def]
    """The loss of a window in nats, from its scores."""
    found = 0.0
    for a in range(m):
        if kind == SOFTMAX:
            true, total = 0.0, 0.0
            for b in range(k):
                true += labels[b] * scores[a, b]
            for b in range(k):
                total += np.exp(scores[a, b] - true) if weights[b] > 0 else 0.0
            found += np.log(total)
            continue
        for b in range(k):
            z = scores[a, b] - shifts[b]
            z = z if labels[b] > 0 else -z
            found += np.log1p(np.exp(-abs(z))) + max(-z, 0.0) if weights[b] > 0 else 0.0
    return found


@_compiled
def _deepest(tables):  # type: ignore[no-untyped-def]
    """Nodes of the longest path."""
    deepest = 0
    for word in range(len(tables.begins) - 1):
        deepest = max(deepest, tables.begins[word + 1] - tables.begins[word])
    return deepest


@_compiled
def train(corpus, tables, settings, inputs, outputs, first, last, me, seen, state, stats):  # type: ignore[no-untyped-def]
    """Step both matrices over some sentences; returns nothing, several threads may run it at once.

    Args:
        corpus, tables, settings: see there.
        inputs: (V, P) float32, stepped in place.
        outputs: (V or inner nodes, P) float32, stepped in place.
        first, last: sentences first to last - 1.
        me: this thread's row of `seen` and `stats`.
        seen: (threads, 8) int64: words seen by each thread, in column 0; the rate follows their sum.
        state: (1,) uint64, this thread's generator, not zero.
        stats: (threads, 8) float64: the sum of losses and how many predictions it is of, on every 64th window;
            windows; input rows; output rows.
    """
    width, reach = inputs.shape[1], 2 * settings.window
    everything = settings.negatives < 0
    most = max(len(outputs) if everything else settings.negatives + 1, _deepest(tables))
    most = 3 * ((most + 2) // 3)
    hidden = np.zeros((reach + 1, width), np.float32)
    chosen = np.zeros((most, width), np.float32)
    slopes = np.zeros((reach + 1, most), np.float32)
    change = np.zeros(width, np.float32)
    context, rows = np.zeros(reach, np.int32), np.zeros(most, np.int32)
    labels, weights = np.zeros(most, np.float32), np.zeros(most, np.float32)
    shifts, kept = np.zeros(most, np.float32), np.empty(LONGEST, np.int32)
    for sentence in range(first, last):
        for start in range(corpus.ends[sentence], corpus.ends[sentence + 1], LONGEST):
            stop = min(start + LONGEST, corpus.ends[sentence + 1])
            length = _thinned(corpus.words, start, stop, tables.keep, kept, state)
            seen[me, 0] += stop - start
            done = seen[:, 0].sum() / settings.total
            rate = np.float32(
                max(settings.rate_end, settings.rate + (settings.rate_end - settings.rate) * done)
            )
            for i in range(length):
                near = 1 + np.int64((_random(state) >> uint64(33)) % uint64(settings.window))
                count = 0
                for j in range(max(0, i - near), min(length, i + near + 1)):  # type: ignore[call-overload]
                    if j != i:
                        context[count] = kept[j]
                        count += 1
                if count == 0:
                    continue
                middle = kept[i]
                if settings.kind == PATH:
                    k = _path(middle, tables, rate, rows, labels, weights)
                elif everything:
                    k = _everything(middle, len(outputs), rate, rows, labels, weights)
                else:
                    k = _sampled(
                        middle,
                        tables,
                        settings.negatives,
                        rate,
                        rows,
                        labels,
                        weights,
                        shifts,
                        state,
                    )
                padded = 3 * ((k + 2) // 3)
                weights[k:padded] = 0
                _gather(outputs, rows, k, chosen, padded)
                share = np.float32(1.0 / count if settings.mean else 1.0)
                m = 1 if settings.together else count
                even = m + (m & 1 if m > 1 else 0)
                if settings.together:
                    _combine(inputs, context, count, share, hidden)
                else:
                    _gather(inputs, context, count, hidden, even)
                if settings.bias >= 0:
                    hidden[:m, settings.bias] = 1
                _scores(hidden, chosen, slopes, even, padded)
                stats[me, 2] += 1
                if np.int64(stats[me, 2]) % 64 == 1:
                    stats[me, 0] += _loss(slopes, m, k, settings.kind, labels, weights, shifts)
                    stats[me, 1] += m
                _slopes(
                    slopes, even, padded, settings.kind, labels, weights, shifts, tables.sigmoid
                )
                if settings.bias >= 0:
                    chosen[:k, settings.bias] = 0  # the column of ones stays as it is
                if settings.together:
                    _scatter(inputs, context, count, chosen, slopes, padded, change)
                else:
                    _step_inputs(inputs, context, m, chosen, slopes, padded)
                _step_outputs(outputs, rows, k, hidden, slopes, even)
                stats[me, 3] += count
                stats[me, 4] += k
