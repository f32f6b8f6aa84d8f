"""Losses of several labels against torch and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fourfold.core.errors import UserError
from fourfold.core.targets import Target
from fourfold.objectives.labels import BinaryCrossEntropy, Labels, MultiLabelMargin

DOUBLE = torch.float64


class Given(nn.Module):
    """A model whose outputs are its features."""

    def forward(self, features: Tensor) -> Tensor:
        return features


def drawn(labels: int, rows: int = 20, share: float = 0.4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(labels)
    targets = (torch.rand(rows, labels, generator=generator) < share).to(DOUBLE)
    return 3 * torch.randn(rows, labels, generator=generator, dtype=DOUBLE), targets


def target(targets: Tensor) -> Target:
    names = tuple("abcdefgh"[: targets.shape[1]])
    counts = tuple(int(n) for n in targets.sum(0))
    return Target("tag_*", "labels", names, counts=counts, rows=len(targets))


def mean(loss: Labels, outputs: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    batch = {"features": outputs, "targets": targets}
    (move,) = loss.losses(Given(), batch if weight is None else {**batch, "weight": weight})
    return move.loss / move.weight


def numbered(targets: Tensor) -> Tensor:
    """torch's form: the numbers of the labels that are there, then -1."""
    found = torch.full(targets.shape, -1, dtype=torch.int64)
    for row, present in enumerate(targets):
        there = present.nonzero()[:, 0]
        found[row, : len(there)] = there
    return found


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 8), st.sampled_from([0.0, 0.2, 0.8, 1.0]))
def test_margin_equals_torch(labels: int, rows: int, share: float) -> None:
    outputs, targets = drawn(labels, rows, share)
    outputs.requires_grad_()
    oracle = nn.MultiLabelMarginLoss()(outputs, numbered(targets))
    found = mean(MultiLabelMargin(), outputs, targets)
    torch.testing.assert_close(found, oracle, rtol=1e-10, atol=1e-12)
    ours, theirs = (torch.autograd.grad(v, outputs, retain_graph=True)[0] for v in (found, oracle))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_another_margin_is_torchs_loss_of_scaled_outputs() -> None:
    outputs, targets = drawn(5)
    oracle = 3 * nn.MultiLabelMarginLoss()(outputs / 3, numbered(targets))
    torch.testing.assert_close(mean(MultiLabelMargin(margin=3), outputs, targets), oracle)


def test_margin_has_the_right_sign() -> None:
    targets = torch.tensor([[1.0, 0.0]])
    right, wrong = torch.tensor([[2.0, -2.0]]), torch.tensor([[-2.0, 2.0]])
    assert float(mean(MultiLabelMargin(), right, targets)) == 0
    assert float(mean(MultiLabelMargin(), wrong, targets)) == pytest.approx(5 / 2)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.booleans(), st.booleans())
def test_binary_cross_entropy_equals_torch(labels: int, presence: bool, each: bool) -> None:
    outputs, targets = drawn(labels)
    outputs.requires_grad_()
    names = target(targets).classes
    loss = BinaryCrossEntropy(
        class_weights={names[0]: 4.0} if presence else "none",
        label_weights={names[-1]: 0.5} if each else {},
    ).chosen(target(targets))
    there, weight = torch.ones(labels, dtype=DOUBLE), torch.ones(labels, dtype=DOUBLE)
    there[0], weight[-1] = 4.0 if presence else 1.0, 0.5 if each else 1.0
    oracle = nn.BCEWithLogitsLoss(weight=weight, pos_weight=there)(outputs, targets)
    found = mean(loss, outputs, targets)
    torch.testing.assert_close(found, oracle, rtol=1e-10, atol=1e-12)
    ours, theirs = (torch.autograd.grad(v, outputs, retain_graph=True)[0] for v in (found, oracle))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_row_weights_equal_sklearn_label_by_label() -> None:
    from sklearn.metrics import log_loss

    outputs, targets = drawn(4)
    weight = torch.rand(len(targets), dtype=DOUBLE)
    p = outputs.sigmoid()
    each = [
        log_loss(targets[:, k], p[:, k], sample_weight=weight.numpy(), labels=[0, 1])
        for k in range(4)
    ]
    found = mean(BinaryCrossEntropy(), outputs, targets, weight)
    assert found.item() == pytest.approx(np.mean(each), rel=1e-10)


def test_balanced_sides_count_alike() -> None:
    from sklearn.metrics import log_loss
    from sklearn.utils.class_weight import compute_sample_weight

    outputs, targets = drawn(3)
    loss = BinaryCrossEntropy(class_weights="balanced").chosen(target(targets))
    p = outputs.sigmoid()
    each = [
        log_loss(
            targets[:, k], p[:, k], sample_weight=compute_sample_weight("balanced", targets[:, k])
        )
        for k in range(3)
    ]
    assert mean(loss, outputs, targets).item() == pytest.approx(np.mean(each), rel=1e-10)


def test_smoothing_moves_targets_towards_one_half() -> None:
    outputs, targets = drawn(3)
    for weights in ({}, {"a": 2.0}):
        loss = BinaryCrossEntropy(label_smoothing=0.2, label_weights=weights).chosen(
            target(targets)
        )
        weight = torch.tensor([weights.get("a", 1.0), 1.0, 1.0], dtype=DOUBLE)
        oracle = nn.BCEWithLogitsLoss(weight=weight)(outputs, 0.8 * targets + 0.1)
        torch.testing.assert_close(mean(loss, outputs, targets), oracle, rtol=1e-10, atol=1e-12)


LOSSES = [
    BinaryCrossEntropy(),
    BinaryCrossEntropy(class_weights="balanced", label_smoothing=0.1),
    MultiLabelMargin(margin=2.0),
]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_gradcheck(loss: Labels) -> None:
    outputs, targets = drawn(4, rows=5)
    told, weight = loss.chosen(target(targets)), torch.rand(5, dtype=DOUBLE)
    torch.autograd.gradcheck(
        lambda given: mean(told, given, targets, weight), outputs.requires_grad_()
    )


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_exact_at_ten_thousand(dtype: torch.dtype) -> None:
    outputs = torch.tensor([[1e4, -1e4, 1e4, -1e4]], dtype=dtype, requires_grad=True)
    targets = torch.tensor([[1.0, 0.0, 0.0, 1.0]], dtype=dtype)
    for loss in (BinaryCrossEntropy(), BinaryCrossEntropy(label_weights={"a": 1.0})):
        found = mean(loss.chosen(target(targets)), outputs, targets)
        (slope,) = torch.autograd.grad(found, outputs)
        assert found.item() == 5000 and slope[0].tolist() == [0, 0, 0.25, -0.25]
    # pairs (j, i): (0, 1) and (3, 2), (0, 2) equal, (3, 1) equal
    found = mean(MultiLabelMargin(), outputs, targets)
    (slope,) = torch.autograd.grad(found, outputs)
    assert found.item() == (20_001 + 1 + 1) / 4
    assert slope[0].tolist() == [-0.25, 0.25, 0.5, -0.5]


def test_wrong_labels_are_counted() -> None:
    outputs, targets = drawn(4)
    weight = torch.rand(len(targets))
    batch = {"features": outputs, "targets": targets, "weight": weight}
    total, count = BinaryCrossEntropy().measure(Given(), batch)["hamming"]
    wrong = ((outputs > 0).double() != targets).double().mean(1)
    assert float(total) / float(count or 0) == pytest.approx(
        np.average(wrong, weights=weight), rel=1e-6
    )


def test_refusals() -> None:
    _, targets = drawn(3)
    with pytest.raises(UserError, match="--class-weights: there is no label 'rare'; choose from a"):
        BinaryCrossEntropy(class_weights={"rare": 2.0}).chosen(target(targets))
    with pytest.raises(UserError, match="--label-weights: there is no label 'rare'"):
        BinaryCrossEntropy(label_weights={"rare": 2.0}).chosen(target(targets))
    with pytest.raises(UserError, match="margin is for a set of labels; y is a category"):
        MultiLabelMargin().chosen(Target("y", "category", ("a", "b")))
    with pytest.raises(UserError, match="--metric log_loss needs probabilities"):
        MultiLabelMargin(metric="log_loss").chosen(target(targets))
