"""Losses of numbers against torch and scikit-learn."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.evaluation import measure
from fourfold.core.targets import Target
from fourfold.data.table import Tabular
from fourfold.objectives.regression import (
    AbsoluteError,
    Huber,
    Numbers,
    Poisson,
    Quantile,
    SquaredError,
)

size = st.integers(1, 6)


@settings(deadline=None, max_examples=20)
@given(size, size, size)
def test_squared_error_equals_torch(rows: int, features: int, outputs: int) -> None:
    model = nn.Linear(features, outputs).double()
    batch = {
        "features": torch.randn(rows, features, dtype=torch.float64),
        "targets": torch.randn(rows, outputs, dtype=torch.float64),
    }
    (move,) = SquaredError().losses(model, batch)
    oracle = nn.functional.mse_loss(model(batch["features"]), batch["targets"])
    torch.testing.assert_close(move.loss / move.weight, oracle, rtol=1e-10, atol=1e-12)
    (by_move,) = torch.autograd.grad(move.loss / move.weight, [model.weight])
    (by_torch,) = torch.autograd.grad(oracle, [model.weight])
    torch.testing.assert_close(by_move, by_torch, rtol=1e-10, atol=1e-12)


def test_gradcheck() -> None:
    model = nn.Linear(3, 1).double()
    targets = torch.randn(5, dtype=torch.float64)

    def loss(features: torch.Tensor) -> torch.Tensor:
        (move,) = SquaredError().losses(model, {"features": features, "targets": targets})
        return move.loss

    torch.autograd.gradcheck(loss, torch.randn(5, 3, dtype=torch.float64, requires_grad=True))


def test_sums_over_micro_batches_are_the_whole() -> None:
    model = nn.Linear(3, 1)
    batch = {"features": torch.randn(9, 3), "targets": torch.randn(9)}
    parts = [{k: v[a:b] for k, v in batch.items()} for a, b in ((0, 2), (2, 9))]
    (whole,) = SquaredError().losses(model, batch)
    moves = [next(iter(SquaredError().losses(model, part))) for part in parts]
    torch.testing.assert_close(moves[0].loss + moves[1].loss, whole.loss)
    assert float(moves[0].weight) + float(moves[1].weight) == whole.weight == 9


def test_measures_equal_sklearn() -> None:
    from sklearn.metrics import mean_absolute_error, mean_squared_error

    data = Tabular(batch=100).open("diabetes")
    model = nn.Linear(len(data.columns), 1)
    found = measure(SquaredError(), model, data, "train", torch.device("cpu"))
    features = torch.cat([b["features"] for b in data.batches("train")])
    targets = torch.cat([b["targets"] for b in data.batches("train")]).numpy()
    predicted = model(features).detach().numpy()
    assert list(found) == ["mse", "mae"]
    assert found["mse"] == pytest.approx(mean_squared_error(targets, predicted), rel=1e-5)
    assert found["mae"] == pytest.approx(mean_absolute_error(targets, predicted), rel=1e-5)


def test_measures_are_in_the_targets_own_units() -> None:
    """Of prepared numbers (y - 10) / 3: Huber's delta is 3 there, and levels keep their meaning."""
    from scipy.special import huber
    from sklearn.metrics import mean_absolute_error, mean_pinball_loss, mean_squared_error

    target, random = Target("y", "number", mean=10.0, scale=3.0), np.random.default_rng(0)
    true, told = random.normal(size=(2, 50))
    y, found = 3 * true + 10, 3 * told + 10
    model, batch = (
        nn.Identity(),
        {"features": torch.tensor(told)[:, None], "targets": torch.tensor(true)},
    )
    quantile = Quantile(levels=(0.2,))
    for loss, name, wanted in (
        (Huber(delta=0.5), "huber", huber(1.5, y - found).mean()),
        (quantile, "pinball", mean_pinball_loss(y, found, alpha=0.2)),
        (SquaredError(), "mse", mean_squared_error(y, found)),
        (AbsoluteError(), "mae", mean_absolute_error(y, found)),
    ):
        total, weight = loss.chosen(target).measure(model, batch)[name]
        assert weight is not None
        assert float(total) / float(weight) == pytest.approx(wanted, rel=1e-12)


def test_shapes_that_would_broadcast_are_refused() -> None:
    batch = {"features": torch.randn(4, 3), "targets": torch.randn(4)}
    with pytest.raises(ValueError, match=r"one shape, got \(4, 2\) and \(4,\)"):
        list(SquaredError().losses(nn.Linear(3, 2), batch))
    with pytest.raises(ValueError, match=r"got \(4,\) and \(3,\)"):
        batch["targets"] = batch["targets"][:3]
        list(SquaredError().losses(nn.Linear(3, 1), batch))


# --- the other losses of numbers --------------------------------------------------------------

TARGET = Target("y", "number", mean=5.0, scale=2.0)


def mean(loss: Numbers, outputs: torch.Tensor, targets: torch.Tensor, weight: Any = None) -> Any:
    batch = {"features": outputs, "targets": targets}
    (move,) = loss.losses(nn.Identity(), batch if weight is None else {**batch, "weight": weight})
    return move.loss / move.weight


def drawn(outputs: int = 1, rows: int = 30) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(outputs)
    x = 2 * torch.randn(rows, outputs, generator=generator, dtype=torch.float64)
    y = 2 * torch.randn(rows, generator=generator, dtype=torch.float64)
    return x, y, torch.rand(rows, generator=generator, dtype=torch.float64)


def test_losses_equal_torch_and_sklearn_with_weights() -> None:
    from sklearn.metrics import mean_absolute_error, mean_pinball_loss, mean_squared_error

    x, y, weight = drawn()
    torch.testing.assert_close(mean(AbsoluteError(), x, y), nn.L1Loss()(x[:, 0], y))
    for delta in (0.5, 1.0, 3.0):
        oracle = nn.HuberLoss(delta=delta)(x[:, 0], y)
        torch.testing.assert_close(mean(Huber(delta=delta), x, y), oracle, rtol=1e-10, atol=0)
    for loss, score in (
        (AbsoluteError(), mean_absolute_error),
        (SquaredError(), mean_squared_error),
    ):
        wanted = score(y, x[:, 0], sample_weight=weight)
        assert mean(loss, x, y, weight).item() == pytest.approx(wanted, rel=1e-10)
    x, y, weight = drawn(3)
    levels = (0.1, 0.5, 0.8)
    each = [
        mean_pinball_loss(y, x[:, i], alpha=q, sample_weight=weight) for i, q in enumerate(levels)
    ]
    assert mean(Quantile(levels=levels), x, y, weight).item() == pytest.approx(sum(each), rel=1e-10)


def test_quantiles_do_not_cross_when_predicting_and_are_none_the_worse() -> None:
    loss = Quantile(levels=(0.1, 0.5, 0.9)).chosen(TARGET)
    x, y, _ = drawn(3)
    found = loss.further(x)
    assert list(found) == ["quantile_0.1", "quantile_0.5", "quantile_0.9"]
    stacked = torch.stack(list(found.values()), dim=1)
    assert (stacked.diff(dim=1) >= 0).all() and not (x.diff(dim=1) >= 0).all()
    torch.testing.assert_close(loss.predict(x), found["quantile_0.5"])
    assert mean(loss, stacked, y) <= mean(loss, x, y)
    batch = {"features": x, "targets": y}
    values = {
        n: float(t) / float(w or 0) for n, (t, w) in loss.measure(nn.Identity(), batch).items()
    }
    assert values["pinball"] == pytest.approx(2 * float(mean(loss, stacked, y)) / 3, rel=1e-10)
    assert values["mae"] == pytest.approx(2 * float((stacked[:, 1] - y).abs().mean()), rel=1e-10)


def test_a_constant_model_finds_the_quantiles() -> None:
    y = torch.arange(1000, dtype=torch.float64) / 1000
    loss = Quantile(levels=(0.2, 0.9))
    constant = torch.tensor([[0.2, 0.9]], dtype=torch.float64)
    best = mean(loss, constant.expand(1000, 2), y)
    for move in ([0.03, 0.0], [-0.03, 0.0], [0.0, 0.03], [0.0, -0.03]):
        assert mean(loss, (constant + torch.tensor(move)).expand(1000, 2), y) > best


def test_poisson_equals_torch_and_sklearn_in_the_counts_own_units() -> None:
    from sklearn.metrics import mean_poisson_deviance

    loss = Poisson().chosen(TARGET)
    x, _, weight = drawn()
    counts = torch.poisson(torch.full((30,), 4.0, dtype=torch.float64))
    y = (counts - 5) / 2
    logs = x[:, 0] + np.log(5.0)  # an output of 0 is the training rows' mean
    oracle = nn.PoissonNLLLoss(full=False)(logs, counts)
    torch.testing.assert_close(mean(loss, x, y), oracle, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(loss.predict(x) * 2 + 5, logs.exp())
    batch = {"features": x, "targets": y, "weight": weight}
    values = {
        n: float(t) / float(w or 0) for n, (t, w) in loss.measure(nn.Identity(), batch).items()
    }
    wanted = mean_poisson_deviance(counts, logs.exp(), sample_weight=weight)
    assert list(values) == ["loss", "deviance", "mse", "mae"]
    assert values["deviance"] == pytest.approx(wanted, rel=1e-10)
    assert values["mse"] == pytest.approx(
        np.average((logs.exp() - counts) ** 2, weights=weight), rel=1e-10
    )
    raw = Poisson().chosen(Target("y", "number"))  # a target that was not standardized
    torch.testing.assert_close(mean(raw, x, counts), nn.PoissonNLLLoss(full=False)(x[:, 0], counts))
    with pytest.raises(UserError, match="--objective poisson: y holds -1; counts are not negative"):
        mean(raw, x[:2], torch.tensor([3.0, -1.0]))


ALL = [SquaredError(), AbsoluteError(), Huber(), Quantile(), Poisson()]


@pytest.mark.parametrize("loss", ALL, ids=repr)
def test_gradcheck_with_weights(loss: Numbers) -> None:
    told = loss.chosen(TARGET)
    x, y, weight = drawn(told.outputs(TARGET), rows=6)
    y = y.abs()
    torch.autograd.gradcheck(lambda given: mean(told, given, y, weight), x.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_exact_at_ten_thousand(dtype: torch.dtype, sign: int) -> None:
    x = torch.tensor([[sign * 1e4]], dtype=dtype, requires_grad=True)
    y = torch.tensor([1.0], dtype=dtype)
    error = sign * 1e4 - 1
    tail = 0.25 if sign < 0 else 0.75  # of e = y - x: q where x is below, 1 - q above
    wanted = [
        (SquaredError(), error**2, 2 * error),
        (AbsoluteError(), abs(error), sign),
        (Huber(delta=2.0), 2 * (abs(error) - 1), 2 * sign),
        (Quantile(levels=(0.25,)), tail * abs(error), tail * sign),
    ]
    for loss, value, slope in wanted:
        found = mean(loss, x, y)
        assert found.item() == pytest.approx(value, rel=2e-7 if dtype == torch.float32 else 1e-14)
        assert torch.autograd.grad(found, x)[0].item() == pytest.approx(slope, rel=2e-7)
    found = mean(Poisson(), x, y)
    (slope_,) = torch.autograd.grad(found, x)
    if sign < 0:  # the rate is 0 to the last digit
        assert found.item() == 1e4 and slope_.item() == -1
    else:  # the straight line, far above any count
        assert found.item() == pytest.approx(np.exp(50) * (1 + 1e4 - 50), rel=1e-5)
        assert slope_.item() == pytest.approx(np.exp(50), rel=1e-5)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="expected rising shares"):
        Quantile(levels=(0.9, 0.1))
    with pytest.raises(ValueError, match="less than 1"):
        Quantile(levels=(0.1, 1.0))
    with pytest.raises(UserError, match="--objective huber is for a number; side is a category"):
        Huber().chosen(Target("side", "category", ("left", "right")))
