"""Measures of disentanglement on latents whose values are known by definition."""

import numpy as np
import pytest

from fourfold.objectives.disentanglement import (
    binned,
    dci,
    entropy,
    factor_score,
    mig,
    mutual_information,
    of_importance,
    sap,
)

GRID = np.stack(np.meshgrid(np.arange(4), np.arange(3), np.arange(5), indexing="ij"), -1).reshape(-1, 3)  # fmt: skip
FACTORS = np.repeat(GRID, 20, axis=0)
RANDOM = np.random.default_rng(0)


def apart() -> np.ndarray:
    """Each factor in a latent of its own, one more of noise."""
    noise = RANDOM.normal(size=(len(FACTORS), 1))
    return np.concatenate([FACTORS[:, [2, 0, 1]] * [2.0, -1.0, 0.5], noise], axis=1)


def test_latents_that_are_the_factors_get_full_marks() -> None:
    z = apart()
    assert mig(z, FACTORS) == pytest.approx(1, abs=0.05)  # the noise tells a little by chance
    assert mig(z[:, :3], FACTORS) == pytest.approx(
        1, abs=1e-9
    )  # on a full grid factors tell nothing of others
    assert factor_score(z, FACTORS) == 1.0
    told = dci(z, FACTORS)
    assert told["informativeness"] == 1.0
    assert told["disentanglement"] > 0.97 and told["completeness"] > 0.97


def test_latents_that_mix_all_factors_get_few() -> None:
    turned = np.linalg.qr(RANDOM.normal(size=(3, 3)))[0]
    z = (FACTORS - FACTORS.mean(0)) / FACTORS.std(0) @ turned
    assert mig(z, FACTORS) < 0.3
    assert dci(z, FACTORS)["disentanglement"] < 0.6


def test_mig_of_a_factor_told_twice_is_nothing() -> None:
    factors = FACTORS[:, :1]
    z = np.concatenate([factors, -factors], axis=1).astype(float)
    assert mig(z, factors) == pytest.approx(0, abs=1e-12)
    assert sap(z, factors) == pytest.approx(0, abs=1e-12)


def test_mig_by_hand() -> None:
    """A latent that tells half of a factor of four values: I = log 2, H = log 4; another tells nothing."""
    factor = np.repeat(np.arange(4), 2)[:, None]
    z = np.stack([factor[:, 0] // 2, np.tile([0, 1], 4)], axis=1).astype(float)
    assert mig(z, factor) == pytest.approx(np.log(2) / np.log(4))
    told = mutual_information(binned(z), factor)
    assert told[:, 0] == pytest.approx([np.log(2), 0], abs=1e-12)
    assert entropy(factor[:, 0]) == pytest.approx(np.log(4))


def test_sap_by_hand() -> None:
    """One latent tells a balanced factor of two classes, the other tells nothing: 1 less a half."""
    factor = np.tile([0, 1], 2000)[:, None]
    z = np.concatenate([factor * 2.0 - 1, RANDOM.normal(size=(4000, 1))], axis=1)
    assert sap(z, factor) == pytest.approx(0.5, abs=0.05)


def test_of_importance_by_definition() -> None:
    assert of_importance(np.eye(3)) == pytest.approx((1, 1))
    assert of_importance(np.ones((3, 3))) == pytest.approx((0, 0), abs=1e-12)
    # two latents that each tell one factor alone, but both the same: apart, yet not whole
    found = of_importance(np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert found == pytest.approx((1, 0), abs=1e-12)
    assert of_importance(np.zeros((2, 2))) == (0, 0)


def test_a_dead_latent_casts_no_vote() -> None:
    z = np.concatenate([apart()[:, :3], np.full((len(FACTORS), 1), 2.0)], axis=1)
    assert factor_score(z, FACTORS) == 1.0
    assert factor_score(np.ones((len(FACTORS), 2)), FACTORS) == 0.0


def test_latents_of_noise_are_at_chance() -> None:
    z = RANDOM.normal(size=(len(FACTORS), 5))
    assert factor_score(z, FACTORS) < 0.5
    assert mig(z, FACTORS) < 0.02


def test_latents_that_tell_all_factors_alike_are_at_zero() -> None:
    """Of more latents than factors, and of fewer: each entropy in units of its own largest."""
    for shape in ((5, 2), (2, 5)):
        assert of_importance(np.ones(shape)) == pytest.approx((0.0, 0.0), abs=1e-12)


def test_the_factor_score_does_not_depend_on_the_latents_units() -> None:
    random = np.random.default_rng(0)
    factors = random.integers(0, 4, (800, 2))
    latents = factors + 0.1 * random.normal(size=(800, 2))
    found = [factor_score(latents * units, factors, votes=100) for units in ([1.0, 1.0], [1.0, 5.0])]  # fmt: skip
    assert found[0] == found[1] > 0.95
