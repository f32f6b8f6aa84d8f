"""`fourfold compare RUN RUN ... --prompts FILE`: the same prompts through several runs."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

from fourfold.cli.fit import whole
from fourfold.cli.parse import flag, parse, positional
from fourfold.core.errors import UserError

TEXT = """Ask several runs of language models the same, and see their answers side by side.

The first run is the base. Per run: KL from the base, bits per byte of the prompts' references, length, variety and
repetition of the answers. Runs that converse are asked in their chat template.

    fourfold compare questions.jsonl --closed-book runs/chat --tuned runs/tuned --rag kb

asks questions instead, from the model's weights alone, tuned on the documents, with retrieval, and both: exact match, F1, the
share of sentences that do not stand in the documents, seconds a question."""


def compare_flags() -> list[inspect.Parameter]:
    """The command line of the comparison."""
    return [
        positional("runs", "Two runs or more; the first is the base.", many=True),
        flag("prompts", ["--prompts", "-p"], str, "File of prompts: rows with a prompt and, where known, a reference; or a prompt a line."),
        flag("closed_book", ["--closed-book"], str, "A model that converses, asked questions as it is; RUNS are then questions."),
        flag("tuned", ["--tuned"], str, "The same, tuned on the documents."),
        flag("rag", ["--rag"], str, "A knowledge base: each of the two models with retrieval, or extraction where there is none."),
        flag("tokens", ["--tokens"], str, "Most tokens of an answer.", 64),
        flag("temperature", ["--temperature"], str, "0 always takes the most likely token.", 0),
        flag("seed", ["--seed"], str, "Of what is drawn.", 0),
        flag("judge", ["--judge"], str, "A run of reward, or one that converses (ollama:NAME, too), which says how good each answer is: means, and win rates against the base."),
        flag("out", ["--out", "-o"], str, "File to write: .html, .md, .json, .txt, or a picture's extension."),
        flag("device", ["--device"], str, "cpu, cuda, cuda:1, mps.", "auto"),
        flag("quiet", ["--quiet", "-q"], bool, "Say nothing but the answer."),
        flag("json", ["--json"], bool, "JSON for machines."),
        flag("debug", ["--debug"], bool, "Show the traceback of an error."),
    ]  # fmt: skip


def compare_command(tokens: list[str]) -> None:
    """Ask several runs the same."""
    parsed = parse("fourfold compare", TEXT, compare_flags(), tokens)
    if parsed is None:
        return
    runs, given = parsed
    options: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    if options.keys() & {"closed_book", "tuned", "rag"}:
        return _books(list(runs), options)
    if "prompts" not in options:
        raise UserError("compare: expected a file of prompts: --prompts prompts.jsonl")
    as_json, quiet = bool(options.get("json")), bool(options.get("quiet"))
    arguments: dict[str, Any] = {"device": options.get("device"), "judge": options.get("judge")}
    if "tokens" in options:
        arguments["tokens"] = whole("tokens", options["tokens"])
        if not arguments["tokens"]:
            raise UserError("--tokens: expected 1 or more, got 0")
    if "seed" in options:
        arguments["seed"] = whole("seed", options["seed"])
    if "temperature" in options:
        arguments["temperature"] = _temperature(options["temperature"])
    from fourfold.core.console import make_console
    from fourfold.selection.comparison import compare

    console = make_console(quiet=quiet or as_json)
    found = compare(list(runs), options["prompts"], console=console, **arguments)
    _write(found, Path(options["out"]) if "out" in options else None, as_json, quiet)


def _books(runs: list[str], options: dict[str, Any]) -> None:
    """The same questions from weights, from tuned weights, with retrieval, and both."""
    from fourfold.core.console import make_console
    from fourfold.selection.closed_book import closed_book

    given = {*options} & {"tokens", "temperature", "seed", "judge"}
    if given:
        raise UserError(f"--{sorted(given)[0]} does not go with --closed-book, --tuned and --rag")
    source = runs[0] if len(runs) == 1 else options.get("prompts")
    if source is None or len(runs) > 1:
        raise UserError(
            "compare: expected one file of questions with answers: compare questions.jsonl --closed-book ... --rag ..."
        )
    as_json, quiet = bool(options.get("json")), bool(options.get("quiet"))
    found = closed_book(
        source, closed=options.get("closed_book"), tuned=options.get("tuned"), rag=options.get("rag"),
        console=make_console(quiet=quiet or as_json), device=options.get("device"),
    )  # fmt: skip
    _write(found, Path(options["out"]) if "out" in options else None, as_json, quiet)


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(f"--temperature: expected 0 or more, got {text!r}")
    return value


def _write(found: Any, out: Path | None, as_json: bool, quiet: bool) -> None:
    from fourfold.cli.write import write

    suffix = "" if out is None else out.suffix.lower()
    if out is None and as_json:
        print(json.dumps(found.record(), ensure_ascii=False))
    elif out is not None and suffix in (".md", ".json"):
        text = (
            found.markdown()
            if suffix == ".md"
            else json.dumps(found.record(), ensure_ascii=False, indent=1)
        )
        try:
            out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error
        if as_json:
            print(json.dumps(found.record(), ensure_ascii=False))
        if not quiet:
            print(f"Written to {out}", file=sys.stderr)
    else:
        write(found.explanation(), out, as_json=as_json, verb="compare", quiet=quiet)
