"""Recurrent encoder-decoders: a network reads the source, another one says the target.

A fixed context vector: Sutskever et al. 2014, https://arxiv.org/abs/1409.3215; Cho et al. 2014,
https://arxiv.org/abs/1406.1078, where every step of the decoder is given it. Attention with additive scores, looked up
before each step: Bahdanau et al. 2015, https://arxiv.org/abs/1409.0473. With dot products, looked up after it (so that
all steps are computed at once while learning): Luong et al. 2015, https://arxiv.org/abs/1508.04025, their "general"
score without input feeding. The output layer's rows are the target's word vectors: Press and Wolf 2017.

Shapes: B sentences, S source tokens, T target tokens, E size of the word vectors, H width, V target vocabulary.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.models.dropout import Dropout
from fourfold.models.recurrent import CELLS, State
from fourfold.models.scorers import AdditiveAttention, DotAttention, Scorer

Attending = Literal["none", "additive", "dot"]
Cell = Literal["rnn", "gru", "lstm"]


class Memory(NamedTuple):
    """What the decoder knows of the source."""

    annotations: Tensor
    """(B, S, 2 H) states of the encoder, both directions."""
    context: Tensor
    """(B, 2 H) the last state of each direction."""
    keys: Tensor | None
    """(B, S, H) what scores are computed with; None without attention."""
    within: Tensor
    """(B, S) bool, True where the source has a token."""

    def rows(self, rows: Tensor) -> Memory:
        """Of other rows, (R,) int64."""
        return Memory(*(None if part is None else part[rows] for part in self))  # type: ignore[arg-type]


class Encoder(nn.Module):
    """Recurrent layers in both directions: each layer reads what both directions of the one below said.

    Args:
        cell: the recurrence.
        inputs: E.
        width: H of each direction.
        layers: how many.
        dropout: share of the features between layers that is left out while training.
    """

    def __init__(self, cell: Cell, inputs: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        sizes = [inputs, *[2 * width] * (layers - 1)]
        self.forwards = nn.ModuleList([CELLS[cell](size, width) for size in sizes])
        self.backwards = nn.ModuleList([CELLS[cell](size, width) for size in sizes])
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Read sources.

        Args:
            x: (B, S, E) float.
            lengths: (B,) int64, 1 or more.

        Returns:
            Annotations (B, S, 2 H), arbitrary behind a source's end; and the last state of each direction of the
            last layer, (B, 2 H).
        """
        order = reversed_places(lengths, x.shape[1])
        last = (lengths - 1)[:, None, None]
        ends: list[Tensor] = []
        for number, (ahead, back) in enumerate(zip(self.forwards, self.backwards, strict=True)):
            if number:
                x = self.dropout(x)
            there, _ = ahead(x)
            again, _ = back(_gathered(x, order))
            ends = [h.gather(1, last.expand(-1, -1, h.shape[2]))[:, 0] for h in (there, again)]
            x = torch.cat([there, _gathered(again, order)], dim=-1)
        return x, torch.cat(ends, dim=-1)


def reversed_places(lengths: Tensor, size: int) -> Tensor:
    """Places that turn each row round within its length and leave what is behind it, (B, size) int64."""
    places = torch.arange(size, device=lengths.device)
    turned = lengths[:, None] - 1 - places
    return torch.where(turned >= 0, turned, places)


def _gathered(x: Tensor, places: Tensor) -> Tensor:
    return x.gather(1, places[:, :, None].expand(-1, -1, x.shape[2]))


class Seq2Seq(nn.Module):
    """Encoder, decoder and what they look up.

    Args:
        cell: the recurrence of both.
        source_size: rows of the source's word vectors.
        target_size: V.
        shared: whether both sides have one table of word vectors.
        embedding: E.
        width: H.
        layers: of encoder and decoder each.
        attention: how the decoder looks at the source.
        tied: whether the output layer's rows are the target's word vectors.
        dropout: share of word vectors' features, of features between layers and before the output that is left
            out while training.

    Raises:
        ValueError: one table for vocabularies of different sizes.
    """

    def __init__(
        self,
        cell: Cell,
        source_size: int,
        target_size: int,
        *,
        shared: bool,
        embedding: int,
        width: int,
        layers: int,
        attention: Attending,
        tied: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if shared and source_size != target_size:
            raise ValueError(f"shared expects as many rows, got {source_size} and {target_size}")
        self.attention, self.cell = attention, cell
        self.target_embedding = nn.Embedding(target_size, embedding)
        nn.init.normal_(self.target_embedding.weight, std=embedding**-0.5)
        if shared:
            self.source_embedding = self.target_embedding
        else:
            self.source_embedding = nn.Embedding(source_size, embedding)
            nn.init.normal_(self.source_embedding.weight, std=embedding**-0.5)
        self.scale = math.sqrt(embedding)  # vectors of the size that recurrent layers expect
        self.encoder = Encoder(cell, embedding, width, layers, dropout)
        first = embedding + (2 * width if attention != "dot" else 0)
        sizes = [first, *[width] * (layers - 1)]
        self.decoder = nn.ModuleList([CELLS[cell](size, width) for size in sizes])
        self.bridge = nn.Linear(2 * width, layers * CELLS[cell].states * width)
        if attention == "additive":
            self.scorer: Scorer = AdditiveAttention(width, 2 * width, width)
        elif attention == "dot":
            self.key = nn.Linear(2 * width, width, bias=False)
            self.scorer = DotAttention(width)
        self.readout = nn.Linear(width + 2 * width + embedding, embedding)
        self.head = nn.Linear(embedding, target_size)
        nn.init.zeros_(self.head.bias)
        if tied:
            self.head.weight = self.target_embedding.weight
        self.dropout = Dropout(dropout)

    # --- reading ------------------------------------------------------------------------------------------

    def encode(self, source: Tensor, lengths: Tensor) -> Memory:
        """Read sources: (B, S) int64 and (B,) int64, 1 or more."""
        x = self.dropout(self.source_embedding(source) * self.scale)
        annotations, context = self.encoder(x, lengths)
        within = torch.arange(source.shape[1], device=source.device) < lengths[:, None]
        keys = None
        if self.attention == "dot":
            keys = self.key(annotations)
        elif self.attention == "additive":
            keys = self.scorer.prepare(annotations)
        return Memory(annotations, context, keys, within)

    def initial(self, memory: Memory) -> list[State]:
        """The decoder's states before its first step, from the encoder's last ones."""
        each = CELLS[self.cell].states
        # states are wide, whatever the format of products
        first = torch.tanh(self.bridge(memory.context)).to(self.bridge.weight.dtype)
        parts = first.chunk(len(self.decoder) * each, dim=-1)
        return [tuple(parts[i : i + each]) for i in range(0, len(parts), each)]

    def forward(self, source: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """Features (B, T, E) of which `head` makes logits, each of what comes after a token and those before it.

        Args:
            source: (B, S) int64.
            lengths: (B,) int64, 1 or more.
            tokens: (B, T) int64, the begin token and the target without its last.
        """
        memory = self.encode(source, lengths)
        return self.decode(memory, self.initial(memory), tokens)[0]

    def decode(
        self, memory: Memory, states: list[State], tokens: Tensor
    ) -> tuple[Tensor, list[State], Tensor | None]:
        """Read target tokens (B, T): features (B, T, E), states, and where each looked, (B, T, S) or None."""
        x = self.dropout(self.target_embedding(tokens) * self.scale)
        if self.attention == "additive":
            return self._before_each_step(memory, states, x)
        if self.attention == "none":
            context = memory.context[:, None].expand(-1, x.shape[1], -1)
            hidden, states = self._run(torch.cat([x, context], dim=-1), states)
            return self._read_out(hidden, context, x), states, None
        hidden, states = self._run(x, states)
        assert memory.keys is not None  # noqa: S101
        weights = softmax_within(self.scorer.scores(hidden, memory.keys), memory.within[:, None])
        return self._read_out(hidden, weights @ memory.annotations, x), states, weights

    def _run(self, x: Tensor, states: list[State]) -> tuple[Tensor, list[State]]:
        """The decoder's layers over all steps."""
        after = []
        for number, (layer, state) in enumerate(zip(self.decoder, states, strict=True)):
            x, state = layer(self.dropout(x) if number else x, state)
            after.append(state)
        return x, after

    def _before_each_step(
        self, memory: Memory, states: list[State], x: Tensor
    ) -> tuple[Tensor, list[State], Tensor]:
        """Attention from the state before each step; what does not depend on it is computed for all steps at once."""
        assert memory.keys is not None  # noqa: S101
        layer: Any = self.decoder[0]
        size = x.shape[2]
        weight, bias = layer.from_input.weight, layer.from_input.bias
        from_words = F.linear(x, weight[:, :size], bias)  # (B, T, gates H)
        from_source = F.linear(memory.annotations, weight[:, size:])  # (B, S, gates H)
        mask = memory.within
        state, hidden, looked = states[0], [], []
        for step in range(x.shape[1]):
            scores = self.scorer.scores(state[0][:, None], memory.keys)
            weights = softmax_within(scores[:, 0], mask)  # (B, S)
            looked.append(weights)
            given = from_words[:, step] + (weights[:, None] @ from_source)[:, 0]
            state = layer.cell(given, layer.from_hidden(state[0]), state)
            hidden.append(state[0])
        weights = torch.stack(looked, dim=1)
        top, rest = torch.stack(hidden, dim=1), [state]
        for upper, before in zip(list(self.decoder)[1:], states[1:], strict=True):
            top, after = upper(self.dropout(top), before)
            rest.append(after)
        return self._read_out(top, weights @ memory.annotations, x), rest, weights

    def _read_out(self, hidden: Tensor, context: Tensor, x: Tensor) -> Tensor:
        features = torch.tanh(self.readout(torch.cat([hidden, context, x], dim=-1)))
        return self.dropout(features)


def softmax_within(scores: Tensor, within: Tensor) -> Tensor:
    """Weights over the source's tokens: (..., S) from scores and a mask that spreads to them, True where a token is."""
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return wide.masked_fill(~within, float("-inf")).softmax(-1).to(scores.dtype)


class Seq2SeqStepper:
    """See `decoding.Stepper`. A state is the memory, the decoder's states, and where the last step looked."""

    def __init__(self, model: Seq2Seq) -> None:
        self.model = model

    def begin(self, source: Tensor, lengths: Tensor) -> Any:
        """See `Stepper.begin`."""
        memory = self.model.encode(source, lengths)
        return memory, self.model.initial(memory), None

    def next(self, state: Any, tokens: Tensor) -> tuple[Tensor, Any]:
        """See `Stepper.next`."""
        memory, states, _ = state
        features, states, looked = self.model.decode(memory, states, tokens[:, None])
        return self.model.head(features[:, 0]), (memory, states, looked)

    def reorder(self, state: Any, rows: Tensor) -> Any:
        """See `Stepper.reorder`."""
        memory, states, looked = state
        chosen = [tuple(part[rows] for part in layer) for layer in states]
        return memory.rows(rows), chosen, None if looked is None else looked[rows]


class AttendingStepper(Seq2SeqStepper):
    """The same for models with attention."""

    def attended(self, state: Any) -> Tensor:
        """See `Attends.attended`."""
        looked: Tensor = state[2][:, 0]
        return looked


def stepper_of(model: Seq2Seq) -> Seq2SeqStepper:
    """A model as something that decodes."""
    return Seq2SeqStepper(model) if model.attention == "none" else AttendingStepper(model)


__all__ = ["Attending", "Encoder", "Memory", "Seq2Seq", "Seq2SeqStepper", "stepper_of"]
