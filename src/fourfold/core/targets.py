"""What is to be predicted of a row: the data says it, objectives and models follow it.

The data fits it on the training rows; the objective says how many outputs it takes and turns them
into predictions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Target:
    """How the target is read, and what the training rows hold of it.

    number: batch["targets"] is (B,) float, (original - mean) / scale.
    category: (B,) int64, numbers of `classes`.
    labels: (B, K) float of 0 and 1, one column for each of `classes`.
    """

    name: str
    """The column; of labels, as the user wrote it ("tag_*")."""
    kind: Literal["number", "category", "labels"]
    classes: tuple[str, ...] = ()
    """The categories, or the labels' columns."""
    mean: float = 0.0
    scale: float = 1.0
    counts: tuple[int, ...] = ()
    """Training rows of each category, or with each label."""
    rows: int = 0
    """Training rows."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the source that hold it."""
        return self.classes if self.kind == "labels" else (self.name,)
