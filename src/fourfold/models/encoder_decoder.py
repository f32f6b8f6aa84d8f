"""Encoder-decoder Transformer: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762.

Post-normalization is the paper's; pre-normalization (Xiong et al. 2020) learns without a long warm-up and ends each
side with one more norm. One layer equals torch.nn.TransformerEncoderLayer and TransformerDecoderLayer for the same
weights; dropout is on the embeddings and on what each sublayer adds, as in the paper. Where both languages share a
vocabulary, the two embeddings and the output weights are one matrix (Press & Wolf 2017).
Shapes: B batch, S source and T target time, W width, H heads, D = W / H, F hidden, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourfold.models.attention import attention, lengths_mask
from fourfold.models.dropout import Dropout
from fourfold.models.positions import Positions, make_positions

Norm = Literal["pre", "post"]
Activation = Literal["relu", "gelu"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


class SelfAttention(nn.Module):
    """Every position looks at the positions of its own sequence."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.factor = heads, 1.0
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        positions: Positions,
        layer: int,
        *,
        causal: bool,
        keep: Tensor | None = None,
    ) -> Tensor:
        """(B, T, W) to (B, T, W).

        Args:
            x: (B, T, W).
            positions: scheme of the side.
            layer: number of the layer, for schemes that learn something in each.
            causal: whether a position sees none after it.
            keep: (B, 1, 1, T) bool, True where a position may be seen; None: all.
        """
        q, k, v = self.query_key_value(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k = positions.turn(q * self.factor if self.factor != 1 else q), positions.turn(k)
        mixed = positions.attend(q, k, v.transpose(1, 2), layer=layer, causal=causal, keep=keep)
        return self.out(mixed.transpose(1, 2).flatten(-2))


class CrossAttention(nn.Module):
    """Every target position looks at all of the source."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.factor = heads, 1.0
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, T, W) and the encoder's (B, S, W) to (B, T, W); `keep`, (B, 1, 1, S), is True at the source's tokens."""
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) * self.factor
        k, v = self.key_value(memory).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = attention(q, k, v, causal=False, keep=keep)
        return self.out(mixed.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    """down(activation(up(x)))."""

    def __init__(self, width: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) to (..., W)."""
        return self.down(self.activation(self.up(x)))


class Residual(nn.Module):
    """x + sublayer(norm(x)), or norm(x + sublayer(x)): what every sublayer is wrapped in."""

    def __init__(self, width: int, norm: Norm, dropout: float, eps: float) -> None:
        super().__init__()
        self.before = norm == "pre"
        self.norm = nn.LayerNorm(width, eps=eps)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """(B, T, W) to (B, T, W), in the dtype of x."""
        change = self.dropout(sublayer(self.norm(x) if self.before else x)).to(x.dtype)
        return x + change if self.before else self.norm(x + change)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward."""

    def __init__(
        self, width: int, heads: int, hidden: int, activation: Activation, norm: Norm, dropout: float, eps: float
    ) -> None:  # fmt: skip
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.feedforward = FeedForward(width, hidden, activation)
        self.around_attention = Residual(width, norm, dropout, eps)
        self.around_feedforward = Residual(width, norm, dropout, eps)

    def forward(self, x: Tensor, positions: Positions, layer: int, keep: Tensor | None) -> Tensor:
        """(B, S, W) to (B, S, W); see `SelfAttention.forward`."""
        x = self.around_attention(
            x, lambda y: self.attention(y, positions, layer, causal=False, keep=keep)
        )
        return self.around_feedforward(x, self.feedforward)


class DecoderLayer(nn.Module):
    """Self-attention, causal or not, attention to the source, and feed-forward."""

    def __init__(
        self, width: int, heads: int, hidden: int, activation: Activation, norm: Norm, dropout: float, eps: float
    ) -> None:  # fmt: skip
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.cross = CrossAttention(width, heads)
        self.feedforward = FeedForward(width, hidden, activation)
        self.around_attention = Residual(width, norm, dropout, eps)
        self.around_cross = Residual(width, norm, dropout, eps)
        self.around_feedforward = Residual(width, norm, dropout, eps)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        positions: Positions,
        layer: int,
        keep: Tensor | None,
        *,
        causal: bool = True,
        seen: Tensor | None = None,
    ) -> Tensor:
        """(B, T, W) to (B, T, W).

        Args:
            x: (B, T, W).
            memory: (B, S, W), what the encoder made of the source.
            positions: of the target.
            layer: number of the layer.
            keep: (B, 1, 1, S), True at the source's tokens; None where all are.
            causal: whether a position sees none after it.
            seen: (B, 1, 1, T), True at target positions that may be seen, beside `causal`.
        """
        x = self.around_attention(
            x, lambda y: self.attention(y, positions, layer, causal=causal, keep=seen)
        )
        x = self.around_cross(x, lambda y: self.cross(y, memory, keep))
        return self.around_feedforward(x, self.feedforward)


class EncoderDecoder(nn.Module):
    """A source sequence into a target sequence.

    Args:
        source_vocabulary: number of source tokens.
        target_vocabulary: number of target tokens, V.
        width: features of a position, W, a multiple of `heads`.
        layers: of the encoder and of the decoder.
        heads: attention heads, H.
        hidden: features inside the feed-forward; None means four widths.
        window: most positions of either side.
        shared: whether both languages have one vocabulary: one embedding serves both, and the output.
        tied: whether the output weights are the target embedding's.
        dropout: probability, on the embeddings and on what each sublayer adds.
        norm: before each sublayer, or after it.
        activation: of the feed-forward.
        positions: a scheme of `models.positions`.
        eps: added to the variance in the norms.
        causal: whether the decoder's positions see none after them.
        scale: of the products of queries and keys; None means (W / H) ** -0.5.
        base: wavelength factor of rotary and sinusoidal positions.

    Raises:
        ValueError: width and heads do not divide, or a shared vocabulary has two sizes.
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        width: int,
        layers: tuple[int, int],
        heads: int,
        hidden: int | None = None,
        *,
        window: int = 256,
        shared: bool = False,
        tied: bool = True,
        dropout: float = 0.0,
        norm: Norm = "pre",
        activation: Activation = "relu",
        positions: str = "sinusoidal",
        eps: float = 1e-5,
        causal: bool = True,
        scale: float | None = None,
        base: float = 10_000.0,
    ) -> None:
        super().__init__()
        if width % heads or (shared and source_vocabulary != target_vocabulary):
            raise ValueError(
                f"EncoderDecoder expects width divisible by heads and, where shared, one vocabulary, got width {width}, "
                f"heads {heads}, vocabularies of {source_vocabulary} and {target_vocabulary}"
            )
        self.width, self.heads, self.window, self.causal = width, heads, window, causal
        self.shared, self.tied = shared, tied
        self.source_embedding = nn.Embedding(source_vocabulary, width)
        self.target_embedding = (
            self.source_embedding if shared else nn.Embedding(target_vocabulary, width)
        )
        shape = (width, heads, hidden or 4 * width, activation, norm, dropout, eps)
        self.encoder = nn.ModuleList(EncoderLayer(*shape) for _ in range(layers[0]))
        self.decoder = nn.ModuleList(DecoderLayer(*shape) for _ in range(layers[1]))
        if scale is not None:
            for module in self.modules():
                if isinstance(module, (SelfAttention, CrossAttention)):
                    module.factor = (
                        scale * (width // heads) ** 0.5
                    )  # products are scaled by D ** -0.5 further on
        self.source_positions, self.target_positions = (
            make_positions(
                positions,
                width=width,
                heads=heads,
                window=window,
                layers=count,
                causal=side,
                base=base,
            )
            for count, side in zip(layers, (False, causal), strict=True)
        )
        last = norm == "pre"  # without it nothing would normalize what the last layer adds
        self.encoder_norm = nn.LayerNorm(width, eps=eps) if last else nn.Identity()
        self.decoder_norm = nn.LayerNorm(width, eps=eps) if last else nn.Identity()
        self.dropout = Dropout(dropout)
        self.head = nn.Linear(width, target_vocabulary, bias=False)
        if tied:
            self.head.weight = self.target_embedding.weight
        self.initialize()

    @torch.no_grad()
    def initialize(self) -> None:
        """Embeddings normal with deviation W^-1/2 (they are multiplied by W^1/2), matrices uniform by Glorot & Bengio 2010."""
        for name, weight in self.named_parameters():
            if "positions" in name:
                continue  # they begin as their scheme says
            if "embedding" in name or name == "head.weight":
                weight.normal_(0.0, self.width**-0.5)
            elif weight.ndim >= 2:
                joined = "key_value" in name  # such matrices are drawn as those that they join
                for part in weight.split(self.width) if joined else (weight,):
                    nn.init.xavier_uniform_(part)
            elif name.endswith("bias"):
                weight.zero_()

    def sides(self, name: str) -> tuple[str, str]:
        """Whose positions ask and whose are asked, "source" or "target", in the attention of a module by its name."""
        if name.startswith("encoder."):
            return "source", "source"
        return "target", "source" if name.endswith(".cross") else "target"

    def embed(
        self, embedding: nn.Embedding, positions: Positions, tokens: Tensor, first: int = 0
    ) -> Tensor:
        """(B, T, W) of tokens (B, T), the first of which stands at place `first`: embedded, scaled and placed."""
        if tokens.ndim != 2 or first + tokens.shape[1] > self.window:
            raise ValueError(
                f"EncoderDecoder expects tokens of shape (B, T) with T <= {self.window} (its window), "
                f"got {tuple(tokens.shape)}"
            )
        places = torch.arange(first, first + tokens.shape[1], device=tokens.device)
        return self.dropout(positions.add(embedding(tokens) * math.sqrt(self.width), places))

    def encode(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the encoder makes of the source.

        Args:
            source: (B, S) int64, any token after a row's end.
            lengths: (B,) int64, tokens of each row, at least 1.

        Returns:
            (B, S, W), and (B, 1, 1, S) bool, True at the tokens; None where every row is full.
        """
        keep = None
        if not bool((lengths == source.shape[1]).all()):
            keep = lengths_mask(lengths, source.shape[1])
        x = self.embed(self.source_embedding, self.source_positions, source)
        for i, layer in enumerate(self.encoder):
            x = layer(x, self.source_positions, i, keep)
        return self.encoder_norm(x), keep

    def decode(
        self, x: Tensor, memory: Tensor, keep: Tensor | None, seen: Tensor | None = None
    ) -> Tensor:
        """The normalized last states, (B, T, W), which the output weights read.

        Args:
            x: (B, T, W), the decoder's input.
            memory: (B, S, W), from `encode`, with `keep`.
            keep: (B, 1, 1, S).
            seen: (B, 1, 1, T), target positions that may be seen; None: all that `causal` allows.
        """
        for i, layer in enumerate(self.decoder):
            x = layer(x, memory, self.target_positions, i, keep, causal=self.causal, seen=seen)
        return self.decoder_norm(x)

    def forward(self, source: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """Features of which `head` makes the logits of every position's next token.

        Args:
            source: (B, S) int64, any token after a row's end.
            lengths: (B,) int64, tokens of each source row, at least 1.
            tokens: (B, T) int64, the target so far, begin token first.

        Returns:
            (B, T, W) float.
        """
        memory, keep = self.encode(source, lengths)
        x = self.embed(self.target_embedding, self.target_positions, tokens)
        return self.decode(x, memory, keep)
