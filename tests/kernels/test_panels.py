"""Products in panels against NumPy: float32, and bytes against the integers they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from fourfold.kernels.panels import (
    BLOCK,
    PANEL,
    multiply_bytes,
    multiply_floats,
    packed,
    padded,
    quantize,
    quantized,
)

SIZES = [(1, 1, 1), (2, 63, 65), (3, 130, 64), (7, 64, 129)]
"""Rows, outputs, inputs: every number of rows at once (4, 2, 1), sizes that are padded."""


def drawn(rows: int, outputs: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(rows)
    weight = noise.standard_normal((outputs, inputs), np.float32)
    return weight, noise.standard_normal((rows, inputs), np.float32)


@pytest.mark.parametrize("rows, outputs, inputs", SIZES)
def test_floats(rows: int, outputs: int, inputs: int) -> None:
    weight, x = drawn(rows, outputs, inputs)
    out = np.full((rows, padded(outputs)), np.nan, np.float32)
    multiply_floats(packed(weight), 0, x, out, 0, padded(outputs) // PANEL)
    np.testing.assert_allclose(out[:, :outputs], x @ weight.T, rtol=1e-4, atol=1e-4)
    assert (out[:, outputs:] == 0).all()


def restored(weight: np.ndarray) -> np.ndarray:
    """What int8 with a scale for each 64 inputs of an output makes of a matrix, from the definition."""
    found = np.zeros_like(weight)
    for begin in range(0, weight.shape[1], BLOCK):
        part = weight[:, begin : begin + BLOCK]
        scale = np.abs(part).max(1, keepdims=True) / 127
        scale[scale == 0] = 1
        found[:, begin : begin + BLOCK] = np.rint(part / scale) * scale
    return found


@pytest.mark.parametrize("rows, outputs, inputs", SIZES)
def test_bytes(rows: int, outputs: int, inputs: int) -> None:
    weight, x = drawn(rows, outputs, inputs)
    weight[0] = 0
    x[0, :1] = 0
    codes, scales = quantized(weight)
    blocks = padded(inputs) // BLOCK
    read = np.full((rows, blocks * BLOCK), 77, np.int8)
    own, offsets = np.empty((rows, blocks), np.float32), np.empty((rows, blocks), np.int32)
    quantize(x, read, own, offsets)
    assert (offsets == -128 * read.reshape(rows, blocks, BLOCK).astype(int).sum(-1)).all()
    out = np.full((rows, padded(outputs)), np.nan, np.float32)
    multiply_bytes(codes, 0, scales, read, own, offsets, out, 0, padded(outputs) // PANEL)
    expected = restored(x).astype(np.float64) @ restored(weight).astype(np.float64).T
    # a half may be rounded to either side where the compiler multiplies by an inverse
    np.testing.assert_allclose(out[:, :outputs], expected, rtol=1e-3, atol=2e-2)
    assert (
        out[:, :outputs] - x @ weight.T
    ).std() < 0.012 * inputs**0.5  # steps of 2.5 / 127, both sides
