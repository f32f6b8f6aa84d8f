"""Sentence embeddings: Reimers and Gurevych 2019, arXiv 1908.10084; tuned with in-batch negatives: Henderson et al. 2017.

    fourfold import path/to/all-MiniLM-L6-v2 --out runs/minilm
    fourfold fit embedder pairs.jsonl --from runs/minilm --out runs/mine
    fourfold embed runs/mine "a sentence" --out vectors.npy
    fourfold index docs/ --out kb --embedder runs/mine

Rows of pairs have a question and a passage that answers it, and perhaps a negative.

Result: vectors of an imported all-MiniLM-L6-v2 equal transformers' to 2e-7. Fitted from nothing on 80 pairs of a number in digits
and the same in words (`tests/systems/test_embedder.py`), 20 of 20 held-out questions find their passage first among 100, where
no word is shared; what vectors add to words on real questions: benchmarks/results/rag.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.core.types import Document
from fourfold.data.masking import MaskedData
from fourfold.data.masking_hf import read_vocabulary
from fourfold.data.question_pairs import QuestionPairs, QuestionPairsData
from fourfold.models.bert_folder import is_sentence_folder, load_body, sentence_settings
from fourfold.models.sentence_encoder import SentenceEncoder
from fourfold.objectives.ranking import InBatch
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.embedding_texts import to_embed, vector_table
from fourfold.tasks.encoding import encoder_of
from fourfold.tasks.on_bert import OnBert, pairs_data

if TYPE_CHECKING:
    import polars as pl


@system("embedder", reads="pairs of question and passage")
class Embedder(OnBert):
    """Learn vectors by which a question is near the passage that answers it."""

    imports: ClassVar[str] = (
        "sentence-embedding folders in Hugging Face form (BertModel with mean or first-token pooling)"
    )
    exempt: ClassVar[dict[str, str]] = {
        "accumulation": "a question's negatives are the passages of its own micro-batch"
    }

    data: QuestionPairs = QuestionPairs()
    pooling: Literal["mean", "cls"] = "mean"
    """A text's vector: the mean of its positions' states, or the first one's."""
    normalize: bool = True
    """Scale vectors to length 1."""
    objective: InBatch = InBatch()
    optimizer: Gradient = Gradient(lr=2e-4, epochs=3, warmup=0.1, clip=1.0)

    def build(self, data: Data) -> SentenceEncoder:
        """An encoder with pooling."""
        return SentenceEncoder(self.body(data), self.pooling, self.normalize)

    def embed(
        self, run: Run, texts: Document | list[Document], *, lines: bool = False
    ) -> pl.DataFrame:
        """A vector for each text.

        Args:
            texts: one or several; what is longer than the model reads is cut, which is said.
            lines: whether each line is a text of its own; empty ones are none.
        """
        given = to_embed(texts, lines)
        data = pairs_data(run.data)
        room = data.options.window - 2
        if cut := sum(len(data.vocabulary.encode(text)) > room for text in given):
            run.console.say(
                f"{cut} of {len(given)} texts were cut to the {room} tokens that the model reads"
            )
        vectors = encoder_of(run)(given)
        return vector_table(given, vectors)

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """Whether it is a folder of a sentence-embedding model."""
        return path.is_dir() and is_sentence_folder(path)

    @classmethod
    def imported(cls, path: Path) -> tuple[Embedder, Data, SentenceEncoder, Sequence[str]]:
        """See `System.imported`."""
        settings = sentence_settings(path)
        body, config = load_body(path)
        vocabulary, specials = read_vocabulary(path, body.vocabulary)
        window = min(settings.window or body.window, body.window)
        options = QuestionPairs(unit="bpe", window=window, tokenizer=str(path))
        made = cls(
            data=options, layers=len(body.blocks), width=body.width, heads=body.heads, hidden=body.hidden,
            positions=body.window, entries=body.vocabulary, types=body.types, activation=body.activation,  # type: ignore[arg-type]  # checked when it was read
            eps=body.eps, dropout=config.get("hidden_dropout_prob", 0.1), pooling=settings.pooling, normalize=settings.normalize,
        )  # fmt: skip
        prepared = MaskedData.prepared(options.text, vocabulary, specials, source=str(path))
        data = QuestionPairsData(options, prepared, {}, "", 0)
        model = SentenceEncoder(body, made.pooling, made.normalize)
        many = sum(p.numel() for p in model.parameters())
        note = f"Read {many:,} parameters from {path}: {made.pooling} pooling, {window} tokens of a text."
        return made, data, model, [note]

    @classmethod
    def toy(cls) -> tuple[Embedder, Any]:
        """Two narrow layers on sums in words."""
        pairs = [
            {"question": f"{a} and {b}?", "passage": f"{a} and {b} make {a + b}."}
            for a in range(10)
            for b in range(10)
        ]
        small = cls(
            data=QuestionPairs(unit="character", window=24, batch=16), layers=2, width=32, heads=2,
            optimizer=Gradient(lr=3e-3, steps=12),
        )  # fmt: skip
        return small, pairs
