"""Recurrent layers, and a language model on them.

Elman: h_t = tanh(W x_t + U h_{t-1} + b), Elman 1990. LSTM: Hochreiter and Schmidhuber 1997, with the forget gate
of Gers et al. 2000 and without peepholes. GRU: Cho et al. 2014, https://arxiv.org/abs/1406.1078, in the variant of
cuDNN and torch.nn.GRU: the reset gate multiplies the hidden state after its matrix product; the paper gates before.
Dropout with one mask through time: Gal and Ghahramani 2016, https://arxiv.org/abs/1512.05287; dropout of the
hidden-to-hidden weights, and widths that let embedding and output be tied: Merity et al. 2018,
https://arxiv.org/abs/1708.02182.

Each layer says what a step is (`cell`); `plain` loops over it, `forward` computes the same with torch's fused
kernels. Shapes: B rows, T time, D = input_size, H = hidden_size, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.models.dropout import Dropout

State = tuple[Tensor, ...]
"""What a layer remembers, each (B, H): the hidden state first; the LSTM's cell state after it."""
Cell = Literal["rnn", "gru", "lstm"]


class Recurrent(nn.Module, ABC):
    """A recurrent layer.

    Args:
        input_size: D.
        hidden_size: H.
        weight_dropout: share of the hidden-to-hidden weights left out while training, the same ones for a
            whole batch of windows.
    """

    gates: ClassVar[int]
    """Products of H features that a step needs of its input, and as many of its state."""
    states: ClassVar[int] = 1
    """Tensors in a state."""

    def __init__(self, input_size: int, hidden_size: int, weight_dropout: float = 0.0) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.from_input = nn.Linear(input_size, self.gates * hidden_size)
        self.from_hidden = nn.Linear(hidden_size, self.gates * hidden_size)
        self.weight_dropout = Dropout(weight_dropout)
        bound = hidden_size**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    @abstractmethod
    def cell(self, x: Tensor, h: Tensor, state: State) -> State:
        """One step.

        Args:
            x: (B, gates H), the product of the step's input, with its bias.
            h: (B, gates H), the product of the hidden state, with its bias.
            state: before the step.
        """

    @abstractmethod
    def fused(self, x: Tensor, state: State, weights: list[Tensor]) -> tuple[Tensor, State]:
        """All steps by one kernel; weights as torch's: input's, hidden's, then their biases."""

    def initial(self, rows: int) -> State:
        """The state before the first step, zeros."""
        zeros = self.from_hidden.weight.new_zeros(rows, self.hidden_size)
        return (zeros,) * self.states

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run the recurrence over a batch of sequences.

        Args:
            x: (B, T, D) float, T >= 1.
            state: before the first step; None means zeros.

        Returns:
            All hidden states (B, T, H), and the state after the last step.

        Raises:
            ValueError: x is not (B, T >= 1, D).
        """
        state = self._begun(x, state)
        hidden = self.weight_dropout(self.from_hidden.weight)
        return self.fused(
            x, state, [self.from_input.weight, hidden, self.from_input.bias, self.from_hidden.bias]
        )

    def plain(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As `forward`, step by step."""
        state = self._begun(x, state)
        weight = self.weight_dropout(self.from_hidden.weight)
        products = self.from_input(x)  # (B, T, gates H)
        found = []
        for t in range(x.shape[1]):
            h = F.linear(state[0], weight, self.from_hidden.bias)
            state = self.cell(products[:, t], h, state)
            found.append(state[0])
        return torch.stack(found, dim=1), state

    def _begun(self, x: Tensor, state: State | None) -> State:
        if x.ndim != 3 or x.shape[1] < 1 or x.shape[2] != self.input_size:
            raise ValueError(
                f"{type(self).__name__} expects x of shape (B, T, {self.input_size}) with T >= 1, "
                f"got {tuple(x.shape)}; a single step is x[:, None]"
            )
        return self.initial(x.shape[0]) if state is None else state


class Elman(Recurrent):
    """Elman's layer: the new state from the input and the old one."""

    gates = 1

    def cell(self, x: Tensor, h: Tensor, state: State) -> State:
        """See `Recurrent.cell`."""
        return (torch.tanh(x + h),)

    def fused(self, x: Tensor, state: State, weights: list[Tensor]) -> tuple[Tensor, State]:
        """See `Recurrent.fused`."""
        found, h = torch.rnn_tanh(
            x, state[0][None], weights, True, 1, 0.0, torch.is_grad_enabled(), False, True
        )
        return found, (h[0],)


class GRU(Recurrent):
    """Gated recurrent unit: a gate decides how much of the state is written anew."""

    gates = 3

    def cell(self, x: Tensor, h: Tensor, state: State) -> State:
        """See `Recurrent.cell`."""
        x_r, x_z, x_n = x.chunk(3, dim=-1)
        h_r, h_z, h_n = h.chunk(3, dim=-1)
        r = torch.sigmoid(x_r + h_r)  # reset gate
        z = torch.sigmoid(x_z + h_z)  # update gate
        n = torch.tanh(x_n + r * h_n)  # candidate state
        return ((1 - z) * n + z * state[0],)

    def fused(self, x: Tensor, state: State, weights: list[Tensor]) -> tuple[Tensor, State]:
        """See `Recurrent.fused`."""
        found, h = torch.gru(
            x, state[0][None], weights, True, 1, 0.0, torch.is_grad_enabled(), False, True
        )
        return found, (h[0],)


class LSTM(Recurrent):
    """Long short-term memory: a cell state that is added to, and three gates.

    The forget gate's bias begins at 1, so that the cell remembers before it has learned to (Gers et al. 2000;
    Jozefowicz et al. 2015).
    """

    gates = 4
    states = 2

    def __init__(self, input_size: int, hidden_size: int, weight_dropout: float = 0.0) -> None:
        super().__init__(input_size, hidden_size, weight_dropout)
        with torch.no_grad():
            self.from_input.bias[hidden_size : 2 * hidden_size] = 1
            self.from_hidden.bias[hidden_size : 2 * hidden_size] = 0

    def cell(self, x: Tensor, h: Tensor, state: State) -> State:
        """See `Recurrent.cell`."""
        i, f, g, o = (x + h).chunk(4, dim=-1)  # input gate, forget gate, candidate, output gate
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def fused(self, x: Tensor, state: State, weights: list[Tensor]) -> tuple[Tensor, State]:
        """See `Recurrent.fused`."""
        before = [part[None] for part in state]
        found, h, c = torch.lstm(
            x, before, weights, True, 1, 0.0, torch.is_grad_enabled(), False, True
        )
        return found, (h[0], c[0])


CELLS: dict[Cell, type[Recurrent]] = {"rnn": Elman, "gru": GRU, "lstm": LSTM}


class RecurrentLM(nn.Module):
    """Language model: embedding, recurrent layers, output layer.

    Args:
        cell: the recurrence.
        embedding: the word vectors, (V, E); drawn anew, uniform in (-0.1, 0.1).
        widths: H of each layer.
        head: the output layer, from models/output.py.
        dropout: share of features left out while training, of the embedding and of every layer's output, one
            mask for all steps of a window.
        weight_dropout: share of the hidden-to-hidden weights left out while training.
    """

    def __init__(
        self,
        cell: Cell,
        embedding: nn.Embedding,
        widths: Sequence[int],
        head: nn.Module,
        *,
        dropout: float = 0.0,
        weight_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.embedding = embedding
        nn.init.uniform_(embedding.weight, -0.1, 0.1)
        inputs = [embedding.embedding_dim, *widths]
        self.layers = nn.ModuleList(
            CELLS[cell](size, width, weight_dropout)
            for size, width in zip(inputs, widths, strict=False)
        )
        self.head = head

    def forward(
        self, tokens: Tensor, states: list[State] | None = None
    ) -> tuple[Tensor, list[State]]:
        """What the output layer is given, and the states to go on from.

        Args:
            tokens: (B, T) int64.
            states: of each layer, after the tokens before these; None means none were.

        Returns:
            (B, T, width of the last layer), and each layer's state after the last token. `head` makes
            logits of it.
        """
        return self.read(self.embedding(tokens), states)

    def read(self, x: Tensor, states: list[State] | None = None) -> tuple[Tensor, list[State]]:
        """As `forward`, from word vectors (B, T, size of the embedding)."""
        x = self._masked(x)
        after = []
        for number, layer in enumerate(self.layers):
            x, state = layer(x, None if states is None else states[number])
            x = self._masked(x)
            after.append(state)
        return x, after

    def _masked(self, x: Tensor) -> Tensor:
        """Dropout of features (B, T, D), one mask (B, 1, D) for all times."""
        if not self.training or not self.dropout.p:
            return x
        return x * self.dropout(x.new_ones(x.shape[0], 1, x.shape[2]))
