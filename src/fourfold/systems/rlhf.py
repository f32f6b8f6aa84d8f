"""Reinforcement learning from human feedback: Ziegler et al. 2019, Ouyang et al. 2022; PPO: Schulman et al. 2017; GRPO:
Shao et al. 2024; RLOO: Ahmadian et al. 2024.

    fourfold fit rlhf prompts.jsonl --from runs/sft --reward runs/reward
    fourfold fit rlhf prompts.jsonl --from runs/sft --reward runs/reward --objective ppo
    fourfold fit rlhf gsm8k.jsonl --from runs/sft --reward exact-answer
    fourfold evaluate runs/rlhf prompts.jsonl
    fourfold chat runs/rlhf

The policy answers prompts, a reward run, a built-in reward or a function scores the answers, and better ones become likelier,
while the policy is held near the reference that it was begun from.

Result: polite answers go from 48% to 97% with GRPO in 3 epochs over 80 prompts of the small world of tests/preferring.py, which no
reward model was asked for (28 s on one busy core; 4.1 nats from the reference); RLOO 97%, the difference 99%, PPO 98% in 6
epochs: `pytest -m slow tests/systems/test_rlhf.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.signatures import extends
from fourfold.core.system import system
from fourfold.core.types import Table
from fourfold.data.experience import Experience, ExperienceData
from fourfold.models.reward import value_head
from fourfold.models.transformer import Transformer
from fourfold.objectives.policy import GRPO, PPO, RLOO, Difference
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.policy_health import warnings_of
from fourfold.tasks.preferring import Preferring
from fourfold.tasks.rolling_out import RollOut, is_run, scorer


@system("rlhf", reads="prompts")
class RLHF(Preferring):
    """Tune a language model on rewards of its own answers."""

    exempt: ClassVar[dict[str, str]] = {
        "accumulation": "a step's answers are drawn by the policy that the step before left"
    }
    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {"layers": 4, "width": 128},
        "demo": {},
        "large": {"optimizer.lr": 1e-6, "data.batch": 8, "optimizer.accumulate": 8},
    }

    data: Experience = Experience()
    reward: str | None = None
    """What is learned from: a run of reward, exact-answer, json, length, regex:PATTERN, or module:function."""
    judge: str | None = None
    """What is only measured with, on held-out prompts: another reward, that shows whether the first is only gamed."""
    objective: Annotated[PPO | GRPO | RLOO | Difference, Field(discriminator="kind")] = GRPO()
    optimizer: Gradient = Gradient(
        lr=2e-5,
        epochs=1,
        warmup=0.05,
        clip=1.0,
        schedule="constant",
        evaluate_every="10%",
        log_every="1",
    )

    def build(self, data: Data) -> Any:
        """The policy, for PPO with a value of each position; what answers and scores goes to the data."""
        model = self.network(data)
        if isinstance(self.objective, PPO):
            model.value = value_head(model.width)
        data.unit = "answers" if self.objective.per == "answer" else "tokens of answers"
        if isinstance(data, ExperienceData) and self.reward is not None:
            compared = self.objective.reference if self.objective.compares else None
            if self.objective.compares and compared is None:
                raise UserError("--objective difference: compares with the reference's own answers, and there is none; --from RUN names it")  # fmt: skip
            data.answering = RollOut(data, self.reward, self.judge, compared)
        return model

    def suited(self, run: Run) -> Self:
        """Refuses a fit without a reward, or with one that is not there.

        Raises:
            UserError: no reward, or one that cannot score this policy's answers.
        """
        if self.reward is None:
            raise UserError("--reward: there is none; a run of reward, exact-answer, json, length, regex:PATTERN or module:function")  # fmt: skip
        chosen = super().suited(run)
        assert isinstance(run.data, ExperienceData)  # noqa: S101
        places = {}
        for field in ("reward", "judge"):
            name = getattr(self, field)
            if name is None:
                continue
            scorer(name, run.data)
            if is_run(name):
                places[field] = str(Run.open(name).folder)
        if self.objective.kind in ("grpo", "rloo") and self.data.answers < 2:
            raise UserError(f"--data.answers {self.data.answers}: {self.objective.kind} compares the answers to a prompt; take 2 or more")  # fmt: skip
        return chosen.model_copy(update=places)

    def take_over(self, model: nn.Module, other: Run) -> None:
        """See `System.take_over`; a value begins anew where the other run has none."""
        value = getattr(model, "value", None)
        if value is None or hasattr(other.model, "value"):
            super().take_over(model, other)
            return
        del model.value
        try:
            super().take_over(model, other)
        finally:
            model.value = value

    def begin(self, run: Run) -> None:
        """See `System.begin`."""
        super().begin(run)
        if self.data.temperature != 1:
            run.note(f"Answers are drawn at temperature {self.data.temperature:g}, and learned from as if at 1.")  # fmt: skip

    def finish(self, run: Run) -> None:
        """See `System.finish`: what went wrong while it learned, in words."""
        super().finish(run)
        for sentence in warnings_of(run.metrics):
            run.note(sentence)

    def drawn(self) -> dict[str, str]:
        """See `Preferring.drawn`."""
        return {
            "reward": "reward", "valid.reward": "reward, held-out", "valid.judge": "judge, held-out",
            "valid.divergence": "KL to the reference, nats", "length": "tokens of an answer", "entropy": "entropy, nats",
            "clipped": "share clipped", "groups_alike": "groups all alike, share", "explained_variance": "explained variance",
        }  # fmt: skip

    def tables(self, run: Run) -> Iterator[Table]:
        """What went wrong, then held-out prompts."""
        found = warnings_of(run.metrics)
        if found:
            yield Table("Warnings", ("what",), tuple((sentence,) for sentence in found))
        yield from super().tables(run)

    @extends(Preferring.export)
    def export(self, run: Run, **given: Any) -> Path:
        """Write the policy in another library's format, without the value; see the same verb of gpt."""
        model = run.model
        value = model._modules.pop("value", None)
        assert isinstance(model, Transformer)  # noqa: S101
        try:
            return super().export(run, **given)
        finally:
            if value is not None:
                model.value = value

    @classmethod
    def toy(cls) -> tuple[RLHF, Any]:
        """Two narrow layers, from nothing, rewarded for the letter e."""
        rows = [{"prompt": f"{a} or {b}?"} for a in range(6) for b in range(6)]
        small = cls(
            data=Experience(
                unit="character", window=64, prompts=4, answers=4, batch=8, passes=2, tokens=8, split=(1, 0, 0)
            ),
            reward="regex:e", layers=2, width=32, heads=2, kv_heads=1,
            optimizer=Gradient(lr=3e-3, steps=12, schedule="constant", log_every="1"),
        )  # fmt: skip
        return small, rows
