"""Word vectors made of character n-grams, compiled: Bojanowski et al. 2017, arXiv 1607.04606 (fastText).

A word's input is the mean of its own row and the rows of its n-grams, which share buckets by their hash; so a
word that was never seen has a vector too. Skip-gram predicts each word of the context from the middle word
(in `word2vec` it is the other way round, over the same pairs: there an input is one row, here it is many, so
that it is made once a window); CBOW predicts the middle word from the mean of all rows of the context.

`subwords_plain.py` beside this file says the same in plain NumPy; a test holds one to the other.
Shapes: V words, G buckets, P columns of a row, M input rows of a window, K output rows of a target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import uint32, uint64

from fourfold.kernels.cached import njit
from fourfold.kernels.word2vec import (
    LONGEST,
    PATH,
    SOFTMAX,
    _random,
    _uniform,
    sample,
)


class Grams(NamedTuple):
    """Input rows of each word: those of word w are rows[begins[w] : begins[w + 1]], its own first."""

    begins: np.ndarray
    """(V + 1,) int64."""
    rows: np.ndarray
    """int32: the word's own row, below V, then V + a bucket for each n-gram."""


def _compiled(function):  # type: ignore[no-untyped-def]
    return njit(function, nogil=True, fastmath=True, boundscheck=False, cache=True)


def grams(
    words: Sequence[str], shortest: int, longest: int, buckets: int, *, own: bool = True
) -> Grams:
    """The input rows of words: n-grams of characters of <word>, by fastText's hash.

    Args:
        words: (V).
        shortest, longest: characters of an n-gram.
        buckets: how many rows the n-grams share.
        own: whether words have rows of their own; else buckets are numbered from 0.
    """
    encoded = [f"<{word}>".encode("utf-8", "surrogatepass") for word in words]
    ends = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
    text = np.frombuffer(b"".join(encoded) or b"\0", np.uint8)
    begins = np.zeros(len(words) + 1, np.int64)
    _hashes(text, ends, shortest, longest, buckets, own, begins, np.empty(0, np.int32))
    rows = np.empty(begins[-1], np.int32)
    _hashes(text, ends, shortest, longest, buckets, own, begins, rows)
    return Grams(begins, rows)


@njit(nogil=True, boundscheck=False, cache=True)
def _hashes(text, ends, shortest, longest, buckets, own, begins, rows):  # type: ignore[no-untyped-def]
    """Count the n-grams of each word where `rows` is empty, else write their rows."""
    words, count = len(ends) - 1, 0
    first = words if own else 0
    for word in range(words):
        begins[word] = count
        if own:
            if len(rows):
                rows[count] = word
            count += 1
        for start in range(ends[word], ends[word + 1]):
            if text[start] & 0xC0 == 0x80:
                continue  # inside a character
            value, at, length = uint32(2166136261), start, 0
            while at < ends[word + 1] and length < longest:
                while True:
                    byte = uint32(text[at])
                    # fastText takes bytes as signed: those from 128 on are extended by ones
                    if byte > 127:
                        byte |= uint32(0xFFFFFF00)
                    value = uint32((value ^ byte) * uint32(16777619))
                    at += 1
                    if at >= ends[word + 1] or text[at] & 0xC0 != 0x80:
                        break
                length += 1
                lonely = length == 1 and (start == ends[word] or at == ends[word + 1])
                if length >= shortest and not lonely:
                    if len(rows):
                        rows[count] = first + value % uint32(buckets)
                    count += 1
    begins[words] = count


@njit(inline="always")
def _targets(target, tables, settings, words, rate, rows, labels, weights, shifts, state):  # type: ignore[no-untyped-def]
    """Output rows of a target, their labels, and minus the weight of those that do not count; returns how many."""
    if settings.kind == PATH:
        start = tables.begins[target]
        count = tables.begins[target + 1] - start
        for b in range(count):
            rows[b], labels[b], weights[b] = tables.nodes[start + b], tables.turns[start + b], rate
        return count
    if settings.negatives < 0:
        for word in range(words):
            rows[word], labels[word], weights[word] = word, 0, rate
        labels[target] = 1
        return words
    rows[0], labels[0], weights[0], shifts[0] = target, 1, rate, tables.shift[target]
    for b in range(1, settings.negatives + 1):
        word = sample(state, tables.probability, tables.alias, words)
        rows[b], labels[b], shifts[b] = word, 0, tables.shift[word]
        weights[b] = rate if word != target else np.float32(0)
    return settings.negatives + 1


@njit(inline="always")
def _slopes(scores, k, kind, labels, weights, shifts, measured):  # type: ignore[no-untyped-def]
    """Scores to minus the loss's gradient by each, times the row's weight; returns the loss where it is measured."""
    loss = 0.0
    if kind == SOFTMAX:
        top, true, total = np.float32(-np.inf), np.float32(0), np.float32(0)
        for b in range(k):
            top = max(top, scores[b] if weights[b] > 0 else top)
        for b in range(k):
            true += labels[b] * scores[b]
            scores[b] = np.exp(scores[b] - top) if weights[b] > 0 else np.float32(0)
            total += scores[b]
        if measured:
            loss = np.log(total) + top - true
        for b in range(k):
            scores[b] = (labels[b] - scores[b] / total) * weights[b]
        return loss
    for b in range(k):
        z = scores[b] - shifts[b]
        if measured and weights[b] > 0:
            signed = z if labels[b] > 0 else -z
            loss += np.log1p(np.exp(-abs(signed))) + max(-signed, np.float32(0))
        scores[b] = (labels[b] - np.float32(1) / (np.float32(1) + np.exp(-z))) * weights[b]
    return loss


@njit(inline="always")
def _learn(hidden, change, outputs, rows, k, scores):  # type: ignore[no-untyped-def]
    """change += slopes times the output rows, and each output row += its slope times the hidden one."""
    width = outputs.shape[1]
    for b in range(k):
        row, slope = rows[b], scores[b]
        for d in range(width):
            change[d] += slope * outputs[row, d]
    for b in range(k):
        row, slope = rows[b], scores[b]
        for d in range(width):
            outputs[row, d] += slope * hidden[d]


@njit(inline="always")
def _inputs(middle, context, count, together, grams, chosen):  # type: ignore[no-untyped-def]
    """Input rows of a window; returns how many."""
    some = 0
    for a in range(count if together else 1):
        word = context[a] if together else middle
        for place in range(grams.begins[word], grams.begins[word + 1]):
            chosen[some] = grams.rows[place]
            some += 1
    return some


@_compiled
def train(corpus, tables, grams, settings, inputs, outputs, first, last, me, seen, state, stats):  # type: ignore[no-untyped-def]
    """Step both matrices over some sentences; returns nothing, several threads may run it at once.

    Args:
        corpus, tables, settings: as for `word2vec.train`.
        grams: `Grams` of the vocabulary.
        inputs: (V + G, P) float32, stepped in place.
        outputs, first, last, me, seen, state, stats: as for `word2vec.train`.
    """
    width, reach = inputs.shape[1], 2 * settings.window
    most = max(len(outputs) if settings.negatives < 0 else settings.negatives + 1, 1)
    for word in range(len(tables.begins) - 1):
        most = max(most, tables.begins[word + 1] - tables.begins[word])
    widest = 0
    for word in range(len(grams.begins) - 1):
        widest = max(widest, grams.begins[word + 1] - grams.begins[word])
    chosen = np.zeros(widest * (reach if settings.together else 1), np.int32)
    hidden, change = np.zeros(width, np.float32), np.zeros(width, np.float32)
    context, rows, kept = (
        np.zeros(reach, np.int32),
        np.zeros(most, np.int32),
        np.empty(LONGEST, np.int32),
    )
    labels, weights = np.zeros(most, np.float32), np.zeros(most, np.float32)
    shifts, scores = np.zeros(most, np.float32), np.zeros(most, np.float32)
    for sentence in range(first, last):
        for start in range(corpus.ends[sentence], corpus.ends[sentence + 1], LONGEST):
            stop = min(start + LONGEST, corpus.ends[sentence + 1])
            length = 0
            for p in range(start, stop):
                word = corpus.words[p]
                kept[length] = word
                stays = tables.keep[word] >= np.float32(1) or tables.keep[word] > _uniform(state)
                length += 1 if stays else 0
            seen[me, 0] += stop - start
            done = seen[:, 0].sum() / settings.total
            rate = np.float32(
                max(settings.rate_end, settings.rate + (settings.rate_end - settings.rate) * done)
            )
            for i in range(length if length > 1 else 0):
                near = 1 + np.int64((_random(state) >> uint64(33)) % uint64(settings.window))
                count = 0
                for j in range(max(0, i - near), min(length, i + near + 1)):  # type: ignore[call-overload]
                    if j != i:
                        context[count] = kept[j]
                        count += 1
                m = _inputs(kept[i], context, count, settings.together, grams, chosen)
                share = np.float32(1.0 / m if settings.mean or not settings.together else 1.0)
                for d in range(width):
                    hidden[d], change[d] = 0, 0
                for a in range(m):
                    row = chosen[a]
                    for d in range(width):
                        hidden[d] += inputs[row, d]
                for d in range(width):
                    hidden[d] *= share
                if settings.bias >= 0:
                    hidden[settings.bias] = 1
                stats[me, 2] += 1
                measured = np.int64(stats[me, 2]) % 64 == 1
                targets = 1 if settings.together else count
                for t in range(targets):
                    target = kept[i] if settings.together else context[t]
                    k = _targets(
                        target,
                        tables,
                        settings,
                        len(outputs),
                        rate,
                        rows,
                        labels,
                        weights,
                        shifts,
                        state,
                    )
                    for b in range(k):
                        row, s = rows[b], np.float32(0)
                        for d in range(width):
                            s += hidden[d] * outputs[row, d]
                        scores[b] = s
                    stats[me, 0] += _slopes(
                        scores, k, settings.kind, labels, weights, shifts, measured
                    )
                    _learn(hidden, change, outputs, rows, k, scores)
                    stats[me, 4] += k
                stats[me, 1] += targets if measured else 0
                if settings.bias >= 0:
                    change[settings.bias] = 0  # the column of ones stays as it is
                # as in fastText each row takes the whole gradient of their mean, not its m-th part
                for a in range(m):
                    row = chosen[a]
                    for d in range(width):
                        inputs[row, d] += change[d]
                stats[me, 3] += m
