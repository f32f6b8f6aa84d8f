"""What recurrent language models share: options, model, how they read a text, and how far back they are taught."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Lt
from pydantic import PositiveInt
from torch import Tensor, nn

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.types import Document, Explanation, Picture, Source
from fourfold.data.text import Text
from fourfold.data.vocabulary import Vocabulary
from fourfold.look.memory import gradient_picture, gradient_table, reach
from fourfold.models.recurrent import CELLS, Cell, RecurrentLM, State
from fourfold.objectives.carried import CarriedObjective, CarriedSoftmax
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.embedded import EmbedsWords
from fourfold.tasks.language import LanguageModel, text_data, vocabulary_of
from fourfold.tasks.reader import Reader
from fourfold.tasks.vocabulary import output_layer

CHUNK = 1 << 10
"""Tokens that scoring a text reads at a time."""
DISTANCES = 100
"""How far back gradients are looked at."""
PLACES = 32
"""At how many places of the text."""
NAMES: dict[Cell, str] = {"rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}
Share = Annotated[float, Ge(0), Lt(1)]


class RecurrentLanguageModel(LanguageModel, EmbedsWords):
    """A language model that reads token after token and remembers what it has read in a state."""

    cell: ClassVar[Cell]
    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {"layers": 1, "width": 64},
        "small": {},
        "medium": {"width": 650, "dropout": 0.5, "optimizer.minutes": 60},
        "large": {"width": 1500, "dropout": 0.65, "optimizer.minutes": 600},
    }
    exempt: ClassVar[dict[str, str]] = {
        "accumulation": "4 batches of 8 rows hold other windows than 1 of 32: fewer rows go further into the text"
    }
    search_space: ClassVar[dict[str, str]] = {
        "optimizer.lr": "1e-3..1e-2:log",
        "width": "64..512:log",
        "layers": "1..3",
        "dropout": "0..0.6",
        "weight_dropout": "0..0.5",
    }

    data: Text = Text(unit="word", ordered=True, window=35, batch=20)
    width: PositiveInt = 200
    """Features of each layer's state."""
    layers: PositiveInt = 2
    """Recurrent layers, each reading the one below."""
    embedding: PositiveInt | None = None
    """Size of the word vectors; None takes the width."""
    tied: bool = False
    """Whether the output weights are the word vectors; the last layer then has the vectors' size."""
    dropout: Share = 0.2
    """Share of features left out while training, of the word vectors and of each layer's output, the same ones
    through a whole window."""
    weight_dropout: Share = 0.0
    """Share of the weights from state to state left out while training."""
    objective: CarriedObjective = CarriedSoftmax()
    """How the vocabulary is looked at while learning: all words, drawn ones, clusters or a tree of them."""
    optimizer: Gradient = Gradient(
        lr=4e-3, minutes=3, schedule="wsd", warmup=20, decay_from=0.4, final=0.02, clip=1.0
    )

    def build(self, data: Data) -> RecurrentLM:
        """A network for this vocabulary, with the output layer that the objective needs."""
        return self._network(self.cell, vocabulary_of(data).counts)

    def _network(self, cell: Cell, counts: np.ndarray) -> RecurrentLM:
        vectors = nn.Embedding(len(counts), self.embedding or self.width)
        last = vectors.embedding_dim if self.tied else self.width
        head = output_layer(self.objective, counts, last, rows=vectors if self.tied else None)
        return RecurrentLM(
            cell,
            vectors,
            [self.width] * (self.layers - 1) + [last],
            head,
            dropout=self.dropout,
            weight_dropout=self.weight_dropout,
        )

    def reader(self, run: Run) -> Reader:
        """See `LanguageModel.reader`."""
        return RecurrentReader(network(run), vocabulary_of(run.data))

    def inspect(
        self,
        run: Run,
        source: Source | Document = None,
        *,
        examples: PositiveInt = 32,
        depths: bool = False,
        seed: int = 0,
    ) -> Explanation:
        """Whether activations and gradients are healthy on a batch, and how far back gradients reach.

        The last picture shows the size of the state's gradient by the word vectors before it, against their
        distance: in this run, and in an untrained RNN, GRU and LSTM of the same size.

        Args:
            source: a text, or other data; None takes the run's own held-out examples.
            examples: how many of them.
            depths: draw plain against residual networks of 4 to 64 layers too, for comparison.
            seed: of dropout, noise and the untrained networks.
        """
        found = super().inspect(run, source, examples=examples, depths=depths, seed=seed)
        curves = self._curves(run, source, seed)
        if curves is None:
            sentences = (
                *found.sentences,
                "The text is too short to say how far back gradients reach.",
            )
            return Explanation(found.title, sentences, found.tables, found.pictures)
        tables = (*found.tables, gradient_table(curves))
        pictures = (*found.pictures, gradient_picture(curves, text_data(run.data).window))
        sentences = (*found.sentences, _reach_words(next(iter(curves.values()))))
        return Explanation(found.title, sentences, tables, pictures)

    def pictures(self, run: Run) -> Iterator[Picture]:
        """What every language model shows, and how far back gradients reach."""
        yield from super().pictures(run)
        curves = self._curves(run, None, 0)
        if curves is not None:
            yield gradient_picture(curves, text_data(run.data).window)

    def _curves(self, run: Run, source: Any, seed: int) -> dict[str, np.ndarray] | None:
        """Gradients by distance, of the run first; None where the text has no two tokens."""
        tokens = _held_out_tokens(run, source)
        if len(tokens) < 2:
            return None
        rows = _places(tokens)
        model = network(run)
        counts = vocabulary_of(run.data).counts
        curves = {f"this run's {NAMES[self.cell]}": gradient_by_distance(model, rows, seed)}
        for cell in CELLS:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                other = self._network(cell, counts).to(run.device).eval()
            curves[f"{NAMES[cell]}, untrained"] = gradient_by_distance(other, rows, seed)
        return curves

    @classmethod
    def toy(cls) -> tuple[Any, Any]:
        """One narrow layer on sums in words, character by character."""
        sums = [f"{a} and {b} make {a + b}." for a in range(24) for b in range(24)]
        small = cls(
            data=Text(unit="character", ordered=True, window=24, batch=32),
            layers=2,
            width=24,
            dropout=0.1,
            weight_dropout=0.1,
            optimizer=Gradient(lr=1e-2, steps=12, clip=1.0),
        )
        return small, {"text": ["\n".join(sums)]}


class RecurrentReader(Reader):
    """Reads a token a step. A state is the network's, and the features that the output layer makes the next token of."""

    def __init__(self, model: RecurrentLM, vocabulary: Vocabulary) -> None:
        self.model, self.vocabulary = model, vocabulary
        self.head: Any = model.head
        self.device = model.embedding.weight.device

    def start(self, rows: int = 1) -> tuple[list[State], Tensor]:
        """See `Reader.start`."""
        return self._read(None, torch.full((rows,), self.vocabulary.end))

    def next(self, state: tuple[list[State], Tensor]) -> Tensor:
        """See `Reader.next`."""
        with torch.no_grad():
            found: Tensor = self.head.log_probabilities(state[1])
        return found

    def push(self, state: tuple[list[State], Tensor], tokens: Tensor) -> tuple[list[State], Tensor]:
        """See `Reader.push`."""
        return self._read(state[0], tokens)

    def _read(self, states: list[State] | None, tokens: Tensor) -> tuple[list[State], Tensor]:
        with torch.no_grad():
            hidden, states = self.model(tokens.to(self.device)[:, None], states)
        return states, hidden[:, 0]

    def surprises(self, tokens: np.ndarray) -> np.ndarray:
        """See `Reader.surprises`: in pieces, the state carried from each to the next."""
        whole = torch.from_numpy(np.asarray(tokens, np.int64))
        states: list[State] | None = None
        found = np.zeros(len(whole) - 1)
        for at in range(0, len(found), CHUNK):
            piece = whole[at : at + CHUNK + 1].to(self.device)
            with torch.no_grad():
                hidden, states = self.model(piece[None, :-1], states)
                nats = self.head.negative_log(hidden[0], piece[1:])
            found[at : at + CHUNK] = nats.double().cpu().numpy()
        return found


def network(run: Run) -> RecurrentLM:
    """The run's model.

    Raises:
        TypeError: it is another.
    """
    model = run.model
    if not isinstance(model, RecurrentLM):
        raise TypeError(f"expected RecurrentLM, got {type(model).__name__}")
    return model


def gradient_by_distance(model: RecurrentLM, rows: Tensor, seed: int = 0) -> np.ndarray:
    """The norm of d (v h) / d word vector by distance back: h the last layer's state, v a random direction.

    Args:
        model: in evaluation mode.
        rows: (B, N) int64; each row's state is that after its last token. What is before the last DISTANCES + 1
            tokens is read first, so that no state is that of a text's beginning.
        seed: of the directions, one for each row.

    Returns:
        (DISTANCES + 1 or fewer,) float64, geometric means over rows; at 0 the word vector read last.
    """
    rows = rows.to(model.embedding.weight.device)
    before, rows = rows[:, : -DISTANCES - 1], rows[:, -DISTANCES - 1 :]
    with torch.no_grad():
        states = model(before)[1] if before.shape[1] else None
    with torch.enable_grad():
        vectors = model.embedding(rows).detach().requires_grad_()
        last = model.read(vectors, states)[0][:, -1]  # (B, H)
        directions = torch.randn(last.shape, generator=torch.Generator().manual_seed(seed))
        (slope,) = torch.autograd.grad((last * directions.to(last)).sum(), vectors)
    norms = slope.double().norm(dim=-1).clamp(min=1e-30)
    return norms.log().mean(0).exp().flip(0).cpu().numpy()


def _held_out_tokens(run: Run, source: Any) -> np.ndarray:
    if isinstance(source, str):
        source = {text_data(run.data).options.field: [source]}
    try:
        data, split, _ = held_out(run, source)
    except UserError:
        data, split = run.examples(), "train"
    return np.asarray(text_data(data).tokens(split), np.int64)


def _places(tokens: np.ndarray) -> Tensor:
    """Rows of tokens at places spread evenly over a text, (B, N)."""
    length = min(2 * DISTANCES + 1, len(tokens))
    last = len(tokens) - length
    starts = np.unique(np.linspace(0, last, min(PLACES, last + 1)).astype(np.int64))
    return torch.from_numpy(np.stack([tokens[s : s + length] for s in starts]))


def _reach_words(curve: np.ndarray) -> str:
    tenth, thousandth = reach(curve, 0.1), reach(curve, 0.001)
    most = len(curve) - 1

    def words(found: int | None) -> str:
        return f"more than {most} tokens" if found is None else f"{found} tokens"

    return (
        f"Back from a state the gradient by the word vectors falls to a tenth within {words(tenth)} and to a thousandth within "
        f"{words(thousandth)}."
    )
