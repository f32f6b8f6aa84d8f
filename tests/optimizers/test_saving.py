"""Checkpoints that are written beside the steps: of the state as it was, and an error is not lost."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from fourfold.core.errors import UserError
from fourfold.core.ranks import ALONE
from fourfold.core.state import (
    bytes_of,
    checkpoints,
    load_state,
    remove_leftovers,
    save_checkpoint,
)
from fourfold.core.together import another_group
from fourfold.optimizers import saving
from fourfold.optimizers.saving import Saving
from fourfold.optimizers.shards import load_shards


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


@pytest.fixture
def spread() -> Iterator[DTensor]:
    """A tensor that the processes share, of which this is the only one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield distribute_tensor(torch.arange(6.0), init_device_mesh("cpu", (1,)), [Shard(0)])
    finally:
        dist.destroy_process_group()


def test_parts_are_written_as_they_were(
    tmp_path: Path, spread: DTensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, write = threading.Event(), HuggingFaceStorageWriter.write_data

    def later(*given: Any) -> Any:
        assert gate.wait(30)
        return write(*given)

    monkeypatch.setattr(saving, "LARGE", 1)
    monkeypatch.setattr(HuggingFaceStorageWriter, "write_data", later)
    own = torch.arange(3.0)
    kept = Saving(tmp_path, ALONE, parts=True)
    kept.save(1, {"w": spread, "tied": spread, "own": own}, beside=True)
    spread.to_local().add_(100)
    own += 100
    assert not kept.finished and not checkpoints(tmp_path)
    gate.set()
    kept.end()
    (last,) = checkpoints(tmp_path)
    found = load_shards(last, load_state(last / "state.safetensors"))
    assert torch.equal(found["w"], torch.arange(6.0)) and torch.equal(found["tied"], found["w"])
    assert torch.equal(found["own"], torch.arange(3.0))


def test_groups_wait_longer_than_anyone_asks(spread: DTensor) -> None:
    """Torch's own limits, 10 and 30 minutes, would end sums before --parallel.timeout names who is missing."""
    for group in (another_group(), another_group("gloo")):
        limit = group._get_backend(torch.device("cpu")).options._timeout
        assert limit.total_seconds() > 86_400


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(
    ("code", "expected", "said"),
    [
        (errno.ENOSPC, UserError, "no space left to write this checkpoint; none was there before"),
        (errno.EIO, OSError, "rank 0 could not write its part of .*000000001: OSError"),
    ],
)
def test_an_error_of_a_part_is_one_that_can_be_caught(
    tmp_path: Path, spread: DTensor, monkeypatch: pytest.MonkeyPatch, beside: bool, code: int,
    expected: type[Exception], said: str,
) -> None:  # fmt: skip
    """Torch's own is no Exception: the other processes would not be told of it."""

    def fails(*given: Any, **named: Any) -> None:
        raise OSError(code, "on purpose")

    monkeypatch.setattr(saving, "LARGE", 1)
    kept = Saving(tmp_path, ALONE, parts=True)
    for place, name in ((HuggingFaceStorageWriter, "write_data"), (Path, "mkdir")):
        with monkeypatch.context() as broken:
            broken.setattr(place, name, fails)
            with pytest.raises(expected, match=said):
                kept.save(1, {"w": spread}, beside)
                kept.end()


def test_parts_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    """Whatever their step: time decides when a checkpoint is written, and the next one may be of another."""
    for name in (".000000007.shards", ".000000008.tmp", "000000006"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "shard-00001-model-00001.safetensors").touch()
    remove_leftovers(tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["000000006"]
