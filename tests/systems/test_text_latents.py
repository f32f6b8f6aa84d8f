"""text-vae and text-vq end to end at toy size: their verbs, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.systems.text_vae import TextVAE
from fourfold.systems.text_vq import TextVQ

SYSTEMS = [TextVAE, TextVQ]


@pytest.fixture(scope="module", params=SYSTEMS, ids=["vae", "vq"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    toy, source = request.param.toy()
    return fourfold.fit(toy, source, out=tmp_path_factory.mktemp(toy.name) / "run")


def test_latents_of_sentences_and_back(run: Run, tmp_path: Path) -> None:
    table = run.encode(["the food was good .", "这里的菜很好。"])
    prefix, size = run.system.prefix, run.system._size()  # type: ignore[attr-defined]
    assert table.columns == [*(f"{prefix}_{i}" for i in range(size)), "text"]
    table.write_parquet(tmp_path / "z.parquet")
    said = run.decode(tmp_path / "z.parquet")
    assert said.count("\n") == 2
    assert run.encode("the food was good .\n\nthe book was bad .", lines=True).height == 2
    with pytest.raises(UserError, match=f"expected {size} numbers of the latent"):
        run.decode(table.drop(f"{prefix}_0"))
    with pytest.raises(UserError, match="got an array"):
        run.decode(np.zeros((1, size + 1)))


def test_ways_lead_from_one_to_the_other(run: Run) -> None:
    lines = run.traverse("the food was good .", end="这里的菜很好。", steps=5).splitlines()
    assert len(lines) == 5
    ends = run.encode(["the food was good .", "这里的菜很好。"])
    first, last = run.decode(ends).splitlines()
    assert (lines[0], lines[-1]) == (first, last)
    with pytest.raises(UserError, match="--steps: expected at least 2, got 1"):
        run.traverse("the food was good .", end="the food was bad .", steps=1)
    with pytest.raises(UserError, match="the sentence is empty"):
        run.traverse("the food was good .", end="")


def test_samples_are_fixed_by_their_seed(run: Run) -> None:
    assert run.sample(count=4, seed=1) == run.sample(count=4, seed=1) != run.sample(count=4, seed=2)
    assert fourfold.open(run.folder).sample(count=4, seed=1) == run.sample(count=4, seed=1)


def test_evaluate_measures_bounds_and_diversity(run: Run) -> None:
    score = run.evaluate()
    parts = "kl" if run.system.name == "text-vae" else "prior_nats"
    assert score["bound"] == pytest.approx(score["nats"] + score[parts], rel=1e-5)
    assert 0 <= score["self_bleu"] <= 1 and 0 < score["distinct_1"] <= score["distinct_2"] <= 1
    if run.system.name == "text-vae":
        assert score["importance_bound"] <= score["bound"] + 0.5
        assert 0 <= score["active_units"] <= 4
    else:
        assert 1 <= score["code_perplexity"] <= 8
    other = run.evaluate({"text": ["the food was good .", "这里的菜很好。"]})
    assert any("2 sentences" in note for note in other.notes)


def test_codes_that_do_not_exist_are_refused() -> None:
    toy, _ = TextVQ.toy()
    run = fourfold.fit(toy, out=False)
    with pytest.raises(UserError, match="codes from 0 to 7, whole numbers; got from 0 to 8"):
        run.decode(np.array([[0, 8, 1]]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text-vae", "text-vq"])
def test_sentences_are_said_again(name: str) -> None:
    run = fourfold.fit(name, out=False, steps=1200)
    sentence = "the food was good ."
    assert run.traverse(sentence, end="the food was bad .").splitlines()[0] == sentence
    assert run.evaluate()["bound_per_token"] < 1.2
