"""Recurrent encoder-decoder: Sutskever et al. 2014; Cho et al. 2014; with attention: Bahdanau et al. 2015; Luong et al. 2015.

    fourfold fit seq2seq train.en train.de --valid val.en,val.de --out runs/mt
    fourfold translate runs/mt "A man rides a bicycle." --beam 5
    fourfold evaluate runs/mt test.en test.de

Result: 32.0 BLEU (sacreBLEU 13a) with dot products and 25.8 without attention on Multi30k en-de's test set of 2016, after 12
epochs (24 processor minutes) each: benchmarks/results/translate.json. On the embedded numbers and dates 88.4 and 93.3 BLEU after one processor minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Lt
from pydantic import PositiveInt

from fourfold.core.errors import UserError
from fourfold.core.evaluation import to_device
from fourfold.core.parts import Batch, Data, Split
from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.core.types import Picture
from fourfold.data.pairs import Pairs, pair_data
from fourfold.look.attention import LONGEST, attention_maps
from fourfold.models.decoding import Stepper
from fourfold.models.recurrent import Cell
from fourfold.models.seq2seq import Attending, Seq2Seq, stepper_of
from fourfold.objectives.sequence import TargetToken
from fourfold.optimizers.gradient import Gradient
from fourfold.optimizers.precision import Precision
from fourfold.tasks.translation import Translator

EXAMPLES = 50
"""Held-out pairs of which the report looks into the one with the longest source."""


@system("seq2seq", reads="pairs")
class Sequences(Translator):
    """Make one sequence of another, as a translation of a sentence: a recurrent encoder and decoder."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {"width": 128, "embedding": 128},
        "small": {},
        "medium": {"width": 512, "embedding": 384, "optimizer.minutes": 60},
        "large": {"width": 1000, "embedding": 620, "layers": 2, "optimizer.minutes": 600},
    }
    exempt: ClassVar[dict[str, str]] = {
        "accumulation": "batches are made by tokens: 4 of 8 hold other pairs than 1 of 32"
    }
    search_space: ClassVar[dict[str, str]] = {
        "optimizer.lr": "5e-4..5e-3:log",
        "width": "128..512:log",
        "layers": "1..2",
        "dropout": "0.1..0.5",
    }

    data: Pairs = Pairs()
    cell: Cell = "gru"
    """The recurrence of encoder and decoder."""
    attention: Attending = "dot"
    """How the decoder looks at the source: not at all but through one fixed vector (none), before each step with a
    small network for scores (additive), or after it with dot products, for all steps at once while learning (dot)."""
    width: PositiveInt = 256
    """Features of a state; the encoder has as many in each direction."""
    embedding: PositiveInt = 256
    """Size of the word vectors."""
    layers: PositiveInt = 1
    """Recurrent layers of the encoder and of the decoder."""
    tied: bool = True
    """Whether the output layer's rows are the target's word vectors."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.3
    """Share of features left out while training: of word vectors, between layers, before the output."""
    objective: TargetToken = TargetToken(smoothing=0.1)
    optimizer: Gradient = Gradient(
        lr=2e-3,
        minutes=5,
        schedule="wsd",
        warmup=50,
        decay_from=0.5,
        final=0.02,
        clip=1.0,
        compile=False,  # batches differ in length: each would be compiled anew
    )

    def build(self, data: Data) -> Seq2Seq:
        """A network for these vocabularies."""
        pairs = pair_data(data)
        return Seq2Seq(
            self.cell,
            pairs.source_size,
            pairs.target_size,
            shared=pairs.shared,
            embedding=self.embedding,
            width=self.width,
            layers=self.layers,
            attention=self.attention,
            tied=self.tied,
            dropout=self.dropout,
        )

    def stepper(self, run: Run, precision: Precision = "float32") -> Stepper:
        """See `Translator.stepper`."""
        if precision == "bfloat16":
            raise UserError(
                "--precision bfloat16: seq2seq translates in float32; expected float32 or auto"
            )
        model = run.model
        if not isinstance(model, Seq2Seq):
            raise TypeError(f"seq2seq expects Seq2Seq, got {type(model).__name__}")
        return stepper_of(model)

    def pictures(self, run: Run) -> Iterator[Picture]:
        """What every translating system shows, and where the output of a held-out source looked."""
        yield from super().pictures(run)
        data = pair_data(run.examples())
        splits: tuple[Split, ...] = ("valid", "test", "train")
        split = next(s for s in splits if data.size(s))
        lengths = data.texts(split)[0][:EXAMPLES]
        longest = max(range(len(lengths)), key=lambda n: len(lengths[n]))
        example, _ = self._example(run, lengths[longest])
        batch = next(data.reopen(example, whole=True).batches("test"))
        yield from self._maps(run, to_device(batch, run.device))

    def _maps(self, run: Run, batch: Batch) -> list[Picture]:
        """Where each step of the first example's target looked in the source."""
        model, data = run.model, pair_data(run.data)
        if not isinstance(model, Seq2Seq) or model.attention == "none":
            return []
        length, time = int(batch["source_lengths"][0]), int((batch["targets"][0] >= 0).sum())
        with torch.no_grad():
            memory = model.encode(batch["source"][:1, :length], batch["source_lengths"][:1])
            _, _, looked = model.decode(memory, model.initial(memory), batch["tokens"][:1, :time])
        assert looked is not None  # noqa: S101
        read = [
            data.source_vocabulary.shown(t).strip() for t in batch["source"][0, :length].tolist()
        ]
        said = [
            data.target_vocabulary.shown(t).strip() for t in batch["targets"][0, :time].tolist()
        ]
        title = "Where each word of the target looked"
        maps = looked[:, :LONGEST, :LONGEST].float().cpu().numpy()
        return [
            attention_maps(
                {self.attention: maps},
                read[:LONGEST],
                title,
                said[:LONGEST],
                ("what is said", "the source"),
            )
        ]

    @classmethod
    def toy(cls) -> tuple[Any, Any]:
        """A narrow network on numbers written in digits and in words of them."""
        names = "zero one two three four five six seven eight nine".split()
        numbers = [f"{n}" for n in range(400)]
        words = [" ".join(names[int(digit)] for digit in number) for number in numbers]
        small = cls(
            data=Pairs(unit="character", batch=512),
            attention="additive",
            width=24,
            embedding=24,
            dropout=0.1,
            optimizer=Gradient(lr=1e-2, steps=12, clip=1.0),
        )
        return small, {"source": numbers, "target": words}
