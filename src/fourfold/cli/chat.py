"""A conversation in the terminal: answers stream, what was said is kept; also from a pipe, a line each turn."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from fourfold.core.errors import UserError
from fourfold.core.run import Run

HELP = "/reset forgets the conversation, /system TEXT begins anew with an instruction, /exit or Ctrl-D leaves, Ctrl-C stops an answer."


def converse(run: Run, verb: str, options: dict[str, Any]) -> None:
    """Ask for turns of the user and answer each, until the end of the input.

    Args:
        run: whose verb it is.
        verb: its name; it takes the text and `messages`.
        options: the verb's others.

    Raises:
        UserError: an answer cannot be made, in a pipe; in a terminal it is said and the conversation goes on.
    """
    terminal = sys.stdin.isatty()
    messages = list(options.pop("messages", None) or [])
    if terminal:
        print(f"Talking with {run.place}.\n{HELP}", file=sys.stderr)
    for text in _turns(terminal):
        if text.startswith("/"):
            command, _, rest = text.partition(" ")
            if command in ("/exit", "/quit"):
                return
            if command == "/reset":
                messages = []
            elif command == "/system" and rest.strip():
                options["system"], messages = rest.strip(), []
            else:
                print(HELP, file=sys.stderr)
            continue
        try:
            said = _answer(run, verb, text, messages, options)
        except UserError as error:
            if not terminal:
                raise
            print(f"fourfold: {error}", file=sys.stderr)
            continue
        messages += [{"role": "user", "content": text}]
        if said.strip():
            messages += [{"role": "assistant", "content": said}]
        else:
            messages.pop()  # nothing was answered: as if nothing had been asked


def _answer(
    run: Run, verb: str, text: str, messages: list[dict[str, str]], options: dict[str, Any]
) -> str:
    """Say an answer as it is made; what was said of it when Ctrl-C stops it."""
    said = []
    try:
        for piece in getattr(run, verb)(text, messages=messages, **options):
            said.append(piece)
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
    sys.stdout.write("\n")
    sys.stdout.flush()
    return "".join(said)


def _turns(terminal: bool) -> Iterator[str]:
    """What the user says, turn by turn; empty lines are none."""
    if not terminal:
        yield from (line.strip("\r\n") for line in sys.stdin if line.strip())
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # gives input() a history and keys to edit with
    while True:
        try:
            text = input("> ")
        except EOFError:
            print(file=sys.stderr)
            return
        except KeyboardInterrupt:
            print(f"\n{HELP}", file=sys.stderr)
            continue
        if text.strip():
            yield text
