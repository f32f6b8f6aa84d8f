"""Decoder-only Transformer, by default in today's standard form, Llama's: Touvron et al. 2023.

Pre-normalization with RMSNorm (Zhang & Sennrich 2019), rotary positions (Su et al. 2021), SwiGLU
(Shazeer 2020), grouped-query attention (Ainslie et al. 2023), no biases, output weights tied to
the embedding or not. By its options it is GPT-2 (Radford et al. 2019), Mistral (Jiang et al. 2023),
Qwen2 or Qwen3 (Yang et al. 2024, 2025) as well, or has any other scheme of positions
(`models/positions.py`). Shapes: B batch, T time, W width, H heads, D features of a head, F hidden,
V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fourfold.core.errors import nearest
from fourfold.models.attention import attention
from fourfold.models.feedforward import FEEDFORWARDS, GATED, make_feedforward
from fourfold.models.norms import NORMS, normalization
from fourfold.models.norms import RMSNorm as RMSNorm
from fourfold.models.position_tables import rotate
from fourfold.models.positions import Positions, make_positions
from fourfold.models.segments import Segments

Cache = list[tuple[Tensor, Tensor]]
"""Per layer the turned keys and the values, each (B, H_kv, positions, D)."""
BIASES = ("none", "qkv", "attention", "all")
DEVIATION = 0.02
"""Of weights when they are drawn, and of what is added to the embeddings for their places."""


class Form(NamedTuple):
    """What the blocks of a Transformer are like; see there."""

    width: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    dropout: float
    eps: float
    norm: str
    feedforward: str
    bias: str
    query_key_norm: bool
    positions: str
    sliding: tuple[int | None, ...]
    scale: float | None = None

    @property
    def factor(self) -> float:
        """What queries are multiplied by, so that products scaled by D ** -0.5 are scaled by `scale`."""
        return 1.0 if self.scale is None else self.scale * self.head_dim**0.5

    def check(self) -> None:
        """Refuse names that do not exist."""
        known: dict[str, Sequence[str]] = {
            "norm": NORMS,
            "feedforward": FEEDFORWARDS,
            "bias": BIASES,
        }
        for field, names in known.items():
            value = getattr(self, field)
            if value not in names:
                raise ValueError(
                    f'Transformer, {field}: no "{value}"{nearest(value, names)}; there are {", ".join(names)}'
                )
        for sliding in self.sliding:
            if sliding is not None and sliding < 1:
                raise ValueError(f"Transformer expects sliding >= 1, got {sliding}")


def _by_layer(sliding: int | Sequence[int | None] | None, layers: int) -> tuple[int | None, ...]:
    if sliding is None or isinstance(sliding, int):
        return (sliding,) * layers
    if len(sliding) != layers:
        raise ValueError(f"Transformer expects sliding for {layers} layers, got {len(sliding)}")
    return tuple(sliding)


class Attention(nn.Module):
    """Causal self-attention; `kv_heads` keys and values each serve heads / kv_heads queries.

    Args:
        form: sizes and options of the Transformer.
        layer: number of the block.
    """

    query_norm: RMSNorm | None
    key_norm: RMSNorm | None

    def __init__(self, form: Form, layer: int) -> None:
        super().__init__()
        self.head_dim, self.layer, self.sliding = form.head_dim, layer, form.sliding[layer]
        self.factor = form.factor
        inner, shared = form.heads * form.head_dim, form.kv_heads * form.head_dim
        biased = form.bias in ("qkv", "attention", "all")
        self.query = nn.Linear(form.width, inner, bias=biased)
        self.key = nn.Linear(form.width, shared, bias=biased)
        self.value = nn.Linear(form.width, shared, bias=biased)
        self.out = nn.Linear(inner, form.width, bias=form.bias in ("attention", "all"))
        normed = form.query_key_norm
        self.query_norm = RMSNorm(form.head_dim, form.eps) if normed else None
        self.key_norm = RMSNorm(form.head_dim, form.eps) if normed else None

    def forward(
        self, x: Tensor, where: Where, cache: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """(B, T, W) to (B, T, W); a cache takes the T turned keys and values."""
        split = (-1, self.head_dim)
        q = self.query(x).unflatten(-1, split)  # (B, T, H, D)
        k = self.key(x).unflatten(-1, split)
        v = self.value(x).unflatten(-1, split).transpose(1, 2)
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if self.factor != 1:
            q = q * self.factor
        if where.turns is None:
            q, k = q.transpose(1, 2), k.transpose(1, 2)
        else:
            cos, sin = (table.to(q.dtype) for table in where.turns)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)  # (B, H, T, D)
        if cache is not None:
            cache[0][:, :, : k.shape[2]], cache[1][:, :, : k.shape[2]] = k, v
        told: Any = {"segments": where.segments, "sliding": self.sliding}
        if where.positions.biased:
            mixed = where.positions.attend(q, k, v, bias=where.bias, layer=self.layer, **told)
        else:
            mixed = attention(q, k, v, **told)
        return self.out(mixed.transpose(1, 2).flatten(-2))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, form: Form, layer: int) -> None:
        super().__init__()
        self.attention_norm = normalization(form.norm, form.width, form.eps)
        self.attention = Attention(form, layer)
        self.feedforward_norm = normalization(form.norm, form.width, form.eps)
        self.feedforward = make_feedforward(
            form.feedforward, form.width, form.hidden, form.bias == "all"
        )
        self.dropout = nn.Dropout(form.dropout)

    def forward(
        self, x: Tensor, where: Where, cache: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """(B, T, W) to (B, T, W)."""
        # casting before adding is twice as fast on the CPU as adding bfloat16 to float32
        change = self.attention(self.attention_norm(x), where, cache)
        x = x + self.dropout(change).to(x.dtype)
        return x + self.dropout(self.feedforward(self.feedforward_norm(x))).to(x.dtype)


class Where(NamedTuple):
    """What the blocks are told about places, computed once for all of them."""

    positions: Positions
    turns: tuple[Tensor, Tensor] | None
    bias: Tensor | None
    segments: Segments | None


class Transformer(nn.Module):
    """Decoder-only language model.

    Args:
        vocabulary: number of tokens, V.
        width: features of a position, W; a multiple of `heads` unless `head_dim` is given.
        layers: number of blocks.
        heads: attention heads, H.
        kv_heads: heads of keys and values, a divisor of `heads`; None means `heads`.
        hidden: features inside the feed-forward; None means 8/3 of the width, rounded up to 32, and without a gate
            4 widths.
        window: most positions at once.
        base: wavelength factor of the rotary and sinusoidal positions.
        tied: whether the output weights are the embedding's.
        dropout: probability, on the embedding and on what each sublayer adds.
        eps: added to the mean square in the norms.
        head_dim: features of a head, D; None means W / H.
        norm: "rms" or "layer", the latter with biases.
        feedforward: one of `FEEDFORWARDS`: gated (swiglu, geglu, geglu_tanh, reglu) or plain (gelu, gelu_tanh, relu, silu).
        bias: what has a bias: "none", "qkv" (queries, keys, values), "attention" (the output too), "all" (the
            feed-forward too).
        query_key_norm: whether queries and keys are normalized head by head, by RMSNorm, before they turn.
        positions: one of `models.positions.KINDS`.
        sliding: how many positions each sees, its own included; None means all before. A sequence says it layer by layer.
        rotary_scaling: of rotary positions, as in a Hugging Face config: {"rope_type": "llama3", "factor": 8.0, ...}.
        scale: of the products of queries and keys; None means head_dim ** -0.5 (Vaswani et al. 2017).

    Raises:
        ValueError: the sizes do not divide, or an option that does not exist.
    """

    chooses = True
    """Whether `forward` takes `chosen`."""

    def __init__(
        self,
        vocabulary: int,
        width: int,
        layers: int,
        heads: int,
        kv_heads: int | None = None,
        hidden: int | None = None,
        window: int = 1024,
        base: float = 10_000.0,
        tied: bool = True,
        dropout: float = 0.0,
        eps: float = 1e-5,
        *,
        head_dim: int | None = None,
        norm: str = "rms",
        feedforward: str = "swiglu",
        bias: str = "none",
        query_key_norm: bool = False,
        positions: str = "rotary",
        sliding: int | Sequence[int | None] | None = None,
        rotary_scaling: Mapping[str, Any] | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        kv_heads = kv_heads or heads
        if (head_dim is None and width % (2 * heads)) or heads % kv_heads:
            raise ValueError(
                f"Transformer expects width divisible by 2 * heads and heads by kv_heads, "
                f"got width {width}, heads {heads}, kv_heads {kv_heads}"
            )
        self.vocabulary, self.width, self.heads, self.kv_heads = vocabulary, width, heads, kv_heads
        self.head_dim = head_dim or width // heads
        self.hidden = hidden or (default_hidden(width) if feedforward in GATED else 4 * width)
        self.window, self.base, self.tied, self.eps = window, base, tied, eps
        self.rotary_scaling = dict(rotary_scaling) if rotary_scaling else None
        self.form = Form(
            width, heads, kv_heads, self.head_dim, self.hidden, dropout, eps, norm, feedforward, bias,
            query_key_norm, positions, _by_layer(sliding, layers), scale,
        )  # fmt: skip
        self.form.check()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = make_positions(
            positions,
            width=width,
            heads=heads,
            head_dim=self.head_dim,
            window=window,
            layers=layers,
            base=base,
            scaling=rotary_scaling,
            amplitude=DEVIATION,
        )
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(self.form, layer) for layer in range(layers))
        self.norm = normalization(norm, width, eps)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        self.initialize()

    def reset_positions(self) -> None:
        """Compute the tables of the positions that are not stored with the weights."""
        self.positions.reset(self.embedding.weight.device)

    @torch.no_grad()
    def initialize(self, deviation: float = DEVIATION) -> None:
        """Draw the weights anew: normal; what adds to the residual stream is scaled by its depth (GPT-2)."""
        for name, weight in self.named_parameters():
            if weight.ndim < 2:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            into_residual = name.endswith((".out.weight", ".down.weight"))
            scale = 1 / math.sqrt(2 * len(self.blocks)) if into_residual else 1.0
            weight.normal_(0.0, deviation * scale)

    @torch.no_grad()
    def begin_plain(self) -> None:
        """Zero what adds to the residual stream, and an output that is not tied: the first guess is uniform.

        Each block begins as the identity (Goyal et al. 2017 for residual networks), and early steps
        are spent on learning instead of unlearning.
        """
        for name, weight in self.named_parameters():
            if name.endswith((".out.weight", ".down.weight")):
                weight.zero_()
        if not self.tied:
            self.head.weight.zero_()

    def states(
        self,
        tokens: Tensor,
        cache: Cache | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """The normalized last states, which the output weights read.

        Args:
            tokens: (B, T) int64 below V, T at most the window.
            cache: takes each layer's turned keys and values at its positions 0..T-1.
            segments: (B, T) int64, which example of a packed row a position belongs to: places count from each
                example's first, and attention stays inside. An example's positions stand side by side.

        Returns:
            (B, T, W) float.

        Raises:
            ValueError: tokens is not (B, T) or longer than the window, or segments has another shape.
        """
        if tokens.ndim != 2 or tokens.shape[1] > self.window:
            raise ValueError(
                f"Transformer expects tokens of shape (B, T) with T <= {self.window} (its window), "
                f"got {tuple(tokens.shape)}"
            )
        if segments is not None and segments.shape != tokens.shape:
            raise ValueError(
                f"Transformer expects segments of the shape of tokens, {tuple(tokens.shape)}, got {tuple(segments.shape)}"
            )
        packed = None if segments is None else Segments(segments)
        places = packed.places() if packed else None
        x = self.dropout(self.positions.add(self.embedding(tokens), places))
        where = self._where(tokens.shape[1], places, packed, tokens.device)
        for i, block in enumerate(self.blocks):
            x = block(x, where, cache[i] if cache else None)
        return self.norm(x)

    def _where(
        self, time: int, places: Tensor | None, packed: Segments | None, device: torch.device
    ) -> Where:
        positions, bias = self.positions, None
        if positions.biased and not positions.compares:
            at = torch.arange(time, device=device)
            bias = positions.bias(at, at)  # distances are the same in a packed row
        return Where(positions, positions.turns(time, places), bias, packed)

    def forward(
        self, tokens: Tensor, segments: Tensor | None = None, chosen: Tensor | None = None
    ) -> Tensor:
        """Logits of every position's next token, (B, T, V), from tokens (B, T); see `states`.

        Args:
            tokens: (B, T) int64.
            segments: (B, T) int64, see `states`.
            chosen: (B, T) bool, where logits are wanted: then (N, V) of those N, row after row.
        """
        states = self.states(tokens, segments=segments)
        return self.head(states if chosen is None else states[chosen])


def default_hidden(width: int) -> int:
    """8/3 of the width, as many weights as a plain feed-forward of 4 widths, rounded up to 32."""
    return -(-8 * width // (3 * 32)) * 32
