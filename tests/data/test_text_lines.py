"""Sentences as examples: read, numbered, split, and said again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fourfold.core.errors import UserError
from fourfold.data.text_lines import TextLines, TextLinesData


@pytest.fixture(scope="module")
def made() -> TextLinesData:
    return TextLines().open(None)


def test_made_sentences_are_english_and_chinese(made: TextLinesData) -> None:
    texts = [made.text(one) for s in ("train", "valid", "test") for one in made.sentences(s)]  # type: ignore[arg-type]
    assert len(texts) == len(set(texts)) > 1500
    assert "the food was good ." in texts and "这里的菜很好。" in texts
    assert made.vocabulary.decode(made.encode("这里的菜很好。")) == "这里的菜很好。"


def test_a_batch_ends_every_sentence(made: TextLinesData) -> None:
    batch = next(iter(made.batches("train", epoch=0)))
    end = made.vocabulary.end
    for row, length in zip(batch["tokens"], batch["lengths"], strict=True):
        assert (row[: length - 1] != end).all() and (row[length - 1 :] == end).all()
        assert made.text(row) == made.vocabulary.decode(row[: length - 1])
    assert int(batch["lengths"].max()) == batch["tokens"].shape[1]


@pytest.mark.parametrize("unit", ["word", "character", "bpe"])
def test_every_unit_says_the_sentence_again(tmp_path: Path, unit: str) -> None:
    lines = [f"it is number {n} of them" for n in range(300)] + [f"这是第{n}句" for n in range(300)]
    (tmp_path / "s.txt").write_text(
        "\n".join([*lines, "", lines[0], "long " * 60]), encoding="utf-8"
    )
    data = TextLines(unit=unit).open(str(tmp_path / "s.txt"))  # type: ignore[arg-type]
    said = {data.text(one) for s in ("train", "valid", "test") for one in data.sentences(s)}  # type: ignore[arg-type]
    known = {line for line in said if "<unk>" not in line}
    assert known <= set(lines) and len(known) > (500 if unit != "word" else 250)
    notes = " ".join(data.summary()["notes"])
    assert "1 sentences occur more than once" in notes
    assert "1 sentences of more than 40 tokens were left out" in notes
    data.save(tmp_path / "data")
    again = TextLines(unit=unit).restore(tmp_path / "data")  # type: ignore[arg-type]
    assert (
        again.encode("it is number 7 of them").tolist()
        == data.encode("it is number 7 of them").tolist()
    )
    assert again.fingerprint == data.fingerprint


def test_what_the_vocabulary_does_not_have_is_told(tmp_path: Path) -> None:
    lines = [f"a {'b' if n % 2 else 'c'} {n}" for n in range(40)]
    (tmp_path / "s.txt").write_text("\n".join(lines))
    data = TextLines().open(tmp_path / "s.txt")
    told = [note for note in data.summary()["notes"] if "not in the vocabulary" in note]
    assert told[0] == "train: 36 of 108 tokens (33.33%) are not in the vocabulary and read as <unk>"
    assert len(told) == 3
    (tmp_path / "other.txt").write_text("这里的菜\na b c")
    other = data.reopen(tmp_path / "other.txt", whole=True)
    assert other.summary()["notes"] == ["test: 4 of 7 tokens (57.14%) are not in the vocabulary and read as <unk>"]  # fmt: skip
    (tmp_path / "once.txt").write_text("one two\nthree four\nfive six\nseven eight")
    with pytest.raises(UserError, match="--data.min-count 2: nothing occurs so often in the 2 tr"):
        TextLines().open(tmp_path / "once.txt")


def test_rows_of_other_formats(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text('{"text": "one line\\nanother line"}\n{"text": "a third"}\n')
    data = TextLines(split=(0.4, 0.3, 0.3), min_count=1).open(tmp_path / "s.jsonl")
    assert sum(data.size(s) for s in ("train", "valid", "test")) == 3  # type: ignore[arg-type]
    memory = TextLines(lower=True, min_count=1).open({"text": ["A b", "C d", "E f"]})
    (one,) = (memory.text(tokens) for tokens in memory.sentences("train"))
    assert one in ("a b", "c d", "e f")
    assert memory.text(memory.encode(one.upper())) == one


def test_wrong_sentences_are_refused(made: TextLinesData, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the sentence is empty"):
        made.encode(" ")
    with pytest.raises(UserError, match="expected one sentence, got 2 lines"):
        made.encode("one\ntwo")
    with pytest.raises(
        UserError, match="a sentence of 50 tokens; this run learned from 40 at most"
    ):
        made.encode("good " * 50)
    with pytest.raises(UserError, match="2 sentences: too few to split"):
        TextLines().open({"text": ["one", "two", "one"]})
    with pytest.raises(UserError, match="no sentence of at most 2 tokens"):
        TextLines(longest=2).open(
            {"text": ["one two three"] * 2 + ["four five six", "seven eight nine"]}
        )
    assert torch.is_tensor(made.batch_of([made.encode("the food was good .")])["tokens"])
