"""word2vec's inner loops, compiled: Mikolov et al. 2013a (arXiv 1301.3781) and 2013b (arXiv 1310.4546).

One window at a time: its input rows (the context's words for skip-gram, their combination for CBOW)
against its output rows (the middle word and the sampled ones, or the nodes of its Huffman path). All
products of the two are formed, six output rows in registers at a time, then all gradients, summed over
the window, and rows are stepped where they lie. What is drawn is drawn some windows ahead, so that rows
are asked for before they are needed. Several threads step the same matrices without locks (Hogwild: Niu
et al. 2011).

`word2vec_plain.py` beside this file says the same in plain NumPy; a test holds one to the other.
Shapes: V words, P columns of a row (its width and a bias, padded to a multiple of 16), W the widest
window, M <= 2 W input rows and K output rows of a window; B blocks of `ROWS` output rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import uint64

from fourfold.kernels.cached import njit
from fourfold.kernels.lanes import (
    LANES,
    add,
    div,
    exp,
    fma,
    load,
    mul,
    pointer,
    prefetch,
    splat,
    store,
    sub,
    sums,
)

LINE = 16
"""float32 in a cache line: rows are padded to whole ones."""
LONGEST = 10_000
"""Words of a sentence; a longer one is cut there, as in the papers' own program."""
ROWS = 6
"""Output rows of a block."""
CELL = 16
"""Scores of two input rows with a block's output rows, six and six, and four that mean nothing."""
AHEAD, RING = 2, 4
"""Windows that are drawn before they come to be used, so that their rows arrive in time; places to keep them."""
HOT = 5
"""Nodes of a path, from the root, that need no asking for."""

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
def sample(state, probability, alias, words):  # type: ignore[no-untyped-def]
    """One of so many words from a distribution, by the alias method (Walker 1977): exact, two look-ups."""
    bits = _random(state)
    cell = np.int64(((bits >> uint64(32)) * uint64(words)) >> uint64(32))
    share = np.float32(bits & uint64(0xFFFFFF)) * np.float32(2.0**-24)
    return cell if share < probability[cell] else np.int64(alias[cell])


@_compiled
def _scores(source, ins, m, outputs, outs, blocks, hidden, found, width):  # type: ignore[no-untyped-def]
    """found: products of rows ins[a] of `source` with rows outs[b] of `outputs`; source's rows are kept in `hidden`.

    The cell of rows a, a + 1 (a even; the last alone twice) and block n is found[(a / 2 * blocks + n) CELL :].
    """
    for a in range(0, m, 2):
        at, next_at = ins[a] * width, ins[min(a + 1, m - 1)] * width
        to = a * width
        for n in range(blocks):
            b = n * ROWS
            p0, p1, p2 = outs[b] * width, outs[b + 1] * width, outs[b + 2] * width
            p3, p4, p5 = outs[b + 3] * width, outs[b + 4] * width, outs[b + 5] * width
            s0 = s1 = s2 = s3 = s4 = s5 = t0 = t1 = t2 = t3 = t4 = t5 = splat(np.float32(0))
            for d in range(0, width, LANES):
                x, y = load(source, at + d), load(source, next_at + d)
                store(hidden, to + d, x)
                store(hidden, to + width + d, y)
                o = load(outputs, p0 + d)
                s0, t0 = fma(x, o, s0), fma(y, o, t0)
                o = load(outputs, p1 + d)
                s1, t1 = fma(x, o, s1), fma(y, o, t1)
                o = load(outputs, p2 + d)
                s2, t2 = fma(x, o, s2), fma(y, o, t2)
                o = load(outputs, p3 + d)
                s3, t3 = fma(x, o, s3), fma(y, o, t3)
                o = load(outputs, p4 + d)
                s4, t4 = fma(x, o, s4), fma(y, o, t4)
                o = load(outputs, p5 + d)
                s5, t5 = fma(x, o, s5), fma(y, o, t5)
            cell = (a // 2 * blocks + n) * CELL
            sums(found, cell, s0, s1, s2, s3, s4, s5, t0, t1, t2, t3, t4, t5)


@_compiled
def _score(hidden, outputs, outs, blocks, found, width):  # type: ignore[no-untyped-def]
    """As `_scores`, of the one row hidden[:P]."""
    zero = splat(np.float32(0))
    for n in range(blocks):
        b = n * ROWS
        p0, p1, p2 = outs[b] * width, outs[b + 1] * width, outs[b + 2] * width
        p3, p4, p5 = outs[b + 3] * width, outs[b + 4] * width, outs[b + 5] * width
        s0 = s1 = s2 = s3 = s4 = s5 = zero
        for d in range(0, width, LANES):
            x = load(hidden, d)
            s0, s1 = fma(x, load(outputs, p0 + d), s0), fma(x, load(outputs, p1 + d), s1)
            s2, s3 = fma(x, load(outputs, p2 + d), s2), fma(x, load(outputs, p3 + d), s3)
            s4, s5 = fma(x, load(outputs, p4 + d), s4), fma(x, load(outputs, p5 + d), s5)
        sums(found, n * CELL, s0, s1, s2, s3, s4, s5, zero, zero, zero, zero, zero, zero)


@_compiled
def _slopes(found, m, blocks, labels, weights, shifts):  # type: ignore[no-untyped-def]
    """Scores to minus the loss's gradient by each score, times the output row's weight: sigmoids."""
    one = splat(np.float32(1))
    for pair in range((m + 1) // 2):
        for at in range(0, blocks * CELL, LANES):
            to = pair * blocks * CELL + at
            likely = div(one, add(one, exp(sub(load(shifts, at), load(found, to)))))
            store(found, to, mul(sub(load(labels, at), likely), load(weights, at)))


@_compiled
def _softmax_slopes(found, m, blocks, labels, weights):  # type: ignore[no-untyped-def]
    """As `_slopes`, of a softmax over the output rows whose weight is not 0."""
    for a in range(m):
        first = a // 2 * blocks * CELL + (a & 1) * ROWS
        top, total = np.float32(-1e30), np.float32(0)
        for n in range(blocks):
            for i in range(ROWS):
                if weights[n * CELL + i] > 0:
                    top = max(top, found[first + n * CELL + i])
        for n in range(blocks):
            for i in range(ROWS):
                at, to = n * CELL + i, first + n * CELL + i
                found[to] = np.exp(found[to] - top) if weights[at] > 0 else np.float32(0)
                total += found[to]
        for n in range(blocks):
            for i in range(ROWS):
                at, to = n * CELL + i, first + n * CELL + i
                found[to] = (labels[at] - found[to] / total) * weights[at]


@_compiled
def _step(inputs, ins, m, outputs, outs, blocks, hidden, slopes, width):  # type: ignore[no-untyped-def]
    """inputs[ins[a]] += sum over b of slopes[a, b] outputs[outs[b]]; outputs[outs[b]] += sum over a of slopes[a, b] hidden[a]."""
    for n in range(blocks):
        b = n * ROWS
        p0, p1, p2 = outs[b] * width, outs[b + 1] * width, outs[b + 2] * width
        p3, p4, p5 = outs[b + 3] * width, outs[b + 4] * width, outs[b + 5] * width
        for d in range(0, width, LANES):
            o0, o1, o2 = load(outputs, p0 + d), load(outputs, p1 + d), load(outputs, p2 + d)
            o3, o4, o5 = load(outputs, p3 + d), load(outputs, p4 + d), load(outputs, p5 + d)
            g0 = g1 = g2 = g3 = g4 = g5 = splat(np.float32(0))
            for a in range(m):
                f = (a // 2 * blocks + n) * CELL + (a & 1) * ROWS
                h, at = load(hidden, a * width + d), ins[a] * width + d
                s0, s1, s2 = splat(slopes[f]), splat(slopes[f + 1]), splat(slopes[f + 2])
                s3, s4, s5 = splat(slopes[f + 3]), splat(slopes[f + 4]), splat(slopes[f + 5])
                x = fma(s2, o2, fma(s1, o1, fma(s0, o0, load(inputs, at))))
                y = fma(s5, o5, fma(s4, o4, mul(s3, o3)))
                g0, g1, g2 = fma(s0, h, g0), fma(s1, h, g1), fma(s2, h, g2)
                g3, g4, g5 = fma(s3, h, g3), fma(s4, h, g4), fma(s5, h, g5)
                store(inputs, at, add(x, y))
            # one row may stand there twice: each is read again
            store(outputs, p0 + d, add(load(outputs, p0 + d), g0))
            store(outputs, p1 + d, add(load(outputs, p1 + d), g1))
            store(outputs, p2 + d, add(load(outputs, p2 + d), g2))
            store(outputs, p3 + d, add(load(outputs, p3 + d), g3))
            store(outputs, p4 + d, add(load(outputs, p4 + d), g4))
            store(outputs, p5 + d, add(load(outputs, p5 + d), g5))


@_compiled
def _step_outputs(outputs, outs, blocks, hidden, slopes, change, width):  # type: ignore[no-untyped-def]
    """outputs[outs[b]] += slopes[b] hidden; `change` becomes the sum over b of slopes[b] outputs[outs[b]] as it was."""
    for n in range(blocks):
        f, b = n * CELL, n * ROWS
        p0, p1, p2 = outs[b] * width, outs[b + 1] * width, outs[b + 2] * width
        p3, p4, p5 = outs[b + 3] * width, outs[b + 4] * width, outs[b + 5] * width
        s0, s1, s2 = splat(slopes[f]), splat(slopes[f + 1]), splat(slopes[f + 2])
        s3, s4, s5 = splat(slopes[f + 3]), splat(slopes[f + 4]), splat(slopes[f + 5])
        for d in range(0, width, LANES):
            h = load(hidden, d)
            o0, o1, o2 = load(outputs, p0 + d), load(outputs, p1 + d), load(outputs, p2 + d)
            o3, o4, o5 = load(outputs, p3 + d), load(outputs, p4 + d), load(outputs, p5 + d)
            x = fma(s2, o2, fma(s1, o1, mul(s0, o0)))
            y = fma(s5, o5, fma(s4, o4, mul(s3, o3)))
            store(change, d, add(add(x, y), load(change, d)) if n else add(x, y))
            store(outputs, p0 + d, fma(s0, h, load(outputs, p0 + d)))
            store(outputs, p1 + d, fma(s1, h, load(outputs, p1 + d)))
            store(outputs, p2 + d, fma(s2, h, load(outputs, p2 + d)))
            store(outputs, p3 + d, fma(s3, h, load(outputs, p3 + d)))
            store(outputs, p4 + d, fma(s4, h, load(outputs, p4 + d)))
            store(outputs, p5 + d, fma(s5, h, load(outputs, p5 + d)))


@_compiled
def _combine(inputs, ins, count, share, hidden, width):  # type: ignore[no-untyped-def]
    """hidden[:P] = share * the sum of the rows."""
    factor = splat(np.float32(share))
    for d in range(0, width, LANES):
        total = splat(np.float32(0))
        for a in range(count):
            total = add(total, load(inputs, ins[a] * width + d))
        store(hidden, d, mul(total, factor))


@_compiled
def _scatter(inputs, ins, count, change, width):  # type: ignore[no-untyped-def]
    """inputs[ins[a]] += change, for every row alike.

    Also where the input was their mean: as in the papers' own program each word of the context takes
    the whole gradient, not its count-th part, which is the exact one at a rate some 6 times lower.
    """
    for a in range(count):
        at = ins[a] * width
        for d in range(0, width, LANES):
            store(inputs, at + d, add(load(inputs, at + d), load(change, d)))


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
def _ask(matrix, row, width):  # type: ignore[no-untyped-def]
    """Ask for a row of a matrix before it is needed."""
    for d in range(0, width, LINE):
        prefetch(matrix, row * width + d)


@_compiled
def _label(b, label, weight, shift, labels, weights, shifts):  # type: ignore[no-untyped-def]
    """What output row b is compared with, for both input rows of a cell."""
    at = b // ROWS * CELL + b % ROWS
    labels[at] = labels[at + ROWS] = label
    weights[at] = weights[at + ROWS] = weight
    shifts[at] = shifts[at + ROWS] = shift


@_compiled
def _sampled(middle, k, rate, shift, outs, labels, weights, shifts):  # type: ignore[no-untyped-def]
    """The true word and the negatives as output rows; one that hits the true word does not count."""
    outs[0] = middle
    _label(0, np.float32(1), rate, shift[middle], labels, weights, shifts)
    for b in range(1, k):
        word = outs[b]
        weight = rate if word != middle else np.float32(0)
        _label(b, np.float32(0), weight, shift[word], labels, weights, shifts)


@_compiled
def _everything(middle, k, rate, outs, labels, weights, shifts):  # type: ignore[no-untyped-def]
    """All words as output rows: the full softmax."""
    for word in range(k):
        outs[word] = word
        label = np.float32(1 if word == middle else 0)
        _label(word, label, rate, np.float32(0), labels, weights, shifts)


@_compiled
def _path(start, k, nodes, turns, rate, outs, labels, weights, shifts):  # type: ignore[no-untyped-def]
    """The nodes of the true word's Huffman path as output rows."""
    for b in range(k):
        outs[b] = nodes[start + b]
        _label(b, turns[start + b], rate, np.float32(0), labels, weights, shifts)


@_compiled
def _padded(k, outs, labels, weights, shifts):  # type: ignore[no-untyped-def]
    """Fill the last block with rows that do not count; returns how many blocks there are."""
    blocks = (k + ROWS - 1) // ROWS
    for b in range(k, blocks * ROWS):
        outs[b] = outs[0]
        _label(b, np.float32(0), np.float32(0), np.float32(0), labels, weights, shifts)
    return blocks


@_compiled
def _loss(scores, m, k, blocks, kind, labels, weights, shifts):  # type: ignore[no-untyped-def]
    """The loss of a window in nats, from its scores."""
    found = 0.0
    for a in range(m):
        first = a // 2 * blocks * CELL + (a & 1) * ROWS
        true, total = 0.0, 0.0
        for b in range(k):
            at = b // ROWS * CELL + b % ROWS
            z = scores[first + at] - shifts[at]
            if kind == SOFTMAX:
                true += labels[at] * z
            elif weights[at] > 0:
                z = z if labels[at] > 0 else -z
                found += np.log1p(np.exp(-abs(z))) + max(-z, 0.0)
        if kind == SOFTMAX:
            for b in range(k):
                at = b // ROWS * CELL + b % ROWS
                total += np.exp(scores[first + at] - true) if weights[at] > 0 else 0.0
            found += np.log(total)
    return found


class Scratch(NamedTuple):
    """What one thread needs beside the matrices."""

    hidden: np.ndarray
    """(2 W + 2) P float32: the window's input rows as they were."""
    change: np.ndarray
    """(P,) float32."""
    slopes: np.ndarray
    """(W + 1) B CELL float32: scores, then slopes."""
    labels: np.ndarray
    weights: np.ndarray
    shifts: np.ndarray
    """(B CELL,) float32: of the output rows, twice in each cell."""
    ins: np.ndarray
    outs: np.ndarray
    """(2 W + 1,) and (B ROWS,) int64: the window's rows of both matrices."""
    kept: np.ndarray
    """(LONGEST,) int32: what sub-sampling leaves of a sentence."""
    near: np.ndarray
    drawn: np.ndarray
    """(RING,) and (RING k,) int64: the next windows' widths and negatives."""


def scratch(tables: Tables, settings: Settings, inputs: np.ndarray, outputs: np.ndarray) -> Scratch:
    """Room for one thread."""
    deepest = int(np.diff(tables.begins).max(initial=0))
    most = max(len(outputs) if settings.negatives < 0 else settings.negatives + 1, deepest)
    blocks, reach = -(-most // ROWS), settings.window
    return Scratch(
        np.zeros((2 * reach + 2) * inputs.shape[1], np.float32),
        np.zeros(inputs.shape[1], np.float32),
        np.zeros((reach + 1) * blocks * CELL, np.float32),
        np.zeros(blocks * CELL, np.float32),
        np.zeros(blocks * CELL, np.float32),
        np.zeros(blocks * CELL, np.float32),
        np.zeros(2 * reach + 1, np.int64),
        np.zeros(blocks * ROWS, np.int64),
        np.zeros(LONGEST, np.int32),
        np.zeros(RING, np.int64),
        np.zeros(RING * max(1, settings.negatives), np.int64),
    )


@_compiled
def train(corpus, tables, settings, inputs, outputs, first, last, me, seen, state, stats, room):  # type: ignore[no-untyped-def]
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
        room: this thread's, from `scratch`.
    """
    width, words = inputs.shape[1], len(tables.keep)
    p_in, p_out, p_state = pointer(inputs), pointer(outputs), pointer(state)
    p_text, p_keep, p_shift = pointer(corpus.words), pointer(tables.keep), pointer(tables.shift)
    p_share, p_alias = pointer(tables.probability), pointer(tables.alias)
    begins, nodes, turns = pointer(tables.begins), pointer(tables.nodes), pointer(tables.turns)
    hidden, change, slopes = pointer(room.hidden), pointer(room.change), pointer(room.slopes)
    labels, weights, shifts = pointer(room.labels), pointer(room.weights), pointer(room.shifts)
    ins, outs, kept = pointer(room.ins), pointer(room.outs), pointer(room.kept)
    near, drawn = pointer(room.near), pointer(room.drawn)
    kind, window, negatives, bias = (
        settings.kind,
        settings.window,
        settings.negatives,
        settings.bias,
    )
    paths, everything = kind == PATH, negatives < 0
    samples = 0 if paths or everything else negatives
    windows, rows_in, rows_out = np.int64(stats[me, 2]), np.int64(0), np.int64(0)
    for sentence in range(first, last):
        for start in range(corpus.ends[sentence], corpus.ends[sentence + 1], LONGEST):
            stop = min(start + LONGEST, corpus.ends[sentence + 1])
            length = _thinned(p_text, start, stop, p_keep, kept, p_state)
            seen[me, 0] += stop - start
            done = seen[:, 0].sum() / settings.total
            rate = np.float32(
                max(settings.rate_end, settings.rate + (settings.rate_end - settings.rate) * done)
            )
            ready, asked = 0, 0
            for i in range(length if length > 1 else 0):
                while asked < min(length, i + AHEAD + window + 1):
                    _ask(p_in, kept[asked], width)
                    asked += 1
                while ready < min(length, i + AHEAD + 1):
                    near[ready % RING] = 1 + np.int64(
                        (_random(p_state) >> uint64(33)) % uint64(window)
                    )
                    for b in range(ready % RING * samples, (ready % RING + 1) * samples):
                        word = sample(p_state, p_share, p_alias, words)
                        drawn[b] = word
                        _ask(p_out, word, width)
                    if paths:
                        for b in range(begins[kept[ready]] + HOT, begins[kept[ready] + 1]):
                            _ask(p_out, nodes[b], width)
                    else:
                        _ask(p_out, kept[ready], width)
                    ready += 1
                middle, reached, m = kept[i], near[i % RING], 0
                for j in range(max(0, i - reached), min(length, i + reached + 1)):  # type: ignore[call-overload]
                    ins[m] = kept[j]
                    m += 1 if j != i else 0
                if paths:
                    k = begins[middle + 1] - begins[middle]
                    _path(begins[middle], k, nodes, turns, rate, outs, labels, weights, shifts)
                elif everything:
                    k = words
                    _everything(middle, k, rate, outs, labels, weights, shifts)
                else:
                    k = negatives + 1
                    for b in range(samples):
                        outs[b + 1] = drawn[i % RING * samples + b]
                    _sampled(middle, k, rate, p_shift, outs, labels, weights, shifts)
                blocks, count = _padded(k, outs, labels, weights, shifts), m
                if settings.together:
                    m = 1
                    _combine(p_in, ins, count, 1.0 / count if settings.mean else 1.0, hidden, width)
                    if bias >= 0:
                        hidden[bias] = np.float32(1)
                    _score(hidden, p_out, outs, blocks, slopes, width)
                else:
                    _scores(p_in, ins, m, p_out, outs, blocks, hidden, slopes, width)
                if windows % 64 == 0:
                    stats[me, 0] += _loss(slopes, m, k, blocks, kind, labels, weights, shifts)
                    stats[me, 1] += m
                windows, rows_in, rows_out = windows + 1, rows_in + count, rows_out + k
                if kind == SOFTMAX:
                    _softmax_slopes(slopes, m, blocks, labels, weights)
                else:
                    _slopes(slopes, m, blocks, labels, weights, shifts)
                if settings.together:
                    _step_outputs(p_out, outs, blocks, hidden, slopes, change, width)
                    if bias >= 0:
                        change[bias] = np.float32(0)  # the column of ones stays as it is
                    _scatter(p_in, ins, count, change, width)
                else:
                    _step(p_in, ins, m, p_out, outs, blocks, hidden, slopes, width)
                    for a in range(m if bias >= 0 else 0):
                        p_in[ins[a] * width + bias] = np.float32(1)
    stats[me, 2] = windows
    stats[me, 3] += rows_in
    stats[me, 4] += rows_out
