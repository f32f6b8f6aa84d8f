"""Windows of tokens: splits that do not leak, epochs that repeat nothing, caches, and resuming."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.core.errors import UserError
from fourfold.core.parts import Split
from fourfold.data import corpus, readers, token_workers, tokens
from fourfold.data.catalog import cache_folder
from fourfold.data.corpus import plan_split
from fourfold.data.text import IGNORE, Text, TextData

SPLITS: tuple[Split, ...] = ("train", "valid", "test")
UNITS = ["byte", "character", "word", "bpe"]
LINES = "".join(f"Line {n} says {n * n} and 中文{chr(0x4E00 + n % 400)}.\n" for n in range(400))


def numbered(count: int) -> dict[str, str]:
    """A text in which every character occurs once: a token says where it stood."""
    return {"text": "".join(chr(0x4E00 + n) for n in range(count))}


def targets(data: TextData, split: Split, epoch: int | None) -> list[int]:
    found = torch.cat([batch["targets"].flatten() for batch in data.batches(split, epoch=epoch)])
    return found[found != IGNORE].tolist()


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 90), st.integers(1, 12), st.integers(1, 5), st.integers(0, 3))
def test_every_token_is_a_target_once(length: int, window: int, batch: int, epoch: int) -> None:
    options = Text(unit="byte", window=window, batch=batch, split=(1.0, 0.0, 0.0))
    text = {"text": bytes(n % 128 for n in range(length)).decode()}
    if length < window:
        with pytest.raises(UserError, match=rf"{length} tokens, fewer than one window of {window}"):
            options.open(text)
        return
    data = options.open(text, seed=3)
    assert targets(data, "train", None) == list(data.tokens("train")[1:])
    in_epoch = targets(data, "train", epoch)
    assert max(Counter(in_epoch).values()) == 1  # length < 128: every byte occurs once
    assert len(in_epoch) == data.count("train", epoch) * window >= length - 2 * (window - 1)
    assert data.count("train", epoch) >= 1
    for stored in (None, epoch):
        for piece in data.batches("train", epoch=stored):
            assert piece["tokens"].dtype == piece["targets"].dtype == torch.int64
            assert piece["tokens"].shape == piece["targets"].shape
            assert piece["tokens"].shape[1] == window and piece["tokens"].shape[0] <= batch
            known = piece["targets"][:, :-1] != IGNORE
            assert torch.equal(piece["tokens"][:, 1:][known], piece["targets"][:, :-1][known])


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 90), st.integers(1, 12), st.integers(1, 9), st.sampled_from([None, 0, 1]))
def test_every_prediction_sees_its_whole_context(
    length: int, window: int, context: int, epoch: int | None
) -> None:
    window = min(window, length)
    options = Text(unit="byte", window=window, context=context, batch=4, split=(1.0, 0.0, 0.0))
    data = options.open({"text": bytes(n % 127 for n in range(length)).decode()}, seed=3)
    tokens = data.tokens("train").tolist()
    before = [data.vocabulary.end] * (context - 1) + tokens
    for piece in data.batches("train", epoch=epoch):
        assert piece["tokens"].shape == (len(piece["targets"]), context - 1 + window)
        for row, wanted in zip(piece["tokens"].tolist(), piece["targets"].tolist(), strict=True):
            for t, target in enumerate(wanted):
                if target != IGNORE:  # every byte occurs once after the end token
                    place = tokens.index(target, 1)
                    assert row[t : t + context] == before[place - 1 : place - 1 + context]
    plain = options.model_copy(update={"context": 1}).open({"text": "x" * length}, seed=3)
    assert plain.count("train", epoch) == data.count("train", epoch)


def test_the_first_target_follows_the_end_token_and_padding_does_not_count() -> None:
    data = Text(window=4, batch=8, split=(1.0, 0.0, 0.0)).open({"text": "abcde"})
    [batch] = data.batches("train")
    assert batch["tokens"][0, 0] == data.vocabulary.end
    assert data.vocabulary.decode(batch["targets"][0]) == "abcd"
    assert batch["targets"][1].tolist() == [*data.vocabulary.encode("e"), IGNORE, IGNORE, IGNORE]
    assert data.size("train") == 2 and data.bytes("train") == 5


def test_windows_move_from_epoch_to_epoch() -> None:
    data = Text(window=16, split=(1.0, 0.0, 0.0)).open({"text": LINES}, seed=1)
    starts = set()
    for epoch in range(8):
        first = min(
            batch["targets"].numpy().tobytes() for batch in data.batches("train", epoch=epoch)
        )
        starts.add((data._offset("train", epoch), first))
    assert len({offset for offset, _ in starts}) > 3
    assert [targets(data, "train", e) for e in (0, 1)] == [
        targets(data, "train", e) for e in (0, 1)
    ]
    assert targets(data, "train", 0) != targets(data, "train", 1)


@pytest.mark.parametrize("unit", UNITS)
def test_blocks_of_one_text_do_not_leak(unit: str) -> None:
    data = Text(unit=unit, window=8, split=(0.8, 0.1, 0.1)).open({"text": LINES})  # type: ignore[arg-type]
    known = data.vocabulary
    stretches = [known.decode(data.tokens(split)[1:]) for split in SPLITS]
    if unit in ("byte", "bpe"):
        assert "".join(stretches) == LINES
    assert stretches[0] == LINES[: len(stretches[0])]
    assert abs(len(stretches[0]) - 0.8 * len(LINES)) < 100
    assert sum(data.bytes(split) for split in SPLITS) == len(LINES.encode())
    assert data.summary()["split"] == "by contiguous blocks"
    if unit == "word":
        assert stretches[0][-1].isspace()  # no word is cut in two


def test_no_window_holds_another_splits_tokens() -> None:
    data = Text(unit="bpe", window=7, batch=3, vocabulary=257).open(numbered(1000), seed=5)
    stretches = {s: data.vocabulary.decode(data.tokens(s)[1:]) for s in SPLITS}
    assert [len(stretches[s]) for s in SPLITS] == [900, 50, 50]
    for split in SPLITS:
        for epoch in (None, 0, 1):
            mine = data.tokens(split).tobytes()
            for batch in data.batches(split, epoch=epoch):
                for row in batch["targets"].numpy():
                    stretch = row[row != IGNORE].astype(data.tokens(split).dtype).tobytes()
                    assert stretch in mine


def test_the_vocabulary_comes_from_the_training_split_only() -> None:
    data = Text(window=8).open(numbered(1000))
    assert len(data.vocabulary) == 900 + 2
    assert data.summary()["unknown"] == {"train": 0, "valid": 50, "test": 50}
    assert any("valid: 50 of 50 tokens (100.00%)" in note for note in data.summary()["notes"])
    assert data.vocabulary.encode(chr(0x4E00 + 950)).tolist() == [data.vocabulary.unknown]


def test_documents_stay_whole() -> None:
    texts = [f"{chr(0x4E00 + n)}" * (1 + n % 7) for n in range(200)]
    data = Text(unit="byte", window=8).open({"text": texts}, seed=2)
    end = data.vocabulary.end
    found = {s: data.vocabulary.decode(data.tokens(s)[1:]).split("<|end|>")[:-1] for s in SPLITS}
    assert sorted(sum(found.values(), [])) == sorted(texts)
    for split in SPLITS:
        assert found[split] == [t for t in texts if t in found[split]]  # in the order of the source
        assert data.tokens(split)[0] == data.tokens(split)[-1] == end
        assert data.summary()["documents"][split] == len(found[split])
    share = data.bytes("valid") / sum(data.bytes(s) for s in SPLITS)
    assert abs(share - 0.05) < 0.03
    other = Text(unit="byte", window=8).open({"text": texts}, seed=3)
    assert not np.array_equal(other.tokens("valid"), data.tokens("valid"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=60), st.integers(0, 5))
def test_plans(lengths: list[int], seed: int) -> None:
    characters = np.array(lengths)
    bounds, how = plan_split(characters, (0.9, 0.05, 0.05), seed)
    assert (0 <= bounds[:, 0]).all() and (bounds[:, 0] <= bounds[:, 1]).all()
    assert (bounds[:, 1] <= characters).all()
    again, _ = plan_split(characters, (0.9, 0.05, 0.05), seed)
    assert np.array_equal(bounds, again)
    if how == "by document":
        sizes = np.stack([bounds[:, 0], bounds[:, 1] - bounds[:, 0], characters - bounds[:, 1]])
        assert ((sizes == 0) | (sizes == characters)).all()
        assert (sizes.sum(axis=1) > 0).all()
        assert sizes[0].sum() >= 0.7 * characters.sum()


def test_one_giant_among_documents_is_trained_on() -> None:
    for seed in range(10):
        bounds, how = plan_split(np.array([100_000] + [10] * 50), (0.9, 0.05, 0.05), seed)
        assert how == "by document" and bounds[0, 0] == 100_000


def test_a_few_documents_are_cut_in_blocks_each() -> None:
    data = Text(unit="byte", window=8).open({"text": ["a" * 100, "b" * 200]})
    for split, count in (("train", 90), ("valid", 5), ("test", 5)):
        decoded = data.vocabulary.decode(data.tokens(split)[1:])  # type: ignore[arg-type]
        assert decoded == "a" * count + "<|end|>" + "b" * 2 * count + "<|end|>"


def test_validation_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 100)
    (tmp_path / "b.txt").write_text("b" * 30)
    data = Text(unit="byte", window=8).open(tmp_path / "a.txt", valid=tmp_path / "b.txt")
    decoded = [data.vocabulary.decode(data.tokens(s)[1:]) for s in SPLITS]
    assert decoded == ["a" * 95, "b" * 30, "a" * 5]
    with pytest.raises(UserError, match=r"a\.txt: is among the training and the validation texts"):
        Text(window=8).open([tmp_path / "a.txt", tmp_path / "b.txt"], valid=str(tmp_path / "a.txt"))


@pytest.mark.parametrize("window", [8, 65])
def test_too_short(window: int) -> None:
    with pytest.raises(
        UserError, match=rf"4 tokens, fewer than one window of {window}; --data.window 4"
    ):
        Text(window=window).open({"text": "hello"})
    data = Text(window=4).open({"text": "hello"})
    assert "the text is so short that the valid split is empty" in data.summary()["notes"]
    assert list(data.batches("valid")) == []


def test_no_text_at_all() -> None:
    for nothing in ([], [""], ["", None]):
        with pytest.raises(UserError, match="no text in it"):
            Text(window=4).open({"text": nothing})
    data = Text(window=4, split=(1.0, 0.0, 0.0)).open({"text": ["", "hello", ""]})
    assert data.summary()["notes"] == ["2 documents without text left out"]
    assert len(data.tokens("train")) == 6  # one text: it is not closed by an end token


def test_wrong_options() -> None:
    for wrong in (
        {"split": (0.5, 0.1, 0.1)},
        {"split": (0.0, 0.5, 0.5)},
        {"window": 0},
        {"unit": "letter"},
    ):
        with pytest.raises(ValueError):
            Text(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="300 entries asked, the unit byte has 257"):
        Text(unit="byte", vocabulary=300, window=4).open({"text": "hello"})


@pytest.mark.parametrize("unit", UNITS)
def test_reopened_under_the_same_vocabulary(unit: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(LINES)
    options = Text(unit=unit, window=8)  # type: ignore[arg-type]
    data = options.open(tmp_path / "a.txt", seed=4)
    data.save(tmp_path / "data")
    restored = options.restore(tmp_path / "data")
    again = restored.reopen(tmp_path / "a.txt", seed=4)
    assert again.fingerprint == data.fingerprint == restored.fingerprint
    for split in SPLITS:
        assert np.array_equal(again.tokens(split), data.tokens(split))
    with pytest.raises(ValueError, match="no examples"):
        restored.tokens("train")
    whole = restored.reopen({"text": LINES[:500]}, whole=True)
    assert [whole.size(s) for s in ("train", "valid")] == [0, 0]
    assert whole.bytes("test") == len(LINES[:500].encode())
    tiny = restored.reopen({"text": "L"}, whole=True)  # shorter than a window: still measured
    assert len(targets(tiny, "test", None)) == 1
    (tmp_path / "a.txt").write_text(LINES + "!")
    assert restored.reopen(tmp_path / "a.txt", seed=4).fingerprint != data.fingerprint


def test_fingerprints_say_what_differs() -> None:
    base = Text(window=8).open({"text": LINES}).fingerprint
    assert Text(window=8).open({"text": LINES}).fingerprint == base
    assert Text(window=8).open({"text": [LINES[:99], LINES[99:]]}).fingerprint != base
    assert Text(window=8, unit="byte").open({"text": LINES}).fingerprint != base
    assert Text(window=8, split=(0.8, 0.1, 0.1)).open({"text": LINES}).fingerprint != base
    assert Text(window=8).open({"text": LINES}, seed=1).fingerprint != base


def test_resumed_in_the_middle_of_an_epoch() -> None:
    options = Text(window=8, batch=4)
    data, fresh = options.open({"text": LINES}), options.open({"text": LINES})
    batches = list(data.batches("train", epoch=2))
    stream = fresh.batches("train", epoch=2)
    for _ in range(3):
        next(stream)
    state = json.loads(json.dumps(fresh.state_dict()))
    resumed = options.open({"text": LINES})
    resumed.load_state_dict(state)
    rest = list(resumed.batches("train", epoch=2))
    assert len(rest) == len(batches) - 3
    for ours, theirs in zip(rest, batches[3:], strict=True):
        assert torch.equal(ours["tokens"], theirs["tokens"])


def test_a_tokenizer_file_cuts_where_the_same_run_cuts_later(tmp_path: Path) -> None:
    Text(unit="bpe", window=8).open({"text": LINES}).vocabulary.save_hf(tmp_path)
    (tmp_path / "a.txt").write_text(LINES)
    data = Text(tokenizer=str(tmp_path), window=8).open(tmp_path / "a.txt")
    again = data.reopen(tmp_path / "a.txt")
    assert again.fingerprint == data.fingerprint
    for split in SPLITS:
        assert np.array_equal(again.tokens(split), data.tokens(split))


@pytest.mark.skipif("FOURFOLD_DATA" not in os.environ, reason="FOURFOLD_DATA is not set")
def test_catalog_names() -> None:
    data = Text(window=64, split=(0.9, 0.1, 0.0)).open("tinyshakespeare")
    assert data.summary()["tokens"] == {"train": 1_003_854, "valid": 111_540, "test": 0}
    assert len(data.vocabulary) == 65 + 2
    poems = Text(window=64).open("tang")  # JSON lines whose key the catalog knows
    assert sum(poems.summary()["documents"].values()) == 20_009


# --- larger than memory ---------------------------------------------------------------------------


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Bounds so small that a text of some kilobytes is large."""
    monkeypatch.setattr(readers, "MEMORY", 2000)
    monkeypatch.setattr(readers, "PIECE", 500)
    monkeypatch.setattr(readers, "BLOCK", 700)
    monkeypatch.setattr(tokens, "BATCH", 900)
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("kind", ["one", "many"])
def test_streamed_equals_in_memory(
    unit: str, kind: str, tight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "one":
        (tight / "a.txt").write_text(LINES)
    else:
        rows = (json.dumps({"text": LINES[i : i + 1200]}) for i in range(0, len(LINES), 600))
        (tight / "a.jsonl").write_text("\n".join(rows))
    # where one text is cut into blocks depends on its pieces, so there only the encoding is compared
    split = (1.0, 0.0, 0.0) if kind == "one" else (0.9, 0.05, 0.05)
    options = Text(unit=unit, window=8, batch=4, split=split)  # type: ignore[arg-type]
    streamed = options.open(str(tight / "a.*"))
    assert isinstance(streamed.tokens("train"), np.memmap)
    assert streamed.tokens("train").dtype == np.uint16
    monkeypatch.undo()
    small = options.open(str(tight / "a.*"))
    assert not isinstance(small.tokens("train"), np.memmap)
    assert streamed.fingerprint == small.fingerprint
    assert streamed.summary() == small.summary()
    assert np.array_equal(streamed.vocabulary.counts, small.vocabulary.counts)
    for split in SPLITS:
        assert np.array_equal(streamed.tokens(split), small.tokens(split))


def test_tokens_are_encoded_once(tight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tight / "a.txt").write_text(LINES)
    options = Text(unit="bpe", window=8)
    first = options.open(tight / "a.txt")
    folder = cache_folder() / "tokens" / f"{first.fingerprint}-2"
    assert sorted(p.name for p in folder.iterdir()) == [
        "counts.npy",
        "index.jsonl",
        "measures.json",
        "test.bin",
        "train.bin",
        "valid.bin",
    ]
    monkeypatch.setattr(token_workers, "encoded", None)  # encoding again would fail
    again = options.open(tight / "a.txt")
    assert np.array_equal(again.tokens("train"), first.tokens("train"))
    assert again.summary() == first.summary()
    (folder / "train.bin").write_bytes(b"\0\0")
    with pytest.raises(UserError, match=r"train\.bin: truncated; delete"):
        options.open(tight / "a.txt")


def test_the_cache_cannot_be_written(tight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tight / "a.txt").write_text(LINES)
    (tight / "file").touch()
    monkeypatch.setenv("FOURFOLD_CACHE", str(tight / "file"))
    with pytest.raises(UserError, match="FOURFOLD_CACHE names another place"):
        Text(window=8).open(tight / "a.txt")


def test_memory_stays_bounded(tight: Path) -> None:
    import tracemalloc

    line = "the quick brown fox jumps over the lazy dog\n"
    (tight / "a.txt").write_text(line * 100_000)  # 4.4 MB
    Text(unit="byte", window=8).open({"text": line * 9})  # imports are not counted
    tracemalloc.start()
    try:
        data = Text(unit="byte", window=8).open(tight / "a.txt")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert data.summary()["tokens"]["train"] == 3_960_000
    assert peak < 1_000_000


def test_a_source_that_changes_meanwhile(tight: Path) -> None:
    (tight / "a.txt").write_text(LINES)
    [origin] = [readers.Origin("a.txt", "text", path=tight / "a.txt")]
    measured = corpus.Corpus([origin])
    (tight / "a.txt").write_text(LINES + "more")
    with pytest.raises(UserError, match=r"a\.txt: changed while it was being read"):
        list(measured.pieces())


def test_large_vocabularies_need_wide_tokens() -> None:
    many = {"text": "".join(chr(n) for n in range(0x10000, 0x10000 + 70_000))}
    data = Text(window=8, split=(1.0, 0.0, 0.0)).open(many)
    assert data.tokens("train").dtype == np.uint32
    assert data.vocabulary.decode(data.tokens("train")[1:]) == many["text"]
