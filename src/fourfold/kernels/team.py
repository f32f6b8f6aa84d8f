"""Threads that work on one step together, in compiled code, and meet where one needs what the others made.

A step of a small model takes less time than waking a thread, so helpers stay awake for a moment after each and look
for the next one. The leader never waits for a helper that sleeps: it works alone, and has it woken for the next step.
Waiting is looking at a number, then giving the core to others that want it.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils

from fourfold.kernels.cached import njit
from fourfold.kernels.lanes import intrinsic, pointer

OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "boundscheck": False}
LINE = 16
"""Numbers between two that are written by different threads: two cache lines."""
STEP, DECIDED, ARRIVED, PHASE, STOP, ASLEEP = (n * LINE for n in range(6))
"""Places in a team's numbers: the step's number; twice that, and one more where the leader works alone; threads that have
come to a meeting; meetings so far; whether to end; from here on, whether each helper sleeps."""
LOOKS, PATIENCE = 2_000, 20_000
"""Looks at a number before giving the core away, and before a helper sleeps."""
WORD = ir.IntType(64)
_X86 = llvm.get_process_triple().startswith(("x86_64", "amd64"))


def numbers(threads: int) -> np.ndarray:
    """What a team of so many threads shares; its helpers sleep."""
    made = np.zeros(ASLEEP + threads * LINE, np.int64)
    made[ASLEEP::LINE] = 1
    return made


def _place(builder: Any, start: Any, at: Any) -> Any:
    return builder.gep(start, [at])


@intrinsic
def _look(typing: Any, start: Any, at: Any) -> Any:
    """The number at a place, as another thread may just have left it."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_place(builder, *arguments), "seq_cst", 8)

    return types.int64(start, types.intp), code


@intrinsic
def _leave(typing: Any, start: Any, at: Any, value: Any) -> Any:
    """Write a number for others to see, and all that was written before it."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, at, value = arguments
        builder.store_atomic(value, _place(builder, start, at), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(start, types.intp, types.int64), code


@intrinsic
def _count(typing: Any, start: Any, at: Any) -> Any:
    """Add one; what was there before."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", _place(builder, *arguments), WORD(1), "seq_cst")

    return types.int64(start, types.intp), code


@intrinsic
def _pause(typing: Any) -> Any:
    """Tell the core that a number is being looked at again and again."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if _X86:
            kind = ir.FunctionType(ir.VoidType(), [])
            name = "llvm.x86.sse2.pause"
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])
        return context.get_dummy_value()

    return types.void(), code


@intrinsic
def _give(typing: Any) -> Any:
    """Let others that want the core have it."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if os.name == "posix":
            kind = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), code


@njit(**OPTIONS)
def part(count, me, threads):  # type: ignore[no-untyped-def]
    """From where to where a thread works on `count` pieces."""
    return count * me // threads, count * (me + 1) // threads


@njit(**OPTIONS)
def meet(team, threads):  # type: ignore[no-untyped-def]
    """Wait until all threads have come here."""
    if threads == 1:
        return
    start = pointer(team)
    phase = _look(start, PHASE)
    if _count(start, ARRIVED) == threads - 1:
        _leave(start, ARRIVED, 0)
        _leave(start, PHASE, phase + 1)
        return
    looks = 0
    while _look(start, PHASE) == phase:
        looks += 1
        if looks < LOOKS:
            _pause()
        else:
            _give()


@njit(**OPTIONS)
def lead(team, threads):  # type: ignore[no-untyped-def]
    """Begin a step: how many threads work on it, all or one."""
    if threads == 1:
        return 1
    start = pointer(team)
    step = _count(start, STEP) + 1
    alone = 0
    for helper in range(1, threads):
        if _look(start, ASLEEP + helper * LINE) != 0:
            alone = 1
    _leave(start, DECIDED, 2 * step + alone)
    return 1 if alone else threads


@njit(**OPTIONS)
def wake(team, me):  # type: ignore[no-untyped-def]
    """A helper is there from now on: the step that is over or works without it."""
    start = pointer(team)
    seen = _look(start, STEP)  # before it is there: a step that begins in between works without it
    _leave(start, ASLEEP + me * LINE, 0)
    return seen


@njit(**OPTIONS)
def follow(team, me, seen):  # type: ignore[no-untyped-def]
    """Wait for a step after `seen`: its number; where the leader works alone -2 minus it; -1 when none came, and the helper sleeps."""
    start = pointer(team)
    looks = 0
    while True:
        step = _look(start, STEP)
        if step != seen:
            looks = 0
            decided = _look(start, DECIDED)
            while decided >> 1 < step:
                looks += 1
                if looks > LOOKS:
                    _give()
                decided = _look(start, DECIDED)
            # it may be a later step's than the one that was seen, where that needed no helpers
            return decided >> 1 if decided & 1 == 0 else -2 - (decided >> 1)
        looks += 1
        if looks < LOOKS:
            _pause()
        elif looks < PATIENCE and _look(start, STOP) == 0:
            _pause()
            if looks % 64 == 0:
                _give()
        else:
            _leave(start, ASLEEP + me * LINE, 1)
            if _look(start, STEP) == seen:
                return -1
            # a step began in this moment: whether its leader saw the helper there or asleep, it says
            _leave(start, ASLEEP + me * LINE, 0)
            looks = 0
