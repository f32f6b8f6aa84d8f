"""Recordings that the project makes: gliding vowels of a few voices, so that sound can be learned without a download.

A voice is the pitch of its source and the length of its vocal tract, which moves all formants together; a word is a
glide from one vowel to another. Formants: Peterson and Barney 1952, men's means. Harmonics are summed under the
resonances' gains (Klatt 1980). Shapes: N samples.
"""

from __future__ import annotations

import numpy as np

RATE = 8000
"""In Hz."""
VOWELS = {
    "i": (270, 2290, 3010), "e": (530, 1840, 2480), "a": (730, 1090, 2440), "o": (570, 840, 2410), "u": (300, 870, 2240),
}  # fmt: skip
"""Hz of the first three formants."""
WORDS = ("ai", "au", "ia", "oe", "ui")
VOICES = {
    "anna": (225.0, 1.17),
    "boris": (105.0, 0.98),
    "chen": (160.0, 1.06),
    "dora": (280.0, 1.28),
}
"""Hz of the pitch, and by what all formants are multiplied."""
TAKES = 16
_BANDWIDTHS = np.array([60.0, 90.0, 150.0])  # Hz


def made_voices() -> list[tuple[str, np.ndarray]]:
    """Names like ai_anna_3 and samples (N,) float32 at 8 kHz, the same everywhere up to rounding."""
    made = []
    for number, (voice, (pitch, tract)) in enumerate(VOICES.items()):
        for place, word in enumerate(WORDS):
            for take in range(TAKES):
                random = np.random.default_rng([number, place, take])
                made.append((f"{word}_{voice}_{take}", said(word, pitch, tract, random)))
    return made


def said(word: str, pitch: float, tract: float, random: np.random.Generator) -> np.ndarray:
    """One word by one voice: samples (N,) float32.

    Args:
        word: two vowels.
        pitch: in Hz.
        tract: by what the formants are multiplied.
        random: of length, pitch, glide and loudness.
    """
    count = int(RATE * random.uniform(0.32, 0.5))
    time = np.linspace(0, 1, count)
    share = 1 / (1 + np.exp(-(time - random.uniform(0.4, 0.6)) / 0.08))[:, None]  # (N, 1)
    first, last = (np.array(VOWELS[v], float) for v in word)
    formants = tract * random.normal(1, 0.015, 3) * (first * (1 - share) + last * share)  # (N, 3)
    contour = pitch * random.normal(1, 0.03) * (1 - random.uniform(0.0, 0.15) * time)
    phase = np.cumsum(2 * np.pi * contour / RATE)
    samples = np.zeros(count)
    for harmonic in range(1, int(RATE / 2 / contour.max())):
        hertz = harmonic * contour
        low = formants**2 + (_BANDWIDTHS / 2) ** 2
        # each resonance passes 1 at 0 Hz and much more at its own frequency
        away = np.hypot(formants**2 - hertz[:, None] ** 2, _BANDWIDTHS * hertz[:, None])
        samples += (low / away).prod(1) / harmonic * np.sin(harmonic * phase)
    fade = np.minimum(1, np.minimum(time, 1 - time) / 0.08)
    samples *= fade * random.uniform(0.4, 0.8) / np.abs(samples).max()
    return (samples + random.normal(0, 1e-3, count)).astype(np.float32)
