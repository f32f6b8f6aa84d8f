"""The verbs `compress` and `expand` of pictures: codes of a VQ-VAE, written by a range coder with what its context model expects.

Lossy, unlike the compression of text: what comes back is what the codes say, to the last bit the same wherever the
file is accepted. Any size will do: the grid of codes covers the picture, what stands over is cut off.
Shapes: h and w of the grid, L levels, K codes of a level.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourfold.core.device import available_memory
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.pixels import fault_of, upright
from fourfold.kernels import coder
from fourfold.models.code_context import halves
from fourfold.models.vqvae import VQVAE
from fourfold.tasks import archive
from fourfold.tasks.archive import Archive
from fourfold.tasks.compressing import (
    SUFFIX,
    content_of,
    expanded_name,
    refuse_other,
    target_of,
    write_out,
)

_WRONG = "this run does not make here what it made when the file was written; nothing was written"
_FORMATS = {".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}
"""What a picture is written as without loss."""


def compress_picture(
    run: Run, model: VQVAE, file: Path, levels: int | None, out: Path | None
) -> Path:
    """See `VQVAESystem.compress`."""
    data, name = content_of(file)
    target = target_of(out, file, f"{file}{SUFFIX}")
    refuse_other(target, out)
    most = model.codec.quantizer.levels
    if levels is not None and levels > most:
        raise UserError(f"--levels: this run has {most} levels of codes, got {levels}")
    try:
        pixels = upright(data, model.codec.channels)
    except Exception as error:  # Pillow's plugins raise almost anything on broken files
        raise UserError(f"{name}: {fault_of(error) if data else 'empty, 0 bytes'}") from error
    made, restored = pack(run, model, pixels, levels or most)
    write_out(run, target, made)
    height, width = pixels.shape[1:]
    noise = float(np.mean((restored.astype(np.float64) - pixels) ** 2))
    quality = f"{10 * np.log10(255**2 / noise):.2f} dB" if noise else "without loss"
    run.console.say(
        f"{width} x {height} pixels became {len(made):,} bytes: "
        f"{8 * len(made) / (height * width):.3f} bits per pixel, {quality} (peak signal to noise)"
    )
    return target


def expand_picture(run: Run, model: VQVAE, file: Path, out: Path | None) -> Path:
    """See `VQVAESystem.expand`."""
    data, name = content_of(file)
    plain = Path(expanded_name(file, ".png"))
    if plain.suffix.lower() not in _FORMATS:  # photo.jpg.ff: a JPEG would lose again
        plain = plain.with_name(plain.name + ".png")
    target = target_of(out, file, str(plain))
    kind = "PNG" if str(target) == "-" else _FORMATS.get(target.suffix.lower())
    if kind is None:
        raise UserError(
            f"{target}: a picture is written without further loss as {', '.join(_FORMATS)}"
        )
    refuse_other(target, out)
    pixels = unpack(run, model, data, name)
    from PIL import Image

    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    written = io.BytesIO()
    image.save(written, kind, **({"lossless": True} if kind == "WEBP" else {}))
    write_out(run, target, written.getvalue())
    return target


@torch.inference_mode()
def pack(run: Run, model: VQVAE, pixels: np.ndarray, levels: int) -> tuple[bytes, np.ndarray]:
    """A picture's file, and the pixels that it will expand to.

    Args:
        run: what the file will belong to.
        model: its model.
        pixels: (C, H, W) uint8.
        levels: of codes that are kept.
    """
    channels, height, width = pixels.shape
    _refuse_what_cannot_fit(run, model, height, width)
    image = torch.from_numpy(pixels.copy()).to(run.device).float().div(127.5).sub(1)
    codes = model.codec.encode(image[None])[..., :levels]
    body = write_codes(model, codes)
    restored = _pixels(model, codes, (height, width))
    made = Archive(
        run=archive.fingerprint(run, run.data.fingerprint),
        place=archive.place(run.device),
        length=restored.nbytes,
        checksum=archive.digest(restored.tobytes()).hex(),
        rows=1,
        picture={"height": height, "width": width, "channels": channels, "levels": levels},
        body=body,
    ).content()
    return made, restored


@torch.inference_mode()
def unpack(run: Run, model: VQVAE, data: bytes, name: str) -> np.ndarray:
    """The pixels (C, H, W) uint8 of a file that `pack` wrote.

    Raises:
        UserError: it is damaged, of another run or place, or does not give the pixels that it was checked with.
    """
    found = archive.read(data, name)
    archive.check(found, archive.fingerprint(run, run.data.fingerprint), run.device, name)
    about = found.picture
    if sorted(about) != ["channels", "height", "levels", "width"]:
        raise UserError(f"{name}: holds no picture")
    size = about["height"], about["width"]
    _refuse_what_cannot_fit(run, model, *size)
    codes = read_codes(model, found.body, model.codec.grid_size(size), about["levels"])
    made = _pixels(model, codes, size)
    if archive.digest(made.tobytes()).hex() != found.checksum:
        raise UserError(f"{name}: what it expands to has another checksum; {_WRONG}")
    return made


def write_codes(model: VQVAE, codes: Tensor) -> bytes:
    """Codes (1, h, w, L) int64 as bytes."""
    state = coder.register()
    out = np.zeros(16 * codes.numel() + 64, np.uint8)
    known = codes.clone()
    for level, half, said in _passes(model, known):
        if not coder.put_rows(state, out, said, codes[0, ..., level][half].cpu().numpy()):
            raise ValueError("the context model's probabilities are none")
    return coder.finish(state, out)


def read_codes(model: VQVAE, body: bytes, grid: tuple[int, int], levels: int) -> Tensor:
    """Codes (1, h, w, levels) int64 of bytes that `write_codes` made.

    Raises:
        UserError: the model's probabilities are none.
    """
    state, data = coder.opened(body)
    codes = torch.zeros((1, *grid, levels), dtype=torch.int64, device=_device(model))
    for level, half, said in _passes(model, codes):
        chosen = np.zeros(len(said), np.int64)
        if not coder.take_rows(state, data, said, chosen):
            raise UserError("the context model's probabilities are none: not from 0 to 1")
        codes[0, ..., level][half] = torch.from_numpy(chosen).to(codes.device)
    return codes


def _passes(model: VQVAE, codes: Tensor) -> Iterator[tuple[int, Tensor, np.ndarray]]:
    """What writer and reader go through: a level, the half of the grid (h, w) that is next, and (P, K) float32 for it.

    Of codes (1, h, w, L) only what was handed out before is looked at; a reader fills in what it read.
    """
    black, white = halves(codes.shape[1], codes.shape[2], codes.device)
    nothing = torch.zeros_like(black)
    before = torch.zeros((*codes.shape[:3], model.codec.quantizer.width), device=codes.device)
    for level in range(codes.shape[-1]):
        book = model.codec.quantizer.codebook[level]
        for half, known in ((black, nothing), (white, black)):
            if not half.any():
                continue
            logits = model.context(before, book[codes[..., level]], known, level)
            said = logits[0][half].float().softmax(-1)
            yield level, half, said.cpu().contiguous().numpy()
        before = before + book[codes[..., level]]


def _pixels(model: VQVAE, codes: Tensor, size: tuple[int, int]) -> np.ndarray:
    image = model.codec.decode(codes, size)[0].float()
    return image.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def _device(model: VQVAE) -> Any:
    return model.codec.quantizer.codebook.device


def _refuse_what_cannot_fit(run: Run, model: VQVAE, height: int, width: int) -> None:
    """The widest layers are at half the picture's size, and a few of them are alive at once."""
    needed = 4 * 4 * model.codec.width * (height * width // 4)
    free = available_memory(run.device)
    if needed > free:
        raise UserError(
            f"a picture of {width} x {height} pixels needs about {needed / 2**30:.1f} GiB here and "
            f"{free / 2**30:.1f} GiB is free; cut it into parts"
        )
