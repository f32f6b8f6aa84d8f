"""What the page's tests share: a server in a process of its own, data, waiting."""

from __future__ import annotations

import math
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
TESTS = HERE.parents[1]
TEXT = "".join(f"It was {a} and {b}, which makes {a + b}.\n" for a in range(30) for b in range(30))
HOSTILE = "<b>bold<b>"
SCRIPT = '<script>window.hacked = 1</script><img src="x" onerror="window.hacked = 1">'
SMALL = {
    "data.unit": "character", "data.window": 32, "layers": 1, "width": 32, "heads": 2,
    "log_every": "5", "evaluate_every": "25%", "precision": "float32",
}  # fmt: skip


Opener = Callable[..., Any]


def chromium() -> str | None:
    """The system's Chromium; browsers are never downloaded."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


def houses(count: int, *, price: bool = True) -> str:
    """A table as CSV."""
    random = np.random.default_rng(1)
    rows = ["rooms,age,place" + ",price" * price]
    for _ in range(count):
        rooms, age = random.integers(1, 9), random.integers(0, 80)
        place = ("north", "south")[random.integers(2)]
        worth = 30 * rooms - age + 40 * (place == "south") + random.normal()
        rows.append(f"{rooms},{age},{place}" + f",{worth:.2f}" * price)
    return "\n".join(rows) + "\n"


class Server:
    """`fourfold serve` in a process of its own."""

    def __init__(self, folder: Path, log: Path, *arguments: str) -> None:
        self.folder, self.log = folder, log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = [
            sys.executable,
            "-m",
            "fourfold",
            "serve",
            str(folder),
            "--port",
            str(self.port),
            *arguments,
        ]
        site = log.parent / "site"
        if not site.exists():
            from drawer import install

            install(site)
        paths = [str(HERE), str(TESTS), str(site), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OMP_NUM_THREADS": "1",
        }
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=file, env=environment, cwd=log.parent
            )

    def wait(self, seconds: float = 60) -> None:
        """Until it answers."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            assert self.process.poll() is None, self.log.read_text()
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(f"no answer within {seconds} s: {self.log.read_text()}")

    def close(self) -> None:
        """Ask it to stop, and wait."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def until(
    condition: Callable[[], Any], seconds: float = 30, every: Callable[[], Any] | None = None
) -> Any:
    """Wait for something to hold; its value."""
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, f"not within {seconds} s"
        (every or (lambda: time.sleep(0.05)))()
    return found


def numbers(page: Any) -> list[float]:
    """The large figures of a run's page."""
    found = []
    for text in page.locator("dd").all_inner_texts():
        try:
            found.append(float(text.replace(",", "")))
        except ValueError:
            found.append(math.nan)
    return found
