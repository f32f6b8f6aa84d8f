"""What every language model is to its verbs: something that reads token after token and says what comes next.

Shapes: R texts read at once (rows), V entries of the vocabulary, N tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourfold.data.vocabulary import Vocabulary
from fourfold.models.generation import samplers_of
from fourfold.models.sampling import Guide, Sampling, draw


class Reader(ABC):
    """A trained model that reads R texts in lockstep.

    Equal calls give equal bits: `next` is deterministic on the same processor, build and number of threads.
    A state is used once: `push` may change it in place.
    """

    vocabulary: Vocabulary

    @abstractmethod
    def start(self, rows: int = 1) -> Any:
        """The state before the first token of a text: the opening token has been read."""

    @abstractmethod
    def next(self, state: Any) -> Tensor:
        """What comes next: (R, V) log-probabilities in nats, each row's probabilities sum to one."""

    @abstractmethod
    def push(self, state: Any, tokens: Tensor) -> Any:
        """The state once each row has read one more token, (R,) int64."""

    def surprises(self, tokens: np.ndarray) -> np.ndarray:
        """-log p of tokens[1:] in nats, each given all before it in order; a subclass does it for many at once.

        Args:
            tokens: (N + 1,) integers, the first is the opening token.

        Returns:
            (N,) float64.
        """
        found = np.zeros(len(tokens) - 1)
        state = self.start()
        for i, token in enumerate(tokens[1:].tolist()):
            found[i] = -float(self.next(state)[0, token])
            state = self.push(state, torch.tensor([token]))
        return found

    def distributions(self, tokens: np.ndarray) -> Tensor:
        """Log-probabilities of all entries for each of tokens[1:], each given all before it in order.

        Args:
            tokens: (N + 1,) integers, the first is the opening token.

        Returns:
            (N, V) in nats.
        """
        found, state = [], self.start()
        for token in tokens[1:].tolist():
            found.append(self.next(state)[0].clone())
            state = self.push(state, torch.tensor([token]))
        return torch.stack(found)

    def read_on(
        self,
        starts: Sequence[Sequence[int]],
        *,
        tokens: int,
        sampling: Sampling,
        generators: Sequence[torch.Generator],
        never: Sequence[int] = (),
        guides: Sequence[Guide] | None = None,
    ) -> Iterator[tuple[int, int]]:
        """Continue texts: see `read_on`; a subclass may have a faster way."""
        return read_on(
            self,
            starts,
            tokens=tokens,
            sampling=sampling,
            generators=generators,
            never=never,
            guides=guides,
        )


def read_on(
    reader: Reader,
    starts: Sequence[Sequence[int]],
    *,
    tokens: int,
    sampling: Sampling,
    generators: Sequence[torch.Generator],
    never: Sequence[int] = (),
    guides: Sequence[Guide] | None = None,
) -> Iterator[tuple[int, int]]:
    """Continue texts, all rows at once, each as if it were alone.

    Args:
        reader: the model.
        starts: the tokens of each text's beginning; may be empty.
        tokens: most tokens to add to each.
        sampling: how each is drawn.
        generators: of each row.
        never: tokens that are not drawn.
        guides: of each row, what says which tokens may come; a row ends where its guide does.

    Yields:
        (row, token), end tokens excluded: they end a row. Sending True back ends that row.
    """
    end, ends, rows = reader.vocabulary.end, reader.vocabulary.ends, len(starts)
    left = [tokens] * rows
    samplers = samplers_of(starts, sampling, generators, never, guides)
    place, state = 0, reader.start(rows)
    while any(left):
        wanted = [r for r in range(rows) if left[r] and place >= len(starts[r])]
        read = [start[place] if place < len(start) else end for start in starts]
        if wanted:
            said = reader.next(state)[wanted].to(generators[0].device)
            drawn = draw([samplers[row] for row in wanted], said)
            for row, token in zip(wanted, drawn, strict=True):
                read[row], left[row] = token, left[row] - 1
                if token in ends or (yield row, token) or samplers[row].ended:
                    left[row] = 0
        if any(left):
            state = reader.push(state, torch.tensor(read))
        place += 1
