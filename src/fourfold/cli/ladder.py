"""`fourfold ladder [DATA ...]`: every language model on the same text with the same measure."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from fourfold.cli.fit import whole
from fourfold.cli.parse import flag, parse, positional
from fourfold.core.errors import UserError, nearest

TEXT = """Train every language model on the same text with one vocabulary, and measure all alike.

One table and one picture: perplexity and bits per byte, size and speed, and general compressors beside them.
Rungs that are done in --out are not trained again.

With --sizes the rungs are sizes of one system, trained on the same tokens; from them the loss of the next size is
predicted, with an interval: fourfold ladder corpus/ --sizes tiny,demo,small --check"""
SIZED = ("system", "predict", "check", "seeds", "steps", "epochs")
RUNGED = ("minutes", "rungs", "min_count", "test")
"""Flags that go with sizes only, and with rungs only."""
UNITS = ("byte", "character", "word", "space", "jieba", "bpe")


def ladder_flags() -> list[inspect.Parameter]:
    """The command line of the ladder."""
    return [
        positional("sources", "Files, folders, globs, catalog names, or - for stdin; none takes the embedded text.", many=True),
        flag("minutes", ["--minutes"], str, "Training of each rung.", 3),
        flag("rungs", ["--rungs"], str, "Which, separated by commas.", "ngram,nnlm,lbl,hlbl,rnn,gru,lstm,gpt"),
        flag("unit", ["--unit"], str, "What a token is: word, space (corpora that are cut already), jieba, character, byte, bpe.", "word"),
        flag("vocabulary", ["--vocabulary"], str, "Entries of the shared vocabulary.", "10,000 at most"),
        flag("min_count", ["--min-count"], str, "A rarer word is unknown to all rungs.", 2),
        flag("sizes", ["--sizes"], str, "Instead of rungs: sizes of one system, separated by commas."),
        flag("system", ["--system"], str, "Of the sizes.", "gpt"),
        flag("predict", ["--predict"], str, "The size whose loss is predicted from the others.", "the next one"),
        flag("check", ["--check"], bool, "Train the predicted size too."),
        flag("seeds", ["--seeds"], str, "Runs of each size.", 1),
        flag("steps", ["--steps"], str, "Of each size."),
        flag("epochs", ["--epochs"], str, "Of each size, instead.", 1),
        flag("valid", ["--valid"], str, "File of the validation split."),
        flag("test", ["--test"], str, "File to measure on.", "the last twentieth"),
        flag("out", ["--out", "-o"], str, "Folder of the runs, the table and the report.", "runs/ladder-<n>"),
        flag("seed", ["--seed"], str, "Fixes split, order, initial weights and noise.", 0),
        flag("device", ["--device"], str, "cpu, cuda, cuda:1, mps.", "auto"),
        flag("quiet", ["--quiet", "-q"], bool, "Say nothing but the answer."),
        flag("json", ["--json"], bool, "JSON for machines."),
        flag("debug", ["--debug"], bool, "Show the traceback of an error."),
    ]  # fmt: skip


def ladder_command(tokens: list[str]) -> None:
    """Train every language model on the same text."""
    parsed = parse("fourfold ladder", TEXT, ladder_flags(), tokens)
    if parsed is None:
        return
    sources, given = parsed
    as_json, quiet = bool(given.pop("json", False)), bool(given.pop("quiet", False))
    given.pop("debug", None)
    arguments: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    for name in ("vocabulary", "min_count", "seed", "seeds", "steps"):
        if name in arguments:
            arguments[name] = whole(name, arguments[name])
    if "sizes" in arguments:
        return _run_sizes(list(sources), arguments, as_json, quiet)
    if given_for := [n for n in SIZED if n in arguments]:
        raise UserError(f"--{given_for[0]} goes with --sizes")
    if "minutes" in arguments:
        arguments["minutes"] = _minutes(arguments["minutes"])
    if "rungs" in arguments:
        arguments["rungs"] = [r.strip() for r in arguments["rungs"].split(",") if r.strip()]
    _check_unit(arguments.get("unit", "word"))
    _run(list(sources), arguments, as_json, quiet)


def _run(sources: list[str], arguments: dict[str, Any], as_json: bool, quiet: bool) -> None:
    from fourfold.core.console import make_console
    from fourfold.core.sources import command_line
    from fourfold.selection.ladder import ladder

    source = sources if len(sources) > 1 else next(iter(sources), None)
    found = ladder(
        source,
        console=make_console(quiet=quiet or as_json),
        command=command_line(),
        **arguments,
    )
    from fourfold.cli.write import write

    write(found.explanation(), None, as_json=as_json, verb="ladder")
    if not quiet:
        print(f"The report: {found.folder / 'report.html'}", file=sys.stderr)


def _run_sizes(sources: list[str], arguments: dict[str, Any], as_json: bool, quiet: bool) -> None:
    """`--sizes`: a ladder of one system's sizes."""
    if unfit := [name for name in RUNGED if name in arguments]:
        raise UserError(f"--{unfit[0].replace('_', '-')} does not go with --sizes")
    if "epochs" in arguments:
        arguments["epochs"] = _above(arguments["epochs"], "epochs")
    if arguments.get("steps") == 0:
        raise UserError("--steps: expected 1 or more, got 0")
    sizes = [s.strip() for s in arguments.pop("sizes").split(",") if s.strip()]
    options = {f"data.{n}": arguments.pop(n) for n in ("unit", "vocabulary") if n in arguments}
    _check_unit(options.get("data.unit", "bpe"))
    from fourfold.cli.write import write
    from fourfold.core.console import make_console
    from fourfold.core.sources import command_line
    from fourfold.selection.scaling import scaling

    found = scaling(
        sources if len(sources) > 1 else next(iter(sources), None),
        sizes=sizes,
        console=make_console(quiet=quiet or as_json),
        command=command_line(),
        options=options,
        **arguments,
    )
    write(found.explanation(), None, as_json=as_json, verb="ladder")
    if not quiet:
        print(f"The report: {found.folder / 'report.html'}", file=sys.stderr)


def _minutes(text: str) -> float:
    return _above(text, "minutes")


def _above(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"--{name}: expected a number above 0, got {text!r}")
    return value


def _check_unit(unit: str) -> None:
    if unit not in UNITS:
        raise UserError(f"--unit {unit}: no such unit{nearest(unit, UNITS)}")
