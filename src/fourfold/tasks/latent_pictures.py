"""Pictures of latents: maps, ways between images, how much each one says. Shapes: N images, Z latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourfold.core.types import Picture
from fourfold.look.figures import picture, subplots
from fourfold.look.projection import Method, project

NAMED = 20
"""Classes that are named beside a map, at most."""


def between(codes: Tensor, rows: int = 5, steps: int = 10) -> Tensor:
    """Latents on straight ways, (rows * steps, Z), from each of the first codes (N, Z) to the next."""
    count = min(rows, len(codes) - 1)
    first, last = codes[:count, None], codes[1 : count + 1, None]
    share = torch.linspace(0, 1, steps)[None, :, None]
    return (first + share * (last - first)).flatten(0, 1)


def latent_map(
    codes: np.ndarray, labels: Sequence[int] | None, classes: Sequence[str], method: Method
) -> Picture:
    """Images as points in the plane by their latents (N, Z), coloured by class where there are labels.

    Args:
        codes: (N, Z), N at least 3.
        labels: (N,) numbers of classes, or None.
        classes: their names.
        method: of the projection.
    """
    points = project(codes, method)
    fig, axes = subplots(width=6.4, height=5.2)
    axes.scatter(points[:, 0], points[:, 1], s=9, **_coloured(labels, len(classes)))
    if labels:
        drawn = axes.collections[0]
        bar = fig.colorbar(drawn, ax=axes, label="class")
        shown = range(0, len(classes), -(-len(classes) // NAMED))
        bar.set_ticks(list(shown), labels=[_short(classes[i]) for i in shown])
    name = "principal components" if method == "pca" else "t-SNE"
    axes.set(xticks=[], yticks=[])
    caption = f"{len(codes)} held-out images by their {codes.shape[1]} latents, in two dimensions by {name}."
    return picture(fig, f"Map of the latents, {name}", caption)


def _coloured(labels: Sequence[int] | None, count: int) -> dict[str, Any]:
    """A colour for each class, each number in the middle of its own on the scale beside."""
    if not labels:
        return {}
    from matplotlib import colormaps

    kind = "tab10" if count <= 10 else "tab20" if count <= 20 else "turbo"
    few = count <= 20
    colors = colormaps[kind].colors[:count] if few else colormaps[kind].resampled(count).colors  # type: ignore[attr-defined]
    from matplotlib.colors import ListedColormap

    return {"c": labels, "cmap": ListedColormap(colors), "vmin": -0.5, "vmax": count - 0.5}


def _short(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "\N{HORIZONTAL ELLIPSIS}"


def kl_bars(kl: Sequence[float]) -> Picture:
    """How much each latent says: mean KL from the prior, nats, largest first."""
    ordered = sorted(kl, reverse=True)
    fig, axes = subplots()
    axes.bar(range(1, len(ordered) + 1), ordered)
    axes.set(xlabel="latent, most telling first", ylabel="KL (nats)")
    caption = f"Mean over held-out images; together {sum(kl):.1f} nats, {sum(k > 0.01 for k in kl)} of {len(kl)} latents above 0.01."
    return picture(fig, "KL by latent", caption)
