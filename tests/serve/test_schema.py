"""Forms from signatures, and what a request's JSON must be."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.core.errors import UserError
from fourfold.serve.decode import from_json, from_values
from fourfold.serve.request_model import model
from fourfold.serve.schema import (
    SAFE,
    Field,
    NoSuchVerb,
    Upload,
    VerbForm,
    describe,
    field_of,
)
from fourfold.systems.gpt import GPT
from fourfold.systems.linear import LinearRegression
from parrot import Parrot


def fields(form: VerbForm) -> dict[str, Field]:
    return {item.name: item for item in form.fields}


def test_a_form_says_what_the_signature_says() -> None:
    form = describe(Parrot, "say")
    found = fields(form)
    assert form.summary == "Say a text." and form.description == "What is said is the text."
    assert (form.system, form.reads, form.result, form.streams) == (
        "parrot",
        "tensors",
        "text",
        False,
    )
    assert list(found) == ["text", "times", "loud", "end", "from", "share", "words"]
    assert found["text"].kind == "document" and found["text"].required
    assert found["text"].help == "what to say."
    assert (found["times"].kind, found["times"].minimum, found["times"].default) == (
        "integer",
        1,
        1,
    )
    assert found["loud"].kind == "boolean" and found["loud"].default is False
    assert (found["end"].kind, found["end"].choices) == ("choice", (".", "!"))
    assert found["from"].parameter == "from_" and found["from"].optional
    assert (found["share"].kind, found["share"].minimum) == ("number", 0.0)
    assert found["words"].many and not found["words"].single and found["words"].kind == "text"


@pytest.mark.parametrize(
    ("verb", "kind"),
    [("look", "image"), ("hear", "audio"), ("norm", "array"), ("total", "array"), ("read", "source"), ("file", "path")],
)  # fmt: skip
def test_kinds_of_content(verb: str, kind: str) -> None:
    field = describe(Parrot, verb).fields[0]
    assert field.kind == kind and field.required and not field.optional


@pytest.mark.parametrize(
    ("verb", "result"),
    [
        ("say", "text"), ("count", "text"), ("norm", "number"), ("total", "array"), ("rows", "table"),
        ("draw", "picture"), ("paint", "picture"), ("album", "pictures"), ("numbers", "array"),
        ("measure", "score"), ("explains", "explanation"), ("facts", "json"), ("export", "file"),
    ],
)  # fmt: skip
def test_kinds_of_answers(verb: str, result: str) -> None:
    form = describe(Parrot, verb)
    assert form.result == result and form.streams == (verb == "count")


def test_a_verb_that_writes_is_not_asked_where() -> None:
    form = describe(Parrot, "save")
    assert form.writes and [item.name for item in form.fields] == ["word"]
    with pytest.raises(UserError, match="unknown field out"):
        from_json(form, b'{"out": "/etc/passwd"}')


def test_bounds_of_the_server_narrow_those_of_the_verb() -> None:
    found = fields(describe(GPT, "generate", {"tokens": 50}))
    assert (found["tokens"].minimum, found["tokens"].maximum, found["tokens"].default) == (
        1,
        50,
        50,
    )
    assert (found["seed"].minimum, found["seed"].maximum) == (0, SAFE)
    assert found["prompt"].many and found["prompt"].single
    form = describe(GPT, "generate", {"tokens": 50})
    assert from_json(form, b"{}")["tokens"] == 50  # the verb's own default is beyond the bound
    with pytest.raises(UserError, match="tokens: expected less than or equal to 50, got 51"):
        from_json(form, b'{"tokens": 51}')


def test_an_unknown_verb_names_the_nearest() -> None:
    with pytest.raises(
        NoSuchVerb, match="a run of gpt has no verb generat; did you mean generate?"
    ):
        describe(GPT, "generat")


def test_fields_of_options() -> None:
    assert field_of("lr", float, 0.1).kind == "number"
    assert field_of("kind", Literal["a", "b"], "a").choices == ("a", "b")
    assert field_of("sizes", dict[str, int]).kind == "json"


# --- bodies ----------------------------------------------------------------------------------------

SAY, PREDICT = describe(Parrot, "say"), describe(LinearRegression, "predict")


@pytest.mark.parametrize(
    ("form", "body", "sentence"),
    [
        (SAY, "{", "the body is not valid JSON: EOF while parsing"),
        (SAY, "[]", "expected a JSON object with the fields of say"),
        (SAY, "{}", "text: is missing; say needs it"),
        (SAY, '{"text": "a", "tims": 2}', "say: unknown field tims; did you mean times?"),
        (SAY, '{"text": "a", "times": 0}', "times: expected greater than or equal to 1, got 0"),
        (SAY, '{"text": "a", "times": "2"}', "times: expected a valid integer, got '2'"),
        (SAY, '{"text": "a", "times": true}', "times: expected a valid integer, got True"),
        (SAY, '{"text": "a", "times": 1e400}', "times"),
        (SAY, '{"text": "a", "from": 9007199254740992}', "from: expected less than or equal to 9007199254740991"),
        (SAY, '{"text": "a", "loud": 1}', "loud: expected a valid boolean, got 1"),
        (SAY, '{"text": "a", "share": NaN}', "share: expected a finite number, got nan"),
        (SAY, '{"text": "a", "end": "?"}', "end: expected '.' or '!', got '?'"),
        (SAY, '{"text": {"name": "x", "content": "y", "type": ""}}', "text: expected a valid string, got {"),
        (SAY, '{"text": "\\ud800"}', "the body is not valid JSON"),
        (SAY, '{"text": ' + "[" * 5000 + "}", "the body is not valid JSON: recursion limit exceeded"),
        (PREDICT, '{"source": [{"a": 1}, {"a": {}}]}', "source, row 2, column a: expected a valid string or"),
        (PREDICT, '{"source": 7}', "source: expected a valid array or an object or a valid string, got 7"),
    ],
)  # fmt: skip
def test_wrong_bodies_end_in_one_sentence(form: VerbForm, body: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        from_json(form, body.encode())
    assert str(error.value).startswith(sentence) and "\n" not in str(error.value)


@given(
    st.fixed_dictionaries(
        {"text": st.text(st.characters(exclude_categories=["Cs"]))},
        optional={
            "times": st.integers(1, SAFE),
            "loud": st.booleans(),
            "end": st.sampled_from([".", "!"]),
            "from": st.none() | st.integers(-SAFE, SAFE),
            "share": st.floats(0, allow_infinity=False),
            "words": st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
        },
    )
)
def test_what_is_given_arrives_as_it_is(values: dict[str, Any]) -> None:
    found = from_json(SAY, json.dumps(values).encode())
    expected = {"times": 1, **values}
    if "words" in values:
        expected["words"] = tuple(values["words"])
    assert found == expected


def test_words_of_a_form_are_read_as_on_the_command_line() -> None:
    words = {
        "text": "a",
        "times": "2",
        "loud": "true",
        "from": "none",
        "share": "0.25",
        "words": "b,c",
    }
    found = from_values(SAY, words)
    assert found == {
        "text": "a",
        "times": 2,
        "loud": True,
        "from": None,
        "share": 0.25,
        "words": ("b", "c"),
    }
    with pytest.raises(UserError, match="times: expected a valid integer"):
        from_values(SAY, {"text": "a", "times": "two"})
    assert from_values(describe(GPT, "generate"), {"prompt": "a, b"})["prompt"] == "a, b"
    upload = Upload("x.csv", b"a\n1\n")
    assert from_values(PREDICT, {"source": upload})["source"] is upload


def test_schemas_say_the_same() -> None:
    schema = model(SAY).model_json_schema()
    assert schema["additionalProperties"] is False and schema["required"] == ["text"]
    assert schema["properties"]["times"]["minimum"] == 1
    assert schema["properties"]["times"]["description"] == "how often."
    assert "Upload" not in json.dumps(model(PREDICT).model_json_schema())
    assert (
        model(describe(Parrot, "count")).model_json_schema()["properties"]["stream"]["type"]
        == "boolean"
    )
