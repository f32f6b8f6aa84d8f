"""What a network sees of images: where Grad-CAM finds its evidence, its feature maps layer by layer, its filters.

Shapes: B images, C channels, M maps of a layer, H and W pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out
from fourfold.core.parts import Split
from fourfold.core.run import Run
from fourfold.core.types import Explanation, Picture, Table
from fourfold.data.augmentation import scaled
from fourfold.data.labelled_images import LabelledImageData
from fourfold.look.figures import grid, stand_ins
from fourfold.look.gradcam import grad_cam, overlaid
from fourfold.objectives.supervised import Supervised

MAPS = 12
"""Feature maps drawn of a layer."""
LAYERS = 6
"""Layers drawn at most, evenly chosen."""
FILTERS = 64
GAP = 16
"""Pixels between pictures on one sheet."""
SIDE = 48
"""Pixels of a drawn feature map at least."""


def explained(run: Run, source: Any, examples: int, top: int) -> Explanation:
    """Why images are taken for what they are.

    Raises:
        UserError: there is no image to look at.
    """
    examples_of, split, sentence = held_out(run, source)
    data = cast(LabelledImageData, examples_of)
    if not data.size(split):
        raise UserError(f"no image {sentence} to look at")
    images = data.some(split, slice(0, min(examples, data.size(split))))[0]
    cams, told = _evidence(run, data, images, data.names[split], top)
    maps, table = feature_maps(run, images[:1])
    why = _stacked([cams, maps, *filters(run)])  # one picture, as --out why.png asks for
    if key := stand_ins(data.classes)[1]:
        told.append(key)
    sentences = (*told, f"Seen: {len(images)} of {data.size(split):,} images {sentence}.")
    return Explanation("What the network sees", sentences, (table,), (why,))


def _evidence(
    run: Run, data: LabelledImageData, images: Tensor, names: Sequence[str], top: int
) -> tuple[Picture, list[str]]:
    """Each image and, beside it, the places that speak for its likeliest classes."""
    model: Any = run.model.eval()
    floats = scaled(images)
    with torch.no_grad():
        said = cast(Supervised, run.objective).predict(model(floats.to(run.device)).double()).cpu()
    order = said.argsort(dim=1, descending=True)[:, :top]
    drawn, labels, told = [], [], []
    short, key = stand_ins(data.classes)
    for row, image in enumerate(floats):
        count = order.shape[1]
        places = grad_cam(
            model, image.expand(count, -1, -1, -1).to(run.device), order[row].to(run.device)
        )
        drawn.append(np.broadcast_to(image.add(1).div(2).numpy(), (3, *image.shape[1:])))
        drawn += list(overlaid(image.add(1).div(2).expand(count, -1, -1, -1), places.cpu()))
        shares = [(c, f"{float(said[row, c]):.0%}") for c in order[row].tolist()]
        labels += ["image", *[f"{short[c]} {share}" for c, share in shares]]
        told.append(f"{names[row]}: {', '.join(f'{data.classes[c]} {s}' for c, s in shares)}.")
    caption = (
        "Left: the image. Beside it the places that speak for each of its likeliest classes, red most (Grad-CAM: the "
        "last feature maps, weighted by the mean gradient of the class)."
    )
    if key:
        caption += f" {key}"
    large = _enlarged(np.stack(drawn))
    return grid(large, "Grad-CAM", columns=1 + order.shape[1], caption=caption, labels=labels), told


def _enlarged(images: np.ndarray) -> np.ndarray:
    """Small images by whole factors, so that labels below them have room."""
    factor = max(1, math.ceil(96 / images.shape[3]))
    return images.repeat(factor, axis=2).repeat(factor, axis=3)


def feature_maps(run: Run, images: Tensor) -> tuple[Picture, Table]:
    """The first image's maps after each convolution, and their shapes; of a network without any, its last maps."""
    model: Any = run.model.eval()
    seen: dict[str, Tensor] = {}
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        with torch.no_grad():
            seen["features"] = model.features(scaled(images[:1]).to(run.device)).float().cpu()
    hooks = [
        module.register_forward_hook(
            lambda _, __, out, name=name: seen.__setitem__(name, out.detach().float().cpu())
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        with torch.no_grad():
            model(scaled(images[:1]).to(run.device))
    finally:
        for hook in hooks:
            hook.remove()
    names = list(seen)
    chosen = [
        names[i] for i in np.unique(np.linspace(0, len(names) - 1, LAYERS).round().astype(int))
    ]
    rows, labels = [], []
    for name in chosen:
        maps = seen[name][0]
        most = maps.flatten(1).abs().mean(1).argsort(descending=True)[:MAPS].sort().values
        some = maps[most]
        low, high = some.amin((1, 2), keepdim=True), some.amax((1, 2), keepdim=True)
        scaled_ = (some - low) / (high - low).clamp_min(1e-9)
        drawn = F.interpolate(scaled_[None], (SIDE, SIDE), mode="nearest")[0]
        missing = MAPS - len(drawn)
        rows.append(F.pad(drawn, (0, 0, 0, 0, 0, missing), value=1.0))
        labels += [name.split(".", 1)[-1][-9:], *[""] * (MAPS - 1)]
    caption = (
        "Each row: the maps of one convolution that answer most to the first image, dark least and light most; "
        f"{len(chosen)} of {len(names)} convolutions, from the first to the last."
    )
    picture = grid(torch.cat(rows), "Feature maps", columns=MAPS, caption=caption, labels=labels)
    shapes = tuple((n, "x".join(map(str, seen[n].shape[1:]))) for n in names)
    return picture, Table("Feature maps", ("convolution", "maps x height x width"), shapes)


def filters(run: Run) -> list[Picture]:
    """Weights of the first convolution, as images; none where it sees single pixels."""
    first = next((m for m in run.model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or first.kernel_size[0] < 3:
        return []
    weights = first.weight.detach().float().cpu()[:FILTERS]
    if weights.shape[1] not in (1, 3):
        return []
    most = weights.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-9)
    caption = "Weights of the first convolution, each by its largest: black negative, grey zero, white positive."
    return [grid(weights / most / 2 + 0.5, "Filters", caption=caption, width=480)]


def _stacked(parts: Sequence[Picture]) -> Picture:
    """Pictures on one sheet, one below the other."""
    images = [Image.open(io.BytesIO(p.png)).convert("RGB") for p in parts]
    size = max(i.width for i in images), sum(i.height + GAP for i in images) - GAP
    sheet, top = Image.new("RGB", size, (255, 255, 255)), 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height + GAP
    buffer = io.BytesIO()
    sheet.save(buffer, format="png", optimize=True)
    return Picture("Why", buffer.getvalue(), " ".join(p.caption for p in parts))


def evidence(run: Run, data: LabelledImageData, split: Split, rows: Sequence[int]) -> Picture:
    """Grad-CAM of some images of a split, for the report."""
    images = data.some(split, np.asarray(rows))[0]
    return _evidence(run, data, images, [""] * len(images), 2)[0]
