"""`fourfold VERB RUN ...`: the verb's signature is the command line."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fourfold.cli.parse import flag, parse, positional
from fourfold.core.errors import UserError, nearest
from fourfold.core.signatures import argument_help, marks, takes_many
from fourfold.core.types import DOCUMENT, SOURCE

PATH_LIKE = re.compile(
    r"\S*/\S*\.\w{1,8}|\S+\.(txtt?|md|rst|py|jsonl?|csv|tsv|html?|tex|log|gz|zst|parquet)"
)
"""Words that nobody scores or embeds, but mistypes: one word with a folder or a text file's extension."""
GLOBAL = ("out", "json", "quiet", "debug", "device")


def verb_command(name: str, tokens: list[str]) -> None:
    """Run a verb of a run."""
    if not tokens or tokens[0] in ("-h", "--help"):
        from fourfold.cli.help import verb_overview

        return verb_overview(name)
    if tokens[0].startswith("-"):
        raise UserError(f"{name}: the run comes first: fourfold {name} RUN ...")
    import fourfold
    from fourfold.core.system import verbs

    device = tokens[tokens.index("--device") + 1] if "--device" in tokens[:-1] else None
    run = fourfold.open(tokens[0], device=device)
    known = verbs(run.system)
    if name not in known:
        if name == "chat" and "address" in run.about:
            raise UserError(
                f"{run.place}: has no chat template inside, so it only continues texts: `fourfold generate`"
            )
        raise UserError(
            f"{run.place}: a run of {run.system.name} has no verb {name}{nearest(name, known)}"
        )
    parsed = parse(
        f"fourfold {name} {tokens[0]}",
        inspect.getdoc(known[name]) or "",
        parameters(known[name]),
        tokens[1:],
    )
    if parsed is None:
        return None
    args, kwargs = parsed
    settings = {key: kwargs.pop(f"g_{key}", None) for key in GLOBAL}
    from fourfold.core.console import make_console

    run.console = make_console(quiet=bool(settings["quiet"]), json=False)
    positionals, keywords = arguments(known[name], args, kwargs)
    if "out" in inspect.signature(known[name]).parameters and settings["out"]:
        keywords["out"] = _place(settings.pop("out"))  # a verb that writes itself, as export does
    for parameter in inspect.signature(known[name]).parameters.values():
        needed = parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        if needed and parameter.name not in keywords:
            option = parameter.name.rstrip("_").replace("_", "-")
            raise UserError(f"--{option} is missing: fourfold {name} RUN --{option} ...")
    if getattr(known[name], "converses", False) and not positionals:
        from fourfold.cli.chat import converse

        return converse(run, name, keywords)
    value = getattr(run, name)(*positionals, **keywords)
    from fourfold.cli.write import write

    write(
        value,
        Path(settings["out"]) if settings.get("out") else None,
        as_json=bool(settings["json"]),
        verb=name,
        quiet=bool(settings["quiet"]),
    )
    return None


def parameters(method: Any) -> list[inspect.Parameter]:
    """The command line of a verb, from its signature."""
    from fourfold.core.options import hints

    annotations = hints(method)
    made = []
    for parameter in list(inspect.signature(method).parameters.values())[2:]:
        annotation = annotations.get(parameter.name, str)
        text = argument_help(method, parameter.name)
        many = takes_many(annotation)
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            name = parameter.name.rstrip("_").replace("_", "-")
            if parameter.name in GLOBAL:
                continue  # --out: the command line's own flag fills it
            default = (
                parameter.default if parameter.default is not inspect.Parameter.empty else None
            )
            if isinstance(default, (tuple, list)):
                default = ",".join(map(str, default)) or None
            made.append(
                flag(parameter.name, [f"--{name}"], annotation, text, default, "Options", 1)
            )
        elif many:
            made.append(positional(parameter.name, text, many=True))
        else:
            required = parameter.default is inspect.Parameter.empty
            made.append(positional(parameter.name, text, required=required))
    return [
        *made,
        flag(
            "g_out",
            ["--out", "-o"],
            str,
            "File to write; the extension chooses the format.",
            None,
            "Every verb",
            2,
        ),
        flag("g_json", ["--json"], bool, "JSON for machines.", None, "Every verb", 2),
        flag(
            "g_quiet", ["--quiet", "-q"], bool, "Say nothing but the answer.", None, "Every verb", 2
        ),
        flag("g_device", ["--device"], str, "cpu, cuda, cuda:1, mps.", "auto", "Every verb", 2),
        flag(
            "g_debug", ["--debug"], bool, "Show the traceback of an error.", None, "Every verb", 2
        ),
    ]


def arguments(
    method: Any, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Words as values of the verb's types, judged by pydantic.

    Raises:
        UserError: a value out of range or of the wrong type.
    """
    from fourfold.core.options import hints, origins_of

    annotations = hints(method)
    declared = list(inspect.signature(method).parameters.values())[2:]
    places = [p for p in declared if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    rest = list(args)
    positionals: list[Any] = []
    for parameter in places:
        annotation = annotations.get(parameter.name, str)
        if takes_many(annotation):
            value: Any = rest if len(rest) != 1 else rest[0]
            rest = []
            if value == []:
                if parameter.default is inspect.Parameter.empty and SOURCE not in marks(annotation):
                    raise UserError(
                        f"{parameter.name.upper()} is missing: fourfold {method.__name__} RUN {parameter.name.upper()}"
                    )
                break
            if DOCUMENT in marks(annotation):
                read = place_or_text if SOURCE in marks(annotation) else document
                value = [read(v) for v in value] if isinstance(value, list) else read(value)
            # a text is whole, commas and all; several are several words
            whole = SOURCE in marks(annotation) or (
                str in origins_of(annotation) and (isinstance(value, str) or _texts(value))
            )
            positionals.append(value if whole else _value(parameter.name, value, annotation))
            continue
        if not rest:
            break
        word = rest.pop(0)
        if word is None:
            break
        if DOCUMENT in marks(annotation):
            word = document(word)
        if annotation is Path:
            word = _place(word)
        positionals.append(
            word if SOURCE in marks(annotation) else _value(parameter.name, word, annotation)
        )
    keywords = {}
    for key, word in kwargs.items():
        annotation = annotations.get(key, str)
        if DOCUMENT in marks(annotation):
            word = document(word)
        keywords[key] = (
            word
            if SOURCE in marks(annotation)
            else _value(f"--{key.rstrip('_').replace('_', '-')}", word, annotation)
        )
    return positionals, keywords


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _place(word: str) -> Path:
    """A file's name; - stands for standard input or output."""
    return Path("-" if word == "@-" else word)


def _value(name: str, word: Any, annotation: Any) -> Any:
    from pydantic import TypeAdapter, ValidationError

    from fourfold.core.options import parse as parse_text

    try:
        return TypeAdapter(annotation).validate_python(parse_text(word, annotation))
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"][0].lower() + first["msg"][1:]
        raise UserError(
            f"{name}: expected {message.removeprefix('input should be ')}, got {word!r}"
        ) from None


def place_or_text(word: str) -> Path | str:
    """For what takes a source or a text: an existing file, `@file` or - as a path, any other word as it is.

    Raises:
        UserError: `@file` does not exist, or the word looks like a file and is none.
    """
    if word in ("-", "@-"):
        return Path("-")
    name = word[1:] if word.startswith("@") and not word.startswith("@@") else word
    try:
        if Path(name).exists():
            return Path(name)
    except (OSError, ValueError):
        pass  # a long text is no file name
    return document(word)


def document(word: str) -> str:
    """Literal text, `@file`, `-` for stdin, or an existing file's content (said aloud).

    Raises:
        UserError: `@file` cannot be read as UTF-8.
    """
    if word in ("-", "@-"):
        return sys.stdin.read()
    if word.startswith("@@"):
        return word[1:]
    path = Path(word[1:]) if word.startswith("@") else Path(word)
    try:
        exists = path.is_file()
    except (OSError, ValueError):
        exists = False  # a long text is no file name
    if word.startswith("@") and not exists:
        raise UserError(f"{path}: no such file (a text that begins with @ is written @@...)")
    if not exists:
        if PATH_LIKE.fullmatch(word):
            beside = [str(p) for p in path.parent.glob("*")] if path.parent.is_dir() else []
            raise UserError(
                f"{word}: no such file{nearest(word, beside)}; to take these words themselves, pipe them in with -"
            )
        return word
    if not word.startswith("@"):
        print(
            f"Reading the file {path} (for these words themselves, pipe them in with -).",
            file=sys.stderr,
        )
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start}") from None
