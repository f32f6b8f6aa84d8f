"""Word vectors: one row for a word as context, one as what is predicted. CBOW and skip-gram: Mikolov et al. 2013a.

Both matrices are padded to whole cache lines of 16 columns, which stay zero and are not stored, and hold a
bias column where the objective needs one. Shapes: B windows, M words of context at most, V words, R output rows
(words, or inner nodes of a tree), P padded columns.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

Which = Literal["input", "output", "joined"]
LINE = 16
"""float32 in a cache line."""


class WordVectors(nn.Module):
    """Vectors of words.

    `tail` input rows at the end belong to no word. Input rows begin uniform in (-1/width, 1/width), output rows at zero, as in the papers' program.
    """

    def __init__(
        self, words: int, width: int, *, outputs: int | None = None, bias: bool = False,
        algorithm: Literal["skip-gram", "cbow"] = "skip-gram", mean: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.width, self.algorithm, self.mean = width, algorithm, mean
        self.bias = width if bias else -1
        padded = -(-(width + bias) // LINE) * LINE
        inputs = torch.zeros(words, padded)
        inputs[:, :width] = (2 * torch.rand(words, width) - 1) / width
        if bias:
            inputs[:, width] = 1  # times the output row's bias
        self.inputs = nn.Parameter(inputs)
        self.outputs = nn.Parameter(torch.zeros(words if outputs is None else outputs, padded))
        self.columns, self.tail = width + bias, 0
        self.register_state_dict_post_hook(_without_padding)
        self.register_load_state_dict_pre_hook(_padded)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """What predicts, from the words around.

        Args:
            context: (B, M) int64, -1 where there is no word.

        Returns:
            Rows (N, P): for skip-gram one for each word of context, for CBOW their mean or sum, one for each
            window that has any; and (N,) int64, the window of each.
        """
        there = context >= 0
        rows = self.inputs[context.clamp(min=0)] * there[..., None]
        if self.algorithm == "skip-gram":
            return rows[there], there.nonzero()[:, 0]
        some = there.any(1)
        found = rows.sum(1)[some]
        if self.mean:
            found = found / there.sum(1, keepdim=True)[some]
            if self.bias >= 0:
                return found, some.nonzero()[:, 0]
        if self.bias >= 0:  # a sum of ones is no one
            found = torch.cat(
                [found[:, : self.bias], torch.ones_like(found[:, :1]), found[:, self.bias + 1 :]], 1
            )
        return found, some.nonzero()[:, 0]

    def vectors(self, which: Which = "input") -> Tensor:
        """(V, width) of words as context, as what is predicted, or (V, 2 width) both side by side."""
        found = {"input": self.inputs, "output": self.outputs}
        if which != "joined":
            return found[which].detach()[:, : self.width]
        return torch.cat([m.detach()[:, : self.width] for m in found.values()], 1)


def _without_padding(model: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in ("inputs", "outputs"):
        state[prefix + name] = state[prefix + name][
            :, : cast(WordVectors, model).columns
        ].contiguous()


def _padded(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Add the columns of padding; where fewer words are stored, the others stay as they began: a vocabulary that grew."""
    vectors = cast(WordVectors, model)
    for name in ("inputs", "outputs"):
        own, stored = getattr(vectors, name), state.get(prefix + name)
        if stored is None or stored.shape[1] != vectors.columns or len(stored) > len(own):
            continue  # load_state_dict says what does not fit
        whole = own.detach().clone()
        tail = vectors.tail if name == "inputs" else 0
        words = len(stored) - tail
        whole[:words, : vectors.columns] = stored[:words]
        whole[len(whole) - tail :, : vectors.columns] = stored[words:]
        state[prefix + name] = whole
