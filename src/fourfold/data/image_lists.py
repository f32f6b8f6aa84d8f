"""Lists of images: rows of a CSV, TSV, JSON lines or Parquet file that name image files, with labels and splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from fourfold.core.errors import UserError
from fourfold.core.parts import Split
from fourfold.data.image_files import IMAGE_SUFFIXES, SPLITS, ImageFile
from fourfold.data.readers import Origin
from fourfold.data.records import Record, records

LIST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
PATHS = frozenset("path file filename file_name filepath image image_path img name".split())
LABELS = frozenset("label labels class class_name category target y".split())
SPLIT_COLUMNS = frozenset("split set subset fold part".split())


def listed(path: Path) -> list[ImageFile]:
    """The images that a list names.

    Args:
        path: the list; relative paths in it start from its folder. One column holds paths of images, one may
            hold labels and one the names of splits.

    Raises:
        UserError: it cannot be read, no column holds paths, which column is the label is not clear, a row
            without a path or label, a split of another name.
    """
    rows = list(records(Origin(str(path), "", path)))
    if not rows:
        raise UserError(f"{path}: no rows in it, expected a header and a line for each image")
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise UserError(f"{where}: expected a mapping of columns, got {type(row).__name__}")
    columns = list(dict.fromkeys(str(name) for _, row in rows for name in row))
    paths = _path_column(path, columns, rows)
    splits = _named(columns, SPLIT_COLUMNS - {paths})
    labels = _label_column(path, columns, paths, splits)
    return [_file(path.parent, where, row, paths, labels, splits) for where, row in rows]


def _file(
    folder: Path, where: str, row: Any, paths: str, labels: str | None, splits: str | None
) -> ImageFile:
    name = str(row.get(paths) or "").strip()
    if not name:
        raise UserError(f"{where}: no path of an image in column {paths}")
    label = None
    if labels is not None:
        label = str(row.get(labels) if row.get(labels) is not None else "").strip()
        if not label:
            raise UserError(f"{where}: no label in column {labels}")
    split: Split | None = None
    if splits is not None:
        told = str(row.get(splits) or "").strip().lower()
        if told not in SPLITS:
            known = ", ".join(sorted(SPLITS))
            raise UserError(f"{where}: split {told!r}, expected one of {known}")
        split = SPLITS[told]
    return ImageFile(str(folder / name), folder / name, label, split)


def _path_column(path: Path, columns: list[str], rows: list[Record]) -> str:
    def shares(column: str) -> float:
        some = [str(row.get(column)) for _, row in rows[:100]]
        return sum(PurePath(v).suffix.lower() in IMAGE_SUFFIXES for v in some) / len(some)

    looks = [column for column in columns if shares(column) > 0.5]
    found = _named(looks, PATHS) or (looks[0] if looks else _named(columns, PATHS))
    if found is None:
        raise UserError(
            f"{path}: no column holds paths of images (it has {', '.join(columns)}); name it path"
        )
    return found


def _label_column(path: Path, columns: list[str], paths: str, splits: str | None) -> str | None:
    others = [column for column in columns if column not in (paths, splits)]
    found = _named(others, LABELS)
    if found is None and len(others) > 1:
        raise UserError(
            f"{path}: which column is the label is not clear ({', '.join(others)}); name it label"
        )
    return found or (others[0] if others else None)


def _named(columns: Iterable[str], names: Iterable[str]) -> str | None:
    known = set(names)
    return next((column for column in columns if column.strip().lower() in known), None)
