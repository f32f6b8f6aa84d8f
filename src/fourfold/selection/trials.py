"""One trial after another: what a search compares, its study, and how a trial is run and stopped early.

Tree-structured Parzen estimator: Bergstra et al. 2011; median pruning: Golovin et al. 2017.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold import api
from fourfold.core.console import Silent
from fourfold.core.errors import UserError
from fourfold.core.evaluation import measure
from fourfold.core.metrics import best_line
from fourfold.core.run import Run
from fourfold.core.space import Dimension
from fourfold.core.system import System
from fourfold.selection.folds import fold_runs
from fourfold.selection.plan import Plan, Tried

if TYPE_CHECKING:
    import optuna

STORE = "search.db"
UNPRUNED = 5
"""Trials that run to their end before any is stopped early."""
WARM = 4
"""Evaluations that a trial has before it may be stopped early; of folds, one."""
WHY = "why"
"""Of a failed trial, in Optuna's attributes."""
INTERRUPTED = "interrupted"
TRIES = 5
"""Times that a database is opened where another process makes its tables."""
MADE_BY_ANOTHER = ("already exists", "unique constraint", "duplicate", "database is locked")
"""What SQLite, PostgreSQL and MySQL say to the one that comes second."""
DRIVERS = {"postgresql": "psycopg2-binary", "mysql": "pymysql, and write mysql+pymysql://"}
MEASURE = "measure"
"""Name of what trials are compared by, in the study's attributes."""


def optuna_here() -> Any:
    """Optuna, quiet.

    Raises:
        UserError: the extra is missing.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError('a search needs Optuna: pip install "fourfold[search]"') from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def open_study(plan: Plan) -> optuna.Study:
    """The study of a plan, new or to be gone on with.

    Raises:
        UserError: the database cannot be opened, or its study is of something else.
    """
    optuna = optuna_here()
    address = plan.storage
    if address is None and plan.place is not None:
        plan.place.mkdir(parents=True, exist_ok=True)
        address = f"sqlite:///{(plan.place / STORE).resolve()}"
    name = plan.study or (plan.place.name if plan.place is not None else plan.configured.name)
    for attempt in range(TRIES):
        try:
            study = optuna.create_study(
                storage=address,
                study_name=name,
                load_if_exists=True,
                direction="maximize" if plan.higher else "minimize",
                pruner=optuna.pruners.MedianPruner(UNPRUNED, 1 if plan.folds else WARM),
            )
            break
        except Exception as error:  # SQLAlchemy's, the driver's and Optuna's own
            line = str(error).strip().splitlines()[0]
            # another process makes the same tables at the same moment: they are there the next time
            second = any(words in line.lower() for words in MADE_BY_ANOTHER)
            if second and attempt + 1 < TRIES:
                time.sleep(0.2 * (attempt + 1))
                continue
            if "DB access module" in line:
                driver = DRIVERS.get(str(address).split(":")[0], "its driver")
                line = f"no driver for such a database: pip install {driver}"
            raise UserError(f"--storage {address}: cannot be opened ({line})") from error
    known, wanted = study.user_attrs.get("plan"), plan.compared()
    if known is None:
        study.set_user_attr("plan", wanted)
    elif known != wanted:
        what = next((k for k in wanted if known.get(k) != wanted[k]), "direction")
        raise UserError(
            f"{address or name}: holds a search of another {what} ({known.get(what)}); "
            "another --out or --study begins a new one"
        )
    # a search that is gone on with must not draw again what it drew
    study.sampler = optuna.samplers.TPESampler(seed=plan.seed + len(study.trials))
    if not study.trials:
        study.enqueue_trial(dict(_defaults(plan)))
    return study


def finished(study: optuna.Study) -> list[Tried]:
    """Trials that count, in order; those that were interrupted do not."""
    words = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    return [
        Tried(
            t.number,
            words[t.state.name],
            t.value if t.state.name == "COMPLETE" else _last(t),
            t.params,
            t.duration.total_seconds() if t.duration is not None else 0.0,
            t.user_attrs.get(WHY, ""),
        )
        for t in study.get_trials(deepcopy=False)
        if t.state.name in words and t.user_attrs.get(WHY) != INTERRUPTED
    ]


def run_trial(plan: Plan, trial: optuna.Trial) -> float:
    """Fit with the options of a trial, and measure.

    Raises:
        optuna.TrialPruned: it falls behind.
        Diverged, UserError: these options cannot be fitted.
        Interrupted: it was stopped.
    """
    configured = api.configure(
        plan.configured, {d.name: _drawn(trial, d) for d in plan.space.values()}
    )
    place = None
    if plan.keep and plan.place is not None:
        place = plan.place / "trials" / f"{trial.number:03d}"
    if plan.folds:
        return _over_folds(plan, configured, trial, place)
    run = api.fit(
        configured, plan.source, out=False if place is None else place, seed=plan.seed,
        valid=plan.valid, device=plan.device, console=_Reporter(trial, plan),
    )  # fmt: skip
    line = best_line(run.metrics.lines)
    if line is None:
        raise UserError(
            "a search compares trials on validation rows, and there are none: "
            "--data.split 0.8,0.1,0.1, --valid FILE or --folds 5"
        )
    name = next(name for name in line if name.startswith("valid."))
    _name(trial, name.removeprefix("valid."))
    return float(line[name])


def on_test_rows(run: Run, data: Any = None) -> tuple[str, float]:
    """The measure that chooses, on a run's test rows or other ones."""
    data = run.examples() if data is None else data
    found = measure(run.objective, run.model, data, "test", run.device, run.seed)
    return next(iter(found.items()))


def measure_of(plan: Plan, study: optuna.Study) -> str:
    """What trials are compared by: the metric, or the loss by its own name once a trial has told it."""
    return str(study.user_attrs.get(MEASURE, plan.measure))


def _name(trial: optuna.Trial, measure: str) -> None:
    if trial.study.user_attrs.get(MEASURE) != measure:
        trial.study.set_user_attr(MEASURE, measure)


def _over_folds(plan: Plan, configured: System, trial: optuna.Trial, place: Path | None) -> float:
    import optuna

    found: list[float] = []
    for _, run in fold_runs(
        configured, plan.source, folds=plan.folds, repeats=plan.repeats, place=place,
        seed=plan.seed, device=plan.device, console=Silent(),
    ):  # fmt: skip
        name, value = on_test_rows(run)
        found.append(value)
        _name(trial, name)
        trial.report(statistics.fmean(found), len(found) - 1)
        if plan.prune and len(found) < plan.folds and trial.should_prune():
            raise optuna.TrialPruned
    return statistics.fmean(found)


class _Reporter(Silent):
    """Tells a trial each evaluation, and stops it where it falls behind."""

    def __init__(self, trial: optuna.Trial, plan: Plan) -> None:
        self._trial, self._prune = trial, plan.prune
        self._count = 0

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """By its number, not its step: batches of other sizes take other numbers of steps."""
        import optuna

        self._count += 1
        self._trial.report(next(iter(values.values())), self._count)
        if self._prune and self._trial.should_prune():
            raise optuna.TrialPruned


def _drawn(trial: optuna.Trial, dimension: Dimension) -> Any:
    name = dimension.name
    if dimension.choices:
        return trial.suggest_categorical(name, dimension.choices)
    if dimension.whole:
        return trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)


def _defaults(plan: Plan) -> Iterator[tuple[str, Any]]:
    """The options as they are, where the space holds them: the first trial."""
    for dimension in plan.space.values():
        value: Any = plan.configured
        for key in dimension.name.split("."):
            value = getattr(value, key, None)
        if dimension.holds(value):
            same = [c for c in dimension.choices if c.lower() == str(value).lower()]
            yield dimension.name, same[0] if dimension.choices else value


def _last(trial: Any) -> float | None:
    """The last value that a stopped trial told."""
    told = trial.intermediate_values
    return float(told[max(told)]) if told else None
