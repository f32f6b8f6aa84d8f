"""Requests over HTTP: how many a second and how long each takes, answered together and one by one.

python -m benchmarks.serve
"""

from __future__ import annotations

import http.client
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import alternate, data_file, keep, medians, ratio

SECONDS = 6.0
"""Of one measurement."""
TOKENS = 64


def runs(folder: Path) -> None:
    """A regression on 20,640 districts, and a language model of the default size (what it learned does not matter)."""
    import fourfold

    fourfold.fit(
        "linear",
        str(data_file("housing/housing.csv.gz")),
        out=folder / "rents",
        target="median_house_value",
    )
    fourfold.fit("gpt", out=folder / "books", steps=20)


@contextmanager
def server(folder: Path, batch: int, *options: str) -> Iterator[int]:
    """A server in a process of its own; its port."""
    command = [sys.executable, "-m", "fourfold", "serve", str(folder), "--port", "0", "--no-page"]
    process = subprocess.Popen(
        [*command, "--batch", str(batch), *options],
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr
    found = re.search(r"http://127.0.0.1:(\d+)", process.stderr.readline())
    assert found
    try:
        yield int(found[1])
    finally:
        process.terminate()
        process.communicate()


def load(port: int, path: str, body: dict[str, Any], clients: int, seconds: float) -> list[float]:
    """Seconds of each answer; each client asks its next question when it has its answer."""
    taken: list[float] = []
    until = time.perf_counter() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        count = 0
        while time.perf_counter() < until:
            began, count = time.perf_counter(), count + 1
            asked = dict(body)
            if "prompt" in asked:
                asked["prompt"] += f" {number} {count}"  # a question of its own
            connection.request(
                "POST", path, json.dumps(asked), {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            taken.append(time.perf_counter() - began)
        connection.close()

    threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def measure(
    ports: dict[str, int], path: str, body: dict[str, Any], clients: int, rounds: int
) -> dict[str, Any]:
    """Requests a second and latencies of each server, in turn."""
    taken: dict[str, list[float]] = {name: [] for name in ports}

    def rate(name: str) -> float:
        began = time.perf_counter()
        found = load(ports[name], path, body, clients, SECONDS)
        taken[name] += found
        return len(found) / (time.perf_counter() - began)

    for port in ports.values():
        load(port, path, body, 1, 1.0)
    rates = alternate({name: (lambda name=name: rate(name)) for name in ports}, rounds)
    result: dict[str, Any] = {}
    for name, value in medians(rates).items():
        milliseconds = statistics.quantiles([1000 * t for t in taken[name]], n=100)
        result[name] = {
            "requests a second": round(value, 1),
            "median ms": round(milliseconds[49], 1),
            "99% ms": round(milliseconds[98], 1),
        }
    result["together / one by one"] = round(ratio(rates, "together", "one by one"), 2)
    return result


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    row = {
        "longitude": -122.2, "latitude": 37.9, "housing_median_age": 41.0, "total_rooms": 880.0,
        "total_bedrooms": 129.0, "population": 322.0, "households": 126.0, "median_income": 8.3,
        "ocean_proximity": "NEAR BAY",
    }  # fmt: skip
    asked = {
        "predict, one row": ("/runs/rents/predict", {"source": [row]}),
        f"generate, {TOKENS} tokens": (
            "/runs/books/generate",
            {"prompt": "It was", "tokens": TOKENS, "seed": 1},
        ),
    }
    with tempfile.TemporaryDirectory() as name:
        runs(Path(name))
        with server(Path(name), 32) as together, server(Path(name), 1) as alone:
            ports = {"together": together, "one by one": alone}
            result = {
                f"{what}, {clients} {'client' if clients == 1 else 'clients'}": measure(
                    ports, path, body, clients, rounds
                )
                for what, (path, body) in asked.items()
                for clients in (1, 16)
            }
    print(json.dumps(result, indent=2))
    keep("serve", result)


if __name__ == "__main__":
    main()
