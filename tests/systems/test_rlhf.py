"""Policies tuned on rewards and on pairs: what they learn, stops in the middle of a roll-out, and what is refused."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import fourfold
import preferring
from fourfold.core.errors import Interrupted, UserError
from fourfold.core.metrics import Metrics
from fourfold.core.run import Run
from fourfold.data.experience import ExperienceData
from fourfold.tasks.policy_health import warnings_of
from fourfold.tasks.rolling_out import scorer

SMALL: dict[str, Any] = {
    "data.prompts": 5, "data.answers": 4, "data.passes": 2, "data.batch": 10, "data.tokens": 20,
    "data.split": (0.8, 0.2, 0), "evaluate_every": "100%",
}  # fmt: skip
KINDS = ["grpo", "ppo", "rloo", "difference"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return preferring.assistant(
        tmp_path_factory.mktemp("base") / "run", rows=200, epochs=3, width=32
    )


@pytest.fixture(scope="module")
def reward(base: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return preferring.rewarded(base, tmp_path_factory.mktemp("reward") / "run", epochs=1)


def fit(base: Run, reward: Any, **options: Any) -> Run:
    name = str(reward.folder) if isinstance(reward, Run) else reward
    given = {"out": False, "lr": 1e-3, "steps": 8, "log_every": "1", **SMALL, **options}
    return fourfold.fit("rlhf", preferring.PROMPTS, from_=base, reward=name, **given)


@pytest.mark.parametrize("kind", KINDS)
def test_each_objective_fits_logs_and_answers(base: Run, reward: Run, kind: str) -> None:
    run = fit(base, reward, objective=kind, judge="regex:please")
    line = next(line for line in run.metrics.lines if "reward" in line)
    # the first batch of all: the policy is the reference, and every ratio is 1
    assert line["divergence"] == pytest.approx(0, abs=1e-6) and line["clipped"] == 0
    wanted = {"reward", "length", "entropy", "beta"} | (
        {"explained_variance"} if kind == "ppo" else set()
    )
    assert wanted <= line.keys() and ("groups_alike" in line) == (SMALL["data.answers"] > 1)
    # what is counted as learned from has its name: some weigh each token alike, some each answer
    tokens = kind in ("ppo", "difference")
    assert run.data.unit == ("tokens of answers" if tokens else "answers")
    last = run.metrics.lines[-2]
    assert {"valid.reward", "valid.judge", "valid.divergence", "valid.length"} <= last.keys()
    assert last["valid.divergence"] != 0 and "".join(run.chat("Say red.", seed=0))
    assert ("value.weight" in run.model.state_dict()) == (kind == "ppo")
    score = run.evaluate([{"prompt": "Say red."}] * 3)
    assert set(score.values) >= {"reward", "judge", "divergence", "length"}


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
@pytest.mark.parametrize("after", [1, 3, 4])
def test_a_stop_in_the_middle_of_a_roll_out_goes_on_exactly(
    base: Run, reward: Run, tmp_path: Path, kind: str, after: int
) -> None:
    """A roll-out is four steps here; with the KL adapted, and with another process's worth of state."""

    options = {"objective": kind, "steps": 6, "checkpoint_every": "1000", "target": 1.0}
    whole = fit(base, reward, out=tmp_path / "whole", **options)
    steps = 0

    def stop(**values: Any) -> None:
        nonlocal steps
        steps = int(values.get("step", 0))
        if steps == after and "loss" in values:
            os.kill(os.getpid(), signal.SIGTERM)

    original = Metrics.log

    def log(self: Metrics, **values: Any) -> None:
        original(self, **values)
        if self is not whole.metrics:
            stop(**values)

    Metrics.log = log  # type: ignore[method-assign]
    try:
        with pytest.raises(Interrupted):
            fit(base, reward, out=tmp_path / "parts", **options)
    finally:
        Metrics.log = original  # type: ignore[method-assign]
    resumed = fourfold.api.resume(tmp_path / "parts", source=preferring.PROMPTS)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    kept = [[{k: v for k, v in line.items() if k not in ("seconds", "rate", "evaluation_seconds")}
             for line in r.metrics.lines if "loss" in line] for r in (whole, resumed)]  # fmt: skip
    assert kept[0] == kept[1]


def test_the_rewards_are_the_reward_runs_own(base: Run, reward: Run) -> None:
    """What the policy is paid equals what `fourfold score` says of the same answer."""
    import json

    run = fit(base, reward, steps=1)
    data = run.data
    assert isinstance(data, ExperienceData) and data.answering is not None
    prompts = list(data.prompts("train"))[:3]
    answers = data.answering.answers(run.model, [p.tokens for p in prompts], 0)
    texts = [data.answer(a.tolist()) for a in answers]
    paid = data.answering.rewards(prompts, answers, texts)
    for prompt, answer, text, value in zip(prompts, answers, texts, paid, strict=True):
        if answer[-1] != data.vocabulary.end or not text.strip():
            continue  # cut off: the same text would be scored with its end
        told = reward.score(json.dumps({"prompt": prompt.turns[-1].content, "completion": text}))
        assert told["reward"] == pytest.approx(value, abs=1e-3)
    again = data.answering.answers(run.model, [p.tokens for p in prompts], 0)
    assert all((a == b).all() for a, b in zip(answers, again, strict=True))


def test_dpo_kto_and_ipo_prefer_the_chosen(base: Run, tmp_path: Path) -> None:
    for kind in ("dpo", "ipo", "kto"):
        run = fourfold.fit(
            "dpo", preferring.pairs(60, 1), out=tmp_path / kind, from_=base, objective=kind, steps=12, lr=2e-3,
            evaluate_every="100%", **{"data.batch": 12},
        )  # fmt: skip
        first = next(line for line in run.metrics.lines if "loss" in line)
        score = run.evaluate(preferring.pairs(40, 2))
        assert score["accuracy"] > 0.8 and score["margin"] > 0
        assert first["loss"] == pytest.approx(
            {"dpo": 0.6931, "ipo": 25.0, "kto": 0.5}[kind], rel=0.25
        )
        opened = fourfold.open(tmp_path / kind)
        assert opened.system.objective.reference == str(base.folder)  # type: ignore[attr-defined]
        assert opened.system.data.others == (kind == "kto")  # type: ignore[attr-defined]
        assert run.data.unit == ("answers" if kind == "kto" else "pairs")
        again = opened.evaluate(preferring.pairs(40, 2))
        assert again.values == pytest.approx(score.values)


def test_micro_batches_add_up(base: Run) -> None:
    """Eight batches of one pair are one batch of eight: the same weights, to rounding."""
    rows, ends = preferring.pairs(40, 3), []
    for batch, accumulate in ((8, 1), (1, 8)):
        run = fourfold.fit(
            "dpo", rows, out=False, from_=base, steps=4, lr=1e-3, accumulate=accumulate, algorithm="sgd",
            **{"data.batch": batch, "data.split": (1, 0, 0), "optimizer.precision": "float32"},
        )  # fmt: skip
        ends.append(run.model.state_dict())
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_adapters_alone_learn_from_rewards(base: Run, reward: Run, quantize: str) -> None:
    for kind in ("grpo", "ppo"):
        run = fit(base, reward, objective=kind, steps=2, adapter="lora", quantize=quantize)
        moved = {n for n, p in run.model.named_parameters() if p.requires_grad}
        assert moved and all(n.startswith("value.") or n.endswith((".a", ".b")) for n in moved)
        assert any("learn beside" in note for note in run.notes)


def test_what_is_refused(
    base: Run, reward: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="--reward: there is none"):
        fit(base, None)
    with pytest.raises(UserError, match="neither a run nor one of .*did you mean exact-answer"):
        fit(base, "exact-anwser")
    with pytest.raises(UserError, match="is a run of sft, not of reward"):
        fit(base, base)
    with pytest.raises(UserError, match="compares the answers to a prompt; take 2 or more"):
        fit(base, reward, **{"data.answers": 1})
    with pytest.raises(UserError, match="exact-answer: example 1 has no field answer"):
        fit(base, "exact-answer")
    other = fourfold.fit("reward", preferring.pairs(30, 1), out=tmp_path / "other", steps=1, layers=1, width=32, **{"data.unit": "byte"})  # fmt: skip
    with pytest.raises(UserError, match="reads another vocabulary"):
        fit(base, other)
    with pytest.raises(UserError, match="reference: .*no_such"):
        fit(base, reward, **{"objective.reference": "runs/no_such"})
    (tmp_path / "bad_rewards.py").write_text("def short(p, a, r): return [1.0]\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="1 values for"):
        fit(base, "bad_rewards:short")


def test_every_later_stage_begins_from_every_earlier_one(
    base: Run, reward: Run, tmp_path: Path
) -> None:
    """A PPO run has a value head that no other stage has; the vocabulary and the template are those of the first."""
    policy = fit(base, reward, objective="ppo", out=tmp_path / "ppo", steps=1)
    still = {"out": False, "from_": policy, "steps": 1, "lr": 1e-30}
    made = {
        "sft": fourfold.fit("sft", preferring.chats(20, 1), **still),
        "dpo": fourfold.fit("dpo", preferring.pairs(20, 1), **still),
        "reward": fourfold.fit("reward", preferring.pairs(20, 1), **still),
        "gpt": fourfold.fit("gpt", {"text": ["Say red. " * 60]}, **still),
        "grpo": fit(policy, reward, steps=1, lr=1e-30),
        "ppo": fit(policy, reward, objective="ppo", steps=1, lr=1e-30),
    }
    wanted = policy.model.state_dict()
    for name, run in made.items():
        assert run.data.vocabulary.digest == base.data.vocabulary.digest, name  # type: ignore[attr-defined]
        if name != "gpt":
            assert run.data.chat.source == base.data.chat.source, name  # type: ignore[attr-defined]
        for key, tensor in run.model.state_dict().items():
            key = key.removeprefix("body.")
            if key not in ("reward.weight",):
                torch.testing.assert_close(tensor, wanted[key], msg=f"{name}: {key}")


def test_scores_of_functions_and_of_runs(base: Run, reward: Run) -> None:
    run = fit(base, "length", steps=1)
    prompts = list(run.data.prompts("train"))[:2]  # type: ignore[attr-defined]
    score = scorer("regex:b", run.data)  # type: ignore[arg-type]
    assert score(prompts, [], ["abc", "acd"]) == [1.0, 0.0]


def test_a_run_by_its_name_and_a_pattern_with_a_slash(
    base: Run, reward: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reward.folder is not None
    monkeypatch.setenv("FOURFOLD_RUNS", str(reward.folder.parent))
    run = fit(base, reward.folder.name, steps=1)
    assert run.system.reward == str(reward.folder)  # type: ignore[attr-defined]
    slashed = scorer("regex:a/b", run.data)  # type: ignore[arg-type]
    assert slashed(list(run.data.prompts("train"))[:2], [], ["a/b", "ab"]) == [1.0, 0.0]  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="no such run"):
        scorer("somewhere/reward", run.data)  # type: ignore[arg-type]


def lines(**series: list[float]) -> Metrics:
    metrics = Metrics(None)
    for step in range(len(next(iter(series.values())))):
        metrics.log(step=step, **{name.replace("__", "."): values[step] for name, values in series.items()})  # fmt: skip
    return metrics


@pytest.mark.parametrize(
    ("series", "said"),
    [
        ({"valid__reward": [0, 1, 2, 3, 4], "valid__judge": [0.9, 0.8, 0.6, 0.4, 0.1]}, "while the judge fell"),
        ({"length": [10, 11, 12, 18, 25, 30, 40, 50]}, "Answers grew from 10 to 45 tokens"),
        ({"entropy": [2, 1.5, 1, 0.5, 0.1, 0.05, 0.02, 0.01]}, "entropy of the next token collapsed"),
        ({"groups_alike": [0.9, 1.0, 0.8, 0.9]}, "In 90% of the groups all answers had the same reward"),
    ],
)  # fmt: skip
def test_each_warning_is_provoked(series: dict[str, list[float]], said: str) -> None:
    (sentence,) = warnings_of(lines(**series))
    assert said in sentence


def test_nothing_is_said_of_a_good_course() -> None:
    good = {
        "valid__reward": [0, 1, 2, 3.0], "valid__judge": [0, 0.4, 0.5, 0.6], "length": [10, 12, 11, 12],
        "entropy": [2, 1.8, 1.5, 1.2], "groups_alike": [0, 0, 0.1, 0],
    }  # fmt: skip
    assert warnings_of(lines(**good)) == [] and warnings_of(Metrics(None)) == []


@pytest.mark.slow
def test_end_to_end(tmp_path: Path) -> None:
    """A reward is learned from pairs whose rule is known, and each objective raises a judge that was never trained on.

    The judge is the rule itself. A reward that has learned nothing does not raise it, the divergence stays below a
    bound, and what the base knew of language does not collapse.
    """
    base = preferring.assistant(tmp_path / "base")
    reward = preferring.rewarded(base, tmp_path / "reward")
    assert reward.evaluate(preferring.pairs(100, 5))["accuracy"] > 0.95
    blind = preferring.rewarded(base, tmp_path / "blind", steps=1, lr=1e-9)
    held = preferring.chats(60, 9)
    knew = base.evaluate(held, answered=0)["loss"]
    begun = preferring.polite(base)
    assert 0.25 < begun < 0.75

    def tuned(kind: str, by: Run, name: str) -> Run:
        return fourfold.fit(
            "rlhf", preferring.PROMPTS * 8, out=tmp_path / name, from_=base, reward=str(by.folder), judge="regex:please",
            objective=kind, lr=3e-4, beta=0.3, epochs=6 if kind == "ppo" else 3, evaluate_every="20%",
            **{"data.prompts": 10, "data.answers": 8, "data.passes": 2, "data.batch": 40, "data.tokens": 24, "data.split": (1, 0, 0)},
        )  # fmt: skip

    for kind in KINDS:
        run = tuned(kind, reward, kind)
        assert preferring.polite(run) > begun + 0.2, kind
        measured = run.evaluate(preferring.PROMPTS)
        assert measured["divergence"] < 10, kind
        after = fourfold.fit(
            "sft", held, out=False, from_=run, steps=1, lr=1e-30, **{"data.split": (0.5, 0.5, 0)}
        )
        assert after.evaluate(held, answered=0)["loss"] < knew + 0.7, kind
    control = tuned("grpo", blind, "control")
    assert preferring.polite(control) < begun + 0.2
    again = tuned("grpo", reward, "again")
    first = fourfold.open(tmp_path / "grpo").model.state_dict()
    assert all(
        torch.equal(tensor, first[name]) for name, tensor in again.model.state_dict().items()
    )


def test_runs_are_compared_by_a_judge(base: Run, reward: Run, tmp_path: Path) -> None:
    """Rewards are the judge's own, win rates are counted, and the tuned run is asked in its chat template."""
    from fourfold.selection.comparison import compare
    from fourfold.tasks.comparing import judged

    run = fit(base, "regex:please", out=tmp_path / "run", steps=8)
    found = compare([base, run], preferring.PROMPTS, tokens=16, temperature=1.0, judge=reward)
    texts = [row["prompt"] for row in preferring.PROMPTS]
    before, after = (judged(reward, texts, said) for said in found.answers)
    assert found.measures["reward"] == pytest.approx([sum(before) / 10, sum(after) / 10])
    wins = sum((b > a) + 0.5 * (b == a) for a, b in zip(before, after, strict=True)) / 10
    assert found.measures["win rate"] == [None, pytest.approx(wins)]
    assert found.answers[1][0] == "".join(run.chat(texts[0], tokens=16, temperature=1.0, seed=0))
    assert found.measures["KL from the base"][0] == 0 < (found.measures["KL from the base"][1] or 0)


DATA = os.environ.get("FOURFOLD_DATA")


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="needs FOURFOLD_DATA")
@pytest.mark.parametrize("name", ["hh-harmless-test", "dpo-en"])
@pytest.mark.parametrize("system", ["reward", "dpo"])
def test_the_catalogs_preferences_are_read_and_learned(system: str, name: str) -> None:
    """A short fit from nothing: the loss on what was learned from falls below log 2, that of not knowing."""
    run = fourfold.fit(
        system, name, out=False, layers=2, width=64, steps=40, lr=3e-3, log_every="1",
        data={"window": 256, "long": "drop", "vocabulary": 2000, "batch": 8, "faulty": "drop"},
    )  # fmt: skip
    losses = [line["loss"] for line in run.metrics.lines if "loss" in line]
    assert sum(losses[-10:]) / 10 < math.log(2)
    assert any("left out" in note for note in run.data.summary()["notes"])
    assert 0 <= run.evaluate()["accuracy"] <= 1


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="needs FOURFOLD_DATA")
def test_worked_problems_are_answered_and_rewarded() -> None:
    """GSM8K by its exact answers: nothing is learned in three steps, and every group that is alike is counted."""
    run = fourfold.fit(
        "rlhf", "gsm8k-test", out=False, reward="exact-answer", layers=1, width=32, steps=3, log_every="1",
        data={"window": 192, "vocabulary": 600, "prompts": 4, "answers": 2, "tokens": 16, "batch": 8, "most": 8},
    )  # fmt: skip
    data = run.data
    assert isinstance(data, ExperienceData) and data.answering is not None
    assert any("are left out" in note for note in data.summary()["notes"])
    first = [line for line in run.metrics.lines if "reward" in line]
    assert len(first) == 3 and all(0 <= line["reward"] <= 1 for line in first)
    assert all(line["reward"] > 0 or line["groups_alike"] == 1 for line in first)
    prompts = list(data.prompts("train"))[:3]
    rights = [
        str(prompt.row["answer"]) for prompt in prompts
    ]  # their worked answers end in #### and the number
    assert data.answering.rewards(prompts, [], rights) == [1.0] * 3
    assert data.answering.rewards(prompts, [], [f"{r}9" for r in rights]) == [0.0] * 3
