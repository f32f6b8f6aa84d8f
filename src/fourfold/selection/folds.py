"""Cross-validation: the folds of a table are held out in turn, each by an ordinary run.

    runs/housing/
      folds/1 ...     a run for each fold (1-2 is the second fold of the first repeat, where there are several)
      folds.json      every fold's measures, mean and deviation
      system.toml ... the run on its own split, which is what predicts

Stone 1974; repeated: Kim 2009.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourfold import api, fitting
from fourfold.core.console import Console, Silent
from fourfold.core.errors import Interrupted, UserError
from fourfold.core.folders import new_folder
from fourfold.core.run import Run
from fourfold.core.sources import command_line, stored
from fourfold.core.state import write_text
from fourfold.core.system import System
from fourfold.core.types import Score
from fourfold.core.words import number
from fourfold.data.table import Tabular

FILE = "folds.json"


@dataclass(frozen=True)
class CrossValidation:
    """What the folds of a system say, and the run on its own split."""

    run: Run
    folds: tuple[Run, ...]
    """In the order of repeats and folds."""
    scores: tuple[Score, ...]
    """Of each fold's run on the rows that it held out."""

    @property
    def summary(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation over the folds, by measure."""
        return summary([score.values for score in self.scores])

    def __str__(self) -> str:
        lines = [
            f"{name}: {number(mean)} ± {number(deviation)} over {len(self.scores)} folds"
            for name, (mean, deviation) in self.summary.items()
        ]
        return "\n".join(lines)


def cross_validate(
    system: str | type[System] | System,
    source: Any = None,
    *,
    folds: int = 5,
    repeats: int = 1,
    out: str | os.PathLike[str] | bool | None = None,
    seed: int = 0,
    size: str | None = None,
    device: str = "auto",
    console: Console | None = None,
    command: str | None = None,
    **options: Any,
) -> CrossValidation:
    """Fit each fold's run and then the run itself; folds that are there already are kept.

    Args:
        system: a name, a System class, or a configured system whose data is a table.
        source: as for `fit`.
        folds: how many, 2 at least.
        repeats: how often, each with another partition; their seeds follow one another.
        out: the run's folder, as for `fit`; False keeps everything in memory.
        seed: fixes the partition, order, initial weights and noise.
        size, device, console, command, options: as for `fit`.

    Raises:
        UserError: the data is no table, or something about the input, an option or the folder is wrong.
        Interrupted: Ctrl-C or SIGTERM; the same call goes on.
    """
    configured = api.configure(system, options, size)
    check_folds(configured, folds, repeats)
    place = folder_of(configured, out)
    listener = console or Silent()
    runs: list[Run] = []
    scores: list[Score] = []
    try:
        for label, run in fold_runs(
            configured, source, folds=folds, repeats=repeats, place=place, seed=seed,
            device=device, console=Terse(listener),
        ):  # fmt: skip
            scores.append(run.evaluate())
            runs.append(run)
            listener.say(f"Fold {label}: {_in_words(scores[-1].values)}")
        if place is not None:
            write_text(place / FILE, json.dumps(_stored(folds, repeats, seed, place, runs, scores)))
        run = _whole(configured, source, place, seed, device, console, command)
    except Interrupted as stopped:
        raise Interrupted(stopped.signum, stopped.step, _again(stopped.command, place)) from None
    return CrossValidation(run, tuple(runs), tuple(scores))


class Terse(Silent):
    """Passes progress on and leaves out sentences and evaluations, which every fold would repeat."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def start(self, title: str, unit: str, total: str) -> None:
        self._console.start(title, unit, total)

    def step(
        self, progress: float, step: int, values: Mapping[str, float], rate: float | None
    ) -> None:
        self._console.step(progress, step, values, rate)

    def stop(self, sentence: str = "") -> None:
        self._console.stop(sentence)

    def close(self) -> None:
        self._console.close()


def check_folds(configured: System, folds: int, repeats: int = 1) -> None:
    """Refuse what cannot be cross-validated.

    Raises:
        UserError: the data is no table, too few folds, or a fold is chosen already.
    """
    if not isinstance(configured.data, Tabular):
        raise UserError(f"--folds is for tables; {configured.name} reads {configured.reads}")
    if folds < 2:
        raise UserError(f"--folds: expected 2 or more, got {folds}")
    if repeats < 1:
        raise UserError(f"--repeats: expected 1 or more, got {repeats}")
    if repeats > 1 and configured.data.ordered:
        raise UserError(
            "--repeats: blocks of time are always the same, so repeating says nothing new"
        )
    if configured.data.fold is not None:
        raise UserError(
            f"--folds fits every fold, so --data.fold {configured.data.fold} does not go with it"
        )


def folder_of(configured: System, out: str | os.PathLike[str] | bool | None) -> Path | None:
    """Where to write: None in memory.

    Raises:
        UserError: there is a finished run already.
    """
    if out is False:
        return None
    place = new_folder(configured.name) if out is None or out is True else Path(out)
    if (place / "system.toml").exists() and Run.open(place).about.get("finished"):
        raise UserError(f"{place}: holds a run already; another --out begins a new one")
    return place


def fold_runs(
    configured: System,
    source: Any,
    *,
    folds: int,
    repeats: int,
    place: Path | None,
    seed: int,
    device: str,
    console: Console,
) -> Iterator[tuple[str, Run]]:
    """A label, as 2/5, and the fitted run of each fold, one after the other.

    Args:
        configured: whose data names no fold.
        source: the table.
        folds, repeats, seed, device: as for `cross_validate`.
        place: the folder of the whole; None keeps the runs in memory.
        console: where their progress is said.
    """
    for repeat in range(repeats):
        for fold in range(1, folds + 1):
            label = f"{fold}/{folds}"
            one = api.configure(configured, {"data.fold": label})
            name = str(fold) if repeats == 1 else f"{repeat + 1}-{fold}"
            where = None if place is None else place / "folds" / name
            said = label if repeats == 1 else f"{label} of repeat {repeat + 1}"
            yield said, _fitted(one, source, where, seed + repeat, device, console)


def summary(values: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each measure that every one has."""
    found = {}
    for name in values[0]:
        column = [v[name] for v in values if math.isfinite(v.get(name, math.nan))]
        if len(column) == len(values):
            spread = statistics.stdev(column) if len(column) > 1 else 0.0
            found[name] = statistics.fmean(column), spread
    return found


def _fitted(
    configured: System, source: Any, place: Path | None, seed: int, device: str, console: Console
) -> Run:
    """Fit, go on with what was stopped, or open what is there."""
    if place is None or not (place / "system.toml").exists():
        return api.fit(
            configured, source, out=False if place is None else place, seed=seed, device=device,
            console=console,
        )  # fmt: skip
    run = Run.open(place, device=device)
    wanted = configured.suited(run)  # as the run decided what was left to its rows
    if run.system != wanted or run.seed != seed or run.sources != stored(source):
        what = next(_changed(run.system, wanted), "seed or data")
        raise UserError(
            f"{place}: was fitted with other options ({what}); another --out begins anew"
        )
    if run.about.get("finished"):
        return run
    return api.resume(place, device=device, console=console)


def _whole(
    configured: System, source: Any, place: Path | None, seed: int, device: str,
    console: Console | None, command: str | None,
) -> Run:  # fmt: skip
    """The run on its own split."""
    if place is not None and (place / "system.toml").exists():
        if not Run.open(place).about.get("finished"):
            return _fitted(configured, source, place, seed, device, console or Silent())
    return api.fit(
        configured, source, out=False if place is None else place, seed=seed, device=device,
        console=console, command=command,
    )  # fmt: skip


def _changed(before: System, after: System) -> Iterator[str]:
    if type(before) is not type(after):
        yield f"system {before.name}"
        return
    for path, was, now in fitting.differences(before.model_dump(), after.model_dump()):
        yield f"{path} {was!r}, now {now!r}"


def _stored(
    folds: int, repeats: int, seed: int, place: Path, runs: Sequence[Run], scores: Sequence[Score]
) -> dict[str, Any]:
    """What folds.json holds."""
    found = summary([score.values for score in scores])
    return {
        "folds": folds,
        "repeats": repeats,
        "seed": seed,
        "runs": [str(run.folder.relative_to(place)) for run in runs if run.folder],
        "scores": [
            {k: v if math.isfinite(v) else None for k, v in score.values.items()}
            for score in scores
        ],
        "units": scores[0].units,
        "mean": {name: mean for name, (mean, _) in found.items()},
        "deviation": {name: deviation for name, (_, deviation) in found.items()},
    }


def _in_words(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {number(value)}" for name, value in list(values.items())[:3])


def _again(command: str, place: Path | None) -> str:
    """What to type to go on: the same command, which takes up what it finds."""
    if not command or place is None:
        return ""
    line = command_line()
    return line if "--out" in line or " -o" in line else f"{line} --out {place}"
