"""`fourfold explain`: an expression, a joint probability table, or a run and what it does to an input."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fourfold.cli.parse import flag, parse, positional
from fourfold.core.errors import UserError
from fourfold.core.types import Explanation

HELP = """Explain an expression, a joint probability table, or a run.

- `fourfold explain "(x + y) * max(y, z)" x=1 y=2 z=0`: values and gradients on the graph of an expression
- `fourfold explain "square(w * x - y)" w=1 x=1,2,3 y=2,4,5`: x and y are batches; gradients by sample
- `fourfold explain "a = x * y; b = a * a; a += 1; b" x=1 y=2`: statements, and changes in place
- `fourfold explain --table joint.csv`: marginals, conditionals, Bayes' rule, independence
- `fourfold explain RUN [INPUT]`: a run's model on an input; `fourfold explain RUN --help` lists its options

A value is a number, a vector [1, 2] or a matrix [[1, 2], [3, 4]]; several with commas between are a batch.
`--out graph.html` writes a page that plays forward and backward; .svg and .png write the picture.
"""
GIVEN = re.compile(r"([^\W\d]\w*)\s*=(?!=)\s*(.*)", re.DOTALL)
PLACE = re.compile(r"[\w.~-]*(/[\w.~-]*)+|[\w~-]+")
"""What may be meant as a run: a path, or one word."""


def explain_command(tokens: list[str]) -> None:
    """Explain an expression, a table or a run."""
    table = any(token.partition("=")[0] == "--table" for token in tokens)
    if tokens and not table and not tokens[0].startswith("-") and _is_run(tokens):
        from fourfold.cli.verbs import verb_command

        return verb_command("explain", tokens)
    if tokens and re.match(r"-[^-].*[\s()*+/\[]|-\d", tokens[0]):
        tokens = [f" {tokens[0]}", *tokens[1:]]  # an expression that begins with a minus
    parsed = parse("fourfold explain", HELP, _parameters(), tokens)
    if parsed is None:
        return None
    words, options = list(parsed[0]), parsed[1]
    explanation = _explained(words, options)
    from fourfold.cli.write import write

    out = Path(options["out"]) if options.get("out") else None
    write(
        explanation,
        out,
        as_json=bool(options.get("json")),
        verb="explain",
        quiet=bool(options.get("quiet")),
    )
    return None


def _parameters() -> list[Any]:
    return [
        positional("words", "An expression and its values (x=1 y=[1,2]), or a run.", many=True),
        flag("table", ["--table"], str, "A joint probability table: .csv.", None, "Options", 1),
        flag(
            "out",
            ["--out", "-o"],
            str,
            "File to write: .html, .svg, .png, .json, or a folder.",
            None,
            "Options",
            1,
        ),
        flag("json", ["--json"], bool, "JSON for machines.", None, "Options", 1),
        flag("quiet", ["--quiet", "-q"], bool, "Say nothing but the answer.", None, "Options", 1),
        flag("debug", ["--debug"], bool, "Show the traceback of an error.", None, "Options", 1),
    ]


def _is_run(tokens: list[str]) -> bool:
    """Whether the first word names a run.

    Raises:
        UserError: it can only be meant as one, and there is none.
    """
    from fourfold.core.folders import find_run

    try:
        find_run(tokens[0])
    except UserError as error:
        word, values = tokens[0], [t for t in tokens[1:] if GIVEN.fullmatch(t)]
        if word == "last" or (PLACE.fullmatch(word) and not values):
            hint = "" if word == "last" else "; an expression needs its values, as x=1"
            raise UserError(f"{error}{hint}") from None
        return False
    return True


def _explained(words: list[str], options: dict[str, Any]) -> Explanation:
    if options.get("table"):
        if words:
            raise UserError(f"{words[0]}: --table explains a table alone, without an expression")
        from fourfold.look.joint_words import explain as explain_table

        return explain_table(Path(options["table"]), drawn=bool(options.get("out")))
    if not words:
        raise UserError(
            'explain: expected an expression, --table FILE or a run: fourfold explain "x * y" x=1 y=2'
        )
    given: dict[str, str] = {}
    for word in words[1:]:
        match = GIVEN.fullmatch(word)
        if match is None:
            raise UserError(f"{word}: expected a value for a name, as x=1 or x=[1,2]")
        if match[1] in given:
            raise UserError(
                f"{match[1]}: has a value twice; a batch is written {match[1]}={given[match[1]]},{match[2]}"
            )
        given[match[1]] = match[2]
    from fourfold.look.expression_words import explain

    return explain(words[0], given, drawn=bool(options.get("out")))
