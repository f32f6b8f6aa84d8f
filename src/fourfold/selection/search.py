"""Searching a system's options with Optuna, and fitting the best ones.

    runs/housing/
      search.db       Optuna's study, unless a server holds it: every trial, to go on from
      search.json     what was searched and found, for going on and for the report
      trials/ outer/  runs of the trials, where they are kept, and searches of the outer folds
      system.toml ... the run with the best options

Nested cross-validation: Varma and Simon 2006.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fourfold import api
from fourfold.core.console import Console, Silent
from fourfold.core.errors import Interrupted, UserError
from fourfold.core.folders import new_folder
from fourfold.core.options import complete, construct
from fourfold.core.registry import load_system
from fourfold.core.run import Run
from fourfold.core.space import dimensions, space_of
from fourfold.core.system import System
from fourfold.core.words import duration, number
from fourfold.data.splits import NONE, TEST
from fourfold.data.table import TableData, Tabular
from fourfold.optimizers.diagnosis import Diverged
from fourfold.selection.folds import check_folds
from fourfold.selection.plan import FILE, Found, Plan, Tried, plain, read, write
from fourfold.selection.trials import (
    INTERRUPTED,
    WHY,
    finished,
    measure_of,
    on_test_rows,
    open_study,
    optuna_here,
    run_trial,
)

if TYPE_CHECKING:
    import optuna

OWN = (
    "system.toml", "weights.safetensors", "held-out.safetensors", "metrics.jsonl", "progress.bin",
    "notes.json", "report.html", "data", "checkpoints", "previews",
)  # fmt: skip
"""What a run writes into its folder; a better one takes its place."""


def search(
    system: str | type[System] | System,
    source: Any = None,
    *,
    trials: int = 20,
    space: str = "",
    folds: int = 0,
    repeats: int = 1,
    outer: int = 0,
    storage: str | None = None,
    study: str | None = None,
    keep: bool = False,
    prune: bool = True,
    out: str | os.PathLike[str] | bool | None = None,
    seed: int = 0,
    valid: Any = None,
    size: str | None = None,
    device: str = "auto",
    console: Console | None = None,
    command: str | None = None,
    **options: Any,
) -> Found:
    """Try options, and fit the run with the best; a search that is there already is gone on with.

    Trials are compared by the objective's metric, or its loss: on the validation rows, or with `folds`
    on each fold's held-out rows. The first trial has the options as they are.

    Args:
        system: a name, a System class, or a configured system.
        source: as for `fit`.
        trials: how many in all.
        space: what is tried beside and instead of the system's own, as "optimizer.lr=1e-4..1e-2:log width=32..512".
        folds: cross-validate each trial with so many folds; 0 takes the validation rows.
        repeats: of the folds.
        outer: search anew within each of so many outer folds, and measure what it finds on the rest.
        storage: a database's address for Optuna; None is a file in the run's folder.
        study: its name in the database, by default that of the run's folder; processes that share it share the trials.
        keep: write each trial's run to trials/.
        prune: stop trials early that fall behind.
        out: the run's folder, as for `fit`; False keeps everything in memory.
        seed, valid, size, device, console, command, options: as for `fit`; options that are set are not searched.

    Raises:
        UserError: something about the input, an option or the folder is wrong, or every trial failed.
        Interrupted: Ctrl-C or SIGTERM; what is done is kept.
    """
    configured = api.configure(system, options, size)
    plan = Plan(
        configured, source, space_of(type(configured), space, options), seed, valid, device, folds,
        repeats, outer, keep, prune, storage, study, _folder(configured, out),
    )  # fmt: skip
    return carry_out(plan, trials, console or Silent(), command)


def resume(
    folder: str | os.PathLike[str],
    *,
    trials: int | None = None,
    source: Any = None,
    console: Console | None = None,
    command: str | None = None,
) -> Found:
    """Go on with a search.

    Args:
        folder: where it was written to.
        trials: how many in all; None as many as were asked for.
        source: the data again, where it was in memory only.
        console, command: as for `fit`.

    Raises:
        UserError: there is no search in the folder.
    """
    place = Path(folder)
    told = read(place)
    if told is None:
        raise UserError(f"{place}: holds no search ({FILE} is missing)")
    plan = told["plan"]
    if plan["in_memory"] and source is None:
        raise UserError(f"{place}: searched on data in memory; give the data to go on with")
    cls = load_system(plan["system"])
    configured = construct(cls, complete(cls, plan["options"]), where=str(place / FILE))
    again = Plan(
        configured,
        source if source is not None else plan["source"],
        dimensions(cls, " ".join(plan["space"])),
        valid=plan["valid"],
        place=place,
        **{
            name: plan[name]
            for name in (
                "seed",
                "device",
                "folds",
                "repeats",
                "outer",
                "keep",
                "prune",
                "storage",
                "study",
            )
        },
    )
    return carry_out(again, trials or told["trials_wanted"], console or Silent(), command)


def carry_out(plan: Plan, trials: int, console: Console, command: str | None) -> Found:
    """The trials that are missing, the outer folds, the run with the best options."""
    _check(plan, trials)
    study = open_study(plan)
    if plan.place is not None and read(plan.place) is None:
        write(plan, plan.measure, trials, [], {}, ())  # to go on from, should it be stopped
    done = finished(study)
    if len(done) < trials:
        names = ", ".join(map(str, plan.space.values()))
        console.say(f"Searching {names}.")
    while len(done) < trials:
        try:
            _try(plan, study, console, done)
        except (Interrupted, KeyboardInterrupt) as stopped:
            raise _stopped(plan, stopped, len(done)) from None
        done = finished(study)
    if not any(t.state == "complete" for t in done):
        raise UserError(
            f"none of {len(done)} trials could be fitted: {done[-1].why or 'all diverged'}"
        )
    try:
        outer = tuple(_outer(plan, trials, console))
        importance = _importance(study)
        write(plan, measure_of(plan, study), trials, done, importance, outer)
        run = _refit(plan, study.best_params, console, command)
    except (Interrupted, KeyboardInterrupt) as stopped:
        raise _stopped(plan, stopped, len(done)) from None
    return Found(
        run,
        measure_of(plan, study),
        float(study.best_value),
        study.best_params,
        tuple(done),
        importance,
        outer,
    )


def _check(plan: Plan, trials: int) -> None:
    if trials < 1:
        raise UserError(f"--trials: expected 1 or more, got {trials}")
    if plan.folds:
        check_folds(plan.configured, plan.folds, plan.repeats)
        if plan.valid is not None:
            raise UserError("--folds holds out each fold in turn, so --valid does not go with it")
    elif plan.repeats > 1:
        raise UserError("--repeats goes with --folds")
    if plan.outer:
        check_folds(plan.configured, plan.outer)
        if plan.valid is not None:
            raise UserError("--outer splits the rows anew, so --valid does not go with it")
    if plan.keep and plan.place is None:
        raise UserError("--keep-trials needs a folder; this search lives in memory")


def _folder(configured: System, out: str | os.PathLike[str] | bool | None) -> Path | None:
    """Where to write: None in memory.

    Raises:
        UserError: there is a run that no search made.
    """
    if out is False:
        return None
    place = new_folder(configured.name) if out is None or out is True else Path(out)
    if (place / "system.toml").exists() and not (place / FILE).exists():
        raise UserError(f"{place}: holds a run already; another --out begins a new one")
    return place


def _try(plan: Plan, study: optuna.Study, console: Console, done: list[Tried]) -> None:
    """One trial, told to the study whatever becomes of it."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    trial = study.ask()
    label = f"Trial {len(done) + 1}"
    try:
        value = run_trial(plan, trial)
    except TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
        console.say(f"{label}: stopped early; {_options(trial)}")
    except (Interrupted, KeyboardInterrupt):
        trial.set_user_attr(WHY, INTERRUPTED)
        study.tell(trial, state=TrialState.FAIL)
        raise
    except UserError as error:
        trial.set_user_attr(WHY, str(error))
        study.tell(trial, state=TrialState.FAIL)
        if not isinstance(error, Diverged) and not any(t.state == "complete" for t in done):
            raise  # not these options are wrong, but all
        console.say(f"{label}: failed ({error}); {_options(trial)}")
    else:
        if not math.isfinite(value):
            trial.set_user_attr(WHY, f"{measure_of(plan, study)} is {value}")
            study.tell(trial, state=TrialState.FAIL)
            return
        study.tell(trial, value)
        took = study.trials[trial.number].duration
        seconds = duration(took.total_seconds()) if took is not None else ""
        console.say(
            f"{label}: {measure_of(plan, study)} {number(value)} (best {number(study.best_value)}), {seconds}; {_options(trial)}"
        )


def _options(trial: optuna.Trial) -> str:
    return ", ".join(f"{name} {plain(value)}" for name, value in trial.params.items())


def _stopped(plan: Plan, stopped: BaseException, done: int) -> BaseException:
    """The same signal, with what is kept and how to go on."""
    if plan.place is None:
        return stopped
    signum = stopped.signum if isinstance(stopped, Interrupted) else signal.SIGINT
    place = plan.place
    return Interrupted(
        signum, done, f"fourfold search --resume {place}", after=f"{done} trials, which are kept"
    )


def _importance(study: optuna.Study) -> dict[str, float]:
    """Share of the variance over the trials that each option explains (fANOVA, Hutter et al. 2014)."""
    optuna = optuna_here()
    complete_ = [t for t in study.trials if t.state.name == "COMPLETE"]
    if len(complete_) < 4 or len({t.value for t in complete_}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _outer(plan: Plan, trials: int, console: Console) -> Iterator[float]:
    """Search anew within each outer fold, and measure what it finds on the rows that it never saw."""
    for fold in range(1, plan.outer + 1):
        label = f"{fold}/{plan.outer}"
        options = cast(Tabular, plan.configured.data).model_copy(update={"fold": label})
        data = options.open(plan.source, seed=plan.seed)
        assert data.rows is not None and data.parts is not None  # noqa: S101
        frame = data.rows.frame()
        inner = frame[np.flatnonzero((data.parts != TEST) & (data.parts != NONE))]
        held = frame[np.flatnonzero(data.parts == TEST)]
        place = None if plan.place is None else plan.place / "outer" / str(fold)
        study = None if plan.storage is None else f"{plan.study or place}-outer-{fold}"
        console.say(f"Outer fold {label}: {inner.height:,} rows to search on.")
        found = carry_out(
            replace(plan, source=inner, outer=0, place=place, study=study), trials, Silent(), None
        )
        rows = cast(TableData, found.run.data).reopen(held, seed=plan.seed, whole=True)
        name, value = on_test_rows(found.run, rows)
        console.say(f"Outer fold {label}: {name} {number(value)} on {held.height:,} rows.")
        yield value


def _refit(plan: Plan, best: dict[str, Any], console: Console, command: str | None) -> Run:
    """The run with the best options; one that is there already stays, another makes room."""
    configured, place = api.configure(plan.configured, best), plan.place
    if place is not None and (place / "system.toml").exists():
        run = Run.open(place, device=plan.device)
        if run.system == configured.suited(run) and run.about.get("finished"):
            from fourfold.look.report import of, write

            write(place / "report.html", of(run))
            return run
        for name in OWN:
            path = place / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return api.fit(
        configured, plan.source, out=False if place is None else place, seed=plan.seed,
        valid=plan.valid, device=plan.device, console=console, command=command,
    )  # fmt: skip
