"""Units of corpora that are cut already, jieba's words, and what unknown words cost."""

from __future__ import annotations

import gzip
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.core.errors import UserError
from fourfold.data.spaced import Jieba, Spaced
from fourfold.data.spelling import Spelling
from fourfold.data.subwords import Subwords
from fourfold.data.text import Text
from fourfold.data.vocabulary import Characters, Texts, Vocabulary
from fourfold.data.words import Words

TREEBANK = " the <unk> fell N % \n it rose to $ N \n \n"
ZH = "我们在野生动物园玩，天气很好。\nHello world 你好！\n"


def stream(*texts: str) -> Texts:
    def texts_again() -> Iterator[tuple[str, str]]:
        return ((text, "") for text in texts)

    return texts_again


def test_a_corpus_that_is_cut_already() -> None:
    known = Spaced.learn(stream(TREEBANK), None, 1)
    tokens = known.encode(TREEBANK)
    names = [known.token(token) for token in tokens]
    assert names == [
        "the", "<unk>", "fell", "N", "%", "</s>", "it", "rose", "to", "$", "N", "</s>", "</s>"
    ]  # fmt: skip
    assert known.padded and known.decode(tokens) == TREEBANK
    assert known.unknown in tokens and known.entries[3] == "N"


SPACES = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000"


@given(
    st.lists(st.text(st.sampled_from("abé词𝒳\0" + SPACES), max_size=30), max_size=4),
    st.text(st.sampled_from("abcé词<unk> \n"), max_size=40),
)
def test_words_are_what_stands_between_white_space(pieces: list[str], other: str) -> None:
    """As a regular expression finds them, each piece by itself, in any order of questions."""
    units = re.compile(r"[^\S\n]*(\S+|\n)")
    known = Spaced.learn(stream(*pieces), None, 1)
    counts = Counter(w for piece in pieces for w in units.findall(piece) if w != "\n")
    assert known.entries[3:] == sorted(counts, key=lambda word: (-counts[word], word))
    for texts in ([other], pieces, [other, *pieces, other]):
        tokens, lengths, spelled = known.encode_spelled(texts)
        expected = [units.findall(text) for text in texts]
        assert lengths.tolist() == [len(some) for some in expected]
        flat, others = [w for some in expected for w in some], iter(spelled)
        for word, token in zip(flat, tokens.tolist(), strict=True):
            if token == known.unknown:
                assert word not in counts and next(others) == ("" if word == "<unk>" else word)
            else:
                assert known.entries[token] == word
        assert next(others, None) is None


def test_words_lie_across_the_edges_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from fourfold.data import word_table

    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("ab词"), random.integers(1, 40))) for _ in range(300)]
    text = " ".join(words) + "\n\n"
    expected = Spaced.learn(stream(text), None, 1)
    monkeypatch.setattr(word_table, "BLOCK", 7)
    found = Spaced.learn(stream(text), None, 1)
    assert found.entries == expected.entries
    assert [found.entries[t] for t in found.encode(text)] == [*words, "\n", "\n"]


def test_words_that_were_not_given_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from fourfold.data import word_table

    monkeypatch.setattr(word_table, "SPARE", 10)
    table = word_table.WordTable(["a", "b"])
    for start in range(0, 100, 7):
        names = [f"w{n}" for n in range(start, start + 7)]
        numbers, others = table.numbers(" ".join(["b", *names, "a\n"]))
        assert numbers[[0, -2, -1]].tolist() == [2, 1, 0]
        assert [others[n] for n in numbers[1:-2].tolist()] == names
        assert int(table._known.size[0]) <= 3 + 10 + 7


def test_the_layout_is_that_of_most_lines() -> None:
    plain = Spaced.learn(stream("a b\nc\n\nd\n"), None, 1)
    assert not plain.padded
    for text in ("a b\nc\n\nd\n", "d", "d\na", "\n\na"):
        assert plain.decode(plain.encode(text)) == text
    assert plain.decode(plain.encode(" a  b \n")) == "a b\n"  # other layouts are not kept


@pytest.mark.parametrize("kind", [Spaced, Jieba])
def test_words_are_saved_with_their_layout(kind: type[Vocabulary], tmp_path: Path) -> None:
    text = TREEBANK if kind is Spaced else ZH
    data = Text(unit=kind.unit, window=2).open({"text": [text * 9]})  # type: ignore[arg-type]
    data.save(tmp_path)
    again = Text(unit=kind.unit, window=2).restore(tmp_path)  # type: ignore[arg-type]
    assert again.vocabulary.digest == data.vocabulary.digest
    assert again.vocabulary.decode(again.vocabulary.encode(text)) == text


def test_perplexities_compare_with_the_field() -> None:
    """Penn Treebank style: N words a line and one end, a literal <unk> counted as the unknown token."""
    folder = os.environ.get("FOURFOLD_DATA")
    path = Path(folder or "", "wikitext-2-valid-test", "valid.txt.gz")
    if not folder or not path.exists():
        pytest.skip("FOURFOLD_DATA has no WikiText-2")
    text = gzip.decompress(path.read_bytes()).decode()
    known = Spaced.learn(stream(text), None, 1)
    tokens = known.encode(text)
    assert len(tokens) == 213_886 + 3_760  # words and lines, as the field counts them
    assert known.decode(tokens) == text
    assert int((tokens == known.unknown).sum()) == text.split().count("<unk>")


def test_jieba_loses_nothing() -> None:
    known = Jieba.learn(stream(ZH), None, 1)
    tokens = known.encode(ZH)
    assert "野生" in known.entries and "动物园" in known.entries
    assert known.decode(tokens) == ZH and known.unknown not in tokens
    part = known.encode("野生 xyzzy")
    assert known.encode_spelled(["野生 xyzzy"])[2] == ["xyzzy"] and known.unknown in part


odd = st.lists(
    st.sampled_from(
        [
            "a",
            "zebra",
            " ",
            "  ",
            "\n",
            "※",
            "中",
            "龍",
            "か",
            "<unk>",
            ".",
            "don't",
            "हि",
            "\u00a0",
        ]
        + ["\r\n", "\u0301", "<|end|>", "🙂", "\u3000", "-", "9"]
    ),
    max_size=25,
).map("".join)


@settings(deadline=None, max_examples=200)
@given(odd, odd, st.sampled_from([Words, Characters]))
def test_unknown_words_come_back_by_their_spelling(
    seen: str, text: str, kind: type[Words | Characters]
) -> None:
    """Whatever was learned from, every text is its tokens and the spellings of those that are unknown."""
    known = kind.learn(stream(seen), None, 1)
    tokens, lengths, spelled = known.encode_spelled([text])
    assert len(spelled) == int((tokens == known.unknown).sum()) and lengths.tolist() == [
        len(tokens)
    ]
    np.testing.assert_array_equal(tokens, known.encode_many([text])[0])
    assert known.decode(tokens, spelled) == text


def test_spelled_words_keep_their_lines() -> None:
    known = Spaced.learn(stream("a b\n"), None, 1)
    tokens, _, spelled = known.encode_spelled(["a xyz\n<unk> b 龍\n"])
    assert spelled == ["xyz", "", "龍"]
    assert known.decode(tokens, spelled) == "a xyz\n<unk> b 龍\n"


def test_unknown_pieces_of_a_foreign_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "cat": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    known = Subwords.read(tmp_path / "tokenizer.json")
    assert known.encode_spelled(["cat dog cat", "cow"])[2] == ["dog", "cow"]


def test_a_spelling_costs_less_where_it_is_like_the_vocabulary() -> None:
    known = Words.learn(stream("walking talking sinking thinking making taking " * 3), None, 1)
    like, unlike = (Spelling(known).bits([word]) for word in ("waking", "qxzvbj"))
    assert like < unlike / 2
    assert Spelling(known).bits([]) == 0
    again = Spelling(known)
    first, second = again.bits(["zyxwv"]), again.bits(["zyxwv"])
    assert second < first / 2
    assert Spelling(known).bits(["a", "b"]) == pytest.approx(
        sum(_one_by_one(Spelling(known), ["a", "b"]))
    )


def _one_by_one(spelling: Spelling, words: list[str]) -> list[float]:
    return [spelling.bits([word]) for word in words]


def test_a_split_measures_what_is_unknown() -> None:
    train, test = "the cat sat. " * 50, "the dog sat. the cow sat. "
    data = Text(unit="word", window=4, split=(1, 0, 0)).open({"text": [train]})
    assert data.spelling("train") == 0
    other = data.reopen({"text": [test]}, whole=True)
    assert other.spelling("test") == pytest.approx(Spelling(data.vocabulary).bits(["dog", "cow"]))
    assert other.unknown_words == {"dog": 1, "cow": 1}


def test_a_vocabulary_of_one_word() -> None:
    data = Text(unit="word", window=4, vocabulary=4).open({"text": ["the cat sat. " * 50]})
    assert len(data.vocabulary) == 4 and data.vocabulary.entries[3] == "."  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="expected more than the 3 special ones"):
        Text(unit="space", vocabulary=3).open({"text": ["the cat sat " * 50]})
    with pytest.raises(UserError, match="the training split has 1 tokens, fewer than one window"):
        Text(unit="space", split=(1, 0, 0)).open({"text": ["word"]})
