"""Mixtures of sources: shares, passes, exact resume, held-out parts; and training on other texts than are held out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fourfold
from fourfold.core.errors import UserError
from fourfold.data import readers
from fourfold.data.mixture import Mixture
from fourfold.data.text import Text, TextData
from fourfold.systems.gpt import GPT


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two sources whose letters tell them apart."""
    folder = tmp_path / "corpus"
    (folder / "code").mkdir(parents=True)
    (folder / "wiki.txt").write_text("abcdefgh" * 400)
    (folder / "code/one.txt").write_text("123456" * 100)
    (folder / "code/two.txt").write_text("7890" * 60)
    return folder


def opened(corpus: Path, **options: object) -> TextData:
    given = {"unit": "character", "window": 16, "batch": 8, "mixture": {"wiki": 1, "code": 3}}
    return Text(**{**given, **options}).open(str(corpus), seed=5)  # type: ignore[arg-type]


def epoch_texts(data: TextData, epoch: int) -> list[str]:
    return [
        data.vocabulary.decode(row[1:])
        for batch in data.batches("train", epoch=epoch)
        for row in batch["tokens"].numpy()
    ]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(5, 200), st.floats(0.05, 9)), min_size=2, max_size=4),
    st.integers(2, 5),
    st.integers(0, 99),
)
def test_windows_are_of_one_source_and_each_pass_reads_a_target_once(
    sources: list[tuple[int, float]], window: int, seed: int
) -> None:
    tokens, weights = zip(*sources, strict=True)
    names = [f"s{i}" for i in range(len(tokens))]
    mix = Mixture(names, weights, tokens, window, seed)
    assert mix.given.sum() == mix.count
    assert (abs(mix.given - mix.shares * mix.count) <= len(tokens)).all()
    targets = [Counter[int]() for _ in tokens]
    drawn = np.zeros(len(tokens), np.int64)
    for epoch in range(3):
        starts, firsts = mix.starts(np.arange(mix.count), epoch)
        for start, first in zip(starts.tolist(), firsts.tolist(), strict=True):
            source = int(np.searchsorted(mix.begins, start, side="right")) - 1
            assert mix.begins[source] == first
            assert start + window <= mix.begins[source] + mix.sizes[source]
            targets[source].update(range(start + 1, start + window + 1))
            drawn[source] += 1
    assert (drawn == 3 * mix.given).all()
    for counted, number, each in zip(targets, drawn, mix.each, strict=True):
        # a token is a target once in a pass: at most as often as passes were begun
        assert max(counted.values(), default=0) <= -(-int(number) // int(each))
    shuffled = np.random.default_rng(0).permutation(mix.count)
    whole, parts = mix.starts(np.arange(mix.count), 1)[0], mix.starts(shuffled, 1)[0]
    assert (whole[shuffled] == parts).all()


def test_shares_and_what_is_said(corpus: Path) -> None:
    data = opened(corpus)
    texts = epoch_texts(data, 0)
    digits = sum(any(c.isdigit() for c in text) for text in texts)
    assert digits == round(0.75 * len(texts)) and len(texts) == data.count("train", 0)
    assert not any(c.isdigit() and "a" in text for text in texts for c in text)
    said = data.summary()
    name = str(corpus / "code")
    assert said["mixture"][name]["share"] == 0.75
    assert said["mixture"][name]["passes in one epoch"] > 3
    assert any("75.0% of the windows" in note for note in said["notes"])


def test_an_epoch_goes_on_exactly_after_a_restart(corpus: Path, tmp_path: Path) -> None:
    whole = [b["tokens"] for b in opened(corpus).batches("train", epoch=2)]
    first = opened(corpus)
    begun = first.batches("train", epoch=2)
    head = [next(begun)["tokens"] for _ in range(3)]
    first.save(tmp_path / "data")
    again = first.options.restore(tmp_path / "data").reopen(str(corpus), seed=5)
    assert again.fingerprint == first.fingerprint
    again.load_state_dict(first.state_dict())
    tail = [b["tokens"] for b in again.batches("train", epoch=2)]
    assert len(head) + len(tail) == len(whole)
    assert all(torch.equal(a, b) for a, b in zip(whole, head + tail, strict=True))


def test_the_same_from_memory_mapped_files(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = opened(corpus)
    wanted = epoch_texts(small, 1)
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(readers, "MEMORY", 100)
    for _ in range(2):  # written, and read again
        mapped = opened(corpus)
        assert isinstance(mapped.tokens("train"), np.memmap)
        assert epoch_texts(mapped, 1) == wanted
        assert list(mapped.held("test")) == list(small.held("test"))


def test_held_out_parts_add_up(corpus: Path) -> None:
    data = opened(corpus, split=(0.8, 0.1, 0.1))
    for split in ("train", "valid", "test"):
        held = list(data.held(split))
        assert sum(size for _, _, size, _ in held) == data.bytes(split)
        tokens = data.tokens(split)[1:]
        assert [h[1].stop for h in held][-1] == len(tokens)
        for name, places, size, _ in held:
            text = data.vocabulary.decode(tokens[places]).replace("<|end|>", "")
            assert len(text) == size and text.isdigit() == name.endswith("code")


def test_each_source_is_measured(corpus: Path) -> None:
    toy, _ = GPT.toy()
    data = Text(unit="character", window=16, batch=8, mixture={"wiki.txt": 1, "code": 1},
                split=(0.8, 0.1, 0.1))  # fmt: skip
    run = fourfold.fit(toy.model_copy(update={"data": data}), str(corpus), out=False)
    score = run.evaluate()
    each = [score[f"bits_per_byte ({corpus / name})"] for name in ("code", "wiki.txt")]
    sizes = [size for _, _, size, _ in run.examples().held("test")]  # type: ignore[attr-defined]
    mean = float(np.average(each, weights=sizes))
    assert score["bits_per_byte"] == pytest.approx(mean, rel=1e-9)
    alone = run.evaluate(str(corpus / "wiki.txt"))  # on other data no source has a weight
    assert not any("(" in name for name in alone.values)


@pytest.mark.parametrize(
    ("mixture", "sentence"),
    [
        ({"wikki": 1, "code": 1}, r"--data.mixture wikki: no such source.*wiki"),
        ({"wiki": 1}, r"code has no weight"),
        ({"wiki": 1, "wiki.txt": 2, "code": 1}, r"gives .*wiki.txt two weights"),
        ({"wiki": 0, "code": 1}, r"greater than 0"),
    ],
)
def test_wrong_mixtures(corpus: Path, mixture: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        fourfold.fit("gpt", str(corpus), out=False, mixture=mixture, steps=1)


def test_what_does_not_go_with_a_mixture(corpus: Path) -> None:
    weights = {"wiki": 1, "code": 1}
    with pytest.raises(UserError, match="in random order; take ordered False"):
        fourfold.fit("gpt", str(corpus), out=False, mixture=weights, ordered=True)
    with pytest.raises(UserError, match="ngram counts all of the text once"):
        fourfold.fit("ngram", str(corpus), out=False, mixture=weights)
    with pytest.raises(UserError, match="expected files, folders or catalog names"):
        fourfold.fit("gpt", {"text": ["some text"]}, out=False, mixture=weights)
    with pytest.raises(UserError, match="expected several sources"):
        fourfold.fit("gpt", str(corpus / "wiki.txt"), out=False, mixture=weights)
    with pytest.raises(UserError, match="one.txt: is in .*a mixture reads it once"):
        both = [str(corpus / "code"), str(corpus / "code/one.txt")]
        fourfold.fit("gpt", both, out=False, mixture={"code": 1, "one": 1})
    with pytest.raises(UserError, match=r"code.*fewer than one window of 2000"):
        fourfold.fit("gpt", str(corpus), out=False, mixture=weights, window=2000, unit="byte")


def test_training_texts_replace_the_training_split_alone(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "written.txt"
    other.write_text("hgfedcba" * 200)
    plain = Text(unit="character", window=16).open(str(corpus / "wiki.txt"))
    taught = Text(unit="character", window=16, training=str(other)).open(str(corpus / "wiki.txt"))
    for split in ("valid", "test"):
        said = [d.vocabulary.decode(d.tokens(split)[1:]) for d in (plain, taught)]
        assert said[0] == said[1]
    assert taught.vocabulary.decode(taught.tokens("train")[1:]) == "hgfedcba" * 200
    assert plain.fingerprint != taught.fingerprint
    whole = taught.reopen(str(corpus / "wiki.txt"), whole=True)
    assert whole.size("train") == 0 and len(whole.tokens("test")) == 3201
