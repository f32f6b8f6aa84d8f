"""Several sources of text, each with a share of the training windows.

An epoch has as many windows as the sources have together; each source gives its share of them. It goes through its own
windows pass after pass, across epochs: one of which much is asked begins again within an epoch, one of which little is
asked takes several epochs to be read. Everything follows from (seed, epoch, number of the window).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fourfold.core.errors import UserError, nearest
from fourfold.data.readers import Origin
from fourfold.data.text_sources import find_origins


def mixed(
    weights: Mapping[str, float], sources: Any, field: str, *, strict: bool
) -> tuple[list[tuple[str, list[Origin]]], list[str]]:
    """The sources that a mixture names, each with its files, in the order in which they were given; with notes.

    Every word that was given is a source, or every entry of a single folder. A weight names one as it was given, by
    its file's name or by that without extension.

    Raises:
        UserError: a weight for no source, a source without a weight, a file in two of them.
    """
    words = _words(sources)
    named: dict[str, float] = {}
    for key, weight in weights.items():
        fitting = [w for w in words if key in _names(w)]
        if not fitting:
            known = [_names(w)[-1] for w in words]
            raise UserError(f"--data.mixture {key}: no such source{nearest(key, known)}")
        if len(fitting) > 1:
            raise UserError(
                f"--data.mixture {key}: stands for {' and '.join(fitting)}; give the whole name"
            )
        if fitting[0] in named:
            raise UserError(f"--data.mixture: gives {fitting[0]} two weights")
        named[fitting[0]] = weight
    if missing := [word for word in words if word not in named]:
        raise UserError(
            f"--data.mixture: {', '.join(missing)} has no weight; every source of a mixture needs one"
        )
    found, notes, seen = [], [], {}  # type: ignore[var-annotated]
    for word in words:
        origins, more = find_origins(word, field, strict=strict)
        notes += more
        for path in (o.path.resolve() for o in origins if o.path):
            if seen.setdefault(path, word) != word:
                raise UserError(
                    f"{path}: is in {seen[path]} and in {word}; a mixture reads it once"
                )
        found.append((word, origins))
    return found, notes


def weight_of(weights: Mapping[str, float], word: str) -> float:
    """The weight that a mixture gives a source, known to be one of it."""
    return next(weight for key, weight in weights.items() if key in _names(word))


def _words(sources: Any) -> list[str]:
    many = list(sources) if isinstance(sources, (list, tuple)) else [sources]
    if not all(isinstance(s, (str, os.PathLike)) for s in many):
        raise UserError(
            "--data.mixture: expected files, folders or catalog names, got text in memory"
        )
    words = [os.fspath(s) for s in many]
    if len(words) == 1 and Path(words[0]).is_dir():
        inside = sorted(p for p in Path(words[0]).iterdir() if not p.name.startswith("."))
        words = [str(p) for p in inside]
    if len(words) < 2:
        raise UserError(
            f"--data.mixture: expected several sources, or a folder with several, got {', '.join(words)}"
        )
    return list(dict.fromkeys(words))


def _names(word: str) -> tuple[str, ...]:
    path = Path(word)
    return word, path.name, path.name.split(".")[0] or path.name


class Mixture:
    """Which window of which source each number of an epoch stands for.

    Args:
        names: of the sources.
        weights: of each, above 0; their sum need not be 1.
        tokens: training tokens of each, in the order in which they follow one another.
        window: tokens of a window.
        seed: fixes offsets and orders.

    Raises:
        UserError: a source has less than a window.
    """

    def __init__(
        self,
        names: Sequence[str],
        weights: Sequence[float],
        tokens: Sequence[int],
        window: int,
        seed: int,
    ) -> None:
        for name, size in zip(names, tokens, strict=True):
            if size < window:
                raise UserError(
                    f"{name}: its training split has {size} tokens, fewer than one window of {window}; "
                    f"--data.window {max(size, 1)} or less fits"
                )
        self.names, self.window, self.seed = list(names), window, seed
        self.shares = np.array(weights, float) / sum(weights)
        self.sizes = np.array(tokens, np.int64)
        self.begins = np.cumsum(self.sizes) - self.sizes
        # offsets vary from pass to pass, as far as the number of windows stays the same
        self.free = np.minimum(window - 1, self.sizes - window)
        self.each = (self.sizes - self.free) // window
        """Windows in one pass of each source."""
        self.count = int((self.sizes // window).sum())
        """Windows in an epoch."""
        self.given = _rounded(self.shares, self.count)
        """Windows that each source gives to an epoch."""
        self.ends = np.cumsum(self.given)
        self._order = functools.lru_cache(maxsize=4 * len(self.names))(self._drawn)

    def starts(self, index: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Where windows begin in the tokens of all sources, and where their sources do.

        Args:
            index: (B,) int64 below `count`.
            epoch: from 0 on.

        Returns:
            Two (B,) int64 arrays; a window's first target is one token after its start.
        """
        source = np.searchsorted(self.ends, index, side="right")
        place = index - (self.ends - self.given)[source] + epoch * self.given[source]
        passes, inside = np.divmod(place, self.each[source])
        starts = np.empty(len(index), np.int64)
        for s, p in set(zip(source.tolist(), passes.tolist(), strict=True)):
            order, offset = self._order(s, p)
            these = (source == s) & (passes == p)
            starts[these] = self.begins[s] + offset + order[inside[these]] * self.window
        return starts, self.begins[source]

    def _drawn(self, source: int, number: int) -> tuple[np.ndarray, int]:
        """The order of a source's windows in one of its passes, and the offset of the first."""
        generator = np.random.default_rng([self.seed, source, number, 0x313C])
        offset = int(generator.integers(self.free[source] + 1))
        return generator.permutation(int(self.each[source])), offset

    def summary(self) -> dict[str, dict[str, Any]]:
        """Of each source its share, training tokens, windows and passes in an epoch."""
        return {
            name: {
                "share": round(float(share), 4),
                "training tokens": int(size),
                "windows in one epoch": int(given),
                "passes in one epoch": round(float(given / each), 3),
            }
            for name, share, size, given, each in zip(
                self.names, self.shares, self.sizes, self.given, self.each, strict=True
            )
        }

    def note(self) -> str:
        """A sentence with each source's share and how often an epoch reads it."""
        said = (
            f"{name} {share:.1%} of the windows, read {given / each:.2f} times an epoch"
            for name, share, given, each in zip(
                self.names, self.shares, self.given, self.each, strict=True
            )
        )
        return f"mixture: {'; '.join(said)}"


def _rounded(shares: np.ndarray, count: int) -> np.ndarray:
    """Whole numbers nearest to shares of a count, of the same sum; each at least one where there are as many."""
    exact = shares * count
    found = np.floor(exact).astype(np.int64)
    order = np.argsort(found - exact, kind="stable")
    found[order[: count - int(found.sum())]] += 1
    for empty in np.flatnonzero(found == 0):
        if found.max() > 1:
            found[found.argmax()] -= 1
            found[empty] = 1
    return found
