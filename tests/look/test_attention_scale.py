"""Measures of scores against torch's own softmax and its Jacobian, and what the picture claims."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fourfold.look.attention_scale import scale_measures, scale_picture


def test_measures_by_their_definitions() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 7)) * 3
    variance, entropy, slope = scale_measures(scores)
    rows = torch.from_numpy(scores)
    jacobians = [torch.autograd.functional.jacobian(lambda x: x.softmax(0), row) for row in rows]
    shares = torch.distributions.Categorical(logits=rows)
    assert variance == pytest.approx(scores.var())
    assert entropy == pytest.approx(float(shares.entropy().mean()) / np.log(2))
    assert slope == pytest.approx(float(torch.stack([j.norm() for j in jacobians]).mean()))


def test_even_scores_have_all_bits_and_lone_ones_none() -> None:
    assert scale_measures(np.zeros((2, 8)))[1] == pytest.approx(3)
    variance, entropy, slope = scale_measures(np.eye(8) * 1e4)
    assert entropy == pytest.approx(0, abs=1e-9) and slope == pytest.approx(0, abs=1e-9)


def test_the_scale_keeps_all_three() -> None:
    picture, table = scale_picture((16, 256), keys=32)
    (_, *small), (_, *large) = table.rows
    assert small[0] == pytest.approx(16, rel=0.15) and large[0] == pytest.approx(256, rel=0.15)
    assert large[1] < small[1] / 3 and large[2] < small[2] / 2  # unscaled
    for before, after in zip(small[3:], large[3:], strict=True):  # scaled
        assert after == pytest.approx(before, rel=0.1)
    assert picture.png.startswith(b"\x89PNG")
