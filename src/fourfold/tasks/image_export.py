"""A network that recognizes images as one ONNX file: bytes of images in, probabilities of the classes out.

Shapes: N images, C channels, H and W pixels.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import warnings
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.labelled_images import LabelledImageData
from fourfold.objectives.supervised import Supervised
from fourfold.tasks.onnx_export import require

TOLERANCE = 1e-4
"""Largest difference of a probability between the file and the run."""


class _Whole(nn.Module):
    """From bytes to probabilities."""

    def __init__(self, model: nn.Module, objective: Supervised) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, images: Tensor) -> Tensor:
        """(N, K) float32 probabilities of images (N, C, H, W) uint8."""
        return self.objective.predict(self.model(images.float() * (2 / 255) - 1))


def export(run: Run, out: Path | None = None) -> Path:
    """Write the run as ONNX, run the file on images, and say how far its answers are from the run's.

    Args:
        run: of a system that recognizes images.
        out: the file; None means model.onnx in the run's folder.

    Raises:
        UserError: the extra is missing, or no place to write.
        RuntimeError: the file's answers are not the run's.
    """
    if out is None:
        if run.folder is None:
            raise UserError("out: expected a file to write to; this run is in memory only")
        out = run.folder / "model.onnx"
    require()
    import onnx
    import onnxruntime

    data = cast(LabelledImageData, run.data)
    whole = _Whole(copy.deepcopy(run.model).cpu().float(), cast(Supervised, run.objective)).eval()
    whole.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (5, *data.shape), dtype=np.uint8)
    part = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporter's own code
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            program = torch.onnx.export(
                whole,
                (torch.from_numpy(images),),
                input_names=["images"],
                output_names=["probabilities"],
                dynamic_shapes=({0: torch.export.Dim("images", min=1)},),
                dynamo=True,
                verbose=False,
            )
        assert program is not None  # noqa: S101
        made = program.model_proto
        made.metadata_props.append(
            onnx.StringStringEntryProto(key="classes", value="\n".join(data.classes))
        )
        part.write_bytes(made.SerializeToString())
        session = onnxruntime.InferenceSession(str(part), providers=["CPUExecutionProvider"])
        apart = 0.0
        for count in (1, 5):
            with torch.no_grad():
                expected = whole(torch.from_numpy(images[:count])).numpy()
            (got,) = session.run(None, {"images": images[:count]})
            apart = max(apart, float(np.abs(got - expected).max()))
        if apart > TOLERANCE:
            raise RuntimeError(
                f"{out}: the file's probabilities are up to {apart:.2g} from the run's"
            )
        os.replace(part, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    run.console.say(
        f"onnxruntime gives what the run gives: probabilities of 5 images differ by {apart:.2g} at most; "
        f"input images (N, {', '.join(map(str, data.shape))}) uint8."
    )
    return out
