"""A language model's body with one number for each answer, or a value for each position, on top.

Reward model: Stiennon et al. 2020, https://arxiv.org/abs/2009.01325; Ouyang et al. 2022. Shapes: R rows, T positions,
N sequences, W width.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from fourfold.models.adapters import give
from fourfold.models.transformer import Transformer


class RewardModel(nn.Module):
    """A reward for each sequence, read from the state of its last token.

    Args:
        body: a language model; its output weights are not used, and taken away.
    """

    def __init__(self, body: Transformer) -> None:
        super().__init__()
        body.head = nn.Identity()  # type: ignore[assignment]  # nothing learns that is never read
        self.body, self.window = body, body.window
        self.reward = value_head(body.width, bias=False)  # of a difference no bias is learned

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Rewards (N,).

        Args:
            batch: "tokens" and "segments", (R, T) int64, and "ends", (N,) int64, the places of the sequences' last
                tokens in the flattened rows.
        """
        states = self.body.states(batch["tokens"], segments=batch["segments"])
        return self.reward(states.flatten(0, 1)[batch["ends"]])[:, 0]

    def begin_from(self, weights: Mapping[str, Tensor]) -> None:
        """Take the body of a language model, its weights by their names there.

        Raises:
            UserError: they do not fit.
        """
        give(self.body, {n: t for n, t in weights.items() if not n.startswith("head.")})


def value_head(width: int, bias: bool = True) -> nn.Linear:
    """One number from a state; drawn with a variance of 1 / (width + 1), as in Stiennon et al. 2020."""
    layer = nn.Linear(width, 1, bias=bias)
    nn.init.normal_(layer.weight, std=(width + 1) ** -0.5)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
