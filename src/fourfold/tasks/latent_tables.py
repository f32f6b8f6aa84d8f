"""Latents as tables, one row an example: written by `encode`, read by `decode`.

Shapes: N examples, Z numbers of each.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fourfold.core.errors import UserError
from fourfold.data.rows import Format
from fourfold.data.table_files import open_rows

if TYPE_CHECKING:
    import polars as pl


def latent_table(
    values: Any, prefix: str, labels: list[str] | None = None, files: list[str] | None = None
) -> pl.DataFrame:
    """Numbers (N, Z) in columns prefix_0, prefix_1, ..., with the examples' labels and files where there are some."""
    import polars as pl

    columns = {f"{prefix}_{i}": values[:, i] for i in range(values.shape[1])}
    told = {"label": labels, "file": files}
    return pl.DataFrame({**columns, **{n: v for n, v in told.items() if v is not None}})


def read_latents(source: Any, prefix: str, size: int, what: str) -> np.ndarray:
    """Numbers (N, Z) of a table that `latent_table` made; other columns are left alone.

    Args:
        source: a table's or an .npy file's path, a frame, or an array (N, Z).
        prefix: of the columns.
        size: Z.
        what: these numbers in words, for errors.

    Raises:
        UserError: another size, or a cell that is no number.
    """
    source = _array_file(source)
    if isinstance(source, np.ndarray) or hasattr(source, "detach"):
        found = np.atleast_2d(
            np.asarray(source.detach().cpu() if hasattr(source, "detach") else source)
        )
        if found.ndim != 2 or found.shape[1] != size:
            raise UserError(f"expected {size} {what} of an example, got an array {found.shape}")
        name = "the array"
    else:
        rows = open_rows(source, Format())
        name = rows.name
        wanted = [f"{prefix}_{i}" for i in range(size)]
        there = [c for c in rows.columns if c.rpartition("_")[0] == prefix]
        if missing := [c for c in wanted if c not in there]:
            raise UserError(
                f"{name}: expected {size} {what} in columns {wanted[0]} to {wanted[-1]}, "
                f"found {len(there)} of them and no {missing[0]}"
            )
        if len(there) > size:
            raise UserError(
                f"{name}: expected {size} {what}, found {len(there)}; another run made it"
            )
        frames = [piece.table.lazy().select(wanted).collect() for piece in rows.pieces]
        found = np.concatenate([frame.to_numpy() for frame in frames])
    if found.dtype.kind not in "fiu" or not np.isfinite(found.astype(float)).all():
        raise UserError(f"{name}: expected numbers as {what}, got some that are none")
    return found


def _array_file(source: Any) -> Any:
    """An .npy file as the array in it; anything else as it is."""
    if not isinstance(source, (str, Path)) or Path(source).suffix.lower() != ".npy":
        return source
    try:
        return np.load(source, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{source}: not a NumPy file of numbers ({error})") from error
