"""Affine map, y = W x + b, with the covariance of its estimate where the search knows it.

Shapes: B rows, D features, K outputs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourfold.core.state import TakesShape
from fourfold.models.noise import perturbed_rows


class Linear(TakesShape, nn.Module):  # type: ignore[misc]
    """Linear regression.

    `covariance`, (D + 1, D + 1), bias last, and `noise`, (K,), are empty until a search fills them:
    output k's weights and bias have the covariance noise[k] * covariance.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    covariance: Tensor
    noise: Tensor

    def __init__(
        self,
        features: int,
        outputs: int = 1,
        dtype: torch.dtype = torch.float32,
        *,
        input_noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.input_noise = input_noise
        self.weight = nn.Parameter(torch.zeros(outputs, features, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(outputs, dtype=dtype))
        self.register_buffer("covariance", torch.zeros(0, 0, dtype=torch.float64))
        self.register_buffer("noise", torch.zeros(0, dtype=torch.float64))

    def forward(self, features: Tensor) -> Tensor:
        """Predict; while learning, from features with Gaussian noise of deviation `input_noise` on them.

        Args:
            features: (B, D) float in the parameters' dtype.

        Returns:
            (B, K).
        """
        if self.training and self.input_noise:
            features = perturbed_rows(features, self.input_noise)
        return F.linear(features, self.weight, self.bias)


class PathLinear(Linear):
    """A linear map with the path of its weights along the strength of a penalty.

    `strengths`, (S,), and `path`, (S, K, D), are empty until a search fills them.
    """

    strengths: Tensor
    path: Tensor

    def __init__(self, features: int, outputs: int = 1, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(features, outputs, dtype)
        self.register_buffer("strengths", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("path", torch.zeros(0, outputs, features, dtype=torch.float64))
