"""Non-autoregressive Transformer: all target tokens at once. Gu et al. 2018, https://arxiv.org/abs/1711.02281.

The decoder's slots see one another and the source. How many there are is predicted from the encoder (Gu et al. 2018),
or there are more than enough, of which those after the first end token do not count, or several for each source token,
whose labels are merged as in connectionist temporal classification (Libovický & Helcl 2018; CTC: Graves et al. 2006).
A slot whose token is known, as in a further pass (Ghazvininejad et al. 2019) or while learning by glances (Qian et al.
2021), takes that token's embedding; the others take the source's, copied uniformly, or their mean, or the begin token's.
Shapes: B batch, S source time, N slots, W width, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fourfold.models.attention import lengths_mask
from fourfold.models.encoder_decoder import EncoderDecoder

Length = Literal["predicted", "ctc", "overlong"]
Input = Literal["copy", "uniform", "begin"]
REACH = 64
"""By how many tokens a target may be longer or shorter than its source; the predicted difference is one of these."""
SPARE = 4
"""Slots beyond those for each source token, so that short sources have room too."""
UNKNOWN = -1
"""A slot whose token is not known."""


class NonAutoregressive(EncoderDecoder):
    """An encoder, and a decoder that fills slots.

    Args:
        length: how many slots there are: as predicted, several for each source token with merged labels, or more
            than enough.
        input: what slots take that are not known.
        begin: the begin token.
        end: the end token, which is also CTC's blank: no target holds it.
        upsample: slots for each source token, with ctc and overlong.
        sizes: as for `EncoderDecoder`.
    """

    def __init__(
        self,
        *sizes: Any,
        length: Length = "ctc",
        input: Input = "copy",
        begin: int,
        end: int,
        upsample: float = 2.0,
        **more: Any,
    ) -> None:
        super().__init__(*sizes, causal=False, **more)
        self.length, self.input, self.upsample = length, input, upsample
        self.begin, self.end = begin, end
        if length == "predicted":
            self.difference = nn.Linear(self.width, 2 * REACH + 1)

    def room(self, lengths: Tensor) -> Tensor:
        """Slots of sources of so many tokens, (B,) int64, with ctc and overlong."""
        found = (lengths * self.upsample).ceil().to(torch.int64) + SPARE
        return found.clamp(max=self.window)

    def differences(self, memory: Tensor, lengths: Tensor) -> Tensor:
        """Logits of how much longer the target is than the source, (B, 2 REACH + 1), from the encoder's (B, S, W)."""
        within = lengths_mask(lengths, memory.shape[1])[:, 0, 0, :, None]
        mean = (memory * within).sum(1) / lengths[:, None]
        return self.difference(mean)

    def predicted(self, memory: Tensor, lengths: Tensor) -> Tensor:
        """The most likely number of target tokens, (B,) int64, at least 1."""
        most = self.differences(memory, lengths).argmax(-1) - REACH
        return (lengths + most).clamp(1, self.window)

    def forward(  # type: ignore[override]  # it reads no target
        self,
        source: Tensor,
        lengths: Tensor,
        memory: Tensor,
        keep: Tensor | None,
        slots: Tensor,
        known: Tensor | None = None,
    ) -> Tensor:
        """Features of which `head` makes the logits of every slot's token.

        Args:
            source: (B, S) int64.
            lengths: (B,) int64, tokens of each source.
            memory: (B, S, W), from `encode`, with `keep`.
            keep: (B, 1, 1, S) bool, or None.
            slots: (B,) int64, slots of each row, at least 1.
            known: (B, N) int64, the tokens that are known, `UNKNOWN` elsewhere; None where none is.

        Returns:
            (B, N, W) with N the most slots; what is beyond a row's slots is arbitrary.
        """
        count = int(slots.max())
        x = self._unknown(source, lengths, slots, count)
        if known is not None:
            told = self.target_embedding(known.clamp(min=0))
            x = torch.where((known >= 0)[..., None], told, x)
        x = self.dropout(self.target_positions.add(x * math.sqrt(self.width)))
        seen = None if bool((slots == count).all()) else lengths_mask(slots, count)
        return self.decode(x, memory, keep, seen)

    def _unknown(self, source: Tensor, lengths: Tensor, slots: Tensor, count: int) -> Tensor:
        """What slots take that are not known, (B, N, W) or (B, 1, W)."""
        if self.input == "begin":
            return self.target_embedding.weight[self.begin].expand(len(source), count, -1)
        embedded = self.source_embedding(source)
        if self.input == "uniform":
            within = lengths_mask(lengths, source.shape[1])[:, 0, 0, :, None]
            mean = (embedded * within).sum(1, keepdim=True) / lengths[:, None, None]
            return mean.expand(-1, count, -1)
        at = torch.arange(count, device=source.device) * lengths[:, None] // slots[:, None]
        places = torch.minimum(at, lengths[:, None] - 1)  # (B, N)
        return embedded.gather(1, places[..., None].expand(-1, -1, self.width))
