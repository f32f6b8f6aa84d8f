"""The life of a fit: configured, begun in its folder, searched, finished. `fourfold.api` is what users call."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fourfold.core.console import heard
from fourfold.core.device import seed_generators
from fourfold.core.errors import Interrupted, UserError, nearest
from fourfold.core.folders import new_folder
from fourfold.core.jobs import agree_on_data
from fourfold.core.options import merge, parts_of
from fourfold.core.parts import Data
from fourfold.core.registry import index, load_system, register
from fourfold.core.run import Run
from fourfold.core.sources import stored
from fourfold.core.state import latest_checkpoint, load_weights, refused
from fourfold.core.system import System

if TYPE_CHECKING:
    from fourfold.look.events import EventLog


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


def other_run(from_: Any) -> Run | None:
    if from_ is None or isinstance(from_, Run):
        return from_
    return Run.open(os.fspath(from_))


def base_of(cls: Any, other: Run | None) -> System | None:
    """What a run begun from another starts its options from: all of them, or those of its data."""
    if other is None or not (isinstance(cls, type) and issubclass(cls, System)):
        return None
    if type(other.system) is cls:
        return other.system
    taken = dict(cls.inherits(other))
    if parts_of(cls.model_fields["data"].annotation) == (type(other.system.data),):
        taken["data"] = other.system.data
    return merge(cls, taken, where=f"--from {other.folder}") if taken else None


def configured_from(
    cls: type[System] | System, options: dict[str, Any], size: str | None, other: Run | None
) -> System:
    """A configured system with what it takes over from the run that it begins from, or that prepares its data.

    Raises:
        UserError: as `configure`, or an option contradicts that preparation.
    """
    configured = configure(cls, options, size, base_of(cls, other))
    if other is not None:
        _keeps_preparation(configured, other, "--from")
        return configured
    guide = other_run(configured.prepared_by())
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


def fresh_folder(name: str, out: Any) -> Path | None:
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


def begin(run: Run, source: Any, valid: Any) -> None:
    """Open the data, build the model, write the configuration."""
    other = other_run(run.about.get("from"))
    began = time.perf_counter()
    seed_generators(run.seed, run.device)
    if other is not None:
        run.system.accepts(other)
    guide = other if other is not None else other_run(run.system.prepared_by())
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
    build(run)
    if run.folder is not None:
        with room_in(run.folder):
            run.folder.mkdir(parents=True, exist_ok=True)
            run.data.save(run.folder / "data")
    run.save_configuration()  # last: what has a system.toml can be resumed
    for sentence in run.data.summary().get("notes", ()):
        run.note(sentence)
    run.system.begin(run)


def build(run: Run) -> None:
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


def search(run: Run, tensorboard: bool, search: Callable[[Run], None] | None = None) -> Run:
    events = _events(run) if tensorboard else None
    began = time.perf_counter()
    try:
        run.about["finished"] = False
        with room_in(run.common):
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
def room_in(folder: Path | None) -> Iterator[None]:
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
    keep_beside(run)
    from fourfold.look.report import of, write

    write(run.folder / "report.html", of(run))


def keep_beside(run: Run) -> None:
    """What the system keeps beside the weights, from the model as verbs see it."""
    with room_in(run.folder), torch.no_grad():
        run.system.finish(run)


def say_differences(run: Run) -> None:
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
