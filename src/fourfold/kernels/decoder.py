"""Tokens of a Transformer in one compiled call, for a CPU: Llama's form (Touvron et al. 2023).

Embedding, RMSNorm, rotary positions, grouped attention over the cache, SwiGLU, output: what
`models/torch_decoder.py` does, which is its plain reference, without the 15 calls a layer that cost more
there than the arithmetic of a small model. What is left is reading the weights, in float32 or bytes
(`kernels/panels.py`). Sizes are arguments: it is compiled once for all models.

Shapes: B rows (one for each token, of any slots), N rows whose logits are wanted, S slots, W width, H heads,
K key-value heads, D features of a head, F hidden, P positions, L layers, V vocabulary. Norms' weights are multiplied into the matrices that follow them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fourfold.kernels.cached import njit, sources
from fourfold.kernels.lanes import (
    LANES,
    add,
    div,
    exp,
    fma,
    load,
    lower,
    mul,
    pointer,
    splat,
    store,
    store_pair,
    sub,
    sums,
    upper,
)
from fourfold.kernels.panels import (
    BLOCK,
    OPTIONS,
    PANEL,
    multiply_bytes,
    multiply_floats,
    padded,
    quantize,
)
from fourfold.kernels.team import follow, lead, meet, part, wake

FAST: dict[str, Any] = {"fastmath": True, **OPTIONS}
TOGETHER, SPARE = 12, 16
"""Keys that a query meets at once; places of a cache behind the last that may be read, and not used."""
HEADS, OUT, UP, DOWN = range(4)
"""A layer's matrices: (H + 2 K) D x W, W x H D, 2 F x W (gate, then up), W x F."""


class Weights(NamedTuple):
    """A model's matrices, one after the other; those of layer l at [l], the output's at [L, 0].

    Attributes:
        floats: packed float32; empty where bytes are used.
        codes: packed uint8; empty where float32 is used.
        scales: of the bytes' blocks.
        at: (L + 1, 4) int64, where each matrix begins, in numbers.
        bias: float32, all matrices' biases, each padded to whole panels.
        bias_at: (L + 1, 4) int64, where each begins.
        embedding: (V, W) float32.
        head_norms: (L, H + K, D) float32, weights of the norms of queries and keys; (0, 0, 0) without them.
        cos: (P, D / 2) float32.
        sin: as cos.
        sliding: (L,) int64, positions each layer sees.
    """

    floats: np.ndarray
    codes: np.ndarray
    scales: np.ndarray
    at: np.ndarray
    bias: np.ndarray
    bias_at: np.ndarray
    embedding: np.ndarray
    head_norms: np.ndarray
    cos: np.ndarray
    sin: np.ndarray
    sliding: np.ndarray


class Sizes(NamedTuple):
    """H, K, D, F, V, the factor of scores (D ** -0.5 and what a model multiplies queries by), the norms' epsilon."""

    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocabulary: int
    factor: float
    eps: float


@njit(**FAST)
def _normal(x, out, eps):  # type: ignore[no-untyped-def]
    """Each row (B, W) over its root mean square."""
    for r in range(x.shape[0]):
        total = np.float32(0.0)
        for i in range(x.shape[1]):
            total += x[r, i] * x[r, i]
        scale = np.float32(1.0 / np.sqrt(total / x.shape[1] + eps))
        for i in range(x.shape[1]):
            out[r, i] = x[r, i] * scale


@njit(**OPTIONS)
def _multiply(weights, at, begin, x, out, outputs, me, threads):  # type: ignore[no-untyped-def]
    """out (B, padded) = x (B, M) times the matrix at `at`, and its bias from `begin` on, unless that is below 0.

    Of the outputs each thread makes its part, which is told.
    """
    first, last = part(padded_size(outputs) // PANEL, me, threads)
    rows = x.shape[0]
    if weights.codes.size:
        blocks = padded_size(x.shape[1]) // BLOCK
        codes = np.empty((rows, blocks * BLOCK), np.int8)
        own, offsets = np.empty((rows, blocks), np.float32), np.empty((rows, blocks), np.int32)
        quantize(x, codes, own, offsets)
        multiply_bytes(weights.codes, at, weights.scales, codes, own, offsets, out, first, last)
    else:
        multiply_floats(weights.floats, at, x, out, first, last)
    end = min(outputs, last * PANEL)
    if begin >= 0:
        for r in range(rows):
            for i in range(first * PANEL, end):
                out[r, i] += weights.bias[begin + i]
    return first * PANEL, end


padded_size = njit(padded, **OPTIONS)


@njit(**FAST)
def _turn(heads, at, weights, sizes, layer, begin, end):  # type: ignore[no-untyped-def]
    """Normalize and turn heads begin to end of each row, (B, (H + 2 K) D), queries or keys, where they lie."""
    size, half = sizes.head_dim, sizes.head_dim // 2
    for r in range(len(at)):
        for h in range(begin, end):
            x = heads[r, h * size : (h + 1) * size]
            if weights.head_norms.size:
                total = np.float32(0.0)
                for i in range(size):
                    total += x[i] * x[i]
                scale = np.float32(1.0 / np.sqrt(total / size + sizes.eps))
                for i in range(size):
                    x[i] *= scale * weights.head_norms[layer, h, i]
            for i in range(half):
                first, second = x[i], x[half + i]
                cos, sin = weights.cos[at[r], i], weights.sin[at[r], i]
                x[i] = first * cos - second * sin
                x[half + i] = second * cos + first * sin


@njit(**OPTIONS)
def _scores(query, keys, begin, size, count, found):  # type: ignore[no-untyped-def]
    """Products of a query with the `count` keys from `begin` on, each of `size` numbers, twelve at a time.

    Of the last twelve some may lie beyond; `found` has room for them and four more.
    """
    q, k, to = pointer(query), pointer(keys), pointer(found)
    zero = splat(np.float32(0.0))
    for p in range(0, count, TOGETHER):
        a = b = c = d = e = f = g = h = i = j = m = n = zero
        at = begin + p * size
        for w in range(0, size, 2 * LANES):
            x, z, y = load(q, w), load(q, w + LANES), at + w
            a = fma(upper(k, y), z, fma(lower(k, y), x, a))
            b = fma(upper(k, y + size), z, fma(lower(k, y + size), x, b))
            c = fma(upper(k, y + 2 * size), z, fma(lower(k, y + 2 * size), x, c))
            d = fma(upper(k, y + 3 * size), z, fma(lower(k, y + 3 * size), x, d))
            e = fma(upper(k, y + 4 * size), z, fma(lower(k, y + 4 * size), x, e))
            f = fma(upper(k, y + 5 * size), z, fma(lower(k, y + 5 * size), x, f))
            g = fma(upper(k, y + 6 * size), z, fma(lower(k, y + 6 * size), x, g))
            h = fma(upper(k, y + 7 * size), z, fma(lower(k, y + 7 * size), x, h))
            i = fma(upper(k, y + 8 * size), z, fma(lower(k, y + 8 * size), x, i))
            j = fma(upper(k, y + 9 * size), z, fma(lower(k, y + 9 * size), x, j))
            m = fma(upper(k, y + 10 * size), z, fma(lower(k, y + 10 * size), x, m))
            n = fma(upper(k, y + 11 * size), z, fma(lower(k, y + 11 * size), x, n))
        sums(to, p, a, b, c, d, e, f, g, h, i, j, m, n)


@njit(**FAST)
def _shares(found, count):  # type: ignore[no-untyped-def]
    """e^(score - the largest) in place; their sum. found has room for whole vectors."""
    largest = np.float32(-3e38)  # fast arithmetic knows no infinity
    for p in range(count):
        largest = max(largest, found[p])
    start, most = pointer(found), splat(largest)
    for p in range(0, count, LANES):
        store(start, p, exp(sub(load(start, p), most)))
    total = np.float32(0.0)
    for p in range(count):
        total += found[p]
    return total


@njit(**OPTIONS)
def _mix(found, values, begin, size, count, scale, out):  # type: ignore[no-untyped-def]
    """The sum of the `count` values from `begin` on, weighted by found and scaled, to out (size,)."""
    v, to, times = pointer(values), pointer(out), splat(scale)
    zero = splat(np.float32(0.0))
    w = 0
    while w < size:
        a = b = c = d = zero
        if w + 4 * LANES <= size:
            for p in range(count):
                share, at = splat(found[p]), begin + p * size + w
                a, b = fma(lower(v, at), share, a), fma(upper(v, at), share, b)
                at += 2 * LANES
                c, d = fma(lower(v, at), share, c), fma(upper(v, at), share, d)
            store(to, w + 2 * LANES, mul(c, times))
            store(to, w + 3 * LANES, mul(d, times))
        else:
            for p in range(count):
                share, at = splat(found[p]), begin + p * size + w
                a, b = fma(lower(v, at), share, a), fma(upper(v, at), share, b)
        store(to, w, mul(a, times))
        store(to, w + LANES, mul(b, times))
        w += 4 * LANES


@njit(**OPTIONS)
def _keep(heads, slots, at, keys, values, sizes, start, last):  # type: ignore[no-untyped-def]
    """Keep each row's key and value at its slot's place, (S, K, P', D'): heads start to last of them."""
    size, whole = sizes.head_dim, keys.shape[3]
    row = np.zeros(whole, np.float32)
    source, k, v = pointer(row), pointer(keys), pointer(values)
    for r in range(len(at)):
        for head in range(start, last):
            place = ((slots[r] * keys.shape[1] + head) * keys.shape[2] + at[r]) * whole
            begin = (sizes.heads + head) * size
            row[:size] = heads[r, begin : begin + size]
            for w in range(0, whole, 2 * LANES):
                store_pair(k, place + w, load(source, w), load(source, w + LANES))
            begin += sizes.kv_heads * size
            row[:size] = heads[r, begin : begin + size]
            for w in range(0, whole, 2 * LANES):
                store_pair(v, place + w, load(source, w), load(source, w + LANES))


@njit(**OPTIONS)
def _attend(heads, slots, at, keys, values, sizes, sliding, mixed, begin, end):  # type: ignore[no-untyped-def]
    """What queries begin to end of each row draw from its slot's keys and values up to its place, to mixed (B, H D)."""
    size, shared, whole = sizes.head_dim, sizes.heads // sizes.kv_heads, keys.shape[3]
    found = np.empty(keys.shape[2] + SPARE + LANES, np.float32)
    query, out = np.zeros(whole, np.float32), np.empty(whole, np.float32)
    factor = np.float32(sizes.factor)
    for r in range(len(at)):
        seen = max(0, at[r] + 1 - sliding)
        count = at[r] + 1 - seen
        for h in range(begin, end):
            for i in range(size):
                query[i] = heads[r, h * size + i] * factor
            place = ((slots[r] * keys.shape[1] + h // shared) * keys.shape[2] + seen) * whole
            _scores(query, keys, place, whole, count, found)
            total = _shares(found, count)
            _mix(found, values, place, whole, count, np.float32(1.0) / total, out)
            mixed[r, h * size : (h + 1) * size] = out[:size]


@njit(**OPTIONS)
def _gate(up, hidden, out):  # type: ignore[no-untyped-def]
    """silu(gate) * up, (B, F), from both side by side, (B, >= 2 F)."""
    one = splat(np.float32(1.0))
    row = np.empty(hidden + LANES, np.float32)
    start = pointer(row)
    zero = splat(np.float32(0.0))
    for r in range(up.shape[0]):
        row[:hidden] = up[r, :hidden]
        for i in range(0, hidden, LANES):
            gate = load(start, i)
            store(start, i, div(gate, add(one, exp(sub(zero, gate)))))
        for i in range(hidden):
            out[r, i] = row[i] * up[r, hidden + i]


class Work(NamedTuple):
    """What the threads of a step share; R rows at most.

    Attributes:
        team: see `kernels.team.numbers`.
        counts: (2,) int64: B and N.
        tokens: (R,) int64.
        slots: (R,) int64, below S.
        at: (R,) int64, the place of each, below P.
        wanted: (R,) int64, N rows whose logits are.
        x: (R, W) float32, as all that follow.
        heads: (R, (H + 2 K) D padded).
        mixed: (R, H D).
        up: (R, 2 F padded).
        change: (R, W padded).
        logits: (R, V padded), what follows each row that is wanted.
    """

    team: np.ndarray
    counts: np.ndarray
    tokens: np.ndarray
    slots: np.ndarray
    at: np.ndarray
    wanted: np.ndarray
    x: np.ndarray
    heads: np.ndarray
    mixed: np.ndarray
    up: np.ndarray
    change: np.ndarray
    logits: np.ndarray


@njit(**OPTIONS)
def _add(x, change, first, last):  # type: ignore[no-untyped-def]
    """Columns of change, to x."""
    for r in range(x.shape[0]):
        for i in range(first, last):
            x[r, i] += change[r, i]


@njit(**OPTIONS)
def _step(work, weights, sizes, keys, values, me, threads):  # type: ignore[no-untyped-def]
    """One thread's part of a step. Norms, gates and bytes of inputs each makes for itself: that is sooner than to meet."""
    rows, wanted, width = work.counts[0], work.counts[1], weights.embedding.shape[1]
    inner, hidden = sizes.heads * sizes.head_dim, sizes.hidden
    joined = inner + 2 * sizes.kv_heads * sizes.head_dim
    slots, at, x, team = work.slots[:rows], work.at[:rows], work.x[:rows], work.team
    heads, mixed, up, change = (
        work.heads[:rows],
        work.mixed[:rows],
        work.up[:rows],
        work.change[:rows],
    )
    normal, gated = np.empty((rows, width), np.float32), np.empty((rows, hidden), np.float32)
    shared = sizes.heads // sizes.kv_heads
    first, last = part(sizes.kv_heads, me, threads)
    begin, end = part(width, me, threads)
    for r in range(rows):
        x[r, begin:end] = weights.embedding[work.tokens[r], begin:end]
    # numbers, not constants: a constant would have the product compiled for each of its values
    places, bias_at, layers = weights.at, weights.bias_at, keys.shape[0]
    for layer in range(layers):
        meet(team, threads)
        _normal(x, normal, sizes.eps)
        _multiply(
            weights, places[layer, HEADS], bias_at[layer, HEADS], normal, heads, joined, me, threads
        )
        meet(team, threads)
        _turn(heads, at, weights, sizes, layer, first * shared, last * shared)
        _turn(heads, at, weights, sizes, layer, sizes.heads + first, sizes.heads + last)
        _keep(heads, slots, at, keys[layer], values[layer], sizes, first, last)
        _attend(
            heads,
            slots,
            at,
            keys[layer],
            values[layer],
            sizes,
            weights.sliding[layer],
            mixed,
            first * shared,
            last * shared,
        )
        meet(team, threads)
        begin, end = _multiply(
            weights, places[layer, OUT], bias_at[layer, OUT], mixed, change, width, me, threads
        )
        _add(x, change, begin, end)
        meet(team, threads)
        _normal(x, normal, sizes.eps)
        _multiply(
            weights, places[layer, UP], bias_at[layer, UP], normal, up, 2 * hidden, me, threads
        )
        meet(team, threads)
        _gate(up, hidden, gated)
        begin, end = _multiply(
            weights, places[layer, DOWN], bias_at[layer, DOWN], gated, change, width, me, threads
        )
        _add(x, change, begin, end)
    meet(team, threads)
    if wanted > 0:
        chosen = np.empty((wanted, width), np.float32)
        for n in range(wanted):
            chosen[n] = x[work.wanted[n]]
        _normal(chosen, chosen, sizes.eps)
        _multiply(
            weights,
            places[layers, HEADS],
            bias_at[layers, HEADS],
            chosen,
            work.logits[:wanted],
            sizes.vocabulary,
            me,
            threads,
        )
    meet(team, threads)


@njit(**OPTIONS)
def step(work, weights, sizes, keys, values, threads):  # type: ignore[no-untyped-def]
    """Read tokens, each into its slot; those of one slot in order of their places.

    Args:
        work: `Work`, with counts, tokens, slots, at and wanted; takes the logits.
        weights: `Weights`.
        sizes: `Sizes`.
        keys: (L, S, K, P', D') of what precedes, float32 or bfloat16 as uint16 (see `cache`); takes the tokens'.
        values: as keys.
        threads: of the team; those that sleep do not help.

    Returns:
        Threads that worked on it.
    """
    working = lead(work.team, threads)
    _step(work, weights, sizes, keys, values, 0, working)
    return working


@njit(**OPTIONS)
def help_(work, weights, sizes, keys, values, me, threads):  # type: ignore[no-untyped-def]
    """Work on steps, until none comes for a while."""
    seen = wake(work.team, me)
    while True:
        found = follow(work.team, me, seen)
        if found == -1:
            return
        if found >= 0:
            _step(work, weights, sizes, keys, values, me, threads)
            seen = found
        else:
            seen = -2 - found


def cache(layers: int, slots: int, kv_heads: int, window: int, head_dim: int, half: bool) -> np.ndarray:  # fmt: skip
    """Room for keys or values, (L, S, K, P', D') zeros: whole vectors, and places that may be read though nothing is there."""
    shape = layers, slots, kv_heads, window + SPARE, -(-head_dim // (2 * LANES)) * 2 * LANES
    return np.zeros(shape, np.uint16 if half else np.float32)


def compiled_before() -> bool:
    """Whether the cache has a compiled step that is newer than the files it is made of."""
    newest = max(file.stat().st_mtime for file in sources(Path(__file__)))
    kept = Path(step.stats.cache_path).glob("decoder.step-*.nbi")
    return any(index.stat().st_mtime >= newest for index in kept)
