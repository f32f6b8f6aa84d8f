"""Conversations as rows of examples: what counts, what fits, in which order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fourfold.core.errors import UserError
from fourfold.data.conversations import ConversationData, Conversations
from fourfold.data.packing import pack
from fourfold.data.text import Text
from fourfold.data.vocabulary import END

TALKS = [
    {"prompt": f"How much is {a} and {b}?", "completion": "x" * a + "." + "y" * b}
    for a in range(12)
    for b in range(1, 9)
]


def opened(rows: Any = TALKS, **options: Any) -> ConversationData:
    return Conversations(**{"unit": "byte", "window": 96, **options}).open(rows)


def pieces(data: ConversationData, batch: Any) -> list[tuple[str, str]]:
    """The text and the targets of every example of a batch."""
    found = []
    for tokens, targets, segments in zip(
        *(batch[n] for n in ("tokens", "targets", "segments")), strict=True
    ):
        for number in range(1, int(segments.max()) + 1):
            here = segments == number
            said = targets[here][targets[here] != -100]
            found.append((data.vocabulary.decode(tokens[here]), data.vocabulary.decode(said)))
    return found


@pytest.mark.parametrize("packing", [True, False])
def test_the_answers_and_their_ends_are_the_targets(packing: bool) -> None:
    data = opened(packing=packing)
    found = [p for batch in data.batches("train", epoch=0) for p in pieces(data, batch)]
    expected = [
        (f"{END}User:\n{turns[0].content}\nAssistant:\n{turns[1].content}", turns[1].content + END)
        for turns in data.conversations("train")
    ]  # fmt: skip
    assert sorted(found) == sorted(expected)  # every conversation once, whole, by itself
    rows = data.count("train", 0)
    assert (rows == len(found)) != packing


def test_padding_is_no_target_and_no_part_of_an_example() -> None:
    data = opened()
    for batch in data.batches("train", epoch=1):
        empty = batch["segments"] == 0
        assert (batch["targets"][empty] == -100).all()
        assert all(batch["tokens"].shape == batch[n].shape == (len(empty), 96) for n in batch)
    said = sum(int((b["targets"] != -100).sum()) for b in data.batches("train", epoch=2))
    assert said == data.summary()["assistant tokens"]["train"]


def test_a_change_of_the_user_does_not_change_which_tokens_count() -> None:
    rows = [dict(TALKS[5]), dict(TALKS[6])]
    before = opened(rows, split=(1, 0, 0)).examples("train")
    rows[0]["prompt"] = rows[0]["prompt"].replace("How", "Now")
    after = opened(rows, split=(1, 0, 0)).examples("train")
    assert all((b.said == a.said).all() for b, a in zip(before, after, strict=True))
    assert not (before[0].tokens == after[0].tokens).all()


def test_packing_wastes_little_and_splits_nothing() -> None:
    generator = np.random.default_rng(1)
    lengths = generator.integers(1, 65, 500)
    for seed in (0, 1):
        order = np.random.default_rng(seed).permutation(500)
        rows = pack(lengths, order, 64)
        assert sorted(np.concatenate(rows).tolist()) == list(range(500))
        assert max(lengths[row].sum() for row in rows) <= 64
        assert len(rows) == len(pack(lengths, np.arange(500), 64))
        least = -(-lengths.sum() // 64)
        assert len(rows) <= 11 / 9 * least + 1
    assert [row.tolist() for row in pack(np.array([3, 3, 2, 2]), np.arange(4), 5)] == [
        [0, 2],
        [1, 3],
    ]


def test_orders_differ_by_epoch_and_go_on_where_they_stopped() -> None:
    data = opened(batch=4)
    first = [pieces(data, batch) for batch in data.batches("train", epoch=0)]
    assert [pieces(data, b) for b in opened(batch=4).batches("train", epoch=0)] == first
    assert [pieces(data, b) for b in opened(batch=4).batches("train", epoch=1)] != first
    again, seen = opened(batch=4), []
    for batch in again.batches("train", epoch=0):
        seen.append(pieces(again, batch))
        if len(seen) == 2:
            break
    resumed = opened(batch=4)
    resumed.load_state_dict(again.state_dict())
    assert [pieces(resumed, b) for b in resumed.batches("train", epoch=0)] == first[2:]


def test_equal_conversations_are_in_one_split() -> None:
    data = opened(TALKS * 3)
    splits = [set(data.conversations(split)) for split in ("train", "valid", "test")]
    assert sum(map(len, splits)) == len(set().union(*splits)) == len(TALKS)
    assert sum(len(data.conversations(s)) for s in ("train", "valid", "test")) == 3 * len(TALKS)
    assert "192 conversations are equal to earlier ones" in data.summary()["notes"]


LONG = [*TALKS[:20], {"prompt": "Count", "completion": "1 2 3 " * 40}]


def test_what_is_too_long_is_cut_refused_or_left_out(tmp_path: Path) -> None:
    data = opened(LONG, split=(1, 0, 0), long="cut")
    (note,) = data.summary()["notes"]
    assert "train: 1 of 21 conversations are longer than a row of 96 positions and cut" in note
    longest = max(data.examples("train"), key=lambda e: len(e.tokens))
    assert len(longest.tokens) == 97 and longest.said[-1]
    lost = 240 + 1 - int(longest.said.sum())
    assert f"{lost} tokens of the assistant's are lost" in note
    data = opened(LONG, split=(1, 0, 0), long="drop")
    assert len(data.examples("train")) == 20
    assert (
        "1 of 21 conversations are longer than a row of 96 positions and left out"
        in data.summary()["notes"][0]
    )
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join(map(json.dumps, LONG)))
    with pytest.raises(
        UserError, match=r"long.jsonl, line 21: 264 positions, more than the 96 of a row"
    ):
        opened(path, long="error")


def test_an_example_without_targets_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "masked.jsonl"
    masked = {"prompt": "What follows? " * 9, "completion": "This."}
    path.write_text("\n".join(map(json.dumps, [*TALKS[:20], masked])))
    with pytest.raises(
        UserError, match=r"masked.jsonl, line 21: the first 96 of its \d+ positions hold nothing"
    ):
        opened(path)
    data = opened(path, faulty="drop", split=(1, 0, 0))
    assert len(data.examples("train")) == 20
    assert "1 rows left out as faulty: " in data.summary()["notes"][-1]
    assert "masked.jsonl, line 21" in data.summary()["notes"][-1]


def test_rows_that_are_no_conversations(tmp_path: Path) -> None:
    rows = [*TALKS[:20], {"prompt": "", "completion": "x"}]
    with pytest.raises(UserError, match=r"the given data, row 21, turn 1 \(user\): is empty"):
        opened(rows)
    assert "1 rows left out as faulty" in opened(rows, faulty="drop").summary()["notes"][0]
    with pytest.raises(
        UserError, match="no row is a conversation; the first: the given data, row 1"
    ):
        opened([{}], faulty="drop")
    with pytest.raises(UserError, match="no conversations given"):
        opened(None)
    with pytest.raises(UserError, match="no such file"):
        opened(str(tmp_path / "none.jsonl"))
    open_ended = {
        "messages": [*({"role": r, "content": "a"} for r in ("user", "assistant", "user"))]
    }
    data = opened([*TALKS, open_ended])
    assert (
        "1 turns at the end of conversations have no answer and are left out"
        in data.summary()["notes"]
    )


@pytest.mark.parametrize("unit", ["byte", "character", "bpe"])
def test_saved_and_restored_prepares_alike(unit: Any, tmp_path: Path) -> None:
    options = Conversations(unit=unit, window=96, template="chatml", split=(0.8, 0.1, 0.1))
    data = options.open(TALKS, seed=3)
    data.save(tmp_path)
    again = options.restore(tmp_path).reopen(TALKS, seed=3)
    assert again.fingerprint == data.fingerprint and again.summary() == data.summary()
    for split in ("train", "valid", "test"):
        for a, b in zip(data.batches(split), again.batches(split), strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)
    other = options.restore(tmp_path).reopen(
        [*TALKS[:-1], {"prompt": "a", "completion": "b"}], seed=3
    )
    assert other.fingerprint != data.fingerprint
    whole = again.reopen(TALKS, whole=True)
    assert len(whole.conversations("test")) == len(TALKS) and not whole.examples("train")


def test_a_language_models_vocabulary_and_window_are_adopted() -> None:
    text = Text(unit="character", window=80).open({"text": ["How much is 1 and 2? x.yAsU:\n" * 60]})
    data = Conversations(window=70).adopt(text, TALKS)
    assert data is not None and data.vocabulary.digest == text.vocabulary.digest
    assert (data.window, data.row) == (80, 70)
    assert "are not in the vocabulary and read as <unk>" in " ".join(data.summary()["notes"])
    longer = Conversations(window=100).adopt(text, TALKS)
    assert longer is not None and (longer.window, longer.row) == (100, 100)


def test_a_template_that_the_vocabulary_cannot_end_is_refused() -> None:
    text = Text(unit="character", window=80).open({"text": ["How much is 1 and 2? x.yAsU:\n" * 60]})
    with pytest.raises(
        UserError, match=r"ends an answer with '<\|im_end\|>', which the vocabulary cannot"
    ):
        Conversations(template="chatml").adopt(text, TALKS)


def test_the_models_own_template_is_the_default() -> None:
    text = Text(unit="character", window=80).open(
        {"text": ["How much is 1 and 2? x.yAsU:|\n" * 60]}
    )
    text.vocabulary.chat_template = (
        "{% for m in messages %}{{ m.role[0] + m.content }}|{% endfor %}"
    )
    data = Conversations().adopt(text, TALKS)
    assert data is not None and data.stop == ("|", None)
    assert data.vocabulary.decode(data.examples("train")[0].tokens).startswith("uHow much is")


def test_validation_from_files_of_its_own() -> None:
    data = Conversations(unit="byte", window=96).open(TALKS[:50], valid=TALKS[50:60])
    assert {s: len(data.conversations(s)) for s in ("train", "valid", "test")} == {
        "train": 48, "valid": 10, "test": 2,
    }  # fmt: skip


def test_text_is_replayed_in_a_share_of_the_rows() -> None:
    plain = opened()
    data = opened(replay=0.25)
    rows = plain.count("train", 0)
    assert data.count("train", 0) == rows + round(rows / 3)
    assert data.count("train", None) == rows  # not where losses are measured
    tokens = "".join(data.vocabulary.decode(e.tokens) for e in plain.examples("train"))
    whole, texts = 0, []
    for batch in data.batches("train", epoch=0):
        for row, targets in zip(batch["tokens"], batch["targets"], strict=True):
            if (targets != -100).all():
                whole += 1
                texts.append(data.vocabulary.decode(row))
                assert (row[1:] == targets[:-1]).all()
    assert whole == round(rows / 3) and len(set(texts)) == whole
    assert not any(text in tokens for text in texts)
    later = [b for b in opened(replay=0.25).batches("train", epoch=1)]
    again = {data.vocabulary.decode(r) for b in later for r in b["tokens"]}
    assert not again >= set(texts)
    assert "25% of the training rows are text" in data.summary()["notes"][-1]
    assert data.fingerprint != plain.fingerprint
