"""Completion scripts for shells, made from the same options that the command line parses."""

from __future__ import annotations

from typing import Literal, cast

from cyclopts import App

from fourfold.cli.fit import fit_parameters
from fourfold.cli.main import COMMANDS
from fourfold.cli.parse import collector, parse, positional
from fourfold.cli.verbs import parameters
from fourfold.core.errors import UserError, nearest
from fourfold.core.registry import all_verbs, index, load_system
from fourfold.core.system import verbs

SHELLS = ("bash", "zsh", "fish")


def completion_command(tokens: list[str]) -> None:
    """Print a shell's completion script."""
    text = 'Print a completion script: `eval "$(fourfold completion bash)"`.'
    parsed = parse(
        "fourfold completion",
        text,
        [positional("shell", "bash, zsh or fish.", required=True)],
        tokens,
    )
    if parsed is None:
        return
    shell = parsed[0][0]
    if shell not in SHELLS:
        raise UserError(f"completion {shell}: no such shell{nearest(shell, SHELLS)}")
    print(_whole().generate_completion(shell=cast(Literal["bash", "zsh", "fish"], shell)))


def _whole() -> App:
    """Every command, system and verb as one tree."""
    app = App(name="fourfold", version_flags=[])
    fit = App(name="fit", help=COMMANDS["fit"][1], version_flags=[])
    for entry in index().values():
        fit.command(
            collector(fit_parameters(load_system(entry.name))), name=entry.name, help=entry.summary
        )
    app.command(fit)
    for name, (_, text) in COMMANDS.items():
        if name != "fit":
            app.command(collector([]), name=name, help=text)
    for verb, systems in all_verbs().items():
        if verb in COMMANDS:
            continue  # a command that does more than the verb of its name
        flags = {}
        for system in systems:
            for parameter in parameters(verbs(load_system(system))[verb]):
                if parameter.kind is parameter.KEYWORD_ONLY:
                    flags[parameter.name] = parameter
        app.command(collector([positional("run", "A run."), *flags.values()]), name=verb)
    return app
