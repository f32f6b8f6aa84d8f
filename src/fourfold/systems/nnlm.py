"""Neural probabilistic language model: Bengio, Ducharme, Vincent and Janvin 2003.

    fourfold fit nnlm wiki.txt --minutes 5
    fourfold fit nnlm wiki.txt --context 4 --direct --objective adaptive
    fourfold generate runs/nnlm-1 "The meaning of" ; fourfold score runs/nnlm-1 chapter.txt --per-token

Result: perplexity 152.9 on the last twentieth but one of WikiText-2's validation part after three passes over its first
nine tenths, where modified Kneser-Ney of order 5 has 171.6 (--unit space --data.vocabulary 10000 --data.min-count 1
--optimizer.epochs 3, seed 0).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Lt
from pydantic import PositiveInt

from fourfold.core.parts import Data
from fourfold.core.system import system
from fourfold.data.text import Text
from fourfold.models.nnlm import NeuralLanguageModel
from fourfold.objectives.vocabulary import Sampled, VocabularyObjective
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.contexts import ContextModel
from fourfold.tasks.language import text_data
from fourfold.tasks.vocabulary import output_layer


@system("nnlm", reads="text")
class NeuralProbabilistic(ContextModel):
    """The next word from the vectors of the few before it, through a layer of hidden units."""

    search_space: ClassVar[dict[str, str]] = {
        "optimizer.lr": "5e-4..1e-2:log",
        "width": "64..256:log",
        "hidden": "64..512:log",
        "dropout": "0.1..0.6",
        "data.context": "2..8",
    }

    data: Text = Text(unit="word", min_count=2, window=64, context=5, batch=32)
    width: PositiveInt = 128
    """Features of a word's vector as context."""
    hidden: PositiveInt = 256
    """Hidden units, and features of a word's vector as what is predicted."""
    direct: bool = False
    """Whether the context's vectors also lead directly to the output."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.4
    """Share of vectors' and hidden units' features left out while learning."""
    objective: VocabularyObjective = Sampled()
    """How learning looks at the vocabulary. sampled is as good as softmax and several times as fast; measures are exact
    whichever it is."""
    optimizer: Gradient = Gradient(
        lr=4e-3, minutes=3, schedule="wsd", warmup=50, decay_from=0.4, final=0.02
    )

    def build(self, data: Data) -> NeuralLanguageModel:
        """Vectors, a hidden layer and the output layer that the objective needs, for this vocabulary and context."""
        vocabulary, context = text_data(data).vocabulary, self.data.context
        columns = NeuralLanguageModel.features(self.width, self.hidden, context, direct=self.direct)
        return NeuralLanguageModel(
            len(vocabulary),
            output_layer(self.objective, vocabulary.counts, columns),
            self.width,
            self.hidden,
            context,
            direct=self.direct,
            dropout=self.dropout,
        )

    @classmethod
    def toy(cls) -> tuple[NeuralProbabilistic, Any]:
        """Sums in words."""
        sums = [f"{a} and {b} make {a + b}." for a in range(20) for b in range(20)]
        small = cls(
            data=Text(unit="word", window=16, context=3, batch=32),
            width=16,
            hidden=24,
            dropout=0.0,
            optimizer=Gradient(lr=3e-3, steps=12),
        )
        return small, {"text": ["\n".join(sums)]}
