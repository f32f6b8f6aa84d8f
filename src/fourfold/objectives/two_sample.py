"""Do two samples come from one distribution? A kernel statistic and a classifier's accuracy.

Kernel: Gretton et al. 2012, https://jmlr.org/papers/v13/gretton12a.html, with the sum of rational
quadratic kernels of Binkowski et al. 2018, https://arxiv.org/abs/1801.01401.
Classifier: Lopez-Paz and Oquab 2017, https://arxiv.org/abs/1610.06545.
Shapes: N and M examples of D values each (flattened).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SCALES = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Shapes alpha of the kernels (1 + d / (2 alpha))^-alpha."""


def mmd2(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased estimate of the squared maximum mean discrepancy, (), 0 in the mean for equal distributions.

    Args:
        x, y: (N, ...) and (M, ...) with N, M >= 2, trailing sizes equal. The kernel is of the mean
            squared difference of their values.

    Raises:
        ValueError: fewer than two examples on a side, or examples of different sizes.
    """
    x, y = x.flatten(1), y.flatten(1)
    if min(len(x), len(y)) < 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"mmd2 expects (N >= 2, D) and (M >= 2, D), got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    n, m = len(x), len(y)
    k_xx, k_yy, k_xy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
    within_x = (k_xx.sum() - k_xx.diagonal().sum()) / (n * (n - 1))
    within_y = (k_yy.sum() - k_yy.diagonal().sum()) / (m * (m - 1))
    return within_x + within_y - 2 * k_xy.mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    x, y = x.to(dtype), y.to(dtype)
    norms = x.square().sum(1)[:, None] + y.square().sum(1)[None]
    distance = (norms - 2 * x @ y.T).clamp_min(0) / x.shape[1]
    return torch.stack([(1 + distance / (2 * a)) ** -a for a in SCALES]).mean(0)


class TwoSample(NamedTuple):
    """Accuracy of telling two samples apart on held-out halves: 0.5 is chance, 1 is always."""

    accuracy: float
    low: float
    """Lower end of the 95% interval (Wilson)."""
    high: float
    tested: int
    """Examples in the held-out halves, both samples together."""


def classifier_two_sample(x: Tensor, y: Tensor, *, seed: int = 0, most: int = 2000) -> TwoSample:
    """Train a classifier (support vectors, radial kernel) on half of two samples, count it right on the rest.

    Args:
        x, y: (N, ...) and (M, ...), N, M >= 4; the larger one is cut, by lot, to the other's size.
        seed: fixes the halves.
        most: examples of each sample that are used at most; the cost grows with their square.

    Raises:
        ValueError: fewer than four examples on a side, or examples of different sizes.
    """
    from sklearn.svm import SVC

    if min(len(x), len(y)) < 4 or x[0].numel() != y[0].numel():
        raise ValueError(
            "classifier_two_sample expects two samples of at least 4 equal-sized examples, "
            f"got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    random = np.random.default_rng(seed)
    count = min(len(x), len(y), most)
    sides = [s.detach().cpu().flatten(1).numpy().astype(np.float64) for s in (x, y)]
    sides = [side[random.permutation(len(side))[:count]] for side in sides]
    half = count // 2
    labels = np.repeat([0, 1], half), np.repeat([0, 1], count - half)
    machine = SVC(C=10.0).fit(np.concatenate([side[:half] for side in sides]), labels[0])
    guessed = machine.predict(np.concatenate([side[half:] for side in sides]))
    right = int((guessed == labels[1]).sum())
    return TwoSample(right / len(guessed), *wilson(right, len(guessed)), len(guessed))


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95% interval of a share, by Wilson 1927: right of count.

    Raises:
        ValueError: count is below 1 or right is not within it.
    """
    if count < 1 or not 0 <= right <= count:
        raise ValueError(
            f"wilson expects 0 <= right <= count and count >= 1, got {right} of {count}"
        )
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = (
        z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    )
    return max(0.0, middle - reach), min(1.0, middle + reach)
