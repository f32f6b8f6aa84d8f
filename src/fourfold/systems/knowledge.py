"""A knowledge base of one's own documents, searched by BM25: Robertson et al. 1994, "Okapi at TREC-3".

    fourfold index docs/ --out kb
    fourfold find kb "how is a run resumed?" --top 5
    fourfold ask kb "how is a run resumed?" --model runs/chat
    fourfold index kb
    fourfold index kb --undo

`fourfold fit knowledge docs/ --out kb` is the same as index. What changed is read again, by its content; readers see
the old passages or the new ones, never something between.

Result: the paragraph that answers is found first for 80.8% of the 2,910 answerable questions on the 646 paragraphs of half
of SQuAD 2.0's development set, among the first five for 94.2%; on XQuAD (240 paragraphs, 1,190 questions) first for 93.0%
in English, 93.2% in Chinese, 86.1% in German: benchmarks/results/rag.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import NonNegativeFloat, field_validator

from fourfold.core.errors import UserError
from fourfold.core.opening import imported, opened
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.state import weights_digest, write_text
from fourfold.core.system import system
from fourfold.data.documents.gathering import Encode
from fourfold.data.documents.options import Documents
from fourfold.models.bert_folder import is_sentence_folder
from fourfold.models.passages import PassageIndex
from fourfold.objectives.known_item import KnownItem
from fourfold.optimizers.indexing import Indexing
from fourfold.tasks.knowing import Knows
from fourfold.tasks.retrieving import embedding, parts, reads_them, strange_share


@system("knowledge", reads="documents")
class Knowledge(Knows):
    """Find passages of your own documents that answer a question."""

    data: Documents = Documents()
    k1: NonNegativeFloat = 1.2
    """How soon a word that comes again in a passage counts no more."""
    b: Annotated[float, Ge(0), Le(1)] = 0.75
    """How much long passages are scored down."""
    stem: bool = True
    """Take plurals for their singular."""
    embedder: str | None = None
    """What makes vectors, which find passages with other words: a sentence-embedding folder in Hugging Face form, a run of
    embedder, bert or word2vec, ollama:NAME, or a server's address. None goes by words alone."""
    objective: KnownItem = KnownItem()
    optimizer: Indexing = Indexing()

    def build(self, data: Data) -> PassageIndex:
        """An empty index; the search fills it."""
        return PassageIndex(self.k1, self.b, self.stem)

    def finish(self, run: Run) -> None:
        """See `System.finish`: say where the embedder does not know the documents' language."""
        passages, _ = parts(run)
        if passages.vectors is not None and not reads_them(run, passages):
            run.note(
                f"The embedder does not know {strange_share(run, passages):.0%} of these texts' tokens, so it hardly knows their "
                "language: questions go by words alone, unless --how hybrid asks for both."
            )

    def encoder(self, run: Run) -> tuple[Encode | None, int]:
        """What makes the vectors of passages, and how many numbers one has; None and 0 without."""
        if self.embedder is None:
            return None, 0
        encode = embedding(run)
        return encode, encode(["width"]).shape[1]

    def embedding(self, run: Run) -> Run:
        """The run that makes vectors; a sentence-embedding folder is imported into this one's folder, once.

        Raises:
            UserError: it is gone, or another than the passages were embedded with.
        """
        assert self.embedder is not None  # noqa: S101
        inner = None if run.folder is None else run.folder / "embedder"
        if inner is not None and (inner / "system.toml").is_file():
            return opened(str(inner))
        if inner is not None and is_sentence_folder(Path(self.embedder)):
            return imported(self.embedder, str(inner), "embedder")
        found = opened(self.embedder)
        if run.folder is not None and found.folder is not None:
            self._same(run, weights_digest(found.folder / "weights.safetensors"))
        return found

    def _same(self, run: Run, digest: str) -> None:
        """Refuse an embedder whose weights have changed since."""
        assert run.folder is not None  # noqa: S101
        path = run.folder / "data" / "embedder.txt"
        if not path.exists():
            write_text(path, digest)
        elif path.read_text(encoding="utf-8") != digest:
            raise UserError(
                f"{run.folder}: its passages were embedded by {self.embedder} with other weights; "
                "index the documents anew into another --out"
            )

    @field_validator("embedder")
    @classmethod
    def _none(cls, name: str | None) -> str | None:
        return (
            None
            if name in (None, "", "none")
            else str(Path(name).resolve())
            if Path(name).exists()
            else name
        )

    @classmethod
    def toy(cls) -> tuple[Knowledge, Any]:
        """Three short texts."""
        texts = [
            "Cats sleep for most of the day. At night they hunt mice in the garden and on the roofs of the town.",
            "# Dogs\n\nDogs like to walk. Two hours of walking a day are enough for most of them, more for some.",
            "猫在白天睡觉。它们晚上在花园里捉老鼠。狗喜欢散步，每天两个小时就够了。",
        ]
        return cls(data=Documents(words=20, overlap=0, batch=2)), {"text": texts}
