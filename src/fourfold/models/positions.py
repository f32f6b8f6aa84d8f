"""How a Transformer knows where a token stands: every scheme behind one set of calls.

Added to the embeddings: sinusoidal (Vaswani et al. 2017; sines and cosines interleaved, in halves, or sines
alone), circular (whole turns within the window), learned (Gehring et al. 2017), random (fixed normal vectors).
Turning queries and keys: rotary (Su et al. 2021, in the layout of Hugging Face's Llama: feature i turns with
feature i + D/2; linear and Llama 3's scaling). Added to the scores: relative vectors (Shaw et al. 2018, keys and
values), T5's buckets (Raffel et al. 2020), ALiBi (Press et al. 2022). Or none.
Shapes: B batch, T queries, S keys, W width, H heads, D features of a head, P = window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fourfold.core.errors import nearest
from fourfold.models.attention import attention, attention_weights, note
from fourfold.models.attention_forms import repeated
from fourfold.models.position_tables import (
    WAVES,
    alibi_slopes,
    rotary_table,
    rotate,
    t5_bucket,
)
from fourfold.models.segments import Segments

Kind = Literal[
    "rotary",
    "sinusoidal",
    "sinusoidal_halves",
    "sines",
    "circular",
    "learned",
    "random",
    "shaw",
    "t5",
    "alibi",
    "none",
]
KINDS: tuple[str, ...] = get_args(Kind)
Turns = tuple[Tensor, Tensor]
"""Cosines and sines, each (T, D / 2) or (B, T, D / 2)."""


class Positions(nn.Module):
    """No positions: what every scheme overrides in part.

    `places` are whole numbers, (T,) or (B, T) int64; None means 0 to T - 1.
    """

    turning = False
    """Whether queries and keys are turned."""
    biased = False
    """Whether something is added to the scores."""
    compares = False
    """Whether what is added depends on the queries, and so on the layer."""

    def reset(self, device: torch.device | str) -> None:
        """Compute the tables that are not stored with the weights, on a device."""

    def add(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        """Embeddings (B, T, W) with what the scheme adds to them."""
        return x

    def turns(self, time: int, places: Tensor | None = None) -> Turns | None:
        """What `rotate` takes, for T positions; None where nothing turns."""
        return None

    def turn(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        """Queries or keys (B, T, H, D) as (B, H, T, D), turned if the scheme turns them."""
        turns = self.turns(x.shape[1], places)
        return x.transpose(1, 2) if turns is None else rotate(x, *(t.to(x.dtype) for t in turns))

    def bias(
        self, queries: Tensor, keys: Tensor, q: Tensor | None = None, layer: int = 0
    ) -> Tensor | None:
        """What is added to the scores.

        Args:
            queries: places of the queries, (T,) or (B, T) int64.
            keys: places of the keys, (S,) or (B, S) int64.
            q: (B, H, T, D), which Shaw's scheme compares with its vectors.
            layer: number of the block; Shaw's vectors are of each block its own.

        Returns:
            Float, broadcastable to (B, H, T, S), or None.
        """
        return None

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        bias: Tensor | None = None,
        places: tuple[Tensor, Tensor] | None = None,
        layer: int = 0,
        causal: bool = True,
        keep: Tensor | None = None,
        segments: Tensor | Segments | None = None,
        scale: float | None = None,
        sliding: int | None = None,
    ) -> Tensor:
        """Self-attention with the scheme's bias.

        Args:
            q: (B, H, T, D), turned already, as k.
            k: (B, H_kv, S, D).
            v: as k.
            bias: what `bias` gave for the same places, where a caller computed it once for all layers.
            places: of queries and keys, as for `bias`; None: the keys' are 0 to S - 1, the queries the last T of them.
            layer: number of the block.
            causal: as for `attention`, and so all the rest.
        """
        if self.biased and bias is None:
            bias = self.bias(*(places or _last(q, k)), q, layer)
        return attention(
            q, k, v, causal=causal, keep=keep, segments=segments, bias=bias, scale=scale, sliding=sliding
        )  # fmt: skip


def _last(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    keys = torch.arange(k.shape[2], device=q.device)
    return keys[k.shape[2] - q.shape[2] :], keys


class Rotary(Positions):
    """Each pair of features turns by an angle that grows with the place; products see the distance alone."""

    cos: Tensor
    sin: Tensor
    turning = True

    def __init__(
        self, head_dim: int, window: int, base: float, scaling: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.head_dim, self.window, self.base, self.scaling = head_dim, window, base, scaling
        cos, sin = rotary_table(window, head_dim, base, scaling)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def reset(self, device: torch.device | str) -> None:
        """See `Positions.reset`."""
        tables = rotary_table(self.window, self.head_dim, self.base, self.scaling)
        self.cos, self.sin = (table.to(device) for table in tables)

    def turns(self, time: int, places: Tensor | None = None) -> Turns:
        """See `Positions.turns`."""
        if places is None:
            return self.cos[:time], self.sin[:time]
        return self.cos[places], self.sin[places]


class Table(Positions):
    """A vector for each place, added to the embeddings: computed, or drawn once and stored with the weights."""

    weight: Tensor

    def __init__(
        self, kind: str, width: int, window: int, base: float, amplitude: float, seed: int
    ) -> None:
        super().__init__()
        self.kind, self.base, self.amplitude, self.seed = kind, base, amplitude, seed
        self.register_buffer("weight", self._made(window, width), persistent=kind == "random")

    def _made(self, window: int, width: int) -> Tensor:
        if self.kind == "random":
            noise = torch.Generator().manual_seed(self.seed)
            made = torch.randn(window, width, generator=noise, device="cpu")
        else:  # their root mean square is the square root of a half
            made = (WAVES[self.kind](window, width, self.base) * 2**0.5).float()
        return made * self.amplitude

    def reset(self, device: torch.device | str) -> None:
        """See `Positions.reset`."""
        if self.kind != "random":
            self.weight = self._made(*self.weight.shape).to(device)

    def add(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        """See `Positions.add`."""
        found = self.weight[: x.shape[1]] if places is None else self.weight[places]
        return x + found.to(x.dtype)


class Learned(Positions):
    """A vector for each place, learned like the embeddings it is added to."""

    def __init__(self, width: int, window: int, amplitude: float) -> None:
        super().__init__()
        self.table = nn.Embedding(window, width)
        nn.init.normal_(self.table.weight, 0.0, amplitude)

    def add(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        """See `Positions.add`."""
        weight = self.table.weight
        found = weight[: x.shape[1]] if places is None else self.table(places)
        return x + found.to(x.dtype)


class Shaw(Positions):
    """A vector for each distance up to `farthest`, compared with the queries, and one added to the values.

    Each layer has its own, which its heads share.
    """

    biased = True
    compares = True

    def __init__(self, head_dim: int, layers: int, farthest: int) -> None:
        super().__init__()
        self.farthest = farthest
        self.keys = nn.Parameter(torch.empty(layers, 2 * farthest + 1, head_dim))
        self.values = nn.Parameter(torch.empty(layers, 2 * farthest + 1, head_dim))
        for weight in (self.keys, self.values):
            nn.init.normal_(weight, 0.0, 0.02)

    def distances(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Number of each pair's vector, (T, S) or (B, T, S) int64."""
        between = keys[..., None, :] - queries[..., :, None]
        return between.clamp(-self.farthest, self.farthest) + self.farthest

    def bias(
        self, queries: Tensor, keys: Tensor, q: Tensor | None = None, layer: int = 0
    ) -> Tensor:
        """See `Positions.bias`: (B, H, T, S), scaled by D ** -0.5 as the scores are."""
        if q is None:
            raise ValueError("Shaw's positions expect the queries q, got None")
        number = self.distances(queries, keys)
        number = number[None, None] if number.ndim == 2 else number[:, None]
        products = (q * q.shape[-1] ** -0.5) @ self.keys[layer].T.to(q.dtype)  # (B, H, T, 2 F + 1)
        return products.gather(-1, number.expand(*q.shape[:3], number.shape[-1]))

    def mix(self, weights: Tensor, queries: Tensor, keys: Tensor, layer: int = 0) -> Tensor:
        """The mean of the distances' value vectors, (B, H, T, D), from weights (B, H, T, S)."""
        number = self.distances(queries, keys)
        number = number[None, None] if number.ndim == 2 else number[:, None]
        shares = weights.new_zeros(*weights.shape[:3], 2 * self.farthest + 1)
        shares = shares.scatter_add(-1, number.expand_as(weights), weights)
        return shares @ self.values[layer].to(weights.dtype)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        bias: Tensor | None = None,
        places: tuple[Tensor, Tensor] | None = None,
        layer: int = 0,
        scale: float | None = None,
        **told: Any,
    ) -> Tensor:
        """See `Positions.attend`."""
        queries, keys = places or _last(q, k)
        if scale is not None:
            raise ValueError(
                "Shaw's positions have the scale D ** -0.5 of their paper, got another"
            )
        bias = self.bias(queries, keys, q, layer)
        note(q, k, v, bias=bias, **told)
        weights = attention_weights(q, k, bias=bias, **told).to(v.dtype)
        return weights @ repeated(q, v) + self.mix(weights, queries, keys, layer)


class T5(Positions):
    """A learned number for each head and range of distances: exact when near, wider ranges further away."""

    biased = True

    def __init__(self, heads: int, causal: bool, buckets: int, farthest: int) -> None:
        super().__init__()
        self.causal, self.farthest = causal, farthest
        self.table = nn.Embedding(buckets, heads)
        nn.init.normal_(self.table.weight, 0.0, 0.02)

    def bias(
        self, queries: Tensor, keys: Tensor, q: Tensor | None = None, layer: int = 0
    ) -> Tensor:
        """See `Positions.bias`: (1 or B, H, T, S)."""
        between = keys[..., None, :] - queries[..., :, None]
        number = t5_bucket(between, not self.causal, self.table.num_embeddings, self.farthest)
        found = self.table(number).movedim(-1, -3)  # (..., H, T, S)
        return found if found.ndim == 4 else found[None]


class ALiBi(Positions):
    """Minus the distance times a slope of each head; nothing is learned, and it goes on beyond the window."""

    biased = True
    slopes: Tensor

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.register_buffer("slopes", torch.tensor(alibi_slopes(heads)), persistent=False)

    def reset(self, device: torch.device | str) -> None:
        """See `Positions.reset`."""
        self.slopes = torch.tensor(alibi_slopes(len(self.slopes)), device=device)

    def bias(
        self, queries: Tensor, keys: Tensor, q: Tensor | None = None, layer: int = 0
    ) -> Tensor:
        """See `Positions.bias`: (1 or B, H, T, S)."""
        between = (keys[..., None, :] - queries[..., :, None]).abs().to(self.slopes.dtype)
        found = -between[..., None, :, :] * self.slopes[:, None, None]
        return found if found.ndim == 4 else found[None]


def make_positions(
    kind: str,
    *,
    width: int,
    heads: int,
    window: int,
    layers: int = 1,
    head_dim: int | None = None,
    causal: bool = True,
    base: float = 10_000.0,
    scaling: Mapping[str, Any] | None = None,
    amplitude: float = 2**-0.5,
    farthest: int | None = None,
    buckets: int = 32,
    seed: int = 0,
) -> Positions:
    """A scheme of positions by its name.

    Args:
        kind: one of `KINDS`.
        width: features of an embedding, W.
        heads: attention heads, H.
        window: places there are, P; ALiBi, T5, Shaw and none take more.
        layers: blocks that Shaw's scheme serves.
        head_dim: features of a head, D; None means W / H.
        causal: whether what follows is hidden; T5 then spends all its buckets on what precedes.
        base: the longest wavelength of rotary and sinusoidal positions, over 2 pi.
        scaling: of rotary positions, as in a Hugging Face config: {"rope_type": "linear", "factor": 2.0} and the like.
        amplitude: root mean square of an entry of the vectors that are added; the default gives sinusoids of height
            1, for embeddings multiplied by sqrt(W) (Vaswani et al. 2017).
        farthest: distance from which all are alike; None means 16 for shaw, 128 for t5.
        buckets: T5's ranges of distances.
        seed: of the random vectors.

    Raises:
        ValueError: another kind, an odd number of features where pairs turn, or a scaling that is not known.
    """
    size = head_dim or width // heads
    if kind not in KINDS:
        raise ValueError(
            f'positions: no kind "{kind}"{nearest(kind, KINDS)}; there are {", ".join(KINDS)}'
        )
    paired = {"rotary": size, "sinusoidal": width, "sinusoidal_halves": width, "circular": width}
    if paired.get(kind, 0) % 2:
        raise ValueError(
            f"positions {kind}: expected an even number of features, got {paired[kind]}"
        )
    if scaling and kind != "rotary":
        raise ValueError(f"positions {kind}: a scaling is for rotary positions only")
    match kind:
        case "rotary":
            return Rotary(size, window, base, scaling)
        case "shaw":
            return Shaw(size, layers, 16 if farthest is None else farthest)
        case "t5":
            return T5(heads, causal, buckets, 128 if farthest is None else farthest)
        case "alibi":
            return ALiBi(heads)
        case "none":
            return Positions()
        case "learned":
            return Learned(width, window, amplitude)
    return Table(kind, width, window, base, amplitude, seed)
