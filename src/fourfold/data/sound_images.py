"""Recordings as images: log-mel spectrograms of one size, time to the right, high bands above.

So every system that learns from images learns from audio clips too. White is as loud as a band gets, black is silence.
Shapes: 64 bands, 128 frames of 8 ms.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from fourfold.core.errors import UserError
from fourfold.data.sound_files import Unreadable, decode, mono
from fourfold.data.spectra import LEAST, Spectra, resample

Members = Sequence[tuple[PurePosixPath, Path | bytes]]
RATE = 16_000
"""Samples a second of every clip, whatever its own: images of clips compare."""
FRAMES = 128
SECONDS = FRAMES * 128 / RATE
BLACK, WHITE = math.log(LEAST), 2.0
"""Log-mel amplitudes: silence, and the loudest tone there is, of low pitch and full scale (1.9)."""
NAMED = 5
"""Recordings that cannot be used named in a note."""
_SPECTRA = Spectra(RATE, window=512, hop=128, mels=64)


def spectrogram(content: bytes) -> np.ndarray:
    """The image of a sound file, (64, 128) uint8: its first 1.024 seconds, shorter ones with silence behind.

    Args:
        content: the file's bytes.

    Raises:
        UserError: the package for sound is missing.
        Unreadable: it is empty, truncated, silent or no sound.
    """
    samples, rate = decode(content)
    clip = resample(torch.from_numpy(mono(samples)), rate, RATE)[: FRAMES * 128 - 1]
    if len(clip) < _SPECTRA.window:
        raise Unreadable(f"too short: {len(clip) / RATE * 1000:.0f} ms, expected 32 ms at least")
    clip = torch.nn.functional.pad(clip, (0, FRAMES * 128 - 1 - len(clip)))
    level = (_SPECTRA.log_mel(clip) - BLACK) / (WHITE - BLACK)  # (64, 128)
    return level.mul(255).round().clamp(0, 255).byte().flip(0).numpy()


def clips_as_images(members: Members, root: str, notes: list[str]) -> Members:
    """Recordings with images' bytes in the place of their own, those that cannot be used left out and said.

    Args:
        members: their places in a folder or archive, and their files or bytes.
        root: what the folder or archive is called.
        notes: sentences for the user are added to it.

    Raises:
        UserError: the package for sound is missing, or none can be used.
    """
    made, faults = [], []
    for path, content in members:
        try:
            png = as_png(content if isinstance(content, bytes) else content.read_bytes())
            made.append((path, png))
        except (Unreadable, OSError) as error:
            faults.append(f"{PurePosixPath(root, path)}: {error}")
    if not made:
        raise UserError(faults[0] + (f", and {len(faults) - 1} more like it" if faults[1:] else ""))
    if faults:
        notes.append(f"{len(faults)} of {len(members)} recordings left out: {'; '.join(faults[:NAMED])}" + (" ..." if faults[NAMED:] else ""))  # fmt: skip
    notes.append(
        f"{root or members[0][0]}: {len(made):,} recording{'s' * (len(made) != 1)} became spectrograms of 64 bands x {FRAMES} frames, the first {SECONDS:.3f} seconds of each"
    )
    return made


def as_png(content: bytes) -> bytes:
    """That image as a file's bytes; errors as of `spectrogram`."""
    from PIL import Image

    made = io.BytesIO()
    Image.fromarray(spectrogram(content)).save(made, "PNG")
    return made.getvalue()
