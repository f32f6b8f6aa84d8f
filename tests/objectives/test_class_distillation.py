"""What a student of classes loses, against its formula in NumPy."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fourfold.core.targets import Target
from fourfold.objectives.class_distillation import DistilClasses

WEIGHT, TEMPERATURE = 0.25, 2.0


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("weights", [None, (1.0, 3.0, 0.5, 2.0)])
def test_hard_and_soft_targets_count_by_their_weight(
    classes: int, weights: tuple[float, ...] | None
) -> None:
    draw = np.random.default_rng(classes)
    columns = 1 if classes == 2 else classes  # of two classes the log-odds of the second
    ours, theirs = draw.normal(size=(2, 6, columns)) * 2
    labels = draw.integers(0, classes, 6)
    names = tuple("abcd"[:classes])
    told = "none" if weights is None else dict(zip(names, weights, strict=False))
    objective = DistilClasses(
        teacher="t", weight=WEIGHT, temperature=TEMPERATURE, class_weights=told
    ).chosen(Target("label", "category", names))
    objective._teacher = SimpleNamespace(model=lambda features: torch.tensor(theirs))
    batch = {"features": torch.zeros(6, 1), "targets": torch.tensor(labels)}

    class Student(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return torch.tensor(ours)

    (move,) = objective.losses(Student(), batch)
    whole = [x if classes > 2 else np.concatenate([0 * x, x], axis=1) for x in (ours, theirs)]
    each = np.ones(6) if weights is None else np.array(weights)[labels]
    hard = -np.log(softmax(whole[0])[np.arange(6), labels]) @ each / each.sum()
    student, teacher = (softmax(x / TEMPERATURE) for x in whole)
    apart = (teacher * (np.log(teacher) - np.log(student))).sum(axis=1).mean()
    expected = (1 - WEIGHT) * hard + WEIGHT * TEMPERATURE**2 * apart
    found = float(move.loss) / float(torch.as_tensor(move.weight))
    assert found == pytest.approx(expected, rel=1e-5)
