"""The loss that follows from the target."""

from __future__ import annotations

import pytest

from fourfold.core.errors import UserError
from fourfold.core.targets import Target
from fourfold.objectives.automatic import Automatic, in_words
from fourfold.objectives.classification import CrossEntropy
from fourfold.objectives.labels import BinaryCrossEntropy
from fourfold.objectives.regression import SquaredError

NUMBER = Target("price", "number", mean=3.0, scale=2.0)
TWO = Target("side", "category", ("left", "right"), counts=(1, 2), rows=3)
THREE = Target("species", "category", ("a", "b", "c"), counts=(1, 1, 1), rows=3)
LABELS = Target("tag_*", "labels", ("tag_a", "tag_b"), counts=(1, 2), rows=3)


def test_each_kind_of_target_has_its_loss_and_outputs() -> None:
    wanted = [(NUMBER, SquaredError, 1), (TWO, CrossEntropy, 1), (THREE, CrossEntropy, 3)]
    for target, loss, outputs in [*wanted, (LABELS, BinaryCrossEntropy, 2)]:
        found = Automatic().chosen(target)
        assert type(found) is loss and found.outputs(target) == outputs
        assert found._target is target


def test_options_are_passed_on() -> None:
    found = Automatic(metric="auroc", class_weights="balanced", label_smoothing=0.1).chosen(TWO)
    assert found == CrossEntropy(
        metric="auroc", class_weights="balanced", label_smoothing=0.1
    ).chosen(TWO)
    labels = Automatic(class_weights={"tag_a": 2.0}, label_smoothing=0.1).chosen(LABELS)
    assert labels.model_dump(exclude={"kind", "label_weights"}) == {
        "metric": None,
        "class_weights": {"tag_a": 2.0},
        "label_smoothing": 0.1,
    }
    assert Automatic(metric="rmse").chosen(NUMBER).metric == "rmse"


def test_options_that_do_not_apply_are_refused() -> None:
    with pytest.raises(
        UserError, match="--class-weights is for classes and labels; price is a number"
    ):
        Automatic(class_weights="balanced").chosen(NUMBER)
    with pytest.raises(UserError, match="--label-smoothing is for classes and labels"):
        Automatic(label_smoothing=0.1).chosen(NUMBER)
    with pytest.raises(UserError, match="--metric auroc is not for a number such as price"):
        Automatic(metric="auroc").chosen(NUMBER)
    with pytest.raises(ValueError, match="did you mean auroc"):
        Automatic(metric="auc")


def test_the_choice_in_words() -> None:
    assert in_words(NUMBER) == "squared error, because price is a number"
    assert "one sigmoid output, because side has two classes" in in_words(TWO)
    assert "softmax, because species has 3 classes" in in_words(THREE)
    assert "one sigmoid output for each of 2 labels" in in_words(LABELS)
