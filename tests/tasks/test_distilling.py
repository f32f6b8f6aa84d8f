"""Fits with a teacher: what they take from it, what they keep of it, and what they gain."""

from __future__ import annotations

import fcntl
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fourfold
from fourfold import api
from fourfold.core.errors import Interrupted, UserError
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.data.text import Text, TextData
from fourfold.objectives.distillation import Distil
from fourfold.objectives.likelihood import NextToken
from fourfold.optimizers.gradient import Gradient
from fourfold.systems.gpt import GPT
from fourfold.tasks import distilling
from fourfold.tasks.distilling import Distilling
from fourfold.testing import _stopping_after

SOURCE = {"text": ["the cat sat on the mat. the dog sat on the log. " * 60]}


def small(**changes: Any) -> GPT:
    data = Text(unit="character", window=16, batch=8)
    optimizer = Gradient(lr=3e-3, steps=6, log_every="1")
    return GPT(data=data, layers=1, width=16, heads=1, optimizer=optimizer).model_copy(
        update=changes
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Run:
    big = small(layers=2, width=32)
    return fourfold.fit(big, SOURCE, out=tmp_path_factory.mktemp("teacher") / "big")


def weights(run: Run) -> dict[str, Tensor]:
    return dict(run.model.state_dict())


def test_weight_0_and_temperature_1_is_plain_training_bit_for_bit(
    teacher: Run, tmp_path: Path
) -> None:
    plain = fourfold.fit(small(), SOURCE, out=tmp_path / "plain")
    distilled = fourfold.fit(
        small(), SOURCE, out=tmp_path / "distilled", teacher=teacher.folder, temperature=1, weight=0
    )
    ours, theirs = weights(distilled), weights(plain)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    losses = [[line.get("loss") for line in run.metrics.lines] for run in (plain, distilled)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("how", ["soft", "hidden"])
def test_resumed_equals_run_through_and_keeps_nothing_of_the_teacher(
    teacher: Run, tmp_path: Path, how: str
) -> None:
    given = {"teacher": str(teacher.folder), "how": how}
    before = {name: value.clone() for name, value in weights(teacher).items()}
    whole = fourfold.fit(small(), SOURCE, out=tmp_path / "whole", **given)
    with pytest.raises(Interrupted), _stopping_after(3):
        fourfold.fit(small(), SOURCE, out=tmp_path / "parts", **given)
    parts = api.resume(tmp_path / "parts", source=SOURCE)
    ours, theirs = weights(whole), weights(parts)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not any("bridge" in name or "teacher" in name for name in ours)
    again = weights(fourfold.open(teacher.folder))
    assert all(torch.equal(before[name], again[name]) for name in before)  # never trained
    assert whole.folder is not None
    opened = fourfold.open(whole.folder)
    assert "".join(opened.generate("the", tokens=5, seed=0))
    objective = opened.system.objective
    assert isinstance(objective, Distil) and objective.how == how
    assert objective.teacher == str(teacher.folder) and len(objective.fingerprint or "") == 64
    assert {"loss", "valid.loss", "valid.divergence"} <= {k for m in whole.metrics.lines for k in m}
    if how == "hidden":
        found = whole.objective.state_dict()["bridge"]
        assert {tuple(w.shape) for w in found.values()} == {(32, 16)}


def test_the_vocabulary_is_the_teachers(teacher: Run, tmp_path: Path) -> None:
    other = {"text": ["zebras! the cat sat. " * 60]}
    run = fourfold.fit("gpt", other, out=False, teacher=teacher.folder, layers=1, width=32,
                       window=16, steps=2)  # fmt: skip
    assert run.system.data.unit == "character"
    assert run.data.vocabulary.digest == teacher.data.vocabulary.digest
    assert any("not in the vocabulary" in note for note in run.notes)


def test_a_teacher_that_does_not_fit_is_refused(teacher: Run, tmp_path: Path) -> None:
    place = str(teacher.folder)
    with pytest.raises(UserError, match=r"big.*data.unit stays 'character' \(got 'bpe'\)"):
        fourfold.fit("gpt", SOURCE, out=False, teacher=place, **{"data.unit": "bpe"})
    with pytest.raises(UserError, match="reads 16 tokens at once, the student 32"):
        fourfold.fit("gpt", SOURCE, out=False, teacher=place, window=32, layers=1, width=32)
    with pytest.raises(UserError, match="expected a run to learn from; --teacher"):
        fourfold.fit("gpt", SOURCE, out=False, objective="distil", steps=1)
    with pytest.raises(UserError, match="no such run|no run"):
        fourfold.fit("gpt", SOURCE, out=False, teacher=str(tmp_path / "none"), steps=1)
    elsewhere = {"text": ["quick brown foxes jump over lazy dogs! " * 40]}
    stranger = fourfold.fit(small(), elsewhere, out=tmp_path / "stranger")
    with pytest.raises(UserError, match="vocabulary has .* entries .*, the student's"):
        fourfold.fit("gpt", SOURCE, out=False, teacher=place, from_=stranger, steps=1)
    ngram = fourfold.fit("ngram", SOURCE, out=tmp_path / "ngram", **{"data.unit": "character"})
    with pytest.raises(UserError, match="a run of ngram does not say logits"):
        fourfold.fit(small(), SOURCE, out=False, teacher=str(ngram.folder), steps=1)


def test_another_teacher_under_the_same_name_is_noticed(teacher: Run, tmp_path: Path) -> None:
    first = fourfold.fit(small(), SOURCE, out=tmp_path / "big")
    with pytest.raises(Interrupted), _stopping_after(2):
        fourfold.fit(small(), SOURCE, out=tmp_path / "student", teacher=first.folder)
    (tmp_path / "big/weights.safetensors").write_bytes(
        (teacher.folder / "weights.safetensors").read_bytes()  # type: ignore[operator]
    )
    with pytest.raises(UserError, match="its weights are not those that were asked for"):
        api.resume(tmp_path / "student", source=SOURCE)


def test_no_teacher_no_choice(tmp_path: Path) -> None:
    run = fourfold.fit(small(), SOURCE, out=tmp_path / "plain")
    assert isinstance(run.system.objective, NextToken) and run.system.prepared_by() is None
    # a run that was written before there was a choice opens
    path = tmp_path / "plain/system.toml"
    path.write_text(path.read_text().replace('kind = "next-token"\n', ""))
    assert type(fourfold.open(tmp_path / "plain").system.objective) is NextToken


class Chain(nn.Module):
    """The true law of a Markov chain: log-probabilities of what follows each token."""

    def __init__(self, logs: Tensor) -> None:
        super().__init__()
        self.logs = nn.Parameter(logs)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logs[tokens]


@system("chain", reads="text")
class Knows(Distilling):
    """A chain over the vocabulary of its text."""

    data: Text = Text(unit="character", window=16)
    optimizer: Gradient = Gradient(steps=1)

    def build(self, data: Data) -> nn.Module:
        size = len(data.vocabulary)  # type: ignore[attr-defined]
        return Chain(torch.zeros(size, size))


def markov(length: int, seed: int) -> tuple[str, np.ndarray]:
    """Letters of a chain in which each is followed by one of all in ever other shares, and its law."""
    law = np.random.default_rng(7).dirichlet(np.full(12, 0.3), size=12)
    draws = np.random.default_rng(seed).random(length)
    state, letters = 0, []
    for draw in draws:
        state = min(int(np.searchsorted(law[state].cumsum(), draw)), 11)
        letters.append("abcdefghijkl"[state])
    return "".join(letters), law


def test_a_teacher_that_knows_the_law_teaches_it_from_less(tmp_path: Path) -> None:
    text, law = markov(1200, 0)
    few = {"text": [text]}
    made = Knows()
    data = made.data.open(few)
    order = [data.vocabulary.token(n) for n in range(len(data.vocabulary))]
    logs = torch.full((len(order), len(order)), -30.0)
    for a, row in zip("abcdefghijkl", law, strict=True):
        for b, share in zip("abcdefghijkl", row, strict=True):
            logs[order.index(a), order.index(b)] = math.log(share + 1e-13)
    run = Run(made)
    api.configure(made, {})  # so that it can be opened again
    run.data, run.model = data, Chain(logs)
    api.save(run, tmp_path / "law")
    held, _ = markov(20_000, 1)
    student = small(
        width=32,
        optimizer=Gradient(lr=1e-2, steps=150, precision="float32", checkpoint_every="50%"),
    )
    losses = {}
    for name, given in (("plain", {}), ("taught", {"teacher": str(tmp_path / "law"), "weight": 1, "temperature": 1})):  # fmt: skip
        fitted = fourfold.fit(student, few, out=False, valid={"text": [held[:3000]]}, **given)
        losses[name] = fitted.evaluate({"text": [held]})["loss"]
    stationary = np.linalg.matrix_power(law, 200)[0]
    entropy = float(-(stationary[:, None] * law * np.log(law + 1e-300)).sum())
    assert losses["taught"] < entropy + 0.06 < losses["plain"]
    assert losses["taught"] > entropy - 0.03  # less would have seen the answer


# --- what the teacher writes ------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/written"


def test_a_student_trains_on_what_its_teacher_writes(
    teacher: Run, tmp_path: Path, cache: Path
) -> None:
    given = {"teacher": str(teacher.folder), "how": "sequence", "sequences": 70}
    run = fourfold.fit(small(), SOURCE, out=tmp_path / "student", **given)
    (file,) = cache.glob("*.jsonl")
    texts = [json.loads(line)["text"] for line in file.read_text().splitlines()]
    assert len(texts) == 70 and all(1 <= len(text) <= 16 for text in texts)
    assert sum(len(text) == 16 for text in texts) > 20  # others ended before
    data = run.examples()
    vocabulary = data.vocabulary  # type: ignore[attr-defined]
    trained = vocabulary.decode(data.tokens("train")[1:])  # type: ignore[attr-defined]
    assert trained == "".join(f"{text}<|end|>" for text in texts)
    plain = small().data.open(SOURCE)
    assert np.array_equal(plain.tokens("test"), data.tokens("test"))  # type: ignore[attr-defined]
    # once written they are used again, by this run and by others
    before = file.stat().st_mtime_ns
    again = fourfold.fit(small(width=32), SOURCE, out=False, **given)
    assert file.stat().st_mtime_ns == before
    assert any("are in" in note for note in again.notes)
    with pytest.raises(Interrupted), _stopping_after(3):
        fourfold.fit(small(), SOURCE, out=tmp_path / "parts", **given)
    resumed = api.resume(tmp_path / "parts", source=SOURCE)
    ours, theirs = weights(run), weights(resumed)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_writing_goes_on_where_it_was_stopped(
    teacher: Run, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"teacher": str(teacher.folder), "how": "sequence", "sequences": 100}
    fourfold.fit(small(), SOURCE, out=False, **given)
    (file,) = cache.glob("*.jsonl")
    whole = file.read_bytes()
    file.unlink()
    texts = distilling._texts
    calls: list[int] = []

    def stopped(*args: Any) -> Any:
        calls.append(args[-1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return texts(*args)

    monkeypatch.setattr(distilling, "_texts", stopped)
    with pytest.raises(Interrupted, match="stopped"):
        fourfold.fit(small(), SOURCE, out=False, **given)
    (part,) = cache.glob("*.part")
    assert part.read_bytes() == b"".join(whole.splitlines(keepends=True)[:64])
    with part.open("ab") as half:
        half.write(b'{"text": "torn')
    calls.clear()
    calls.extend([-1] * 3)
    fourfold.fit(small(), SOURCE, out=False, **given)
    assert calls[3:] == [64, 96]
    assert file.read_bytes() == whole


def test_two_at_once_do_not_mix(teacher: Run, cache: Path) -> None:
    given = {"teacher": str(teacher.folder), "how": "sequence", "sequences": 3}
    fourfold.fit(small(), SOURCE, out=False, **given)
    (file,) = cache.glob("*.jsonl")
    part = file.with_suffix(".part")
    file.rename(part)
    with part.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another fit is writing these texts"):
            fourfold.fit(small(), SOURCE, out=False, **given)


def test_texts_of_a_teacher_hold_no_special_token(tmp_path: Path) -> None:
    """An imported teacher's documents begin with a token of their own, which is no text of theirs."""
    from tests.hf_models import saved

    saved(tmp_path / "hf", "llama", begin=True)
    teacher = fourfold.import_(tmp_path / "hf", out=False)
    data = teacher.data.reopen({"text": [f"the cat sat. {n}" for n in range(80)]})
    assert isinstance(data, TextData)
    begin = data.vocabulary.begin
    assert begin is not None and (data.tokens("train") == begin).sum() > 40
    prompts = distilling._prompts(data, 40, seed=0)
    assert any("cat" in prompt for prompt in prompts)
    texts = list(distilling._texts(teacher, prompts, 16, 0, 0))
    for special in ("<|begin|>", "<|turn|>", "<|stop|>"):
        assert not any(special in text for text in [*prompts, *texts])
