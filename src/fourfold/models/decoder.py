"""What continues texts: reads tokens into slots of one cache, and says what comes next in each.

`models/torch_decoder.py` serves every Transformer on every device and is the plain reference;
`models/compiled.py` serves Llama's form on a CPU. Shapes: N slots read into, S slots there are, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor


class Decoder(ABC):
    """Sequences in slots: each joins, reads on and leaves at any call, and none sees, pads or waits for another.

    A slot holds the keys and values of one sequence's first tokens. To begin one, `cut` its slot and `read` the
    prompt into it; to go on, `read` one more token into each slot that is alive; to leave, nothing is done. All of
    it may be in one call.

    Attributes:
        slots: S.
        window: most tokens that a slot holds.
        vocabulary: V.
        device: where logits are.
        lengths: (S,) tokens that each slot holds.
    """

    slots: int
    window: int
    vocabulary: int
    device: torch.device
    lengths: list[int]

    def read(
        self, slots: Sequence[int], tokens: Sequence[Sequence[int]], *, every: bool = False
    ) -> Tensor:
        """Read tokens into slots, after what these hold: a prompt, one token, or a few that are only guessed.

        Args:
            slots: N different ones.
            tokens: of each slot one or more; of different numbers.
            every: logits after every token, not after each slot's last only.

        Returns:
            Logits of what follows, (N, V) float, in the order of `slots`; with `every` (all tokens, V), those of the first
            slot before those of the second.

        Raises:
            ValueError: no tokens, a slot that there is not or twice, or more tokens than the window has places for.
            IndexError: a token that the vocabulary has not.
        """
        slots = [int(slot) for slot in slots]
        if not slots or len({*slots}) < len(slots) or min(slots) < 0 or max(slots) >= self.slots:
            raise ValueError(f"Decoder expects different slots below {self.slots}, got {slots}")
        counts = [len(some) for some in tokens]
        if len(counts) != len(slots) or min(counts) < 1:
            raise ValueError(f"Decoder expects tokens for each of {len(slots)} slots, got {counts}")
        for slot, count in zip(slots, counts, strict=True):
            if self.lengths[slot] + count > self.window:
                raise ValueError(
                    f"Decoder's window of {self.window} positions is full: slot {slot} holds {self.lengths[slot]} tokens, "
                    f"got {count} more"
                )
        lowest, highest = min(map(min, tokens)), max(map(max, tokens))
        if lowest < 0 or highest >= self.vocabulary:
            wrong = lowest if lowest < 0 else highest
            raise IndexError(f"Decoder expects tokens from 0 to {self.vocabulary - 1}, got {wrong}")
        logits = self._read(slots, tokens, every)
        for slot, count in zip(slots, counts, strict=True):
            self.lengths[slot] += count
        return logits

    def copy(self, source: int, target: int, length: int) -> None:
        """Let a slot hold the first tokens of another, as of a system prompt that many texts begin with.

        Args:
            source: slot that holds them.
            target: slot; what it held is forgotten.
            length: how many.

        Raises:
            ValueError: the source holds fewer.
        """
        if not 0 <= length <= self.lengths[source]:
            raise ValueError(
                f"Decoder.copy: slot {source} holds {self.lengths[source]} tokens, got length {length}"
            )
        if source != target:
            self._copy(source, target, length)
        self.lengths[target] = length

    def cut(self, slot: int, length: int = 0) -> None:
        """Forget all that a slot holds but its first tokens.

        Raises:
            ValueError: it holds fewer.
        """
        if not 0 <= length <= self.lengths[slot]:
            raise ValueError(
                f"Decoder.cut: slot {slot} holds {self.lengths[slot]} tokens, got length {length}"
            )
        self.lengths[slot] = length

    @abstractmethod
    def _read(
        self, slots: Sequence[int], tokens: Sequence[Sequence[int]], every: bool
    ) -> Tensor: ...

    @abstractmethod
    def _copy(self, source: int, target: int, length: int) -> None: ...


def advance(decoder: Decoder, slots: Sequence[int], past: Sequence[Sequence[int]]) -> Tensor:
    """Logits after one more token of each slot; a full window goes on from its last half, read anew.

    Args:
        decoder: holds all but the last token of each.
        slots: N.
        past: by slot number, the tokens there, the new one included, as many as the window holds.

    Returns:
        (N, V).
    """
    full = {slot for slot in slots if decoder.lengths[slot] == decoder.window}
    for slot in full:
        decoder.cut(slot)
    half = -(-decoder.window // 2)
    return decoder.read(slots, [past[s][-half:] if s in full else past[s][-1:] for s in slots])
