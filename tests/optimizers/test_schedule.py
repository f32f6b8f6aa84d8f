"""Learning-rate schedules by their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.optimizers.schedule import Name, factor

PLAIN: dict[str, Any] = {"warmup": 0.0, "final": 0.0, "decay_from": 0.8}
share = st.floats(0, 1)
names = st.sampled_from(["constant", "linear", "cosine", "wsd", "inverse_sqrt"])


@pytest.mark.parametrize("total", [10, 57])
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_and_linear_equal_torchs(total: int, final: float) -> None:
    parameter = torch.nn.Parameter(torch.zeros(()))
    for name in ("cosine", "linear"):
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        oracle: Any = (
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total, eta_min=final)
            if name == "cosine"
            else torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, max(final, 1e-12), total)
        )
        for step in range(total):
            ours = factor(name, step, step / total, **{**PLAIN, "final": final})  # type: ignore[arg-type]
            assert ours == pytest.approx(oracle.get_last_lr()[0], abs=1e-9)
            optimizer.step()
            oracle.step()


def test_warmup_in_steps() -> None:
    values = [factor("constant", s, s / 100, **{**PLAIN, "warmup": 4}) for s in range(8)]
    assert values == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


def test_warmup_in_steps_is_over_after_a_tenth_of_the_budget() -> None:
    values = [factor("constant", s, s / 20, **{**PLAIN, "warmup": 50}) for s in range(4)]
    assert values == pytest.approx([1 / 50, 0.5, 1, 1])


def test_inverse_square_root_equals_the_papers_formula() -> None:
    for step in range(1, 400):  # Vaswani et al. 2017, 5.3, with their peak as one
        paper = min(step**-0.5, step * 40**-1.5) / 40**-0.5
        ours = factor("inverse_sqrt", step - 1, step / 4000, **{**PLAIN, "warmup": 40})
        assert ours == pytest.approx(paper)
    by_share = [
        factor("inverse_sqrt", 7, p, **{**PLAIN, "warmup": 0.1}) for p in (0.05, 0.1, 0.4, 0.9)
    ]
    assert by_share == pytest.approx([0.5, 1.0, 0.5, 1 / 3])
    assert factor("inverse_sqrt", 8, 0.5, **PLAIN) == pytest.approx(1 / 3)
    assert factor("inverse_sqrt", 10_000, 0.5, **{**PLAIN, "final": 0.1}) == 0.1


def test_warmup_as_a_share_then_the_shape_over_the_rest() -> None:
    def rate(progress: float) -> float:
        return factor("cosine", 7, progress, **{**PLAIN, "warmup": 0.2})

    assert rate(0.0) == pytest.approx(1e-3) and rate(0.1) == pytest.approx(0.5)
    assert rate(0.2) == 1.0 and rate(0.6) == pytest.approx(0.5) and rate(1.0) == 0.0


def test_warmup_stable_decay() -> None:
    def rate(progress: float) -> float:
        return factor("wsd", 50, progress, warmup=0.1, final=0.1, decay_from=0.8)

    assert rate(0.05) == pytest.approx(0.5)
    assert rate(0.1) == rate(0.5) == rate(0.8) == 1.0
    assert rate(0.9) == pytest.approx(0.55) and rate(1.0) == pytest.approx(0.1)


@settings(deadline=None)
@given(names, st.integers(0, 1000), share, st.floats(0, 20), share, share)
def test_any_factor_is_a_share(
    name: Name, step: int, progress: float, warmup: float, final: float, decay_from: float
) -> None:
    value = factor(name, step, progress, warmup=warmup, final=final, decay_from=decay_from)
    assert 0 <= value <= 1 and math.isfinite(value)


@settings(deadline=None)
@given(st.sampled_from(["linear", "cosine", "wsd"]), share, share, share, share)
def test_without_warmup_it_never_rises(
    name: Name, a: float, b: float, final: float, decay_from: float
) -> None:
    early, late = sorted((a, b))
    common: dict[str, Any] = {"warmup": 0.0, "final": final, "decay_from": decay_from}
    assert factor(name, 9, early, **common) >= factor(name, 9, late, **common) - 1e-12
    assert factor(name, 9, 1.0, **common) == pytest.approx(
        final if decay_from < 1 or name != "wsd" else 1.0
    )
