"""`check_system`: what every system must keep, run on its `toy()`; for our systems and a third party's.

    from fourfold.testing import check_system
    check_system(MySystem)

A system that cannot keep one of the checks says so with its reason:
`exempt = {"accumulation": "batch normalization"}`. Save and load, resume and bad input have no exemption.
"""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourfold import api, fitting
from fourfold.core.errors import Interrupted, UserError
from fourfold.core.evaluation import measure
from fourfold.core.options import options, parts_of
from fourfold.core.parts import Batch, Data, Move, Objective
from fourfold.core.registry import register
from fourfold.core.run import Run
from fourfold.core.system import System, verbs
from fourfold.optimizers import hogwild
from fourfold.optimizers.gradient import Gradient
from fourfold.optimizers.hogwild import Hogwild

ALWAYS = {"saved", "resumed", "refuses"}
"""Checks without exemption."""


def check_system(system: type[System]) -> None:
    """Run every check that the system does not exempt itself from.

    Args:
        system: a System class with `toy()`.

    Raises:
        AssertionError: a check failed; its message says which and why.
    """
    register(system)
    forbidden = ALWAYS & set(system.exempt)
    assert not forbidden, f"{system.name} may not be exempt from {', '.join(sorted(forbidden))}"
    unknown = set(system.exempt) - set(CHECKS)
    assert not unknown, f"{system.name} is exempt from unknown checks {', '.join(sorted(unknown))}"
    for name, check in CHECKS.items():
        if name in system.exempt:
            continue
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            check(system, Path(folder))


def _toy(system: type[System], **changes: Any) -> tuple[System, Any]:
    toy, source = system.toy()
    if isinstance(toy.optimizer, Gradient) and changes:
        toy = api.configure(toy, {"optimizer": changes})
    return toy, source


def _weights(run: Run) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def _equal(a: dict[str, Tensor], b: dict[str, Tensor], what: str) -> None:
    assert a.keys() == b.keys(), f"{what}: other weights"
    for name in a:
        assert torch.equal(a[name], b[name]), (
            f"{what}: {name} differs by up to {(a[name].double() - b[name].double()).abs().max():.3g}"
        )


def check_documented(system: type[System], folder: Path) -> None:
    """The module says what it is, its source with a year, its command and a measured result; every field has help."""
    text = sys.modules[system.__module__].__doc__ or ""
    assert system.__doc__, f"{system.name}: the class needs a docstring"
    assert re.search(r"\b(1[89]|20)\d\d\b", text), (
        f"{system.name}: the module's docstring names no source with its year"
    )
    assert f"fourfold fit {system.name}" in text, (
        f"{system.name}: the module's docstring shows no command"
    )
    assert re.search(r"^Result: .*\d", text, re.M), (
        f"{system.name}: the module's docstring has no line 'Result: ...' with a number"
    )
    for option in options(system).values():
        if len(option.path) > 1 or not parts_of(option.annotation):
            documented = option.help or option.path in {("data",), ("objective",), ("optimizer",)}
            assert documented, f"{system.name}: {option.name} has no docstring"
    for name, verb in verbs(system).items():
        assert inspect.getdoc(verb), f"{system.name}: the verb {name} has no docstring"


def check_saved(system: type[System], folder: Path) -> None:
    """An opened run measures exactly what the fitted one did, and executes nothing to be opened."""
    toy, source = _toy(system)
    run = api.fit(toy, source, out=folder / "run")
    again = Run.open(folder / "run")
    if run.about.get("in_memory"):
        again.sources = source
        again.about.pop("in_memory")
    _equal(_weights(run), _weights(again), "saved and opened")
    before, after = (
        measure(r.objective, r.model, r.examples(), "train", r.device, r.seed) for r in (run, again)
    )
    assert before == after, f"saved and opened: measures {before} became {after}"
    assert type(again.system) is type(run.system) and again.system == run.system, (
        "saved and opened: another configuration"
    )
    for path in (folder / "run").rglob("*"):
        assert path.suffix not in (".pt", ".pth", ".pkl", ".pickle"), (
            f"{path.name}: a run holds no pickle"
        )


def check_resumed(system: type[System], folder: Path) -> None:
    """A search stopped in the middle and resumed ends with the same losses and weights as one run through."""
    toy, source = _toy(system, log_every="1")
    if isinstance(toy.optimizer, Hogwild):
        return _resumed_rounds(toy, source, folder)
    if not isinstance(toy.optimizer, Gradient):
        first, second = (api.fit(toy, source, out=folder / n) for n in ("a", "b"))
        _equal(_weights(first), _weights(second), "fitted twice")
        return
    whole = api.fit(toy, source, out=folder / "whole")
    steps = int(whole.metrics.lines[-1]["step"])
    assert steps >= 2, "the toy must take at least two steps"
    try:
        with _stopping_after(steps // 2):
            api.fit(toy, source, out=folder / "parts")
        raise AssertionError("resumed: the search was not stopped")
    except Interrupted:
        pass
    _same_as(whole, source, folder)


def _same_as(whole: Run, source: Any, folder: Path) -> None:
    opened = Run.open(folder / "parts")
    resumed = api.resume(folder / "parts", source=source if opened.about.get("in_memory") else None)
    _equal(_weights(whole), _weights(resumed), "resumed and run through")
    losses = [
        [
            (line["step"], v)
            for line in r.metrics.lines
            for k, v in line.items()
            if k.endswith("loss")
        ]
        for r in (whole, resumed)
    ]
    assert losses[0] == losses[1], "resumed and run through: the losses differ"


def _resumed_rounds(toy: System, source: Any, folder: Path) -> None:
    """The same of compiled kernels on one thread, told to stop after half of their rounds."""
    threads = toy.optimizer.model_dump()["threads"]
    assert threads == 1, "the toy must be fitted by one thread: with more nothing is exact"
    module: Any = hogwild
    rounds, signals = module.ROUND, module.Signals
    module.ROUND = 1  # a stretch of the text in each
    try:
        whole = api.fit(toy, source, out=folder / "whole")
        count = sum("rate" in line for line in whole.metrics.lines)
        assert count >= 2, "the toy must take at least two rounds"
        module.Signals = functools.partial(_Told, count // 2)
        try:
            api.fit(toy, source, out=folder / "parts")
            raise AssertionError("resumed: the search was not stopped")
        except Interrupted:
            pass
        module.Signals = signals
        _same_as(whole, source, folder)
    finally:
        module.ROUND, module.Signals = rounds, signals


class _Told:
    """Signals of which SIGTERM comes when it is asked for the n-th time."""

    def __init__(self, rounds: int) -> None:
        self.left = rounds

    def __enter__(self) -> _Told:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    @property
    def received(self) -> int | None:
        """The signal, once the time has come."""
        self.left -= 1
        return signal.SIGTERM if self.left <= 0 else None


class _stopping_after:
    """SIGTERM's effect after so many steps, without a signal."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __enter__(self) -> None:
        from fourfold.optimizers.search import Search

        self._search, self._before = Search, Search._between
        limit, before = self.step, Search._between

        def between(search: Search, signum: int | None = None) -> int | None:
            before(search, signum)
            return signal.SIGTERM if search.done == limit else None

        Search._between = between  # type: ignore[method-assign, assignment]

    def __exit__(self, *exception: object) -> None:
        self._search._between = self._before  # type: ignore[method-assign, assignment]


def check_refuses(system: type[System], folder: Path) -> None:
    """Wrong input is a UserError with one sentence."""
    toy, source = _toy(system)
    missing = str(folder / "no-such-file")
    for what, call in (
        ("a source that does not exist", lambda: api.fit(toy, missing, out=False)),
        ("an unknown option", lambda: api.configure(system, {"no_such_option": 1})),
        ("an unknown size", lambda: api.configure(system, {}, size="no-such-size")),
        ("a run that does not exist", lambda: Run.open(missing)),
    ):
        try:
            call()
        except UserError as error:
            assert len(str(error)) > 10 and "\n" not in str(error).strip(), f"{what}: {error}"
        else:
            raise AssertionError(f"{what} was accepted")


def check_accumulation(system: type[System], folder: Path) -> None:
    """Four micro-batches of 8 make the same step as one batch of 32."""
    toy, source = _toy(system)
    if not isinstance(toy.optimizer, Gradient):
        return
    results = []
    for batch, many in ((32, 1), (8, 4)):
        configured = api.configure(
            toy,
            {
                "data": {"batch": batch},
                "optimizer": {
                    "accumulate": many,
                    "steps": 2,
                    "clip": None,
                    "precision": "float32",
                    "algorithm": "sgd",
                    "arguments": {},
                },
            },
        )
        run = Run(configured, seed=0)
        fitting.begin(run, source, None)
        run.system.optimizer.minimize(run.objective, run.model, run.data, run)
        results.append(_weights(run))
    for name in results[0]:
        close = torch.allclose(results[1][name], results[0][name], rtol=1e-3, atol=1e-5)
        assert close, f"accumulation: {name} differs between 4 x 8 and 1 x 32"


def check_moves(system: type[System], folder: Path) -> None:
    """Every parameter moved."""
    toy, source = _toy(system)
    run = api.fit(toy, source, out=False)
    torch.manual_seed(run.seed)
    before = dict(toy.build(run.data).named_parameters())
    still = [
        n
        for n, p in run.model.named_parameters()
        if p.requires_grad and torch.equal(p.cpu(), before[n])
    ]
    assert not still, f"parameters that did not move: {', '.join(still)}"


def check_weightless(system: type[System], folder: Path) -> None:
    """A step in which nothing counts is refused."""
    toy, source = _toy(system)
    if not isinstance(toy.optimizer, Gradient):
        return
    run = Run(toy, seed=0)
    fitting.begin(run, source, None)
    objective = _Weightless()
    objective.__dict__["inner"] = run.objective
    try:
        run.system.optimizer.minimize(objective, run.model, run.data, run)
    except UserError as error:
        assert "counts" in str(error), f"weightless: {error}"
    else:
        raise AssertionError("a step of weight zero was taken")


class _Weightless(Objective):
    def losses(self, model: torch.nn.Module, batch: Batch) -> Iterator[Move]:
        for move in self.__dict__["inner"].losses(model, batch):
            yield move._replace(loss=move.loss * 0.0, weight=torch.zeros(()))


def check_orders(system: type[System], folder: Path) -> None:
    """An epoch has every example once, in an order fixed by (seed, epoch), and splits do not change with it."""
    toy, source = _toy(system)
    data = toy.data.open(copy.copy(source), seed=3)
    model = toy.build(data)  # some data are made by the model itself
    begun = data.state_dict()

    def keys(data: Data, epoch: int) -> list[tuple[Any, ...]]:
        return [_key(batch) for batch in data.batches("train", epoch=epoch, model=model)]

    first, again, other = (keys(data, epoch) for epoch in (0, 0, 1))
    # the second pass over epoch 0 goes on where the first ended: nothing is left of it
    assert not again, "an epoch that is consumed must be empty"
    data.load_state_dict(begun)
    assert keys(data, 0) == first, "the order of an epoch must be fixed by (seed, epoch)"
    assert len(first) < 2 or first != other, "every epoch has the same order"
    half = len(first) // 2
    data.load_state_dict(begun)
    list(itertools.islice(data.batches("train", epoch=0, model=model), half))
    state = data.state_dict()
    fresh = toy.data.open(copy.copy(source), seed=3)
    if getattr(data, "answering", None) is not None:
        fresh.answering = data.answering  # type: ignore[attr-defined]  # as the system that builds a model gives it
    fresh.load_state_dict(state)
    assert keys(fresh, 0) == first[half:], "the position in an epoch is not restored"


def _key(batch: Batch) -> tuple[Any, ...]:
    return tuple(
        (name, round(float(v.double().sum()), 9), tuple(v.shape))
        for name, v in sorted(batch.items())
        if isinstance(v, Tensor)
    )


def check_pictures(system: type[System], folder: Path) -> None:
    """The report is written, and no picture or table of the system fails."""
    toy, source = _toy(system)
    run = api.fit(toy, source, out=folder / "run")
    for picture in run.system.pictures(run):
        assert picture.png.startswith(b"\x89PNG"), f"{picture.title}: not a PNG"
    for table in run.system.tables(run):
        assert all(len(row) == len(table.columns) for row in table.rows), f"{table.title}: ragged"
    report = (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert system.name in report
    shutil.rmtree(folder / "run")


CHECKS: dict[str, Callable[[type[System], Path], None]] = {
    "documented": check_documented,
    "saved": check_saved,
    "resumed": check_resumed,
    "refuses": check_refuses,
    "accumulation": check_accumulation,
    "moves": check_moves,
    "weightless": check_weightless,
    "orders": check_orders,
    "pictures": check_pictures,
}
"""Every check by the name that `exempt` uses."""
