"""Estimators of the total correlation against normal distributions, whose value is known."""

import numpy as np
import pytest
import torch

from fourfold.objectives.total_correlation import aggregate, of_logits, of_normal, permuted

COVARIANCE = torch.tensor([[1.0, 0.8, 0.2], [0.8, 1.5, 0.1], [0.2, 0.1, 0.7]], dtype=torch.float64)


def draws(count: int, seed: int = 0) -> torch.Tensor:
    normal = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), COVARIANCE)
    torch.manual_seed(seed)
    return normal.sample((count,))


def test_of_two_latents_it_is_the_known_formula() -> None:
    rho = 0.6
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
    assert float(of_normal(covariance)) == pytest.approx(-0.5 * np.log(1 - rho**2), abs=1e-12)
    assert float(of_normal(torch.diag(torch.tensor([2.0, 3.0])))) == pytest.approx(0, abs=1e-6)


def test_stratified_sampling_comes_to_the_value_of_a_normal() -> None:
    """Means drawn from a normal and a posterior about each: the aggregate is normal, with the sum of covariances."""
    means = draws(3000)
    log_var = torch.full_like(means, np.log(0.3))
    torch.manual_seed(1)
    z = means + np.sqrt(0.3) * torch.randn_like(means)
    joint, apart = aggregate(z, means, log_var, len(z))
    known = float(of_normal(COVARIANCE + 0.3 * torch.eye(3, dtype=torch.float64)))
    assert float((joint - apart).mean()) == pytest.approx(known, abs=0.03)
    # one batch of many examples: the stratified weights keep the estimate near where weighted ones, biased, do not
    few = slice(0, 256)
    strata, weighted = ((lambda j, a: float((j - a).mean()))(*aggregate(z[few], means[few], log_var[few], 3000, how)) for how in ("stratified", "weighted"))  # fmt: skip
    assert abs(strata - known) < 0.3 < abs(weighted - known)


def test_a_whole_data_set_is_exact_by_definition() -> None:
    """Where all posteriors but one lie in the batch, log q(z) is their mean with the last other one counted twice less."""
    torch.manual_seed(0)
    means, z = torch.randn(2, 6, 2, dtype=torch.float64)
    log_var = torch.zeros_like(means)
    joint, _ = aggregate(z, means, log_var, 6)
    normal = torch.distributions.Normal(means[None], 1.0)
    density = normal.log_prob(z[:, None]).sum(2).exp()  # z[i] under posterior j
    weights = torch.full((6, 6), 1 / 5, dtype=torch.float64)
    weights.fill_diagonal_(1 / 6)
    for i in range(6):
        weights[i, (i + 1) % 6] = 1 / 30
    torch.testing.assert_close(weights.sum(1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(joint, (weights * density).sum(1).log())


def test_a_density_ratio_comes_to_the_value_of_a_normal() -> None:
    """Logistic regression on squares and products, which holds the true ratio of normals."""
    from sklearn.linear_model import LogisticRegression

    z = draws(20000)
    torch.manual_seed(2)
    apart = permuted(z)
    for j in range(3):  # each latent keeps its values
        assert torch.equal(z[:, j].sort().values, apart[:, j].sort().values)

    def products(values: torch.Tensor) -> np.ndarray:
        pairs = torch.einsum("ni,nj->nij", values, values).flatten(1)
        return torch.cat([values, pairs], 1).numpy()

    labels = np.repeat([1, 0], len(z))
    model = LogisticRegression(C=1e6, max_iter=500).fit(products(torch.cat([z, apart])), labels)
    found = of_logits(torch.from_numpy(model.decision_function(products(draws(20000, 3)))))
    assert float(found) == pytest.approx(float(of_normal(COVARIANCE)), abs=0.03)


def test_what_cannot_be_estimated_is_said() -> None:
    one = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="expected 2 to 10 posteriors in a batch, got 1"):
        aggregate(one, one, one, 10)
