"""TensorBoard event files, read back by TensorBoard."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fourfold.core.errors import UserError
from fourfold.core.metrics import Metrics
from fourfold.look.events import EventLog


def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    metrics = Metrics(None)
    with EventLog(tmp_path) as log:
        metrics.watchers.append(log.log)
        metrics.log(step=1, loss=2.5, lr=1e-3)
        metrics.log(step=2, loss=1.25, lr=5e-4)
        metrics.log(step=2, **{"valid.loss": 1.5})
        metrics.log(step=2, sample="春眠\n不觉晓")
        metrics.log(step=3, picture="previews/3.png", done=True)
    found = accumulators.EventAccumulator(str(tmp_path))
    found.Reload()
    assert set(found.Tags()["scalars"]) == {"loss", "lr", "valid/loss"}
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(1, 2.5), (2, 1.25)]
    assert [(e.step, e.value) for e in found.Scalars("valid/loss")] == [(2, 1.5)]
    (text,) = found.Tensors("sample")
    assert text.tensor_proto.string_val[0].decode() == "    春眠\n    不觉晓"
    assert text.step == 2


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.event_file_writer", None)
    with pytest.raises(
        UserError, match=r"need the extra tensorboard: pip install 'fourfold\[tensorboard\]'"
    ):
        EventLog(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/events: cannot be written"):
        EventLog(tmp_path / "file" / "events")
