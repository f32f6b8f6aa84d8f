"""Spectrograms, with what they sound like."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from fourfold.core.types import Picture
from fourfold.look.figures import picture, subplots


def spectrograms(
    mels: Sequence[tuple[str, Any]], title: str, seconds: float, *, caption: str = "", sound: bytes = b""
) -> Picture:  # fmt: skip
    """Log-mel spectrograms side by side, on one scale of colours.

    Args:
        mels: names and (M, T) arrays or tensors.
        title: of the picture.
        seconds: from one frame to the next.
        caption: what is seen.
        sound: a WAV file to be played with it.
    """
    arrays = [np.asarray(mel) for _, mel in mels]
    fig, axes = subplots(
        1, len(mels), width=3.2 * len(mels) + 0.6, height=2.8, squeeze=False, sharey=True
    )
    low, high = min(a.min() for a in arrays), max(a.max() for a in arrays)
    for axis, (name, _), mel in zip(axes[0], mels, arrays, strict=True):
        axis.imshow(
            mel, origin="lower", aspect="auto", vmin=low, vmax=high, extent=(0, mel.shape[1] * seconds, 0, len(mel))
        )  # fmt: skip
        axis.set(xlabel="seconds", title=name)
        axis.grid(False)
    axes[0][0].set_ylabel("mel band")
    drawn = picture(fig, title, caption)
    return Picture(drawn.title, drawn.png, drawn.caption, audio=sound)


def wav(samples: Any, rate: int) -> bytes:
    """Samples (N,) in [-1, 1] as a WAV file of 16 bits; louder ones are turned down as a whole."""
    import wave

    array = np.asarray(samples, np.float64)
    loudest = max(1.0, float(np.abs(array).max(initial=0)))
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(np.rint(array / loudest * 32767).astype("<i2").tobytes())
    return file.getvalue()
