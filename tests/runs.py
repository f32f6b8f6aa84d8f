"""What two runs that should be equal are compared by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourfold.core.state import latest_checkpoint, load_state

TIMES = {"rate", "seconds", "evaluation_seconds", "since"}
"""Names of what the clock decides."""


def lines(folder: Path) -> int:
    """Whole lines of the log so far."""
    log = folder / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def logged(folder: Path) -> list[dict[str, Any]]:
    """The log without times; a torn last line is left out."""
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n")[:-1]]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def last_step(folder: Path) -> int:
    """Step of the newest checkpoint, 0 if there is none."""
    last = latest_checkpoint(folder / "checkpoints")
    return int(last.name) if last else 0


def state(folder: Path) -> dict[str, Any]:
    """The newest checkpoint."""
    last = latest_checkpoint(folder / "checkpoints")
    assert last is not None
    loaded: dict[str, Any] = load_state(last / "state.safetensors")
    return loaded


def assert_same_state(a: Any, b: Any, path: str = "state") -> None:
    """Two states are equal bit for bit, times aside."""
    assert type(a) is type(b), path
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a.keys() - TIMES:
            assert_same_state(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same_state(x, y, f"{path}[{i}]")
    else:
        assert a == b, path


def assert_same_run(a: Path, b: Path) -> None:
    """Two runs have the same weights, byte for byte, the same log and the same last checkpoint."""
    assert (a / "weights.safetensors").read_bytes() == (b / "weights.safetensors").read_bytes()
    assert logged(a) == logged(b)
    assert_same_state(state(a), state(b))
