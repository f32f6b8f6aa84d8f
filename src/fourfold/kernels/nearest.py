"""The largest products of a vector with many, exact, reading a quarter of their bytes: codes first, then what may be among them.

Products with 50,000 vectors of 384 features are bound by memory. Each vector's code is 8 bits a feature under a scale of its
own; how far the product with a code is off is bounded by the lengths of what rounding has changed (Cauchy and Schwarz), so
that the few vectors whose bound reaches the best ones are multiplied in full, and no other can be among these.

Shapes: N vectors, D features.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fourfold.kernels.cached import njit

ROWS = 8192
"""Vectors that are rounded at a time."""
SLACK = 1e-6
"""What float32 itself may be off, as a share of the vectors' lengths, beyond the bound."""


class Codes(NamedTuple):
    """Vectors rounded to 8 bits a feature."""

    codes: np.ndarray
    """(N, D) int8."""
    scales: np.ndarray
    """(N,) float32: a vector is about its code times its scale."""
    errors: np.ndarray
    """(N,) float32, lengths of what rounding has changed."""
    lengths: np.ndarray
    """(N,) float32, lengths of the rounded vectors."""


def coded(vectors: np.ndarray) -> Codes:
    """The codes of some vectors, (N, D) float32, finite."""
    count, size = vectors.shape
    codes = np.empty((count, size), np.int8)
    scales, errors, lengths = (np.empty(count, np.float32) for _ in range(3))
    for begin in range(0, count, ROWS):
        rows = slice(begin, begin + ROWS)
        some = np.asarray(vectors[rows], np.float32)
        largest = np.abs(some).max(1, initial=0)
        scales[rows] = np.where(largest > 0, largest / 127, 1)
        rounded = np.rint(some / scales[rows, None])
        codes[rows] = rounded
        rounded *= scales[rows, None]
        lengths[rows] = np.linalg.norm(rounded, axis=1)
        errors[rows] = np.linalg.norm(some - rounded, axis=1)
    return Codes(codes, scales, errors, lengths)


def nearest(
    codes: Codes, vectors: np.ndarray, asked: np.ndarray, top: int, kept: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the `top` largest products, falling, of equal ones the first row first; and the products.

    Args:
        codes: of the vectors.
        vectors: (N, D) float32.
        asked: (D,) float32, finite.
        top: 1 or more.
        kept: (N,) bool, rows that may be given; None all.
    """
    largest = float(np.abs(asked).max(initial=0))
    scale = np.float32(largest / 127 if largest > 0 else 1)
    code = np.rint(asked / scale).astype(np.int16)
    length, off = np.linalg.norm(asked), np.linalg.norm(asked - code * scale)
    products = np.empty(len(codes.codes), np.float32)
    bounds = np.empty(len(codes.codes), np.float32)
    _products(*codes, code, scale, np.float32(length), np.float32(off), products, bounds)
    if kept is not None:
        products[~kept], bounds[~kept] = -np.inf, 0
    least = products - bounds
    enough = np.partition(least, -top)[-top] if top < len(least) else -np.inf
    rows = np.flatnonzero((products + bounds >= enough) & (products > -np.inf))
    found = vectors[rows] @ asked
    order = np.argsort(-found, kind="stable")[:top]
    return rows[order], found[order]


@njit(nogil=True, cache=True, boundscheck=False)
def _products(codes, scales, errors, lengths, code, scale, length, off, products, bounds):  # type: ignore[no-untyped-def]
    """Products with the codes, and how far each may be off."""
    for n in range(len(codes)):
        total = np.int32(0)
        for d in range(len(code)):
            total += np.int32(codes[n, d]) * np.int32(code[d])
        products[n] = np.float32(total) * scales[n] * scale
        own = lengths[n] + errors[n]
        bounds[n] = errors[n] * length + lengths[n] * off + np.float32(SLACK) * own * length
