"""Child processes to be killed: each is a fork of one nursery that has imported torch already.

`Nursery().start(["fit", "faulty", ...])` runs that command line in a process of its own, within
milliseconds. Run as a program this file is the nursery.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BESIDE = {"WRITTEN_BESIDE_FROM": "1"}
"""Environment of a child that writes every checkpoint beside its steps, as others do large ones."""
HERE = Path(__file__).parent


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Child:
    """A command line under way."""

    def __init__(self, nursery: Nursery, pid: int, folder: Path) -> None:
        self.nursery, self.pid, self.folder = nursery, pid, folder
        self.code: int | None = None

    @property
    def ended(self) -> bool:
        """Whether it has ended, without waiting."""
        if self.code is None:
            self.code = self.nursery.ask({"poll": self.pid})
        return self.code is not None

    def wait(self) -> int:
        """The exit code, or the negative number of the signal that ended it."""
        if self.code is None:
            self.code = int(self.nursery.ask({"wait": self.pid}))
        return self.code

    def until(self, condition: Callable[[], bool], seconds: float = 60) -> bool:
        """Wait for something; False if the child ended before it came."""
        limit = time.monotonic() + seconds
        while not condition():
            if self.ended:
                return condition()
            assert time.monotonic() < limit, f"not within {seconds} s: {self.stderr}"
            time.sleep(0.0005)
        return True

    def send(self, signum: int) -> None:
        """Send a signal."""
        os.kill(self.pid, signum)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.wait()

    @property
    def stdout(self) -> str:
        return self._said("stdout")

    @property
    def stderr(self) -> str:
        return self._said("stderr")

    def _said(self, where: str) -> str:
        path = self.folder / f"{self.pid}.{where}"
        # a child that has just begun has none yet
        return path.read_text(encoding="utf-8") if path.exists() else ""


class Nursery:
    """The parent of the children.

    Args:
        folder: where their output goes.
        prefix: a command to run the nursery under, such as `unshare -rm`.
    """

    def __init__(self, folder: Path, prefix: Sequence[str] = ()) -> None:
        self.folder = folder
        # bit for bit holds on the CPU with one number of threads
        fixed = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "error"}
        environment = {**os.environ, **fixed}
        self._process = subprocess.Popen(
            [*prefix, sys.executable, __file__, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True,
        )  # fmt: skip
        self.pid = self._process.pid

    def ask(self, request: dict[str, Any]) -> Any:
        """Send a request to the nursery and take its answer."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the nursery is gone"
        return json.loads(answer)

    def start(
        self,
        arguments: Sequence[str | Path],
        *,
        largest_file: int | None = None,
        cwd: Path | None = None,
        **environment: str,
    ) -> Child:
        """Run a command line in a process of its own.

        Args:
            arguments: after `fourfold`.
            largest_file: RLIMIT_FSIZE in bytes.
            cwd: its working folder.
            environment: further variables.
        """
        pid = self.ask(
            {"start": [str(a) for a in arguments], "largest": largest_file,
             "cwd": str(cwd or Path.cwd()), "environment": environment}
        )  # fmt: skip
        return Child(self, pid, self.folder)

    def run(self, arguments: Sequence[str | Path], **settings: Any) -> Child:
        """Run a command line to its end."""
        child = self.start(arguments, **settings)
        child.wait()
        return child

    def ranks(self, count: int, arguments: Sequence[str | Path], **environment: str) -> list[Child]:
        """Run a command line in several processes, as torchrun does.

        Args:
            count: of processes.
            arguments: after `fourfold`.
            environment: further variables.
        """
        there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **environment}
        return [
            self.start(arguments, RANK=str(rank), WORLD_SIZE=str(count), **there)
            for rank in range(count)
        ]

    def together(self, count: int, arguments: Sequence[str | Path], **environment: str) -> None:
        """Run a command line in several processes to its end."""
        children = self.ranks(count, arguments, **environment)
        codes = [child.wait() for child in children]
        assert codes == [0] * count, "".join(child.stderr for child in children)

    def close(self) -> None:
        """End the nursery."""
        if self._process.stdin:
            self._process.stdin.close()
        if self._process.stdout:
            self._process.stdout.close()
        self._process.wait()


def _serve(folder: Path) -> None:
    sys.path.insert(0, str(HERE))
    import jinja2  # noqa: F401
    import torch
    import torch._dynamo  # its import is most of the time to the first step

    import fourfold.api
    import fourfold.cli.fit
    import fourfold.look.report
    import fourfold.optimizers.search  # noqa: F401
    from faulty import register_all

    torch.set_num_threads(1)
    register_all()
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer: Any = _fork(request, folder)
        elif "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        print(json.dumps(answer), flush=True)


def _fork(request: dict[str, Any], folder: Path) -> int:
    read, write = os.pipe()  # the child waits until its output files have its name
    pid = os.fork()
    if pid == 0:
        os.read(read, 1)
        _live(request, folder)
    os.write(write, b"x")
    os.close(read)
    os.close(write)
    return pid


def _live(request: dict[str, Any], folder: Path) -> None:
    from fourfold.cli import main

    code = 1
    try:
        os.chdir(request["cwd"])
        os.environ.update(request["environment"])
        if "WRITTEN_BESIDE_FROM" in os.environ:
            from fourfold.optimizers import saving

            saving.LARGE = int(os.environ["WRITTEN_BESIDE_FROM"])
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(folder / f"{os.getpid()}.stdout", flags), 1)
        os.dup2(os.open(folder / f"{os.getpid()}.stderr", flags), 2)
        if request["largest"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest"],) * 2)
        sys.argv = ["fourfold", *request["start"]]
        main(request["start"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
