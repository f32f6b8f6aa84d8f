"""Reward model: Bradley and Terry 1952 on a language model's body: Stiennon et al. 2020, Ouyang et al. 2022.

    fourfold fit reward pairs.jsonl --from runs/sft
    fourfold evaluate runs/reward pairs.jsonl
    fourfold score runs/reward dialogue.json

Result: right on 100 of 100 held-out pairs of the small world of tests/preferring.py (answers that close politely or not) after
3 epochs over 300 pairs, 7 s on one core: the first lines of `pytest -m slow tests/systems/test_rlhf.py`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.data.preferences import Preferences
from fourfold.models.adapters import merged
from fourfold.models.reward import RewardModel
from fourfold.objectives.preference import RewardLoss
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.decoder_only import DecoderOnly
from fourfold.tasks.rewarding import Rewarding


@system("reward", reads="preferences")
class Reward(DecoderOnly, Rewarding):
    """Learn which of two answers is better: a number for each answer."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {"layers": 4, "width": 128},
        "demo": {},
        "large": {"optimizer.lr": 1e-5, "data.batch": 4, "optimizer.accumulate": 4},
    }

    data: Preferences = Preferences()
    objective: RewardLoss = RewardLoss()
    optimizer: Gradient = Gradient(lr=1e-4, epochs=2, warmup=0.05, clip=1.0)

    def build(self, data: Data) -> RewardModel:
        """A language model's body with a reward on top."""
        return RewardModel(self.network(data))

    def take_over(self, model: nn.Module, other: Run) -> None:
        """See `System.take_over`: of a language model the body is taken over, and the reward begins anew."""
        if isinstance(other.system, Reward):
            super().take_over(model, other)
            return
        assert isinstance(model, RewardModel)  # noqa: S101
        weights = merged(other.model).state_dict()
        model.begin_from({n: t for n, t in weights.items() if not n.startswith("value.")})

    def begin(self, run: Run) -> None:
        """See `System.begin`."""
        super().begin(run)
        if "from" not in run.about:
            run.note("Begun from nothing: the model learns its language from these answers alone; --from RUN begins from a model that knows one.")  # fmt: skip

    @classmethod
    def toy(cls) -> tuple[Reward, Any]:
        """Two narrow layers, from nothing: polite answers are better."""
        rows = [
            {"prompt": f"{a} or {b}?", "chosen": f"{a}, please.", "rejected": f"{b}, now!"}
            for a in range(10)
            for b in range(10)
        ]
        small = cls(
            data=Preferences(unit="character", window=64, batch=16), layers=2, width=32, heads=2, kv_heads=1,
            optimizer=Gradient(lr=3e-3, steps=12),
        )  # fmt: skip
        return small, rows
