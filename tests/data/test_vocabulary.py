"""Units of text: everything comes back, in one go and token by token, here and in Hugging Face's tools."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from fourfold.core.errors import UserError
from fourfold.data.subwords import Subwords
from fourfold.data.text import Text
from fourfold.data.vocabulary import Bytes, Characters, Texts, Vocabulary
from fourfold.data.words import Words, split_words

PROSE = (
    'Don\'t say "no", she said; it costs 3.14 (or so).\n\n  Two  spaces, a tab\t, naïve café.\n'
    "道可道，非常道。名可名，非常名。\nカタカナとひらがな and Latin. ภาษาไทย हिन्दी ठीक है. 🙂👍🏽 x<unk>y <unk> <|end|>\r\n"
)
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
words = st.sampled_from(
    [
        "a",
        "the",
        "don't",
        "' ",
        " ",
        "  ",
        "\n",
        "\t",
        ".",
        '"',
        "(",
        "中",
        "か",
        "\u3099",
        "ก",
        "\u0e34",
    ]
    + ["\u0301", "<unk>", "<", ">", "_", "9", "हि", "\u00a0", "\ufe0f", "👍🏽", "<|end|>", "-"]
)
mixed = st.lists(words, max_size=20).map("".join)


def stream(*texts: str) -> Texts:
    def texts_again() -> Iterator[tuple[str, str]]:
        return ((text, "") for text in texts)

    return texts_again


def vocabulary(unit: str, *texts: str) -> Vocabulary:
    if unit == "byte":
        return Bytes()
    if unit == "character":
        return Characters.learn(stream(*texts), None, 1)
    if unit == "word":
        return Words.learn(stream(*texts), None, 1)
    return Subwords.learn(stream(*texts), None, 1, sum(map(len, texts)))


BPE = vocabulary("bpe", PROSE * 20)
UNITS = ["byte", "character", "word", "bpe"]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(UNITS), st.one_of(any_text, mixed))
@example("word", "葛\U000e0100a か\u3099b")
@example("word", "a<unk>b <unk>")
def test_everything_comes_back(unit: str, text: str) -> None:
    known = BPE if unit == "bpe" else vocabulary(unit, text)
    tokens = known.encode(text)
    assert tokens.dtype == np.int64 and (tokens < len(known)).all() and known.end not in tokens
    if "<unk>" not in text:
        assert known.unknown is None or known.unknown not in tokens
    assert known.decode(tokens) == text
    decoder = known.decoder()
    said = [decoder.push(token) for token in tokens.tolist()]
    assert "".join(said) + decoder.finish() == text


def test_tokens_are_shown_as_they_stand_in_the_text() -> None:
    text = "Ein Mädchen läuft über die Straße."
    known = vocabulary("bpe", f"{text} " * 20)
    assert "".join(known.shown(t) for t in known.encode(text).tolist()) == text
    assert known.shown(known.end) == known.token(known.end)
    half = int(Bytes().encode("ü")[0])  # no character by itself
    assert Bytes().shown(half) == Bytes().token(half)


@settings(max_examples=100, deadline=None)
@given(mixed, st.integers(0, 60))
def test_words_do_not_depend_on_where_text_is_cut_at_white_space(text: str, place: int) -> None:
    place = min(place, len(text))
    whole = split_words(text)
    if not 0 < place < len(text) or not text[place] == " " or text[place - 1].isspace():
        assert "".join(whole).replace(" ", "") == text.replace(" ", "")
        return
    assert split_words(text[:place]) + split_words(text[place:], text[place - 1]) == whole


def test_words_of_many_scripts() -> None:
    assert split_words('say "no"') == ["say", " ", '"', "", "no", '"']
    assert split_words("道可道 Tao's") == ["道", "可", "道", "Tao's"]
    assert split_words("हिन्दी ठीक") == ["हिन्दी", "ठीक"]
    assert split_words("one\ntwo  three") == ["one", "\n", "two", " ", " ", "three"]
    assert split_words("the <unk> of") == ["the", "<unk>", "of"]


def test_no_half_characters_while_streaming() -> None:
    for known in (Bytes(), BPE):
        decoder = known.decoder()
        said = [decoder.push(token) for token in known.encode("a道🙂é").tolist()]
        assert all("\ufffd" not in text for text in said)
        assert "".join(said) == "a道🙂é" and decoder.finish() == ""
        decoder.push(known.encode("é")[0])
    decoder = Bytes().decoder()
    assert decoder.push(0xC3) == "" and decoder.finish() == "\ufffd"
    assert Bytes().decode([0x61, 256]) == "a<|end|>"


def test_most_frequent_first_and_limited() -> None:
    known = Characters.learn(stream("aaabbc"), None, 1)
    assert known.entries == ["<|end|>", "<unk>", "a", "b", "c"]
    assert Characters.learn(stream("aaabbc"), None, 2).entries[2:] == ["a", "b"]
    assert Characters.learn(stream("aaabbc"), 4, 1).entries[2:] == ["a", "b"]
    assert Characters.learn(stream("aaabbc"), 4, 1).encode("abcz").tolist() == [2, 3, 1, 1]
    assert Words.learn(stream("b a b . c b a"), 5, 1).entries[3:] == ["b", "a"]


@pytest.mark.parametrize(
    ("unit", "size", "supported"), [("character", 6, 5), ("word", 9, 6), ("bpe", 400, 258)]
)
def test_larger_than_the_text_supports(unit: str, size: int, supported: int) -> None:
    texts = stream("a b ab" if unit == "word" else "abab cab" if unit == "bpe" else "aaabbc")
    with pytest.raises(
        UserError, match=rf"{size} entries asked, the training text supports {supported}"
    ):
        if unit == "bpe":
            Subwords.learn(texts, size, 1, 8)
        else:
            {"character": Characters, "word": Words}[unit].learn(texts, size, 1)


def test_too_small_a_vocabulary() -> None:
    with pytest.raises(UserError, match="a byte-level BPE has 257 or more"):
        Subwords.learn(stream("a"), 256, 1, 1)
    with pytest.raises(UserError, match="expected more than the 2 special ones"):
        Characters.learn(stream("abc"), 2, 1)


@pytest.mark.parametrize("unit", ["byte", "character", "bpe"])
def test_hugging_face_encodes_alike(unit: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    text = PROSE.replace("<unk>", "").replace("<|end|>", "")  # special tokens there, text here
    known = BPE if unit == "bpe" else vocabulary(unit, text)
    known.save_hf(tmp_path, window=128)
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert plain.encode(text).ids == known.encode(text).tolist()
    assert plain.decode(plain.encode(text).ids) == text
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(text)["input_ids"] == known.encode(text).tolist()
    assert theirs.decode(known.encode(text).tolist()) == text
    assert theirs.eos_token_id == known.end and theirs.model_max_length == 128
    assert len(theirs) == len(known)


def test_words_have_no_tokenizer_json(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unit word: has no tokenizer.json form"):
        vocabulary("word", "a b").save_hf(tmp_path)


def foreign() -> Tokenizer:
    """A tokenizer as others make them: lower case, words, cut to 5 tokens."""
    tokenizer = Tokenizer(
        tokenizers.models.WordLevel({"[UNK]": 0, "hello": 1, "world": 2}, "[UNK]")
    )
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(5)
    return tokenizer


def test_any_tokenizer(tmp_path: Path) -> None:
    foreign().save(str(tmp_path / "tokenizer.json"))
    data = Text(tokenizer=str(tmp_path), window=8).open({"text": "Hello world thing " * 40})
    known = data.vocabulary
    assert known.whole_documents and len(known) == 4 and known.token(known.end) == "<|end|>"
    assert known.encode("Hello WORLD " * 4).tolist() == [1, 2] * 4  # not cut to five
    assert data.summary()["unknown"]["train"] == 36
    assert "may differ from what was given" in data.summary()["notes"][0]
    decoder = known.decoder()
    pushed = [decoder.push(t) for t in [1, 2] * 50]
    assert "".join(pushed) + decoder.finish() == known.decode([1, 2] * 50)


def test_not_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"a": 1}')
    for place, message in ((tmp_path, "not a tokenizer.json"), (tmp_path / "none", "no such file")):
        with pytest.raises(UserError, match=message):
            Text(tokenizer=str(place), window=4).open({"text": "hello " * 40})


@pytest.mark.parametrize("unit", UNITS)
def test_saved_and_restored(unit: str, tmp_path: Path) -> None:
    options = Text(unit=unit, window=8)  # type: ignore[arg-type]
    data = options.open({"text": PROSE * 5})
    data.save(tmp_path)
    again = options.restore(tmp_path)
    assert again.vocabulary.digest == data.vocabulary.digest
    assert again.vocabulary.counts.tolist() == data.vocabulary.counts.tolist()
    assert again.vocabulary.encode(PROSE).tolist() == data.vocabulary.encode(PROSE).tolist()
    assert again.vocabulary.end == data.vocabulary.end
    assert again.summary() == data.summary()
    train = data.tokens("train")[1:]
    assert (
        again.vocabulary.counts.tolist()
        == np.bincount(train, minlength=len(data.vocabulary)).tolist()
    )


def test_damaged_preparation(tmp_path: Path) -> None:
    options = Text(window=8)
    options.open({"text": PROSE}).save(tmp_path)
    content = (tmp_path / "vocabulary.json").read_text()
    (tmp_path / "vocabulary.json").write_text(content.replace('"a", ', "", 1))
    with pytest.raises(UserError, match="damaged"):
        options.restore(tmp_path)
    (tmp_path / "vocabulary.json").write_text(content.replace('"character"', '"charakter"'))
    with pytest.raises(UserError, match="did you mean character"):
        options.restore(tmp_path)
