"""The voice system end to end at toy size: conversions as files, what the report holds, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.systems.voice import Voice

soundfile = pytest.importorskip("soundfile")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    toy, source = Voice.toy()
    return fourfold.fit(toy, source, out=tmp_path_factory.mktemp("voice") / "run")


def recording(path: Path, seconds: float = 0.5, rate: int = 8000, channels: int = 1) -> Path:
    time = np.arange(int(seconds * rate)) / rate
    samples = 0.4 * np.sin(2 * np.pi * 200 * time) + 0.2 * np.sin(2 * np.pi * 900 * time)
    soundfile.write(path, np.stack([samples] * channels, 1), rate)
    return path


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_recording_in_another_voice(run: Run, tmp_path: Path, suffix: str) -> None:
    source = recording(tmp_path / "hello.wav", rate=16000, channels=2)
    made = run.convert(source, speaker="anna", out=tmp_path / f"hello-anna.{suffix}")
    samples, rate = soundfile.read(made)
    assert rate == 8000 and abs(len(samples) / rate - 0.5) < 0.05 and np.abs(samples).max() > 1e-3
    other = run.convert(str(source), speaker="boris", out=tmp_path / "hello-boris.wav")
    assert not np.array_equal(soundfile.read(other)[0], samples)
    pair = run.convert(soundfile.read(source), speaker="boris", out=tmp_path / "pair.wav")
    np.testing.assert_array_equal(soundfile.read(pair)[0], soundfile.read(other)[0])


def test_opened_again_it_says_the_same(run: Run, tmp_path: Path) -> None:
    source = recording(tmp_path / "hello.wav")
    again = fourfold.open(run.folder)
    first = run.convert(source, speaker="anna", out=tmp_path / "a.wav").read_bytes()
    assert again.convert(source, speaker="anna", out=tmp_path / "b.wav").read_bytes() == first
    assert again.evaluate().values == run.evaluate().values


def test_a_stranger_is_refused_and_the_nearest_offered(run: Run, tmp_path: Path) -> None:
    source = recording(tmp_path / "hello.wav")
    with pytest.raises(UserError, match="training had no such speaker; did you mean boris"):
        run.convert(source, speaker="borris", out=tmp_path / "x.wav")
    with pytest.raises(UserError, match="it had anna, boris, chen, dora"):
        run.convert(source, speaker="zoe", out=tmp_path / "x.wav")


def test_bad_sound_is_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = recording(tmp_path / "hello.wav")
    soundfile.write(tmp_path / "silent.wav", np.zeros(4000), 8000)
    (tmp_path / "cut.wav").write_bytes(source.read_bytes()[:3000])
    for name, said in (
        ("silent.wav", "silent"),
        ("cut.wav", "truncated"),
        ("none.wav", "no such file"),
    ):
        with pytest.raises(UserError, match=said):
            run.convert(tmp_path / name, speaker="anna")
    with pytest.raises(UserError, match=r"x.txt: sound is written as .wav, .flac, .ogg"):
        run.convert(source, speaker="anna", out=tmp_path / "x.txt")
    assert run.convert(source, speaker="anna") == Path("hello-anna.wav")
    with pytest.raises(UserError, match="is there already"):
        run.convert(source, speaker="anna")


def test_one_speaker_is_refused(tmp_path: Path) -> None:
    for number in range(8):
        recording(tmp_path / f"{number}.wav")
    toy, _ = Voice.toy()
    with pytest.raises(UserError, match="from one speaker to another, and 0 are known here"):
        fourfold.fit(toy, str(tmp_path), out=False)


def test_the_report_shows_and_plays(run: Run) -> None:
    pictures = list(run.system.pictures(run))
    assert len(pictures) == 3 and all(p.audio.startswith(b"RIFF") for p in pictures)
    assert run.folder is not None
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert page.count('<audio controls preload="none" src="data:audio/wav;base64,') == 3
    assert "media-src data:" in page
    assert run.preview().audio == b""  # type: ignore[union-attr]


@pytest.mark.slow
def test_voices_are_learned() -> None:
    run = fourfold.fit("voice", out=False, steps=400)
    score = run.evaluate()
    assert (
        score["mel_error"] < 0.45 and score["speaker_heard"] > 0.95 and score["other_heard"] > 0.9
    )
    assert torch.isfinite(torch.tensor(list(score.values.values()))).all()
