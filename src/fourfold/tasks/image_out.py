"""Images that a verb makes: as one sheet, or one file each in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.core.types import Picture
from fourfold.look.figures import grid


def images_out(images: Tensor, title: str, out: Path | None) -> Picture | Path:
    """A sheet of images (N, C, H, W) in [0, 1]; where `out` has no extension, files in that folder.

    Raises:
        UserError: the folder cannot be made or written.
    """
    if out is None:
        return grid(images, title)
    if out.suffix:
        grid(images, title).save(out)
        return out
    from PIL import Image

    pixels = images.mul(255).round().clamp(0, 255).byte().cpu().numpy()
    digits = len(str(len(pixels) - 1))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(pixels):
            plain = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
            Image.fromarray(plain).save(out / f"{number:0{digits}}.png")
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error
    return out
