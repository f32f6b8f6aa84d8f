"""What each of several processes has: of every batch a contiguous share of its rows, of a tensor a part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor


class Share(NamedTuple):
    """Rows `first` to `first + rows` of `total`."""

    first: int
    rows: int
    total: int

    @property
    def idle(self) -> bool:
        """Whether nothing of the batch is this process's: it computes a row that does not count."""
        return self.rows == 0


def share_of(total: int, rank: int, size: int) -> Share:
    """The rows of one of `size` processes: the first `total % size` have one more.

    Args:
        total: rows in all.
        rank: of the process, from 0 on.
        size: processes.
    """
    least, more = divmod(total, size)
    return Share(rank * least + min(rank, more), least + (rank < more), total)


class SharedBatch(dict[str, Any]):
    """A batch that holds one process's share of its rows; of an idle one the first row of the whole batch."""

    def __init__(self, values: Mapping[str, Any], share: Share) -> None:
        super().__init__(values)
        self.share = share


def rows_of(batch: Mapping[str, Any]) -> int:
    """Examples in a batch: the longest first axis of its tensors."""
    sizes = (v.shape[0] for v in batch.values() if isinstance(v, Tensor) and v.ndim)
    return max(sizes, default=1)


def rows_from(batch: Mapping[str, Any], first: int, count: int) -> dict[str, Any]:
    """Some examples of a batch, of divisible data."""
    size = rows_of(batch)
    return {
        name: v[first : first + count] if isinstance(v, Tensor) and v.ndim and v.shape[0] == size else v
        for name, v in batch.items()
    }  # fmt: skip


_present: Share | None = None


def set_share(share: Share | None) -> None:
    """Say what share of a batch is worked on from here on; None for all of it."""
    global _present
    _present = share


def drawn(count: int, draw: Callable[[int], Tensor]) -> Tensor:
    """Random numbers for the rows of a batch, which do not depend on how many processes share it.

    All processes draw for the whole batch from generators in the same state, and each takes its rows.

    Args:
        count: rows of this process.
        draw: makes tensors (n, ...) for n rows.
    """
    share = _present
    if share is None or count != max(1, share.rows):
        return draw(count)
    return (
        draw(share.total)[share.first : share.first + share.rows]
        if share.rows
        else draw(share.total)[:1]
    )


def idle() -> bool:
    """Whether the row that is worked on does not count."""
    return _present is not None and _present.idle


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that is spread over several; of any other all of it."""
    part: Tensor = getattr(tensor, "_local_tensor", tensor)
    return part
