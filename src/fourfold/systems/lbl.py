"""Log-bilinear language model: Mnih and Hinton 2007.

    fourfold fit lbl wiki.txt --minutes 5
    fourfold fit lbl wiki.txt --context 8 --diagonal
    fourfold similar runs/lbl-1 France ; fourfold export runs/lbl-1 --to word2vec

Result: perplexity 146.9 on the last twentieth but one of WikiText-2's validation part after three passes over its first
nine tenths, where modified Kneser-Ney of order 5 has 171.6 (--unit space --data.vocabulary 10000 --data.min-count 1
--optimizer.epochs 3, seed 0).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Lt
from pydantic import Field, PositiveInt
from torch import nn

from fourfold.core.parts import Data
from fourfold.core.system import system
from fourfold.data.text import Text
from fourfold.models.log_bilinear import LogBilinear
from fourfold.objectives.vocabulary import Contrast, Sampled, Softmax
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.contexts import ContextModel
from fourfold.tasks.language import text_data
from fourfold.tasks.vocabulary import output_layer


@system("lbl", reads="text")
class LogBilinearModel(ContextModel):
    """The next word's vector predicted linearly from the vectors of the few before it."""

    search_space: ClassVar[dict[str, str]] = {
        "optimizer.lr": "5e-4..1e-2:log",
        "width": "64..512:log",
        "dropout": "0.1..0.6",
        "data.context": "2..8",
    }

    data: Text = Text(unit="word", min_count=2, window=64, context=5, batch=32)
    width: PositiveInt = 200
    """Features of a word's vector."""
    diagonal: bool = False
    """Whether a place of the context weighs each feature by itself, instead of by a matrix."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.4
    """Share of the features of context and prediction left out while learning."""
    objective: Annotated[Softmax | Sampled | Contrast, Field(discriminator="kind")] = Sampled()
    """How learning looks at the vocabulary; measures are exact whichever it is."""
    optimizer: Gradient = Gradient(
        lr=8e-3, minutes=3, schedule="wsd", warmup=50, decay_from=0.4, final=0.02
    )

    def build(self, data: Data) -> LogBilinear:
        """One set of vectors with biases, and a matrix for each place of the context."""
        vocabulary = text_data(data).vocabulary
        vectors = nn.Embedding(len(vocabulary), self.width)
        head = output_layer(self.objective, vocabulary.counts, self.width, rows=vectors)
        return LogBilinear(
            vectors, head, self.data.context, diagonal=self.diagonal, dropout=self.dropout
        )

    @classmethod
    def toy(cls) -> tuple[LogBilinearModel, Any]:
        """Sums in words."""
        sums = [f"{a} and {b} make {a + b}." for a in range(20) for b in range(20)]
        small = cls(
            data=Text(unit="word", window=16, context=3, batch=32),
            width=16,
            dropout=0.0,
            optimizer=Gradient(lr=3e-3, steps=12),
        )
        return small, {"text": ["\n".join(sums)]}
