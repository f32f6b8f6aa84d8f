"""A table's predictor as one ONNX file, preprocessing inside: raw columns in, predictions out.

What is written is run by onnxruntime on rows of the table and on rows that hold every category, an
unseen one and missing cells, and compared with what the run itself predicts.
Shapes: N rows, C classes or labels.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.core.targets import Target
from fourfold.data.table import TableData
from fourfold.objectives.metrics import decided
from fourfold.objectives.supervised import Supervised
from fourfold.tasks.gathering import Predictions, gather
from fourfold.tasks.onnx_rows import FILLING, every_case, inputs, used

if TYPE_CHECKING:
    import onnx
    import polars as pl

TOLERANCE = {"float32": 1e-4, "float64": 1e-6}
"""Largest difference of the file from the run, in probabilities or in deviations of the target, by the
format of the prepared numbers: sums are taken in another order, and torch 2.13 rounds the numbers in a
module's source to float32 whatever they meet."""
SAMPLE = 1_000
"""Rows of the run's own table that are tried at most."""


def export(run: Run, out: Path | None = None) -> Path:
    """Write the run as ONNX, and say how far the file's answers are from the run's.

    Args:
        run: of a system whose data is a table.
        out: the file; None means model.onnx in the run's folder.

    Raises:
        UserError: the extra is missing, no place to write, or torch cannot export this model.
        RuntimeError: the file's answers are not the run's.
    """
    if out is None:
        if run.folder is None:
            raise UserError("out: expected a file to write to; this run is in memory only")
        out = run.folder / "model.onnx"
    run.console.say(export_onnx(run, out))
    return out


def export_onnx(run: Run, path: Path, rows: pl.DataFrame | None = None) -> str:
    """Write the run as ONNX and compare it with the run.

    Args:
        run: of a system whose data is a table.
        path: the file; it is there only once the comparison has passed.
        rows: raw rows to compare on; None means those of the run's own table, where that can be opened.

    Returns:
        A sentence with the largest difference.

    Raises:
        UserError, RuntimeError: as `export`.
    """
    require()
    data = cast(TableData, run.data)
    if "" in {e.name for e in used(data)}:
        raise UserError(
            "--to onnx: a column without a name cannot be an input; name it and fit anew"
        )
    samples = {"made rows": every_case(data)}
    part = path.with_name(f".{path.name}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()  # a place that cannot be written is told before the work
        own = _own_rows(run) if rows is None else rows
        if own is not None:
            samples["rows of the table"] = own
        part.write_bytes(_made(run, _reopened(run, samples["made rows"])).SerializeToString())
        told = [_compared(run, part, name, _reopened(run, each)) for name, each in samples.items()]
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return f"onnxruntime gives what the run gives: {'; '.join(told)}."


def require() -> None:
    """Raises UserError where what an export needs is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f'--to onnx needs {error.name}: pip install "fourfold[export]"') from error


def _own_rows(run: Run) -> pl.DataFrame | None:
    try:
        data = cast(TableData, run.examples())
    except UserError:
        return None  # the table is gone or has changed: the made rows must do
    assert data.rows is not None  # noqa: S101
    _, first = next(data.rows.chunks())
    return first.head(SAMPLE)


def _reopened(run: Run, frame: pl.DataFrame) -> TableData:
    return cast(TableData, run.data).reopen(frame, seed=run.seed, whole=True, targets=False)


# --- the file -----------------------------------------------------------------------------------


class _Answers(nn.Module):
    """Prepared columns to what `gather` gives: numbers in the target's units, or probabilities, float64."""

    scale: Tensor
    mean: Tensor

    def __init__(self, model: nn.Module, objective: Supervised, target: Target) -> None:
        super().__init__()
        self.model, self.objective, self.number = model, objective, target.kind == "number"
        for name in ("scale", "mean"):
            self.register_buffer(name, torch.tensor(getattr(target, name), dtype=torch.float64))

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """(N, D) to (N,) numbers, with the further ones after the first; or (N, C) probabilities."""
        outputs = self.model(features).double()
        found = (self.objective.predict(outputs), *self.objective.further(outputs).values())
        return tuple(v * self.scale + self.mean for v in found) if self.number else found


def _made(run: Run, sample: TableData) -> onnx.ModelProto:
    """The whole file; `sample` are rows to trace the model with."""
    from onnx import compose

    from fourfold.tasks.onnx_graph import Graph, answer, joined, prepare

    options, encodings = sample.options, used(sample)
    features = next(iter(sample.batches("test")))["features"]
    model = _Answers(copy.deepcopy(run.model).cpu(), _objective(run), sample.target).eval()
    graph = Graph([e.name for e in encodings])
    inner = compose.add_prefix(_exported(model, features), f"{graph.mark}model/")
    lost = options.missing not in FILLING
    gone = prepare(graph, encodings, options.dtype, inner.graph.input[0].name, lost=lost)
    before = len(graph.nodes)
    values = [output.name for output in inner.graph.output]
    answer(graph, sample.target, values, output_names(run, sample), gone)
    facts = {
        "system": run.system.name,
        "target": sample.target.name,
        "classes": json.dumps(sample.target.classes, ensure_ascii=False),
    }
    return joined(graph, inner, before, facts)


def _objective(run: Run) -> Supervised:
    return cast(Supervised, run.objective)


def output_names(run: Run, data: TableData) -> list[str]:
    """What the file's outputs are called: "prediction", then further numbers, or "probabilities" or "scores".

    The target's name goes before one that a column has already.
    """
    objective, target = _objective(run), data.target
    if target.kind == "number":
        names = list(objective.further(torch.zeros(1, objective.outputs(target))))
    else:
        names = ["probabilities" if objective.probabilistic else "scores"]
    taken = {e.name for e in used(data)}
    found = []
    for name in ("prediction", *names):
        name = f"{target.name}_{name}" if name in taken else name
        while name in taken:
            name += "_"
        taken.add(name)
        found.append(name)
    return found


def _exported(model: nn.Module, features: Tensor) -> onnx.ModelProto:
    """What torch makes of the model, for any number of rows.

    Raises:
        UserError: something in the model cannot be exported.
    """
    try:
        with _silent(), torch.no_grad():
            program = torch.onnx.export(
                model,
                (features,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = error.__cause__ or error
        reason = str(cause).strip().splitlines()[0]
        name = type(model.model).__name__
        raise UserError(f"--to onnx: torch cannot export {name}: {reason}") from error
    assert program is not None  # noqa: S101  # dynamo gives one
    return _without_traces(program.model_proto)


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the exporter's notes: they hold source lines and folders of the machine that wrote the file."""
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        for part in (graph, *graph.node, *graph.value_info):
            part.ClearField("metadata_props")
            part.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    return model


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what the exporter says of torch's own parts and of packages that are not needed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


# --- the comparison -----------------------------------------------------------------------------


def _compared(run: Run, path: Path, name: str, data: TableData) -> str:
    """The file's answers to some rows against the run's; a phrase with the largest difference.

    Raises:
        RuntimeError: they differ by more than TOLERANCE, or another class is chosen.
    """
    import onnxruntime

    assert data.parts is not None  # noqa: S101
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # what it optimizes away is of no interest
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    answers = session.run(output_names(run, data), inputs(data))
    expected, kept, target = gather(run, data, "test"), data.parts == 2, data.target
    values = answers if target.kind == "number" else answers[1:]
    difference = _difference(target, expected, [v[kept] for v in values])
    if not difference <= TOLERANCE[data.options.dtype]:
        raise RuntimeError(f"the exported file differs from the run by {difference:.2g} on {name}")
    if any(np.isfinite(v[~kept]).any() for v in values):
        raise RuntimeError(f"the exported file answers {name} that the run leaves out")
    if target.kind != "number":
        chosen = decided(values[0][kept], np.empty((0,) if target.kind == "category" else (0, 0)))
        own = np.array(target.classes, object)[chosen] if target.kind == "category" else chosen
        if not np.array_equal(own, answers[0][kept]):
            raise RuntimeError(
                f"the exported file decides otherwise than its probabilities on {name}"
            )
    return f"{int(kept.sum()):,} {name} within {difference:.1g}"


def _difference(target: Target, expected: Predictions, values: list[Any]) -> float:
    """The largest, relative to the target's deviation (and to the number itself where that is larger)."""
    largest, scale = 0.0, target.scale if target.kind == "number" else 1.0
    for found, true in zip(values, [expected.values, *expected.further.values()], strict=True):
        if not len(true):
            continue
        apart = np.abs(found - true) / np.maximum(scale, np.abs(true))
        largest = max(largest, float(apart.max()))
    return largest
