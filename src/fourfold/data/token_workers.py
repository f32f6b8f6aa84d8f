"""Processes that encode text side by side, for texts that take longer than starting them does.

Each is a Python of its own that knows a vocabulary, is given parts, and gives back tokens: it runs nothing of the
program that asks, as a copy of it or its main module would. Answers come in the order of the questions.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any

from fourfold.core.device import own_cores
from fourfold.core.errors import UserError
from fourfold.core.parts import Split
from fourfold.data.corpus import Part
from fourfold.data.tokens import Piece, encoded
from fourfold.data.vocabulary import Vocabulary

FROM = 24
"""Batches that are encoded before processes are started: some 24 million characters."""
Encoding = tuple[list[Part], dict[Split, Piece]]


def encoded_in_order(
    some: Iterable[list[Part]], vocabulary: Vocabulary, processes: int | None = None
) -> Iterator[Encoding]:
    """Batches with their tokens, in their order.

    Args:
        some: batches.
        vocabulary: how.
        processes: that encode; None takes as many as this process has cores, for what is behind the first `FROM` batches, where
            the vocabulary does not take them all by itself.

    Raises:
        UserError: a process died.
    """
    rest, many = iter(some), processes
    if many is None:
        many = 1 if vocabulary.threaded else own_cores()
    alone = itertools.islice(rest, FROM if processes is None else 0) if many > 1 else rest
    for batch in alone:
        yield batch, encoded(batch, vocabulary)
    begun = list(itertools.islice(rest, 1))
    if not begun:
        return
    with contextlib.ExitStack() as stack:
        idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for _ in range(many):
            idle.put(stack.enter_context(contextlib.closing(_Worker(vocabulary))))
        pool = ThreadPoolExecutor(many)
        stack.callback(pool.shutdown, cancel_futures=True)

        def ask(batch: list[Part]) -> dict[Split, Piece]:
            worker = idle.get()
            try:
                return worker.ask(batch)
            finally:
                idle.put(worker)

        waiting: deque[tuple[list[Part], Future[dict[Split, Piece]]]] = deque()
        for batch in itertools.chain(begun, rest):
            waiting.append((batch, pool.submit(ask, batch)))
            if len(waiting) > 2 * many:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()


class _Worker:
    """A process that encodes."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        one = {name: "1" for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")}
        environment = {**os.environ, **one, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment, "TOKENIZERS_PARALLELISM": "false"},
        )
        try:
            self._send(vocabulary)
        except BaseException:
            self.close()
            raise

    def ask(self, batch: list[Part]) -> dict[Split, Piece]:
        """Tokens of a batch."""
        self._send(batch)
        assert self._process.stdout is not None  # noqa: S101
        try:
            found = _receive(self._process.stdout)
        except EOFError:
            raise self._dead() from None
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]

    def close(self) -> None:
        """End it."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None  # noqa: S101
            with contextlib.suppress(OSError):
                pipe.close()
        self._process.wait()

    def _send(self, value: Any) -> None:
        assert self._process.stdin is not None  # noqa: S101
        try:
            _send(self._process.stdin, value)
        except BrokenPipeError:
            raise self._dead() from None

    def _dead(self) -> UserError:
        code = self._process.wait()
        why = (
            f"killed by signal {-code}, as where memory runs out"
            if code < 0
            else f"it ended with {code}"
        )
        return UserError(
            f"a process that encodes text died: {why}; what was encoded is kept, begin again to go on"
        )


def _send(pipe: IO[bytes], value: Any) -> None:
    content = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.write(struct.pack("<Q", len(content)) + content)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> Any:
    """The next value.

    Raises:
        EOFError: there is none any more.
    """
    head = pipe.read(8)
    if len(head) < 8:
        raise EOFError
    (size,) = struct.unpack("<Q", head)
    content = pipe.read(size)
    if len(content) < size:
        raise EOFError
    return pickle.loads(content)  # noqa: S301  # of the process that started this one, or that it started


def main() -> None:
    """Answer the process that started this one until it asks no more."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a Ctrl-C is for that process, which ends this one
    asked, answered = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing else may be said there
    with contextlib.suppress(EOFError, BrokenPipeError):
        vocabulary = _receive(asked)
        while True:
            batch = _receive(asked)
            try:
                found: Any = encoded(batch, vocabulary)
            except Exception as error:
                found = error
            _send(answered, found)


if __name__ == "__main__":
    main()
