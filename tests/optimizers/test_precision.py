"""Formats of matrix products and compilation: chosen by model and machine, with a way back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fourfold
from fourfold.optimizers import precision
from fourfold.optimizers.precision import autocast, chosen, has_compiler, pays
from helpers import RowSystem

CPU = torch.device("cpu")


@pytest.mark.parametrize("gains", [True, False])
def test_auto_takes_bfloat16_where_model_and_machine_gain(
    monkeypatch: pytest.MonkeyPatch, gains: bool
) -> None:
    monkeypatch.setattr(precision, "gains_from_bfloat16", lambda kind: gains)
    large, small = nn.Linear(512, 512), nn.Linear(8, 8)
    assert chosen("auto", large, CPU) == (torch.bfloat16 if gains else torch.float32)
    assert chosen("auto", small, CPU) == torch.float32
    assert chosen("auto", nn.Linear(512, 512).double(), CPU) == torch.float32
    assert chosen("bfloat16", small, CPU) == torch.bfloat16
    assert chosen("float32", large, CPU) == torch.float32


def test_autocast_is_on_inside_only() -> None:
    x, layer = torch.ones(2, 8), nn.Linear(8, 8)
    with autocast(torch.float32, CPU):
        assert layer(x).dtype == torch.float32
    with autocast(torch.bfloat16, CPU):
        assert layer(x).dtype == torch.bfloat16
    assert layer(x).dtype == torch.float32


def test_bfloat16_learns_about_the_same_with_float32_weights() -> None:
    options = {"steps": 60, "log_every": "1"}
    exact = fourfold.fit(RowSystem(), out=False, optimizer=options)
    rough = fourfold.fit(RowSystem(), out=False, optimizer={**options, "precision": "bfloat16"})
    assert all(p.dtype == torch.float32 for p in rough.model.parameters())
    a, b = (torch.tensor(r.metrics.series("loss")[1]) for r in (exact, rough))
    assert not torch.equal(a, b)
    torch.testing.assert_close(a, b, rtol=0.1, atol=0.05)


def test_compiling_pays_on_a_gpu_only_and_when_there_is_time() -> None:
    gpu = torch.device("cuda")
    assert not pays(CPU, 10**6, None)
    assert pays(gpu, 5000, None) and not pays(gpu, 50, None)
    assert pays(gpu, None, 10.0) and not pays(gpu, None, 0.5)


def test_without_a_compiler_it_trains_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert not has_compiler(CPU)
    run = fourfold.fit(RowSystem(), out=False, optimizer={"steps": 3, "compile": True})
    assert "No compiler was found here: training without torch.compile." in run.notes
    plain = fourfold.fit(RowSystem(), out=False, optimizer={"steps": 3})
    assert run.metrics.series("loss") == plain.metrics.series("loss")
    assert plain.notes == []
