"""Tables: CSV, TSV, Parquet, Arrow, JSON lines, frames and arrays as one matrix of prepared columns.

Everything that is fitted (medians, categories, means, deviations) is fitted on the training split
only. A table of any size works: what does not fit in memory is streamed in stored order, and read
through a memory-mapped file of prepared rows where the order is random.
Shapes: B rows of a batch, D prepared columns, K labels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from annotated_types import Ge
from pydantic import PositiveInt, field_validator, model_validator

from fourfold.core.errors import UserError, nearest
from fourfold.core.parts import Batch, DataOptions, Split
from fourfold.core.targets import Target
from fourfold.data.columns import Column, Encoding, Kind
from fourfold.data.encodings import checked
from fourfold.data.featured import featured_rows
from fourfold.data.forms import PLAIN, Asked, Form
from fourfold.data.loading import Indexed
from fourfold.data.rows import Format, Rows
from fourfold.data.splits import Fold

if TYPE_CHECKING:
    from torch import nn

SPLITS: tuple[Split, ...] = ("train", "valid", "test")
Share = Annotated[float, Ge(0)]


class Tabular(DataOptions):
    """Rows of a table, each column prepared by its kind."""

    target: str | None = None
    """The column to predict; several columns of 0 and 1, as tag_* or red,green,blue, are labels."""
    target_kind: Literal["auto", "number", "category"] = "auto"
    """Whether numbers in the target are numbers or names of classes; auto takes two different whole
    numbers as two classes, and others as numbers. Text is always classes."""
    weights: str | None = None
    """A column that says how much each row counts, 0 or more; it is no feature."""
    group: str | None = None
    """A column whose equal values, as of one patient, stay together in one split; it is no feature."""
    fold: str | None = None
    """One fold of several as the test split, as 2/5: of five parts, fixed by the seed and alike in their
    classes, the second. With ordered rows, a block of time that is tested on what came before it."""
    batch: PositiveInt | None = 256
    """Rows in a batch; None means 32 to 256, by the number of training rows."""
    kinds: dict[str, Kind] = {}
    """Kinds of columns that are not to be inferred, as age=number, zip=category, flag=binary or note=drop."""
    missing: Literal["median", "frequent", "drop", "interpolate", "error"] = "median"
    """Missing cells: numbers become the training rows' median (or, as categories always, their most frequent
    value); or their rows are dropped; or interpolated between neighbours (ordered rows); or refused."""
    indicator: bool = True
    """Add a 0/1 column for each column with missing cells that are filled."""
    unseen: Literal["zeros", "other"] = "zeros"
    """A category that training has not seen: zeros in all its columns, or 1 in a column of its own."""
    standardize: bool = True
    """Shift and scale numbers, the target too, to mean 0 and deviation 1 over the training rows."""
    codes: Literal["category", "number"] = "category"
    """Whole numbers that are suspected to be codes, as of nationality."""
    max_categories: Annotated[int, Ge(2)] | None = None
    """Categories of a column at most; None means 256, or 100,000 where embed_above is set."""
    embed_above: PositiveInt | None = None
    """Categories of more values become one column of codes, for a model that embeds them; None never."""
    split: tuple[Share, Share, Share] = (0.8, 0.1, 0.1)
    """Shares of the training, validation and test rows; classes are spread over them in proportion."""
    ordered: bool = False
    """Split in stored order, the last rows for the test, instead of at random."""
    features: str | None = None
    """Another run that encodes: a column of paths of images (or of texts) gives way to its latents."""
    drop: tuple[str, ...] = ()
    """Columns to leave out."""
    separator: str | None = None
    """Between the cells of a text file, one character; None means as the file suggests."""
    decimal: Literal[".", ","] | None = None
    """Decimal sign of numbers in text; None means a point, or a comma where a column's cells tell so."""
    thousands: Literal[",", ".", "'", " "] | None = None
    """What stands between thousands, as in 1,200.50; None means as a column's cells tell."""
    day_first: bool | None = None
    """Whether 03/04/2020 is the 3rd of April or the 4th of March; None means as a column's cells tell."""
    encoding: str | None = None
    """Of text files that are not UTF-8, as gb18030, big5 or cp1252; None takes UTF-8, and UTF-16 with its mark."""
    empty: tuple[str, ...] = ()
    """Further words for a missing cell in text files, as n/a."""
    dtype: Literal["float32", "float64"] = "float32"
    """Format of the prepared numbers."""

    loose: ClassVar[frozenset[str]] = DataOptions.loose | {"fold", "group"}

    @field_validator("encoding")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        return None if name is None else checked(name)

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.fold is not None:
            Fold.parse(self.fold)
        if self.group is not None and self.ordered:
            raise ValueError(
                "group and ordered: rows are split by whole groups or in order, not both"
            )
        if not 0 < self.split[0] or not np.isclose(sum(self.split), 1):
            raise ValueError(
                f"split: expected three shares that sum to 1, the first above 0, got {self.split}"
            )
        if self.thousands is not None and self.thousands == (self.decimal or "."):
            raise ValueError("thousands and decimal: the same sign cannot be both")
        if self.separator is not None and (
            len(self.separator) != 1 or not self.separator.isascii()
        ):
            raise ValueError(f"separator: expected one ASCII character, got {self.separator!r}")
        if self.missing == "interpolate" and not self.ordered:
            raise ValueError("missing interpolate needs ordered rows: set ordered too")
        return self

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> TableData:
        """Read a table and fit its preparation on the training rows; see `DataOptions.open`."""
        from fourfold.data.fitting import fit

        how = self.format(self._text_columns())
        rows = self.rows(sources, how)
        held_out = None if valid is None else self.rows(valid, how)
        return fit(self, rows, held_out, seed)

    def restore(self, folder: Path) -> TableData:
        """See `DataOptions.restore`."""
        stored = json.loads((folder / "table.json").read_text(encoding="utf-8"))
        return TableData(self, Schema.from_json(stored), seed=0)

    def rows(self, sources: Any, how: Format) -> Rows:
        """Rows of any source, with another run's latents where one is named."""
        return featured_rows(sources, how, self.features, self.target)

    def format(self, text: frozenset[str]) -> Format:
        """How text files are read, of whose columns some stay text."""
        return Format(self.separator, self.decimal or ".", self.empty, text, self.encoding)

    @property
    def written(self) -> Asked:
        """What is known of how cells are written."""
        return Asked(self.decimal, self.thousands, self.day_first)

    @property
    def limit(self) -> int:
        """Categories of a column at most."""
        if self.max_categories is not None:
            return self.max_categories
        return 256 if self.embed_above is None else 100_000

    def _text_columns(self) -> frozenset[str]:
        return frozenset(
            name for name, kind in self.kinds.items() if kind in ("category", "binary")
        )


@dataclasses.dataclass(frozen=True)
class Schema:
    """What was fitted: all that preparing other rows takes."""

    encodings: tuple[Encoding, ...]
    target: Target
    fingerprint: str = ""
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The fit's own summary."""
    forms: dict[str, Form] = dataclasses.field(default_factory=dict)
    """How the target and the column of weights are written, where they are text."""
    features: str = ""
    """The digest of another run's weights, where columns are what it encodes."""

    def form(self, name: str) -> Form:
        """How a column beside the features is written."""
        return self.forms.get(name, PLAIN)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Schema:
        """What `to_json` gave."""
        encodings = tuple(Encoding.from_json(e) for e in stored["encodings"])
        forms = {name: Form.from_json(form) for name, form in stored.get("forms", {}).items()}
        told = stored["target"]
        listed = {key: tuple(told.get(key, ())) for key in ("classes", "counts")}
        target = Target(**{**told, **listed})
        made_by = stored.get("features", "")
        return cls(encodings, target, stored["fingerprint"], stored["facts"], forms, made_by)


class TableData(Indexed):
    """Prepared rows: batches of "features" (B, D) in the options' dtype and "targets" (B,) or (B, K).

    A number's targets are floats, standardized as the features are; a category's are int64 numbers
    of `classes`; labels are floats of 0 and 1. Rows opened without their target give batches without
    "targets". Where a column says how much rows count there is "weight" (B,), float.
    """

    unit = "rows"
    apart = True

    def __init__(
        self, options: Tabular, schema: Schema, *, seed: int, rows: Rows | None = None,
        parts: np.ndarray | None = None, targets: bool = True, weights: str | None = None,
        notes: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        """Rows under a fitted schema.

        Args:
            options: how the table is read.
            schema: what was fitted.
            seed: fixes the order of epochs.
            rows: the examples; None for the preparation alone.
            parts: (rows,) int8: 0 train, 1 valid, 2 test, -1 none.
            targets: whether the rows have their target.
            weights: the column that says how much they count, if they have it.
            notes: what to tell about these rows; None means what the fit had to tell.
        """
        from fourfold.data.prepared import Prepared

        super().__init__(batch=options.batch or suited(schema.target.rows), seed=seed)
        self.options, self.schema, self.rows, self.parts = options, schema, rows, parts
        self.has_targets, self.weights = targets, weights
        self.fingerprint = schema.fingerprint
        self.columns: list[Column] = [c for e in schema.encodings for c in e.columns()]
        self.prepared = Prepared(self)
        self.window = min(
            8192, (4 << 20) // max(1, len(self.columns))
        )  # small enough for the cache
        self._notes = notes

    @property
    def target(self) -> Target:
        """The column to predict."""
        return self.schema.target

    def size(self, split: Split) -> int:
        """Rows of the split."""
        return 0 if self.parts is None else int((self.parts == SPLITS.index(split)).sum())

    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        """See `Indexed.take`."""
        return self.prepared.take(split, index)

    def batches(
        self, split: Split, *, epoch: int | None = None, model: nn.Module | None = None
    ) -> Iterator[Batch]:
        """See `Data.batches`."""
        if self.rows is None:
            raise ValueError("these are preparations without rows: reopen them with a source")
        if epoch is None and self.prepared.streams(split):
            return self.prepared.stream(split, self.batch)
        return super().batches(split, epoch=epoch, model=model)

    def blocks(self, split: Split, *, model: nn.Module | None = None) -> Iterator[Batch]:
        """See `Data.blocks`: chunks as they are read, or slices of what is held."""
        if self.rows is None:
            raise ValueError("these are preparations without rows: reopen them with a source")
        return self.prepared.blocks(split)

    def reopen(
        self,
        sources: Any,
        *,
        seed: int = 0,
        valid: Any = None,
        whole: bool = False,
        targets: bool = True,
    ) -> TableData:
        """Other rows under the same preparation; see `Data.reopen`.

        Args:
            sources, seed, valid, whole: as there.
            targets: False for rows to predict, of which none is left out for a missing target.

        Raises:
            UserError: a column is missing, or holds text where training had numbers.
        """
        from fourfold.data.fitting import reopen

        return reopen(self, sources, seed, valid, whole=whole, targets=targets)

    def quantiles(self, bins: int) -> np.ndarray:
        """Where the training rows' prepared numbers lie.

        Args:
            bins: how many parts with equally many rows.

        Returns:
            (columns of kind "number", bins + 1) float64, from the lowest to the highest, of a sample where
            there are many rows; zeros where there are none (a restored run's weights hold what was found).
        """
        numbers = [i for i, column in enumerate(self.columns) if column.kind == "number"]
        if self.rows is None or not numbers:
            return np.zeros((len(numbers), bins + 1))
        rows = self.prepared.sample("train")[:, numbers]
        return np.quantile(rows, np.linspace(0, 1, bins + 1), axis=0).T

    def without_rows(self) -> TableData:
        """The preparation alone, as `restore` gives it."""
        schema = dataclasses.replace(self.schema, facts=self.summary())
        return TableData(self.options, schema, seed=self.seed)

    def original(self, values: np.ndarray) -> np.ndarray:
        """Predicted prepared numbers in the target's own units."""
        return values * self.target.scale + self.target.mean

    def save(self, folder: Path) -> None:
        """Write `table.json`: kinds, categories and statistics of every column."""
        from fourfold.core.state import write_text

        folder.mkdir(parents=True, exist_ok=True)
        stored = dataclasses.replace(self.schema, facts=self.summary()).to_json()
        write_text(folder / "table.json", json.dumps(stored, ensure_ascii=False, indent=1))

    def summary(self) -> dict[str, Any]:
        """Rows, split, and for each column its kind, missing cells and what was done about them."""
        if self._notes is None:
            return self.schema.facts
        assert self.rows is not None  # noqa: S101
        facts: dict[str, Any] = {"source": self.rows.name, "rows": self.rows.count}
        facts["split"] = {split: self.size(split) for split in SPLITS}
        return {
            **facts,
            **self.schema.facts.get("fitted", {}),
            "notes": [*self._notes, *self.prepared.notes()],
        }


def suited(rows: int) -> int:
    """Rows in a batch that suit a table: enough steps in an epoch of few rows, little overhead of many."""
    return next(
        (size for size, least in ((256, 10_000), (128, 2_000), (64, 500)) if rows >= least), 32
    )


def text_columns(schema: Schema) -> frozenset[str]:
    """Columns that were fitted as text, and are read so whatever their cells look like."""
    as_text = {
        e.name for e in schema.encodings if e.storage == "text" and not (e.numeric and e.form.plain)
    }
    number = schema.target.kind == "number"
    return frozenset(
        as_text | {n for n, form in schema.forms.items() if not (number and form.plain)}
    )


def fingerprint(options: Tabular, rows: Rows, held_out: Rows | None) -> str:
    """SHA-256 of the content of the sources and of the options that prepare it."""
    # the content is taken as UTF-8, whatever it was stored as, and another run by what it encodes, wherever it lies
    aside = {"encoding"} if options.features is None else {"encoding", "features"}
    content = [
        options.model_dump_json(exclude=aside),
        rows.digest,
        held_out.digest if held_out else "",
    ]
    return hashlib.sha256("\n".join(content).encode()).hexdigest()


def column_missing(name: str, columns: Sequence[str], where: str) -> UserError:
    """The error for a column that is not there."""
    shown = ", ".join(columns[:12]) + (
        f" and {len(columns) - 12} more" if len(columns) > 12 else ""
    )
    hint = nearest(name, columns)
    return UserError(
        f"{where}: no column {name}" + (hint if "did you mean" in hint else f"; it has {shown}")
    )
