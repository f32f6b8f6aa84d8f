"""Numbers, times and texts as a terminal shows them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-=+*%#"
BIDI = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
PLAIN = re.compile(r"[\n -~]*")


def sparkline(values: Sequence[float], width: int = 40, blocks: str = BLOCKS) -> str:
    """A series as one row of block characters, lowest to highest; neighbours are averaged to fit.

    Args:
        values: any finite ones count; the others are left out.
        width: at most so many characters.
        blocks: characters from low to high.
    """
    finite = [v for v in values if math.isfinite(v)]
    width = max(1, min(width, len(finite)))
    edges = [i * len(finite) // width for i in range(width + 1)]
    bins = [finite[a:b] for a, b in zip(edges, edges[1:], strict=False) if b > a]
    means = [math.fsum(v / len(b) for v in b) for b in bins]
    if not means:
        return ""
    low, high = min(means) / 2, max(means) / 2  # halves: the range of finite floats may overflow
    scale = (len(blocks) - 1) / (high - low) if high > low else 0.0
    return "".join(blocks[round((m / 2 - low) * scale)] for m in means)


def duration(seconds: float) -> str:
    """Seconds in words: "3.2s", "45s", "2m 10s", "1h 05m", "2d 03h"."""
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02}h"


def short(value: float) -> str:
    """A count or rate to three figures: "87.3", "12.3k", "1.2M"."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def number(value: float) -> str:
    """A measured number to four figures, its width steady while it changes: "1.612", "0.0008"."""
    if not math.isfinite(value):
        return str(value)
    if 0.1 <= abs(value) < 1e6:
        return f"{value:,.{max(0, 3 - math.floor(math.log10(abs(value))))}f}"
    return f"{value:.3g}"


def printable(text: str) -> str:
    """Text with what would move the cursor, recolour or reorder a terminal escaped; newlines stay."""
    if PLAIN.fullmatch(text):  # a report holds megabytes of it
        return text
    return "".join(_printable(c) for c in text.expandtabs(4))


def _printable(c: str) -> str:
    if c == "\n" or (c.isprintable() and c not in BIDI):
        return c
    harmless = unicodedata.category(c) in ("Zs", "Cf") and c not in BIDI
    return c if harmless else c.encode("unicode_escape").decode("ascii")


def encodable(text: str, encoding: str) -> str:
    """Text that the encoding can hold, the rest as backslash escapes."""
    return text.encode(encoding, "backslashreplace").decode(encoding, "replace")


def named(values: Mapping[str, float]) -> list[str]:
    """Measured values, each as "name number"."""
    return [f"{name.removeprefix('valid.')} {number(v)}" for name, v in values.items()]
