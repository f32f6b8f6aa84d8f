"""Roll-outs: what is answered when, what a batch holds, and a stop in the middle of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fourfold.core.errors import UserError
from fourfold.data.experience import Experience, ExperienceData
from fourfold.data.text import Text

LETTERS = "".join(map(chr, range(32, 127))) + "\n"
ROWS = [{"prompt": f"Say {i}.", "answer": str(i)} for i in range(10)]


class Scripted:
    """Answers with random digits, of random length; a longer answer is better."""

    def __init__(self, data: ExperienceData, compares: bool = False) -> None:
        self.data, self.compares = data, compares
        self.asked: list[tuple[int, int]] = []

    def answers(self, model: nn.Module, prompts: Sequence[Sequence[int]], seed: int) -> list[np.ndarray]:  # fmt: skip
        assert not model.training
        self.asked.append((len(prompts), seed))
        random = np.random.default_rng(seed)
        digits = self.data.vocabulary.encode("0123456789")
        return [
            np.append(
                digits[random.integers(10, size=random.integers(1, 6))], self.data.vocabulary.end
            )
            for _ in prompts
        ]

    def rewards(self, prompts: Any, answers: Any, texts: Sequence[str]) -> list[float]:
        assert all(text.isdigit() for text in texts) and len(texts) == len(answers) == len(prompts)
        assert all(prompt.turns[-1].content == prompt.row["prompt"] for prompt in prompts)
        return [float(len(text)) for text in texts]

    def judged(self, prompts: Any, answers: Any, texts: Sequence[str]) -> list[float]:
        return [-float(len(text)) for text in texts]

    def reference(self, prompts: Sequence[Sequence[int]], seed: int) -> list[np.ndarray] | None:
        return self.answers(nn.Identity().eval(), prompts, seed) if self.compares else None


def opened(compares: bool = False, **options: Any) -> ExperienceData:
    language = Text(unit="character", window=96).open({"text": [LETTERS * 12]})
    options = {"prompts": 3, "answers": 4, "passes": 2, "batch": 5, "split": (1, 0, 0)} | options
    data = Experience(**options).adopt(language, ROWS, seed=1)
    assert data is not None
    data.answering = Scripted(data, compares)
    return data


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_every_prompt_is_answered_once_an_epoch_and_every_answer_once_a_pass() -> None:
    data = opened(compares=True)
    model = nn.Linear(1, 1)
    batches = list(data.batches("train", epoch=0, model=model))
    assert (
        len(batches) == data.length("train", 0) == 2 * (3 + 3 + 3 + 1)
    )  # 12, 12, 12 and 4 answers by fives
    rolls: dict[int, list[Any]] = {}
    for batch in batches:
        rolls.setdefault(int(batch["roll"]), []).append(batch)
    assert [len(r) for r in rolls.values()] == [6, 6, 6, 2] and model.training
    prompts = []
    for each in rolls.values():
        rewards = each[0]["rewards"]
        assert rewards.shape[1] == 4 and each[0]["others"].shape == rewards.shape
        seen = torch.cat([batch["which"] for batch in each]).tolist()
        assert sorted(seen) == sorted(list(range(rewards.numel())) * 2)
        assert each[0]["which"].tolist() != each[len(each) // 2]["which"].tolist() or len(each) == 2
        for batch in each:
            assert int(batch["answers"]) == len(batch["which"])
            for place, number in enumerate(batch["which"].tolist()):
                here, whole = batch["segments"] == place, batch["roll_segments"] == number
                assert torch.equal(batch["tokens"][here], batch["roll_tokens"][whole])
                targets = batch["targets"][here]
                # the answer and its end count: a reward is the answer's length
                assert int((targets >= 0).sum()) == int(rewards.flatten()[number]) + 1
        for number in range(0, rewards.numel(), 4):
            tokens = each[0]["roll_tokens"][each[0]["roll_segments"] == number]
            prompts.append(data.vocabulary.decode(tokens).split("Say ")[1].split(".")[0])
    assert sorted(prompts, key=int) == [str(i) for i in range(10)]


@pytest.mark.parametrize("stopped", [1, 4, 6, 7, 20])
def test_stopped_anywhere_it_goes_on_with_the_same_answers(stopped: int) -> None:
    model = nn.Linear(1, 1)
    whole = list(opened().batches("train", epoch=3, model=model))
    first = opened()
    batches = first.batches("train", epoch=3, model=model)
    begun = [next(batches) for _ in range(stopped)]
    again = opened()
    again.load_state_dict(first.state_dict())
    rest = list(again.batches("train", epoch=3, model=model))
    assert len(begun) + len(rest) == len(whole)
    assert all(map(same, begun + rest, whole))
    in_the_middle = stopped not in (6, 20) and again.answering.asked  # type: ignore[union-attr]
    if in_the_middle:  # what was being learned from is not answered again
        assert len(again.answering.asked) == 4 - 1 - (stopped - 1) // 6  # type: ignore[union-attr]


def test_another_epoch_has_other_answers_and_measurements_have_the_same() -> None:
    data, model = opened(split=(0.5, 0.5, 0)), nn.Linear(1, 1)
    one, two = (next(iter(data.batches("train", epoch=e, model=model))) for e in (0, 1))
    assert not same(one, two)
    measured = [list(data.batches("valid", model=model)) for _ in range(2)]
    assert all(map(same, *measured))
    assert sum(len(batch["rewards"]) for batch in measured[0]) == data.size("valid") == 5
    assert torch.equal(measured[0][0]["judged"], -measured[0][0]["rewards"])
    assert len(measured[0]) == data.length("valid")


def test_saved_and_restored(tmp_path: Path) -> None:
    data = opened()
    data.save(tmp_path)
    again = data.options.restore(tmp_path).reopen(ROWS, seed=1)
    assert again.fingerprint == data.fingerprint
    again.answering = Scripted(again)
    one, other = (next(iter(d.batches("train", epoch=0, model=nn.Identity()))) for d in (data, again))  # fmt: skip
    assert same(one, other)


def test_prompts_without_room_are_told() -> None:
    language = Text(unit="character", window=96).open({"text": [LETTERS * 12]})
    rows = [*ROWS, {"prompt": "q" * 200}]
    found = Experience(split=(1, 0, 0)).adopt(language, rows)
    assert found is not None and found.size("train") == 10
    assert "1 prompts longer than 32 tokens are left out" in found.summary()["notes"][0]
    cut = Experience(split=(1, 0, 0), long="cut").adopt(language, rows)
    assert cut is not None and max(len(p.tokens) for p in cut.prompts("train")) == 32
    with pytest.raises(UserError, match="row 11: the prompt has .* leave 32; --data.long"):
        Experience(long="error").adopt(language, rows)
    with pytest.raises(UserError, match="leave no room"):
        Experience(tokens=96).adopt(language, rows)
    with pytest.raises(UserError, match="row 2: .*expected a field prompt"):
        Experience().adopt(language, [{"prompt": "a"}, {"text": "b"}])
