"""Losses of classes against torch, scikit-learn and arithmetic of 60 digits."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fourfold.core.errors import UserError
from fourfold.core.targets import Target
from fourfold.objectives.classification import Classes, CrossEntropy, Focal, Hinge
from fourfold.objectives.supervised import Supervised

DOUBLE = torch.float64
LOSSES = [
    CrossEntropy(),
    CrossEntropy(label_smoothing=0.1),
    Focal(),
    Focal(gamma=0.5),
    Hinge(),
    Hinge(squared=True),
    Hinge(multiclass="one-vs-one"),
    Hinge(multiclass="crammer-singer"),
]


class Given(nn.Module):
    """A model whose outputs are its features."""

    def forward(self, features: Tensor) -> Tensor:
        return features


def target(classes: int, counts: tuple[int, ...] = ()) -> Target:
    names = tuple("abcdefgh"[:classes])
    return Target("y", "category", names, counts=counts, rows=sum(counts))


def mean(
    loss: Supervised, outputs: Tensor, targets: Tensor, weight: Tensor | None = None
) -> Tensor:
    """The mean that a gradient search differentiates."""
    batch = {"features": outputs, "targets": targets}
    (move,) = loss.losses(Given(), batch if weight is None else {**batch, "weight": weight})
    return move.loss / move.weight


def drawn(classes: int, outputs: int, rows: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    targets = torch.randint(classes, (rows,), generator=generator)
    return 3 * torch.randn(rows, outputs, generator=generator, dtype=DOUBLE), targets


def as_two(outputs: Tensor) -> Tensor:
    """Logits of two classes whose log-odds are the output."""
    return torch.cat([torch.zeros_like(outputs), outputs], dim=1)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 5), st.sampled_from([0.0, 0.1, 0.7]), st.booleans())
def test_cross_entropy_equals_torch(classes: int, smoothing: float, weighted: bool) -> None:
    weights = {"a": 3.0, "b": 0.25} if weighted else "none"
    loss = CrossEntropy(class_weights=weights, label_smoothing=smoothing).chosen(target(classes))
    outputs, targets = drawn(classes, loss.outputs(target(classes)))
    outputs.requires_grad_()
    full = as_two(outputs) if classes == 2 else outputs
    vector = torch.tensor([3.0, 0.25, 1.0, 1.0, 1.0], dtype=DOUBLE)[:classes]
    oracle = nn.CrossEntropyLoss(vector if weighted else None, label_smoothing=smoothing)
    found, wanted = mean(loss, outputs, targets), oracle(full, targets)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    ours, theirs = (torch.autograd.grad(v, outputs, retain_graph=True)[0] for v in (found, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 4])
def test_row_weights_equal_sklearn_with_balanced_classes(classes: int) -> None:
    from sklearn.metrics import log_loss
    from sklearn.utils.class_weight import compute_class_weight

    outputs, targets = drawn(classes, 1 if classes == 2 else classes)
    counts = tuple(int((targets == c).sum()) for c in range(classes))
    loss = CrossEntropy(class_weights="balanced").chosen(target(classes, counts))
    weight = torch.rand(len(targets), dtype=DOUBLE)
    balanced = compute_class_weight("balanced", classes=np.arange(classes), y=targets.numpy())
    wanted = log_loss(
        targets, loss.predict(outputs), sample_weight=weight.numpy() * balanced[targets.numpy()]
    )
    assert float(mean(loss, outputs, targets, weight)) == pytest.approx(wanted, rel=1e-10)


def test_focal_of_gamma_zero_is_cross_entropy_and_falls_as_the_paper_says() -> None:
    outputs, targets = drawn(3, 3)
    torch.testing.assert_close(
        mean(Focal(gamma=0), outputs, targets), mean(CrossEntropy(), outputs, targets)
    )
    p = outputs.softmax(1).gather(1, targets[:, None])[:, 0]
    for gamma in (0.5, 2.0, 5.0):
        found = Focal(gamma=gamma).rowwise(outputs, targets)
        torch.testing.assert_close(found, -((1 - p) ** gamma) * p.log(), rtol=1e-10, atol=1e-12)
    one, some = drawn(2, 1)
    p = torch.where(some == 1, one[:, 0].sigmoid(), 1 - one[:, 0].sigmoid())
    found = Focal(gamma=2).rowwise(one, some)
    torch.testing.assert_close(found, -((1 - p) ** 2) * p.log(), rtol=1e-9, atol=1e-12)


def test_hinges_equal_sklearn() -> None:
    from sklearn.metrics import hinge_loss

    outputs, targets = drawn(2, 1)
    weight = torch.rand(len(targets), dtype=DOUBLE)
    wanted = hinge_loss(targets, outputs[:, 0], sample_weight=weight)
    assert float(mean(Hinge(), outputs, targets, weight)) == pytest.approx(wanted, rel=1e-10)
    outputs, targets = drawn(4, 4)
    weight = torch.rand(len(targets), dtype=DOUBLE)
    crammer = mean(Hinge(multiclass="crammer-singer"), outputs, targets, weight)
    wanted = hinge_loss(targets, outputs, labels=range(4), sample_weight=weight)
    assert float(crammer) == pytest.approx(wanted, rel=1e-10)
    rest = sum(hinge_loss(targets == c, outputs[:, c]) for c in range(4))
    assert float(mean(Hinge(), outputs, targets)) == pytest.approx(rest, rel=1e-10)


def test_one_vs_one_counts_each_pair_on_the_rows_of_both() -> None:
    from sklearn.metrics import hinge_loss

    outputs, targets = drawn(4, 6)
    total, pair = 0.0, 0
    for a in range(4):
        for b in range(a + 1, 4):
            rows = (targets == a) | (targets == b)
            total += hinge_loss(targets[rows] == a, outputs[rows, pair]) * int(rows.sum())
            pair += 1
    found = mean(Hinge(multiclass="one-vs-one"), outputs, targets) * len(targets)
    assert float(found) == pytest.approx(total, rel=1e-10)


def test_one_vs_one_decides_as_sklearn_votes() -> None:
    from sklearn.datasets import load_iris
    from sklearn.svm import SVC

    x, y = load_iris(return_X_y=True)
    oracle = SVC(kernel="linear", decision_function_shape="ovo").fit(x, y)
    outputs = torch.from_numpy(oracle.decision_function(x))
    loss = Hinge(multiclass="one-vs-one")
    assert loss.outputs(target(3)) == outputs.shape[1]
    votes = loss._votes(outputs)
    oracle.decision_function_shape = "ovr"
    np.testing.assert_allclose(votes, oracle.decision_function(x), rtol=1e-10)
    assert (loss.predict(outputs).argmax(1).numpy() == oracle.predict(x)).all()


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_gradcheck(loss: Classes, classes: int) -> None:
    told = loss.model_copy(update={"class_weights": {"a": 2.5}}).chosen(target(classes))
    outputs, targets = drawn(classes, told.outputs(target(classes)), rows=7)
    weight = torch.rand(7, dtype=DOUBLE)
    torch.autograd.gradcheck(
        lambda given: mean(told, given, targets, weight), outputs.requires_grad_()
    )


# --- logits of ten thousand ------------------------------------------------------------------


def exact(loss: Classes, logits: list[float], row: int) -> tuple[Any, list[Any]]:
    """Value and gradient of a row in arithmetic of 60 digits."""
    mpmath.mp.dps = 60

    def value(*given: Any) -> Any:
        z = [mpmath.mpf(0), given[0]] if len(given) == 1 else list(given)
        highest = max(z)
        total = highest + mpmath.log(sum(mpmath.exp(v - highest) for v in z))
        nll = total - z[row]
        if isinstance(loss, Focal):
            rest = sum(mpmath.exp(v - total) for i, v in enumerate(z) if i != row)
            return rest**loss.gamma * nll
        assert isinstance(loss, CrossEntropy)
        share = mpmath.mpf(loss.label_smoothing)
        return (1 - share) * nll + share * sum(total - v for v in z) / len(z)

    place = [mpmath.mpf(v) for v in logits]
    slopes = []
    for i in range(len(place)):
        step = mpmath.mpf(10) ** -20
        above, below = ([p + s * (i == j) for j, p in enumerate(place)] for s in (step, -step))
        slopes.append((value(*above) - value(*below)) / (2 * step))
    return value(*place), slopes


EXTREME = [[10_000.0], [-10_000.0], [10_000.0, -10_000.0, 0.0], [10_000.0, 10_000.0, -10_000.0]]


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("logits", EXTREME, ids=repr)
@pytest.mark.parametrize("loss", LOSSES[:3], ids=repr)
def test_values_and_gradients_are_exact_at_ten_thousand(
    loss: Classes, logits: list[float], dtype: torch.dtype
) -> None:
    tolerance = 1e-12 if dtype == DOUBLE else 2e-6
    for row in range(max(2, len(logits))):
        outputs = torch.tensor([logits], dtype=dtype, requires_grad=True)
        found = mean(loss, outputs, torch.tensor([row]))
        value, slopes = exact(loss, logits, row)
        (slope,) = torch.autograd.grad(found, outputs)
        assert found.item() == pytest.approx(float(value), rel=tolerance, abs=tolerance)
        assert slope[0].tolist() == pytest.approx(
            [float(s) for s in slopes], rel=tolerance, abs=tolerance
        )


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_everything_is_finite_at_ten_thousand(loss: Classes) -> None:
    for classes in (2, 3, 4):
        told = loss.model_copy(update={"class_weights": {"a": 2.5}}).chosen(target(classes))
        count = told.outputs(target(classes))
        for row in range(classes):
            outputs = torch.tensor(
                [[1e4] * count, [-1e4] * count, [(-1e4) ** (i % 2) * 1e4 for i in range(count)]],
                requires_grad=True,
            )
            found = mean(told, outputs.clamp(-1e4, 1e4), torch.full((3,), row))
            (slope,) = torch.autograd.grad(found, outputs)
            assert found.isfinite() and slope.isfinite().all()
            assert told.predict(outputs).isfinite().all()


# --- predictions, measures, refusals --------------------------------------------------------


def test_predictions_are_probabilities_of_the_classes_in_order() -> None:
    outputs, _ = drawn(2, 1)
    found = CrossEntropy().predict(outputs)
    torch.testing.assert_close(found, as_two(outputs).softmax(1), rtol=1e-12, atol=1e-14)
    outputs, _ = drawn(3, 3)
    torch.testing.assert_close(Focal().predict(outputs), outputs.softmax(1))
    assert CrossEntropy.probabilistic and not Hinge.probabilistic
    hard = Hinge().predict(outputs)
    assert (hard.argmax(1) == outputs.argmax(1)).all()
    torch.testing.assert_close(hard.sum(1), torch.ones(40, dtype=DOUBLE))


def test_accuracy_counts_rows_by_their_weight_and_not_by_their_class() -> None:
    outputs = torch.tensor([[2.0], [-1.0], [3.0]])
    batch = {
        "features": outputs,
        "targets": torch.tensor([1, 1, 0]),
        "weight": torch.tensor([1.0, 2.0, 5.0]),
    }
    loss = CrossEntropy(class_weights={"b": 10.0}).chosen(target(2))
    found = loss.measure(Given(), batch)
    assert list(found) == ["loss", "accuracy"]
    total, count = found["accuracy"]
    assert float(total) / float(count or 0) == pytest.approx(1 / 8)
    assert float(found["loss"][1] or 0) == pytest.approx(10 + 20 + 5)


def test_halves_are_widened() -> None:
    outputs = torch.tensor([[3.0, 1.0, 0.5]], dtype=torch.bfloat16)
    assert mean(CrossEntropy(), outputs, torch.tensor([0])).dtype == torch.float32


def test_refusals() -> None:
    with pytest.raises(
        UserError, match="--objective cross-entropy is for a category; y is a number"
    ):
        CrossEntropy().chosen(Target("y", "number"))
    with pytest.raises(UserError, match=r"one class only \(a\); a classifier needs two"):
        CrossEntropy().chosen(target(1))
    with pytest.raises(UserError, match="--class-weights: y has no class 'A'; did you mean a?"):
        Focal(class_weights={"A": 2.0}).chosen(target(3))
    with pytest.raises(ValueError, match="no metric is called 'auc'; did you mean auroc?"):
        CrossEntropy(metric="auc")
    with pytest.raises(
        UserError, match="--metric rmse is not for a category such as y; choose from"
    ):
        CrossEntropy(metric="rmse").chosen(target(3))
    with pytest.raises(
        UserError, match="--metric brier needs probabilities, and --objective hinge"
    ):
        Hinge(metric="brier").chosen(target(3))


def test_mixed_rows_count_for_both_targets_by_hand() -> None:
    """Mixup and CutMix: share of the own target's loss, the rest of the one at the place from the end."""
    torch.manual_seed(0)
    outputs, targets = torch.randn(3, 4, dtype=torch.float64), torch.tensor([2, 0, 3])
    share = torch.tensor([0.75, 0.5, 1.0], dtype=torch.float64)
    target = Target("y", "category", tuple("abcd"), counts=(1, 1, 1, 1), rows=4)
    losses = -outputs.log_softmax(1)
    partners = [3, 0, 2]
    for chosen in ("none", {"a": 3.0}):
        weights = [3.0 if chosen != "none" else 1.0, 1.0, 1.0, 1.0]
        total = counted = 0.0
        for row, (own, other) in enumerate(zip(targets.tolist(), partners, strict=True)):
            for label, part in ((own, share[row]), (other, 1 - share[row])):
                total += float(part) * weights[label] * float(losses[row, label])
                counted += float(part) * weights[label]
        loss = CrossEntropy(class_weights=chosen).chosen(target)  # type: ignore[arg-type]
        (move,) = loss.losses(
            torch.nn.Identity(), {"features": outputs, "targets": targets, "share": share}
        )
        assert float(move.loss) == pytest.approx(total, rel=1e-6)
        assert float(move.weight) == pytest.approx(counted, rel=1e-6)
