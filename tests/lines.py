"""How a command line in this process ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Ended(NamedTuple):
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line that an error is."""
        assert self.code == 2 and self.out == "" and self.err.count("\n") == 1, self
        assert self.err.startswith("fourfold: ")
        return self.err.removeprefix("fourfold: ").rstrip("\n")


Command = Callable[..., Ended]
