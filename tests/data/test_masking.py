"""Hidden tokens: every token in one row, nothing seen that is to be predicted, the shares, whole words, resume."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fourfold.core.errors import UserError
from fourfold.data.masking import MaskedData, MaskedText
from fourfold.data.masks import Chance, hide
from fourfold.data.whole_words import WordStarts

WORDS = ["the", "cat", "sat", "on", "mats", "with", "unhappiness", "and", "hats", "running"]


def documents(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, 60))) + "." for _ in range(count)]


def opened(texts: list[str], **options: Any) -> MaskedData:
    settings = {"unit": "character", "window": 32, "batch": 8, **options}
    return MaskedText(**settings).open({"text": texts}, seed=3)


def whole(batch: Any) -> torch.Tensor:
    """What the rows were before tokens were hidden."""
    tokens = batch["tokens"].clone()
    rows, nth = (batch["targets"] >= 0).nonzero(as_tuple=True)
    tokens[rows, batch["places"][rows, nth]] = batch["targets"][rows, nth]
    return tokens


def texts_of(data: MaskedData, batch: Any) -> list[list[int]]:
    """The stretches of a batch, [CLS] and [SEP] taken off."""
    found = []
    for row, tokens in enumerate(whole(batch).tolist()):
        segments = batch["segments"][row].tolist() if "segments" in batch else [0] * len(tokens)
        for number in dict.fromkeys(segments):
            stretch = [t for t, s in zip(tokens, segments, strict=True) if s == number]
            if set(stretch) == {data.specials.pad}:
                continue
            assert stretch[0] == data.specials.cls and stretch[-1] == data.specials.sep
            found.append(stretch[1:-1])
    return found


@pytest.mark.parametrize("epoch", [None, 0, 1, 7])
def test_every_token_is_in_one_row_and_documents_do_not_meet(epoch: int | None) -> None:
    data = opened(documents(60))
    tokens = data.tokens("train")
    ends = np.flatnonzero(tokens == data.vocabulary.end)
    wanted = [tokens[a + 1 : b].tolist() for a, b in zip(ends, ends[1:], strict=False)]
    pieces = [p for b in data.batches("train", epoch=epoch) for p in texts_of(data, b)]
    assert sum(map(len, pieces)) == sum(map(len, wanted))
    texts = ["\0".join(map(str, document)) for document in wanted]
    assert all(any("\0".join(map(str, piece)) in text for text in texts) for piece in pieces)
    counts = np.bincount(np.concatenate([np.array(p) for p in pieces]), minlength=40)
    assert (counts == np.bincount(np.concatenate(wanted), minlength=40)).all()


def test_short_documents_share_rows_without_much_padding() -> None:
    data = opened(["a few words."] * 400)
    assert data.size("train") <= 1.05 * (400 * 0.9 * 14) / 32 * 32 / 28
    batch = next(iter(data.batches("train", epoch=0)))
    assert batch["segments"].max() == 2  # two texts and the padding behind them


def test_a_long_document_is_cut_elsewhere_in_every_epoch() -> None:
    data = opened(["".join(documents(200))])
    first = [
        {tuple(p) for b in data.batches("train", epoch=e) for p in texts_of(data, b)}
        for e in (0, 1)
    ]
    assert len(first[0] & first[1]) < 0.2 * len(first[0])


@pytest.mark.parametrize("masking", ["token", "word"])
def test_shares_are_what_they_are_said_to_be(masking: Any) -> None:
    data = opened(documents(900), window=64, masking=masking)
    total = chosen = masked = kept = 0
    for batch in data.batches("train", epoch=0):
        counted = batch["targets"] >= 0
        shown = batch["tokens"].gather(1, batch["places"])[counted]
        ordinary = torch.from_numpy(data.ordinary)
        total += int(torch.isin(whole(batch), ordinary).sum())
        chosen += int(counted.sum())
        masked += int((shown == data.specials.mask).sum())
        kept += int((shown == batch["targets"][counted]).sum())
        assert (counted.sum(1) >= 1).all()
    assert chosen / total == pytest.approx(0.15, abs=0.01)
    deviation = 3 * (0.16 / chosen) ** 0.5
    assert masked / chosen == pytest.approx(0.8, abs=deviation)
    # a random token is the true one now and then
    assert kept / chosen == pytest.approx(0.1 + 0.1 / len(data.ordinary), abs=deviation)


def test_special_tokens_are_never_hidden_or_drawn() -> None:
    data = opened(documents(300), rate=1.0, random=0.7, kept=0.0)
    special = {*data.specials, data.vocabulary.end, data.vocabulary.unknown}
    for batch in data.batches("train", epoch=0):
        counted = batch["targets"] >= 0
        assert not special & set(batch["targets"][counted].tolist())
        shown = set(batch["tokens"].gather(1, batch["places"])[counted].tolist())
        assert shown & special == {data.specials.mask}
        # all that may be hidden is: what is left are special tokens
        assert set(batch["tokens"].flatten().tolist()) - set(data.ordinary.tolist()) <= special
        assert int(counted.sum()) == int(
            torch.isin(whole(batch), torch.from_numpy(data.ordinary)).sum()
        )


def test_what_is_hidden_depends_on_seed_epoch_and_row_alone() -> None:
    texts = documents(200)
    by_eight, by_two = (opened(texts, batch=n) for n in (8, 2))
    rows = [
        [r for b in d.batches("train", epoch=4) for r in b["tokens"].tolist()]
        for d in (by_eight, by_two)
    ]
    assert rows[0] == rows[1]
    other = [r for b in by_eight.batches("train", epoch=5) for r in b["tokens"].tolist()]
    assert rows[0] != other
    fixed = [[r for b in by_eight.batches("valid") for r in b["tokens"].tolist()] for _ in range(2)]
    assert fixed[0] == fixed[1]


def test_going_on_in_an_epoch_hides_the_same() -> None:
    texts = documents(200)
    data = opened(texts)
    batches = list(data.batches("train", epoch=2))
    again = opened(texts)
    again.load_state_dict({"epoch": 2, "batches": 3})
    rest = list(again.batches("train", epoch=2))
    assert len(rest) == len(batches) - 3
    for a, b in zip(batches[3:], rest, strict=True):
        assert all(torch.equal(a[n], b[n]) for n in a)


def test_words_are_hidden_as_wholes() -> None:
    text = (
        "unhappiness runs; the unbelievable cat said hello to everyone and nobody listened. " * 40
    )
    data = opened([text], unit="bpe", window=64, masking="word", vocabulary=270)
    starts = WordStarts(data.vocabulary)
    seen = 0
    for batch in data.batches("train", epoch=0):
        rows = whole(batch)
        hidden = torch.zeros_like(rows, dtype=torch.bool)
        counted = batch["targets"] >= 0
        for row in range(len(rows)):
            hidden[row, batch["places"][row][counted[row]]] = True
            inner = torch.isin(rows[row], torch.from_numpy(data.ordinary)).numpy()
            begins = starts(np.where(inner, rows[row].numpy(), data.vocabulary.end))
            word = np.cumsum(begins | ~inner)
            for number in np.unique(word[inner]):
                of_word = hidden[row].numpy()[(word == number) & inner]
                if len(of_word) <= 10:
                    assert of_word.all() or not of_word.any()
                    seen += len(of_word) > 1 and of_word.all()
    assert seen > 20


def test_where_words_begin() -> None:
    data = opened(["don't stop, 你好世界 it 2024 naïve "] * 30, unit="byte")
    text = "he said, 你好 x"
    tokens = data.vocabulary.encode(text)
    begins = WordStarts(data.vocabulary)(tokens)
    words, at = [], np.append(np.flatnonzero(begins), len(tokens))
    for a, b in zip(at, at[1:], strict=False):
        words.append(bytes(tokens[a:b].tolist()).decode())
    assert words == ["he", " said", ",", " ", "你", "好", " x"] or words == [
        "he",
        " said",
        ",",
        " 你",
        "好",
        " x",
    ]


def test_chinese_words_by_jieba_are_hidden_as_wholes() -> None:
    pytest.importorskip("jieba")
    text = "我们今天在北京大学学习人工智能，明天去上海。" * 60
    data = opened([text], masking="jieba", window=40)
    words = {"我们", "今天", "在", "北京大学", "学习", "人工智能", "，", "明天", "去", "上海", "。"}
    found: set[str] = set()
    for batch in data.batches("train", epoch=0):
        rows = whole(batch)
        for row in range(len(rows)):
            if "segments" in batch and batch["segments"][row].any():
                continue
            places = batch["places"][row][batch["targets"][row] >= 0].numpy()
            # words side by side are one run; at its edges a row may cut a word
            runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
            found |= {data.vocabulary.decode(rows[row][r]) for r in runs if r[0] > 5 and r[-1] < 33}
    assert {"北京大学", "人工智能"} <= found
    joined = "|".join(words)
    assert all(re.fullmatch(f"({joined})+", piece) for piece in found)


def test_jieba_on_words_is_refused() -> None:
    data = opened(documents(30), unit="word", masking="jieba")
    with pytest.raises(UserError, match="every token is a word"):
        next(iter(data.batches("train", epoch=0)))


def test_saved_and_restored(tmp_path: Path) -> None:
    texts = documents(60)
    data = opened(texts)
    data.save(tmp_path)
    again = data.options.restore(tmp_path)
    assert again.specials == data.specials and again.entries == data.entries
    rows = [next(iter(d.batches("valid"))) for d in (data, again.reopen({"text": texts}, seed=3))]
    assert torch.equal(rows[0]["tokens"], rows[1]["tokens"])
    (tmp_path / "masking.json").write_text('{"mask": 1}')
    with pytest.raises(UserError, match="masking.json: damaged"):
        data.options.restore(tmp_path)


def test_sources_come_by_their_weights(tmp_path: Path) -> None:
    for name, letters, count in (("one", "ab", 40), ("two", "cd", 120)):
        rng = np.random.default_rng(count)
        words = (letters[int(n)] for n in rng.integers(0, 2, 50 * count))
        (tmp_path / f"{name}.txt").write_text("".join(words))
    options = MaskedText(unit="character", window=12, batch=8, mixture={"one": 0.75, "two": 0.25})
    data = options.open([str(tmp_path / "one.txt"), str(tmp_path / "two.txt")], seed=1)
    seen = []
    for epoch in range(3):
        tokens = torch.cat([whole(b).flatten() for b in data.batches("train", epoch=epoch)])
        text = data.vocabulary.decode(tokens[torch.isin(tokens, torch.from_numpy(data.ordinary))])
        assert sum(text.count(c) for c in "ab") / len(text) == pytest.approx(0.75, abs=0.02)
        assert len(text) == pytest.approx(50 * 160 * 0.9, rel=0.02)
        seen.append(text)
    assert len(set(seen)) == 3


@pytest.mark.parametrize(
    "options",
    [
        {"document_mask": True},
        {"random": 0.6, "kept": 0.6},
        {"ordered": True},
        {"context": 2},
        {"window": 2},
        {"rate": 0},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MaskedText(**options)


def test_special_tokens_follow_the_vocabulary_where_it_has_none() -> None:
    data = opened(documents(60))
    assert data.specials.sep == data.vocabulary.end
    assert sorted((data.specials.mask, data.specials.cls, data.specials.pad)) == [
        len(data.vocabulary) + i for i in range(3)
    ]
    assert data.entries == len(data.vocabulary) + 3
    assert [data.token_name(n) for n in data.specials] == ["[MASK]", "[CLS]", "<|end|>", "[PAD]"]


def test_a_row_in_which_nothing_may_be_hidden() -> None:
    free = np.array([[False] * 4, [True] * 4])
    found = hide(
        np.arange(8).reshape(2, 4), free, None, np.arange(2), key=(0,), mask=9,
        ordinary=np.arange(8), rate=0.01, random=0.0, kept=0.0,
    )  # fmt: skip
    assert (found.targets >= 0).sum(1).tolist() == [0, 1]
    assert found.tokens[0].tolist() == [0, 1, 2, 3]


def test_chance_is_uniform_and_its_own_in_every_place() -> None:
    draws = Chance(1, 2, 3)(np.arange(200_000))
    assert len(np.unique(draws)) == len(draws)
    counts = np.histogram(draws, 20, (0, 1))[0]
    assert (
        (counts - 10_000) ** 2 / 10_000
    ).sum() < 45  # chi square, 19 degrees of freedom: p about 0.001
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(draws, Chance(1, 3, 3)(np.arange(200_000)))[0, 1]) < 0.01
