"""Hidden tokens: the sum and its weight against the definition, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fourfold
from fourfold.core.errors import UserError
from fourfold.data.masking import MaskedData
from fourfold.models.bert import Bert
from fourfold.objectives.masked import MaskedTokens
from fourfold.systems import bert


def batch() -> dict[str, Tensor]:
    return {
        "tokens": torch.tensor([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]]),
        "places": torch.tensor([[1, 3], [2, 0]]),
        "targets": torch.tensor([[6, 7], [0, -100]]),
    }


def test_a_sum_over_what_is_hidden_and_its_count() -> None:
    torch.manual_seed(0)
    model = Bert(9, 8, 2, 2, window=5).double()
    given = batch()
    (move,) = MaskedTokens().losses(model, given)
    logits = model(given["tokens"])
    wanted = sum(
        F.cross_entropy(logits[row, place], torch.tensor(target))
        for row, place, target in ((0, 1, 6), (0, 3, 7), (1, 2, 0))
    )
    assert float(move.loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-10)
    assert move.weight == 3
    found = torch.autograd.grad(move.loss, list(model.parameters()))
    plain = torch.autograd.grad(wanted, list(model.parameters()), allow_unused=True)
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_accuracy_counts_what_is_the_likeliest() -> None:
    class Fixed(nn.Module):
        def forward(self, tokens: Tensor, places: Tensor, segments: Tensor | None) -> Tensor:
            return F.one_hot(torch.tensor([[6, 1], [0, 0]]), 9).float()

    found = MaskedTokens().measure(Fixed(), batch())
    assert [int(v) for v in found["accuracy"]] == [2, 3] and list(found) == ["loss", "accuracy"]
    assert "accuracy" in MaskedTokens.higher


def test_logits_of_another_shape_are_refused() -> None:
    class Whole(nn.Module):
        def forward(self, tokens: Tensor, places: Tensor, segments: Tensor | None) -> Tensor:
            return torch.zeros(*tokens.shape, 9)

    with pytest.raises(ValueError, match=r"\(2, 5, 9\) and \(2, 2\)"):
        next(MaskedTokens().losses(Whole(), batch()))


def test_a_step_without_a_hidden_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    toy, source = bert.Bert.toy()
    take = MaskedData.take

    def nothing(self: MaskedData, *given: object) -> object:
        made = dict(take(self, *given))  # type: ignore[arg-type]
        return {**made, "targets": torch.full_like(made["targets"], -100)}

    monkeypatch.setattr(MaskedData, "take", nothing)
    with pytest.raises(UserError, match="counts"):
        fourfold.fit(toy, source, out=False)
