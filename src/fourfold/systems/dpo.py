"""Direct preference optimization: Rafailov et al. 2023; IPO: Azar et al. 2023; KTO: Ethayarajh et al. 2024.

    fourfold fit dpo pairs.jsonl --from runs/sft
    fourfold fit dpo pairs.jsonl --from runs/sft --objective ipo
    fourfold evaluate runs/dpo pairs.jsonl
    fourfold chat runs/dpo

The policy is its own reward model: beta log p / p_ref is the reward of an answer, and the preferred one's is raised above
the other's, without a reward model and without drawing answers.

Result: in the small world of tests/preferring.py, 2 epochs over 300 pairs (5 s of one core): DPO and KTO are right on 92 of 100
held-out pairs, IPO on 97; of drawn answers 48% are polite before, 56% after DPO, 73% after KTO and 34% after IPO, which cares for
margins alone.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field

from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.data.preferences import Preferences
from fourfold.objectives.preference import DPO, IPO, KTO
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.preferring import Preferring


@system("dpo", reads="preferences")
class DirectPreference(Preferring):
    """Tune a language model on pairs of answers, directly."""

    exempt: ClassVar[dict[str, str]] = {}
    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {"layers": 4, "width": 128},
        "demo": {},
        "large": {"optimizer.lr": 1e-6, "data.batch": 2, "optimizer.accumulate": 8},
    }

    data: Preferences = Preferences()
    objective: Annotated[DPO | IPO | KTO, Field(discriminator="kind")] = DPO()
    optimizer: Gradient = Gradient(lr=5e-5, epochs=2, warmup=0.1, clip=1.0)

    def build(self, data: Data) -> Any:
        """A language model; KTO counts answers, the others pairs."""
        data.unit = "answers" if isinstance(self.objective, KTO) else "pairs"
        return super().build(data)

    def suited(self, run: Run) -> Self:
        """KTO's baseline needs prompts with the answers to others."""
        chosen = super().suited(run)
        if isinstance(chosen.objective, KTO) and not chosen.data.others:
            data = chosen.data.model_copy(update={"others": True})
            run.data.options = data  # type: ignore[attr-defined]
            chosen = chosen.model_copy(update={"data": data})
        return chosen

    def drawn(self) -> dict[str, str]:
        """See `Preferring.drawn`."""
        return {
            "loss": "loss", "valid.loss": "loss, validation", "accuracy": "accuracy", "valid.accuracy": "accuracy, validation",
            "margin": "margin, nats", "chosen": "reward of chosen", "rejected": "reward of rejected",
        }  # fmt: skip

    @classmethod
    def toy(cls) -> tuple[DirectPreference, Any]:
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
