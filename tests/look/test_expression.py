"""Parsing of expressions: what is allowed, what is refused, how fast."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.core.errors import UserError
from fourfold.look.expression import Call, Number, names, parse, parse_value


def refused(text: str) -> str:
    began = time.process_time()
    with pytest.raises(UserError) as caught:
        parse(text)
    assert time.process_time() - began < 0.5
    sentence = str(caught.value)
    assert "\n" not in sentence and len(sentence) < 500
    return sentence


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("__import__('os').system('true')", "has no place in an expression"),
        ("__import__(os)", "__import__: no such function"),
        ("x.__class__", "x.__class__: an attribute is not allowed"),
        ("(1).real", "an attribute is not allowed"),
        ("x[0]", "x[0]: an index is not allowed"),
        ("lambda: x", "':' has no place"),
        ("x if y else z", "a condition is not allowed"),
        ("[x for x in y]", "a comprehension is not allowed"),
        ("x == y", "a comparison is not allowed"),
        ("x and y", "and / or is not allowed"),
        ("x, y", "a tuple (a vector is written [1, 2]) is not allowed"),
        ("sum(*x)", "a starred value is not allowed"),
        ("max(a=x)", "max takes at least 1"),
        ("max()", "max takes at least 1"),
        ("dot(x)", "dot takes 2"),
        ("exp(x, y)", "exp takes 1"),
        ("exp(x)(y)", "expected a function's name before ("),
        ("f'{x}'", "has no place"),
        ("x^2", "a power is written **"),
        ("x // y", "not allowed"),
        ("~x", "has no place"),
        ("not x", "not allowed"),
        ("maxx(x, y)", "maxx: no such function; did you mean max?"),
        ("softmx(x)", "did you mean softmax?"),
        ("max", "max: is a function; write max(...)"),
        ("max = x; max", "max is a function; take another name"),
        ("x = y = 1", "a statement is"),
        ("x @= y; x", "expected a name before ="),
        ("[x] = y", "expected a name before ="),
        ("x; y", "x: its value is not used"),
        ("import os", "a statement is"),
        ("del x", "a statement is"),
        ("", "is empty"),
        ("x +", "cannot be read"),
        ("1e999", "numbers may be at most"),
        ("1e13", "numbers may be at most"),
        ("2j", "expected a number"),
        ("True", "expected a number"),
        ("None", "expected a number"),
        ("...", "expected a number"),
        ("[]", "expected 1 to 64 entries"),
        ("\x00", "has no place"),
    ],
)
def test_what_is_not_arithmetic_is_named(text: str, said: str) -> None:
    assert said in refused(text)


@pytest.mark.parametrize(
    "text",
    [
        "9" * 1990,
        "9" * 10_000_000,
        "-" * 1999 + "x",
        "(" * 900 + "x" + ")" * 900,
        "[" * 150 + "1" + "]" * 150,
        "+".join("x" * 900),
        "exp(" * 190 + "x" + ")" * 190,
        "max(" + ",".join("x" * 600) + ")",
        "[" + ",".join("1" * 900) + "]",
        "x ** " * 300 + "x",
        "a = x;" * 320 + "a",
        "x" * 1_000_000,
    ],
)
def test_what_is_too_large_is_refused_fast(text: str) -> None:
    refused(text)


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parse(text)
    except UserError:
        pass


def test_a_tower_of_powers_is_parsed_and_not_computed() -> None:
    (statement,) = parse("9**9**9**9")
    assert isinstance(statement.term, Call) and statement.term.function == "**"


def test_terms() -> None:
    *_, last = parse("a = x * 2; a += [1, 2]; matmul(a, b) - max(a, b, c)")
    assert isinstance(last.term, Call) and last.term.function == "-"
    left, right = last.term.arguments
    assert isinstance(left, Call) and left.function == "@"
    assert isinstance(right, Call) and right.text == "max(a, b, c)"
    inner = right.arguments[0]
    assert isinstance(inner, Call) and inner.text == "max(a, b)"


def test_names_that_must_be_given() -> None:
    assert names(parse("a = x * y; a += z; b = a; x = b; x + w")) == ["x", "y", "z", "w"]
    assert names(parse("a += 1; a")) == ["a"]
    assert names(parse("α * 学习率")) == ["α", "学习率"]


def test_values() -> None:
    assert parse_value("x", "1.5") == ([Number(1.5, "1.5")], False)
    assert [
        len(parse_value("x", v)[0]) for v in ("[1, 2]", "[[1, 2], [3, 4]]", "-3", "1,2,-3")
    ] == [
        1,
        1,
        1,
        3,
    ]
    assert parse_value("x", "[1],[2]")[1] and not parse_value("x", "[1, 2]")[1]


@pytest.mark.parametrize(
    "text", ["", "y", "1+2", "x=1", "1;2", "[1, y]", "exp(1)", "1," * 40, "nan"]
)
def test_values_are_numbers_only(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_value("x", text)
    assert "x=" in str(caught.value)
