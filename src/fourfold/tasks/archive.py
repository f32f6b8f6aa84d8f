"""The container of compressed files (.ff): what a decoder needs, what it must be equal in, and two checksums.

    magic (8 bytes), length of the header (4, little-endian), header (JSON, deflated), body, checksum (16)

The checksum is BLAKE2b of all that precedes; another one, in the header, is of the original. Probabilities
come out bit by bit the same only on the same kind of processor, with the same versions and number of threads,
so all of these are recorded, and what differs is refused.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import re
import struct
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.core.version import __version__

MAGIC = b"\x93fourff\n"
FORMAT = 1
CHECKSUM = 16
_LARGEST_HEADER = 1 << 26


@dataclass(frozen=True)
class Archive:
    """A compressed file."""

    run: str
    """Fingerprint of the run that wrote it."""
    place: dict[str, Any]
    """Where it was written: versions, processor, threads, device."""
    length: int
    """Bytes of the original."""
    checksum: str
    """Of the original."""
    rows: int
    """Texts that were read at once."""
    pieces: list[int] = field(default_factory=list)
    """By turns: tokens of a piece that is text, bytes of a piece that is not."""
    stored: int = 0
    """Bytes at the end of the body that are the originals."""
    picture: dict[str, int] = field(default_factory=dict)
    """Of a picture: height, width, channels and levels of codes; its length and checksum are those of its pixels."""
    body: bytes = b""

    def content(self) -> bytes:
        """The file."""
        about = {name: value for name, value in asdict(self).items() if name != "body"}
        if not self.picture:
            del about["picture"]
        packed = json.dumps({"format": FORMAT, **about}, separators=(",", ":")).encode()
        header = zlib.compress(packed, 9)
        whole = MAGIC + struct.pack("<I", len(header)) + header + self.body
        return whole + digest(whole)


def digest(data: bytes) -> bytes:
    """A checksum, 16 bytes."""
    return hashlib.blake2b(data, digest_size=CHECKSUM).digest()


def read(data: bytes, name: str) -> Archive:
    """A file's archive.

    Args:
        data: the file.
        name: what to call it in errors.

    Raises:
        UserError: it is no compressed file, cut short or damaged, or of a newer format.
    """
    if not data.startswith(MAGIC):
        if data and MAGIC.startswith(data):
            raise UserError(f"{name}: cut short: it ends after {len(data)} bytes")
        raise UserError(f"{name}: not a file that fourfold compress wrote (it begins otherwise)")
    begin = len(MAGIC) + 4
    if len(data) < begin + CHECKSUM or digest(data[:-CHECKSUM]) != data[-CHECKSUM:]:
        raise UserError(f"{name}: damaged or cut short: its checksum does not fit its content")
    size = struct.unpack("<I", data[len(MAGIC) : begin])[0]
    unpacker = zlib.decompressobj()
    try:
        about = json.loads(unpacker.decompress(data[begin : begin + size], _LARGEST_HEADER))
        newer = about.pop("format")
        if newer > FORMAT:
            raise UserError(
                f"{name}: written by a newer fourfold (format {newer}, this one reads {FORMAT})"
            )
        return Archive(**about, body=data[begin + size : -CHECKSUM])
    except (zlib.error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{name}: damaged: its header cannot be read ({error})") from error


def check(archive: Archive, fingerprint: str, device: torch.device, name: str) -> None:
    """Whether this run, here, says the very same as when the file was written.

    Raises:
        UserError: another run wrote it, or another build, processor or number of threads.
    """
    here = place(device)
    for key, value in here.items():
        found = archive.place.get(key)
        if found == value:
            continue
        hint = "only the same gives the same probabilities"
        if key == "threads":
            hint = f"set OMP_NUM_THREADS={found}"
        raise UserError(f"{name}: was compressed with {key} {found}, here it is {value}; {hint}")
    # after the versions: another one may give the same run another fingerprint
    if archive.run != fingerprint:
        raise UserError(
            f"{name}: was compressed with another run (fingerprint {archive.run[:12]}, this run's is "
            f"{fingerprint[:12]}); expand it with the run that wrote it"
        )


def place(device: torch.device) -> dict[str, Any]:
    """All that decides how a sum is rounded."""
    import numba
    import numpy

    return {
        "fourfold": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "numba": numba.__version__,
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


@functools.cache
def _processor() -> str:
    """The kind of processor: maker, family and model where Linux tells them, and what torch uses of it."""
    kind = [platform.system(), platform.machine(), torch.backends.cpu.get_cpu_capability()]
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return " ".join([*kind, platform.processor()]).strip()
    for key in ("vendor_id", "cpu family", "model"):
        found = re.search(rf"^{key}\s*:\s*(.+)$", told, re.M)
        kind += [found[1].strip()] if found else []
    return " ".join(kind)


def fingerprint(run: Run, prepared: str) -> str:
    """What a run's probabilities depend on: its system with its options, weights and what prepared its data."""
    state = hashlib.blake2b(digest_size=16)
    state.update(json.dumps([run.system.name, run.system.model_dump(mode="json")]).encode())
    state.update(prepared.encode())
    for name, tensor in sorted(run.model.state_dict().items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        state.update(flat.view(torch.uint8).numpy().data)
    return state.hexdigest()
