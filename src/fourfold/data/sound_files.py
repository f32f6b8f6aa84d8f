"""Where recordings lie, and what is in them: folders, archives, files, catalog names; decoding through soundfile.

Shapes: N samples, K channels.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fourfold.core.errors import UserError
from fourfold.data.image_files import ARCHIVE_SUFFIXES, SOUND_SUFFIXES, archive_members, paths_named

SILENCE = 1e-4
"""Recordings whose loudest sample is below this share of full scale hold nothing."""


@dataclass(frozen=True)
class Recording:
    """A recording that is not decoded yet."""

    name: str
    content: Path | bytes
    path: PurePosixPath
    """Its place in the folder or archive that was named."""

    def read(self) -> bytes:
        """The file's bytes."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


class Unreadable(Exception):
    """Why a recording cannot be used, in a few words."""


def decode(content: bytes) -> tuple[np.ndarray, int]:
    """A sound file's samples, (N, K) float32 in [-1, 1], and their rate in Hz.

    Raises:
        UserError: the package for sound is missing.
        Unreadable: it is empty, truncated or no sound.
    """
    try:
        import soundfile
    except ImportError:
        raise UserError('sound needs pip install "fourfold[audio]"') from None
    if not content:
        raise Unreadable("empty, 0 bytes")
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            promised, rate = file.frames, int(file.samplerate)
            samples = file.read(dtype="float32", always_2d=True)
    except (RuntimeError, ValueError, TypeError) as error:
        raise Unreadable(f"not sound that can be read ({error})") from None
    if short := _missing(content) or max(0, promised - len(samples)):
        raise Unreadable(f"truncated: {short:,} bytes or samples less than its header promises")
    if not len(samples):
        raise Unreadable("has no samples")
    if not np.isfinite(samples).all():
        raise Unreadable("has samples that are no numbers")
    return samples, rate


def _missing(content: bytes) -> int:
    """Bytes that a WAV file lacks of what its header promises; libsndfile reads such a file without a word."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return 0
    place = 12
    while place + 8 <= len(content):
        name, size = (
            content[place : place + 4],
            struct.unpack("<I", content[place + 4 : place + 8])[0],
        )
        if name == b"data":
            # streams are written with a size that stands for "unknown"
            return 0 if size >= 0xFFFFFF00 else max(0, size - (len(content) - place - 8))
        place += 8 + size + size % 2
    return 0


def mono(samples: np.ndarray) -> np.ndarray:
    """(N,) float32: the mean of the channels.

    Raises:
        Unreadable: there is no sound in it.
    """
    mixed = samples.mean(1) if samples.ndim == 2 else samples
    if float(np.abs(mixed).max(initial=0)) < SILENCE:
        raise Unreadable("silent: no sample above a ten-thousandth of full scale")
    return mixed.astype(np.float32)


def find_recordings(sources: Any) -> tuple[list[Recording], list[str]]:
    """The recordings that sources name, in a fixed order, and sentences that the user should be told.

    Args:
        sources: one or several paths, globs and catalog names.

    Raises:
        UserError: no such path, no sound in it, a damaged archive.
    """
    many = list(sources) if isinstance(sources, (list, tuple)) else [sources]
    found: list[Recording] = []
    notes: list[str] = []
    for source in many:
        for path in paths_named(str(source), "sound"):
            found += _of_path(path, notes)
    if not found:
        raise UserError("no recordings given: expected a folder, files or a catalog name")
    return found, notes


def _of_path(path: Path, notes: list[str]) -> list[Recording]:
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        members: Iterable[tuple[PurePosixPath, Any]] = [
            (PurePosixPath(p.relative_to(path).as_posix()), p) for p in files
        ]
    elif path.name.lower().endswith(ARCHIVE_SUFFIXES):
        members = sorted(archive_members(path), key=lambda member: member[0])
    else:  # named by the user: tried as sound, whatever its suffix
        return [Recording(str(path), path, PurePosixPath(path.name))]
    kept, others = [], Counter[str]()
    for inside, content in members:
        if any(part.startswith((".", "__MACOSX")) for part in inside.parts):
            continue
        if inside.suffix.lower() in SOUND_SUFFIXES:
            kept.append(Recording(f"{path}{os.sep}{inside}", content, inside))
        else:
            others[inside.suffix or inside.name] += 1
    if not kept:
        kinds = ", ".join(f"{n} {kind}" for kind, n in others.most_common(3)) or "nothing"
        raise UserError(
            f"{path}: no recordings in it (found {kinds}; expected {', '.join(sorted(SOUND_SUFFIXES))})"
        )
    if others:
        notes.append(
            f"{path}: {others.total()} files that are no sound ({', '.join(sorted(others))}) were left out"
        )
    return kept


_FIELDS = {"label", "speaker", "take"}


def name_pattern(template: str) -> re.Pattern[str]:
    """A template of file names, as {label}_{speaker}_{take}, as a pattern of their stems.

    Raises:
        UserError: it does not name a speaker, or has other fields.
    """
    fields = re.findall(r"\{(.*?)\}", template)
    if "speaker" not in fields or set(fields) - _FIELDS or len(set(fields)) < len(fields):
        raise UserError(
            f"--data.names: expected {{speaker}}, and {{label}} and {{take}} where names have them, got {template!r}"
        )
    parts = re.split(r"\{.*?\}", template)
    made = re.escape(parts[0])
    for name, rest in zip(fields, parts[1:], strict=True):
        made += f"(?P<{name}>.+?)" + re.escape(rest)
    return re.compile(made)
