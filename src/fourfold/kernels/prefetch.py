"""A hint to the processor that a place of an array will be read soon; compiled."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic


def _prefetch(context: Any, array: Any, place: Any) -> Any:

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        name = f"llvm.prefetch.p0{'i8' if str(byte) == 'i8*' else ''}"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        builder.call(function, [pointer, word(0), word(3), word(1)])  # to be read, kept, as data
        return context.get_dummy_value()

    return types.void(array, types.int64), build


prefetch: Any = intrinsic(_prefetch)
"""prefetch(array, place) asks for the cache line of array[place], an array of one dimension; changes nothing."""
