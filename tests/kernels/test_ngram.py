"""n-grams: counts in bounded memory, every smoothing against the plain formulas, sums, batches."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.kernels import ngram, ngram_counts, ngram_discounts, ngram_smoothing
from fourfold.kernels.ngram_plain import PlainModel

METHODS = st.sampled_from(ngram_smoothing.METHODS)
END, STOP = 0, 1


@st.composite
def texts(draw: st.DrawFn, longest: int = 60) -> tuple[np.ndarray, int]:
    """Tokens that begin with the end token, and the size of the vocabulary."""
    vocabulary = draw(st.integers(2, 6))
    some = draw(st.lists(st.integers(0, vocabulary - 1), min_size=1, max_size=longest))
    return np.array([END, *some], np.uint32), vocabulary


def model(
    tokens: np.ndarray,
    order: int,
    vocabulary: int,
    method: str,
    stop: int = STOP,
    **options: object,
) -> ngram.Tables:
    levels = ngram_counts.count(tokens, order, vocabulary, END, stop)
    return ngram_smoothing.smooth(levels, method, END, stop, **options)[0]  # type: ignore[arg-type]


def walk(tables: ngram.Tables, tokens: np.ndarray, vocabulary: int) -> np.ndarray:
    """Probabilities of every word after every beginning of a text, (N, V)."""
    contexts = np.full((1, tables.order - 1), -1, np.int32)
    contexts[:, :1] = tables.stop
    found = np.empty((len(tokens) - 1, vocabulary), np.float32)
    for i in range(1, len(tokens)):
        ngram.distributions(tables, contexts, found[i - 1 : i])
        ngram.advance(tables, contexts, tokens[i : i + 1])
    return np.exp(found.astype(np.float64))


@settings(deadline=None, max_examples=100)
@given(
    texts(), texts(25), st.integers(1, 7), METHODS, st.sampled_from([(), (1,), (0, 1), (0, 0, 2)])
)
def test_every_smoothing_equals_its_formula_and_sums_to_one(
    text: tuple[np.ndarray, int],
    other: tuple[np.ndarray, int],
    order: int,
    method: str,
    prune: tuple[int, ...],
) -> None:
    tokens, vocabulary = text
    asked = np.minimum(other[0], vocabulary - 1)
    tables = model(tokens, order, vocabulary, method, k=0.3, prune=prune)
    plain = PlainModel(tokens.tolist(), order, vocabulary, END, STOP, method, 0.3, prune)
    expected = np.array(
        [
            [plain.probability(w, plain.context(asked[:i].tolist())) for w in range(vocabulary)]
            for i in range(1, len(asked))
        ]
    )
    found = walk(tables, asked, vocabulary)
    np.testing.assert_allclose(expected.sum(1), 1, atol=1e-9)
    np.testing.assert_allclose(found.sum(1), 1, atol=2e-6)  # float32 logarithms
    np.testing.assert_allclose(found, expected, atol=2e-6)
    nats = np.empty(len(asked) - 1)
    ngram.surprises(tables, asked, nats)
    chosen = expected[np.arange(len(nats)), asked[1:]]
    np.testing.assert_allclose(np.exp(-nats), chosen, atol=2e-6)


def test_modified_kneser_ney_by_hand() -> None:
    """a b a b a c, bigrams: the continuation counts of a, b and c are 2, 1 and 1; fallback discounts."""
    a, b, c = 2, 3, 4
    tables = model(np.array([END, a, b, a, b, a, c]), 2, 5, "modified-kneser-ney")
    # bigrams: <s> a, a b (2), b a (2), a c. Unigrams: D = 0.5, 1, 1.5 as n3 = 0; mass 0.5 + 0.5 + 1 of 4
    uniform = 2 / 4 / 5
    one = {a: (2 - 1) / 4 + uniform, b: 0.5 / 4 + uniform, c: 0.5 / 4 + uniform}
    np.testing.assert_allclose(np.exp(tables.logs[[END, STOP, a, b, c]]),
                               [uniform, uniform, one[a], one[b], one[c]], rtol=1e-6)  # fmt: skip
    # after a: b twice less 1, c once less 0.5, of 3
    found = walk(tables, np.array([END, a, b]), 5)[1]
    gamma = 1.5 / 3
    np.testing.assert_allclose(found[b], 1 / 3 + gamma * one[b], rtol=1e-6)
    np.testing.assert_allclose(found[c], 0.5 / 3 + gamma * one[c], rtol=1e-6)
    np.testing.assert_allclose(found[a], gamma * one[a], rtol=1e-6)


def test_discounts_of_chen_and_goodman() -> None:
    (one, two, three), fallback = ngram_discounts.discounts([100, 40, 20, 10], three=True)
    y = 100 / 180
    assert not fallback
    assert (one, two, three) == pytest.approx((1 - 2 * y * 0.4, 2 - 3 * y * 0.5, 3 - 4 * y * 0.5))
    assert ngram_discounts.discounts([100, 40, 20, 10], three=False)[0][0] == pytest.approx(y)
    assert ngram_discounts.discounts([5, 0, 0, 0], three=True) == ((0.5, 1.0, 1.5), True)


def test_good_turing_is_katz() -> None:
    """The mass taken from counts 1 to 5 is n1: that of the unseen."""
    n = [1000, 400, 220, 140, 100, 80]
    shares, fewer = ngram_discounts.turing(n)
    assert not fewer and len(shares) == 5
    taken = sum(r * n[r - 1] * (1 - share) for r, share in enumerate(shares, 1))
    assert taken == pytest.approx(n[0])
    star = 2 * n[1] / n[0]
    assert (1 - shares[0]) / (1 - shares[1]) == pytest.approx(
        (1 - star) / (1 - 3 * n[2] / n[1] / 2)
    )


@settings(deadline=None, max_examples=60)
@given(texts(400), st.integers(2, 6))
def test_counts_are_those_of_a_dictionary(text: tuple[np.ndarray, int], order: int) -> None:
    tokens, vocabulary = text
    levels = ngram_counts.count(tokens, order, vocabulary, END, STOP)
    expected = PlainModel(tokens.tolist(), order, vocabulary, END, STOP, "witten-bell").raw
    grams: list[tuple[int, ...]] = [()]
    for n, level in enumerate(levels, 1):
        parents = np.repeat(np.arange(len(level.begin) - 1), np.diff(level.begin))
        before = grams
        grams = [(*before[p], int(w)) for p, w in zip(parents, level.words, strict=True)]
        assert grams == sorted(grams)
        found = Counter(dict(zip(grams, level.counts.tolist(), strict=True)))
        assert +found == expected[n]
        if n > 1:
            # a boundary's children were counted after either token; their suffix lacks the first word
            assert all(before[s] == g[1:] for s, g in zip(level.suffix, grams, strict=True))


@settings(deadline=None, max_examples=15)
@given(st.integers(300, 3000), st.integers(2, 40), st.integers(2, 5), st.integers(0, 99))
def test_bounded_memory_counts_the_same(size: int, vocabulary: int, order: int, seed: int) -> None:
    """Runs of 256 tokens on disk, merged, give the very arrays of one sort in memory."""
    tokens = np.random.default_rng(seed).zipf(1.3, size).clip(1, vocabulary).astype(np.uint32) - 1
    tokens[0] = END
    whole = ngram_counts.count(tokens, order, vocabulary, END, STOP)
    with ngram_counts.Store(len(tokens), memory=1) as store:
        assert store.on_disk
        parts = ngram_counts.count(tokens, order, vocabulary, END, STOP, store=store)
    for a, b in zip(whole, parts, strict=True):
        for name in a._fields:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_the_scratch_folder_is_left_empty(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 50, 2000)
    tokens[0] = END

    class Stop(Exception):
        pass

    def stop(share: float) -> None:
        if share > 0.5:
            raise Stop

    with pytest.raises(Stop), ngram_counts.Store(2000, 1, tmp_path) as store:
        assert list(tmp_path.iterdir())
        ngram_counts.count(tokens, 4, 50, END, STOP, store=store, between=stop)
    assert not list(tmp_path.iterdir())


def test_a_model_outlives_its_scratch_files(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).zipf(1.3, 3000).clip(1, 90).astype(np.uint32) - 1
    tokens[0] = END
    for prune in ((), (1,)):
        with ngram_counts.Store(len(tokens), 1, tmp_path) as store:
            levels = ngram_counts.count(tokens, 4, 90, END, STOP, store=store)
            found, _ = ngram_smoothing.smooth(
                levels, "modified-kneser-ney", END, STOP, prune=prune, store=store
            )
        expected = model(tokens, 4, 90, "modified-kneser-ney", prune=prune)
        for name in ("words", "first", "logs", "backoffs"):
            array = getattr(found, name)
            assert type(array) is np.ndarray and type(array.base) is not np.memmap
            np.testing.assert_array_equal(array, getattr(expected, name), err_msg=name)


GROWTH = """
import sys
from pathlib import Path

import numpy as np

from fourfold.kernels import ngram_counts, ngram_smoothing

END, STOP, memory = (int(a) for a in sys.argv[1:])


def anonymous():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def counted(tokens, memory):
    seen, begun = [], anonymous()
    with ngram_counts.Store(len(tokens), memory) as store:
        after = lambda _: seen.append(anonymous())
        levels = ngram_counts.count(tokens, 5, 20_000, END, STOP, store=store, between=after)
        ngram_smoothing.smooth(
            levels, "absolute", END, STOP, prune=(3,), store=store, between=after
        )
    return max(seen) - begun


tokens = np.random.default_rng(0).zipf(1.2, 600_000).clip(1, 20_000).astype(np.uint32) - 1
tokens[0] = END
counted(tokens[:2000], memory)  # what compiling takes stays taken
print(counted(tokens, memory))
"""
"""In a process of its own: in one that has freed memory before, nothing need grow."""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells")
def test_bounded_memory_is_bounded() -> None:
    """Memory that no file stands behind grows by the finished tables and what is allowed, not with the text."""
    most = []
    for memory in (2 << 20, 1 << 30):
        command = [sys.executable, "-c", GROWTH, str(END), str(STOP), str(memory)]
        most.append(int(subprocess.run(command, check=True, capture_output=True).stdout))
    assert most[0] < 8_000 < 15_000 < most[1]  # kB


@pytest.mark.parametrize("method", ngram_smoothing.METHODS)
def test_the_smallest_texts(method: str) -> None:
    """A vocabulary of one, one token, orders above the length: still a distribution."""
    for vocabulary, tokens in ((1, [0, 0]), (1, [0] * 9), (3, [0, 2]), (3, [0, 2, 2, 2])):
        text = np.array(tokens, np.uint32)
        tables = model(text, 7, vocabulary, method, stop=min(STOP, vocabulary - 1))
        found = walk(tables, np.array([0, *range(vocabulary), 0]), vocabulary)
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
        assert (found > 0).all()


def test_contexts_do_not_reach_across_a_boundary() -> None:
    random = np.random.default_rng(1)
    text = random.integers(0, 6, 500)
    text[0] = END
    tables = model(text, 4, 6, "witten-bell")
    first = walk(tables, np.array([END, 3, 4, STOP, 2, 5]), 6)
    second = walk(tables, np.array([END, 5, 5, END, 2, 5]), 6)
    np.testing.assert_array_equal(first[-2:], second[-2:])


def test_blocks_of_positions_join() -> None:
    """Positions looked up side by side see over the edge of a block."""
    random = np.random.default_rng(2)
    text = random.integers(0, 9, 3 * ngram.BLOCK + 17).astype(np.uint32)
    text[0] = END
    tables = model(text, 5, 9, "modified-kneser-ney")
    nats = np.empty(len(text) - 1)
    ngram.surprises(tables, text, nats)
    found = walk(tables, text, 9)[np.arange(len(nats)), text[1:]]
    np.testing.assert_allclose(nats, -np.log(found), rtol=1e-5)


def test_a_text_of_known_entropy() -> None:
    """Independent words with p = 1/2, 1/4, 1/8, 1/8: no model of any order may be below their 1.75 bits."""
    random = np.random.default_rng(3)
    text = random.choice([2, 3, 4, 5], 60_000, p=[1 / 2, 1 / 4, 1 / 8, 1 / 8]).astype(np.uint32)
    text[0] = END
    for method in ngram_smoothing.METHODS:
        nats = np.empty(19_999)
        ngram.surprises(model(text[:40_000], 3, 6, method), np.insert(text[40_001:], 0, END), nats)
        assert nats.mean() / math.log(2) == pytest.approx(1.75, abs=0.03)


@pytest.mark.parametrize("tokens", [[], [0], [2, 1]])
def test_refuses_what_is_no_text(tokens: list[int]) -> None:
    with pytest.raises(ValueError, match="boundary"):
        ngram_counts.count(np.array(tokens, np.uint32), 2, 3, END, STOP)
