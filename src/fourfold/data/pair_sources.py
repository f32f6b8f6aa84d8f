"""What a user's words for pairs of texts mean: two files line by line, a table of two columns, a folder, memory.

Two files that are no tables (as train.en and train.de) are the two sides: line n of one belongs to line n of the other.
A .tsv, .csv, .jsonl, .json or .parquet file holds both sides in each row, under two names; a folder or a catalog name
stands for files of these kinds. All may be packed with .gz or .zst.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourfold.core.errors import UserError, nearest
from fourfold.core.parts import Split
from fourfold.data.catalog import CATALOG, find
from fourfold.data.readers import PACKED, PLAIN, ROWS, Origin, decoded, kind_of
from fourfold.data.text_sources import keep_stream

NAMES = ("source", "target")
"""Columns or keys of the two sides unless others are named."""
PARTS: dict[str, Split] = {"train": "train", "valid": "valid", "val": "valid", "dev": "valid"}
"""What the files of a folder are called; test and test_... are the test split."""
LANGUAGE = re.compile(r"[a-z]{2,3}(?:[-_][A-Za-z]{2,4})?")
"""A language's code at the end of a file's name, as en, deu or zh-TW."""


@dataclass
class Sides:
    """Pairs as they were read, in order."""

    name: str
    sources: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    languages: tuple[str, str] | None = None
    """Codes at the ends of the two files' names, where they have some."""
    notes: list[str] = field(default_factory=list)
    splits: dict[Split, Sides] = field(default_factory=dict)
    """Parts that the sources themselves keep apart: the files valid.* and test.* of a folder."""

    def add(self, other: Sides) -> None:
        """Put other pairs behind these."""
        self.sources += other.sources
        self.targets += other.targets
        self.notes += other.notes


def read_pairs(sources: Any, names: tuple[str, str]) -> Sides:
    """The pairs that some sources hold.

    Args:
        sources: None (the embedded pairs), two files that belong together line by line, one or several tables, a
            folder, a catalog name or "-" (standard input, tab-separated); in memory a mapping or frame with two
            columns: {"source": [...], "target": [...]}.
        names: of the two columns or keys; in a folder the ends of the files' names.

    Raises:
        UserError: no such file, sides of different lengths, no second column, or no text.
        TypeError: the sources are of another type.
    """
    if sources is None:
        from fourfold.data.embedded_pairs import numbers_and_dates

        made = numbers_and_dates()
        return Sides("the embedded pairs", [s for s, _ in made], [t for _, t in made], ("zh", "en"))
    if isinstance(sources, Mapping) or hasattr(sources, "columns"):
        return _in_memory(sources, names)
    many = list(sources) if isinstance(sources, (list, tuple)) else [sources]
    if not all(isinstance(s, (str, os.PathLike)) for s in many):
        kinds = ", ".join(sorted({type(s).__name__ for s in many}))
        raise TypeError(
            f"pairs are two files, tables, folders, catalog names or '-', got {kinds}; "
            "pairs themselves are given as {'source': [...], 'target': [...]}"
        )
    found: Sides | None = None
    for group in _grouped([os.fspath(s) for s in many]):
        some = _read(group, names)
        if found is None:
            found = some
        else:
            found.name += f", {some.name}"
            found.add(some)
    if found is None or not (found.sources or found.splits):
        raise UserError(f"{', '.join(map(str, many)) or 'no source'}: no pair to read")
    return found


# --- which files belong together ----------------------------------------------------------------------


def _grouped(words: list[str]) -> Iterator[list[str]]:
    """Words that are read together: two files of lines, or one of anything else."""
    lines = [w for w in words if not _whole(w)]
    if lines and len(lines) != 2:
        raise UserError(
            f"{', '.join(lines)}: {len(lines)} file{'s' * (len(lines) > 1)} of lines, expected two that belong together line "
            "by line, as train.en train.de, or one table with two columns (.tsv, .csv, .jsonl)"
        )
    if lines:
        yield lines
    for word in words:
        if _whole(word):
            yield [word]


def _whole(word: str) -> bool:
    """Whether a word stands for both sides by itself."""
    if word == "-" or kind_of(Path(word)) in ROWS:
        return True
    path = Path(word)
    return path.is_dir() or (not path.exists() and word in CATALOG)


def _read(words: list[str], names: tuple[str, str]) -> Sides:
    if len(words) == 2:
        return _two_files(Path(words[0]), Path(words[1]))
    (word,) = words
    if word == "-":
        return _table(
            Origin("standard input", "", stream=keep_stream(sys.stdin.buffer)), names, ".tsv"
        )
    path = Path(word)
    if path.is_dir():
        return _folder(path, names)
    if path.exists():
        return _table(Origin(word, "", path=path), names, kind_of(path))
    if (paths := find(word)) is not None and len(paths) == 2:
        by_code = {language_of(path): path for path in paths}
        if names != NAMES:
            return _two_files(
                *(by_code[code] for code in _codes(word, [str(c) for c in by_code], names))
            )
        return _two_files(paths[0], paths[1])
    raise UserError(_missing(word))


def _missing(word: str) -> str:
    if len(word) > 200 or "\n" in word:
        return f"no such file: {word[:40]!r}...; pairs themselves are given as {{'source': [...], 'target': [...]}}"
    parent = Path(word).parent
    beside = [str(parent / p) for p in os.listdir(parent)] if parent.is_dir() else []
    return f"{word}: no such file{nearest(word, [*beside, *CATALOG])}"


def language_of(path: Path) -> str | None:
    """The language's code that a file's name ends with, as "de" of train.de.gz; None if it ends otherwise."""
    suffix = next((s[1:] for s in reversed(path.suffixes) if s.lower() not in PACKED), "")
    known = f".{suffix.lower()}" in PLAIN | ROWS
    return suffix if suffix and not known and LANGUAGE.fullmatch(suffix) else None


# --- lines ----------------------------------------------------------------------------------------------


def _two_files(first: Path, second: Path) -> Sides:
    for path in (first, second):
        if not path.exists():
            raise UserError(_missing(str(path)))
    left, right = read_lines(first), read_lines(second)
    if len(left) != len(right):
        raise UserError(_different(first, second, left, right))
    codes = language_of(first), language_of(second)
    languages = (codes[0], codes[1]) if codes[0] and codes[1] else None
    notes = []
    if first.resolve() == second.resolve():
        notes.append(f"{first}: is both sides; what is learned is to copy")
    return Sides(f"{first} and {second}", left, right, languages, notes)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without white space at their ends."""
    text = "".join(decoded(Origin(str(path), "", path=path)))
    lines = text.split("\n")  # not splitlines: U+2028 and the like stand inside sentences
    if lines and not lines[-1]:
        lines.pop()
    return [line.strip() for line in lines]


def _different(first: Path, second: Path, left: list[str], right: list[str]) -> str:
    """The sentence on two sides of different lengths, with the first line where they seem to part."""
    place, why = _suspicious(left, right)
    return (
        f"{first} has {len(left):,} lines and {second} has {len(right):,}; both must have as many, as line n of one belongs "
        f"to line n of the other; the first that do not seem to belong together are line {place:,}: {why}"
    )


def _suspicious(left: list[str], right: list[str]) -> tuple[int, str]:
    """The first line (from 1) whose sides do not go together, and why.

    The longer side is taken to have its surplus lines in one place: the one where the logarithms of the ratios of the
    lengths, of lines before it side by side and of lines behind it moved together, lie closest to their median.
    """
    import numpy as np

    both, surplus = min(len(left), len(right)), abs(len(left) - len(right))
    shorter, longer = (left, right) if len(left) < len(right) else (right, left)
    a, b = (np.log(np.array([len(x) for x in side]) + 5.0) for side in (shorter, longer))
    if not both:
        return 1, "one side ends before it"
    beside, moved = a - b[:both], a - b[surplus:]
    usual = np.median(np.concatenate([beside, moved]))
    beside, moved = np.abs(beside - usual), np.abs(moved - usual)
    costs = np.concatenate([[0], beside.cumsum()]) + np.concatenate(
        [moved[::-1].cumsum()[::-1], [0]]
    )
    place = both - int(np.argmin(costs[::-1]))  # of equally good ones the last
    for n in range(place):
        if bool(left[n]) != bool(right[n]):
            return n + 1, f"{left[n][:40]!r} beside {right[n][:40]!r}, one of them empty"
    if place == both:
        return both + 1, f"{longer[both][:40]!r} has no line beside it"
    return place + 1, f"{left[place][:40]!r} beside {right[place][:40]!r}"


# --- folders ----------------------------------------------------------------------------------------------


def _folder(folder: Path, names: tuple[str, str]) -> Sides:
    """train.XX and train.YY, with valid (or val, dev) and test beside them where they are there."""
    by_stem: dict[str, dict[str, Path]] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        code = language_of(path)
        if code:
            stem = path.name[: path.name.rindex(f".{code}")]
            by_stem.setdefault(stem, {})[code] = path
    both = {stem: files for stem, files in by_stem.items() if len(files) >= 2}
    if "train" not in both:
        raise UserError(
            f"{folder}: expected two files train.XX and train.YY, XX and YY languages' codes, found "
            f"{', '.join(sorted(by_stem)) or 'no file of that kind'}; name the two files instead"
        )
    codes = _codes(folder, sorted(both["train"]), names)
    found = _two_files(*(both["train"][code] for code in codes))
    found.name = f"{folder} ({codes[0]} to {codes[1]})"
    if names == NAMES:
        turned = f"--data.source {codes[1]} --data.target {codes[0]}"
        found.notes.append(f"{folder}: from {codes[0]} to {codes[1]}; {turned} turns it round")
    tests = [stem for stem in both if stem == "test" or re.match(r"test[_.-]", stem)]
    for stem, files in both.items():
        split = PARTS.get(stem, "test" if tests and stem == tests[0] else None)
        if stem != "train" and split and split not in found.splits and set(codes) <= set(files):
            found.splits[split] = _two_files(*(files[code] for code in codes))
    if left := [stem for stem in both if stem not in PARTS and stem not in tests[:1]]:
        found.notes.append(f"{folder}: not read: {', '.join(left)}")
    return found


def _codes(folder: Path | str, known: list[str], names: tuple[str, str]) -> tuple[str, str]:
    if names == NAMES:
        if len(known) > 2:
            raise UserError(
                f"{folder}: has train in {', '.join(known)}; --data.source and --data.target say which two"
            )
        return known[0], known[1]
    for name in names:
        if name not in known:
            raise UserError(f"{folder}: no file .{name}{nearest(name, known)}")
    return names


# --- tables -----------------------------------------------------------------------------------------------


def _in_memory(sources: Any, names: tuple[str, str]) -> Sides:
    columns = [str(c) for c in getattr(sources, "columns", sources)]
    for name in names:
        if name not in columns:
            raise UserError(f"no {name!r} in the given data{nearest(name, columns)}")
    left, right = (list(sources[name]) for name in names)
    if len(left) != len(right):
        raise UserError(
            f"{len(left):,} texts under {names[0]!r} and {len(right):,} under {names[1]!r}; expected as many of both"
        )
    found = Sides("the given pairs")
    for number, pair in enumerate(zip(left, right, strict=True)):
        _append(found, pair, f"pair {number}", names)
    return found


def _append(found: Sides, pair: Sequence[Any], where: str, names: tuple[str, str]) -> None:
    for value, name in zip(pair, names, strict=True):
        if value is not None and not isinstance(value, str):
            kind = type(value).__name__
            raise UserError(f"{found.name}, {where}, {name}: expected text, got {kind}")
    found.sources.append(" ".join((pair[0] or "").split("\n")).strip())
    found.targets.append(" ".join((pair[1] or "").split("\n")).strip())


def _table(origin: Origin, names: tuple[str, str], kind: str) -> Sides:
    found = Sides(origin.name)
    if kind in (".tsv", ".csv"):
        _separated(found, origin, names, kind)
    else:
        _records(found, origin, names, kind)
    return found


def _separated(found: Sides, origin: Origin, names: tuple[str, str], kind: str) -> None:
    """Columns by name where the first row has them; else the first two columns of every row."""
    csv.field_size_limit(min(sys.maxsize, (1 << 31) - 1))
    text = "".join(decoded(origin))
    first = text.split("\n", 1)[0]
    delimiter = "\t" if kind == ".tsv" else next((d for d in ",;\t" if d in first), ",")
    # no splitlines: U+2028 and the like stand inside sentences
    lines = text.split("\n") if kind == ".tsv" else io.StringIO(text, newline="")
    stripped = (line.rstrip("\r") for line in lines)
    rows = (
        csv.reader(
            stripped, delimiter=delimiter, quoting=csv.QUOTE_NONE
        )  # quotes of a .tsv are text
        if kind == ".tsv"
        else csv.reader(stripped, delimiter=delimiter)
    )
    places = (0, 1)
    for number, row in enumerate(rows, 1):
        if not row:
            continue
        if number == 1:
            if len(row) < 2:
                what = "tabs" if kind == ".tsv" else "commas, semicolons or tabs"
                raise UserError(
                    f"{origin.name}: one column, expected two separated by {what}: a text and what becomes of it "
                    f"(line 1: {row[0][:40]!r})"
                )
            if set(names) <= set(row):
                places = (row.index(names[0]), row.index(names[1]))
                continue
            if names != NAMES:
                wrong = next(n for n in names if n not in row)
                raise UserError(f"{origin.name}: no column {wrong!r}{nearest(wrong, row)}")
            found.notes.append(
                f"{origin.name}: no columns named {names[0]} and {names[1]}: the first two are taken, the first line with them "
                f"({row[0][:30]!r}, {row[1][:30]!r})"
            )
        if len(row) <= max(places):
            raise UserError(
                f"{origin.name}, line {number}: {len(row)} column{'s' * (len(row) > 1)}, expected {max(places) + 1} or more"
            )
        _append(found, (row[places[0]], row[places[1]]), f"line {number}", names)


def _records(found: Sides, origin: Origin, names: tuple[str, str], kind: str) -> None:
    """Objects with both names, in themselves or in one object inside (as {"translation": {"en": ..., "de": ...}})."""
    chosen: tuple[str, str] | None = None
    for where, row in _objects(origin, kind):
        if not isinstance(row, dict):
            raise UserError(f"{origin.name}, {where}: expected an object, got {row!r:.40}")
        if not set(names) & set(row):
            row = next((v for v in row.values() if isinstance(v, dict)), row)
        if chosen is None:
            chosen = _chosen(origin, where, row, names, found.notes)
        for name in chosen:
            if name not in row:
                raise UserError(f"{origin.name}, {where}: no field {name!r}{nearest(name, row)}")
        _append(found, (row[chosen[0]], row[chosen[1]]), where, chosen)


def _chosen(
    origin: Origin, where: str, row: dict[str, Any], names: tuple[str, str], notes: list[str]
) -> tuple[str, str]:
    if set(names) <= set(row) or names != NAMES:
        return names
    texts = [name for name, value in row.items() if isinstance(value, str)]
    if len(texts) != 2:
        raise UserError(
            f"{origin.name}, {where}: no fields source and target among {', '.join(map(str, row))}; "
            "--data.source and --data.target say which they are"
        )
    notes.append(f"{origin.name}: from the field {texts[0]} to {texts[1]}")
    return texts[0], texts[1]


def _objects(origin: Origin, kind: str) -> Iterator[tuple[str, Any]]:
    if kind == ".parquet":
        import polars as pl

        try:
            frame = pl.read_parquet(origin.path)  # type: ignore[arg-type]
        except (pl.exceptions.PolarsError, OSError) as error:
            first = str(error).splitlines()[0]
            raise UserError(f"{origin.name}: not a Parquet file ({first})") from error
        yield from ((f"row {n}", row) for n, row in enumerate(frame.iter_rows(named=True), 1))
        return
    text = "".join(decoded(origin))
    if kind == ".json":
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise UserError(f"{origin.name}: not JSON ({error})") from error
        items = rows if isinstance(rows, list) else [rows]
        yield from ((f"item {n}", row) for n, row in enumerate(items, 1))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except ValueError as error:
            raise UserError(f"{origin.name}, line {number}: not JSON ({error})") from error
