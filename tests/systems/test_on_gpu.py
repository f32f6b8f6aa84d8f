"""Every system on a CUDA device: it learns there what it learns on the processor, and its run opens on either."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fourfold
from fourfold import api
from fourfold.core.evaluation import measure
from fourfold.core.registry import index, load_system

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", index())
def test_a_system_is_fitted_opened_and_drawn(name: str, tmp_path: Path) -> None:
    system = load_system(name)
    found = {}
    for device in ("cpu", "cuda"):
        toy, source = system.toy()
        run = api.fit(toy, source, out=tmp_path / device, device=device)
        found[device] = measure(run.objective, run.model, run.examples(), "train", run.device, 0)
        assert all(p.device.type == device for p in run.model.parameters())
    on_cpu, on_gpu = (next(iter(found[d].values())) for d in ("cpu", "cuda"))
    if name != "gan":  # a game has no loss that falls
        assert on_gpu == pytest.approx(on_cpu, rel=0.1, abs=0.02)
    again = fourfold.open(tmp_path / "cuda", device="cpu")
    again.sources = source  # it was in memory
    again.about.pop("in_memory", None)
    for a, b in zip(again.model.parameters(), run.model.parameters(), strict=True):
        torch.testing.assert_close(a, b.cpu())
    list(again.system.pictures(again))
    list(run.system.pictures(run))
    run.evaluate(source)
