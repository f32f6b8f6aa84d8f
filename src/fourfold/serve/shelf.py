"""Which runs are served, in what state each is, and those that are open.

A shelf is given run folders and folders of runs; the latter are looked through again each time, so
that a run which appears, goes on or ends while the server runs is seen. Nothing is read twice that
has not changed, and nothing is ever written here.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fourfold.core.addresses import address
from fourfold.core.errors import UserError, nearest
from fourfold.core.folders import migrated, read_toml, whole
from fourfold.core.registry import load_system
from fourfold.core.run import Run
from fourfold.core.system import verbs
from fourfold.serve.logs import Log, newest

log = logging.getLogger("fourfold.serve")
State = Literal["running", "finished", "stopped", "damaged", "waiting"]
FRESH = 60.0
"""Seconds after its last sign that a fit counts as running, or five times as long as between its signs."""
BEGUN = 600.0
"""Seconds that a fit has until its first sign."""
SIGNS = ("metrics.jsonl", "progress.bin", "checkpoints", "system.toml")


class NoSuchRun(UserError):
    """No run of this name is served: 404."""


class NotReady(UserError):
    """A run that is damaged, or has no weights yet: 409."""


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run without opening it."""

    name: str
    folder: Path
    system: str = "?"
    state: State = "damaged"
    reason: str = ""
    """Why it is damaged, or what it waits for."""
    created: str = ""
    steps: int = 0
    seconds: float = 0.0
    """Of training."""
    last: dict[str, float] = dataclasses.field(default_factory=dict)
    """The newest value of each number in the log's end."""
    verbs: tuple[str, ...] = ()
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    """`system.toml` without its options."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    ready: bool = False
    """Whether it has weights, so that its verbs can be asked."""
    pace: float = 0.0
    """Seconds between its last signs of life, evaluations included."""


@dataclass
class _Open:
    run: Run
    stamp: tuple[Any, ...]


class Shelf:
    """The runs that a server serves.

    Args:
        paths: run folders and folders of runs.
        keep: runs that are held open at once.

    Raises:
        UserError: no such folder, nothing that could hold a run, or two runs of one name.
    """

    def __init__(self, paths: Iterable[str | Path], keep: int = 8) -> None:
        paths = list(paths)
        self.paths = [Path(p) for p in paths]
        self.keep = keep
        if not self.paths:
            raise UserError("no run to serve: expected run folders, or a folder of runs")
        for path, name in zip(self.paths, paths, strict=True):
            if address(str(name)) is not None:
                raise UserError(
                    f"{name}: a model of somebody else's, which its own server serves; expected run folders"
                )
            if not path.is_dir():
                beside = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
                raise UserError(f"{path}: no such folder{nearest(str(path), beside)}")
        self.alive: Callable[[str], bool | None] = lambda name: None
        """Whether a run is being fitted, where that is known for sure; otherwise its files tell."""
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[tuple[Any, ...], RunInfo]] = {}
        self._logs: dict[Path, Log] = {}
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._opening: dict[str, threading.Lock] = {}
        self._places: dict[str, Path] = {}
        self._twice: dict[str, tuple[Path, Path]] = {}
        self._look()
        if self._twice:
            first, second = next(iter(self._twice.values()))
            raise UserError(
                f"{first} and {second}: two runs of the name {first.name}; rename one, or serve one of them"
            )

    @property
    def folder(self) -> Path | None:
        """Where new runs go: the first folder of runs; None if only single runs are served."""
        return next((p for p in self.paths if not _is_run(p)), None)

    def _look(self) -> None:
        """Find the folders by name, and those names that two folders have."""
        found: dict[str, Path] = {}
        twice: dict[str, tuple[Path, Path]] = {}
        for path in self.paths:
            for folder in [path] if _is_run(path) else _runs_in(path):
                name = folder.resolve().name
                if name in found and found[name].resolve() != folder.resolve():
                    twice.setdefault(name, (found[name], folder))
                found.setdefault(name, folder)
        self._places, self._twice = found, twice

    def names(self) -> list[str]:
        """Every run's name, sorted."""
        self._look()
        return sorted(self._places)

    def folder_of(self, name: str) -> Path:
        """The folder of a run.

        Raises:
            NoSuchRun: there is none; the nearest is offered.
        """
        if name not in self._places or not _is_run(self._places[name]):
            self._look()
        if name not in self._places:
            raise NoSuchRun(f"{name[:80]}: no such run here{nearest(name[:80], self._places)}")
        return self._places[name]

    def status(self, name: str) -> RunInfo:
        """One run, as its folder is now.

        Raises:
            NoSuchRun: there is none.
        """
        return self._status(name, self.folder_of(name))

    def all(self) -> list[RunInfo]:
        """Every run, newest first."""
        self._look()
        infos = [self._status(name, folder) for name, folder in self._places.items()]
        return sorted(infos, key=lambda i: (i.created, i.name), reverse=True)

    def _status(self, name: str, folder: Path) -> RunInfo:
        stamps = _stamps(folder)
        with self._lock:
            stamp, info = self._known.get(folder, ((), RunInfo(name, folder)))
        if stamp != stamps:
            info = _read(name, folder)
            with self._lock:
                self._known[folder] = (stamps, info)
        if name in self._twice:
            first, second = self._twice[name]
            text = f"{second} has the same name; only {first} is served"
            info = dataclasses.replace(info, reason="; ".join(filter(None, [info.reason, text])))
        return _as_of_now(info, stamps, self.alive(name))

    def log(self, name: str) -> Log:
        """The log of a run, kept and continued from call to call.

        Raises:
            NoSuchRun: there is none.
        """
        folder = self.folder_of(name)
        with self._lock:
            return self._logs.setdefault(folder, Log(folder / "metrics.jsonl"))

    def open(self, name: str) -> Run:
        """A run with its weights; opened once, and again when they have changed.

        Raises:
            NoSuchRun: there is none.
            NotReady: it is damaged or has no weights yet.
        """
        info = self.status(name)
        if not info.ready:
            raise NotReady(f"{name}: {info.reason}")
        with self._lock:
            opening = self._opening.setdefault(name, threading.Lock())
        with opening:
            stamps, stamp = _stamps(info.folder), _weights(info.folder)
            held = self._open.get(name)
            if held is None or held.stamp != stamp:
                try:
                    run = Run.open(info.folder)
                    run.model  # noqa: B018  # weights that do not open are said here, not by a verb
                except Exception as error:  # a damaged file may raise anything
                    reason = str(error)
                    if not isinstance(error, UserError):
                        log.warning("the run %s cannot be opened", name, exc_info=True)
                        reason = f"cannot be opened ({type(error).__name__}: {error})"
                    self._damaged(info, stamps, reason)
                    raise NotReady(f"{name}: {reason}") from error
                held = _Open(run, stamp)
        with self._lock:
            self._open[name] = held
            self._open.move_to_end(name)
            while len(self._open) > self.keep:
                self._open.popitem(last=False)  # whoever works with it keeps it until done
        return held.run

    def _damaged(self, info: RunInfo, stamps: tuple[Any, ...], reason: str) -> None:
        """Show a run as damaged until its files change."""
        worse = dataclasses.replace(info, state="damaged", reason=reason, ready=False)
        with self._lock:
            self._known[info.folder] = (stamps, worse)

    @property
    def opened(self) -> int:
        """Runs that are held open."""
        return len(self._open)


def _is_run(path: Path) -> bool:
    return (path / "system.toml").is_file()


def _runs_in(folder: Path) -> list[Path]:
    try:
        return sorted(p.parent for p in folder.glob("*/system.toml"))
    except OSError:  # one that vanished meanwhile
        return []


def _stamps(folder: Path) -> tuple[Any, ...]:
    """What of a run changes when it does: time, size and number of its files."""
    return tuple(_stamp(folder / name) for name in (*SIGNS, "weights.safetensors"))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _weights(folder: Path) -> tuple[Any, ...]:
    return _stamp(folder / "weights.safetensors"), _stamp(folder / "system.toml")


def _read(name: str, folder: Path) -> RunInfo:
    """All of a run's facts that change only with its files."""
    try:
        path = folder / "system.toml"
        about = migrated(read_toml(path), path)
        options = about.pop("options", None)
        system = about.get("system")
        if not isinstance(system, str) or not isinstance(options, dict):
            raise UserError(f"{path}: damaged: it names no system or no options")
        cls = load_system(system)
        offered = tuple(verbs(cls))
    except UserError as error:
        return RunInfo(name, folder, reason=str(error))
    except Exception as error:  # another package's system may raise anything when it is imported
        log.warning("the run %s cannot be read", name, exc_info=True)
        return RunInfo(name, folder, reason=f"cannot be read ({type(error).__name__}: {error})")
    lines = newest(folder / "metrics.jsonl")
    last: dict[str, float] = {}
    for line in lines:
        last.update({k: v for k, v in line.items() if isinstance(v, (int, float))})
    ready = (folder / "weights.safetensors").is_file() and (folder / "data").is_dir()
    info = RunInfo(
        name, folder, system, "finished" if about.get("finished") else "stopped", "",
        str(about.get("created", "")), int(last.get("step", 0)),
        float(last.get("seconds", about.get("fit_seconds", 0.0))), last, offered,
        about, options, ready, _pace(lines),
    )  # fmt: skip
    if about.get("finished") and not (ready and whole(folder / "weights.safetensors")):
        what = "its weights are cut off" if ready else "its weights or its data are missing"
        return dataclasses.replace(info, state="damaged", reason=f"{folder}: damaged: {what}")
    return info


def _as_of_now(info: RunInfo, stamps: tuple[Any, ...], alive: bool | None) -> RunInfo:
    """Whether a fit that has not finished is still under way: if it is not known, its files tell by their age."""
    if info.state != "stopped":
        return info
    quiet = time.time() - max((s[0] for s in stamps if s), default=0) / 1e9
    patience = max(FRESH, 5 * info.pace) if info.last else BEGUN
    # a fit that was stopped says so in system.toml; one that was killed says nothing, and ages
    fresh = info.about.get("finished") is None and quiet < patience
    if fresh if alive is None else alive:
        reason = "" if info.ready else "no weights yet: the fit has just begun"
        return dataclasses.replace(info, state="running" if info.last else "waiting", reason=reason)
    reason = "" if info.ready else "no weights: the fit was stopped before its first evaluation"
    return dataclasses.replace(info, reason=reason)


def _pace(lines: list[dict[str, Any]]) -> float:
    seconds = [line["seconds"] for line in lines if isinstance(line.get("seconds"), (int, float))]
    evaluated = [float(line.get("evaluation_seconds", 0.0)) for line in lines]
    gaps = [b - a for a, b in zip(seconds, seconds[1:], strict=False)]
    return max(gaps[-5:], default=0.0) + max(evaluated[-50:], default=0.0)
