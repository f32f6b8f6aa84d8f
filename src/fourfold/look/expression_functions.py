"""What the functions of an expression compute, their local derivatives, and what torch keeps for them.

A value is a float64 array of shape (), (n,) or (m, n). The local derivative of an elementwise function
is an array of the result's shape; of any other function it is the Jacobian, (entries of the result,
entries of the argument). Where a function has a kink the derivative is torch's: 0 for relu and abs at 0
and for norm at the zero vector, an equal share for ties of max and min.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fourfold.core.errors import UserError

Array = np.ndarray


@dataclass(frozen=True)
class Function:
    """How a function is computed and differentiated."""

    value: Callable[..., Array]
    local: Callable[..., Sequence[Array]]
    """From the arguments and, last, the result: one derivative for each argument."""
    keeps: tuple[str, ...] = ()
    """What torch's backward needs again for the gradient of each argument: "a" and "b" are the arguments,
    "r" is the result."""
    elementwise: bool = True


def _sigmoid(a: Array) -> Array:
    """1 / (1 + exp(-a)), exact at both ends."""
    small = np.exp(-np.abs(a))
    return np.where(a >= 0, 1 / (1 + small), small / (1 + small))


def stable_softmax(v: Array) -> Array:
    """softmax over the last axis."""
    shifted = np.exp(v - v.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _ones(a: Array, *_: Array) -> list[Array]:
    return [np.ones_like(a)]


def _power(a: Array, b: Array, result: Array) -> list[Array]:
    into_a = np.where(b == 0, 0.0, b * a ** np.where(b == 0, 1.0, b - 1))
    # a zero base stays zero however its positive exponent moves; a negative one has no real power nearby
    logs = np.log(np.where(a > 0, a, 1.0))
    into_b = np.where(a > 0, result * logs, np.where((a == 0) & (b >= 0), 0.0, np.nan))
    return [into_a, into_b]


def _share(a: Array, b: Array, wins: Array) -> list[Array]:
    return [np.where(a == b, 0.5, wins), np.where(a == b, 0.5, ~wins)]


def _extreme(a: Array, result: Array) -> list[Array]:
    found = (a == result).ravel()
    return [(found / found.sum())[None, :]]


def _norm(a: Array, result: Array) -> list[Array]:
    return [np.zeros((1, a.size)) if result == 0 else (a / result).reshape(1, -1)]


def _softmax(a: Array, result: Array) -> list[Array]:
    rows = result.reshape(-1, result.shape[-1])
    jacobian = np.zeros((a.size, a.size))
    for i, p in enumerate(rows):  # each row sees itself only
        at = slice(i * len(p), (i + 1) * len(p))
        jacobian[at, at] = np.diag(p) - np.outer(p, p)
    return [jacobian]


def _product(a: Array, b: Array, result: Array) -> list[Array]:
    """Jacobians of a @ b: d result[i, j] / d a[i, k] = b[k, j], d result[i, j] / d b[k, j] = a[i, k]."""
    left = a if a.ndim == 2 else a[None, :]
    right = b if b.ndim == 2 else b[:, None]
    rows, columns = np.eye(left.shape[0]), np.eye(right.shape[1])
    into_a = np.einsum("il,kj->ijlk", rows, right).reshape(result.size, a.size)
    into_b = np.einsum("ik,jl->ijkl", left, columns).reshape(result.size, b.size)
    return [into_a, into_b]


def _stack(*arrays: Array) -> list[Array]:
    """Each argument goes to its own place."""
    *arguments, result = arrays
    whole, at, found = np.eye(result.size), 0, []
    for argument in arguments:
        found.append(whole[:, at : at + argument.size])
        at += argument.size
    return found


def _whole(share: Callable[[Array], float]) -> Callable[..., Sequence[Array]]:
    return lambda a, result: [np.full((1, a.size), share(a))]


TABLE: dict[str, Function] = {
    "+": Function(np.add, lambda a, b, r: [*_ones(r), *_ones(r)]),
    "-": Function(np.subtract, lambda a, b, r: [*_ones(r), -np.ones_like(r)]),
    "*": Function(np.multiply, lambda a, b, r: [b, a], ("b", "a")),
    "/": Function(np.divide, lambda a, b, r: [1 / b, -a / b**2], ("b", "ab")),
    "**": Function(np.power, _power, ("abr", "abr")),
    "@": Function(np.matmul, _product, ("b", "a"), elementwise=False),
    "dot": Function(np.matmul, _product, ("b", "a"), elementwise=False),
    "neg": Function(np.negative, lambda a, r: [-np.ones_like(a)]),
    "maximum": Function(np.maximum, lambda a, b, r: _share(a, b, a > b), ("ab", "ab")),
    "minimum": Function(np.minimum, lambda a, b, r: _share(a, b, a < b), ("ab", "ab")),
    "max": Function(np.max, _extreme, ("ar",), elementwise=False),
    "min": Function(np.min, _extreme, ("ar",), elementwise=False),
    "exp": Function(np.exp, lambda a, r: [r], ("r",)),
    "log": Function(np.log, lambda a, r: [1 / a], ("a",)),
    "sin": Function(np.sin, lambda a, r: [np.cos(a)], ("a",)),
    "cos": Function(np.cos, lambda a, r: [-np.sin(a)], ("a",)),
    "tanh": Function(np.tanh, lambda a, r: [1 - r**2], ("r",)),
    "sigmoid": Function(_sigmoid, lambda a, r: [r * (1 - r)], ("r",)),
    "relu": Function(lambda a: np.maximum(a, 0.0), lambda a, r: [(a > 0) * 1.0], ("r",)),
    "abs": Function(np.abs, lambda a, r: [np.sign(a)], ("a",)),
    "sqrt": Function(np.sqrt, lambda a, r: [0.5 / r], ("r",)),
    "square": Function(np.square, lambda a, r: [2 * a], ("a",)),
    "sum": Function(np.sum, _whole(lambda a: 1.0), elementwise=False),
    "mean": Function(np.mean, _whole(lambda a: 1 / a.size), elementwise=False),
    "norm": Function(lambda a: np.sqrt(np.sum(a**2)), _norm, ("ar",), elementwise=False),
    "softmax": Function(stable_softmax, _softmax, ("r",), elementwise=False),
    "stack": Function(lambda *a: np.stack(a), _stack, elementwise=False),
}
"""Every function; max and min of two arguments are "maximum" and "minimum"."""


def words(array: Array) -> str:
    """A shape in words: "a number", "a vector of 3", "a 2 x 3 matrix"."""
    if array.ndim == 0:
        return "a number"
    if array.ndim == 1:
        return f"a vector of {len(array)}"
    return f"a {array.shape[0]} x {array.shape[1]} matrix"


def check(function: str, labels: Sequence[str], arguments: Sequence[Array], text: str) -> None:
    """Refuse arguments for which a function has no value.

    Raises:
        UserError: shapes that do not fit, division by zero, the log of what is not positive, ...
    """
    _check_shapes(function, labels, arguments, text)
    first, last, least = arguments[0], arguments[-1], labels[0]
    if function == "/" and not last.all():
        raise UserError(f"{text}: division by zero: {labels[-1]} is {show(last)}")
    if function == "log" and not (first > 0).all():
        raise UserError(f"{text}: log needs values above 0, and {least} is {show(first)}")
    if function == "sqrt" and not (first >= 0).all():
        raise UserError(f"{text}: sqrt needs values of at least 0, and {least} is {show(first)}")
    if function == "**":
        base, exponent = np.broadcast_arrays(first, last)
        if ((base == 0) & (exponent < 0)).any():
            raise UserError(f"{text}: division by zero: {least} is {show(first)}")
        if ((base < 0) & (exponent != np.round(exponent))).any():
            raise UserError(
                f"{text}: {least} is {show(first)}, and a negative number has only whole powers"
            )


def _check_shapes(
    function: str, labels: Sequence[str], arguments: Sequence[Array], text: str
) -> None:
    shapes = [a.shape for a in arguments]
    if function == "stack":
        if len(set(shapes)) > 1 or len(shapes[0]) > 1:
            parts = ", ".join(words(a) for a in arguments)
            raise UserError(f"{text}: expected entries of one shape, at most vectors, got {parts}")
        return
    if function == "softmax" and not shapes[0]:
        raise UserError(f"{text}: softmax needs a vector or a matrix, and {labels[0]} is a number")
    if len(shapes) < 2:
        return
    sides = f"{labels[0]} is {words(arguments[0])} and {labels[1]} {words(arguments[1])}"
    if function == "dot":
        if [len(s) for s in shapes] != [1, 1] or shapes[0] != shapes[1]:
            raise UserError(f"{text}: dot needs two vectors of one length; {sides}")
    elif function == "@":
        if () in shapes or shapes[0][-1] != shapes[1][0]:
            raise UserError(f"{text}: these do not fit: {sides}; the inner lengths must be equal")
    elif not _broadcast(shapes):
        raise UserError(f"{text}: these shapes do not fit: {sides}")


def _broadcast(shapes: Sequence[tuple[int, ...]]) -> bool:
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        return False
    return True


def show(array: Array | float, most: int = 60, digits: int = 6) -> str:
    """Numbers to some figures, "[1, 2, 3]"; what is longer than `most` characters is cut."""
    text = _entries(np.asarray(array), digits)
    return text if len(text) <= most else text[: most - 1] + "…"


def _entries(array: Array, digits: int) -> str:
    if array.ndim == 0:
        return f"{float(array) + 0.0:.{digits}g}"  # + 0.0: no "-0"
    return f"[{', '.join(_entries(a, digits) for a in array)}]"
