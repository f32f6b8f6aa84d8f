"""The reward model: what it learns, on what it is built, and what its verbs say."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.tasks import rewarding
from fourfold.tasks.rewarding import Told, calibration, dialogues, length_correlation

WORDS = "red blue green white black brown small large round flat".split()


def pairs(count: int, seed: int) -> list[dict[str, str]]:
    """The better answer says please; length says nothing."""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        asked = chance.choice(WORDS)
        tail = " indeed" * chance.randint(0, 2), " indeed" * chance.randint(0, 2)
        rows.append(
            {
                "prompt": f"Say {asked}.",
                "chosen": f"{asked} please{tail[0]}",
                "rejected": f"{asked} gladly{tail[1]}",
            }
        )
    return rows


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Run:
    text = "\n".join(f"Say {w}. {w} please indeed gladly. " for w in WORDS * 30)
    return fourfold.fit(
        "gpt", {"text": [text + "User:\nAssistant:\n"]}, out=tmp_path_factory.mktemp("base") / "run", layers=2, width=64,
        heads=2, steps=60, lr=3e-3, algorithm="adamw", evaluate_every="60", **{"data.unit": "character", "data.window": 96},
    )  # fmt: skip


@pytest.fixture(scope="module")
def reward(base: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fourfold.fit(
        "reward", pairs(300, 0), out=tmp_path_factory.mktemp("reward") / "run", from_=base, lr=2e-3, epochs=3,
        **{"data.batch": 32},
    )  # fmt: skip


def test_it_learns_the_rule_and_not_the_length(reward: Run) -> None:
    score = reward.evaluate(pairs(200, 1))
    assert score["accuracy"] > 0.9 and abs(score["length_correlation"]) < 0.35
    assert score["loss"] < 0.4 < np.log(2)
    assert not any(note.startswith("Beware") for note in score.notes)
    assert "200 pairs on" in score.notes[0]


def test_its_loss_is_that_of_training_margins_included(reward: Run) -> None:
    rows = [row | {"margin": 0.1 * number} for number, row in enumerate(pairs(20, 4))]
    data = rewarding.preference_data(reward).reopen(rows, whole=True)
    measure = reward.objective.measure
    with torch.no_grad():
        found = [measure(reward.model, batch)["loss"] for batch in data.batches("test")]
    total, weight = (sum(float(each[i]) for each in found) for i in (0, 1))  # type: ignore[arg-type]
    assert reward.evaluate(rows)["loss"] == pytest.approx(total / weight, rel=1e-4)


def test_it_begins_as_the_base_with_a_new_head(base: Run) -> None:
    fresh = fourfold.fit("reward", pairs(40, 0), out=False, from_=base, steps=1, lr=1e-30)
    for name, tensor in base.model.state_dict().items():
        if not name.startswith("head"):
            torch.testing.assert_close(fresh.model.state_dict()[f"body.{name}"], tensor)
    assert fresh.data.vocabulary.digest == base.data.vocabulary.digest and fresh.data.window == 96


def test_the_reward_is_that_of_the_last_token(reward: Run) -> None:
    """Batch mates, packing and padding change nothing: alone and among others, by the plain forward pass too."""
    turns = dialogues(json.dumps([{"prompt": f"Say {w}.", "completion": w} for w in WORDS[:5]]))
    data = rewarding.preference_data(reward)
    sequences = data.sequences(turns)
    together = rewarding.rewards_of(reward.model, sequences, data.vocabulary.end)
    for each, value in zip(sequences, together, strict=True):
        alone = rewarding.rewards_of(reward.model, [each], data.vocabulary.end)
        assert alone[0] == pytest.approx(value, abs=1e-4)
        with torch.no_grad():
            states = reward.model.body.states(torch.from_numpy(each.tokens)[None])
            plain = float(reward.model.reward(states[0, -1]))
        assert plain == pytest.approx(value, abs=1e-4)


def test_score_reads_every_form(reward: Run) -> None:
    messages = [
        {"role": "user", "content": "Say red."},
        {"role": "assistant", "content": "red please"},
    ]
    one = reward.score(json.dumps(messages))["reward"]
    assert (
        reward.score(json.dumps({"prompt": "Say red.", "completion": "red please"}))["reward"]
        == one
    )
    lines = "\n".join(
        json.dumps({"prompt": "Say red.", "completion": c}) for c in ("red please", "red gladly")
    )
    table = reward.score(lines)
    assert isinstance(table, pl.DataFrame) and table["reward"][0] == pytest.approx(one, abs=1e-4)
    assert table["reward"][0] > table["reward"][1]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "is empty"), ("hello", "line 1: expected JSON"), ('{"prompt": "a"}', "a prompt without completion"),
     ('[{"role": "user", "content": "a"}]', "no turn of the assistant")],
)  # fmt: skip
def test_what_is_no_dialogue(reward: Run, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        reward.score(text)


def test_a_reward_for_length_is_told() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 50, (200, 2))
    told = Told(lengths[:, 0] / 10.0, lengths[:, 1] / 10.0, lengths[:, 0], lengths[:, 1])
    assert length_correlation(told) == pytest.approx(1)
    assert length_correlation(Told(np.ones(5), np.ones(5), lengths[:5, 0], lengths[:5, 1])) == 0


def test_an_evaluation_warns_of_length(reward: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_length(model: Any, sequences: Any, end: int) -> list[float]:
        return [float(s.said.sum()) for s in sequences]

    monkeypatch.setattr(rewarding, "rewards_of", by_length)
    notes = reward.evaluate(pairs(100, 2)).notes
    assert any(note.startswith("Beware: it is right") and "longer" in note for note in notes)


def test_calibration_by_hand() -> None:
    gaps = np.array([2.0, 2.0, 2.0, -2.0])  # told with 0.881, right in 3 of 4
    bins, error = calibration(gaps)
    assert bins.tolist() == [[pytest.approx(0.8808, abs=1e-4), 0.75, 4.0]]
    assert error == pytest.approx(0.1308, abs=1e-4)
    assert calibration(np.zeros(3))[1] == pytest.approx(0)  # ties: told with 1/2, half right


def test_the_report_shows_it(reward: Run) -> None:
    titles = [p.title for p in reward.system.pictures(reward)]
    assert titles == ["Rewards", "Reliability", "Reward and length"]
    table = next(t for t in reward.system.tables(reward) if t.title == "Where it is most wrong")
    gaps = [row[2] - row[4] for row in table.rows]
    assert gaps == sorted(gaps)


def test_what_does_not_fit_is_one_sentence(base: Run, reward: Run, tmp_path: Path) -> None:
    assert base.folder is not None and reward.folder is not None
    with pytest.raises(UserError, match="--width 32: the weights of .* were made with width 64"):
        fourfold.fit("reward", pairs(20, 0), out=False, from_=base, width=32)
    with pytest.raises(UserError, match="is a run of reward, whose weights are no gpt's"):
        fourfold.fit("gpt", {"text": ["abc " * 99]}, out=False, from_=reward)
    again = fourfold.fit("reward", pairs(40, 3), out=False, from_=reward, steps=1, lr=1e-30)
    torch.testing.assert_close(again.model.reward.weight, reward.model.reward.weight)
