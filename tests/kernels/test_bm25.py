"""Terms and BM25, held to their plain forms, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.kernels import bm25, bm25_plain, terms
from fourfold.models.passages import PassageIndex

words = st.lists(
    st.sampled_from("cat dog fish bird tree stone river".split()), min_size=1, max_size=12
)


def index(texts: list[str], k1: float = 1.2, b: float = 0.75) -> PassageIndex:
    made = PassageIndex(k1, b, stem=True)
    made.take(texts, "00" * 32, [])
    return made


@settings(deadline=None)  # the first call compiles
@given(st.lists(words, min_size=1, max_size=8), words, st.floats(0, 3), st.floats(0, 1))
def test_scores_equal_the_plain_form(
    passages: list[list[str]], question: list[str], k1: float, b: float
) -> None:
    found = index([" ".join(p) for p in passages], k1, b).score_text(" ".join(question))
    np.testing.assert_allclose(
        found, bm25_plain.scores(passages, question, k1, b), rtol=1e-5, atol=1e-6
    )


def test_by_hand() -> None:
    found = index(["cat cat dog", "dog"]).score_text("cat")
    idf = math.log(1 + (2 - 1 + 0.5) / (1 + 0.5))
    assert found[0] == pytest.approx(idf * 2.2 * 2 / (2 + 1.2 * (0.25 + 0.75 * 3 / 2)), rel=1e-6)
    assert found[1] == 0


def test_reference_implementation() -> None:
    """Lucene's form as bm25s has it, which leaves the constant factor k1 + 1 out."""
    bm25s = pytest.importorskip("bm25s")
    rng = np.random.default_rng(0)
    passages = [[f"w{n}x" for n in rng.integers(0, 50, size)] for size in rng.integers(1, 40, 30)]
    question = [f"w{n}x" for n in rng.integers(0, 60, 6)]
    other = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    other.index(passages, show_progress=False)
    theirs = np.array(other.get_scores([w for w in question if any(w in p for p in passages)]))
    ours = index([" ".join(p) for p in passages]).score_text(" ".join(question))
    np.testing.assert_allclose(ours, 2.2 * theirs, rtol=1e-5, atol=1e-6)


def same(a: str, b: str) -> bool:
    return np.array_equal(*(terms.hashes([t])[0] for t in (a, b)))


@pytest.mark.parametrize(
    ("a", "b"),
    [("Cats", "cat"), ("cities", "city"), ("classes", "classe"), ("Straße", "straße"), ("Café", "cafe"), ("ＡＢＣ１", "abc1"),
     ("über", "uber"), ("don't", "don t"), ("naïve", "naïve"), ("ΣΟΦΟΣ", "σοφοσ")],
)  # fmt: skip
def test_terms_that_are_the_same(a: str, b: str) -> None:
    assert same(a, b)


@pytest.mark.parametrize(
    ("a", "b"), [("bus", "bu"), ("class", "clas"), ("cat", "cut"), ("猫狗", "狗猫")]
)
def test_terms_that_differ(a: str, b: str) -> None:
    assert not same(a, b)


def test_chinese_is_found_by_characters_and_pairs() -> None:
    assert len(terms.hashes(["猫在睡觉"])[0]) == 4 + 3
    found = index(["猫在睡觉。", "睡猫在觉", "dog"]).score_text("睡觉")
    assert found[0] > found[1] > found[2] == 0
    rare = index(["𠀀𠀁 b", "b"]).score_text("𠀀𠀁")
    assert rare[0] > 0 == rare[1]


def test_counts_of_empty_texts() -> None:
    hashed, often, ends, lengths = terms.counts(["", "a b a", "..."])
    assert len(hashed) == 2 and sorted(often.tolist()) == [1, 2]
    assert ends.tolist() == [0, 0, 2, 2] and lengths.tolist() == [0, 3, 0]


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 10))
def test_largest(scores: list[int], top: int) -> None:
    expected = sorted((n for n, s in enumerate(scores) if s > 0), key=lambda n: (-scores[n], n))[
        :top
    ]
    assert bm25.largest(np.array(scores, np.float32), top).tolist() == expected


@settings(deadline=None)  # the first call compiles
@given(st.lists(words, min_size=1, max_size=8))
def test_lists_hold_every_term(passages: list[list[str]]) -> None:
    hashed, often, ends, _ = terms.counts([" ".join(p) for p in passages], stem=False)
    found, offsets, rows, counted = bm25.inverted(hashed, often, ends)
    assert np.all(np.diff(found.astype(np.float64)) > 0) and offsets[-1] == len(rows)
    for word in {w for p in passages for w in p}:
        (place,) = np.flatnonzero(found == terms.hashes([word], stem=False)[0][0])
        some = slice(offsets[place], offsets[place + 1])
        expected = {n: p.count(word) for n, p in enumerate(passages) if word in p}
        assert dict(zip(rows[some].tolist(), counted[some].tolist(), strict=True)) == expected
