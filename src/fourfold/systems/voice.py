"""What is said and who says it, apart: recordings in another speaker's voice.

Instance normalization (Chou, Yeh and Lee 2019) and a quantized content code (Wu, Chen and Lee 2020) take the speaker out
of the content; a vector for each speaker, which a contrast among speakers keeps apart, is told to the decoder. Mel in;
the waveform comes out by Griffin-Lim (1984).

    fourfold fit voice recordings/                      # a folder for each speaker, or names like 3_george_7.wav
    fourfold fit voice free-spoken-digits
    fourfold convert runs/voice-1 hello.wav --speaker george --out hello-george.wav

Result: of 300 held-out spoken digits in another speaker's voice classifiers that learned from other clips hear the wanted
speaker in 86% and the digit in 74% (real clips: 100% and 98%), after 1,200 steps, 261 seconds of processor time:
benchmarks/results/voice.json.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from pydantic import PositiveInt
from torch import Tensor

from fourfold.core.errors import UserError, nearest
from fourfold.core.evaluation import held_out
from fourfold.core.parts import Data
from fourfold.core.run import Run, model_of
from fourfold.core.state import atomically
from fourfold.core.system import system
from fourfold.core.types import Audio, Picture, Table
from fourfold.data.sound import Sound, SoundData
from fourfold.look.sound import spectrograms, wav
from fourfold.models.voice import VoiceModel
from fourfold.objectives.quantized import use
from fourfold.objectives.voice import VoiceApart
from fourfold.optimizers.gradient import Gradient
from fourfold.tasks.compressing import refuse_other
from fourfold.tasks.looking import Looking

WRITTEN = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG"}
"""What sound is written as."""
SHOWN = 3
"""Conversions in the report."""


@system("voice", reads="sound")
class Voice(Looking):
    """Recordings in another speaker's voice: content as codes, speakers as vectors."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "demo": {},
        "small": {"width": 256, "blocks": 4, "codes": 256, "features": 64},
    }
    exempt: ClassVar[dict[str, str]] = {
        "accumulation": "the codebook's averages move with every micro-batch"
    }

    data: Sound = Sound()
    width: PositiveInt = 96
    """Features inside the encoder and the decoder."""
    blocks: PositiveInt = 3
    """Convolutions of each."""
    codes: Annotated[int, Ge(2)] = 128
    """Codes of the content: fewer keep less of the speaker, and less of the words."""
    levels: PositiveInt = 1
    """Levels of codes, each of which quantizes what the ones before left over: more keep more, of words and of speaker."""
    features: PositiveInt = 32
    """Size of a code's vector."""
    speaker_size: PositiveInt = 32
    """Size of a speaker's vector."""
    objective: VoiceApart = VoiceApart()
    optimizer: Gradient = Gradient(lr=2e-3, clip=1.0, steps=1200, ema=0.99)

    def build(self, data: Data) -> VoiceModel:
        """The model for these speakers.

        Raises:
            UserError: nothing tells who speaks.
        """
        sound = _sound(data)
        if len(sound.speakers) < 2:
            raise UserError(
                f"a voice is converted from one speaker to another, and {len(sound.speakers)} are known here: "
                "put each one's recordings into a folder, or say how names tell: --data.names {label}_{speaker}_{take}"
            )
        return VoiceModel(
            self.data.mels, len(sound.speakers), width=self.width, features=self.features, codes=self.codes,
            speaker=self.speaker_size, blocks=self.blocks, levels=self.levels,
        )  # fmt: skip

    def convert(self, run: Run, sound: Audio, *, speaker: str, out: Path | None = None) -> Path:
        """A recording in the voice of a speaker that training had.

        Args:
            sound: a recording; any rate and number of channels.
            speaker: whose voice.
            out: the file to write, as .wav, .flac or .ogg; None adds the speaker to the name.
        """
        data = _sound(run.data)
        number = _known(data, speaker)
        samples, name = data.samples_of(sound)
        stem = Path(name).stem if not isinstance(sound, tuple) else "converted"
        target = Path(out) if out is not None else Path(f"{stem}-{speaker}.wav")
        target = target if target.suffix else target.with_name(f"{target.name}.wav")
        kind = WRITTEN.get(target.suffix.lower())
        if kind is None:
            raise UserError(f"{target}: sound is written as {', '.join(WRITTEN)}")
        refuse_other(target, out)
        mel = in_voice(run, data.normalized(samples), number)
        made = data.spectra.waveform(data.log_mel(mel))
        _save(target, wav(made, data.spectra.rate), kind)
        return target

    def preview(self, run: Run) -> Picture:
        """A held-out clip, again and in another voice."""
        return next(_examples(run, 1, audible=False))

    def pictures(self, run: Run) -> Iterator[Picture]:
        """Held-out clips again and in other voices, to be seen and heard."""
        yield from _examples(run, SHOWN, audible=True)

    def tables(self, run: Run) -> Iterator[Table]:
        """How the codes are used."""
        data, split, sentence = held_out(run)
        model = model_of(run, VoiceModel)
        found = []
        for batch in data.batches(split):
            lengths = batch["lengths"].to(run.device)
            codes = model.codes(batch["mel"].to(run.device), lengths)
            inside = (
                torch.arange(codes.shape[1], device=codes.device) < ((lengths + 1) // 2)[:, None]
            )
            found.append(codes[inside].cpu())
        perplexity, share = use(torch.cat(found), self.codes)
        rows = (
            ("codes", self.codes), ("perplexity", f"{float(perplexity.mean()):.1f}"), ("codes used", f"{float(share.mean()):.0%}"),
            ("codes a second", f"{500 * self.levels / self.data.hop:.1f}"),
        )  # fmt: skip
        yield Table("Content codes", ("measure", "value"), rows, f"Measured {sentence}.")

    @classmethod
    def toy(cls) -> tuple[Voice, Any]:
        """A small model of the made voices."""
        return cls(
            data=Sound(mels=16, hop=16.0, batch=32), width=8, blocks=1, codes=8, features=4, speaker_size=4,
            optimizer=Gradient(lr=3e-3, steps=12),
        ), None  # fmt: skip


def _sound(data: Data) -> SoundData:
    if not isinstance(data, SoundData):
        raise TypeError(f"voice expects SoundData, got {type(data).__name__}")
    return data


def _known(data: SoundData, speaker: str) -> int:
    if speaker not in data.speakers:
        raise UserError(
            f"--speaker {speaker}: training had no such speaker{nearest(speaker, data.speakers)}; "
            f"it had {', '.join(data.speakers[:12])}"
        )
    return data.speakers.index(speaker)


def in_voice(run: Run, mel: Tensor, speaker: int) -> Tensor:
    """Normalized mel (M, T) in a speaker's voice."""
    lengths = torch.tensor([mel.shape[1]], device=run.device)
    with torch.no_grad():
        told = torch.tensor([speaker], device=run.device)
        return (
            model_of(run, VoiceModel)
            .converted(mel[None].to(run.device), lengths, told)[0]
            .float()
            .cpu()
        )


def _save(target: Path, content: bytes, kind: str) -> None:
    if kind == "WAV":
        atomically(target, lambda path: path.write_bytes(content))
        return
    import soundfile

    samples, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    atomically(target, lambda path: soundfile.write(path, samples, rate, format=kind))


def _examples(run: Run, count: int, *, audible: bool) -> Iterator[Picture]:
    """Held-out clips: as recorded, again, and as the next speaker."""
    data, split, _ = held_out(run)
    sound = _sound(data)
    clips = [clip for clip in sound.clips(split) if clip.speaker in sound.speakers]
    for clip in clips[:: max(1, len(clips) // count)][:count]:
        own = sound.speakers.index(clip.speaker or "")
        other = (own + 1) % len(sound.speakers)
        mel = sound.normalized(clip.samples)
        shown = [
            ("recorded", mel),
            ("again", in_voice(run, mel, own)),
            (f"as {sound.speakers[other]}", in_voice(run, mel, other)),
        ]
        logs = [(name, sound.log_mel(one)) for name, one in shown]
        heard = b""
        if audible:
            pause = torch.zeros(sound.spectra.rate // 4)
            parts = [
                clip.samples,
                *(p for _, log in logs[1:] for p in (pause, sound.spectra.waveform(log))),
            ]
            heard = wav(torch.cat(parts), sound.spectra.rate)
        yield spectrograms(
            logs, f"{Path(clip.name).stem} as {sound.speakers[other]}", sound.options.hop / 1000,
            caption=f"{clip.speaker}'s recording, the same from its codes, and its codes in {sound.speakers[other]}'s voice; all three are heard in turn.",
            sound=heard,
        )  # fmt: skip
