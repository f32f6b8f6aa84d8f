"""The processes of one fit, as torchrun starts them: who they are, and how a fit is spread over them.

A process alone is `ALONE`, which does nothing and costs nothing. Of several each has a rank from 0 on; rank 0 writes the
run and speaks (`core/together.py`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveFloat, PositiveInt

from fourfold.core.parts import Part

if TYPE_CHECKING:
    from torch import Tensor


class Parallel(Part):
    """How a fit is spread over the processes that torchrun starts; without several of them it changes nothing."""

    shard: bool = False
    """Keep a part of the weights, their gradients and the optimizer's state in each process (FSDP2)."""
    tensor: PositiveInt = 1
    """Processes that share the products of each block of a Transformer (tensor parallel)."""
    recompute: bool = False
    """Compute the activations of each block again in the backward pass instead of keeping them."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """Of sharded weights: the format that they are gathered and multiplied in; gradients are summed in float32."""
    timeout: PositiveFloat = 600.0
    """Seconds that a process waits for the others before it names them and ends."""


class Lost(Exception):
    """This process ends because another did, or does not come."""


class Ranks:
    """The processes of one fit."""

    rank = 0
    size = 1
    local = 0
    """Number of this process on its machine."""
    step = 0
    """Steps done, for those who wait."""
    timeout = 600.0

    @property
    def main(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    def sum(self, values: Tensor, what: str, group: Any = None) -> Tensor:
        """Add up a tensor over all processes, in place."""
        return values

    def tell(self, value: Any) -> Any:
        """Rank 0's value, which JSON can hold, on every rank."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, which JSON can hold, on every rank."""
        return [value]

    def agree(self, what: str, mine: Mapping[str, Any]) -> None:
        """Refuse to go on where ranks differ.

        Args:
            what: the mapping is, in words.
            mine: what this rank has, by name.

        Raises:
            UserError: they differ; the first such name is told with both values and ranks.
        """

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """While inside, this process waits for others."""
        yield

    def failed(self, error: BaseException) -> bool:
        """Tell the others that this process ends with an error; whether it is the one to say it."""
        return True

    def leave(self) -> None:
        """The fit is over."""


ALONE = Ranks()
_joined: Ranks | None = None


def current() -> Ranks:
    """The processes that were joined; `ALONE` before."""
    return _joined or ALONE


def asked() -> bool:
    """Whether this process was started as one of several."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "1")


def join() -> Ranks:
    """Meet the other processes, once; `ALONE` where torchrun started no others.

    Raises:
        UserError: the environment says that there are others but not where, or they do not come.
    """
    global _joined
    if _joined is None and asked():
        from fourfold.core.together import meet

        _joined = meet()
    return current()


def part() -> None:
    """Forget the others: the fit is over."""
    global _joined
    _joined = None
