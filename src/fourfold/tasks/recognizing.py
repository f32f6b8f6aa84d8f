"""What a network says of images: probabilities, averaged over views where that is asked; predictions; measures.

Shapes: N images, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out, measure
from fourfold.core.parts import Split
from fourfold.core.run import Run
from fourfold.core.types import Score
from fourfold.data.augmentation import scaled
from fourfold.data.labelled_images import LabelledImageData
from fourfold.objectives.supervised import Supervised
from fourfold.tasks.scores import scores, units

if TYPE_CHECKING:
    import polars as pl

AT_ONCE = 256
"""Images that pass through the network at once."""
SHIFTS = ((1, 0), (-1, 0), (0, 1), (0, -1))


def views(images: Tensor, average: str) -> Iterator[Tensor]:
    """The views of images (B, C, H, W) over which probabilities are averaged."""
    yield images
    if average == "none":
        return
    yield images.flip(3)
    if average == "shift":
        for right, down in SHIFTS:
            padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
            height, width = images.shape[2:]
            yield padded[:, :, 1 - down : 1 - down + height, 1 - right : 1 - right + width]


def probabilities(
    run: Run, data: LabelledImageData, split: Split, average: str = "none"
) -> np.ndarray:
    """(N, C) float64 probabilities of a split's images in stored order."""
    model, objective = run.model.eval(), cast(Supervised, run.objective)
    found = []
    with torch.no_grad():
        for start in range(0, data.size(split), AT_ONCE):
            stop = min(start + AT_ONCE, data.size(split))
            images = scaled(data.some(split, slice(start, stop))[0]).to(run.device)
            images = images.contiguous(memory_format=torch.channels_last)
            said = [objective.predict(model(v).double()) for v in views(images, average)]
            found.append(torch.stack(said).mean(0).cpu().numpy())
    return np.concatenate(found) if found else np.empty((0, len(data.classes)))


def predicted(run: Run, source: Any, top: int, average: str) -> pl.DataFrame:
    """The likeliest classes of images, best first.

    Raises:
        UserError: no image opens.
    """
    import polars as pl

    data = cast(LabelledImageData, run.data.reopen(source, seed=run.seed, whole=True))
    for note in data.summary()["notes"]:
        run.note(note)
    values = probabilities(run, data, "test", average)
    order = np.argsort(-values, axis=1, kind="stable")[:, : min(top, values.shape[1])]
    names = np.array(data.classes, dtype=object)
    columns: dict[str, Any] = {"image": data.names["test"]}
    for rank in range(order.shape[1]):
        ending = "" if rank == 0 else f"_{rank + 1}"
        columns[f"prediction{ending}"] = names[order[:, rank]].tolist()
        columns[f"p{ending}"] = np.take_along_axis(values, order[:, rank : rank + 1], 1)[:, 0]
    return pl.DataFrame(columns)


def evaluated(run: Run, source: Any, average: str) -> Score:
    """The field's measures on the run's own held-out images or on others.

    Raises:
        UserError: nothing was held out, or the images have no classes that training had.
    """
    examples, split, sentence = held_out(run, source)
    data = cast(LabelledImageData, examples)
    notes = list(data.summary()["notes"])
    if not data.labelled:
        why = "".join(f" ({note})" for note in notes if note.startswith("no labels"))
        raise UserError(f"these images have no classes to be measured by{why}; predict needs none")
    found = probabilities(run, data, split, average)
    values, undefined = scores(data.target, found, data.labels(split).numpy())
    values = {"accuracy": values.pop("accuracy"), **values}
    loss = measure(run.objective, run.model, data, split, run.device, run.seed)["loss"]
    count = f"{data.size(split):,} images {sentence}"
    if average != "none":
        count += f", each averaged over {len(list(views(torch.zeros(1, 1, 2, 2), average)))} views"
    told = {**units(data.target, values), "loss": "nats"}
    return Score({**values, "loss": loss}, told, (count, *undefined, *notes))
