"""Checkpoints that are written beside the steps: of the state as it was, and an error is not lost."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from fourfold.core.errors import UserError
from fourfold.core.ranks import ALONE
from fourfold.core.state import bytes_of, checkpoints, load_state, save_checkpoint
from fourfold.optimizers import saving
from fourfold.optimizers.saving import Saving


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Every state counts as large, and is written once this is set."""
    opened = threading.Event()

    def write(*given: Any) -> None:
        assert opened.wait(30)
        save_checkpoint(*given)

    monkeypatch.setattr(saving, "LARGE", 1)
    monkeypatch.setattr(saving, "save_checkpoint", write)
    return opened


def test_what_is_written_is_the_state_as_it_was(tmp_path: Path, gate: threading.Event) -> None:
    weight, seen = torch.arange(6.0), [1, 2]
    state = {"model": {"w": weight}, "players": [{"m": (weight,)}], "seen": seen}
    kept = Saving(tmp_path, ALONE, parts=False)
    kept.save(1, state, beside=True)
    weight += 1
    seen.append(3)
    assert not kept.finished and not checkpoints(tmp_path)
    gate.set()
    kept.end()
    found = load_state(tmp_path / "000000001" / "state.safetensors")
    assert torch.equal(found["model"]["w"], torch.arange(6.0)) and found["seen"] == [1, 2]
    assert torch.equal(found["players"][0]["m"][0], torch.arange(6.0))
    assert not kept.finished  # it was ended


def test_the_next_one_waits_for_the_one_before(tmp_path: Path, gate: threading.Event) -> None:
    kept = Saving(tmp_path, ALONE, parts=False)
    state = {"w": torch.zeros(3)}
    kept.save(1, state, beside=True)
    threading.Timer(0.1, gate.set).start()
    kept.save(2, state, beside=False)
    assert [p.name for p in checkpoints(tmp_path)] == ["000000002"]


def test_an_error_beside_the_steps_is_raised_between_them(
    tmp_path: Path, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise UserError("no space left to write it")

    monkeypatch.setattr(saving, "save_checkpoint", full)
    kept = Saving(tmp_path, ALONE, parts=False)
    kept.save(1, {"w": torch.zeros(3)}, beside=True)
    with pytest.raises(UserError, match="no space left"):
        kept.end()
    kept.end()  # it is told once
    kept.save(2, {"w": torch.zeros(3)}, beside=True)
    kept.settle()  # an error of the search's own is the one to tell


def test_small_states_and_those_without_room_are_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Saving(tmp_path, ALONE, parts=False)
    kept.save(1, {"w": torch.zeros(3)}, beside=True)
    assert checkpoints(tmp_path) and kept.writing is None
    monkeypatch.setattr(saving, "LARGE", 1)
    monkeypatch.setattr(saving, "available_memory", lambda device: 20)
    kept.save(2, {"w": torch.zeros(3)}, beside=True)
    assert [p.name for p in checkpoints(tmp_path)] == ["000000002"] and kept.writing is None


def test_bytes_of_a_state() -> None:
    state = {"a": torch.zeros(3), "b": [torch.zeros(2, dtype=torch.float64), (1, None)]}
    assert bytes_of(state) == 28
