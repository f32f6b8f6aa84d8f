"""The compiled draw against the plain reference: where its uniform number falls among the reference's shares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.kernels.sampling import draw
from fourfold.models.sampling import Sampling


def expected(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    shares = sampling.probabilities(torch.from_numpy(logits)[None])[0].double().numpy()
    return shares / shares.sum()


def drawn(logits: np.ndarray, s: Sampling, uniform: float) -> int:
    top_p = 1.0 if s.top_p is None else s.top_p
    return draw(logits, float(s.temperature), s.top_k or 0, top_p, s.min_p or 0.0, uniform)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_where_the_number_falls(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([1, 2, 5, 63, 64, 65, 200, 1000]))
    noise = np.random.default_rng(data.draw(st.integers(0, 99)))
    logits = (noise.standard_normal(size) * data.draw(st.sampled_from([0.01, 1, 9]))).astype("f4")
    logits[noise.random(size) < 0.2] = -np.inf
    logits[noise.integers(size)] = 1.0
    s = Sampling(
        data.draw(st.sampled_from([0.3, 1.0, 2.5])),
        data.draw(st.sampled_from([None, 1, 2, 40])),
        data.draw(st.sampled_from([None, 0.0, 0.3, 0.9])),
        data.draw(st.sampled_from([None, 0.0, 0.1, 1.0])),
    )
    shares = expected(logits, s)
    ends = shares.cumsum()
    for uniform in (0.0, 0.25, 0.5, 0.97, 1 - 2**-53):
        token = drawn(logits, s, uniform)
        assert shares[token] > 0
        begin = ends[token] - shares[token]
        assert begin - 2e-5 <= uniform <= ends[token] + 2e-5


@pytest.mark.parametrize("temperature", [1e-30, 1e-3, 1.0, 1e30])
def test_what_must_never_come_never_does(temperature: float) -> None:
    logits = np.array([1.0, -np.inf, 3.0, -3e38, -np.inf], np.float32)
    for s in (
        Sampling(temperature),
        Sampling(temperature, min_p=0.9),
        Sampling(temperature, 2, 0.5),
    ):
        for uniform in (0.0, 0.3, 0.6, 1 - 2**-53):
            assert drawn(logits, s, uniform) in ({2} if temperature < 1 else {0, 2, 3})


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(0.7), Sampling(1.3, top_k=5), Sampling(1.0, top_p=0.8), Sampling(1.0, min_p=0.2),
        Sampling(0.9, 9, 0.9, 0.05), Sampling(1.0, repetition_penalty=1.7, logit_bias={3: 1.5, 4: -2.0}),
    ],
)  # fmt: skip
def test_draws_follow_the_shares(sampling: Sampling) -> None:
    """Chi-square at one in ten thousand, of 4,000 draws."""
    from scipy.stats import chisquare

    from fourfold.models.sampling import Sampler
    from fourfold.models.sampling import draw as draw_all

    noise = torch.Generator().manual_seed(0)
    logits = 1.5 * torch.randn(20, generator=noise)
    counts = np.zeros(20)
    one = Sampler(sampling, past=[1, 3], never=[7])
    shares = one.shares(logits).double().numpy()
    for _ in range(4000):
        (token,) = draw_all([Sampler(sampling, noise, [1, 3], [7])], logits[None])
        counts[token] += 1
    possible = shares > 0
    assert counts[~possible].sum() == 0 and not possible[7]
    assert chisquare(counts[possible], 4000 * shares[possible] / shares.sum()).pvalue > 1e-4
