"""Recordings: made ones, folders, names, rates, channels, and everything that is wrong with some."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fourfold.core.errors import UserError
from fourfold.data.made_voices import VOICES, WORDS, said
from fourfold.data.sound import Sound, SoundData

soundfile = pytest.importorskip("soundfile")


def wave(seconds: float = 0.3, rate: int = 8000, hertz: float = 300.0) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def write(path: Path, samples: np.ndarray | None = None, rate: int = 8000, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave(rate=rate) if samples is None else samples, rate, **how)
    return path


def folder(root: Path, count: int = 8) -> Path:
    for number in range(count):
        for speaker in ("ann", "bob"):
            write(root / f"{number % 2}_{speaker}_{number}.wav", wave(0.2 + 0.02 * number))
    return root


def notes(data: SoundData) -> str:
    return " | ".join(data.summary()["notes"])


@pytest.fixture(scope="module")
def made() -> SoundData:
    return Sound().open(None)


def test_made_voices_say_words(made: SoundData) -> None:
    assert made.speakers == tuple(sorted(VOICES)) and made.labels == tuple(sorted(WORDS))
    batch = next(iter(made.batches("train", epoch=0)))
    assert batch["mel"].shape[:2] == (32, 64) and batch["mel"].dtype == torch.float32
    assert int(batch["lengths"].max()) == batch["mel"].shape[2]
    assert batch["speaker"].max() < 4 and batch["label"].max() < 5
    training = torch.cat([made.normalized(c.samples) for c in made.clips("train")], 1)
    torch.testing.assert_close(training.mean(1), torch.zeros(64), atol=1e-4, rtol=0)
    torch.testing.assert_close(training.std(1), torch.ones(64), atol=1e-3, rtol=0)


def test_a_made_voice_has_its_pitch_and_formants() -> None:
    samples = said("aa", 125.0, 1.0, np.random.default_rng(0)).astype(float)
    middle = samples[len(samples) // 3 : -len(samples) // 3] * np.hanning(
        len(samples[len(samples) // 3 : -len(samples) // 3])
    )
    power = np.abs(np.fft.rfft(middle, 8192))
    hertz = np.fft.rfftfreq(8192, 1 / 8000)
    own = np.fft.irfft(power**2)
    lag = 40 + int(own[40:110].argmax())
    assert abs(8000 / lag - 122) < 15  # 125 Hz, a little lower at the end
    loud = hertz[power.argmax()]
    assert 500 < loud < 1300  # between the first two formants of a: 730 and 1,090 Hz


def test_silence_stands_behind_a_clip(made: SoundData) -> None:
    batch = next(iter(made.batches("test")))
    row = int(batch["lengths"].argmin())
    rest = batch["mel"][row, :, int(batch["lengths"][row]) :]
    assert rest.shape[1] > 0
    level = made.log_mel(rest)
    torch.testing.assert_close(
        level, torch.full_like(level, float(np.log(1e-5))), atol=1e-3, rtol=0
    )


def test_speakers_are_split_evenly(made: SoundData) -> None:
    for split, least in (("valid", 5), ("test", 5), ("train", 55)):
        counts = Counter(clip.speaker for clip in made.clips(split))  # type: ignore[arg-type]
        assert len(counts) == 4 and min(counts.values()) >= least
    names = [c.name for s in ("train", "valid", "test") for c in made.clips(s)]  # type: ignore[arg-type]
    assert len(names) == len(set(names)) == 320


def test_names_tell_who_and_what(tmp_path: Path) -> None:
    data = Sound(split=(0.5, 0.25, 0.25)).open(str(folder(tmp_path / "a")))
    assert data.speakers == ("ann", "bob") and data.labels == ("0", "1")
    folders = tmp_path / "b"
    for speaker in ("ann", "bob"):
        for number in range(4):
            write(folders / speaker / f"{number}.flac")
    assert Sound().open(folders).speakers == ("ann", "bob")
    for number in range(6):
        write(tmp_path / "c" / f"{'xy'[number % 2]}-{number}.wav")
    other = Sound(names="{speaker}-{take}").open(tmp_path / "c")
    assert other.speakers == ("x", "y") and other.labels == ()
    with pytest.raises(
        UserError, match=r"--data.names \{speaker\}_\{take\}: x-0 is not of this form"
    ):
        Sound(names="{speaker}_{take}").open(tmp_path / "c")
    with pytest.raises(UserError, match=r"expected \{speaker\}"):
        Sound(names="{who}").open(tmp_path / "c")


def test_archives_are_read(tmp_path: Path) -> None:
    root = folder(tmp_path / "a", 4)
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        for path in sorted(root.iterdir()):
            archive.add(path, path.name)
    data = Sound().open(str(tmp_path / "all.tar.gz"))
    assert data.summary()["clips"] == 8 and data.speakers == ("ann", "bob")


def test_a_run_s_data_come_back(tmp_path: Path, made: SoundData) -> None:
    made.save(tmp_path)
    again = Sound().restore(tmp_path)
    assert again.speakers == made.speakers and again.fingerprint == made.fingerprint
    samples = made.clips("test")[0].samples
    torch.testing.assert_close(again.normalized(samples), made.normalized(samples))
    assert again.reopen(None).fingerprint == made.fingerprint


# --- what is wrong with some ------------------------------------------------------------------------


def test_silent_ones_are_left_out_and_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "a")
    write(root / "0_ann_99.wav", np.zeros(4000, np.float32))
    data = Sound().open(root)
    assert data.summary()["clips"] == 16
    assert "0_ann_99.wav: silent: no sample above a ten-thousandth" in notes(data)
    with pytest.raises(UserError, match="0_ann_99.wav: silent"):
        Sound(strict=True).open(root)
    with pytest.raises(UserError, match="silent"):
        data.samples_of(root / "0_ann_99.wav")


def test_stereo_is_mixed(tmp_path: Path) -> None:
    root = folder(tmp_path / "a")
    both = np.stack([wave(), np.zeros_like(wave())], 1)
    write(root / "0_ann_99.wav", both)
    data = Sound().open(root)
    assert "1 recordings of several channels were mixed to one" in notes(data)
    samples, _ = data.samples_of(root / "0_ann_99.wav")
    torch.testing.assert_close(samples, torch.from_numpy(wave() / 2), atol=1e-4, rtol=0)
    pair, _ = data.samples_of((both, 8000))
    torch.testing.assert_close(pair, samples, atol=1e-4, rtol=0)


def test_another_rate_is_resampled(tmp_path: Path) -> None:
    root = folder(tmp_path / "a")
    write(root / "0_ann_99.wav", wave(rate=22050), 22050)
    data = Sound().open(root)
    assert data.preparation.rate == 8000 and "1 of 22050 Hz resampled to 8000 Hz" in notes(data)
    samples, _ = data.samples_of(root / "0_ann_99.wav")
    assert abs(len(samples) - 2400) <= 1
    assert float((samples[200:2200] - torch.from_numpy(wave())[200:2200]).abs().max()) < 5e-3
    assert Sound(rate=4000).open(root).preparation.rate == 4000


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_truncated_ones_are_left_out_and_named(tmp_path: Path, suffix: str) -> None:
    root = folder(tmp_path / "a")
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    broken = write(root / f"0_ann_99{suffix}", noise)
    broken.write_bytes(broken.read_bytes()[: os.path.getsize(broken) // 3])
    data = Sound().open(root)
    assert data.summary()["clips"] == 16 and f"0_ann_99{suffix}: " in notes(data)
    with pytest.raises(UserError, match="truncated|not sound that can be read"):
        data.samples_of(broken)
    if suffix == ".wav":
        assert "truncated" in notes(data)


def test_empty_short_and_other_files_are_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "a")
    (root / "0_ann_97.wav").write_bytes(b"")
    (root / "0_ann_98.wav").write_bytes(b"no sound at all")
    write(root / "0_ann_99.wav", wave(0.01))
    write(root / "0_bob_99.wav", np.array([0.1, np.nan] * 2000, np.float32), subtype="FLOAT")
    (root / "readme.txt").write_text("hello")
    data = Sound().open(root)
    said_ = notes(data)
    for part in ("97.wav: empty, 0 bytes", "98.wav: not sound", "99.wav: too short: 10 ms, expected 32", "no numbers", ".txt"):  # fmt: skip
        assert part in said_
    with pytest.raises(UserError, match="no recordings in it .found 1 .txt"):
        other = tmp_path / "b"
        other.mkdir()
        (other / "x.txt").write_text("x")
        Sound().open(other)
    with pytest.raises(
        UserError, match="no such file, folder or catalog name; did you mean free-spoken-digits"
    ):
        Sound().open("free-spoken-digit")
    with pytest.raises(UserError, match="1 recordings: too few to split, expected at least 3"):
        Sound().open(root / "0_ann_0.wav")
    with pytest.raises(UserError, match="mel bands are too narrow"):
        Sound(mels=400).open(root)


def test_strangers_have_no_number(tmp_path: Path) -> None:
    data = Sound().open(folder(tmp_path / "a"))
    write(tmp_path / "b" / "0_zoe_1.wav")
    other = data.reopen(tmp_path / "b", whole=True)
    assert "speakers that training did not have: zoe" in notes(other)
    assert "speaker" not in next(iter(other.batches("test")))


def test_long_clips_give_another_part_in_each_epoch(tmp_path: Path) -> None:
    root = folder(tmp_path / "a")
    for number in range(4):
        write(
            root / f"0_ann_9{number}.wav",
            np.random.default_rng(number).normal(0, 0.1, 16000).astype(np.float32),
        )
    data = Sound(longest=0.4, batch=64).open(root)
    first, again, other = (
        next(iter(Sound(longest=0.4, batch=64).open(root).batches("train", epoch=e)))
        for e in (0, 0, 1)
    )
    assert first["mel"].shape[2] == 50
    assert torch.equal(first["mel"], again["mel"])
    assert data.size("train") == len(other["mel"])


@pytest.mark.skipif("FOURFOLD_DATA" not in os.environ, reason="FOURFOLD_DATA is not set")
def test_the_catalog_has_spoken_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path))
    from fourfold.data.sound_files import find_recordings

    found, _ = find_recordings("free-spoken-digits")
    assert len(found) == 3000 and found[0].path.name == "0_george_0.wav"
