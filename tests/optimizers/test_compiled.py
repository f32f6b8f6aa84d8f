"""One shape is compiled; the odd one out runs uncompiled, and many others do not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fourfold.optimizers.compiled import Compiled


class Counting:
    """A compiler that compiles nothing and counts the shapes that it was asked for."""

    def __init__(self) -> None:
        self.shapes: list[object] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        self.shapes.append(inputs)
        return graph.forward


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).tanh()


@pytest.fixture
def compiled() -> tuple[nn.Module, Counting]:
    torch._dynamo.reset()
    model, counting = Model(), Counting()
    model._compiled_call_impl = Compiled(model, backend=counting)  # type: ignore[assignment]
    return model, counting


def plain(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model._call_impl(x)


def test_the_last_short_batch_is_not_compiled(compiled: tuple[nn.Module, Counting]) -> None:
    model, counting = compiled
    for _ in range(3):  # epochs
        for rows in [8] * 50 + [5]:
            x = torch.randn(rows, 3)
            torch.testing.assert_close(model(x), plain(model, x), rtol=0, atol=0)
    assert len(counting.shapes) == 1


def test_evaluation_has_its_own_shape(compiled: tuple[nn.Module, Counting]) -> None:
    model, counting = compiled
    for _ in range(2):
        for _ in range(40):
            model(torch.randn(8, 3))
        with torch.no_grad():
            for rows in (16, 16, 16, 7):
                model(torch.randn(rows, 3))
    assert len(counting.shapes) == 2


def test_lengths_that_change_all_the_time_are_compiled(
    compiled: tuple[nn.Module, Counting],
) -> None:
    model, counting = compiled
    for rows in range(4, 40):
        x = torch.randn(rows, 3)
        torch.testing.assert_close(model(x), plain(model, x), rtol=0, atol=0)
    assert 2 <= len(counting.shapes) <= 4  # the second one for all sizes
