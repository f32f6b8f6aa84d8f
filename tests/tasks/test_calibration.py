"""Calibration against scikit-learn, and on models that are planted to be over-confident."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, softmax

from fourfold.core.errors import UserError
from fourfold.tasks.calibration import METHODS, Isotonic, Temperature, chosen, fit_all
from fourfold.tasks.scores import calibration_error, reliability


def planted(classes: int, rows: int = 4_000, heat: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a model whose log-odds are `heat` times those of the truth, and the classes."""
    random = np.random.default_rng(classes)
    logits = random.normal(size=(rows, classes))
    true = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    return softmax(heat * logits, axis=1), true


@pytest.mark.parametrize("classes", [2, 5])
def test_the_temperature_that_was_planted_is_found(classes: int) -> None:
    told, true = planted(classes)
    assert Temperature.fit(told, true, None).temperature == pytest.approx(3.0, rel=0.1)


@pytest.mark.parametrize("classes", [2, 5])
def test_temperature_equals_scikit_learn(classes: int) -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    if not hasattr(calibration, "_TemperatureScaling"):
        pytest.skip("this scikit-learn has no temperature scaling")
    told, true = planted(classes, rows=500)
    # one row in M + 2 counts as each of the other classes, as weights
    rows = np.repeat(told, classes, axis=0)
    every = np.tile(np.arange(classes), 500)
    right = every == np.repeat(true, classes)
    weights = np.where(right, 1 - 1 / 502, 1 / 502 / (classes - 1))
    oracle = calibration._TemperatureScaling().fit(np.log(rows), every, sample_weight=weights)
    ours = Temperature.fit(told, true, None)
    assert 1 / ours.temperature == pytest.approx(float(oracle.beta_), rel=1e-4)
    np.testing.assert_allclose(ours(told), oracle.predict(np.log(told)), rtol=1e-3, atol=1e-9)


def test_rows_that_are_all_right_do_not_make_it_certain() -> None:
    told = np.array([[0.9, 0.1], [0.2, 0.8]] * 10)
    true = np.array([0, 1] * 10)
    calibrated = Temperature.fit(told, true, None)(told)
    assert 0.8 < calibrated.max() < 0.999
    both = (told > 0.5).astype(int)
    assert Temperature.fit(told, both, None)(told).max() < 0.999


@pytest.mark.parametrize("classes", [2, 4])
def test_isotonic_equals_scikit_learn(classes: int) -> None:
    from sklearn.isotonic import IsotonicRegression

    told, true = planted(classes, rows=900)
    weights = np.random.default_rng(0).uniform(0.5, 2, 600)
    each = []
    for c in range(classes):
        oracle = IsotonicRegression(y_min=1 / 602, y_max=1 - 1 / 602, out_of_bounds="clip")
        oracle.fit(told[:600, c], true[:600] == c, sample_weight=weights)
        each.append(oracle.predict(told[600:, c]))
    wanted = np.stack(each, 1) / np.sum(each, 0)[:, None]
    ours = Isotonic.fit(told[:600], true[:600], weights)(told[600:])
    np.testing.assert_allclose(ours, wanted, atol=1e-6)


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("classes", [2, 5])
def test_the_calibration_error_falls_on_rows_that_were_not_fitted(
    method: str, classes: int
) -> None:
    told, true = planted(classes)
    calibrator = fit_all(told[:2_000], true[:2_000], None)[method]
    before = calibration_error(told[2_000:], true[2_000:])
    after = calibration_error(calibrator(told[2_000:]), true[2_000:])
    assert before > 0.15 and after < before / 3
    np.testing.assert_allclose(calibrator(told).sum(axis=1), 1)


@pytest.mark.parametrize("method", list(METHODS))
def test_labels_are_calibrated_each(method: str) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(4_000, 3))
    true = (random.uniform(size=logits.shape) < expit(logits)).astype(int)
    told = expit(4 * logits)
    calibrator = fit_all(told[:2_000], true[:2_000], None)[method]
    assert calibration_error(told[2_000:], true[2_000:]) > 0.15
    assert calibration_error(calibrator(told[2_000:]), true[2_000:]) < 0.04


def test_weights_are_repetitions() -> None:
    told, true = planted(3, rows=300)
    counts = np.where(true == 0, 5, np.random.default_rng(0).integers(0, 2, 300))
    weighted = fit_all(told, true, counts)
    repeated = fit_all(np.repeat(told, counts, 0), np.repeat(true, counts), None)
    plain = fit_all(told, true, None)
    for name, calibrator in weighted.items():
        # what is ruled out depends on how many rows there are, not on what they weigh
        np.testing.assert_allclose(calibrator(told), repeated[name](told), atol=0.02)
        assert np.abs(calibrator(told) - plain[name](told)).max() > 0.02
    assert calibration_error(told, true, counts) == pytest.approx(
        calibration_error(np.repeat(told, counts, 0), np.repeat(true, counts))
    )


@pytest.mark.parametrize("method", list(METHODS))
def test_stored_and_read_again(method: str) -> None:
    told, true = planted(3, rows=500)
    fitted = METHODS[method].fit(told, true, None)  # type: ignore[index]
    again = METHODS[method].of_state(fitted.state())  # type: ignore[index]
    np.testing.assert_array_equal(again(told), fitted(told))


def test_probabilities_of_0_and_1_stay_finite() -> None:
    told = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    true = np.array([0, 1, 1, 0])
    for calibrator in fit_all(told, true, None).values():
        assert np.isfinite(calibrator(told)).all()
    assert Isotonic.fit(told, true, None)(told).min() == pytest.approx(
        1 / 6
    )  # four rows rule nothing out


def test_calibration_error_by_hand() -> None:
    told = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.25, 0.75]])
    true = np.array([0, 1, 1, 0])
    # two bins of the second class's probability: 0.1 and 0.3, of which 1 of 2 came; 0.8 and 0.75, 1 of 2
    assert reliability(told, true, bins=2).tolist() == [[0.2, 0.5, 2.0], [0.775, 0.5, 2.0]]
    assert calibration_error(told, true, bins=2) == pytest.approx((0.3 + 0.275) / 2)


def test_very_many_classes_have_a_temperature_only() -> None:
    told, true = planted(300, rows=400)
    with pytest.raises(UserError, match="isotonic is for 200 classes at most, temperature for any"):
        chosen(fit_all(told, true, None), "isotonic")


def test_one_class_cannot_be_calibrated() -> None:
    told, _ = planted(2, rows=10)
    none = fit_all(told, np.zeros(10, int), None)
    with pytest.raises(UserError, match="no validation rows of two classes"):
        chosen(none, "temperature")
