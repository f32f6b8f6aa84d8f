"""States as files: round trips of anything nested, shared tensors, models that take their shape."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from fourfold.core.errors import UserError
from fourfold.core.state import (
    TakesShape,
    checkpoints,
    latest_checkpoint,
    load_state,
    load_weights,
    save_checkpoint,
    save_state,
    save_weights,
)

DTYPES = [
    torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32,
    torch.uint8, torch.int8, torch.bool,
]  # fmt: skip


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Any dtype and shape, empty and scalar ones and views with strides too."""
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    values = torch.tensor(draw(st.integers(0, 100))) + torch.arange(math.prod(shape)).reshape(shape)
    made = values.to(draw(st.sampled_from(DTYPES)))
    return made.transpose(0, -1) if made.ndim > 1 and draw(st.booleans()) else made


leaves = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8) | tensors()
    | st.floats(allow_nan=False)
)  # fmt: skip
keys = st.text(max_size=6) | st.integers(-5, 5)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@settings(
    deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(trees)
def test_any_state_comes_back(tmp_path: Path, tree: Any) -> None:
    save_state(tmp_path / "state", tree)
    assert same(load_state(tmp_path / "state"), tree)


def test_numbers_that_json_has_no_word_for_come_back(tmp_path: Path) -> None:
    values = [math.inf, -math.inf, 5e-324, 1.7976931348623157e308, -0.0, 0.1 + 0.2]
    save_state(tmp_path / "state", [*values, math.nan])
    loaded = load_state(tmp_path / "state")
    assert [struct.pack("d", v) for v in loaded[:-1]] == [struct.pack("d", v) for v in values]
    assert math.isnan(loaded[-1])


@pytest.mark.parametrize("algorithm", ["AdamW", "SGD", "Adagrad", "Muon"])
def test_the_state_of_torchs_optimizers_comes_back(tmp_path: Path, algorithm: str) -> None:
    def made() -> tuple[nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(3, 2, bias=False)
        extra = {"momentum": 0.9} if algorithm == "SGD" else {}
        return model, getattr(torch.optim, algorithm)(model.parameters(), lr=0.1, **extra)

    def step(model: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
        model.zero_grad()
        model(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()

    model, optimizer = made()
    for _ in range(3):
        step(model, optimizer)
    save_state(
        tmp_path / "state", {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    )
    other, fresh = made()
    loaded = load_state(tmp_path / "state")
    other.load_state_dict(loaded["model"])
    fresh.load_state_dict(loaded["optimizer"])
    step(model, optimizer)
    step(other, fresh)
    assert torch.equal(model.weight, other.weight)


def test_equal_states_are_equal_files(tmp_path: Path) -> None:
    files = []
    for number in range(8):  # the library's own order of the header differs from file to file
        save_state(tmp_path / f"{number}", {"a": torch.ones(3), "b": [1, "é", torch.zeros(0)]})
        save_weights(tmp_path / f"w{number}", nn.Linear(2, 1).requires_grad_(False).apply(_ones))
        files.append(
            ((tmp_path / f"{number}").read_bytes(), (tmp_path / f"w{number}").read_bytes())
        )
    assert len(set(files)) == 1


def _ones(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.fill_(1.0)


def test_what_a_state_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state\.a\.1 is set"):
        save_state(tmp_path / "state", {"a": [1, {2}]})
    assert not list(tmp_path.iterdir())


class Tied(nn.Module):
    """Embedding and output share their matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.head = nn.Linear(8, 50, bias=False)
        self.head.weight = self.embedding.weight


def test_shared_tensors_are_stored_once(tmp_path: Path) -> None:
    model, path = Tied(), tmp_path / "weights.safetensors"
    save_weights(path, model)
    assert list(load_file(path)) == ["embedding.weight"]
    assert path.stat().st_size < 50 * 8 * 4 + 500
    other = Tied()
    load_weights(path, other)
    assert torch.equal(other.head.weight, model.embedding.weight)
    assert other.head.weight is other.embedding.weight


def test_weights_that_stand_in_for_the_models_own(tmp_path: Path) -> None:
    model, average = Tied(), torch.full((50, 8), 7.0)
    save_weights(tmp_path / "w", model, {"embedding.weight": average})
    load_weights(tmp_path / "w", other := Tied())
    assert torch.equal(other.head.weight, average)


def test_views_of_one_storage_are_whole(tmp_path: Path) -> None:
    class Views(nn.Module):
        def __init__(self, start: float) -> None:
            super().__init__()
            both = torch.arange(6.0) + start
            self.register_buffer("left", both[:3])
            self.register_buffer("right", both[3:])

    save_weights(tmp_path / "w", Views(0.0))
    load_weights(tmp_path / "w", other := Views(9.0))
    assert other.left.tolist() == [0, 1, 2] and other.right.tolist() == [3, 4, 5]


class Counts(TakesShape, nn.Module):
    """A table whose size the search decides."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.empty(0, 3, dtype=torch.int64))
        self.inner = nn.Linear(2, 2)


def test_a_model_takes_the_shape_of_what_was_saved(tmp_path: Path) -> None:
    grown = nn.Sequential(Counts(), Counts())
    grown[1].table = torch.arange(15).reshape(5, 3)
    save_weights(tmp_path / "w", grown)
    fresh = nn.Sequential(Counts(), Counts())
    load_weights(tmp_path / "w", fresh)
    assert torch.equal(fresh[1].table, grown[1].table) and fresh[0].table.shape == (0, 3)
    assert torch.equal(fresh[1].inner.weight, grown[1].inner.weight)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "w", nn.Linear(3, 2))
    for other in (nn.Linear(4, 2), nn.Linear(3, 2, bias=False), nn.Sequential(nn.Linear(3, 2))):
        with pytest.raises(UserError, match="do not fit this model"):
            load_weights(tmp_path / "w", other)


def test_only_the_newest_checkpoint_stays(tmp_path: Path) -> None:
    for step in (3, 12, 7):
        save_checkpoint(tmp_path / "c", step, {"step": step})
        assert [p.name for p in checkpoints(tmp_path / "c")] == [f"{step:09d}"]
    newest = latest_checkpoint(tmp_path / "c")
    assert newest is not None and load_state(newest / "state.safetensors") == {"step": 7}
    assert latest_checkpoint(tmp_path / "none") is None


def test_the_same_step_again_replaces_the_checkpoint(tmp_path: Path) -> None:
    for value in (1, 2):
        save_checkpoint(tmp_path, 5, {"value": value})
    assert load_state(tmp_path / "000000005" / "state.safetensors") == {"value": 2}
    assert [p.name for p in tmp_path.rglob("*")] == ["000000005", "state.safetensors"]


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".000000009.tmp").mkdir()
    (tmp_path / ".000000009.tmp" / ".state.safetensors.1.tmp").write_bytes(b"half")
    assert latest_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, 10, {})
    assert [p.name for p in tmp_path.iterdir()] == ["000000010"]
