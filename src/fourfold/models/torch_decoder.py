"""Decoding by torch: every Transformer on every device, the plain reference of other decoders.

Shapes: N slots read into, S slots there are, R rows (one for each token that is read), W width, H heads, K key-value
heads, D features of a head, P positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends.mkldnn import is_available as has_onednn

from fourfold.core.device import gains_from_bfloat16
from fourfold.models.adapters import merged
from fourfold.models.attention import attention
from fourfold.models.decoder import Decoder
from fourfold.models.transformer import Cache, Transformer


class _Product:
    """x to x W' + b, with W in the form that is fastest for a few rows.

    In bfloat16 on a CPU the weights are reordered once for oneDNN, which otherwise does it at
    every call: a vector of 384 by 1152 weights takes 50 microseconds instead of 117 (float32: 182).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, rows: int) -> None:
        self.weight, self.dtype = weight.to(dtype).contiguous(), dtype
        self.bias = None if bias is None else bias.to(dtype).contiguous()
        self.reordered: Any = None
        if (weight.device.type, dtype) == ("cpu", torch.bfloat16) and has_onednn():
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, rows)
            self.reordered = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        """(B, N) to (B, M), in the dtype of x."""
        if self.reordered:
            wide = self.reordered(x.bfloat16(), self.weight, self.bias, "none", [], "")
        else:
            wide = F.linear(x.to(self.dtype), self.weight, self.bias)
        return wide.to(x.dtype)


def folded(norm: Any, linears: Sequence[Any], dtype: torch.dtype, rows: int) -> _Product:
    """Linear layers of one input as one product, with the weight and bias of the norm before them in it."""
    weight = torch.cat([linear.weight for linear in linears])
    biased = linears[0].bias is not None
    bias = torch.cat([linear.bias for linear in linears]) if biased else None
    if norm is not None:
        if getattr(norm, "bias", None) is not None:
            more = weight @ norm.bias
            bias = more if bias is None else bias + more
        weight = weight * norm.weight
    return _Product(weight, bias, dtype, rows)


class StepLayer:
    """A block's weights as one step wants them: joined by input, the norms' weights multiplied in."""

    def __init__(self, block: Any, dtype: torch.dtype, other: torch.dtype, rows: int) -> None:
        attention, feedforward = block.attention, block.feedforward
        into = [attention.query, attention.key, attention.value]
        self.into_heads = folded(block.attention_norm, into, dtype, rows)
        self.out = folded(None, [attention.out], dtype, rows)
        self.gated, self.function = hasattr(feedforward, "gate"), feedforward.function
        up = [feedforward.gate, feedforward.up] if self.gated else [feedforward.up]
        self.up = folded(block.feedforward_norm, up, dtype, rows)
        self.down = folded(None, [feedforward.down], dtype, rows)
        self.sliding: int | None = attention.sliding
        self.norms: Tensor | None = None  # (H + K, D)
        if attention.query_norm is not None:
            pairs = (attention.query, attention.query_norm), (attention.key, attention.key_norm)
            size = attention.head_dim
            weights = [n.weight.expand(p.out_features // size, size) for p, n in pairs]
            self.norms = torch.cat(weights).to(other)

    def feed(self, x: Tensor) -> Tensor:
        """The feed-forward's change of normalized states, (B, W)."""
        if not self.gated:
            return self.down(self.function(self.up(x)))
        gate, up = self.up(x).chunk(2, dim=-1)
        return self.down(self.function(gate) * up)


class TorchDecoder(Decoder):
    """See `Decoder`.

    Args:
        model: in evaluation mode; not changed; its weights are copied, adapters merged into them.
        slots: S.
        dtype: of the weights that a step multiplies by; None takes the faster one. Without a
            GPU everything else stays float32.
        window: see `Decoder`; None takes the model's.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: Transformer,
        slots: int,
        dtype: torch.dtype | None = None,
        window: int | None = None,
    ) -> None:
        model = merged(model)
        self.model, self.window = model, min(window or model.window, model.window)
        self.slots, self.vocabulary, self.lengths = slots, model.vocabulary, [0] * slots
        place = model.embedding.weight
        self.device = place.device
        self.dtype = dtype or _faster_dtype(model)
        self.other = self.dtype if place.device.type == "cuda" else torch.float32
        self.layers = [StepLayer(block, self.dtype, self.other, slots) for block in model.blocks]
        self.head = folded(model.norm, [model.head], self.dtype, slots)
        self.head_dim = model.head_dim
        self.turns: tuple[Tensor, Tensor] | None = None
        if (turns := model.positions.turns(self.window)) is not None:
            cos, sin = turns
            self.turns = (
                torch.cat((cos, cos), -1).to(self.other),  # (P, D)
                torch.cat((-sin, sin), -1).to(self.other),
            )
        shape = (slots, model.kv_heads, self.window, self.head_dim)
        self.cache: Cache = [
            (place.new_zeros(shape, dtype=self.other), place.new_zeros(shape, dtype=self.other))
            for _ in self.layers
        ]

    @torch.inference_mode()
    def _copy(self, source: int, target: int, length: int) -> None:
        for keys, values in self.cache:
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]

    @torch.inference_mode()
    def _read(self, slots: Sequence[int], tokens: Sequence[Sequence[int]], every: bool) -> Tensor:
        begin = [n for n, s in enumerate(slots) if not self.lengths[s] and len(tokens[n]) > 1]
        if len(begin) == len(slots):
            return torch.cat(self._begin(slots, tokens, every))
        if not begin:
            return self._go_on(slots, tokens, every)
        on = [n for n in range(len(slots)) if n not in {*begin}]
        parts: dict[int, Tensor] = {}
        for some, how in ((begin, self._begin), (on, self._go_on)):
            found = how([slots[n] for n in some], [tokens[n] for n in some], every)
            if isinstance(found, Tensor):
                found = list(found.split([len(tokens[n]) if every else 1 for n in some]))
            parts |= dict(zip(some, found, strict=True))
        return torch.cat([parts[n] for n in range(len(slots))])

    def _begin(
        self, slots: Sequence[int], tokens: Sequence[Sequence[int]], every: bool
    ) -> list[Tensor]:
        """Read prompts into empty slots, by the model itself: logits of each, (1 or T, V)."""
        if list(slots) != list(range(slots[0], slots[0] + len(slots))):
            found = [self._begin([s], [t], every) for s, t in zip(slots, tokens, strict=True)]
            return [one for some in found for one in some]
        lengths, place = [len(some) for some in tokens], self.device
        # shorter ones are filled at their end, which causal attention never shows to what precedes
        filled = torch.tensor([[*p, *[0] * (max(lengths) - len(p))] for p in tokens], device=place)
        rows = slice(slots[0], slots[-1] + 1)
        lowered = self.dtype != torch.float32
        with torch.autocast(place.type, self.dtype, enabled=lowered):
            states = self.model.states(filled, [(k[rows], v[rows]) for k, v in self.cache])
            if every:
                wanted = torch.cat([s[:n] for s, n in zip(states, lengths, strict=True)])
                return list(self.model.head(wanted).split(lengths))
            last = states[torch.arange(len(slots)), torch.tensor(lengths) - 1]
            return list(self.model.head(last).split(1))

    def _go_on(self, slots: Sequence[int], tokens: Sequence[Sequence[int]], every: bool) -> Tensor:
        """Read tokens after what slots hold, each a row: all products are of (R, ...)."""
        model, view = self.model, _View(self, slots, [len(some) for some in tokens])
        read = torch.tensor([token for some in tokens for token in some], device=self.device)
        x = model.embedding.weight[read].to(self.other)
        if view.each is not None and self.turns is None:
            x = model.positions.add(x.unsqueeze(1), view.each).squeeze(1)  # (R, W)
        for number, (layer, cache) in enumerate(zip(self.layers, self.cache, strict=True)):
            q, k, v = self._heads(layer, layer.into_heads(self._normal(x)), view)
            view.keep(cache, k, v)
            mix = self._mixed if view.single else self._mixed_several
            mixed = mix(layer, number, q, cache, view)
            x = x + layer.out(mixed.reshape(len(x), -1))
            x = x + layer.feed(self._normal(x))
        if not every and not view.single:
            x = x[torch.tensor(view.counts).cumsum(0).to(self.device) - 1]
        return self.head(self._normal(x))

    def _normal(self, x: Tensor) -> Tensor:
        if self.model.form.norm == "layer":
            return F.layer_norm(x, x.shape[-1:], None, None, self.model.eps)
        return F.rms_norm(x, x.shape[-1:], None, self.model.eps)

    def _heads(self, layer: StepLayer, heads: Tensor, view: _View) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (R, H, D), keys and values (R, K, D), normalized and turned to their positions."""
        model = self.model
        heads = heads.view(len(heads), -1, self.head_dim)
        turned = heads[:, : model.heads + model.kv_heads]
        if layer.norms is not None:
            turned = F.rms_norm(turned, (self.head_dim,), None, model.eps) * layer.norms
        if view.turn is not None:
            cos, sin = view.turn
            turned = torch.addcmul(turned * cos, turned.roll(self.head_dim // 2, -1), sin)
        q, k = turned.split((model.heads, model.kv_heads), dim=1)
        if model.form.factor != 1:
            q = q * model.form.factor
        return q, k, heads[:, model.heads + model.kv_heads :]

    def _mixed(
        self, layer: StepLayer, number: int, q: Tensor, cache: tuple[Tensor, Tensor], view: _View
    ) -> Tensor:
        """What each head draws from the values so far, one row a slot: N * H * D numbers, in that order."""
        positions, kv_heads = self.model.positions, self.model.kv_heads
        begin = view.begin(layer.sliding)
        keys, values = (kept[view.slots, :, begin : view.count] for kept in cache)
        seen = view.seen(layer.sliding)
        if not positions.biased or view.each is None:
            # the queries that share a key stand where other models have time: no key is repeated
            shared = q.view(len(q), kv_heads, -1, self.head_dim)
            return F.scaled_dot_product_attention(shared, keys, values, attn_mask=seen)
        places = view.each, torch.arange(begin, view.count, device=self.device)
        return positions.attend(
            q.unsqueeze(2), keys, values, places=places, layer=number, causal=False, keep=seen
        )

    def _mixed_several(
        self, layer: StepLayer, number: int, q: Tensor, cache: tuple[Tensor, Tensor], view: _View
    ) -> Tensor:
        """As `_mixed`, where a slot has several rows: (R, H, D)."""
        positions, found = self.model.positions, []
        for slot, end, rows in zip(view.numbers, view.ends, q.split(view.counts), strict=True):
            queries = rows.transpose(0, 1)[None]  # (1, H, T, D)
            keys, values = (kept[slot : slot + 1, :, :end] for kept in cache)
            if positions.biased:
                mixed = positions.attend(queries, keys, values, layer=number, sliding=layer.sliding)
            else:
                mixed = attention(queries, keys, values, sliding=layer.sliding)
            found.append(mixed[0].transpose(0, 1))
        return torch.cat(found)


class _View:
    """Where the rows of one reading stand, and what they see."""

    def __init__(self, decoder: TorchDecoder, slots: Sequence[int], counts: list[int]) -> None:
        device = decoder.device
        self.numbers, self.counts = slots, counts
        self.ends = [decoder.lengths[s] + c for s, c in zip(slots, counts, strict=True)]
        at = [p for end, c in zip(self.ends, counts, strict=True) for p in range(end - c, end)]
        self.single = max(counts) == 1
        self.same, self.first, self.count = min(at) == max(at), at[0], max(at) + 1
        neighbours = list(slots) == list(range(slots[0], slots[0] + len(slots)))
        self.slots: slice | Tensor = slice(slots[0], slots[-1] + 1)
        if not neighbours:
            self.slots = torch.tensor(slots, device=device)
        self.each: Tensor | None = None  # (R, 1) int64
        # where all rows stand at one place and only tables are read, a slice does: no index is made
        if not self.same or decoder.turns is None:
            self.each = torch.tensor(at, device=device).unsqueeze(1)
        self.where: Any = (self.slots, slice(None), self.first)
        if not self.same:
            rows = [s for s, c in zip(slots, counts, strict=True) for _ in range(c)]
            self.where = (torch.tensor(rows, device=device), slice(None), self.each[:, 0])  # type: ignore[index]
        self.turn: tuple[Tensor, Tensor] | None = None
        if decoder.turns is not None:
            cos, sin = decoder.turns
            which = slice(self.first, self.count) if self.same else self.each[:, 0]  # type: ignore[index]
            self.turn = cos[which].unsqueeze(1), sin[which].unsqueeze(1)  # (R or 1, 1, D)
        self._seen: dict[int | None, Tensor] = {}

    def keep(self, cache: tuple[Tensor, Tensor], k: Tensor, v: Tensor) -> None:
        """Write each row's key and value, (R, K, D), at its place."""
        cache[0][self.where], cache[1][self.where] = k, v

    def begin(self, sliding: int | None) -> int:
        """The first key that any row may see."""
        return max(0, self.count - sliding) if self.same and sliding else 0

    def seen(self, sliding: int | None) -> Tensor | None:
        """Which keys each row sees, (R, 1, 1, P) bool; None where it is all of them."""
        if self.same or self.each is None:
            return None
        if sliding not in self._seen:
            keys = torch.arange(self.count, device=self.each.device)
            seen = keys <= self.each
            if sliding is not None:
                seen &= keys > self.each - sliding
            self._seen[sliding] = seen[:, None, None]
        return self._seen[sliding]


def _faster_dtype(model: Transformer) -> torch.dtype:
    fast = gains_from_bfloat16(model.embedding.weight.device.type)
    return torch.bfloat16 if fast else torch.float32
