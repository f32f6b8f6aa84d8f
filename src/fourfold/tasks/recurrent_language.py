"""What recurrent language models share: options, model, how they read a text, and how far back they are taught."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from pydantic import PositiveInt
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out
from fourfold.core.parts import Data
from fourfold.core.run import Run
from fourfold.core.types import Document, Explanation, Source
from fourfold.data.text import Text
from fourfold.data.vocabulary import Vocabulary
from fourfold.look.memory import gradient_picture, gradient_table, reach
from fourfold.models.recurrent import CELLS, Cell, RecurrentLM, State
from fourfold.objectives.carried import CarriedNextToken
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.language import LanguageModel, text_data, vocabulary_of
from fourfold.tasks.reader import Reader

LOGITS = 1 << 22
"""Logits that scoring a text holds at a time."""
CHUNK = 1 << 10
"""Tokens that it reads at a time at most."""
DISTANCES = 100
"""How far back gradients are looked at."""
PLACES = 32
"""At how many places of the text."""
NAMES: dict[Cell, str] = {"rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}
Share = Annotated[float, Ge(0), Lt(1)]


class RecurrentLanguageModel(LanguageModel):
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

    data: Text = Text(unit="word", vocabulary=10_000, ordered=True, window=35, batch=20)
    width: PositiveInt = 200
    """Features of each layer's state."""
    layers: PositiveInt = 2
    """Recurrent layers, each reading the one below."""
    embedding: PositiveInt | None = None
    """Size of the word vectors; None takes the width."""
    tied: bool = False
    """Whether the output weights are the word vectors; the last layer then has the vectors' size."""
    dropout: Share = 0.0
    """Share of features left out while training, of the word vectors and of each layer's output, the same ones
    through a whole window."""
    weight_dropout: Share = 0.0
    """Share of the weights from state to state left out while training."""
    objective: CarriedNextToken = CarriedNextToken()
    optimizer: Gradient = Gradient(lr=3e-3, minutes=3, schedule="wsd", decay_from=0.4, clip=1.0)

    def build(self, data: Data) -> RecurrentLM:
        """A network for this vocabulary."""
        return self._network(self.cell, len(vocabulary_of(data)))

    def _network(self, cell: Cell, vocabulary: int) -> RecurrentLM:
        return RecurrentLM(
            vocabulary,
            cell,
            self.width,
            self.layers,
            self.embedding or self.width,
            tied=self.tied,
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

        The last picture shows the size of a loss's gradient by the word vectors before it, against their distance: in
        this run, and in an untrained RNN, GRU and LSTM of the same size.

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

    def _curves(self, run: Run, source: Any, seed: int) -> dict[str, np.ndarray] | None:
        """Gradients by distance, of the run first; None where the text has no two tokens."""
        tokens = _held_out_tokens(run, source)
        if len(tokens) < 3:
            return None
        rows = _places(tokens)
        model = network(run)
        vocabulary = len(vocabulary_of(run.data))
        curves = {f"this run's {NAMES[self.cell]}": gradient_by_distance(model, rows)}
        for cell in CELLS:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                other = self._network(cell, vocabulary).to(run.device).eval()
            curves[f"{NAMES[cell]}, untrained"] = gradient_by_distance(other, rows)
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
        self.device = model.embedding.weight.device

    def start(self, rows: int = 1) -> tuple[list[State], Tensor]:
        """See `Reader.start`."""
        return self._read(None, torch.full((rows,), self.vocabulary.end))

    def next(self, state: tuple[list[State], Tensor]) -> Tensor:
        """See `Reader.next`."""
        with torch.no_grad():
            return self.model.head(state[1]).float().log_softmax(-1)

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
        step = max(1, min(CHUNK, LOGITS // len(self.vocabulary)))
        states: list[State] | None = None
        found = np.zeros(len(whole) - 1)
        for at in range(0, len(found), step):
            piece = whole[at : at + step + 1].to(self.device)
            with torch.no_grad():
                hidden, states = self.model(piece[None, :-1], states)
                logits = self.model.head(hidden[0]).float()
                nats = F.cross_entropy(logits, piece[1:], reduction="none")
            found[at : at + step] = nats.double().cpu().numpy()
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


def gradient_by_distance(model: RecurrentLM, rows: Tensor) -> np.ndarray:
    """The norm of d loss / d word vector by distance back from the token whose loss it is.

    Args:
        model: in evaluation mode.
        rows: (B, N) int64; each row's loss is that of its last token. What is before the last DISTANCES + 2 tokens
            is read first, so that no state is that of a text's beginning.

    Returns:
        (DISTANCES + 1 or fewer,) float64, geometric means over rows; at 0 the word vector read right before.
    """
    rows = rows.to(model.embedding.weight.device)
    before, rows = rows[:, : -DISTANCES - 2], rows[:, -DISTANCES - 2 :]
    states = model(before)[1] if before.shape[1] else None
    with torch.enable_grad():
        vectors = model.embedding(rows[:, :-1]).detach().requires_grad_()
        hidden, _ = model.read(vectors, states)
        loss = F.cross_entropy(model.head(hidden[:, -1]).float(), rows[:, -1], reduction="sum")
        (slope,) = torch.autograd.grad(loss, vectors)
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
    length = min(2 * DISTANCES + 2, len(tokens))
    last = len(tokens) - length
    starts = np.unique(np.linspace(0, last, min(PLACES, last + 1)).astype(np.int64))
    return torch.from_numpy(np.stack([tokens[s : s + length] for s in starts]))


def _reach_words(curve: np.ndarray) -> str:
    tenth, thousandth = reach(curve, 0.1), reach(curve, 0.001)
    most = len(curve) - 1

    def words(found: int | None) -> str:
        return f"more than {most} tokens" if found is None else f"{found} tokens"

    return (
        f"Back from a token's loss the gradient falls to a tenth within {words(tenth)} and to a thousandth within "
        f"{words(thousandth)}."
    )
