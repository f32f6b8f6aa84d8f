"""n-gram language model: Shannon 1948; modified Kneser-Ney smoothing: Chen and Goodman 1998, TR-10-98.

    fourfold fit ngram wiki.txt --order 5
    fourfold fit ngram wiki.txt --order 3 --smoothing good-turing --prune 0,1
    fourfold generate runs/ngram-1 "The meaning of"
    fourfold export runs/ngram-1 --to arpa --out wiki.arpa.gz
    fourfold import wiki.arpa.gz --out runs/wiki

Result: perplexity 230.5 on the test part of WikiText-2 (245,569 tokens, line ends among them) after counting its
validation part, order 5, --data.unit space; equal to what KenLM gives for the exported file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.system import system
from fourfold.core.types import Picture, Table
from fourfold.core.words import short
from fourfold.data.spaced import Spaced
from fourfold.data.text import Text, TextData
from fourfold.data.tokens import Measures
from fourfold.data.vocabulary import END, Vocabulary
from fourfold.kernels import ngram as kernel
from fourfold.kernels.ngram import Tables
from fourfold.kernels.ngram_growth import Growth, grow
from fourfold.kernels.ngram_smoothing import Order
from fourfold.look import ngram as look
from fourfold.models.arpa import level_edges, paths, write_arpa
from fourfold.models.arpa_read import IMPOSSIBLE, looks_like_arpa, read_arpa
from fourfold.models.ngram import NGram
from fourfold.objectives.likelihood import Likelihood
from fourfold.optimizers.counting import Counting
from fourfold.tasks.language import LanguageModel, text_data
from fourfold.tasks.reader import Reader

COUNTED, HELD = 2_000_000, 200_000
"""Tokens at most for the picture of where counting ends: counted, and looked at."""
SAMPLE = 20_000
"""n-grams that are compared after an export."""
TOLERANCE = 1e-5
"""Largest difference of log10 p between a model and its file."""
LONGEST = 7
"""The highest order."""


@system("ngram", reads="text")
class NGramModel(LanguageModel):
    """Count which words follow which, and smooth: an n-gram language model with back-off."""

    imports: ClassVar[str] = "ARPA files of n-gram models, .gz too"

    counts_once: ClassVar[bool] = True
    data: Text = Text(unit="word", window=1, context=LONGEST - 1, batch=4096)
    order: Annotated[int, Ge(1), Le(LONGEST)] = 5
    """The longest n-gram, in tokens: each is predicted from at most order - 1 before it."""
    sentences: bool | None = None
    """Whether a line's end ends what is looked back on, as in KenLM. None: for words, not for smaller units."""
    objective: Likelihood = Likelihood()
    optimizer: Counting = Counting()

    def build(self, data: Data) -> NGram:
        """An empty model for this vocabulary; the search fills it."""
        vocabulary = text_data(data).vocabulary
        sentences = self.sentences
        if sentences is None:
            sentences = vocabulary.unit in ("word", "space", "jieba")
        line = _line_end(vocabulary) if sentences else None
        stop = vocabulary.end if line is None else line
        return NGram(self.order, len(vocabulary), vocabulary.end, stop)

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """See `System.recognizes`: an ARPA file says so in its head."""
        return looks_like_arpa(path)

    @classmethod
    def imported(cls, path: Path) -> tuple[Self, Data, nn.Module, Sequence[str]]:
        """See `System.imported`: text is read as the file's words are, between spaces."""
        found = read_arpa(path, END)
        system = cls(
            data=Text(unit="space", window=1, context=LONGEST - 1, batch=4096),
            order=found.tables.order,
        )
        about = {"source": str(path), "split": "imported", "shares": [1.0, 0.0, 0.0], "notes": []}
        data = TextData(system.data, Spaced(found.words), 0, "", Measures(), about)
        model = system.build(data)
        edges = level_edges(found.tables)
        model.take(found.tables, [Order(n, n, (), (), False) for n in np.diff(edges).tolist()])
        notes = list(found.notes)
        if model.tables.logs[model.end] < 0.99 * IMPOSSIBLE * math.log(10):
            notes.append(
                f"{path}: has no token for the end of a document, so a generated text has as many tokens as are asked for"
            )
        return system, data, model, notes

    def reader(self, run: Run) -> Reader:
        """See `LanguageModel.reader`."""
        return NGramReader(cast(NGram, run.model), text_data(run.data).vocabulary)

    def export(self, run: Run, *, to: Literal["arpa"] = "arpa", out: Path | None = None) -> Path:
        """Write the model for other programs; what was written is read back and compared.

        Args:
            to: arpa is the field's text form, which KenLM and SRILM read. White space in a word is written by
                its number, as <U+000A>.
            out: the file, gzipped where it ends in .gz; None takes the run's name with .arpa.
        """
        if out is None and run.folder is None:
            raise UserError("out: expected a file to write to; this run is in memory only")
        path = Path(out) if out is not None else run.folder.with_name(f"{run.folder.name}.arpa")  # type: ignore[union-attr]
        if path.is_dir():
            raise UserError(f"{path}: is a folder; export writes a file")
        vocabulary = text_data(run.data).vocabulary
        names = [vocabulary.token(i) for i in range(len(vocabulary))]
        tables = cast(NGram, run.model).tables
        write_arpa(path, tables, names, vocabulary.unknown)
        difference = _read_back(path, tables, names, vocabulary.unknown)
        if not difference <= TOLERANCE:
            raise RuntimeError(
                f"{path}: log10 probabilities differ by {difference:.2g} from the run's"
            )
        run.console.say(f"Read back: log10 probabilities differ by at most {difference:.2g}")
        if vocabulary.unit != "space":
            run.console.say(
                f"Its words are this run's, of the unit {vocabulary.unit}; who reads the file cuts a text at its spaces "
                "and finds others. For exchange fit with --data.unit space"
            )
        return path

    def pictures(self, run: Run) -> Iterator[Picture]:
        """What every language model shows; counts of counts, discounts, and where counting ends."""
        yield from super().pictures(run)
        model = cast(NGram, run.model)
        if bool(model.counts_of_counts.any()):
            yield look.counts_of_counts(model.counts_of_counts.cpu().numpy())
        if bool(model.discounts.any()):
            shares = self.optimizer.smoothing == "good-turing"
            yield look.discounts(model.discounts.cpu().numpy(), shares=shares)
        found = _growth(run, model)
        if found is not None:
            yield look.growth(found.sizes, found.unseen, found.perplexity)

    def tables(self, run: Run) -> Iterator[Table]:
        """What every language model shows; how many n-grams of each order there are."""
        model = cast(NGram, run.model)
        once = model.counts_of_counts[:, 0].tolist()
        rows = [
            (order, size, kept, f"{share / size:.1%}" if share and size else "")
            for order, ((size, kept), share) in enumerate(
                zip(model.sizes.tolist(), once, strict=True), 1
            )
        ]
        total = sum(b.numel() * b.element_size() for b in model.buffers())
        yield Table(
            "n-grams by order", ("order", "in the text", "in the model", "of them with count 1"), tuple(rows),
            f"{sum(kept for _, kept in model.sizes.tolist()):,} n-grams in {short(float(total))} bytes.",
        )  # fmt: skip
        yield from super().tables(run)

    @classmethod
    def toy(cls) -> tuple[Self, Any]:
        """Sums in words."""
        sums = [f"{a} and {b} make {a + b} ." for a in range(40) for b in range(40)]
        return cls(order=4), {"text": ["\n".join(sums)]}


class NGramReader(Reader):
    """Reads with the tables of an n-gram model. A state is (R, order - 1) int32, the nodes of the last words."""

    def __init__(self, model: NGram, vocabulary: Vocabulary) -> None:
        self.model, self.vocabulary, self.tables = model, vocabulary, model.tables

    def start(self, rows: int = 1) -> np.ndarray:
        """See `Reader.start`."""
        contexts = np.full((rows, self.tables.order - 1), -1, np.int32)
        contexts[:, :1] = self.tables.stop
        return contexts

    def next(self, state: np.ndarray) -> Tensor:
        """See `Reader.next`."""
        found = np.empty((len(state), self.model.vocabulary), np.float32)
        kernel.distributions(self.tables, state, found)
        return torch.from_numpy(found)

    def push(self, state: np.ndarray, tokens: Tensor) -> np.ndarray:
        """See `Reader.push`."""
        kernel.advance(self.tables, state, tokens.cpu().numpy())
        return state

    def surprises(self, tokens: np.ndarray) -> np.ndarray:
        """See `Reader.surprises`: all positions at once."""
        return self.model.surprises(tokens)


def _line_end(vocabulary: Vocabulary) -> int | None:
    """The token of a line's end; None if the vocabulary has none."""
    found = vocabulary.encode("\n").tolist()
    return found[0] if len(found) == 1 and found[0] != vocabulary.unknown else None


def _growth(run: Run, model: NGram) -> Growth | None:
    """Where counting ends, on the run's own text; None where it is gone or nothing of it is held out."""
    try:
        data, split, _ = held_out(run)
        train = text_data(run.examples()).tokens("train")[: COUNTED + 1]
    except UserError:
        return None
    held = text_data(data).tokens(split)[: HELD + 1]
    total = len(train) - 1
    sizes = sorted({total // 4**power for power in range(4) if total // 4**power >= 100})
    if len(held) < 100 or not sizes:
        return None
    return grow(train, held, sizes, LONGEST, model.vocabulary, model.end, model.stop)


def _read_back(path: Path, tables: Tables, names: list[str], unknown: int | None) -> float:
    """The largest difference of log10 p between a model and its file, over n-grams of all orders."""
    again = read_arpa(path, END)
    numbers = {word: number for number, word in enumerate(again.words, 3)}
    special = {tables.end: 0, unknown: 1, tables.stop: 2}
    tokens = np.array([special[i] if i in special else numbers[n] for i, n in enumerate(names)])
    random = np.random.default_rng(0)
    some = np.unique(random.integers(len(tables.words), size=SAMPLE))
    grams, largest = paths(tables, some), 0.0
    for order in range(2, tables.order + 1):
        rows = np.array([gram for gram in grams if len(gram) == order], np.int64)
        if len(rows):
            found = np.zeros((2, len(rows), 1))
            kernel.row_surprises(tables, rows[:, :-1], rows[:, -1:], found[0])
            kernel.row_surprises(again.tables, tokens[rows[:, :-1]], tokens[rows[:, -1:]], found[1])
            largest = max(largest, float(np.abs(found[0] - found[1]).max()))
    single = np.abs(again.tables.logs[tokens] - tables.logs[: len(tokens)])
    return max(largest, float(single.max())) / math.log(10)
