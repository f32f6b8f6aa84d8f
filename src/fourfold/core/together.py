"""Several processes of one fit: what they agree on, and which of them failed.

Whoever fails first says why, in a store that all reach, and the others end in silence. A thread of each process tells
the store where it is, so that one for which the others wait in vain is named.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, TCPStore

from fourfold.core.errors import UserError
from fourfold.core.ranks import Lost, Ranks, part

BEAT = 0.5
"""Seconds between two notes of where a process is."""
GRACE = 10.0
"""Seconds in which a process ends by itself once another has failed."""
LONG = timedelta(days=7)
"""What torch's own sums wait: hangs are named long before, after --parallel.timeout."""
JOINING = 300.0
"""Seconds in which all processes must have come."""


def meet() -> Ranks:
    """Meet the processes that the environment speaks of; see `ranks.join`."""
    size, rank = _whole("WORLD_SIZE"), _whole("RANK")
    return Together(rank, size)


def another_group(backend: str | None = None) -> dist.ProcessGroup:
    """All processes once more, for sums that must not meet others'; all call this."""
    group: dist.ProcessGroup = dist.new_group(backend=backend, timeout=LONG)
    return group


def _whole(name: str) -> int:
    given = os.environ.get(name, "")
    if not given.isdigit():
        found = f"is {given!r}" if given else "is not set"
        raise UserError(
            f"WORLD_SIZE is {os.environ.get('WORLD_SIZE')} but {name} {found}; start the processes with torchrun, "
            "which sets WORLD_SIZE, RANK, MASTER_ADDR and MASTER_PORT"
        )
    return int(given)


def _host() -> str:
    return socket.gethostname()


def _connect(size: int, master: bool) -> TCPStore:
    address = os.environ.get("MASTER_ADDR")
    if not address:
        raise UserError(
            "MASTER_ADDR is not set: no rank knows where to meet; start the processes with torchrun "
            "(--rdzv-endpoint HOST:PORT), or set MASTER_ADDR and MASTER_PORT to rank 0's machine"
        )
    port = _whole("MASTER_PORT")
    seconds = timedelta(seconds=float(os.environ.get("FOURFOLD_JOINING", JOINING)))
    try:
        return TCPStore(
            address, port, None, master, timeout=seconds, wait_for_workers=False, multi_tenant=True
        )
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        detail = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{address}:{port}: no rank 0 to meet there ({detail})") from error


class Together(Ranks):
    """Several processes."""

    def __init__(self, rank: int, size: int) -> None:
        if rank >= size:
            raise UserError(f"RANK is {rank} and WORLD_SIZE {size}: ranks go from 0 to {size - 1}")
        self.rank, self.size = rank, size
        self.local = int(os.environ.get("LOCAL_RANK", rank))
        self._flight: tuple[str, float] | None = None
        self._over = threading.Event()
        self._hosts = False
        """Whether the store ends with this process."""
        self._heard = False
        """Whether some process has said why it failed."""
        self._lock = threading.Lock()
        hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self._hosts = rank == 0 and not hosted
        store = _connect(size, self._hosts)
        prefix = f"fourfold/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        # of its own, so that a blocked collective does not keep the notes waiting
        self._notes = PrefixStore(f"{prefix}/notes", _connect(size, False))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            dist.init_process_group(
                backend,
                store=PrefixStore(f"{prefix}/groups", store),
                rank=rank,
                world_size=size,
                timeout=LONG,
            )
        except (dist.DistError, RuntimeError) as error:
            detail = str(error).splitlines()[0]
            raise UserError(
                f"rank {rank} of {size}: the other ranks did not come ({detail})"
            ) from error
        self._thread = threading.Thread(target=self._watch, name="fourfold ranks", daemon=True)
        self._thread.start()
        atexit.register(self.leave)
        self.agree("versions", _versions())

    # --- agreement ----------------------------------------------------------------------------------

    def sum(self, values: Tensor, what: str, group: Any = None) -> Tensor:
        """See `Ranks.sum`."""
        with self.waiting(what):
            dist.all_reduce(values, group=group)
        return values

    def tell(self, value: Any) -> Any:
        """See `Ranks.tell`."""
        with self.waiting("what rank 0 tells"):
            raw = json.dumps(value).encode() if self.main else b""
            length = torch.tensor([len(raw)])
            dist.broadcast(length, 0)
            told = torch.zeros(int(length), dtype=torch.uint8)
            if self.main:
                told.copy_(torch.frombuffer(bytearray(raw), dtype=torch.uint8))
            dist.broadcast(told, 0)
        return json.loads(told.numpy().tobytes())

    def gather(self, value: Any) -> list[Any]:
        """See `Ranks.gather`."""
        raw = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        with self.waiting("what all ranks tell"):
            lengths = torch.zeros(self.size, dtype=torch.int64)
            lengths[self.rank] = len(raw)
            dist.all_reduce(lengths)
            longest = int(lengths.max())
            mine = torch.zeros(longest, dtype=torch.uint8)
            mine[: len(raw)] = raw
            found = [torch.zeros_like(mine) for _ in range(self.size)]
            dist.all_gather(found, mine)
        return [
            json.loads(row[:length].numpy().tobytes())
            for row, length in zip(found, lengths.tolist(), strict=True)
        ]

    def agree(self, what: str, mine: Mapping[str, Any]) -> None:
        """See `Ranks.agree`."""
        every = self.gather({"host": _host(), "has": dict(mine)})
        first = every[0]
        for rank, other in enumerate(every):
            for name in {**first["has"], **other["has"]}:
                before, after = first["has"].get(name), other["has"].get(name)
                if before != after:
                    raise UserError(
                        f"the ranks differ in {what}: {name} is {before!r} on rank 0 ({first['host']}) and "
                        f"{after!r} on rank {rank} ({other['host']}); all must have the same"
                    )

    # --- failure ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """See `Ranks.waiting`.

        Raises:
            Lost: another process has ended; it is named.
        """
        self._flight = (what, time.monotonic())
        try:
            yield
        except UserError:
            raise
        except RuntimeError as error:
            raise Lost(self._why(what)) from error
        finally:
            self._flight = None

    def failed(self, error: BaseException) -> bool:
        """See `Ranks.failed`."""
        mine = json.dumps([self.rank, f"{type(error).__name__}: {error}"])
        try:
            with self._lock:
                first = self._notes.compare_set("failed", "", mine).decode() == mine
        except RuntimeError:  # the store is gone: only who has heard why ends in silence
            return not (isinstance(error, Lost) and self._heard)
        if first:
            _record(error)
        self._linger()
        return first

    def leave(self) -> None:
        """See `Ranks.leave`."""
        if self._over.is_set():
            return
        self._over.set()
        self._thread.join(2 * BEAT)
        self._linger()
        part()
        if dist.is_initialized() and not self._other():
            dist.destroy_process_group()

    def _linger(self) -> None:
        """Note the end of this process; the one that holds the store waits a moment until all have."""
        with contextlib.suppress(RuntimeError), self._lock:
            self._notes.set(f"ended/{self.rank}", "1")
            limit = time.monotonic() + GRACE / 2
            while self._hosts and time.monotonic() < limit:
                if self._notes.check([f"ended/{rank}" for rank in range(self.size)]):
                    time.sleep(BEAT / 5)  # the last one's answer is on its way
                    break
                time.sleep(BEAT / 25)

    def _other(self) -> str | None:
        """What another process failed with, if one has."""
        try:
            with self._lock:
                if not self._notes.check(["failed"]):
                    return None
                rank, said = json.loads(self._notes.get("failed"))
        except RuntimeError:
            return (
                "rank 0 is gone, or torchrun on its machine, and with it the place where ranks meet"
            )
        self._heard = True
        return None if rank == self.rank else f"rank {rank}: {said}"

    def _seen(self) -> list[dict[str, Any] | None]:
        """Where each process was last."""
        found: list[dict[str, Any] | None] = []
        for rank in range(self.size):
            try:
                with self._lock:
                    there = self._notes.check([f"seen/{rank}"])
                    found.append(json.loads(self._notes.get(f"seen/{rank}")) if there else None)
            except RuntimeError:
                found.append(None)
        return found

    def _why(self, what: str) -> str:
        """Why a collective broke: which process failed, or is gone."""
        first, began = self._seen(), time.monotonic()
        while (spent := time.monotonic() - began) < GRACE / 2:
            if other := self._other():
                return f"{other}; rank {self.rank} waited in {what}"
            for rank, (was, seen) in enumerate(zip(first, self._seen(), strict=True)):
                if rank == self.rank or seen != was or spent <= 4 * BEAT:  # clocks may differ
                    continue
                if seen is None:
                    return f"rank {rank} is gone: it was never heard of; rank {self.rank} waited for it in {what}"
                return (
                    f"rank {rank} ({seen['host']}) is gone: it was last heard of after step {seen['step']}, "
                    f"{seen['doing']}; rank {self.rank} waited for it in {what}"
                )
            time.sleep(BEAT / 2)
        return f"rank {self.rank} lost the others in {what}"

    def _watch(self) -> None:
        """Note where this process is; end it where it hangs, or another has failed and it does not notice."""
        ending, beats = None, 0
        while not self._over.wait(BEAT):
            flight, now = self._flight, time.monotonic()
            doing = f"waiting in {flight[0]}" if flight else "computing"
            beats += 1
            note = {"beats": beats, "step": self.step, "doing": doing, "host": _host()}
            try:
                with self._lock:
                    self._notes.set(f"seen/{self.rank}", json.dumps(note))
            except RuntimeError:
                pass
            if self._other() is not None:
                ending = ending or now
                if now - ending > GRACE:
                    _end(None)
            elif flight and now - flight[1] > self.timeout:
                self._hung(flight[0], now - flight[1])

    def _hung(self, what: str, seconds: float) -> None:
        first = self._seen()
        time.sleep(4 * BEAT)
        late = []
        for rank, (was, seen) in enumerate(zip(first, self._seen(), strict=True)):
            here = seen and seen["doing"] == f"waiting in {what}" and seen["step"] == self.step
            if seen and rank != self.rank and (not here or seen == was):
                doing = "and silent" if seen == was else seen["doing"]
                late.append(f"rank {rank} ({seen['host']}), after step {seen['step']}, {doing}")
        sentence = (
            f"rank {self.rank} waited {seconds:.0f} s in {what}, after step {self.step}; not there: "
            f"{'; '.join(late) or 'no one, all wait in it: the network or a disk may hang'} (--parallel.timeout is {self.timeout:g})"
        )
        _end(f"fourfold: {sentence}" if self.failed(Lost(sentence)) else None)


def _end(sentence: str | None) -> None:
    """End the process from beside its main thread, which waits for what does not come."""
    if sentence:
        print(sentence, file=sys.stderr, flush=True)
    os._exit(1)


def _record(error: BaseException) -> None:
    """For torchrun's own report: the failure that was the first; of one that is no fault of the program its sentence."""
    if not os.environ.get("TORCHELASTIC_ERROR_FILE"):
        return
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    handler = get_error_handler()
    with contextlib.suppress(OSError):
        if not isinstance(error, (UserError, Lost)):
            handler.record_exception(error)
            return
        try:
            raise (Lost if isinstance(error, Lost) else UserError)(str(error)) from None
        except (UserError, Lost) as told:  # recorded is the traceback of the error that is handled
            told.__traceback__ = None
            handler.record_exception(told)


def _versions() -> dict[str, str]:
    from fourfold.core.version import __version__

    python = ".".join(platform.python_version_tuple()[:2])
    return {"fourfold": __version__, "torch": torch.__version__, "python": python}
