"""Reading ARPA files: every line is checked, and a fault is told with the number of its line.

Lines are taken apart many at a time; where that fails, one after the other, to find which is at fault.
Shapes: V words of the model to be, n n-grams of an order, k words of each.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from fourfold.core.errors import UserError
from fourfold.kernels.ngram import Tables, context_sums, suffixes
from fourfold.models.arpa import BEGIN, END, UNKNOWN, open_arpa, paths, unescaped
from fourfold.models.arpa_tree import Grams, tree

HEAD, SECTION = re.compile(rb"ngram\s+(\d+)\s*=\s*(\d+)\s*"), re.compile(rb"\\(\d+)-grams:\s*")
LINES = 1 << 19
"""Lines taken apart at once."""
IMPOSSIBLE = -100.0
"""log10 of what a file has no probability for, as in KenLM."""
TOLERANCE = 1e-3
"""How far from one the probabilities after a context may sum before it is told: files have 6 or 7 digits."""


@dataclass
class ArpaFile:
    """What an ARPA file held. Token 0 ends documents, 1 is <unk>, 2 is </s> and, as a context, <s>."""

    words: list[str]
    """The others, from token 3 on."""
    tables: Tables
    notes: list[str] = field(default_factory=list)
    """What is missing or wrong in it, in sentences."""


def looks_like_arpa(path: Path) -> bool:
    """Whether one of the first lines of a file opens an ARPA file."""
    if not path.is_file():
        return False
    try:
        with open_arpa(path) as file:
            return any(line.strip() == b"\\data\\" for line in itertools.islice(file, 100))
    except (OSError, EOFError, zlib.error):
        return False


def read_arpa(path: Path, end: str) -> ArpaFile:
    """Read an ARPA file, gzipped or not.

    Args:
        path: the file.
        end: the word that ends documents, where the file has it.

    Raises:
        UserError: it is missing, or a line of it is malformed; the sentence names the line.
    """
    if not path.is_file():
        raise UserError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    try:
        with open_arpa(path) as file:
            return _Reader(path, file).read(end)
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path}: truncated or damaged ({error})") from error


class _Reader:
    """One file under way."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.number, self.lines = path, 0, file
        self.notes: list[str] = []

    def fail(self, found: str, number: int | None = None) -> UserError:
        return UserError(f"{self.path}, line {number or self.number}: {found}")

    def next(self) -> bytes:
        """The next line that is not empty."""
        for line in self.lines:
            self.number += 1
            if line.strip():
                return line.strip()
        raise self.fail("the file ends there, expected \\end\\")

    def read(self, end: str) -> ArpaFile:
        sizes, line = self._head()
        names: dict[str, int] = {}
        orders: list[Grams] = []
        for order, size in enumerate(sizes, 1):
            found = SECTION.fullmatch(line)
            if found is None or int(found[1]) != order:
                raise self.fail(f"expected \\{order}-grams:, got {_shown(line)}")
            orders.append(self._section(order, size, names, last=order == len(sizes)))
            line = self.next()
        if line != b"\\end\\":
            raise self.fail(f"expected \\end\\, got {_shown(line)}")
        return self._model(names, orders, end)

    def _head(self) -> tuple[list[int], bytes]:
        while self.next() != b"\\data\\":
            if self.number > 100:
                raise self.fail("no \\data\\ up to here; is this an ARPA file?")
        sizes: list[int] = []
        while found := HEAD.fullmatch(line := self.next()):
            if int(found[1]) != len(sizes) + 1:
                raise self.fail(f"expected the size of order {len(sizes) + 1}, got {_shown(line)}")
            sizes.append(int(found[2]))
        if not sizes:
            raise self.fail(f"expected ngram 1=..., got {_shown(line)}")
        return sizes, line

    def _section(self, order: int, size: int, names: dict[str, int], *, last: bool) -> Grams:
        """The n-grams of one order: words by their place among the unigrams of the file."""
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        left = size
        while left:
            first = self.number + 1
            lines = list(itertools.islice(self.lines, min(left, LINES)))
            self.number += len(lines)
            if len(lines) < min(left, LINES):
                raise self.fail(
                    f"the file ends there, {left - len(lines):,} {order}-grams before all of them came"
                )
            found = _apart(lines, order, names, last)
            parts.append(
                found if found is not None else self._one_by_one(lines, first, order, names)
            )
            left -= len(lines)
        if not parts:
            return Grams(np.empty((0, order), np.int32), np.empty(0), np.empty(0))
        words, logs, weights = (np.concatenate(some) for some in zip(*parts, strict=True))
        return Grams(words, logs, weights)

    def _one_by_one(
        self, lines: list[bytes], first: int, order: int, names: dict[str, int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same, line after line, which may be separated by spaces.

        Raises:
            UserError: for the first line that is malformed.
        """
        words = np.empty((len(lines), order), np.int32)
        logs, weights = np.empty(len(lines)), np.zeros(len(lines))
        for i, line in enumerate(lines):
            number = first + i
            try:
                fields = line.decode().split()
            except UnicodeDecodeError as error:
                raise self.fail("is not UTF-8", number) from error
            if not fields or fields[0].startswith("\\"):
                got = _shown(line.strip()) or "an empty line"
                raise self.fail(
                    f"expected a {order}-gram (the head tells of {len(lines) - i:,} more), got {got}",
                    number,
                )
            if len(fields) not in (order + 1, order + 2):
                raise self.fail(
                    f"expected a number, {order} word{'s' * (order > 1)} and perhaps a number, got {len(fields)} fields: {_shown(line.strip())}",
                    number,
                )
            logs[i] = self._number(fields[0], number)
            if logs[i] > 0:
                raise self.fail(
                    f"expected the logarithm of a probability, at most 0, got {fields[0]}", number
                )
            weights[i] = self._number(fields[-1], number) if len(fields) == order + 2 else 0.0
            for j, word in enumerate(fields[1 : order + 1]):
                if order == 1:
                    if word in names:
                        raise self.fail(f"the word {word!r} came before", number)
                    names[word] = len(names)
                elif word not in names:
                    raise self.fail(f"the word {word!r} is not among the unigrams", number)
                words[i, j] = names[word]
        return words, logs, weights

    def _number(self, text: str, number: int) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isnan(value) or value == math.inf:
            raise self.fail(f"expected a number, got {text!r}", number)
        return max(value, IMPOSSIBLE)

    # --- from what was read to a model ----------------------------------------------------------------

    def _model(self, names: dict[str, int], orders: list[Grams], end: str) -> ArpaFile:
        special = {end: 0, UNKNOWN: 1, BEGIN: 2, END: 2}
        words = [word for word in names if word not in special]
        numbers = itertools.count(3)
        tokens = np.array(
            [special[word] if word in special else next(numbers) for word in names], np.int32
        )
        for mark, what in (
            (UNKNOWN, "no probability for unknown words"),
            (END, "no end of a sentence"),
            (BEGIN, "no beginning of a sentence"),
        ):
            if mark not in names:
                self.notes.append(f"{self.path}: has no {mark}, so {what}: 1e-100 stands in")
        marks = names.get(BEGIN, -1), names.get(END, -1)
        tables, left_out, implied = tree(orders, tokens, 3 + len(words), marks)
        if left_out:
            self.notes.append(
                f"{self.path}: {left_out:,} n-grams left out, as they go on after {END} or predict {BEGIN}"
            )
        if implied:
            self.notes.append(
                f"{self.path}: {implied:,} n-grams stand for their longer ones only; they are backed off to"
            )
        self._check_sums(tables, words)
        return ArpaFile([unescaped(word) for word in words], tables, self.notes)

    def _check_sums(self, tables: Tables, words: list[str]) -> None:
        """A note where probabilities do not sum to one."""
        total = float(np.exp(tables.logs[: int(tables.first[0])].astype(np.float64)).sum())
        if abs(total - 1) > TOLERANCE:
            self.notes.append(
                f"{self.path}: the probabilities of single words sum to {total:.4f}, not 1"
            )
        if tables.order == 1:
            return
        sums = np.empty(len(tables.backoffs))
        context_sums(tables, suffixes(tables), total, sums)
        used = (np.diff(tables.first) > 0) | (tables.backoffs != 0)
        wrong = used & (np.abs(sums - 1) > TOLERANCE)
        if wrong.any():
            worst = int(np.argmax(np.where(wrong, np.abs(sums - 1), 0)))
            names = ["", UNKNOWN, BEGIN, *words]
            shown = " ".join(names[word] for word in paths(tables, np.array([worst]))[0])
            self.notes.append(
                f"{self.path}: after {int(wrong.sum()):,} of {int(used.sum()):,} contexts the probabilities do not sum to 1; "
                f"the furthest is {sums[worst]:.4f} after {shown!r}"
            )


def _shown(line: bytes) -> str:
    return repr(line[:60].decode(errors="replace")) if line else ""


def _apart(
    lines: list[bytes], order: int, names: dict[str, int], last: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Words, logarithms and weights of lines written with tabs; None where some line is not as it should be."""
    import polars as pl

    schema = {"log": pl.Float64, "grams": pl.String, **({} if last else {"weight": pl.Float64})}
    # the first line tells how many columns there are: one that has them all is put before
    text = b"".join([b"0\t \n" if last else b"0\t \t0\n", *lines])
    try:
        frame = pl.read_csv(
            text,
            separator="\t",
            has_header=False,
            quote_char=None,
            schema=schema,
            truncate_ragged_lines=False,
        )
    except (pl.exceptions.PolarsError, UnicodeDecodeError):
        return None
    frame = frame[1:]
    logs = frame["log"]
    weights = pl.zeros(len(frame), eager=True) if last else frame["weight"].fill_null(0.0)
    if len(frame) != len(lines) or logs.null_count() or not bool((logs <= 0).all()):
        return None
    if not bool(weights.is_finite().all()) or frame["grams"].null_count():
        return None
    columns: np.ndarray | None = _columns(frame["grams"], order, names)
    if columns is None:
        return None
    return (
        columns,
        np.maximum(logs.to_numpy(), IMPOSSIBLE),
        np.maximum(weights.to_numpy(), IMPOSSIBLE),
    )


def _columns(grams: Any, order: int, names: dict[str, int]) -> np.ndarray | None:
    """The words of n-grams by their numbers, (n, k) int32; those of single words are new."""
    import polars as pl

    if order == 1:
        words = grams.to_list()
        if any(len(word.split()) != 1 or word.split()[0] != word for word in words):
            return None
        before = len(names)
        if len({*words}) < len(words) or not names.keys().isdisjoint(words):
            return None
        names.update(zip(words, range(before, before + len(words)), strict=True))
        return np.arange(before, len(names), dtype=np.int32)[:, None]
    split = grams.str.split(" ")
    if not bool((split.list.len() == order).all()):
        return None
    kind = pl.Enum(list(names))
    try:
        flat = split.explode().cast(kind)
    except pl.exceptions.PolarsError:
        return None
    found: np.ndarray = flat.to_physical().to_numpy().astype(np.int32).reshape(-1, order)
    return found
