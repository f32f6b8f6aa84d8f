"""Dispatch: which command, how errors and interrupts leave the process."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from fourfold.core.errors import Interrupted, UserError, nearest
from fourfold.core.ranks import Lost, current

COMMANDS = {
    "fit": ("fourfold.cli.fit", "Train a system on data."),
    "search": ("fourfold.cli.search", "Try options of a system, and fit it with the best."),
    "import": ("fourfold.cli.bring", "Make a run of what another program wrote."),
    "index": ("fourfold.cli.index", "Make a knowledge base of documents, or bring one up to date."),
    "ladder": ("fourfold.cli.ladder", "Every language model on the same text, one measure."),
    "compare": ("fourfold.cli.compare", "The same prompts through several runs, side by side."),
    "bench": ("fourfold.cli.bench", "How fast a run generates, by engine."),
    "list": ("fourfold.cli.show", "Every system: what it reads, its verbs, its source."),
    "runs": ("fourfold.cli.show", "What has been trained here."),
    "show": ("fourfold.cli.show", "One run in full, or the newest: `show last`."),
    "explain": (
        "fourfold.cli.explain",
        "An expression with its gradients, a probability table, or a run on an input.",
    ),
    "serve": ("fourfold.cli.serve", "The verbs of runs over HTTP, and a page to use them."),
    "doctor": ("fourfold.cli.show", "What this machine has: threads, bf16, compiler, extras, GPU."),
    "completion": (
        "fourfold.cli.complete",
        "Print a shell's completion script: bash, zsh or fish.",
    ),
}
"""Commands that are no verb of a run, with the module whose function of that name (and `_command`) runs them."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and exit: 0, 2 for wrong input, 128 + signal when stopped."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    code = 0
    try:
        dispatch(given)
        sys.stdout.flush()
        current().leave()
    except (UserError, Lost) as error:
        if current().failed(error):  # of several processes one says what all have found
            if "--debug" in given:
                raise
            print(f"fourfold: {error}", file=sys.stderr)
        code = 2 if isinstance(error, UserError) else 1
    except Interrupted as stopped:
        if current().main:
            print(
                f"fourfold: stopped after {stopped.after}; to go on exactly there: {stopped.command}",
                file=sys.stderr,
            )
        current().leave()
        code = 128 + stopped.signum
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # the reader of a pipe is gone (`| head`); nothing may be flushed to it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as error:
        if current().failed(error):
            raise
        code = 1
    if code or arguments is None:
        sys.exit(code)


def dispatch(given: list[str]) -> None:
    """Run one command.

    Raises:
        UserError: anything wrong with the line.
    """
    # a lone "-" means stdin; the parser must not take it for an option
    given = ["@-" if token == "-" else token for token in given]
    if not given or given[0] in ("-h", "--help"):
        from fourfold.cli.help import overview

        return overview()
    if given[0] in ("--version", "-V"):
        import fourfold

        print(fourfold.__version__)
        return None
    name, rest = given[0], given[1:]
    if name in COMMANDS:
        module = importlib.import_module(COMMANDS[name][0])
        getattr(module, f"{name}_command")(rest)
        return None
    from fourfold.core.registry import all_verbs

    verbs = all_verbs()
    if name in verbs:
        from fourfold.cli.verbs import verb_command

        verb_command(name, rest)
        return None
    raise UserError(f"{name}: no such command or verb{nearest(name, [*COMMANDS, *verbs])}")
