"""Mel filters against the written-out formula, resampling against the tone itself, Griffin-Lim against what it should recover."""

from __future__ import annotations

import math

import pytest
import torch

from fourfold.data.spectra import Scale, Spectra, from_mel, mel_filters, resample, to_mel


def tone(hertz: float, rate: int, seconds: float = 1.0) -> torch.Tensor:
    time = torch.arange(int(rate * seconds), dtype=torch.float64) / rate
    return torch.sin(2 * math.pi * hertz * time)


def slaney(hertz: float) -> float:
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def htk(hertz: float) -> float:
    return 1127.01048 * math.log(1 + hertz / 700)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_mel_and_back(scale: Scale) -> None:
    hertz = torch.linspace(0, 8000, 201, dtype=torch.float64)
    formula = slaney if scale == "slaney" else htk
    expected = torch.tensor([formula(float(h)) for h in hertz], dtype=torch.float64)
    torch.testing.assert_close(to_mel(hertz, scale), expected, rtol=2e-5, atol=1e-5)
    torch.testing.assert_close(from_mel(to_mel(hertz, scale), scale), hertz, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_filters_are_the_triangles_of_the_formula(scale: Scale) -> None:
    rate, fft, mels = 16000, 512, 20
    found = mel_filters(rate, fft, mels, 50.0, 7000.0, scale)
    formula = slaney if scale == "slaney" else htk
    low, high = formula(50.0), formula(7000.0)
    corners = []
    for i in range(mels + 2):  # by bisection: nothing of the inverse formula is used
        goal, a, b = low + (high - low) * i / (mels + 1), 0.0, 8000.0
        for _ in range(80):
            middle = (a + b) / 2
            a, b = (middle, b) if formula(middle) < goal else (a, middle)
        corners.append(a)
    for m in range(mels):
        left, top, right = corners[m : m + 3]
        height = 2 / (right - left) if scale == "slaney" else 1.0
        for k in range(0, fft // 2 + 1, 3):
            hertz = k * rate / fft
            rising, falling = (hertz - left) / (top - left), (right - hertz) / (right - top)
            expected = height * max(0.0, min(rising, falling))
            assert float(found[m, k]) == pytest.approx(expected, abs=1e-4 * height)


def test_filters_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="within 0 and 4000 Hz, got 0 to 5000"):
        mel_filters(8000, 256, 10, 0, 5000)
    with pytest.raises(ValueError, match="100 mel bands are too narrow"):
        mel_filters(8000, 64, 100, 0, 4000)


@pytest.mark.parametrize(
    ("old", "new"), [(44100, 16000), (8000, 22050), (16000, 8000), (11025, 11025)]
)
def test_a_tone_at_another_rate_is_the_same_tone(old: int, new: int) -> None:
    made = resample(tone(440, old), old, new)
    expected = tone(440, new)
    assert len(made) == len(expected)
    edge = new // 20
    assert float((made - expected)[edge:-edge].abs().max()) < 2e-3


def test_what_the_lower_rate_cannot_hold_is_gone() -> None:
    made = resample(tone(6000, 16000), 16000, 8000)
    assert float(made[200:-200].abs().max()) < 5e-3  # an alias would be at 2 kHz, of amplitude 1
    rows = resample(torch.randn(3, 2, 1001), 16000, 8000)
    assert rows.shape == (3, 2, 501)


def test_log_mel_of_a_tone_peaks_in_its_band() -> None:
    spectra = Spectra(rate=8000, window=256, hop=64, mels=40)
    found = spectra.log_mel(tone(1000, 8000).float())
    assert found.shape == (40, 1 + 8000 // 64)
    centres = from_mel(torch.linspace(0, float(to_mel(torch.tensor(4000.0))), 42)[1:-1])
    assert abs(float(centres[found.mean(1).argmax()]) - 1000) < 60
    silence = spectra.log_mel(torch.zeros(10))  # shorter than a window
    torch.testing.assert_close(silence, torch.full_like(silence, math.log(1e-5)))


@pytest.mark.parametrize("hertz", [220.0, 1000.0, 2500.0])
def test_griffin_lim_recovers_a_tone(hertz: float) -> None:
    spectra = Spectra(rate=8000, window=256, hop=64, mels=64)
    amplitudes = spectra.complex(tone(hertz, 8000).float()).abs()
    made = spectra.griffin_lim(amplitudes, steps=60)
    again = spectra.complex(made).abs()
    assert float((again - amplitudes).norm() / amplitudes.norm()) < 0.1
    middle = made[1000:-1000]
    power = torch.fft.rfft(middle).abs()
    assert abs(float(power.argmax()) * 8000 / len(middle) - hertz) < 3
    assert 0.9 < float(middle.abs().max()) < 1.1  # its amplitude too


def test_a_waveform_from_mel_has_the_mel_again() -> None:
    spectra = Spectra(rate=8000, window=256, hop=64, mels=64)
    chord = (tone(300, 8000) + 0.5 * tone(1200, 8000) + 0.25 * tone(2100, 8000)).float() / 2
    wanted = spectra.log_mel(chord)
    again = spectra.log_mel(spectra.waveform(wanted))
    loud = wanted > wanted.max() - 4
    width = min(again.shape[1], wanted.shape[1])
    assert float((again - wanted)[:, :width][loud[:, :width]].abs().mean()) < 0.3
