"""Fits started, stopped and resumed over HTTP or from the page: child processes, each `fourfold fit`.

A fit's options go to it in a file, its arguments as a list: no word of a request is read by a shell, or
taken for a flag or a path. Its working folder is one of its own, in which nothing else lies.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fourfold.api import BUDGET
from fourfold.core.errors import UserError, nearest
from fourfold.core.folders import without_none
from fourfold.core.sources import timestamp
from fourfold.serve.fit_requests import check, reserved, spelled, stored_sources, write_toml
from fourfold.serve.limits import Busy, Limits
from fourfold.serve.schema import Upload
from fourfold.serve.shelf import NoSuchRun, NotReady, Shelf

State = Literal["starting", "running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Fit:
    """A fit that was started here."""

    name: str
    """Of its run."""
    system: str
    state: State
    started: str
    code: int | None = None
    """Exit code, once it has ended."""
    error: str = ""
    """What it said last, if it failed."""


@dataclass
class _Child:
    system: str
    folder: Path
    log: Path
    started: str
    process: subprocess.Popen[bytes]
    asked_to_stop: bool = False


class Jobs:
    """Fits whose runs lie in the served folder.

    Args:
        shelf: the runs; its first folder of runs takes the new ones.
        limits: how many fits at once, and how long they have to end when the server does.
    """

    def __init__(self, shelf: Shelf, limits: Limits | None = None) -> None:
        self.shelf, self.limits = shelf, limits or Limits()
        self._children: dict[str, _Child] = {}
        shelf.alive = self._alive

    def _alive(self, name: str) -> bool | None:
        """Whether a run is being fitted, as far as is known here."""
        child = self._children.get(name)
        return None if child is None else child.process.poll() is None

    def all(self) -> list[Fit]:
        """Every fit that was started here, newest first."""
        return [self.fit(name) for name in reversed(self._children)]

    def fit(self, name: str) -> Fit:
        """One of them, as it is now.

        Raises:
            NoSuchRun: none of this name was started here.
        """
        child = self._children.get(name)
        if child is None:
            hint = nearest(name, self._children)
            raise NoSuchRun(f"{name[:80]}: no fit of this name was started here{hint}")
        code = child.process.poll()
        if code is None:
            begun = (child.folder / "system.toml").exists()
            state: State = "running" if begun else "starting"
            return Fit(name, child.system, state, child.started)
        with contextlib.suppress(OSError):
            child.folder.rmdir()  # if it failed before it had anything to keep
        if code == 0:
            return Fit(name, child.system, "finished", child.started, code)
        if child.asked_to_stop and code in (-signal.SIGTERM, 128 + signal.SIGTERM):
            return Fit(name, child.system, "stopped", child.started, code)
        return Fit(name, child.system, "failed", child.started, code, _last_words(child.log))

    @property
    def running(self) -> list[str]:
        """Names of the fits under way."""
        return [name for name, child in self._children.items() if child.process.poll() is None]

    async def start(
        self,
        system: str,
        source: str | Upload | Sequence[Upload] | None = None,
        *,
        name: str | None = None,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        size: str | None = None,
    ) -> str:
        """Start a fit.

        Args:
            system: its name.
            source: a catalog name, or files' content, which is stored in the served folder; None takes
                the system's embedded data.
            name: of the run; None takes `<system>-<n>`.
            options: fields of the system by name.
            seed: fixes split, order, initial weights and noise.
            size: a preset of the system's.

        Returns:
            The run's name.

        Raises:
            Busy: as many fits as are allowed are under way.
            UserError: anything wrong with these.
        """
        self._room()
        # checked here, so that who asks is told; not on the loop, for it imports the system
        given = dict(options or {})
        await asyncio.to_thread(check, system, given, size, seed)
        base = self._folder()
        sources = await asyncio.to_thread(stored_sources, source, base)
        self._room()
        folder = reserved(base, system, name, set(self.shelf.names()))
        toml = {
            "system": system,
            "fit": without_none({"sources": sources, "seed": seed}),
            "options": spelled(given),
        }
        place = base / ".fits" / folder.name
        await asyncio.to_thread(write_toml, place, toml)
        arguments = ["fit", str(place / "fit.toml"), "--out", str(folder), "--quiet"]
        if size is not None:
            arguments += ["--size", size]
        self._spawn(folder, system, place, arguments)
        return folder.name

    async def stop(self, name: str) -> None:
        """Ask a fit to stop after the step under way, with a checkpoint to go on from.

        Raises:
            NoSuchRun: it was not started here.
            NotReady: it has ended.
        """
        fit = self.fit(name)
        if fit.code is not None:
            raise NotReady(f"{name}: this fit has ended already ({fit.state})")
        child = self._children[name]
        child.asked_to_stop = True
        child.process.terminate()

    async def resume(self, name: str, budget: Mapping[str, float] | None = None) -> None:
        """Go on exactly where a run of the served folder was stopped.

        Args:
            name: the run.
            budget: another budget: steps, epochs or minutes.

        Raises:
            Busy: as many fits as are allowed are under way.
            NoSuchRun: there is no such run.
            NotReady: it is under way, or damaged.
            UserError: another option than the budget.
        """
        info = self.shelf.status(name)
        if name in self.running or info.state in ("running", "waiting"):
            raise NotReady(f"{name}: this fit is under way")
        if info.state == "damaged":
            raise NotReady(f"{name}: {info.reason}")
        self._room()
        for key in budget or {}:
            if key not in BUDGET:
                raise UserError(
                    f"{key}: what goes on exactly may change its budget only: {sorted(BUDGET)}"
                )
        place = self._folder() / ".fits" / name
        await asyncio.to_thread(place.mkdir, parents=True, exist_ok=True)
        flags = [f"--{key}={value}" for key, value in (budget or {}).items()]
        arguments = ["fit", "--resume", str(info.folder.resolve()), "--quiet", *flags]
        self._spawn(info.folder.resolve(), info.system, place, arguments)

    async def close(self) -> None:
        """Ask every fit under way to stop, and wait for their checkpoints; kill what does not end in time."""
        under_way = self.ask_all_to_stop()
        until = time.monotonic() + self.limits.stop
        for child in under_way:
            try:
                await asyncio.to_thread(child.process.wait, max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                await asyncio.to_thread(child.process.wait)

    def ask_all_to_stop(self) -> list[_Child]:
        """Ask every fit under way to stop, without waiting."""
        under_way = [self._children[name] for name in self.running]
        for child in under_way:
            child.asked_to_stop = True
            child.process.terminate()
        return under_way

    def _room(self) -> None:
        running = self.running
        if len(running) >= self.limits.fits:
            raise Busy(
                f"{', '.join(running)}: under way, and {self.limits.fits} at once are allowed", 30
            )

    def _folder(self) -> Path:
        folder = self.shelf.folder
        if folder is None:
            raise NotReady(
                "single runs are served: serve a folder of runs to start and resume fits in it"
            )
        if not os.access(folder, os.W_OK):
            raise NotReady(f"{folder}: no permission to write in it")
        return folder.resolve()

    def _spawn(self, folder: Path, system: str, place: Path, arguments: list[str]) -> None:
        log = place / "log.txt"
        # -P: nothing in the working folder is ever imported
        command = [sys.executable, "-P", "-m", "fourfold", *arguments]
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file, cwd=place,
                env=_environment(), start_new_session=True,  # Ctrl-C is the server's; it stops its fits itself
            )  # fmt: skip
        self._children.pop(folder.name, None)  # a resumed one is the newest
        self._children[folder.name] = _Child(system, folder, log, timestamp(), process)


def _environment() -> dict[str, str]:
    """The server's own, without its token; folders as seen from another working folder."""
    found = {k: v for k, v in os.environ.items() if k != "FOURFOLD_TOKEN"}
    for key in ("FOURFOLD_DATA", "FOURFOLD_CACHE", "FOURFOLD_RUNS"):
        if found.get(key):
            found[key] = str(Path(found[key]).resolve())
    return found


def _last_words(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1].removeprefix("fourfold: ")[:500] if lines else ""
    return ""
