"""Supervised fine-tuning on conversations: Ouyang et al. 2022 (InstructGPT), step 1; Wei et al. 2022 (FLAN).

    fourfold fit sft chats.jsonl --from runs/base
    fourfold fit sft alpaca --from runs/base --adapter lora
    fourfold chat runs/sft
    fourfold generate runs/sft @article.txt --task summarize
    fourfold evaluate runs/sft test.jsonl --base

A language model goes on with conversations in its chat template; of the next tokens only the assistant's count.
Conversations are packed into rows without seeing one another.

Result: a character model of 4 layers x 128 after 500 steps on the embedded text, tuned for 3 epochs on 1,200 exchanges
with --replay 0.1, answers 200 held-out prompts in the form that was shown, "Letter: X." (ROUGE-L 0.645), 29% of them
rightly; 2.17 bits per byte of its text became 2.30: tests/systems/test_sft_end_to_end.py.
"""

from __future__ import annotations

from typing import Any, ClassVar

from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.data.conversations import Conversations
from fourfold.objectives.likelihood import NextToken
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.chatting import Chatting

LARGE = 100_000_000
"""Weights from which a model asks for a smaller learning rate."""
USUAL = 1e-4
"""Largest learning rate that is usual for all weights of such a model."""


@system("sft", reads="conversations")
class SFT(Chatting):
    """Tune a language model on conversations: it learns what the assistant says."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {"layers": 4, "width": 128},
        "demo": {},
        "large": {"optimizer.lr": 2e-5, "data.batch": 4, "optimizer.accumulate": 4},
    }

    data: Conversations = Conversations()
    objective: NextToken = NextToken()
    optimizer: Gradient = Gradient(lr=3e-4, epochs=3, warmup=0.03, clip=1.0)

    def begin(self, run: Run) -> None:
        """See `System.begin`: a beginning from nothing, and a rate that is large for this model."""
        super().begin(run)
        if "from" not in run.about:
            run.note(
                "Begun from nothing: the model learns its language from these conversations alone; --from RUN begins from a "
                "model that knows one."
            )
        weights = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
        if weights > LARGE and self.optimizer.lr > USUAL:
            run.note(
                f"lr {self.optimizer.lr:g} is large for {weights / 1e6:,.0f} million weights; --size large takes 2e-5."
            )

    @classmethod
    def toy(cls) -> tuple[SFT, Any]:
        """Two narrow layers, from nothing, on sums."""
        sums = [
            {"question": f"{a} and {b}?", "answer": f"They make {a + b}."}
            for a in range(16)
            for b in range(16)
        ]
        small = cls(
            data=Conversations(unit="character", window=96, batch=32),
            layers=2,
            width=32,
            heads=2,
            kv_heads=1,
            optimizer=Gradient(lr=3e-3, steps=12),
        )
        return small, sums
