"""Recordings as data: log-mel spectrograms with who speaks and what is said, where names or folders tell.

A batch is {"mel": (B, M, T) float32, each band of mean 0 and deviation 1 over the training clips, silence behind the
end, "lengths": (B,) int64 frames, "speaker": (B,) int64 and "label": (B,) int64, the last two where known}.
Shapes: B batch, M mel bands, T frames of the longest clip of the batch.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.core.parts import Batch, DataOptions, Split
from fourfold.core.state import write_text
from fourfold.data.loading import Indexed
from fourfold.data.made_voices import RATE, made_voices
from fourfold.data.sound_files import Unreadable, decode, find_recordings, mono, name_pattern
from fourfold.data.spectra import Scale, Spectra, resample
from fourfold.data.splits import Shares

USUAL = "{label}_{speaker}_{take}"
"""Names of recordings that are tried where nothing else is said."""
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
NAMED = 5
"""Recordings that cannot be used named in a note; the rest are counted."""


class Preparation(NamedTuple):
    """What a later convert needs to treat other recordings alike."""

    rate: int
    mean: tuple[float, ...]
    """(M,)"""
    deviation: tuple[float, ...]
    speakers: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    fingerprint: str = ""


class Clip(NamedTuple):
    """A recording, decoded and resampled."""

    name: str
    samples: Tensor
    """(N,) float32."""
    speaker: str | None
    label: str | None


class Clips(NamedTuple):
    """Opened recordings."""

    clips: list[Clip]
    mels: list[Tensor]
    """(M, T) float32 each, normalized."""
    rows: dict[Split, np.ndarray]


class Sound(DataOptions):
    """Recordings of speech or other sound."""

    rate: PositiveInt | None = None
    """Samples a second; others are resampled. None takes the rate that most recordings have."""
    mels: PositiveInt = 64
    """Bands of the mel scale."""
    scale: Scale = "slaney"
    """The mel scale's formula."""
    window: PositiveFloat = 32.0
    """Length of a transform's window in milliseconds."""
    hop: PositiveFloat = 8.0
    """From one window to the next, in milliseconds."""
    longest: PositiveFloat = 4.0
    """Seconds of a clip that are learned from; of longer ones another part in each epoch."""
    names: str | None = None
    """How file names tell what is what, as {speaker}-{take} or {label}_{speaker}_{take}; None takes the folder as
    the speaker, or the latter form of names where files lie in no folders."""
    batch: PositiveInt = 32
    """Clips in a batch."""
    split: Shares = (0.8, 0.1, 0.1)
    """Shares of training, validation and test; each speaker's clips are split by them."""
    strict: bool = False
    """A recording that cannot be used is an error instead of being left out and named."""

    loose: ClassVar[frozenset[str]] = frozenset({"batch", "split", "strict", "longest"})

    def open(self, sources: Any, *, seed: int = 0, valid: Any = None) -> SoundData:
        """Decode recordings.

        Args:
            sources: None (voices that the project makes), one or several paths, globs, archives and catalog names.
            seed: fixes the split and the order.
            valid: recordings of the validation split, if they are apart.

        Raises:
            UserError: no such path, no recording that can be used, or one that cannot under `strict`.
        """
        return _open(self, None, sources, seed, valid, whole=False)

    def restore(self, folder: Path) -> SoundData:
        """See `DataOptions.restore`."""
        tree = json.loads((folder / "sound.json").read_text(encoding="utf-8"))
        about = tree.pop("summary")
        parts: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in tree.items()}
        prepared = Preparation(**parts)
        return SoundData(self, prepared, None, about, 0)

    def spectra(self, rate: int) -> Spectra:
        """The transforms at a rate."""
        made = Spectra(
            rate,
            round(self.window * rate / 1000),
            round(self.hop * rate / 1000),
            self.mels,
            self.scale,
        )
        try:
            made.filters  # noqa: B018  # refuses what cannot be
        except ValueError as error:
            raise UserError(f"--data.mels, --data.window: {error}") from error
        return made


class SoundData(Indexed):
    """Decoded recordings, or after `restore` only their preparation."""

    unit = "clips"

    def __init__(
        self,
        options: Sound,
        preparation: Preparation,
        clips: Clips | None,
        about: dict[str, Any],
        seed: int,
    ) -> None:
        super().__init__(batch=options.batch, seed=seed)
        self.options, self.preparation, self._clips, self._about = (
            options,
            preparation,
            clips,
            about,
        )
        self.fingerprint = preparation.fingerprint
        self.spectra = options.spectra(preparation.rate)
        self.speakers, self.labels = preparation.speakers, preparation.labels
        self._mean = torch.tensor(preparation.mean)[:, None]
        self._deviation = torch.tensor(preparation.deviation)[:, None]
        self.silence = float(np.log(1e-5))

    def size(self, split: Split) -> int:
        """Clips in the split."""
        return 0 if self._clips is None else len(self._clips.rows[split])

    def clips(self, split: Split) -> list[Clip]:
        """The recordings of a split, in stored order."""
        return [self._opened.clips[i] for i in self._opened.rows[split]]

    @property
    def _opened(self) -> Clips:
        if self._clips is None:
            raise ValueError("this data was restored without examples; reopen brings them")
        return self._clips

    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        """See `Indexed.take`."""
        opened = self._opened
        chosen = opened.rows[split][index]
        most = max(2, round(self.options.longest * 1000 / self.options.hop))
        parts = [self._part(opened.mels[i], most, i, epoch) for i in chosen]
        lengths = torch.tensor([part.shape[1] for part in parts])
        quiet = (self.silence - self._mean) / self._deviation  # (M, 1)
        mel = quiet.repeat(len(parts), 1, int(lengths.max()))
        for row, part in zip(mel, parts, strict=True):
            row[:, : part.shape[1]] = part
        batch: dict[str, Tensor] = {"mel": mel, "lengths": lengths}
        for name, known in (("speaker", self.speakers), ("label", self.labels)):
            told = [getattr(opened.clips[i], name) for i in chosen]
            if known and all(one in known for one in told):
                batch[name] = torch.tensor([known.index(one) for one in told])
        return batch

    def _part(self, mel: Tensor, most: int, number: int, epoch: int | None) -> Tensor:
        room = mel.shape[1] - most
        if room <= 0:
            return mel
        begin = (
            0
            if epoch is None
            else np.random.default_rng([self.seed, epoch, number]).integers(room + 1)
        )
        return mel[:, int(begin) : int(begin) + most]

    def normalized(self, samples: Tensor) -> Tensor:
        """Normalized log-mel (M, T) of samples (N,) at this data's rate."""
        return (self.spectra.log_mel(samples) - self._mean) / self._deviation

    def log_mel(self, normalized: Tensor) -> Tensor:
        """Log-mel (M, T) of what is normalized."""
        return normalized.float().cpu() * self._deviation + self._mean

    def samples_of(self, sound: Any) -> tuple[Tensor, str]:
        """One recording as a verb takes it: samples (N,) at this data's rate, and what to call it.

        Args:
            sound: a path, or samples (N,) or (N, K) with their rate in Hz, as a pair.

        Raises:
            UserError: it cannot be read, is truncated, silent or too short.
        """
        try:
            if isinstance(sound, tuple):
                name, (samples, rate) = "the sound", sound
            else:
                found, _ = find_recordings(sound)
                if len(found) > 1:
                    raise UserError(f"{sound}: holds {len(found)} recordings, expected one")
                name = found[0].name
                samples, rate = decode(found[0].read())
            return _at_rate(mono(np.asarray(samples, np.float32)), rate, self.spectra), name
        except Unreadable as error:
            raise UserError(f"{name}: {error}") from error

    def reopen(
        self, sources: Any, *, seed: int = 0, valid: Any = None, whole: bool = False
    ) -> SoundData:
        """See `Data.reopen`; speakers that training did not have are said, and their clips have none."""
        return _open(self.options, self.preparation, sources, seed, valid, whole=whole)

    def save(self, folder: Path) -> None:
        """See `Data.save`."""
        tree = {**self.preparation._asdict(), "summary": self._about}
        write_text(folder / "sound.json", json.dumps(tree, ensure_ascii=False, indent=1))

    def summary(self) -> dict[str, Any]:
        """See `Data.summary`."""
        return dict(self._about)


def _at_rate(samples: np.ndarray, rate: int, spectra: Spectra) -> Tensor:
    made = resample(torch.from_numpy(samples), rate, spectra.rate)
    if len(made) < spectra.window:
        raise Unreadable(
            f"too short: {len(made) / spectra.rate * 1000:.0f} ms, expected {spectra.window / spectra.rate * 1000:.0f} at least"
        )
    return made


def _decoded(
    options: Sound, sources: Any, rate: int | None, notes: list[str]
) -> tuple[list[Clip], int, str]:
    """The clips of a source that can be used, at one rate, and a digest of their content."""
    found: list[tuple[str, Any, np.ndarray, int]] = []
    faults: list[str] = []
    digest = hashlib.sha256()
    stereo = 0
    if sources is None:
        found = [(name, name, samples, RATE) for name, samples in made_voices()]
        digest.update(b"made voices")
    else:
        recordings, more = find_recordings(sources)
        notes += more
        for one in recordings:
            content = one.read()
            digest.update(content)
            try:
                samples, own = decode(content)
                stereo += samples.shape[1] > 1
                found.append((one.name, one.path, mono(samples), own))
            except Unreadable as error:
                faults.append(f"{one.name}: {error}")
    rates = Counter(own for *_, own in found)
    rate = rate or options.rate or (rates.most_common(1)[0][0] if rates else RATE)
    spectra, clips = options.spectra(rate), []
    told = _tellers(options, [path for _, path, _, _ in found], sources is None)
    for (name, _, samples, own), (speaker, label) in zip(found, told, strict=True):
        try:
            clips.append(Clip(name, _at_rate(samples, own, spectra), speaker, label))
        except Unreadable as error:
            faults.append(f"{name}: {error}")
    _say(
        options,
        faults,
        len(clips),
        stereo,
        {r: n for r, n in rates.items() if r != rate},
        rate,
        notes,
    )
    return clips, rate, digest.hexdigest()


def _say(
    options: Sound, faults: list[str], used: int, stereo: int, other: dict[int, int], rate: int, notes: list[str]
) -> None:  # fmt: skip
    """Notes on what was left out or changed."""
    if faults and (options.strict or not used):
        raise UserError(
            f"{faults[0]}" + (f" (and {len(faults) - 1} more like it)" if len(faults) > 1 else "")
        )
    if faults:
        more = f", and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        notes.append(f"left out: {'; '.join(faults[:NAMED])}{more}")
    if stereo:
        notes.append(f"{stereo} recordings of several channels were mixed to one")
    if other:
        shown = ", ".join(f"{n} of {r} Hz" for r, n in sorted(other.items()))
        notes.append(f"{shown} resampled to {rate} Hz")


def _tellers(options: Sound, paths: list[Any], made: bool) -> list[tuple[str | None, str | None]]:
    """Speaker and label of each recording."""
    if options.names is None and not made and any(path.parent.name for path in paths):
        deep = [path.parent.name or None for path in paths]
        if len(set(deep)) > 1 or not _matched(USUAL, paths):
            return [(speaker, None) for speaker in deep]
    matches = _matched(options.names or USUAL, paths)
    if matches:
        return [(m["speaker"], m.get("label")) for m in matches]
    if options.names is not None and paths:
        bad = next(p for p in paths if not name_pattern(options.names).fullmatch(_stem(p)))
        raise UserError(f"--data.names {options.names}: {_stem(bad)} is not of this form")
    return [(None, None)] * len(paths)


def _stem(path: Any) -> str:
    return path if isinstance(path, str) else path.stem


def _matched(template: str, paths: list[Any]) -> list[dict[str, str]]:
    """What every name tells by a template; nothing where one is of another form."""
    pattern = name_pattern(template)
    matches = [pattern.fullmatch(_stem(path)) for path in paths]
    return [m.groupdict() for m in matches if m] if all(matches) else []


def _open(
    options: Sound, known: Preparation | None, sources: Any, seed: int, valid: Any, *, whole: bool
) -> SoundData:
    notes: list[str] = []
    clips, rate, digest = _decoded(options, sources, known.rate if known else None, notes)
    apart: list[Clip] = []
    if valid is not None:
        apart, _, more = _decoded(options, valid, rate, notes)
        digest = hashlib.sha256(f"{digest} {more}".encode()).hexdigest()
    spectra = options.spectra(rate)
    raw = [spectra.log_mel(clip.samples) for clip in [*clips, *apart]]
    rows = _rows(options, clips, len(apart), seed, whole)
    plain = options.model_dump_json(exclude=set(Sound.loose - {"split"}))
    if known is None:
        every = torch.cat([raw[i] for i in rows["train"]], 1).double()
        known = Preparation(
            rate,
            tuple(every.mean(1).tolist()),
            tuple(every.std(1, correction=0).clamp_min(1e-3).tolist()),
            _names(clip.speaker for clip in clips),
            _names(clip.label for clip in clips),
        )
    elif strangers := sorted(
        {c.speaker for c in clips if c.speaker and c.speaker not in known.speakers}
    ):
        notes.append(f"speakers that training did not have: {', '.join(strangers[:NAMED])}")
    prepared = known._replace(fingerprint=hashlib.sha256(f"{plain} {digest}".encode()).hexdigest())
    about: dict[str, Any] = {
        "clips": len(clips) + len(apart),
        **{str(split): len(found) for split, found in rows.items()},
        "seconds": round(sum(len(c.samples) for c in [*clips, *apart]) / rate, 1),
        "rate": f"{rate} Hz",
        "speakers": dict(Counter(c.speaker for c in clips if c.speaker)),
        "labels": dict(Counter(c.label for c in clips if c.label)),
        "notes": notes,
    }
    mean, deviation = (torch.tensor(v)[:, None] for v in (prepared.mean, prepared.deviation))
    mels = [(mel - mean) / deviation for mel in raw]
    return SoundData(options, prepared, Clips([*clips, *apart], mels, rows), about, seed)


def _names(found: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(sorted({name for name in found if name is not None}))


def _rows(
    options: Sound, clips: list[Clip], apart: int, seed: int, whole: bool
) -> dict[Split, np.ndarray]:
    """Which clips belong to which split: of each speaker and label by lot in equal shares."""
    count, empty = len(clips), np.empty(0, np.int64)
    if whole:
        return {"train": empty, "valid": empty, "test": np.arange(count)}
    shares = np.array(options.split) if not apart else np.array(options.split) * (1, 0, 1)
    needed = 1 + int((shares[1:] > 0).sum())
    if count < needed:
        raise UserError(f"{count} recordings: too few to split, expected at least {needed}")
    order = np.random.default_rng(seed).permutation(count)
    # kinds one after the other, each in random order: every stretch of them has its share of each
    kinds = [f"{clips[i].speaker} {clips[i].label}" for i in order]
    order = order[np.argsort(np.array(kinds), kind="stable")]
    ends = np.cumsum(shares / shares.sum())
    at = (np.arange(count) * 0.6180339887498949) % 1.0  # evenly spread over [0, 1) in every stretch
    part = np.searchsorted(ends, at, side="right").clip(max=2)
    if count < 20 or any((part == i).sum() == 0 for i in range(3) if shares[i] > 0):
        part = np.searchsorted(np.round(ends * count), np.arange(count), side="right").clip(max=2)
        for i in (1, 2):  # at least one each
            if shares[i] > 0 and not (part == i).any():
                part[np.flatnonzero(part == 0)[-1]] = i
    rows: dict[Split, np.ndarray] = {
        split: np.sort(order[part == i]) for i, split in enumerate(SPLITS)
    }
    if apart:
        rows["valid"] = np.arange(count, count + apart)
    return rows
