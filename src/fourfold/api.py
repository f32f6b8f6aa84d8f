"""Fitting and opening runs from Python; the command line, the page and the estimators call the same."""

from __future__ import annotations

import contextlib
import inspect
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fourfold.core.console import Console, heard
from fourfold.core.device import seed_generators
from fourfold.core.errors import Interrupted, UserError, nearest
from fourfold.core.folders import new_folder
from fourfold.core.jobs import (
    agree_on_data,
    begin_together,
    restarted,
    spread_over,
    told_folder,
)
from fourfold.core.metrics import Metrics
from fourfold.core.options import merge, parts_of
from fourfold.core.parts import Data
from fourfold.core.ranks import Parallel, join
from fourfold.core.registry import Entry, index, load_system, register
from fourfold.core.run import Run
from fourfold.core.sources import changed_files, describe, stored, timestamp
from fourfold.core.state import latest_checkpoint, load_weights, refused, save_weights
from fourfold.core.system import System

if TYPE_CHECKING:
    from fourfold.look.events import EventLog

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
    place = _fresh_folder(run.system.name, folder)
    assert place is not None  # noqa: S101
    with _room_in(place):
        place.mkdir(parents=True, exist_ok=True)
        run.folder = place
        lines, run.metrics = run.metrics.lines, Metrics(place / "metrics.jsonl")
        run.metrics.lines = lines
        run.metrics.cut(len(lines))
        run.data.save(place / "data")
        save_weights(place / "weights.safetensors", model)
        run.save_configuration()
        _keep(run)
        from fourfold.look.report import of, write

        write(place / "report.html", of(run))
    return place


def configure(
    system: str | type[System] | System,
    options: dict[str, Any],
    size: str | None = None,
    base: System | None = None,
) -> System:
    """A configured system: defaults, then the preset of a size, then explicit options.

    Raises:
        UserError: an unknown system, size or option, or a value out of range.
    """
    if isinstance(system, System):
        cls, base = type(system), system
    else:
        cls = load_system(system) if isinstance(system, str) else system
    if cls.name not in index():
        register(cls)  # so that its runs can be opened again in this process
    if size is not None:
        if size not in cls.sizes:
            hint = nearest(size, cls.sizes) if cls.sizes else "; it has no sizes"
            raise UserError(f"--size {size}: {cls.name} has no such size{hint}")
        base = merge(cls, cls.sizes[size], base=base, where=f"size {size}")
    return merge(cls, options, base=base)


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
    other = _other(from_)
    cls = load_system(system) if isinstance(system, str) else system
    configured = _configured(cls, options, size, other)
    run = Run(
        configured,
        folder=told_folder(ranks, lambda: _fresh_folder(configured.name, out)),
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
    _begin(run, source, valid)
    return _search(run, tensorboard)


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
    folder = _fresh_folder(cls.name, out)
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
    for path, before, after in differences(run.system.model_dump(), changed.model_dump()):
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
    _say_differences(run)
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
    _build(run)
    return _search(run, tensorboard)


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
    _build(run)
    if run.folder is not None and (run.folder / "weights.safetensors").exists():
        load_weights(run.folder / "weights.safetensors", run.model)
    return _search(run, False, search)


def _other(from_: Any) -> Run | None:
    if from_ is None or isinstance(from_, Run):
        return from_
    return Run.open(os.fspath(from_))


def _base(cls: Any, other: Run | None) -> System | None:
    """What a run begun from another starts its options from: all of them, or those of its data."""
    if other is None or not (isinstance(cls, type) and issubclass(cls, System)):
        return None
    if type(other.system) is cls:
        return other.system
    taken = dict(cls.inherits(other))
    if parts_of(cls.model_fields["data"].annotation) == (type(other.system.data),):
        taken["data"] = other.system.data
    return merge(cls, taken, where=f"--from {other.folder}") if taken else None


def _configured(
    cls: type[System] | System, options: dict[str, Any], size: str | None, other: Run | None
) -> System:
    """A configured system with what it takes over from the run that it begins from, or that prepares its data.

    Raises:
        UserError: as `configure`, or an option contradicts that preparation.
    """
    configured = configure(cls, options, size, _base(cls, other))
    if other is not None:
        _keeps_preparation(configured, other, "--from")
        return configured
    guide = _other(configured.prepared_by())
    if guide is None or type(guide.system.data) is not type(configured.data):
        return configured
    if isinstance(cls, type):  # what a configured system says of its data is asked for
        theirs, loose = guide.system.data.model_dump(), configured.data.loose
        taken = {f"data.{name}": value for name, value in theirs.items() if name not in loose}
        configured = configure(cls, options, size, merge(cls, taken, where=str(guide.folder)))
    _keeps_preparation(configured, guide, "--teacher")
    return configured


def _keeps_preparation(configured: System, other: Run, who: str) -> None:
    """Refuse options that the preparation taken over from another run would silently ignore."""
    if type(other.system.data) is not type(configured.data):
        return
    before, after = other.system.data.model_dump(), configured.data.model_dump()
    for path, was, now in differences(before, after):
        if path.split(".")[0] not in configured.data.loose:
            raise UserError(
                f"{who} takes over how {other.folder} prepared its data, so data.{path} stays {was!r} (got {now!r})"
            )


def _keeps_vocabulary(system: System, other: Run, who: str) -> None:
    """Refuse options of a vocabulary that would be silently ignored, as that of a run of another kind is taken over."""
    vocabulary = getattr(other.data, "vocabulary", None)
    if vocabulary is None:
        return
    usual = type(system).model_fields["data"].default
    if type(usual) is not type(system.data):
        usual = type(system.data)()
    same = {"unit": vocabulary.unit, "vocabulary": len(vocabulary)}
    for path, _, now in differences(usual.model_dump(), system.data.model_dump()):
        if path in system.data.of_vocabulary and now != same.get(path):
            raise UserError(
                f"{who} takes over the vocabulary of {other.folder}, {len(vocabulary):,} entries of unit {vocabulary.unit}, "
                f"so data.{path} {now!r} would be without effect; leave it out"
            )


def _fresh_folder(name: str, out: Any) -> Path | None:
    if out is False:
        return None
    folder = new_folder(name) if out is None or out is True else Path(out)
    if (folder / "system.toml").exists():
        raise UserError(
            f"{folder}: holds a run already; --resume {folder} goes on with it, another --out begins a new one"
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; --out names a folder")
    parent = folder if folder.exists() else next(p for p in folder.absolute().parents if p.exists())
    if not parent.is_dir():
        raise UserError(f"{folder}: {parent} is a file; --out names a folder")
    if not os.access(parent, os.W_OK):
        raise UserError(f"{folder}: no permission to write in {parent}")
    return folder


def _begin(run: Run, source: Any, valid: Any) -> None:
    """Open the data, build the model, write the configuration."""
    other = _other(run.about.get("from"))
    began = time.perf_counter()
    seed_generators(run.seed, run.device)
    if other is not None:
        run.system.accepts(other)
    guide = other if other is not None else _other(run.system.prepared_by())
    data: Data | None = None
    with heard(run.console):
        if guide is not None and guide.folder is not None:
            if type(guide.system.data) is type(run.system.data):
                prepared = run.system.data.restore(guide.folder / "data")
                data = prepared.reopen(source, seed=run.seed, valid=valid)
            else:
                data = run.system.data.adopt(guide.data, source, seed=run.seed, valid=valid)
                if data is not None:
                    _keeps_vocabulary(run.system, guide, "--teacher" if other is None else "--from")
        if data is None:
            data = run.system.data.open(source, seed=run.seed, valid=valid)
    run.data = data
    agree_on_data(run.ranks, data)
    run.about["data_seconds"] = round(time.perf_counter() - began, 3)
    if source is not None and run.sources is not None:
        if stored(source) is None:
            run.about["in_memory"] = True
    run.device  # noqa: B018  # an unknown device is an error before anything is written
    run.system = run.system.suited(run)
    _build(run)
    if run.folder is not None:
        with _room_in(run.folder):
            run.folder.mkdir(parents=True, exist_ok=True)
            run.data.save(run.folder / "data")
    run.save_configuration()  # last: what has a system.toml can be resumed
    for sentence in run.data.summary().get("notes", ()):
        run.note(sentence)
    run.system.begin(run)


def _build(run: Run) -> None:
    seed_generators(run.seed, run.device)
    try:
        model = run.system.build(run.data).to(run.device)
    except RuntimeError as error:  # torch has no class of its own for it on a CPU
        if not any(words in str(error) for words in ("allocate memory", "out of memory")):
            raise
        raise UserError(
            f"{run.system.name}: the model's weights alone take more memory than there is; make it smaller"
        ) from error
    origin = run.about.get("from")
    if origin and not (run.common and latest_checkpoint(run.common / "checkpoints")):
        other = Run.open(origin)
        try:
            run.system.take_over(model, other)
        except UserError as error:
            raise UserError(f"--from {origin} (a run of {other.system.name}): {error}") from error
    run.model = model
    run.objective = run.system.objective.prepare(run)
    # what building draws depends on the model; the search begins from a state of its own
    seed_generators(run.seed + 1, run.device)


def _search(run: Run, tensorboard: bool, search: Callable[[Run], None] | None = None) -> Run:
    events = _events(run) if tensorboard else None
    began = time.perf_counter()
    try:
        run.about["finished"] = False
        with _room_in(run.common):
            if search is not None:
                search(run)
            else:
                run.system.optimizer.minimize(run.objective, run.model, run.data, run)
        run.about["finished"] = True
    except Interrupted:
        _finish(run, began)
        raise
    finally:
        if events is not None:
            events.close()
    _finish(run, began)
    return run


@contextlib.contextmanager
def _room_in(folder: Path | None) -> Iterator[None]:
    """Say in one sentence that a file could not be written for want of space or permission."""
    try:
        yield
    except OSError as error:
        why = refused(error)
        if why is None and isinstance(error, FileNotFoundError):
            why = "this folder cannot be made"
        if why is None or folder is None:
            raise
        raise UserError(f"{error.filename or folder}: {why} to write in") from error


def _events(run: Run) -> EventLog:
    from fourfold.look.events import EventLog

    if run.folder is None:
        raise UserError("--tensorboard needs a folder to write to; this run lives in memory")
    events = EventLog(run.folder)
    run.metrics.watchers.append(events.log)
    return events


def _finish(run: Run, began: float) -> None:
    """The best weights into the model, timings into the configuration, the report."""
    run.about["fit_seconds"] = round(
        run.about.get("fit_seconds", 0.0) + time.perf_counter() - began, 3
    )
    if not run.ranks.main:
        return
    if run.ranks.several and (run.parallel.shard or run.parallel.tensor > 1):
        run.model = run.system.build(run.data).to(run.device)  # the searched one is in parts
    if run.folder is None:
        if run.best is not None:
            run.model.load_state_dict(run.best)
        run.model.eval()
        return
    weights = run.folder / "weights.safetensors"
    if not run.about["finished"] and not weights.exists():
        run.save_configuration()  # stopped before there was anything to keep
        return
    load_weights(weights, run.model)
    run.model.eval()
    run.save_configuration()
    _keep(run)
    from fourfold.look.report import of, write

    write(run.folder / "report.html", of(run))


def _keep(run: Run) -> None:
    """What the system keeps beside the weights, from the model as verbs see it."""
    with _room_in(run.folder), torch.no_grad():
        run.system.finish(run)


def _say_differences(run: Run) -> None:
    import platform

    now = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
    }
    differing = [
        f"{k} was {run.about[k]} and is {v}" for k, v in now.items() if run.about.get(k, v) != v
    ]
    if differing:
        run.note(f"Going on under other conditions, so not bit for bit: {', '.join(differing)}.")


def differences(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two trees of options differ: path, before, after."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            yield from differences(
                before.get(key), after.get(key), f"{path}.{key}" if path else key
            )
    elif before != after:
        yield path, before, after


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
    other = _other(keep["from_"])
    cls = load_system(system) if isinstance(system, str) else system
    configured = _configured(cls, arguments, keep["size"], other)
    run = Run(
        configured,
        sources=source,
        valid=keep["valid"],
        seed=keep["seed"] or 0,
        device=keep["device"] or "auto",
    )
    if other is not None and other.folder is not None:
        run.about["from"] = str(other.folder)
    _begin(run, source, keep["valid"])
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
