"""The formulas of the position schemes: rotary angles, waves, ALiBi's slopes, T5's buckets.

Shapes: P places, W width, D features of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

SCALINGS = ("default", "linear", "llama3")


def rotary_turns(head_dim: int, base: float, scaling: Mapping[str, Any] | None = None) -> Tensor:
    """Radians that each pair of features turns by from one place to the next, (D / 2,) float64.

    Args:
        head_dim: D, even.
        base: of the geometric series of wavelengths.
        scaling: as in a Hugging Face config, {"rope_type": ...}: "linear" divides all by its factor (Chen et al. 2023),
            "llama3" the long waves only, with a passage between `low_freq_factor` and `high_freq_factor` (Llama 3.1).

    Raises:
        ValueError: another scaling, or one that lacks a number.
    """
    turns = base ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    if not scaling:
        return turns
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    try:
        if kind == "default":
            return turns
        if kind == "linear":
            return turns / float(scaling["factor"])
        if kind == "llama3":
            factor, low, high, before = (
                float(scaling[name])
                for name in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
            )  # fmt: skip
            waves = before * turns / (2 * math.pi)  # whole waves within the window before
            share = ((waves - low) / (high - low)).clamp(0, 1)
            return turns * (share + (1 - share) / factor)
    except (KeyError, TypeError) as error:
        raise ValueError(f"rotary scaling {kind}: has no {error}") from error
    raise ValueError(f"rotary scaling {kind!r}: expected one of {', '.join(SCALINGS)}")


def rotary_table(
    window: int, head_dim: int, base: float, scaling: Mapping[str, Any] | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position, each (window, D / 2) float32."""
    turns = rotary_turns(head_dim, base, scaling)
    angles = torch.arange(window, dtype=torch.float64).outer(turns)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of features by its position's angle.

    Args:
        x: (B, T, H, D) float.
        cos: (T, D / 2), or (B, T, D / 2), as sin, in the dtype of x.
        sin: as cos.

    Returns:
        (B, H, T, D), contiguous: the layout of the products that follow.
    """
    if cos.ndim == 3:
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    first, second = x.transpose(1, 2).chunk(2, dim=-1)
    turned = (
        torch.addcmul(first * cos, second, sin, value=-1),
        torch.addcmul(second * cos, first, sin),
    )
    return torch.cat(turned, dim=-1)


# --- vectors that are added -------------------------------------------------------------------------


def _angles(window: int, width: int, base: float) -> Tensor:
    """(P, W / 2) float64: place times base ** (-2 i / W)."""
    return torch.arange(window, dtype=torch.float64).outer(
        base ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    )


def interleaved(window: int, width: int, base: float) -> Tensor:
    """sin, cos, sin, cos of each wave in turn (Vaswani et al. 2017): (P, W) float64."""
    angles = _angles(window, width, base)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


def halves(window: int, width: int, base: float) -> Tensor:
    """All sines, then all cosines (tensor2tensor, fairseq up to its W / 2 - 1): (P, W) float64."""
    angles = _angles(window, width, base)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def sines(window: int, width: int, base: float) -> Tensor:
    """sin(place * base ** (-i / W)): a wave of its own in each feature, no cosine: (P, W) float64."""
    waves = base ** -(torch.arange(width, dtype=torch.float64) / width)
    return torch.arange(window, dtype=torch.float64).outer(waves).sin()


def circular(window: int, width: int, base: float) -> Tensor:
    """Interleaved, each wavelength the nearest that fits the window a whole number of times: (P, W) float64.

    The places lie on a circle: the last is as near the first as the first is to the second.
    """
    turns = base ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    whole = (turns * window / (2 * math.pi)).round().clamp(min=1.0)
    # reduced before the multiplication with 2 pi, so that a whole turn is exactly one
    angles = torch.arange(window, dtype=torch.float64).outer(whole).remainder(window)
    angles = angles * (2 * math.pi / window)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


WAVES: Mapping[str, Callable[[int, int, float], Tensor]] = {
    "sinusoidal": interleaved,
    "sinusoidal_halves": halves,
    "sines": sines,
    "circular": circular,
}


# --- numbers that are added to the scores ----------------------------------------------------------


def alibi_slopes(heads: int) -> list[float]:
    """ALiBi's slope of each head: a geometric series from 2 ** (-8 / H); for other numbers of heads than powers
    of two, that of the power below and every second of the power above, as in the authors' code."""
    below = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / below) for i in range(below)]
    return slopes + [2 ** (-4 * (2 * i + 1) / below) for i in range(heads - below)]


def t5_bucket(between: Tensor, both: bool, buckets: int, farthest: int) -> Tensor:
    """T5's number of each distance.

    Args:
        between: int64, the key's place less the query's.
        both: whether what follows has buckets of its own, half of them.
        buckets: how many there are; half of a side's are exact distances, the others widen in a geometric series.
        farthest: distance from which all are in the last.

    Returns:
        int64 below `buckets`, in the shape of `between`.
    """
    side = buckets // 2 if both else buckets
    offset = (between > 0).long() * side if both else torch.zeros_like(between)
    distance = between.abs() if both else (-between).clamp(min=0)
    exact = side // 2
    share = (distance.clamp(min=1).float() / exact).log() / math.log(farthest / exact)
    wide = (exact + (share * (side - exact)).long()).clamp(max=side - 1)
    return offset + torch.where(distance < exact, distance, wide)
