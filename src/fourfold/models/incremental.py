"""An encoder-decoder Transformer that writes one token a row at a time, with cached keys and values.

What the source's keys and values are is computed once; a step's own keys and values are added to those before it.
All rows are at the same place, as they begin together. Several rows may translate one source (the hypotheses of a
beam): its keys and values are there once. Shapes: R rows, G sources, S source time, P places written, H heads,
D features of a head, W width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from fourfold.models.attention import attention, looking
from fourfold.models.encoder_decoder import (
    CrossAttention,
    DecoderLayer,
    EncoderDecoder,
    SelfAttention,
)
from fourfold.models.products import with_products

ROOM = 32
"""Places that a cache begins with; full, it is doubled."""
Caches = tuple[tuple[Tensor, Tensor], ...]
"""By layer keys and values."""


@dataclass(frozen=True)
class State:
    """What was read and written so far. `next` writes into it: a state is used once."""

    cross: Caches
    """Of the source, each (G, H, S, D)."""
    keep: Tensor | None
    """(G, 1, 1, S) bool, True at the source's tokens; None where every row is full."""
    past: Caches
    """Of what was written so far, each (R, H, room, D)."""
    place: int
    """Tokens written."""
    rows: int
    """R, a multiple of G: rows of one source stand side by side."""
    looked: Tensor | None = None
    """(R, S), where the last step looked in the source, for `Attending`."""


class Incremental:
    """A `Stepper` over an encoder-decoder Transformer.

    Args:
        model: not changed, its weights are copied.
        dtype: of the linear layers' products; None takes the faster one here. Embeddings, sums, norms and attention
            to what was written are in the model's own format.
    """

    def __init__(self, model: EncoderDecoder, dtype: torch.dtype | None = None) -> None:
        self.model = with_products(model, dtype)

    @torch.inference_mode()
    def begin(self, source: Tensor, lengths: Tensor) -> State:
        """Read the sources.

        Args:
            source: (R, S) int64, any token after a row's end.
            lengths: (R,) int64, tokens of each.
        """
        model = self.model
        memory, keep = model.encode(source, lengths)
        split = (2, model.heads, model.width // model.heads)
        cross, past = [], []
        for layer in model.decoder:
            both = layer.cross.key_value(memory).unflatten(-1, split)  # type: ignore[union-attr, operator]
            keys, values = both.permute(2, 0, 3, 1, 4).to(memory.dtype).contiguous()
            cross.append((keys, values))
            room = (len(source), model.heads, min(ROOM, model.window), split[-1])
            past.append((memory.new_empty(room), memory.new_empty(room)))
        return State(tuple(cross), keep, tuple(past), 0, len(source))

    @torch.inference_mode()
    def next(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Write one more token of every row.

        Args:
            state: used up.
            tokens: (R,) int64.

        Returns:
            (R, V) float logits of what follows, and the state after.

        Raises:
            ValueError: the window is full.
        """
        model, place, past = self.model, state.place, state.past
        if place == past[0][0].shape[2]:
            past = tuple((torch.cat((k, k), dim=2), torch.cat((v, v), dim=2)) for k, v in past)
        x = model.embed(model.target_embedding, model.target_positions, tokens[:, None], place)
        for i in range(len(model.decoder)):
            layer: DecoderLayer = model.decoder[i]  # type: ignore[assignment]
            x = layer.around_attention(x, partial(self._own, layer.attention, i, place, past[i]))
            x = layer.around_cross(x, partial(_cross, layer.cross, state.cross[i], state.keep))
            x = layer.around_feedforward(x, layer.feedforward)
        logits = model.head(model.decoder_norm(x))[:, 0].to(x.dtype)
        return logits, replace(state, past=past, place=place + 1)

    def _own(
        self,
        attention: SelfAttention,
        layer: int,
        place: int,
        past: tuple[Tensor, Tensor],
        x: Tensor,
    ) -> Tensor:
        """Attention of one new place, (R, 1, W), to all places written; its key and value are added to them."""
        positions = self.model.target_positions
        here = torch.tensor([place], device=x.device)
        parts = attention.query_key_value(x).unflatten(-1, (3, attention.heads, -1))
        q, k, v = parts.to(past[0].dtype).unbind(2)  # each (R, 1, H, D)
        q = q * attention.factor
        past[0][:, :, place] = positions.turn(k, here)[:, :, 0]
        past[1][:, :, place] = v[:, 0]
        keys, values = (cache[:, :, : place + 1] for cache in past)
        mixed = positions.attend(positions.turn(q, here), keys, values, layer=layer, causal=False)
        return attention.out(mixed.transpose(1, 2).flatten(-2))

    @torch.inference_mode()
    def reorder(self, state: State, rows: Tensor) -> State:
        """Go on with some rows, each as often as it is named.

        Args:
            state: used up.
            rows: (R',) int64, the row that each new row goes on from.
        """
        groups = len(state.cross[0][0])
        sources = rows.div(state.rows // groups, rounding_mode="floor")
        each, counts = torch.unique_consecutive(sources, return_counts=True)
        if bool((counts == counts[0]).all()):
            # rows of one source still stand side by side, and every source has as many
            sources = each
        cross, keep = state.cross, state.keep
        if not torch.equal(sources, torch.arange(groups, device=rows.device)):
            cross = tuple((k[sources], v[sources]) for k, v in cross)
            keep = None if keep is None else keep[sources]
        past = tuple((k[rows], v[rows]) for k, v in state.past)
        return State(cross, keep, past, state.place, len(rows))


class Attending(Incremental):
    """The same, and says where in the source it looks: the last layer's weights, a mean over its heads."""

    def next(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """See `Incremental.next`."""
        with looking() as looked:
            logits, after = super().next(state, tokens)
        weights = looked[-1].weights(
            len(looked[-1].q)
        )  # of the last layer's look at the source, (G, H, R / G, S)
        return logits, replace(after, looked=weights.mean(1).flatten(0, 1))

    def attended(self, state: State) -> Tensor:
        """Weights over the source's tokens, (R, S), of the last call of `next`."""
        if state.looked is None:
            raise ValueError("Attending expects a state after next(), got one before")
        return state.looked


def _cross(
    cross: CrossAttention, source: tuple[Tensor, Tensor], keep: Tensor | None, x: Tensor
) -> Tensor:
    """Attention of one new place of every row, (R, 1, W), to the sources."""
    keys, values = source
    # the rows of one source stand where other models have time: nothing is repeated
    q = cross.query(x).view(len(keys), -1, cross.heads, keys.shape[-1]).transpose(1, 2)
    q = q * cross.factor
    mixed = attention(q.to(keys.dtype), keys, values, causal=False, keep=keep)
    return cross.out(mixed.transpose(1, 2).reshape(len(x), 1, -1))
