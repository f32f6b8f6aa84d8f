"""What a server allows: sizes, times and numbers, each with the answer to what exceeds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fourfold.core.errors import UserError
from fourfold.tasks.engines import EngineName, Precision


class Busy(UserError):
    """Too much is under way: 429, with when to come again."""

    def __init__(self, sentence: str, after: float = 1.0) -> None:
        super().__init__(sentence)
        self.after = after
        """Seconds after which to come again."""


class TooLarge(UserError):
    """More than this server takes: 413."""


class TooSlow(UserError):
    """The request came too slowly: 408."""


@dataclass(frozen=True)
class Limits:
    """What one server allows."""

    body: int = 32 << 20
    """Bytes of a request's body: 413."""
    bodies: int = 256 << 20
    """Bytes of all bodies that are held at once: 429."""
    receive: float = 30.0
    """Seconds in which a body must have come: 408. Its headers have `header` seconds."""
    header: float = 10.0
    """Seconds in which a request's line and headers must have come: the connection is closed."""
    idle: float = 5.0
    """Seconds that a connection is kept open for a next request."""
    seconds: float = 60.0
    """Seconds that a verb may work: 422; what streams ends with an error."""
    concurrency: int = 2
    """Verbs that work at once, of all runs; of one run, one at a time, batches aside."""
    queue: int = 126
    """Requests that wait in all; a further one is told when to come again: 429."""
    per_run: int = 64
    """Requests of one run that work or wait: 429."""
    batch: int = 32
    """Requests that are put together, where the verb allows it; 1 puts none together. Texts of a run that grow at once."""
    engine: EngineName = "auto"
    """What texts grow by: torch, compiled, or what is faster here."""
    precision: Precision = "auto"
    """Of its products: float32, bfloat16, int8, or int8 where what it costs is small."""
    rows: int = 1_000_000
    """Rows of a table in a request."""
    cells: int = 50_000_000
    """Cells of a table in a request."""
    pixels: int = 50_000_000
    """Pixels of an image in a request."""
    most: Mapping[str, int] = field(
        default_factory=lambda: {"tokens": 4096, "count": 256, "times": 4096, "steps": 4096}
    )
    """Most of what a verb is asked to make, by the option's name: 422."""
    open_runs: int = 8
    """Runs whose weights are held in memory; the one not used for longest gives way."""
    fits: int = 1
    """Fits under way that were started here: 429."""
    stop: float = 20.0
    """Seconds that requests and fits have to end once the server is asked to stop."""
