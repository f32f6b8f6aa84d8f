"""Cross-encoder that reads a question and a passage together: Nogueira and Cho 2019, arXiv 1901.04085.

    fourfold fit reranker pairs.jsonl --from runs/bert --out runs/reranker
    fourfold find kb "how is a run resumed?" --rerank runs/reranker
    fourfold score runs/reranker "how is a run resumed?" "A run is resumed by --resume."

Rows of pairs have a question and a passage that answers it, and perhaps a negative.

Result: fitted from nothing on 80 pairs of a number in digits and the same in words, 20 of 20 held-out questions have their
passage first among 100, where no word is shared: 28 s of one core, the pairs of `tests/systems/test_embedder.py` with
--layers 2 --width 32 --heads 2 --unit word --window 8 --batch 20 --candidates 8 --steps 1500 --lr 3e-3.
"""

from __future__ import annotations

from typing import Any

from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.core.types import Document, Score
from fourfold.data.question_pairs import RankedPairs
from fourfold.models.sentence_encoder import CrossEncoder
from fourfold.objectives.ranking import Listwise
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.on_bert import OnBert
from fourfold.tasks.reranking import pair_scores


@system("reranker", reads="pairs of question and passage")
class Reranker(OnBert):
    """Learn to say how well a passage answers a question, reading both together."""

    data: RankedPairs = RankedPairs(batch=16)
    objective: Listwise = Listwise()
    optimizer: Gradient = Gradient(lr=2e-4, epochs=3, warmup=0.1, clip=1.0)

    def build(self, data: Data) -> CrossEncoder:
        """An encoder with one number on top."""
        return CrossEncoder(self.body(data))

    def score(self, run: Run, question: str, passage: Document) -> Score:
        """How well a passage answers a question; only differences between passages mean anything.

        Args:
            question: in words.
            passage: one text.
        """
        return Score({"score": float(pair_scores(run, question, [passage])[0])})

    @classmethod
    def toy(cls) -> tuple[Reranker, Any]:
        """Two narrow layers on sums in words."""
        pairs = [
            {"question": f"{a} and {b}?", "passage": f"{a} and {b} make {a + b}."}
            for a in range(10)
            for b in range(10)
        ]
        small = cls(
            data=RankedPairs(unit="character", window=24, batch=16, candidates=3), layers=2, width=32, heads=2,
            optimizer=Gradient(lr=3e-3, steps=12),
        )  # fmt: skip
        return small, pairs
