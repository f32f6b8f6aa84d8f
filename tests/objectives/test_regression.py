"""Squared error against torch and scikit-learn."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fourfold.core.evaluation import measure
from fourfold.data.table import Tabular
from fourfold.objectives.regression import SquaredError

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


def test_shapes_that_would_broadcast_are_refused() -> None:
    batch = {"features": torch.randn(4, 3), "targets": torch.randn(4)}
    with pytest.raises(ValueError, match=r"one shape, got \(4, 2\) and \(4,\)"):
        list(SquaredError().losses(nn.Linear(3, 2), batch))
    with pytest.raises(ValueError, match=r"got \(4,\) and \(3,\)"):
        batch["targets"] = batch["targets"][:3]
        list(SquaredError().losses(nn.Linear(3, 1), batch))
