"""Text as sentences of numbered words: what a word is, what is left out, where sentences end, and windows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.core.errors import UserError
from fourfold.data.sentences import Sentences, SentencesData


def opened(text: str | list[str], **options: Any) -> SentencesData:
    return Sentences(**{"min_count": 1, **options}).open({"text": text})


def said(data: SentencesData, split: Any = "train") -> list[list[str]]:
    part = data.part(split)
    names = [data.vocabulary.words[w] for w in part.words]
    return [names[a:b] for a, b in zip(part.ends[:-1], part.ends[1:], strict=True)]


def test_words_of_every_script_and_the_ends_of_sentences() -> None:
    text = "It's a well-known tale. Der Süden\nsingt!\n\n我爱北京。No. 3"
    assert said(opened(text)) == [
        ["It's", "a", "well-known", "tale"],
        ["Der", "Süden", "singt"],
        ["我", "爱", "北", "京"],
        ["No"],
        ["3"],
    ]
    assert said(opened("Der Süden", lower=True)) == [["der", "süden"]]


def test_units() -> None:
    assert said(opened("a b, c.\nd  e", unit="space")) == [["a", "b,", "c."], ["d", "e"]]
    assert said(opened("ab c", unit="character")) == [["a", "b", "c"]]


def test_documents_keep_apart() -> None:
    assert said(opened(["one two", "three"])) == [["one", "two"], ["three"]]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.lists(st.sampled_from(["a", "bb", "é", "北京", "x1"]), min_size=1, max_size=9),
        min_size=1,
        max_size=9,
    )
)
def test_numbers_counts_and_order_are_those_of_a_plain_split(lines: list[list[str]]) -> None:
    counts = Counter(w for line in lines for w in line)
    if len(counts) < 2:
        return
    data = opened("\n".join(" ".join(line) for line in lines), unit="space")
    assert said(data) == lines
    assert dict(zip(data.vocabulary.words, data.vocabulary.counts.tolist(), strict=True)) == counts
    assert sorted(counts.values(), reverse=True) == data.vocabulary.counts.tolist()


def test_a_long_text_is_cut_into_blocks_without_cutting_words(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    words = [
        "".join(chr(97 + c) for c in random.integers(0, 26, n))
        for n in random.integers(1, 12, 60_000)
    ]
    path = tmp_path / "long.txt"
    path.write_text(" ".join(words), encoding="utf-8")
    data = Sentences(min_count=1, unit="space").open(str(path))
    assert [data.vocabulary.words[w] for w in data.part("train").words] == words


def test_rare_words_are_left_out_and_counted() -> None:
    data = opened("a a a b b c", unit="space", min_count=2)
    assert said(data) == [["a", "a", "a", "b", "b"]] and data.summary()["left out"] == 1
    assert opened("a a a b b c", unit="space", vocabulary=2).vocabulary.words == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "options", "match"),
    [
        ("a a a", {}, "one word only"),
        (
            "a b c",
            {"min_count": 5},
            "min-count 5: no word is left; the most frequent of 3 words occurs 1 times",
        ),
        ("... !", {}, "the text has no word"),
    ],
)
def test_texts_that_nothing_can_be_learned_from(
    text: str, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(UserError, match=match):
        opened(text, **options)


def test_phrases_are_joined_and_joined_again_when_reopened(tmp_path: Path) -> None:
    others = [f"w{i}" for i in range(30)]
    random = np.random.default_rng(0)
    lines = [" ".join([*random.choice(others, 5), "new", "york", "city"]) for _ in range(60)]
    data = opened("\n".join(lines), unit="space", min_count=5, phrases=2, phrase_score=4.0)
    assert {"new_york_city"} == {w for w in data.vocabulary.words if "_" in w}
    data.save(tmp_path)
    again = data.options.restore(tmp_path).reopen({"text": ["w1 new york city"]}, whole=True)
    assert "new_york_city" in said(again, "test")[0]


def test_split_save_and_reopen(tmp_path: Path) -> None:
    text = "\n".join(f"w{i % 7} w{i % 5} w{i % 3}" for i in range(200))
    data = opened(text, unit="space", split=(0.8, 0.1, 0.1))
    assert [data.size(s) for s in ("train", "valid", "test")] == [480, 60, 60]  # type: ignore[arg-type]
    data.save(tmp_path)
    again = data.options.restore(tmp_path)
    assert again.vocabulary.words == data.vocabulary.words
    assert (again.vocabulary.counts == data.vocabulary.counts).all()
    back = again.reopen({"text": [text]})
    assert back.fingerprint == data.fingerprint and said(back) == said(data)
    other = again.reopen({"text": ["w1 new w2"]}, whole=True)
    assert said(other, "test") == [["w1", "w2"]] and other.summary()["left out"] == 1


def test_a_growing_vocabulary_keeps_old_numbers() -> None:
    data = opened("a a b b", unit="space", grow=True)
    grown = data.reopen({"text": ["c c a d d d"]})
    assert grown.vocabulary.words == ["a", "b", "d", "c"]
    assert grown.vocabulary.counts.tolist() == [3, 2, 3, 2]
    assert any("2 new words" in note for note in grown.summary()["notes"])


def test_windows_hold_every_neighbour_once_and_none_of_another_sentence() -> None:
    data = opened("a b c\nd e", unit="space", window=2, batch=2)
    found = {}
    for batch in data.batches("train"):
        for context, middle in zip(
            batch["context"].tolist(), batch["middle"].tolist(), strict=True
        ):
            names = {data.vocabulary.words[w] for w in context if w >= 0}
            found[data.vocabulary.words[middle]] = names
    assert found == {"a": {"b", "c"}, "b": {"a", "c"}, "c": {"a", "b"}, "d": {"e"}, "e": {"d"}}


def test_an_epoch_is_fixed_by_seed_and_epoch_and_thinned() -> None:
    text = " ".join(["the"] * 3000 + [f"w{i % 40}" for i in range(800)])
    data = opened(text, unit="space", thin=1e-2, batch=64)
    fresh = opened(text, unit="space", thin=1e-2, batch=64)
    first, again = (
        np.concatenate([b["middle"] for b in d.batches("train", epoch=3)]) for d in (data, fresh)
    )
    assert (first == again).all()
    other = np.concatenate([b["middle"] for b in data.batches("train", epoch=4)])
    assert len(other) != len(first) or (other != first).any()
    share = float(np.mean(first == data.vocabulary.numbers["the"]))
    f = 3000 / 3800 / 1e-2
    kept = 3000 * (np.sqrt(f) + 1) / f
    assert share == pytest.approx(kept / (kept + 800), abs=0.05)


def test_what_sub_sampling_keeps_is_the_formula_of_the_papers_program() -> None:
    data = opened(" ".join(["the"] * 900 + ["of"] * 90 + ["cat"] * 10), unit="space", thin=1e-2)
    expected = [(np.sqrt(90) + 1) / 90, (np.sqrt(9) + 1) / 9, 1.0]  # shares of 90, 9 and 1 times t
    np.testing.assert_allclose(data.keep(), expected, rtol=1e-6)


def test_an_epochs_windows_are_as_often_of_every_width() -> None:
    data = opened(" ".join(f"w{i % 7}" for i in range(6000)), unit="space", thin=0, window=3)
    widths = np.concatenate(
        [(b["context"] >= 0).sum(1).numpy() for b in data.batches("train", epoch=0)]
    )
    counts = np.bincount(widths, minlength=7)
    assert counts[0] == 0 and counts[[1, 3, 5]].sum() <= 6  # at the text's ends
    np.testing.assert_allclose(counts[[2, 4, 6]] / 6000, 1 / 3, atol=0.03)


@pytest.mark.parametrize("score", [0.3, 0.9])
def test_phrases_are_those_whose_score_passes(score: float) -> None:
    random = np.random.default_rng(0)
    words = [f"w{int(i)}" for i in random.geometric(0.2, 800)]
    counts, pairs = Counter(words), Counter(zip(words[:-1], words[1:], strict=True))
    expected = {
        pair for pair, many in pairs.items()
        if (many - 2) * len(words) / (counts[pair[0]] * counts[pair[1]]) > score
    }  # fmt: skip
    data = opened(" ".join(words), unit="space", min_count=2, phrases=1, phrase_score=score)
    assert set(data.vocabulary.pairs) == expected
    assert 3 < len(expected) < len(pairs) / 2
