"""Recordings as images: where a tone lies, folders of clips, and those that cannot be used."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fourfold.core.errors import UserError
from fourfold.data.images import Images
from fourfold.data.sound_images import FRAMES, RATE, as_png, spectrogram
from fourfold.data.spectra import to_mel

soundfile = pytest.importorskip("soundfile")


def tone(hertz: float, seconds: float, rate: int = RATE, loud: float = 0.5) -> np.ndarray:
    return loud * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV")
    return file.getvalue()


@pytest.mark.parametrize("rate", [RATE, 8000, 22050])
def test_a_tone_is_a_line_where_its_pitch_lies_and_ends_when_it_does(rate: int) -> None:
    image = spectrogram(wav(tone(1000, 0.5, rate), rate))
    assert image.shape == (64, FRAMES) and image.dtype == np.uint8
    low, high = to_mel(torch.tensor([0.0, RATE / 2])).tolist()
    place = (
        float(to_mel(torch.tensor(1000.0))) / (high - low) * 65 - 1
    )  # of 64 bands between 66 corners
    assert abs(63 - int(image[:, 20].argmax()) - place) < 1
    ends = round(0.5 * RATE / 128)
    assert image[:, ends + 4 :].max() == 0 and image[:, ends - 4].max() > 150


def test_louder_is_whiter_and_nothing_overflows() -> None:
    quiet, loud = (spectrogram(wav(tone(100, 1.5, loud=a))) for a in (0.01, 0.999))
    assert quiet.max() < loud.max() <= 255 and loud.max() > 240
    assert loud[:, -1].max() > 240  # 1.5 seconds are cut, not shrunk


def test_a_folder_of_clips_is_a_class_per_folder(tmp_path: Path) -> None:
    for number, name in enumerate(("high", "low")):
        (tmp_path / name).mkdir()
        for take in range(6):
            sound = tone(300 if number else 3000, 0.2 + take / 50)
            both = np.stack([sound, sound], 1) if take == 0 else sound  # stereo
            (tmp_path / name / f"{take}.wav").write_bytes(wav(both))
    (tmp_path / "low" / "silent.wav").write_bytes(wav(np.zeros(4000)))
    (tmp_path / "low" / "cut.wav").write_bytes(wav(tone(300, 0.3))[:3000])
    (tmp_path / "low" / "empty.wav").write_bytes(b"")
    data = Images().open(tmp_path)
    assert data.shape == (1, 64, 128) and data.classes == ("high", "low")
    notes = " ".join(data.summary()["notes"])
    assert "3 of 15 recordings left out" in notes and "12 recordings became spectrograms" in notes
    for told in ("cut.wav: truncated", "empty.wav: empty, 0 bytes", "silent.wav: silent"):
        assert told in notes
    bands = data.pixels("train").float().amax(3).argmax(2).squeeze(1)
    assert ((bands < 32) == (data.labels("train") == 0)).all()
    whole = data.reopen(tmp_path / "low" / "1.wav", whole=True)
    assert whole.names["test"] == [f"{tmp_path}/low/1.wav"]
    stored = np.asarray(Image.open(io.BytesIO(as_png((tmp_path / "low" / "1.wav").read_bytes()))))
    assert (whole.pixels("test")[0, 0].numpy() == stored).all()


def test_a_catalog_name_of_sound_is_a_source_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fourfold.data import image_files

    archive = tmp_path / "recordings.tar"
    with tarfile.open(archive, "w") as tar:
        for number in range(4):
            content = wav(tone(300 + 100 * number, 0.2))
            info = tarfile.TarInfo(f"recordings/{number}_ann_0.wav")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    monkeypatch.setattr(image_files, "find", lambda name: [archive])
    assert Images().open("free-spoken-digits").size("train") == 2
    with pytest.raises(UserError, match="housing: in the catalog as table, expected images or"):
        Images().open("housing")


def test_clips_that_all_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(np.zeros(4000)))
    (tmp_path / "b.wav").write_bytes(wav(tone(300, 0.01)))
    with pytest.raises(UserError, match=r"a\.wav: silent.*and 1 more like it"):
        Images().open(tmp_path)
    with pytest.raises(UserError, match=r"b\.wav: too short: 10 ms"):
        Images().open(tmp_path / "b.wav")


def test_recordings_beside_images_are_left_out(tmp_path: Path) -> None:
    for number in range(4):
        Image.new("L", (8, 8), 60 * number).save(tmp_path / f"{number}.png")
    (tmp_path / "a.wav").write_bytes(wav(tone(300, 0.3)))
    data = Images().open(tmp_path)
    assert data.shape == (1, 8, 8)
    assert any("1 files that are no images (.wav)" in note for note in data.summary()["notes"])
