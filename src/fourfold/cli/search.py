"""`fourfold search SYSTEM [DATA ...]`: try options of a system, and fit it with the best."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from fourfold.cli.fit import common_flags, fit_parameters, of_options, whole
from fourfold.cli.parse import flag, parse
from fourfold.core.errors import UserError, nearest
from fourfold.core.registry import index, load_system

LEFT_OUT = {"seeds", "from_", "dry_run", "tensorboard", "resume", "folds", "repeats"}
"""Flags of every fit that a search does not have, or explains in its own words."""
GROUP = "The search"


def search_flags() -> list[inspect.Parameter]:
    """Options of the search itself."""
    return [
        flag("trials", ["--trials"], str, "Trials in all.", 20, GROUP, 0),
        flag(
            "space",
            ["--space"],
            str,
            'What is tried beside or instead of the system\'s own: "optimizer.lr=1e-4..1e-2:log width=32..512 activation=relu,gelu".',
            None,
            GROUP,
            0,
        ),
        flag("folds", ["--folds"], str, "Cross-validate each trial with so many folds.", None, GROUP, 0),
        flag("repeats", ["--repeats"], str, "Repeat the folds of each trial.", 1, GROUP, 0),
        flag(
            "outer",
            ["--outer"],
            str,
            "Search anew within each of so many outer folds, to measure what searching is worth.",
            None,
            GROUP,
            0,
        ),
        flag("storage", ["--storage"], str, "A database's address for Optuna.", "OUT/search.db", GROUP, 0),
        flag("study", ["--study"], str, "Name in the database; processes that share it share the trials.", "the folder's", GROUP, 0),
        flag("keep_trials", ["--keep-trials"], bool, "Write each trial's run to OUT/trials/.", None, GROUP, 0),
        flag("no_prune", ["--no-prune"], bool, "Run every trial to its end.", None, GROUP, 0),
        flag("resume", ["--resume"], str, "Go on with the search in this folder.", None, GROUP, 0),
    ]  # fmt: skip


def search_parameters(cls: Any) -> list[inspect.Parameter]:
    """Every flag of a system's search: the search's own, the system's, and those of every fit that fit here."""
    common = [
        f
        for f in common_flags(tuple(cls.sizes))
        if f.name not in LEFT_OUT and not f.name.startswith("parallel_")
    ]
    return fit_parameters(cls, [*search_flags(), *common])


def search_command(tokens: list[str]) -> None:
    """Try options of a system."""
    if not tokens or tokens[0] in ("-h", "--help"):
        return _overview()
    if tokens[0].startswith("--resume"):
        return _resume(tokens)
    name, rest = tokens[0], tokens[1:]
    if name.startswith("-"):
        raise UserError(
            f"search: the system comes first: fourfold search SYSTEM [DATA ...]{nearest('', index())}"
        )
    cls = load_system(name)
    space = " ".join(f"{k}={v}" for k, v in cls.search_space.items())
    text = f"Try options of {name} with Optuna, and fit it with the best.\n\nWithout --space it tries: {space or 'nothing; name options'}"
    parsed = parse(f"fourfold search {name}", text, search_parameters(cls), rest, loose=True)
    if parsed is None:
        return None
    sources, values = parsed
    overrides, given = of_options(values)
    if given.get("resume"):
        raise UserError(f"--resume comes alone: fourfold search --resume {given['resume']}")
    source = list(sources) if len(sources) > 1 else next(iter(sources), None)
    return _run(name, source, overrides, given)


def _run(name: str, source: Any, overrides: dict[str, Any], given: dict[str, Any]) -> None:
    from fourfold.core.console import make_console
    from fourfold.core.sources import command_line
    from fourfold.selection.search import search

    quiet, as_json = bool(given.pop("quiet", False)), bool(given.pop("json", False))
    given.pop("debug", None)
    for number in ("trials", "folds", "repeats", "outer", "seed"):
        if number in given:
            given[number] = whole(number, given[number])
    found = search(
        name,
        source,
        keep=bool(given.pop("keep_trials", False)),
        prune=not given.pop("no_prune", False),
        console=make_console(quiet=quiet, json=as_json),
        command=command_line(),
        **given,
        **overrides,
    )
    _say_end(found, as_json, quiet)


def _resume(tokens: list[str]) -> None:
    from fourfold.core.console import make_console
    from fourfold.core.sources import command_line
    from fourfold.selection.search import resume

    common = [f for f in common_flags() if f.name in ("quiet", "json", "debug")]
    flags = [f for f in search_flags() if f.name in ("trials", "resume")]
    parsed = parse("fourfold search", "Go on with a search.", [*flags, *common], tokens)
    if parsed is None:
        return
    given = parsed[1]
    quiet, as_json = bool(given.get("quiet")), bool(given.get("json"))
    trials = whole("trials", given["trials"]) if "trials" in given else None
    found = resume(
        given["resume"],
        trials=trials,
        console=make_console(quiet=quiet, json=as_json),
        command=command_line(),
    )
    _say_end(found, as_json, quiet)


def _say_end(found: Any, as_json: bool, quiet: bool) -> None:
    if as_json:
        import json

        told = {
            "event": "end", "run": str(found.run.folder), "measure": found.measure, "value": found.value,
            "options": found.options, "trials": len(found.trials), "importance": found.importance,
            "outer": found.outer,
        }  # fmt: skip
        print(json.dumps(told), flush=True)
        return
    print(found)
    if not quiet:
        folder = found.run.folder
        print(
            f"The run with these is in {folder}; its report: {folder}/report.html", file=sys.stderr
        )
        print(
            f"More trials: fourfold search --resume {folder} --trials {2 * len(found.trials)}",
            file=sys.stderr,
        )


def _overview() -> None:
    print(
        "fourfold search SYSTEM [DATA ...] [OPTIONS]\nfourfold search --resume RUN [--trials N]\n"
    )
    print("Try options of a system with Optuna, and fit it with the best.\n")
    for entry in index().values():
        print(f"  {entry.name:<12} reads {entry.reads}: {entry.summary}")
    print(
        "\n  fourfold search SYSTEM --help lists the search's options and all of the system's, which it then leaves alone."
    )
