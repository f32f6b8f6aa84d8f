"""Tables that are in memory already: polars and pandas frames, dicts of arrays, arrays, bundled sets."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from fourfold.core.errors import UserError
from fourfold.data.rows import Piece, check_names

if TYPE_CHECKING:
    import polars as pl

BUNDLED = ("diabetes", "iris", "wine", "breast_cancer", "digits")
"""scikit-learn's bundled sets, each with its target in the column `target`."""


def piece_of(frame: pl.DataFrame, name: str) -> Piece:
    """A frame with the SHA-256 of its cells."""
    digest = hashlib.sha256()
    for series in frame:
        digest.update(f"{series.name}\0{series.dtype}\0".encode())
        if series.dtype.is_numeric() and not series.dtype.is_decimal():
            digest.update(np.ascontiguousarray(series.to_numpy()).tobytes())
        else:
            digest.update("\0".join(map(str, series.to_list())).encode("utf-8", "surrogatepass"))
    return Piece(name, frame.height, frame, digest.hexdigest())


def to_frame(source: Any) -> pl.DataFrame:
    """A polars frame of any table in memory.

    Raises:
        UserError: it is no table, or its columns differ in length or have equal names.
    """
    import polars as pl

    if isinstance(source, pl.DataFrame):
        return source
    if isinstance(source, pl.LazyFrame):
        return source.collect()
    if type(source).__module__.split(".")[0] == "pandas":
        return _from_pandas(source)
    if hasattr(source, "detach"):
        source = source.detach().cpu().numpy()
    if isinstance(source, np.ndarray):
        if source.ndim != 2:
            raise UserError(f"an array as a table is (rows, columns), got shape {source.shape}")
        return pl.DataFrame({f"x{i}": source[:, i] for i in range(source.shape[1])})
    if isinstance(source, dict):
        columns = {
            str(k): v.detach().cpu().numpy() if hasattr(v, "detach") else v
            for k, v in source.items()
        }
        sizes = {name: len(values) for name, values in columns.items()}
        if len(set(sizes.values())) > 1:
            raise UserError(f"columns of one table have equally many rows, got {sizes}")
        return pl.DataFrame(
            [pl.Series(name, values, strict=False) for name, values in columns.items()]
        )
    raise UserError(
        f"expected a table (a path, a polars or pandas frame, a dict of arrays, an array), got {type(source).__name__}"
    )


def _from_pandas(source: Any) -> pl.DataFrame:
    import polars as pl

    names = [str(name) for name in source.columns]
    check_names(names, "the frame")
    columns = []
    for i, name in enumerate(names):
        series = source.iloc[:, i]
        if isinstance(series.dtype, np.dtype) and series.dtype.kind in "iufb":
            columns.append(pl.Series(name, series.to_numpy(), nan_to_null=True))
            continue
        gone = series.isna().to_numpy()
        values = [
            None if empty else value for value, empty in zip(series.tolist(), gone, strict=True)
        ]
        if any(isinstance(v, str) for v in values):
            values = [None if v is None else str(v) for v in values]
        columns.append(pl.Series(name, values, strict=False))
    return pl.DataFrame(columns)


def from_pair(inputs: Any, target: Any) -> pl.DataFrame:
    """(X, y) as one frame, y in the column `target`."""
    import polars as pl

    frame = to_frame(inputs)
    values = target.detach().cpu().numpy() if hasattr(target, "detach") else np.asarray(target)
    if values.shape != (frame.height,):
        raise UserError(
            f"a pair (X, y) has one target a row: X has {frame.height} rows, y has shape {values.shape}"
        )
    return frame.with_columns(pl.Series("target", values))


def bundled(name: str) -> pl.DataFrame:
    """One of scikit-learn's sets, in original units; classes by name."""
    import polars as pl
    from sklearn import datasets

    options = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(datasets, f"load_{name}")(**options)
    columns = {str(n): bunch.data[:, i] for i, n in enumerate(bunch.feature_names)}
    target = bunch.target
    if name not in ("diabetes", "digits"):
        target = [str(bunch.target_names[i]) for i in target]
    return pl.DataFrame({**columns, "target": target})
