"""The verdict: each word provoked by a planted problem, the rules on made evidence, fits on other rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.tasks.judging import verdict
from fourfold.tasks.learning import Evidence, RowCurve, gathered, judge, row_curve
from fourfold.tasks.refit import bootstrap, refitted, rows_of, share_of
from fourfold.tasks.variance import decompose, spreads, values_of
from tables import Net, classes, labels, numbers


@pytest.fixture(autouse=True)
def as_verbs() -> Any:
    with torch.no_grad():  # as verbs are run
        yield


def fitted(source: Any, **options: Any) -> Run:
    with torch.enable_grad():
        return fourfold.fit(Net, source, out=False, **options)


def noisy(rows: int, columns: int = 8, noise: float = 1.0) -> pl.DataFrame:
    """A number that follows from the first column, under noise."""
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, columns))
    names = {f"x{i}": x[:, i] for i in range(columns)}
    return pl.DataFrame({**names, "y": x[:, 0] + noise * random.normal(size=rows)})


def tangled(rows: int) -> pl.DataFrame:
    """A number without noise that takes many rows to see through."""
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 6))
    y = np.sin(2 * x[:, 0]) * x[:, 1] + x[:, 2] * x[:, 3]
    return pl.DataFrame({**{f"x{i}": x[:, i] for i in range(6)}, "y": y})


# --- planted problems ---------------------------------------------------------------------------


def test_enough_of_everything_is_fine() -> None:
    run = fitted(numbers(1_000), target="y", width=32, steps=500)
    assert judge(gathered(run))[0] == "fine"
    assert judge(gathered(fitted(classes(1_000), target="colour")))[0] == "fine"


@pytest.mark.parametrize("options", [{"width": 1}, {"steps": 30, "lr": 0.01}])
def test_too_narrow_or_too_short_is_under_fitting(options: dict[str, Any]) -> None:
    run = fitted(numbers(1_000, noise=0.1), target="y", **options)
    assert judge(gathered(run))[0] == "under-fitting"


def test_learning_noise_by_heart_is_over_fitting() -> None:
    # one evaluation, at the end: nothing keeps the weights from before it went wrong
    options = {"width": 128, "steps": 600, "evaluate_every": "600"}
    seen = gathered(fitted(noisy(500), target="y", **options))
    assert judge(seen)[0] == "over-fitting"
    assert seen.train < 0.3 and seen.held > 1.5


def test_too_few_rows_are_not_enough_data() -> None:
    run = fitted(tangled(200), target="y", width=64, steps=500)
    seen = gathered(run)
    assert judge(seen)[0] == "not enough data"
    more = row_curve(run, seen)
    word, sentences = judge(more)
    assert word == "not enough data" and "still fall with every further row" in sentences[0]
    assert more.rows is not None and more.rows.rows == (16, 32, 64, 128, 160)
    assert more.rows.held[-1] == pytest.approx(seen.held, rel=1e-5)  # all rows: the run itself


def test_columns_that_say_nothing_are_not_enough_data() -> None:
    frame = noisy(500).drop("x0")
    word, sentences = judge(gathered(fitted(frame, target="y", width=4, steps=60, lr=1e-3)))
    assert word == "not enough data" and "next to nothing" in sentences[0]


# --- the rules ----------------------------------------------------------------------------------

GOOD = Evidence(
    "log loss (nats)", "100 rows", train=0.30, held=0.32, spread=0.02, constant=0.69, blind=0.69,
    reference=0.33, reference_spread=0.02,
)  # fmt: skip


def test_rules_over_evidence() -> None:
    wide = replace(GOOD, train=0.1)
    flat = RowCurve((1, 2, 4, 8, 10), (0.1,) * 5, (0.4, 0.35, 0.33, 0.32, 0.32))
    falling = replace(flat, held=(0.6, 0.5, 0.4, 0.34, 0.32))
    for seen, word in [
        (GOOD, "fine"),
        (
            replace(GOOD, held=0.45, spread=0.2, reference=0.44),
            "fine",
        ),  # so wide a gap may be chance
        (replace(GOOD, falling=0.2), "under-fitting"),
        (replace(GOOD, reference=0.2), "under-fitting"),
        (replace(GOOD, reference=0.2, reference_spread=0.1), "fine"),
        (replace(GOOD, train=0.68, held=0.68, reference=None), "under-fitting"),
        (replace(GOOD, train=0.68, held=0.68, reference=0.69), "not enough data"),
        (wide, "not enough data"),
        (replace(wide, reference=0.2), "over-fitting"),
        (replace(wide, risen=0.3, best_step=10, last_step=100), "over-fitting"),
        (replace(wide, rows=flat), "over-fitting"),
        (replace(wide, rows=falling), "not enough data"),
        (replace(wide, rows=falling, reference=0.2), "not enough data"),
    ]:
        assert judge(seen)[0] == word, seen


def test_sentences_tell_numbers_in_the_targets_units() -> None:
    seen = replace(GOOD, measure="mean squared error", train=4.0, held=9.0, constant=100.0)
    told = " ".join(judge(seen)[1])
    assert "training rows 2.000" in told and "a constant 10.00" in told


# --- fits on other rows -------------------------------------------------------------------------


def test_a_fit_on_all_rows_is_the_run_again() -> None:
    run = fitted(numbers(200), target="y", steps=30)
    _, parts = rows_of(run)
    again = refitted(run, np.flatnonzero(parts == 0))
    for a, b in zip(run.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_fit_on_fewer_rows_sees_no_others() -> None:
    frame = numbers(200).with_columns(row=pl.Series(np.arange(200.0)))
    run = fitted(frame, target="y", steps=5)
    _, parts = rows_of(run)
    some = np.flatnonzero(parts == 0)[:40]
    data: Any = refitted(run, some).data
    used = data.rows.frame().filter(pl.Series(data.parts == 0))["row"]
    assert set(used) == set(some.astype(float))
    held = data.rows.frame().filter(pl.Series(data.parts == 1))["row"]
    assert set(held) == set(np.flatnonzero(parts == 1).astype(float))
    assert data.target.rows == 40  # and prepared from these alone


def test_drawn_rows_hold_every_class() -> None:
    codes = np.array([0] * 50 + [1] * 50 + [2])
    random = np.random.default_rng(0)
    for _ in range(20):
        assert set(codes[share_of(codes, np.arange(101), 0.1, random)]) == {0, 1, 2}
        drawn = bootstrap(codes, np.arange(101), random)
        assert set(codes[drawn]) == {0, 1, 2} and 101 <= len(drawn) <= 102


def test_epochs_are_kept_as_steps() -> None:
    run = fitted(numbers(200), target="y", epochs=4)
    _, parts = rows_of(run)
    steps = [run.metrics.lines[-1]["step"]]
    curve = row_curve(run, gathered(run)).rows
    assert curve is not None and len(curve.rows) == 5
    again = refitted(run, np.flatnonzero(parts == 0)[:80], {"optimizer.epochs": 8.0})
    steps.append(again.metrics.lines[-1]["step"])
    assert steps[1] == pytest.approx(steps[0], rel=0.35)  # whole batches of each epoch


# --- bias and variance --------------------------------------------------------------------------


def test_the_decomposition_finds_what_was_planted() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(size=2_000)
    noise, offset, wobble = 0.5, 0.7, 0.3
    true = truth + noise * random.normal(size=2_000)
    fits = truth + offset + wobble * random.normal(size=(6, 2_000))
    bias, variance = decompose(fits, true)
    assert variance == pytest.approx(wobble**2, rel=0.05)
    assert bias == pytest.approx(offset**2 + noise**2, rel=0.1)
    assert bias + variance == pytest.approx(((fits - true) ** 2).mean(), rel=1e-12)


def test_of_probabilities_it_sums_to_the_brier_score() -> None:
    random = np.random.default_rng(0)
    told, true = random.dirichlet(np.ones(3), (4, 50)), np.eye(3)[random.integers(0, 3, 50)]
    bias, variance = decompose(told, true)
    assert bias + variance == pytest.approx(((told - true) ** 2).sum(-1).mean())


def test_wider_networks_have_less_bias_and_more_variance() -> None:
    run = fitted(noisy(160, columns=4, noise=0.5), target="y", width=8, steps=120)
    (found,) = spreads(run, ["width"], 3)
    assert found.values == (2, 4, 8, 16, 32) and found.fits == 3
    assert found.variance[-1] > found.variance[0]
    (rows,) = spreads(fitted(classes(150), target="colour", steps=30), ["rows"], 2)
    assert rows.values == (12, 24, 48, 96, 120) and rows.variance[0] > rows.variance[-1]


def test_values_of_an_option() -> None:
    run = fitted(numbers(60), target="y", steps=2)
    assert values_of(run, "decay") == (0.0, 1e-4, 1e-3, 1e-2, 1e-1)
    assert values_of(run, "optimizer.lr")[2] == 0.03
    with pytest.raises(UserError, match="--spread schedule: expected an option that is a number"):
        values_of(run, "schedule")
    with pytest.raises(UserError, match="unknown option widht of net; did you mean width"):
        values_of(run, "widht")


def test_everything_together_is_drawn() -> None:
    run = fitted(labels(150), target="tag_*", steps=40)
    told = verdict(run, rows=True, spread=("width",), fits=2)
    titles = [p.title for p in told.pictures]
    assert titles == [
        "Errors compared",
        "Learning over training",
        "Learning over rows",
        "Bias and variance over width",
    ]
    assert len(told.tables) == 2 and "Over width" in told.sentences[-1]
