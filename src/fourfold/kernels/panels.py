"""Products of a few vectors with a matrix that is read once, in float32 or in bytes: what decoding waits for.

The matrix lies in panels of 64 outputs, so that one input meets 64 weights that are neighbours, and every
output has a lane of a register of its own: nothing is summed across lanes. Bytes hold int8 weights plus 128,
and each block of 64 inputs has for every output a float32 scale, as each block of every vector has. Four
products of bytes are one lane's work of one instruction where the machine has VNNI (vpdpbusd: unsigned
weights with signed inputs; what the 128 adds is subtracted at the beginning of each block).

Shapes: R rows, N outputs, M inputs, both padded; P = N / 64 panels, G = M / 64 blocks.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config

from fourfold.kernels.cached import njit
from fourfold.kernels.lanes import intrinsic, pointer

PANEL = 64
"""Outputs of a panel."""
BLOCK = 64
"""Inputs that share a scale."""
QUADS = BLOCK // 4
VECTORS = PANEL // 16
FLOAT, INT, BYTE = ir.FloatType(), ir.IntType(32), ir.IntType(8)
FLOATS, INTS, BYTES = (ir.VectorType(kind, 16) for kind in (FLOAT, INT, BYTE))


def _has_vnni() -> bool:
    features: str | None = getattr(config, "CPU_FEATURES", None)
    if features is None:
        features = llvm.get_host_cpu_features().flatten()
    known = features.split(",")
    return "+avx512vnni" in known and "+avx512f" in known


HAS_VNNI = _has_vnni()
"""Whether products of bytes are instructions of this machine."""


# --- layout -----------------------------------------------------------------------------------------


def padded(size: int) -> int:
    """Rounded up to whole panels, which are as long as blocks."""
    return -(-size // PANEL) * PANEL


def packed(weight: np.ndarray) -> np.ndarray:
    """A matrix (N, M) float32 in panels: (P * M * 64,), outputs padded with zeros."""
    outputs, inputs = weight.shape
    whole = np.zeros((padded(outputs), inputs), np.float32)
    whole[:outputs] = weight
    return np.ascontiguousarray(whole.reshape(-1, PANEL, inputs).transpose(0, 2, 1)).ravel()


def quantized(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A matrix (N, M) float32 as bytes in panels, (P * G * 64 * 64,) uint8, and scales, (P * G * 64,) float32.

    A block's largest magnitude becomes 127; what is nearer to zero than half a step becomes zero.
    """
    outputs, inputs = weight.shape
    whole = np.zeros((padded(outputs), padded(inputs)), np.float32)
    whole[:outputs, :inputs] = weight
    blocks = whole.reshape(-1, PANEL, padded(inputs) // BLOCK, BLOCK)  # (P, 64, G, 64)
    scales = np.abs(blocks).max(-1) / 127
    steps = np.where(scales > 0, scales, 1)[..., None]
    codes = (np.rint(blocks / steps) + 128).astype(np.uint8)
    codes = codes.reshape(*codes.shape[:3], QUADS, 4).transpose(0, 2, 3, 1, 4)
    scales = scales.transpose(0, 2, 1)
    return np.ascontiguousarray(codes).ravel(), np.ascontiguousarray(scales).ravel()


# --- instructions -----------------------------------------------------------------------------------


def _at(builder: Any, start: Any, index: Any, kind: Any) -> Any:
    return builder.bitcast(builder.gep(start, [index]), kind.as_pointer())


def _spread(builder: Any, number: Any, kind: Any) -> Any:
    """A number in all 16 lanes."""
    undefined = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(undefined, number, INT(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(INTS, [0] * 16))


def _called(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """One of LLVM's functions of vectors."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    ending = "i32" if arguments[0].type == INTS else "f32"
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v16{ending}")
    return builder.call(function, arguments)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return _called(builder, "fmuladd", FLOATS, a, b, c)


def _dot4(builder: Any, total: Any, weights: Any, inputs: Any) -> Any:
    """In each lane: total + four unsigned bytes of weights times four signed ones of inputs."""
    if HAS_VNNI:
        kind = ir.FunctionType(INTS, [INTS] * 3)
        function = cgutils.get_or_insert_function(
            builder.module, kind, "llvm.x86.avx512.vpdpbusd.512"
        )
        return builder.call(function, [total, weights, inputs])
    for place in range(4):
        w = builder.lshr(weights, ir.Constant(INTS, [8 * place] * 16))
        w = builder.and_(w, ir.Constant(INTS, [255] * 16))
        x = builder.shl(inputs, ir.Constant(INTS, [24 - 8 * place] * 16))
        x = builder.ashr(x, ir.Constant(INTS, [24] * 16))
        total = builder.add(total, builder.mul(w, x))
    return total


def _zeros(builder: Any, rows: int, kind: Any) -> list[list[Any]]:
    found = [[cgutils.alloca_once(builder, kind) for _ in range(VECTORS)] for _ in range(rows)]
    for row in found:
        for place in row:
            builder.store(ir.Constant(kind, None), place)
    return found


def _write(builder: Any, sums: list[list[Any]], out: Any, out_at: Any, stride: Any) -> None:
    for r, row in enumerate(sums):
        begin = builder.add(out_at, builder.mul(stride, stride.type(r)))
        for v, place in enumerate(row):
            target = _at(builder, out, builder.add(begin, stride.type(16 * v)), FLOATS)
            builder.store(builder.load(place), target, align=4)


def _float_panel(rows: int) -> Any:
    """Instructions: out (rows, 64) = x (rows, M) times one panel of float32."""

    def typed(
        typing: Any, w: Any, w_at: Any, x: Any, x_at: Any, inputs: Any, out: Any, out_at: Any, stride: Any
    ) -> Any:  # fmt: skip
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            w, w_at, x, x_at, inputs, out, out_at, stride = arguments
            sums = _zeros(builder, rows, FLOATS)
            with cgutils.for_range(builder, inputs) as loop:
                k = loop.index
                begin = builder.add(w_at, builder.mul(k, k.type(PANEL)))
                weights = [
                    builder.load(_at(builder, w, builder.add(begin, k.type(16 * v)), FLOATS), align=4)
                    for v in range(VECTORS)
                ]  # fmt: skip
                for r, row in enumerate(sums):
                    place = builder.add(builder.add(x_at, k), builder.mul(inputs, k.type(r)))
                    number = _spread(builder, builder.load(builder.gep(x, [place])), FLOATS)
                    for weight, total in zip(weights, row, strict=True):
                        builder.store(_fma(builder, weight, number, builder.load(total)), total)
            _write(builder, sums, out, out_at, stride)
            return context.get_dummy_value()

        n = types.intp
        return types.void(w, n, x, n, n, out, n, n), code

    return intrinsic(typed)


def _byte_panel(rows: int) -> Any:
    """Instructions: out (rows, 64) = x (rows, M) times one panel of bytes; see `quantized`, `quantize`."""

    def typed(
        typing: Any, w: Any, w_at: Any, scales: Any, x: Any, x_at: Any, x_scales: Any, x_offsets: Any, inputs: Any,
        out: Any, out_at: Any, stride: Any,
    ) -> Any:  # fmt: skip
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            w, w_at, scales, x, x_at, x_scales, x_offsets, inputs, out, out_at, stride = arguments
            sums = _zeros(builder, rows, FLOATS)
            word = inputs.type
            blocks = builder.udiv(inputs, word(BLOCK))
            with cgutils.for_range(builder, blocks) as loop:
                g = loop.index
                places = [
                    builder.add(builder.add(x_at, builder.mul(inputs, word(r))), builder.mul(g, word(BLOCK)))
                    for r in range(rows)
                ]  # fmt: skip
                numbers = [builder.udiv(place, word(BLOCK)) for place in places]
                begin = builder.add(w_at, builder.mul(g, word(PANEL * BLOCK)))
                totals = [
                    [_spread(builder, builder.load(builder.gep(x_offsets, [n])), INTS)] * VECTORS
                    for n in numbers
                ]
                for quad in range(QUADS):
                    start = builder.add(begin, word(quad * PANEL * 4))
                    weights = [
                        builder.load(_at(builder, w, builder.add(start, word(64 * v)), INTS), align=1)
                        for v in range(VECTORS)
                    ]  # fmt: skip
                    for r, place in enumerate(places):
                        four = _at(builder, x, builder.add(place, word(4 * quad)), INT)
                        four = _spread(builder, builder.load(four, align=4), INTS)
                        totals[r] = [
                            _dot4(builder, t, weight, four)
                            for t, weight in zip(totals[r], weights, strict=True)
                        ]
                # the scales of a panel's block: one for each of its 64 * 64 bytes' outputs
                first = builder.udiv(begin, word(BLOCK))
                for v in range(VECTORS):
                    where = _at(builder, scales, builder.add(first, word(16 * v)), FLOATS)
                    scale = builder.load(where, align=4)
                    for r, n in enumerate(numbers):
                        own = _spread(builder, builder.load(builder.gep(x_scales, [n])), FLOATS)
                        found = builder.sitofp(totals[r][v], FLOATS)
                        step = builder.fmul(scale, own)
                        builder.store(
                            _fma(builder, found, step, builder.load(sums[r][v])), sums[r][v]
                        )
            _write(builder, sums, out, out_at, stride)
            return context.get_dummy_value()

        n = types.intp
        return types.void(w, n, scales, x, n, x_scales, x_offsets, n, out, n, n), code

    return intrinsic(typed)


_float1, _float2, _float4 = _float_panel(1), _float_panel(2), _float_panel(4)
_byte1, _byte2, _byte4 = _byte_panel(1), _byte_panel(2), _byte_panel(4)

OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "boundscheck": False}


# --- products ---------------------------------------------------------------------------------------


@njit(**OPTIONS)
def multiply_floats(weights, at, x, out, first, last):  # type: ignore[no-untyped-def]
    """out (R, >= 64 P) float32 = x (R, M) times the matrix that begins at `at` of packed weights, of panels first to last."""
    rows, inputs = x.shape
    stride = out.shape[1]
    w, into, target = pointer(weights), pointer(x), pointer(out)
    for panel in range(first, last):
        begin, r = at + panel * inputs * PANEL, 0
        while r + 4 <= rows:
            _float4(w, begin, into, r * inputs, inputs, target, r * stride + panel * PANEL, stride)
            r += 4
        if r + 2 <= rows:
            _float2(w, begin, into, r * inputs, inputs, target, r * stride + panel * PANEL, stride)
            r += 2
        if r < rows:
            _float1(w, begin, into, r * inputs, inputs, target, r * stride + panel * PANEL, stride)


@njit(**OPTIONS)
def multiply_bytes(weights, at, scales, codes, own, offsets, out, first, last):  # type: ignore[no-untyped-def]
    """As `multiply_floats`, of bytes; codes (R, M) int8, own and offsets (R, G) are `quantize`'s."""
    rows, inputs = codes.shape
    stride = out.shape[1]
    w, s, into, target = pointer(weights), pointer(scales), pointer(codes), pointer(out)
    o, f = pointer(own), pointer(offsets)
    for panel in range(first, last):
        begin, r = at + panel * inputs * PANEL, 0
        while r + 4 <= rows:
            _byte4(
                w, begin, s, into, r * inputs, o, f, inputs, target, r * stride + panel * PANEL, stride
            )  # fmt: skip
            r += 4
        if r + 2 <= rows:
            _byte2(
                w, begin, s, into, r * inputs, o, f, inputs, target, r * stride + panel * PANEL, stride
            )  # fmt: skip
            r += 2
        if r < rows:
            _byte1(
                w, begin, s, into, r * inputs, o, f, inputs, target, r * stride + panel * PANEL, stride
            )  # fmt: skip


@intrinsic
def _quantize_block(typing: Any, x: Any, x_at: Any, codes: Any, codes_at: Any, own: Any, offsets: Any, number: Any) -> Any:  # fmt: skip
    """Instructions: a block of 64 numbers as codes, with its scale and offset; see `quantize`."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, x_at, codes, codes_at, own, offsets, number = arguments
        word = x_at.type
        parts = [
            builder.load(_at(builder, x, builder.add(x_at, word(16 * v)), FLOATS), align=4)
            for v in range(VECTORS)
        ]
        largest = _called(builder, "fabs", FLOATS, parts[0])
        for part in parts[1:]:
            size = _called(builder, "fabs", FLOATS, part)
            largest = _called(builder, "maxnum", FLOATS, largest, size)
        most = _called(builder, "vector.reduce.fmax", FLOAT, largest)
        builder.store(builder.fdiv(most, FLOAT(127.0)), builder.gep(own, [number]))
        seen = builder.fcmp_ordered(">", most, FLOAT(1e-30))
        inverse = builder.select(seen, builder.fdiv(FLOAT(127.0), most), FLOAT(0.0))
        times, total = _spread(builder, inverse, FLOATS), ir.Constant(INTS, None)
        for v, part in enumerate(parts):
            whole = _called(builder, "rint", FLOATS, builder.fmul(part, times))
            numbers = builder.fptosi(whole, INTS)
            total = builder.add(total, numbers)
            place = _at(builder, codes, builder.add(codes_at, word(16 * v)), BYTES)
            builder.store(builder.trunc(numbers, BYTES), place, align=1)
        total = builder.mul(_called(builder, "vector.reduce.add", INT, total), INT(-128))
        builder.store(total, builder.gep(offsets, [number]))
        return context.get_dummy_value()

    n = types.intp
    return types.void(x, n, codes, n, own, offsets, n), code


@njit(fastmath=True, **OPTIONS)
def quantize(x, codes, own, offsets):  # type: ignore[no-untyped-def]
    """Vectors (R, m) float32 as int8 codes (R, M >= m), a scale for each block, and -128 times each block's sum."""
    rows, inputs = x.shape
    blocks, stride = own.shape[1], codes.shape[1]
    numbers, into, scales, sums = pointer(x), pointer(codes), pointer(own), pointer(offsets)
    whole = inputs // BLOCK
    rest = np.zeros(BLOCK, np.float32)
    for r in range(rows):
        for g in range(whole):
            begin = g * BLOCK
            _quantize_block(
                numbers, r * inputs + begin, into, r * stride + begin, scales, sums, r * blocks + g
            )
        if whole < blocks:
            begin = whole * BLOCK
            for i in range(begin, inputs):
                rest[i - begin] = x[r, i]
            _quantize_block(
                pointer(rest), 0, into, r * stride + begin, scales, sums, r * blocks + whole
            )
