"""What general compressors make of a text, beside what language models make of it."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable
from typing import Any

WINDOW = 27
"""Base-2 logarithm of how far zstd looks back: over a training text of up to 128 MiB."""


def compressed_bits(data: bytes, known: bytes = b"") -> dict[str, tuple[float, float | None]]:
    """Bits per byte of each compressor at its strongest usual setting.

    Args:
        data: the text, at least one byte.
        known: the text that the models were trained on.

    Returns:
        By name: of the text alone; and of the text behind the known one, which a compressor that looks back
        as far has seen then (None where it does not look back as far).
    """
    found: dict[str, tuple[float, float | None]] = {}
    for name, compress, reaches in _compressors():
        alone = 8 * compress(data) / len(data)
        behind = None
        if known and reaches:
            behind = 8 * (compress(known + data) - compress(known)) / len(data)
        found[name] = alone, behind
    return found


def _compressors() -> list[tuple[str, Callable[[bytes], int], bool]]:
    """Name, size of what it makes, and whether it looks back over a whole text."""
    made: list[tuple[str, Callable[[bytes], int], bool]] = [
        # 18 bytes of header and checksum, as the gzip command writes them
        ("gzip -9", lambda data: len(zlib.compress(data, 9, -15)) + 18, False),
        ("xz -9", lambda data: len(lzma.compress(data, preset=9)), True),
    ]
    try:
        import zstandard
    except ImportError:
        return made

    def zstd(data: bytes) -> int:
        level: Any = zstandard.ZstdCompressionParameters.from_level(
            19, window_log=WINDOW, enable_ldm=True
        )
        return len(zstandard.ZstdCompressor(compression_params=level).compress(data))

    return [*made, ("zstd -19", zstd, True)]
