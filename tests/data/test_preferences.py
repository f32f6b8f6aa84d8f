"""Pairs of answers: what is read, what is refused, and what a batch holds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.core.errors import UserError
from fourfold.data.preference_rows import Pair, pair, prompt_of
from fourfold.data.preferences import PreferenceData, Preferences
from fourfold.data.text import Text, TextData
from fourfold.data.turns import Turn

DATA = os.environ.get("FOURFOLD_DATA", "")
LETTERS = "".join(map(chr, range(32, 127))) + "\n你好吗天气很"


def language(window: int = 128) -> TextData:
    return Text(unit="character", window=window).open({"text": [LETTERS * 12]})


def opened(rows: Any, window: int = 128, **options: Any) -> PreferenceData:
    found = Preferences(**options).adopt(language(window), rows, seed=0)
    assert found is not None
    return found


ROWS = [
    {"prompt": f"Say {i}.", "chosen": f"It is {i}.", "rejected": f"No, {i} it is not.", "margin": i / 10}
    for i in range(20)
]  # fmt: skip


# --- rows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi?", "chosen": "Yes", "rejected": "No"},
        {"prompt": [{"role": "user", "content": "Hi?"}], "chosen": [{"role": "assistant", "content": "Yes"}],
         "rejected": {"role": "assistant", "content": "No"}},
        {"chosen": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes"}],
         "rejected": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "No"}]},
        {"conversations": [{"from": "human", "value": "Hi?"}], "chosen": {"from": "gpt", "value": "Yes"},
         "rejected": {"from": "gpt", "value": "No"}},
        {"chosen": "\n\nHuman: Hi?\n\nAssistant: Yes", "rejected": "\n\nHuman: Hi?\n\nAssistant: No"},
    ],
    ids=["texts", "messages", "whole", "from-value", "dialogue"],
)  # fmt: skip
def test_every_layout_is_the_same_pair(row: Any) -> None:
    assert pair(row, "here") == Pair((Turn("user", "Hi?"),), "Yes", "No")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a", "chosen": "b"}, "no field 'rejected'"),
        ({"prompt": "a", "chosen": "b", "rejetced": "c", "rejected": None}, "did you mean"),
        ({"chosen": "b", "rejected": "c"}, "an answer without a prompt"),
        ({"prompt": "a", "chosen": " ", "rejected": "c"}, "the answer is empty"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "much"}, "expected a number, got 'much'"),
        ({"prompt": [{"role": "assistant", "content": "x"}], "chosen": "b", "rejected": "c"}, "ends with assistant"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: x\n\nAssistant: b"},
         "answer different prompts: turn 1 is 'a' and 'x'"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c", "rejected": "\n\nHuman: a\n\nAssistant: b"},
         "ends with user"),
        ("text", "expected an object"),
    ],
)  # fmt: skip
def test_what_is_no_pair_is_one_sentence(row: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        pair(row, "pairs.jsonl, line 3")
    assert str(caught.value).startswith("pairs.jsonl, line 3") and said in str(caught.value)


def test_prompts_of_every_layout() -> None:
    asked = (Turn("user", "Hi?"),)
    messages = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes"}]
    for row in (
        "Hi?",
        {"prompt": "Hi?"},
        {"question": "Hi?", "answer": "Yes"},
        {"messages": messages},
    ):
        assert prompt_of(row, "here") == asked
    assert prompt_of({"instruction": "Hi?", "input": "You."}, "x") == (Turn("user", "Hi?\n\nYou."),)
    with pytest.raises(UserError, match="expected a field prompt"):
        prompt_of({"text": "Hi?"}, "here")


# --- what a batch holds -------------------------------------------------------------------------------


def pieces(data: PreferenceData, batch: Any) -> list[tuple[str, str, int]]:
    """Each sequence of a batch: its text, what of it counts, the place of its last token."""
    found = []
    for number in range(len(batch["ends"])):
        here = batch["segments"] == number
        targets = batch["targets"][here]
        decode = data.vocabulary.decode
        last = batch["tokens"].flatten()[batch["ends"][number]]
        assert last == batch["tokens"][here][-1]
        found.append(
            (decode(batch["tokens"][here]), decode(targets[targets >= 0]), int(here.sum()))
        )
    return found


def test_only_the_answers_count() -> None:
    data = opened(ROWS, batch=3)
    (batch, *_) = data.batches("train")
    first, second = data.pairs("train")[:2]
    found = pieces(data, batch)
    end = data.chat.stop
    for place, each in ((0, first), (1, second)):
        for offset, answer in ((0, each.chosen), (1, each.rejected)):
            text, counted, _ = found[2 * place + offset]
            assert counted == answer + end and text.endswith(answer + end)
            assert each.prompt[0].content in text
    assert batch["margins"].tolist() == pytest.approx([p.margin for p in data.pairs("train")[:3]])
    # the first token of an answer is a target at the prompt's last position, and padding nowhere
    assert bool((batch["targets"][batch["segments"] == 6] == -100).all())


def test_earlier_answers_do_not_count() -> None:
    turns = [("user", "A?"), ("assistant", "B."), ("user", "C?")]
    prompt = [{"role": role, "content": text} for role, text in turns]
    data = opened([{"prompt": prompt, "chosen": "D.", "rejected": "E."}] * 3, batch=1)
    for text, counted, _ in pieces(data, next(iter(data.batches("train")))):
        assert (
            "B." in text and counted[:2] in ("D.", "E.") and len(counted) == 2 + len(data.chat.stop)
        )


def test_kto_gets_answers_to_others() -> None:
    data = opened(ROWS, batch=4, others=True)
    (batch, *_) = data.batches("train")
    some = data.pairs("train")[:5]
    for number in range(4):
        here = batch["other_segments"] == number
        text = data.vocabulary.decode(batch["other_tokens"][here])
        assert some[number].prompt[0].content in text and some[number + 1].chosen in text


def test_a_pair_alone_in_its_batch_is_compared_with_another_prompts_answer() -> None:
    rows = [{"prompt": f"{i // 3}?", "chosen": f"yes {i}", "rejected": "no"} for i in range(9)]
    for batch, epoch in ((1, None), (4, None), (1, 0), (4, 2)):
        data = opened(rows, batch=batch, others=True, split=(1, 0, 0))
        mixed = []
        for each in data.batches("train", epoch=epoch):
            for number in range(len(each["margins"])):
                here = each["other_segments"] == number
                text = data.vocabulary.decode(each["other_tokens"][here])
                prompt, answer = text.split("?")[0][-1], text.split("yes ")[1][0]
                assert int(answer) // 3 != int(prompt)
                mixed.append(text)
        assert len(mixed) == 9


def test_every_pair_once_an_epoch_and_resumed_where_it_stopped() -> None:
    data = opened(ROWS, batch=4)

    def margins(batches: Any) -> list[list[float]]:
        return [batch["margins"].tolist() for batch in batches]

    whole = margins(data.batches("train", epoch=1))
    assert sorted(sum(whole, [])) == pytest.approx(sorted(p.margin for p in data.pairs("train")))
    assert len(whole) == data.length("train", 1) and whole != margins(
        data.batches("train", epoch=2)
    )
    first = opened(ROWS, batch=4)
    batches = first.batches("train", epoch=1)
    begun = [next(batches)["margins"].tolist() for _ in range(2)]
    again = opened(ROWS, batch=4)
    again.load_state_dict(first.state_dict())
    assert begun + margins(again.batches("train", epoch=1)) == whole


def test_pairs_of_one_prompt_are_in_one_split() -> None:
    rows = [{"prompt": f"{i % 10}?", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(60)]
    data = opened(rows, split=(0.6, 0.2, 0.2))
    found = {s: {p.prompt for p in data.pairs(s)} for s in ("train", "valid", "test")}  # type: ignore[arg-type]
    assert {s: len(p) for s, p in found.items()} == {"train": 6, "valid": 2, "test": 2}
    assert not found["train"] & found["valid"] and not found["train"] & found["test"]


@settings(deadline=None, max_examples=25)
@given(st.integers(8, 60), st.integers(1, 70), st.integers(1, 30), st.integers(1, 30))
def test_the_prompt_is_cut_and_never_an_answer(window: int, asked: int, one: int, other: int) -> None:  # fmt: skip
    rows = [{"prompt": "q" * asked, "chosen": "c" * one, "rejected": "r" * other}] * 2
    rows.append({"prompt": "q", "chosen": "c", "rejected": "r"})
    try:
        data = opened(rows, window=window, split=(1, 0, 0))
    except UserError as error:
        assert "fits" in str(error)
        return
    end = data.chat.stop
    for batch in data.batches("train"):
        for text, counted, length in pieces(data, batch):
            assert length <= window and counted in ("c" * one + end, "r" * other + end, "c" + end, "r" + end)  # fmt: skip
            assert text.endswith(counted)
    left_out = sum("left out" in note for note in data.summary()["notes"])
    assert data.size("train") == 3 or left_out


def test_what_is_left_out_is_said() -> None:
    rows = [*ROWS, {"prompt": "x", "chosen": "y", "rejected": "y"}]
    assert any("1 pairs whose answers are equal" in n for n in opened(rows).summary()["notes"])
    with pytest.raises(UserError, match="in all 2 rows both answers are equal"):
        opened([{"prompt": "x", "chosen": "y", "rejected": "y"}] * 2)
    long = [*ROWS, {"prompt": "q" * 300, "chosen": "y", "rejected": "z"}]
    assert any("cut at the beginning" in n for n in opened(long).summary()["notes"])
    assert any("left out" in n for n in opened(long, long="drop").summary()["notes"])
    with pytest.raises(
        UserError, match=r"the given data, row 21: \d+ positions, more than the 128"
    ):
        opened(long, long="error")
    faulty = [*ROWS, {"prompt": "q"}]
    assert any(
        "1 rows left out as faulty" in n for n in opened(faulty, faulty="drop").summary()["notes"]
    )
    with pytest.raises(UserError, match="row 21: no field 'chosen'"):
        opened(faulty)


def test_saved_and_restored(tmp_path: Path) -> None:
    data = opened(ROWS, batch=5)
    data.save(tmp_path)
    again = Preferences(batch=5).restore(tmp_path)
    assert again.fingerprint == data.fingerprint and again.window == 128
    reopened = again.reopen(ROWS, seed=0)
    assert reopened.fingerprint == data.fingerprint
    for one, other in zip(data.batches("train"), reopened.batches("train"), strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    other = again.reopen(ROWS[:10], whole=True)
    assert other.size("test") == 10 and other.size("train") == 0


def test_chinese(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    row = {"prompt": "你好吗?", "chosen": "很好", "rejected": "不"}
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for _ in range(3)), "utf-8")
    data = opened(str(path), split=(1, 0, 0))
    texts = [text for batch in data.batches("train") for text, _, _ in pieces(data, batch)]
    assert "你好吗?" in texts[0] and np.all(["很好" in t for t in texts[::2]])


@pytest.mark.skipif(not DATA, reason="needs FOURFOLD_DATA")
@pytest.mark.parametrize(
    ("name", "pairs"),
    [("hh-harmless-test", 2312), ("dpo-en", 300)],
)  # fmt: skip
def test_the_catalogs_sets(name: str, pairs: int) -> None:
    data = Preferences(faulty="drop", batch=4).adopt(language(512), name, seed=0)
    assert data is not None
    kept = sum(len(data.pairs(s)) for s in ("train", "valid", "test"))  # type: ignore[arg-type]
    notes = " ".join(data.summary()["notes"])
    assert 0 < kept <= pairs and (kept == pairs or "left out" in notes)
    batch = next(iter(data.batches("train", epoch=0)))
    assert len(batch["margins"]) == 4 and int((batch["targets"] >= 0).sum()) > 4
