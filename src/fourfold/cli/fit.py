"""`fourfold fit SYSTEM [DATA ...]`."""

from __future__ import annotations

import inspect
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fourfold.cli.parse import flag, of_option, parse, positional
from fourfold.core.errors import UserError, nearest
from fourfold.core.ranks import Parallel, asked, join
from fourfold.core.registry import index, load_system


def common_flags(sizes: tuple[str, ...] = ()) -> list[inspect.Parameter]:
    """Options that every fit has."""
    return [
        flag("out", ["--out", "-o"], str, "Folder of the run.", "runs/<system>-<n>"),
        flag("seed", ["--seed"], str, "Fixes split, order, initial weights and noise.", 0),
        flag(
            "seeds",
            ["--seeds"],
            str,
            "Fit this many times with successive seeds; mean and deviation are printed.",
            1,
        ),
        flag(
            "folds",
            ["--folds"],
            str,
            "Of a table: hold out each of so many folds in turn before the run itself; mean and deviation are printed.",
        ),
        flag("repeats", ["--repeats"], str, "Repeat the folds with other partitions.", 1),
        flag(
            "size",
            ["--size"],
            str,
            f"A preset ({', '.join(sizes) or 'this system has none'}); explicit options win over it.",
        ),
        flag("valid", ["--valid"], str, "File of the validation split; several as a.en,a.de."),
        flag("device", ["--device"], str, "cpu, cuda, cuda:1, mps.", "auto"),
        flag("resume", ["--resume"], str, "Go on exactly where this run was stopped."),
        flag("from_", ["--from"], str, "Begin from this run's weights, under a new schedule."),
        flag("dry_run", ["--dry-run"], bool, "Say memory and time per step, train nothing."),
        *parallel_flags(),
        flag("tensorboard", ["--tensorboard"], bool, "Also write TensorBoard event files."),
        flag("quiet", ["--quiet", "-q"], bool, "Say nothing but errors."),
        flag("json", ["--json"], bool, "One JSON object a line, for machines."),
        flag("debug", ["--debug"], bool, "Show the traceback of an error."),
    ]


def parallel_flags() -> list[inspect.Parameter]:
    """How a fit is spread over the processes that torchrun starts."""
    found = []
    for name, field in Parallel.model_fields.items():
        help_ = " ".join((field.description or "").split())
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        names = [f"--parallel.{name}"]
        found.append(
            flag(f"parallel_{name}", names, field.annotation, help_, default, "Processes", 8)
        )
    return found


def of_processes(common: dict[str, Any]) -> dict[str, Any]:
    """Take the flags of `parallel_flags` out of those of the command."""
    given = {k: common.pop(k) for k in list(common) if k.startswith("parallel_")}
    return {"parallel": {k.removeprefix("parallel_"): v for k, v in given.items()}} if given else {}


def fit_parameters(
    cls: Any, common: list[inspect.Parameter] | None = None
) -> list[inspect.Parameter]:
    """Every flag of a system's fit, grouped by part, and those of every fit or of another command."""
    from fourfold.core.options import options, short_names

    order = {"Model": 1, "Data": 2, "Objective": 3, "Optimizer": 4}
    short = {path: name for name, path in short_names(cls).items()}
    parameters = [
        positional(
            "sources",
            "Files, folders, globs, catalog names, or - for stdin; none takes the embedded data.",
            many=True,
        )
    ]
    for path, option in options(cls).items():
        is_short = path in short and len(path) > 1
        rank = order.get(
            path[0].capitalize() if path[0] in ("data", "objective", "optimizer") else "Model", 5
        )
        parameters.append(of_option(option, is_short, rank))
    return [*parameters, *(common_flags(tuple(cls.sizes)) if common is None else common)]


def fit_command(tokens: list[str]) -> None:
    """Train a system on data."""
    if asked():
        join()
    if not tokens or tokens[0] in ("-h", "--help"):
        from fourfold.cli.help import fit_overview

        return fit_overview()
    name, rest = tokens[0], tokens[1:]
    given: dict[str, Any] = {}
    if name.endswith(".toml"):
        given = _from_toml(Path(name))
        name = given["system"]
    elif name == "--resume" and rest:
        from fourfold.core.run import Run

        name, rest = Run.open(rest[0]).system.name, tokens
    elif name.startswith("--resume="):
        return fit_command(["--resume", name.removeprefix("--resume="), *rest])
    elif name.startswith("-"):
        raise UserError(
            f"fit: the system comes first: fourfold fit SYSTEM [DATA ...]{nearest('', index())}"
        )
    cls = load_system(name)
    text = f"{(cls.__doc__ or '').strip()}\n\n{(sys.modules[cls.__module__].__doc__ or '').strip()}"
    try:
        parsed = parse(f"fourfold fit {name}", text, fit_parameters(cls), rest, loose=True)
    except UserError as error:
        raise _of_a_verb(cls, error) or error from None
    if parsed is None:
        return None
    sources, values = parsed
    overrides, common = of_options(values)
    for number in ("seed", "seeds", "folds", "repeats"):
        if number in common:
            common[number] = whole(number, common[number])
    _run_fit(name, list(sources), given, overrides, common)
    return None


def _of_a_verb(cls: Any, error: UserError) -> UserError | None:
    """What to say of a flag that is no option of fitting but one of a verb of the run."""
    from fourfold.core.system import verbs

    unknown = re.match(r"Unknown option: --([\w-]+)", str(error))
    if unknown is None:
        return None
    name = unknown[1].replace("-", "_")
    having = [verb for verb, m in verbs(cls).items() if name in inspect.signature(m).parameters]
    if not having:
        return None
    said = " or ".join(f"fourfold {verb} RUN" for verb in sorted(having, key="evaluate".__eq__))
    return UserError(f"--{unknown[1]}: goes with {said}, not with fit")


def of_options(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parsed flags as options of the system, by path, and flags of the command."""
    mine = {k for k in values if k.startswith("o_") or "." in k}
    overrides = {_option_name(k): v for k, v in values.items() if k in mine}
    return overrides, {k: v for k, v in values.items() if k not in mine}


def _option_name(key: str) -> str:
    return key[2:].replace("__", ".") if key.startswith("o_") else key


def several(word: str) -> str | list[str]:
    """A file's name, or several with commas between them where there is no file of the whole name."""
    if "," not in word or Path(word).exists():
        return word
    return [part for part in word.split(",") if part]


LEAST = {"seeds": 1, "trials": 1, "repeats": 1, "folds": 2, "outer": 2}
"""Of whole numbers on the command line; of others 0."""


def whole(name: str, text: str) -> int:
    """A flag's text as a whole number.

    Raises:
        UserError: it is none, or too small.
    """
    try:
        value = int(text)
    except ValueError:
        raise UserError(f"--{name}: expected a whole number, got {text!r}") from None
    if value < LEAST.get(name, 0):
        raise UserError(f"--{name}: expected {LEAST.get(name, 0)} or more, got {value}")
    return value


def _from_toml(path: Path) -> dict[str, Any]:
    from fourfold.core.folders import migrated, read_toml

    if not path.exists():
        raise UserError(f"{path}: no such file")
    tree = read_toml(path)
    if not isinstance(tree.get("system"), str):
        raise UserError(f'{path}: names no system; expected a line such as system = "gpt"')
    for table in ("fit", "options"):
        if not isinstance(tree.setdefault(table, {}), dict):
            raise UserError(f"{path}: {table}: expected a table [{table}], got {tree[table]!r}")
    if "format" in tree:
        tree = migrated(tree, path)
    else:
        # written by hand: only what differs from the defaults
        _refuse_unknown(path, "", tree, ("system", "from", "fit", "options"))
        _refuse_unknown(path, "fit.", tree["fit"], ("sources", "valid", "seed", "device"))
    seed = tree["fit"].get("seed", 0)
    if type(seed) is not int or seed < 0:
        raise UserError(f"{path}: fit.seed: expected a whole number, 0 or more, got {seed!r}")
    return {**tree, "path": str(path)}


def _refuse_unknown(path: Path, prefix: str, table: dict[str, Any], known: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            raise UserError(f"{path}: unknown key {prefix}{key}{nearest(key, known)}")


def _base(name: str, given: dict[str, Any]) -> Any:
    if not given:
        return None
    from fourfold.core.options import complete, construct, merge

    cls = load_system(name)
    options = given.get("options", {})
    if "format" in given:
        return construct(cls, complete(cls, options), where=given["path"])
    return merge(cls, options, where=given["path"])


def _run_fit(
    name: str,
    sources: list[str],
    given: dict[str, Any],
    overrides: dict[str, Any],
    common: dict[str, Any],
) -> None:
    from fourfold import api
    from fourfold.core.console import make_console
    from fourfold.core.sources import command_line

    saved = given.get("fit", {})
    source: Any = sources or saved.get("sources")
    if given.get("in_memory") and not source:
        raise UserError(
            f"{given['path']}: was fitted on data in memory; give the data to use again"
        )
    if isinstance(source, list) and len(source) == 1:
        source = source[0]
    quiet, as_json = common.pop("quiet", False), common.pop("json", False)
    common.pop("debug", None)
    seeds = common.pop("seeds", 1)
    resumed = common.pop("resume", None)
    processes = of_processes(common)
    arguments = {k: saved[k] for k in ("valid", "seed", "device") if k in saved}
    if "from" in given:
        arguments["from_"] = given["from"]
    arguments.update(common)
    if isinstance(arguments.get("valid"), str):
        arguments["valid"] = several(arguments["valid"])
    system = _base(name, given) or name
    console = make_console(quiet=quiet, json=as_json)
    if resumed:
        wished = {**common, **({"seeds": seeds} if seeds > 1 else {})}
        never = ("out", "seed", "seeds", "folds", "repeats", "size", "valid", "from_", "dry_run")
        refused = [k.rstrip("_").replace("_", "-") for k in never if k in wished]
        if refused or given:
            what = f"--{refused[0]}" if refused else given["path"]
            raise UserError(
                f"--resume goes on exactly as the run was begun, so {what} does not go with it"
            )
    if asked() and ("folds" in common or "repeats" in common or "dry_run" in common):
        raise UserError("--folds and --dry-run are for one process; run them without torchrun")
    if "folds" in common or "repeats" in common:
        return _run_folds(system, source, arguments, seeds, overrides, console, as_json)
    if arguments.pop("dry_run", False):
        return _say_plan(api.plan(system, source, **arguments, **overrides), as_json)
    if resumed:
        run = api.resume(
            resumed, system=name, source=source, device=common.get("device"), console=console,
            tensorboard=bool(common.get("tensorboard")), **processes, **overrides,
        )  # fmt: skip
        return _say_end([run], console, as_json)
    runs = []
    first = arguments.pop("seed", 0)
    out = arguments.pop("out", None)
    for number in range(seeds):
        folder = out if out is None or seeds == 1 else f"{out}-seed{first + number}"
        runs.append(
            api.fit(
                system,
                source,
                out=folder,
                seed=first + number,
                console=console,
                command=command_line(),
                **processes,
                **arguments,
                **overrides,
            )
        )
        console = make_console(quiet=quiet, json=as_json)
    return _say_end(runs, console, as_json)


def _run_folds(
    system: Any,
    source: Any,
    arguments: dict[str, Any],
    seeds: int,
    overrides: dict[str, Any],
    console: Any,
    as_json: bool,
) -> None:
    """`--folds`: every fold's run, then the run itself."""
    from fourfold.core.sources import command_line
    from fourfold.selection.folds import cross_validate

    if "folds" not in arguments:
        raise UserError("--repeats goes with --folds")
    given = [k for k in ("valid", "from_", "dry_run", "tensorboard") if arguments.pop(k, None)]
    if seeds > 1:
        raise UserError("--folds with --seeds: --repeats does both, each time with another seed")
    if given:
        name = given[0].rstrip("_").replace("_", "-")
        raise UserError(
            f"--folds holds out each fold of the rows in turn, so --{name} does not go with it"
        )
    found = cross_validate(
        system, source, console=console, command=command_line(), **arguments, **overrides
    )
    if as_json:
        import json

        summary = {n: {"mean": m, "deviation": d} for n, (m, d) in found.summary.items()}
        told = {"event": "end", "runs": [str(found.run.folder)], "folds": summary}
        print(json.dumps(told), flush=True)
        return
    for line in str(found).splitlines():
        console.say(line)
    _say_end([found.run], console, as_json)


def _say_end(runs: list[Any], console: Any, as_json: bool) -> None:
    from fourfold.core.system import verbs

    run = runs[-1]
    if not run.ranks.main:
        return
    last = {}
    results = [_final(r) for r in runs]
    for key in results[0]:
        values = [r[key] for r in results if key in r]
        last[key] = (
            statistics.fmean(values),
            statistics.stdev(values) if len(values) > 1 else None,
        )
    if as_json:
        import json

        print(
            json.dumps({"event": "end", "runs": [str(r.folder) for r in runs], "results": results}),
            flush=True,
        )
        return
    for key, (mean, deviation) in last.items():
        spread = f" ± {deviation:.3g} over {len(runs)} seeds" if deviation is not None else ""
        console.say(f"{key}: {mean:.5g}{spread}")
    for each in runs:
        console.say(f"The run is in {each.folder}; its report: {each.folder}/report.html")
    offered = [v for v in ("generate", "predict", "sample", "evaluate") if v in verbs(run.system)]
    console.say(
        f"Next: fourfold {offered[0] if offered else 'show'} {run.folder} ...   (its verbs: {', '.join(verbs(run.system))})"
    )


def _final(run: Any) -> dict[str, float]:
    """The best of each validation measure, or the last training loss."""
    from fourfold.core.metrics import best_line

    row = best_line(run.metrics.lines)
    if row is not None:
        return {k: v for k, v in row.items() if k.startswith("valid.")}
    last = run.metrics.lines[-1] if run.metrics.lines else {}
    return {k: v for k, v in last.items() if k.endswith("loss")}


def _say_plan(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps(plan))
        return
    print(f"{plan['system']}: {plan['parameters']:,} parameters")
    print("examples: " + ", ".join(f"{k} {v:,}" for k, v in plan["examples"].items()))
    from fourfold.optimizers.memory import in_words as bytes_in_words

    memory = plan["memory"]
    for kind, size in {**memory, "together": sum(memory.values())}.items():
        print(f"memory, {kind}: {bytes_in_words(size)}")
    if "seconds_per_step" in plan:
        print(
            f"a step: {1000 * plan['seconds_per_step']:.3g} ms; {plan['steps']:,} steps in about {plan['seconds'] / 60:.3g} minutes"
        )
    for note in plan["notes"]:
        print(note)
