"""Fitting and opening runs from Python; the command line, the page and the estimators call the same."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fourfold import fitting
from fourfold.core.console import Console, heard
from fourfold.core.errors import UserError, nearest
from fourfold.core.jobs import (
    agree_on_data,
    begin_together,
    restarted,
    spread_over,
    told_folder,
)
from fourfold.core.metrics import Metrics
from fourfold.core.options import merge
from fourfold.core.parts import Data
from fourfold.core.ranks import Parallel, join
from fourfold.core.registry import Entry, index, load_system
from fourfold.core.run import Run
from fourfold.core.sources import changed_files, describe, timestamp
from fourfold.core.state import load_weights, save_weights
from fourfold.core.system import System
from fourfold.fitting import configure

BUDGET = {"steps", "epochs", "minutes"}


def list_systems() -> dict[str, Entry]:
    """Every system by name: what it reads, its verbs, its source."""
    return index()


def open(
    run: str | os.PathLike[str], *, device: str | None = None, timeout: float | None = None
) -> Run:
    """Open a run folder, or `last`, or a model of somebody else's; its verbs are methods.

    Args:
        run: a folder; or `ollama:NAME`, the address of a server with OpenAI's API (`http://HOST:PORT/v1#MODEL`), or
            `FILE.gguf`, which becomes a run in memory, or is run by llama-cpp-python where our own model cannot hold it.
        device: where a run is used.
        timeout: seconds without a byte after which a server is given up; None takes FOURFOLD_TIMEOUT, or 120.

    Raises:
        UserError: no such run, or damaged, or written by a newer version; no such server or model.
    """
    from fourfold.core.addresses import address

    found = address(os.fspath(run))
    if found is None:
        return Run.open(os.fspath(run), device=device)
    from fourfold.tasks.foreign import foreign, has_llama

    if found.kind != "gguf":
        return foreign(found, timeout=timeout)
    try:
        return _of_gguf(Path(found.base), device or "auto")
    except UserError:
        if not has_llama() or not Path(found.base).is_file():
            raise
        return foreign(found)


def _of_gguf(path: Path, device: str) -> Run:
    """A GGUF file as a run in memory; one that has a chat template converses."""
    run = import_(path, out=False, device=device)
    run.about["address"] = str(path)
    vocabulary = getattr(run.data, "vocabulary", None)
    if getattr(vocabulary, "chat_template", None) is None:
        return run
    conversing = load_system("sft")
    system = merge(conversing, dict(conversing.inherits(run)))
    made = Run(system, device=device, about=run.about)
    made.data = system.data.prepared(run.data)  # type: ignore[attr-defined]
    made.model = run.model
    return made


def save(run: Run, folder: str | os.PathLike[str]) -> Path:
    """Write a run that was fitted in memory as a run folder; from here on it lives there.

    Raises:
        UserError: the run has a folder already, the folder holds a run, or it cannot be written.
    """
    if run.folder is not None:
        raise UserError(f"this run is in {run.folder} already")
    model = run.model
    place = fitting.fresh_folder(run.system.name, folder)
    assert place is not None  # noqa: S101
    with fitting.room_in(place):
        place.mkdir(parents=True, exist_ok=True)
        run.folder = place
        lines, run.metrics = run.metrics.lines, Metrics(place / "metrics.jsonl")
        run.metrics.lines = lines
        run.metrics.cut(len(lines))
        run.data.save(place / "data")
        save_weights(place / "weights.safetensors", model)
        run.save_configuration()
        fitting.keep_beside(run)
        from fourfold.look.report import of, write

        write(place / "report.html", of(run))
    return place


def fit(
    system: str | type[System] | System,
    source: Any = None,
    *,
    out: str | os.PathLike[str] | bool | None = None,
    seed: int = 0,
    valid: Any = None,
    size: str | None = None,
    device: str = "auto",
    from_: str | os.PathLike[str] | Run | None = None,
    parallel: Parallel | dict[str, Any] | None = None,
    tensorboard: bool = False,
    console: Console | None = None,
    command: str | None = None,
    **options: Any,
) -> Run:
    """Fit a system to data and return the run, with its verbs as methods.

    Processes that torchrun started fit one run together; each gets it back.

    Args:
        system: a name (`fourfold list`), a System class, or a configured system.
        source: paths, globs, catalog names or in-memory data; None takes the embedded default.
        out: the run's folder; None makes `runs/<system>-<n>`; False keeps the run in memory.
        seed: fixes split, order, initial weights and noise.
        valid: sources of the validation split, if it is a file of its own.
        size: a preset of the system's; explicit options win over it.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        from_: a run whose weights and preparation to begin from, under a new schedule.
        parallel: how the fit is spread over processes, by the fields of `core.ranks.Parallel`.
        tensorboard: also write TensorBoard event files.
        console: where progress is said; silent by default.
        command: the command line to record in the report.
        options: fields by full or short name: minutes=5, optimizer={"lr": 3e-4}, **{"data.unit": "byte"}.

    Raises:
        UserError: something about the input, an option or the output folder is wrong.
    """
    ranks = join()
    spread = spread_over(ranks, parallel)
    if (begun := restarted(ranks, out)) is not None:
        return resume(
            begun, device=device, console=console, parallel=spread, tensorboard=tensorboard
        )
    other = fitting.other_run(from_)
    cls = load_system(system) if isinstance(system, str) else system
    configured = fitting.configured_from(cls, options, size, other)
    run = Run(
        configured,
        folder=told_folder(ranks, lambda: fitting.fresh_folder(configured.name, out)),
        sources=source,
        valid=valid,
        seed=seed,
        device=device,
        about={"created": timestamp(), "command": command or _python_call(configured.name, source)},
    )
    if console is not None:
        run.console = console
    if other is not None and other.folder is not None:
        run.about["from"] = str(other.folder.resolve())
    begin_together(run, ranks, spread)
    fitting.begin(run, source, valid)
    return fitting.search(run, tensorboard)


def import_(
    path: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | bool | None = None,
    system: str | None = None,
    base: str | os.PathLike[str] | None = None,
    device: str = "auto",
    console: Console | None = None,
    command: str | None = None,
) -> Run:
    """Make a run of what another program wrote, with the verbs of the system that reads it.

    Args:
        path: the file or folder.
        out: the run's folder; None makes `runs/<system>-<n>`; False keeps the run in memory.
        system: which system reads it; None takes the one that recognizes it.
        base: the folder or run that it adds to, where it is no whole model, as adapters; None takes what it names.
        device: where the run is used.
        console: where progress is said; silent by default.
        command: the command line to record in the report.

    Raises:
        UserError: there is no such file, no system reads it, or it is damaged.
    """
    place = Path(path)
    if not place.exists():
        beside = [str(p) for p in place.parent.glob("*")] if place.parent.is_dir() else []
        raise UserError(f"{place}: no such file or folder{nearest(str(place), beside)}")
    cls = _reader(place, system)
    folder = fitting.fresh_folder(cls.name, out)
    further = {} if base is None else {"base": Path(base)}
    if further and "base" not in inspect.signature(cls.imported).parameters:
        raise UserError(f"--base {base}: what {cls.name} reads stands alone")
    configured, data, model, notes = cls.imported(place, **further)
    about = {
        "created": timestamp(), "command": command or f"fourfold.import_({str(path)!r}, ...)",
        "imported": str(place.resolve()),
    }  # fmt: skip
    run = Run(configured, device=device, about=about)
    if console is not None:
        run.console = console
    run.data, run.model = data, model.to(run.device).eval()
    run.objective = configured.objective.prepare(run)
    for sentence in notes:
        run.note(sentence)
    if folder is not None:
        save(run, folder)
    return run


def _reader(path: Path, system: str | None) -> type[System]:
    """The system that makes a run of a file."""
    able = {name: entry.imports for name, entry in index().items() if entry.imports}
    if system is not None:
        cls = load_system(system)
        if not cls.imports:
            raise UserError(f"--system {system}: imports nothing; these do: {', '.join(able)}")
        return cls
    for name in able:
        cls = load_system(name)
        if cls.recognizes(path):
            return cls
    known = "; ".join(f"{name} reads {what}" for name, what in able.items())
    raise UserError(f"{path}: no system recognizes it ({known})")


def resume(
    name: str | os.PathLike[str],
    *,
    system: str | None = None,
    device: str | None = None,
    source: Any = None,
    console: Console | None = None,
    parallel: Parallel | dict[str, Any] | None = None,
    tensorboard: bool = False,
    **options: Any,
) -> Run:
    """Go on exactly where a run was stopped; on another number of processes up to the rounding of sums.

    Args:
        name: the run.
        system: what the user believes it is, to be checked.
        device: where to go on; may differ from before.
        source: the data again, where it was in memory only.
        parallel: as for `fit`; may differ from before.
        options: a changed budget; any other changed option is refused.

    Raises:
        UserError: no such run, another system, a changed option, a changed source, a damaged checkpoint.
    """
    ranks = join()
    spread = spread_over(ranks, parallel)
    run = Run.open(os.fspath(name), device=device)
    if system is not None and system != run.system.name:
        raise UserError(f"{run.folder}: is a run of {run.system.name}, not of {system}")
    if console is not None:
        run.console = console
    changed = merge(type(run.system), options, base=run.system)
    for path, before, after in fitting.differences(run.system.model_dump(), changed.model_dump()):
        if path.split(".")[-1] not in BUDGET:
            raise UserError(
                f"--resume goes on exactly, so {path} stays {before!r} (got {after!r}); "
                f"for other options begin a new run on the old weights: --from {run.folder}"
            )
    run.system = changed
    if source is not None:
        run.sources = source
    elif run.about.get("imported"):
        raise UserError(
            f"{run.folder}: was imported, there is nothing to go on with; begin a new run on its weights: --from {run.folder}"
        )
    elif run.about.get("in_memory"):
        raise UserError(f"{run.folder}: was fitted on data in memory; give the data to go on with")
    prepared = run.data
    begin_together(run, ranks, spread)
    fitting.say_differences(run)
    with heard(run.console):
        data = prepared.reopen(run.sources, seed=run.seed, valid=run.valid)
    if prepared.fingerprint and data.fingerprint != prepared.fingerprint:
        raise UserError(
            f"{run.common}: its source {describe(run.sources)} has changed since it was fitted"
            f"{changed_files(prepared.digests, data.digests)}, so it cannot go on exactly; begin a new run on the old weights: --from {run.common}"
        )
    run.data = data
    agree_on_data(ranks, data)
    run.about.pop("finished", None)  # until it says so anew
    run.save_configuration()
    fitting.build(run)
    return fitting.search(run, tensorboard)


def update(run: Run, data: Data, search: Callable[[Run], None] | None = None) -> Run:
    """Search again in a run's own folder, on other data of the same preparation: a knowledge base brought up to date.

    Args:
        run: opened; the configuration stays.
        data: what to search on.
        search: what is done instead of the optimizer's own search.

    Raises:
        UserError: as the search itself.
    """
    run.data = data
    fitting.build(run)
    if run.folder is not None and (run.folder / "weights.safetensors").exists():
        load_weights(run.folder / "weights.safetensors", run.model)
    return fitting.search(run, False, search)


def _python_call(name: str, source: Any) -> str:
    shown = "" if source is None else f", {describe(source)!r}"
    return f"fourfold.fit({name!r}{shown}, ...)"


def plan(
    system: str | type[System] | System, source: Any = None, *, steps: int = 5, **arguments: Any
) -> dict[str, Any]:
    """What a fit would take: memory by kind and seconds per step, measured on a few steps in memory.

    Args:
        system: as for `fit`.
        source: as for `fit`.
        steps: how many steps to time.
        arguments: the other arguments of `fit` (out, console and command are not used).
    """
    from fourfold.optimizers.gradient import Gradient
    from fourfold.optimizers.memory import estimate
    from fourfold.optimizers.search import Search

    keep = {k: arguments.pop(k, None) for k in ("valid", "size", "device", "seed", "from_")}
    for name in ("out", "console", "command", "tensorboard"):
        arguments.pop(name, None)
    other = fitting.other_run(keep["from_"])
    cls = load_system(system) if isinstance(system, str) else system
    configured = fitting.configured_from(cls, arguments, keep["size"], other)
    run = Run(
        configured,
        sources=source,
        valid=keep["valid"],
        seed=keep["seed"] or 0,
        device=keep["device"] or "auto",
    )
    if other is not None and other.folder is not None:
        run.about["from"] = str(other.folder)
    fitting.begin(run, source, keep["valid"])
    parameters = sum(p.numel() for p in run.model.parameters())
    result: dict[str, Any] = {
        "system": configured.name,
        "parameters": parameters,
        "examples": {s: run.data.size(s) for s in ("train", "valid", "test")},
        "notes": run.notes,
    }
    config = run.system.optimizer
    if not isinstance(config, Gradient):
        result["memory"] = {"weights": 4 * parameters}
        return result
    result["memory"] = estimate(config, run.objective, run.model, run.data, run.device)
    search = Search(config, run.objective, run.model, run.data, run)
    times = []
    run.model.train()
    for batches, _ in zip(search._batches(), range(steps), strict=False):
        began = time.perf_counter()
        search.step(batches)
        if run.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    result["seconds_per_step"] = sorted(times)[len(times) // 2]
    if search.budget.steps:
        result["steps"] = search.budget.steps
        result["seconds"] = search.budget.steps * result["seconds_per_step"]
    else:
        result["seconds"] = 60 * (search.budget.minutes or 0)
        result["steps"] = int(result["seconds"] / result["seconds_per_step"])
    return result


__all__ = ["configure", "fit", "import_", "list_systems", "open", "plan", "resume"]
