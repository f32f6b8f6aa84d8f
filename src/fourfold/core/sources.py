"""What a user gave, as it is stored and as it is said."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def stored(sources: Any) -> list[str] | None:
    """Sources as `system.toml` keeps them: absolute paths and catalog names; None for data in memory."""
    if sources is None:
        return None
    many = sources if isinstance(sources, (list, tuple)) else [sources]
    if not all(isinstance(s, (str, os.PathLike)) for s in many):
        return None
    return [str(Path(s).resolve()) if Path(s).exists() else str(s) for s in many]


def describe(sources: Any) -> str:
    """Sources in words, for a message."""
    if sources is None:
        return "the embedded data"
    many = sources if isinstance(sources, (list, tuple)) else [sources]
    if all(isinstance(s, (str, os.PathLike)) for s in many):
        names = [str(s) for s in many]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{type(sources).__name__} in memory"


def command_line() -> str:
    """The exact command, quoted for a shell."""
    import shlex

    name = Path(sys.argv[0]).name
    if name == "__main__.py":
        name = "fourfold"

    return shlex.join([name, *sys.argv[1:]])


def timestamp() -> str:
    """Local time to the second, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Which files are not what they were, as the end of a clause; "" where that is not known."""
    if not before or not now:
        return ""
    for names, what in (
        ([n for n in before if n in now and now[n] != before[n]], "is not as it was"),
        ([n for n in before if n not in now], "is gone"),
        ([n for n in now if n not in before], "is new"),
    ):
        if names:
            more = f", as are {len(names) - 1} more" if len(names) > 1 else ""
            return f" ({names[0]} {what}{more})"
    return ""
