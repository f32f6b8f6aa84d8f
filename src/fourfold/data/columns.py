"""Columns of a table as numbers: what kind each is, and how it is encoded.

One-hot encoding, imputation and standardization as in scikit-learn's OneHotEncoder(drop="if_binary",
handle_unknown="ignore"), SimpleImputer(add_indicator=True) and StandardScaler.
Shapes: N rows, D prepared columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fourfold.data.cells import Reader, cells, numbered
from fourfold.data.dates import parts_of
from fourfold.data.forms import BOOLEAN, PLAIN, Form

if TYPE_CHECKING:
    import polars as pl

    from fourfold.data.rows import Storage

Kind = Literal["number", "category", "binary", "date", "drop"]


@dataclass(frozen=True)
class Column:
    """One prepared column of `features`."""

    name: str
    source: str
    """The original column."""
    kind: Literal["number", "binary", "category", "other", "missing", "code"]
    value: str | None = None
    """The category that 1 stands for."""
    mean: float = 0.0
    scale: float = 1.0
    """The prepared number is (original - mean) / scale."""
    size: int = 0
    """Of a code: how many there are, 0 (unseen or missing) and one for each category."""


@dataclass(frozen=True)
class Encoding:
    """How one original column becomes prepared columns."""

    name: str
    storage: Storage
    numeric: bool
    """Whether cells are read as numbers, also where they stand for categories."""
    kind: Kind
    categories: tuple[str, ...] = ()
    """Of a category, each with its prepared column; of a binary column, what 0 and 1 stand for."""
    fill: float | str | None = None
    """What a missing cell becomes; None where none may be missing."""
    mean: float = 0.0
    scale: float = 1.0
    indicator: bool = False
    other: bool = False
    missing: int = 0
    """Missing cells in the training split."""
    why: str = ""
    embedded: bool = False
    """Whether a category becomes one column of codes: 1 + its index, 0 where it is unseen or missing."""
    form: Form = PLAIN
    """How cells of text are written."""
    parts: tuple[Encoding, ...] = ()
    """Of dates: the numbers that each becomes."""

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Encoding:
        """What `dataclasses.asdict` gave."""
        parts = tuple(cls.from_json(part) for part in stored.get("parts", ()))
        form = Form.from_json(stored["form"]) if "form" in stored else PLAIN
        categories = tuple(stored["categories"])
        return cls(**{**stored, "categories": categories, "form": form, "parts": parts})

    def columns(self) -> list[Column]:
        """The prepared columns, in order."""
        found = []
        if self.kind == "number":
            found.append(Column(self.name, self.name, "number", None, self.mean, self.scale))
        elif self.kind == "binary":
            one = self.categories[1]
            label = self.name if one in ("1", "true") else f"{self.name}={one}"
            found.append(Column(label, self.name, "binary", one))
        elif self.embedded:
            size = len(self.categories) + 1
            found.append(Column(self.name, self.name, "code", size=size))
        elif self.kind == "category":
            found += [Column(f"{self.name}={c}", self.name, "category", c) for c in self.categories]
        for part in self.parts:
            found.append(replace(part.columns()[0], source=self.name))
        if self.other:
            found.append(Column(f"{self.name}=other", self.name, "other"))
        if self.indicator:
            found.append(Column(f"{self.name} missing", self.name, "missing"))
        return found

    def encode(self, series: pl.Series, out: np.ndarray, read: Reader) -> tuple[int, int]:
        """Write the prepared columns of some rows.

        Args:
            series: (N,) the original cells.
            out: (N, columns) float, written in place; fastest where columns are contiguous.
            read: turns cells into numbers, or says which cannot be.

        Returns:
            How many cells were missing, and how many held a category that training has not seen.

        Raises:
            UserError: a cell that is no number, or infinite or too large, in a column of numbers.
        """
        unseen = 0
        if self.kind == "number":
            values, total = read.numbers_and_sum(series, self.form)
            try:
                with np.errstate(over="raise"):
                    gone, width = self._standardized(values, total, out[:, 0]), 1
            except FloatingPointError:
                read.refuse_beyond(values, self.name, self.mean, self.scale)
                raise
        elif self.kind == "date":
            gone, width = self._dated(read.dates(series, self.form), out), len(self.parts)
        elif self.kind == "drop":
            gone, width = self.missing_cells(series, read), 0
        else:
            gone, unseen, width = self._one_hot(self.texts(series, read), out)
        if self.indicator:
            out[:, width + self.other] = 0.0 if gone is None else gone
        return 0 if gone is None else int(gone.sum()), unseen

    def missing_cells(self, series: pl.Series, read: Reader) -> np.ndarray:
        """(N,) bool: where nothing is there."""
        if self.numeric:
            return np.isnan(read.numbers(series, self.form))
        if self.form.date:
            return read.dates(series, self.form).is_null().to_numpy()
        return cells(series).is_null().to_numpy()

    def texts(self, series: pl.Series, read: Reader) -> pl.Series:
        """(N,) cells as the categories are written, null where they are missing."""
        import polars as pl

        if self.numeric:
            return cells(pl.Series(read.numbers(series, self.form), nan_to_null=True))
        return read.texts(series, BOOLEAN if self.storage == "boolean" else self.form)

    def _standardized(self, values: np.ndarray, total: float, out: np.ndarray) -> np.ndarray | None:
        """Write (N,) numbers, whose sum is `total`; (N,) bool where they are missing, None where none is."""
        gone = None
        if not math.isfinite(total):
            gone = np.isnan(values)
            values = np.where(gone, np.nan if self.fill is None else self.fill, values)
        if out.dtype == np.float64:
            np.subtract(values, self.mean, out=out)
            np.divide(out, self.scale, out=out)
        else:
            np.divide(values - self.mean, self.scale, out=out, casting="same_kind")
        return gone

    def _dated(self, dates: pl.Series, out: np.ndarray) -> np.ndarray:
        found, gone = parts_of(dates), dates.is_null().to_numpy()
        for i, part in enumerate(self.parts):
            values = found[part.name.rsplit(" ", 1)[1]]
            part._standardized(values, float(values.sum()), out[:, i])
        return gone

    def _one_hot(self, texts: pl.Series, out: np.ndarray) -> tuple[np.ndarray, int, int]:
        gone = texts.is_null().to_numpy()
        if self.fill is not None:
            texts = texts.fill_null(str(self.fill))
        codes = numbered(texts, self.categories)
        seen = np.flatnonzero(codes >= 0)
        width = 1 if self.kind == "binary" or self.embedded else len(self.categories)
        if self.embedded:
            out[:, 0] = codes + 1
            return gone, int(((codes < 0) & ~gone).sum()), width
        if self.kind == "binary":
            out[:, 0] = codes == 1
        else:
            out[:, :width] = 0
            out[seen, codes[seen]] = 1
        if self.other:
            out[:, width] = codes < 0
        return gone, len(codes) - len(seen), width
