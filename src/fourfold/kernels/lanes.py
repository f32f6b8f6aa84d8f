"""Vectors of float32 in registers, for compiled kernels that say which numbers they keep there.

Numba leaves it to the compiler which loops become vector instructions, and a loop over several rows
that are also written rarely does well. Here `load`, `store`, `fma` and the rest each become the
instruction of that name on the machine at hand: 16 numbers with AVX-512, 8 with AVX, else 4.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import extending
from numba.core import cgutils, config, types

FLOAT, INT = ir.FloatType(), ir.IntType(32)


def _lanes() -> int:
    """As wide as the machine's registers, or as those of NUMBA_CPU_FEATURES where that is set."""
    features: str | None = getattr(config, "CPU_FEATURES", None)
    if features is None:
        features = llvm.get_host_cpu_features().flatten()
    known = features.split(",")
    return 16 if "+avx512f" in known else 8 if "+avx" in known else 4


LANES = _lanes()
"""Numbers in a vector."""
VECTOR, WHOLE = ir.VectorType(FLOAT, LANES), ir.VectorType(INT, LANES)


class LanesType(types.Type):
    """The type of `LANES` float32."""

    def __init__(self) -> None:
        super().__init__(name=f"Lanes{LANES}")


lanes_type = LanesType()


@extending.register_model(LanesType)
class _Model(extending.models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, VECTOR)


def intrinsic(function: Any) -> Any:
    """A function of compiled code, given by how it is typed and what instructions it becomes."""
    return extending.intrinsic(function)


@intrinsic
def pointer(typing: Any, array: Any) -> Any:
    """Where an array's numbers lie. Cheaper to hand on than the array, which is counted; does not keep it alive."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, arguments[0]).data

    return types.CPointer(array.dtype)(array), code


def _place(builder: Any, pointee: Any, start: Any, at: Any) -> Any:
    return builder.bitcast(builder.gep(start, [at]), pointee.as_pointer())


def _each(number: float, kind: Any = VECTOR) -> Any:
    return ir.Constant(kind, [number] * LANES)


@intrinsic
def load(typing: Any, start: Any, at: Any) -> Any:
    """The numbers from `at` on."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(builder, VECTOR, *arguments)
        return builder.load(place, align=4)

    return lanes_type(start, types.intp), code


@intrinsic
def store(typing: Any, start: Any, at: Any, value: Any) -> Any:
    """Write numbers from `at` on."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(builder, VECTOR, *arguments[:2])
        builder.store(arguments[2], place, align=4)
        return context.get_dummy_value()

    return types.void(start, types.intp, value), code


# Pairs: 2 LANES numbers, as float32 or, in an array of uint16, as bfloat16: there a lane of 32 bits has one number of the
# first half below and one of the second above, so that either half takes one instruction.


@intrinsic
def lower(typing: Any, start: Any, at: Any) -> Any:
    """The first half of the pair that begins at `at`, a multiple of 2 LANES."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if start.dtype != types.uint16:
            return builder.load(_place(builder, VECTOR, *arguments), align=4)
        bits = builder.load(_place(builder, WHOLE, *arguments), align=2)
        return builder.bitcast(builder.shl(bits, _each(16, WHOLE)), VECTOR)

    return lanes_type(start, types.intp), code


@intrinsic
def upper(typing: Any, start: Any, at: Any) -> Any:
    """The second half of the pair that begins at `at`."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if start.dtype != types.uint16:
            pointer, at = arguments
            later = builder.add(at, at.type(LANES))
            return builder.load(_place(builder, VECTOR, pointer, later), align=4)
        bits = builder.load(_place(builder, WHOLE, *arguments), align=2)
        return builder.bitcast(builder.and_(bits, _each(0xFFFF0000, WHOLE)), VECTOR)

    return lanes_type(start, types.intp), code


@intrinsic
def store_pair(typing: Any, start: Any, at: Any, one: Any, other: Any) -> Any:
    """Write the pair that begins at `at`; as bfloat16 finite numbers are rounded to the nearest, halfway to the even one."""

    def rounded(builder: Any, value: Any) -> Any:
        bits = builder.bitcast(value, WHOLE)
        odd = builder.and_(builder.lshr(bits, _each(16, WHOLE)), _each(1, WHOLE))
        return builder.add(builder.add(bits, _each(0x7FFF, WHOLE)), odd)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, at, low, high = arguments
        if start.dtype != types.uint16:
            builder.store(low, _place(builder, VECTOR, pointer, at), align=4)
            later = builder.add(at, at.type(LANES))
            builder.store(high, _place(builder, VECTOR, pointer, later), align=4)
            return context.get_dummy_value()
        below = builder.lshr(rounded(builder, low), _each(16, WHOLE))
        above = builder.and_(rounded(builder, high), _each(0xFFFF0000, WHOLE))
        place = _place(builder, WHOLE, pointer, at)
        builder.store(builder.or_(below, above), place, align=2)
        return context.get_dummy_value()

    return types.void(start, types.intp, one, other), code


@intrinsic
def prefetch(typing: Any, start: Any, at: Any) -> Any:
    """Ask for the cache line of `at`, to be written soon."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(builder, ir.IntType(8), *arguments)
        kind = ir.FunctionType(ir.VoidType(), [place.type, INT, INT, INT])
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(ask, [place, INT(1), INT(3), INT(1)])
        return context.get_dummy_value()

    return types.void(start, types.intp), code


@intrinsic
def splat(typing: Any, number: Any) -> Any:
    """The same number in every lane."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), arguments[0], INT(0))
        return builder.shuffle_vector(
            one, ir.Constant(VECTOR, ir.Undefined), ir.Constant(WHOLE, [0] * LANES)
        )

    return lanes_type(types.float32), code


def _operation(name: str, count: int) -> Any:
    def typed(typing: Any, *operands: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _named(builder, name, *arguments)

        return lanes_type(*[lanes_type] * count), code

    return typed


def _named(builder: Any, name: str, *arguments: Any) -> Any:
    if name in ("fadd", "fsub", "fmul", "fdiv"):
        return getattr(builder, name)(*arguments, flags=("fast",))
    kind = ir.FunctionType(VECTOR, [VECTOR] * len(arguments))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32")
    return builder.call(function, arguments)


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c."""
    return _operation("fmuladd", 3)(typing, a, b, c)


@intrinsic
def add(typing: Any, a: Any, b: Any) -> Any:
    """a + b."""
    return _operation("fadd", 2)(typing, a, b)


@intrinsic
def sub(typing: Any, a: Any, b: Any) -> Any:
    """a - b."""
    return _operation("fsub", 2)(typing, a, b)


@intrinsic
def mul(typing: Any, a: Any, b: Any) -> Any:
    """a b."""
    return _operation("fmul", 2)(typing, a, b)


@intrinsic
def div(typing: Any, a: Any, b: Any) -> Any:
    """a / b."""
    return _operation("fdiv", 2)(typing, a, b)


POWERS = (1.3333558e-3, 9.618129e-3, 5.5504109e-2, 2.4022651e-1, 6.9314718e-1, 1.0)
"""2^f = sum over i of POWERS[5 - i] f^i for f in [-1/2, 1/2], to 3e-6 of its value."""


@intrinsic
def exp(typing: Any, x: Any) -> Any:
    """e^x, to 3e-6 of its value; of x beyond [-80, 80] that of the bound."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        near = _named(builder, "minnum", arguments[0], _each(80.0))
        near = _named(builder, "maxnum", near, _each(-80.0))
        scaled = _named(builder, "fmul", near, _each(float(np.log2(np.e))))
        whole = _named(builder, "rint", scaled)
        rest = _named(builder, "fsub", scaled, whole)
        power = _each(POWERS[0])
        for factor in POWERS[1:]:
            power = _named(builder, "fmuladd", power, rest, _each(factor))
        exponent = builder.shl(builder.fptosi(whole, WHOLE), _each(23, WHOLE))
        bits = builder.add(builder.bitcast(power, WHOLE), exponent)
        return builder.bitcast(bits, VECTOR)

    return lanes_type(lanes_type), code


def _picked(builder: Any, low: list[int], high: list[int], a: Any, b: Any) -> Any:
    """The sum of two selections from a's lanes, 0 .., and b's, LANES ..."""
    masks = [ir.Constant(WHOLE, mask) for mask in (low, high)]
    return _named(builder, "fadd", *(builder.shuffle_vector(a, b, mask) for mask in masks))


def _fours(builder: Any, vectors: Any) -> Any:
    """Of four vectors one: in each four lanes the sums over these lanes of the first, second, third and fourth."""
    quads = range(0, LANES, 4)
    low = [q + i for q in quads for i in (0, LANES, 1, LANES + 1)]
    high = [q + i for q in quads for i in (2, LANES + 2, 3, LANES + 3)]
    first, second = (_picked(builder, low, high, *vectors[i : i + 2]) for i in (0, 2))
    low = [q + i for q in quads for i in (0, 1, LANES, LANES + 1)]
    high = [q + i for q in quads for i in (2, 3, LANES + 2, LANES + 3)]
    return _picked(builder, low, high, first, second)


def _halved(builder: Any, a: Any, b: Any, pieces: int) -> Any:
    """Both vectors' fours summed, halves of each of their `pieces` onto each other: a's sums, then b's."""
    size = LANES // pieces
    starts = [side + p * size for side in (0, LANES) for p in range(pieces)]
    low = [s + i for s in starts for i in range(size // 2)]
    high = [s + size // 2 + i for s in starts for i in range(size // 2)]
    return _picked(builder, low, high, a, b)


@intrinsic
def sums(typing: Any, found: Any, at: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any, i: Any, j: Any, k: Any, l: Any) -> Any:  # noqa: E501, E741  # fmt: skip
    """Write the sums of twelve vectors' lanes to found[at : at + 12], and anything up to at + 16.

    All twelve together, by a tree of shuffles: a third of the instructions of one after the other.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, at, *vectors = arguments
        fours = [_fours(builder, vectors[n : n + 4]) for n in (0, 4, 8)]
        fours.append(ir.Constant(VECTOR, [0.0] * LANES))
        pieces = 1
        while len(fours) * LANES > 16:
            fours = [
                _halved(builder, a, b, pieces) for a, b in zip(fours[::2], fours[1::2], strict=True)
            ]
            pieces *= 2
        for number, four in enumerate(fours):
            index = builder.add(at, ir.Constant(at.type, number * LANES))
            place = _place(builder, VECTOR, start, index)
            builder.store(four, place, align=4)
        return context.get_dummy_value()

    return types.void(found, types.intp, *[lanes_type] * 12), code
