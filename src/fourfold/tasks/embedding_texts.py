"""What every `embed` of texts takes and gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fourfold.core.errors import UserError

if TYPE_CHECKING:
    import polars as pl


def to_embed(texts: str | list[str], lines: bool) -> list[str]:
    """The texts one by one.

    Args:
        texts: one or several.
        lines: whether each line is a text of its own; empty ones are none.

    Raises:
        UserError: there is none, or one is empty.
    """
    given = [texts] if isinstance(texts, str) else list(texts)
    if lines:
        given = [line for text in given for line in text.splitlines() if line.strip()]
    if not given or not all(text.strip() for text in given):
        raise UserError("texts: nothing to embed, a text is empty")
    return given


def vector_table(texts: list[str], vectors: np.ndarray) -> pl.DataFrame:
    """Columns text, "1" to "D", from vectors (N, D)."""
    import polars as pl

    columns = {str(i + 1): column for i, column in enumerate(vectors.T)}
    return pl.DataFrame({"text": texts, **columns})
