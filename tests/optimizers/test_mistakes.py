"""Rosenblatt's rule against scikit-learn's and Novikoff's bound; separability with its proofs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.core.run import Run
from fourfold.core.targets import Target
from fourfold.models.linear import Linear
from fourfold.objectives.classification import Perceptron
from fourfold.optimizers.margin import nearest_in_hull, separation
from fourfold.optimizers.mistakes import Mistakes
from helpers import Rows, RowSystem

TWO = Target("side", "category", ("left", "right"))


def fitted(x: np.ndarray, y: np.ndarray, weight: Any = None, **options: Any) -> tuple[Any, Any]:
    rows = {"features": torch.from_numpy(x), "targets": torch.from_numpy(y).long()}
    if weight is not None:
        rows["weight"] = torch.from_numpy(weight)
    loss, model = Perceptron().chosen(TWO), Linear(x.shape[1], 1, torch.float64)
    run = Run(RowSystem())
    run.data, run.model = Rows({"train": rows}, 16, 0), model
    run.data.target = TWO  # type: ignore[attr-defined]
    Mistakes(**options).minimize(loss, model, run.data, run)
    return model, run


def drawn(rows: int, columns: int, gap: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows on both sides of a hyperplane, `gap` away from it; below 0 they overlap."""
    random = np.random.default_rng(seed)
    x, w = random.normal(size=(rows, columns)), random.normal(size=columns)
    w /= np.linalg.norm(w)
    y = (x @ w > 0.2).astype(int)
    return x + gap * (2 * y - 1)[:, None] * w, y


def points(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.column_stack([x, np.ones(len(x))]) * (2 * y - 1)[:, None]


@settings(deadline=None, max_examples=25)
@given(st.integers(4, 60), st.integers(1, 6), st.integers(0, 1000))
def test_mistakes_stay_within_novikoffs_bound(rows: int, columns: int, seed: int) -> None:
    x, y = drawn(rows, columns, 0.3, seed)
    model, run = fitted(x, y, epochs=1000)
    made = sum(line["mistakes"] for line in run.metrics.lines if "mistakes" in line)
    found = separation(points(x, y))
    assert found.verdict == "separable" and made <= found.bound
    values = (x @ model.weight.detach().numpy().T)[:, 0] + model.bias.item()
    assert ((values > 0) == (y == 1)).all()
    assert run.notes[0].startswith("A hyperplane separates the classes of the training rows")
    assert f"at most (R / gamma)^2 = {found.bound:,.4g}" in run.notes[0]


def test_every_step_is_rosenblatts() -> None:
    from sklearn.linear_model import Perceptron as Oracle

    x, y = drawn(120, 3, -0.5)
    oracle = Oracle(shuffle=False, alpha=0)
    for epochs in range(1, 6):
        model, run = fitted(x, y, epochs=epochs, keep="last")
        order = Rows({"train": {"number": torch.arange(120)}}, 16, 0)
        numbers = torch.cat([b["number"] for b in order.batches("train", epoch=epochs - 1)])
        oracle.partial_fit(x[numbers], y[numbers], classes=[0, 1])
        np.testing.assert_allclose(model.weight.detach(), oracle.coef_, atol=1e-9)
        assert model.bias.item() == oracle.intercept_[0]


def test_the_average_is_over_all_rows_visited() -> None:
    from sklearn.linear_model import Perceptron as Oracle

    x, y = drawn(48, 2, -0.5)
    model, run = fitted(x, y, epochs=2, keep="averaged")
    oracle, visited = Oracle(shuffle=False, alpha=0), []
    rows = Rows({"train": {"number": torch.arange(48)}}, 16, 0)
    for epoch in range(2):
        for number in torch.cat([b["number"] for b in rows.batches("train", epoch=epoch)]):
            oracle.partial_fit(x[number : number + 1], y[number : number + 1], classes=[0, 1])
            visited.append([*oracle.coef_[0], oracle.intercept_[0]])
    wanted = np.mean(visited, axis=0)
    np.testing.assert_allclose([*model.weight[0].tolist(), model.bias.item()], wanted, atol=1e-9)
    assert [line["seen"] for line in run.metrics.lines if "seen" in line] == [48, 96]


def test_the_pocket_holds_the_fewest_mistakes() -> None:
    x, y = drawn(200, 4, -0.4)

    def wrong(model: Any) -> int:
        values = (x @ model.weight.detach().numpy().T)[:, 0] + model.bias.item()
        return int(((values > 0) != (y == 1)).sum())

    last = [wrong(fitted(x, y, epochs=n, keep="last")[0]) for n in range(1, 16)]
    assert wrong(fitted(x, y, epochs=15, keep="pocket")[0]) == min(last) < last[-1]


def test_weights_of_rows_are_lengths_of_steps_and_zero_is_no_row() -> None:
    x, y = drawn(80, 3, -0.5)
    doubled, _ = fitted(x, y, np.full(80, 2.0), epochs=4, keep="last")
    once, _ = fitted(x, y, epochs=4, keep="last")
    np.testing.assert_allclose(doubled.weight.detach(), 2 * once.weight.detach(), rtol=1e-12)
    x, y = drawn(80, 3, 0.3)
    flipped, weight = y.copy(), np.ones(80)
    flipped[5], weight[5] = 1 - y[5], 0.0
    _, run = fitted(x, flipped, weight, epochs=500)
    assert run.notes[0].startswith("A hyperplane separates")
    uneven, run = fitted(x, y, 0.5 + np.random.default_rng(0).random(80), epochs=500)
    assert "separates" in run.notes[0] and "Novikoff" not in run.notes[0]


def test_classes_that_are_not_separable_are_proven_so() -> None:
    x = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    _, run = fitted(x, np.array([0, 0, 1, 1]), epochs=7)
    assert run.notes == [
        "No hyperplane separates the classes: a weighted mean of 2 rows of left equals one of 2 rows of right. "
        "Rosenblatt's rule would never end; it made 4 mistakes in its last epoch."
    ]
    assert len(run.metrics.lines) == 7
    # a row of weight 0 is no part of the proof, and takes no place among the others
    more, sides = np.vstack([[[9.0, 9.0]], x]), np.array([1, 0, 0, 1, 1])
    _, weighed = fitted(more, sides, np.array([0.0, 1.0, 1.0, 1.0, 1.0]), epochs=7)
    assert weighed.notes[0].partition(". ")[0] == run.notes[0].partition(". ")[0]


def test_classes_that_are_separable_but_not_yet_separated_are_told_apart() -> None:
    x, y = drawn(300, 4, 0.004, seed=2)
    _, run = fitted(x, y, epochs=1)
    told = "A hyperplane separates the classes of the training rows, but was not found yet: "
    assert run.notes[0].startswith(told) and "--epochs allows more" in run.notes[0]


# --- the margin -------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 1000), st.floats(-1.0, 2.0))
def test_nearest_point_of_a_hull_equals_least_distance_programming(
    rows: int, columns: int, seed: int, away: float
) -> None:
    from scipy.optimize import nnls

    random = np.random.default_rng(seed)
    cloud = random.normal(size=(rows, columns)) + away
    chosen, shares = nearest_in_hull(cloud)
    assert (shares >= 0).all() and shares.sum() == pytest.approx(1)
    assert len(set(chosen.tolist())) == len(chosen) <= columns + 1
    point = shares @ cloud[chosen]
    weights, _ = nnls(np.vstack([cloud.T, np.ones(rows)]), np.r_[np.zeros(columns), 1.0])
    wanted = cloud.T @ weights / weights.sum()
    np.testing.assert_allclose(point, wanted, atol=1e-6)
    assert (cloud @ point >= point @ point - 1e-9).all()  # no point lies nearer in its direction


def test_the_margin_is_that_of_a_hard_support_vector_machine() -> None:
    from sklearn.svm import SVC

    x, y = drawn(60, 3, 0.2)
    found = separation(points(x, y))
    through = np.column_stack([x, np.ones(60)])
    both, sides = np.vstack([through, -through]), np.r_[y, 1 - y]  # symmetric: no bias of its own
    oracle = SVC(kernel="linear", C=1e8, tol=1e-10).fit(both, sides)
    assert found.verdict == "separable"
    assert found.margin == pytest.approx(1 / np.linalg.norm(oracle.coef_), rel=1e-5)
    assert found.radius == pytest.approx(np.linalg.norm(through, axis=1).max())


@settings(deadline=None, max_examples=25)
@given(st.integers(3, 80), st.integers(1, 5), st.integers(0, 1000))
def test_the_verdict_is_that_of_a_linear_program(rows: int, columns: int, seed: int) -> None:
    from scipy.optimize import linprog

    random = np.random.default_rng(seed)
    x, y = random.normal(size=(rows, columns)), random.integers(0, 2, rows)
    p = points(x, y)
    feasible = linprog(np.zeros(columns + 1), A_ub=-p, b_ub=-np.ones(rows), bounds=(None, None))
    found = separation(p)
    assert found.verdict == ("separable" if feasible.status == 0 else "not separable")
    if found.verdict == "separable":
        assert (p @ found.direction > 0).all()
    else:
        assert np.linalg.norm(found.shares @ p[found.rows]) < 1e-9 * found.radius
        assert found.bound == np.inf


def test_equal_rows_of_both_classes_are_not_separable() -> None:
    x, y = drawn(40, 3, 0.3)
    both = np.vstack([x, x[7:8]]), np.append(y, 1 - y[7])
    found = separation(points(*both))
    assert found.verdict == "not separable" and set(found.rows.tolist()) == {7, 40}
