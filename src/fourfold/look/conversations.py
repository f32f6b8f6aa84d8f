"""Pictures of conversations that a model learns from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fourfold.core.types import Picture
from fourfold.look.figures import picture, subplots

BINS = 40


def lengths_picture(lengths: Sequence[int], said: Sequence[int], row: int) -> Picture:
    """How long conversations are, and how much of them the assistant says.

    Args:
        lengths: positions of each conversation, at least one.
        said: of these, tokens of the assistant.
        row: positions of a row.
    """
    edges = np.linspace(0, max(*lengths, row), min(BINS, max(*lengths, row)) + 1)
    fig, axes = subplots()
    axes.hist([lengths, said], edges, label=["whole", "the assistant's part"])
    axes.axvline(row, color="#888888", linestyle="--", linewidth=1.2, label=f"a row of {row}")
    axes.set(xlabel="tokens", ylabel="conversations")
    axes.legend()
    share = sum(said) / max(1, sum(lengths))
    caption = (
        f"{len(lengths):,} conversations of {np.mean(lengths):,.0f} tokens in the mean, {share:.0%} of them said by the "
        "assistant and learned."
    )
    return picture(fig, "How long conversations are", caption)
