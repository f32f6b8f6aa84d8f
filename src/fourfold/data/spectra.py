"""Sound as spectra and back: resampling, the mel scale, log-mel spectrograms, Griffin-Lim.

Mel scales: Slaney 1998 (Auditory Toolbox; linear below 1 kHz) and O'Shaughnessy 1987 (HTK). Phases: Griffin and Lim
1984, with the momentum of Perraudin, Balazs and Sondergaard 2013. Shapes: N samples, F = fft / 2 + 1 frequencies, M mel
bands, T frames.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Scale = Literal["slaney", "htk"]
LEAST = 1e-5
"""Amplitudes below are silence: the floor of the logarithm."""
ZEROS = 16
"""Zero crossings of the resampling kernel on either side."""
_LINEAR = 200 / 3  # Hz of one mel below 1 kHz on Slaney's scale
_STEP = math.log(6.4) / 27  # and of its logarithm above


def to_mel(hertz: Tensor, scale: Scale = "slaney") -> Tensor:
    """Frequencies in mel."""
    if scale == "htk":
        return 2595 * torch.log10(1 + hertz / 700)
    above = 15 + torch.log(hertz.clamp_min(1000) / 1000) / _STEP
    return torch.where(hertz < 1000, hertz / _LINEAR, above)


def from_mel(mel: Tensor, scale: Scale = "slaney") -> Tensor:
    """Frequencies in Hz."""
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    above = 1000 * torch.exp(_STEP * (mel - 15))
    return torch.where(mel < 15, mel * _LINEAR, above)


def mel_filters(
    rate: int, fft: int, mels: int, low: float, high: float, scale: Scale = "slaney"
) -> Tensor:
    """Triangles on the mel scale, (M, F) float64; Slaney's have equal areas, HTK's equal heights.

    Args:
        rate: in Hz.
        fft: samples of a transform.
        mels: M.
        low, high: in Hz, where the first triangle begins and the last one ends.
        scale: of both.

    Raises:
        ValueError: bands beyond half the rate, or so many that one has no frequency of the transform in it.
    """
    if not 0 <= low < high <= rate / 2:
        raise ValueError(f"mel bands lie within 0 and {rate / 2:g} Hz, got {low:g} to {high:g}")
    ends = torch.tensor([low, high], dtype=torch.float64)
    first, last = to_mel(ends, scale)
    corners = from_mel(torch.linspace(first, last, mels + 2, dtype=torch.float64), scale)
    bins = torch.arange(fft // 2 + 1, dtype=torch.float64) * rate / fft
    rising = (bins - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - bins) / (corners[2:] - corners[1:-1])[:, None]
    filters = torch.minimum(rising, falling).clamp_min(0)
    if not (filters.sum(1) > 0).all():
        raise ValueError(
            f"{mels} mel bands are too narrow for transforms of {fft} samples at {rate} Hz: take fewer"
        )
    if scale == "slaney":
        filters = filters * (2 / (corners[2:] - corners[:-2]))[:, None]
    return filters


def resample(samples: Tensor, old: int, new: int) -> Tensor:
    """Samples (..., N) at another rate, (..., ceil(N new / old)): ideal low-pass interpolation under a Hann window.

    Smith, Digital Audio Resampling, https://ccrma.stanford.edu/~jos/resample/. What lies above half of the lower rate
    is taken away.
    """
    if old == new:
        return samples
    common = math.gcd(old, new)
    down, up = old // common, new // common
    cutoff = 0.97 * min(down, up)  # the transition ends at half the lower rate
    reach = math.ceil(ZEROS * down / cutoff)
    at = (
        torch.arange(-reach, reach + down, dtype=torch.float64) / down
    )  # in units of `common` samples
    phase = torch.arange(up, dtype=torch.float64)[:, None] / up
    time = (at[None] - phase) * cutoff  # (up, taps)
    window = torch.where(time.abs() < ZEROS, torch.cos(time * math.pi / ZEROS / 2) ** 2, 0.0)
    kernel = torch.sinc(time) * window * (cutoff / down)
    flat = samples.reshape(-1, 1, samples.shape[-1])
    padded = F.pad(flat, (reach, reach + down))
    made = F.conv1d(padded, kernel[:, None].to(samples), stride=down)  # (rows, up, steps)
    count = -(-samples.shape[-1] * up // down)
    return made.transpose(1, 2).flatten(1)[:, :count].view(*samples.shape[:-1], count)


@dataclass(frozen=True)
class Spectra:
    """Log-mel spectrograms of one kind, and the way back."""

    rate: int
    """In Hz."""
    window: int
    """Samples under the Hann window."""
    hop: int
    """Samples from frame to frame."""
    mels: int
    """M."""
    scale: Scale = "slaney"

    @property
    def fft(self) -> int:
        """Samples of a transform: the window with as many zeros behind it, so that low bands have frequencies in them."""
        return 2 * self.window

    @functools.cached_property
    def filters(self) -> Tensor:
        """(M, F) float32."""
        return mel_filters(self.rate, self.fft, self.mels, 0.0, self.rate / 2, self.scale).float()

    @functools.cached_property
    def _hann(self) -> Tensor:
        return torch.hann_window(self.window)

    def complex(self, samples: Tensor) -> Tensor:
        """Transforms (F, T) complex of samples (N,), T = 1 + N // hop; the ends are mirrored."""
        if samples.shape[-1] <= self.fft // 2:  # too short to be mirrored
            samples = F.pad(samples, (0, self.fft // 2 + 1 - samples.shape[-1]))
        return torch.stft(
            samples, self.fft, self.hop, self.window, self._hann.to(samples), return_complex=True
        )

    def log_mel(self, samples: Tensor) -> Tensor:
        """Natural logarithm of the mel bands' amplitudes, (M, T) float32, of samples (N,) in [-1, 1]."""
        return (self.filters @ self.complex(samples.float()).abs()).clamp_min(LEAST).log()

    def amplitudes(self, log_mel: Tensor, steps: int = 30) -> Tensor:
        """Amplitudes (F, T) whose mel bands are nearly these (M, T): multiplicative updates, Lee and Seung 2001."""
        wanted, filters = log_mel.float().exp(), self.filters
        found = filters.T @ wanted + LEAST
        above, square = filters.T @ wanted, filters.T @ filters
        for _ in range(steps):
            found = found * above / (square @ found).clamp_min(1e-12)
        return found

    def waveform(self, log_mel: Tensor, steps: int = 60) -> Tensor:
        """Samples (hop (T - 1),) of a log-mel spectrogram (M, T)."""
        return self.griffin_lim(self.amplitudes(log_mel), steps)

    def griffin_lim(self, amplitudes: Tensor, steps: int = 60, momentum: float = 0.99) -> Tensor:
        """Samples (hop (T - 1),) whose transforms have nearly these amplitudes (F, T); phases begin at random, fixed.

        Args:
            amplitudes: (F, T) float, T >= 2.
            steps: projections.
            momentum: of Perraudin et al. 2013; 0 is Griffin and Lim's own iteration.
        """
        generator = torch.Generator().manual_seed(0)
        turns = torch.rand(amplitudes.shape, generator=generator) * (2 * math.pi)
        phase = torch.polar(torch.ones_like(turns), turns)
        length = self.hop * (amplitudes.shape[1] - 1)
        before = torch.zeros_like(phase)
        for _ in range(steps):
            projected = self.complex(self._inverse(amplitudes * phase, length))
            phase = projected - momentum / (1 + momentum) * before
            phase = phase / phase.abs().clamp_min(1e-16)
            before = projected
        return self._inverse(amplitudes * phase, length)

    def _inverse(self, transforms: Tensor, length: int) -> Tensor:
        return torch.istft(transforms, self.fft, self.hop, self.window, self._hann, length=length)
