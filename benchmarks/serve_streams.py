"""Many streams of text at once against one: tokens a second, the first words, and whether anything is lost or mixed.

python -m benchmarks.serve_streams [ROUNDS] [SECONDS]

A language model of 6 layers x 384 in Llama's form (10.7 million weights; what it learned does not matter much), served by
`fourfold serve` in a process of its own, asked through OpenAI's API. Each client asks its next question when it has its
answer; every greedy answer is compared with the one that the same question got alone.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.serve import server
from benchmarks.side_by_side import alternate, keep, medians, ratio

STREAMS, TOKENS, QUESTIONS = 32, 96, 32
SYSTEM = "The king, the queen and all their court have come to hear what is said here today. "


class Answer(NamedTuple):
    """What a question got."""

    number: int
    text: str
    tokens: int
    first: float
    """Seconds to the first words."""


def run(folder: Path) -> None:
    """The model."""
    import fourfold

    options = {"layers": 6, "width": 384, "heads": 6, "data.window": 512, "data.unit": "character", "data.batch": 2}  # fmt: skip
    fourfold.fit("gpt", out=folder / "books", steps=2, **options)


async def ask(port: int, number: int) -> Answer:
    """Ask a question and read all of its stream."""
    body = json.dumps({
        "model": "books", "prompt": f"{SYSTEM}{number} is the number of ", "max_tokens": TOKENS, "temperature": 0,
        "stream": True, "stream_options": {"include_usage": True}, "logit_bias": {"0": -100},
    }).encode()  # fmt: skip
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    status = await reader.readline()
    assert b" 200 " in status, status
    text, tokens, first = [], 0, 0.0
    async for line in reader:
        if not line.startswith(b"data: {"):
            continue
        first = first or time.perf_counter() - began
        told = json.loads(line[6:])
        assert "error" not in told, told
        text += [choice["text"] for choice in told["choices"]]
        tokens = told["usage"]["completion_tokens"] if "usage" in told else tokens
    writer.close()
    assert tokens, "an answer was cut off"
    return Answer(number, "".join(text), tokens, first)


async def load(port: int, clients: int, seconds: float) -> tuple[list[Answer], float]:
    """Answers, and in how many seconds they were made."""
    found: list[Answer] = []
    began = time.perf_counter()

    async def client(number: int) -> None:
        while time.perf_counter() - began < seconds:
            found.append(await ask(port, number % QUESTIONS))
            number += clients

    await asyncio.gather(*(client(n) for n in range(clients)))
    return found, time.perf_counter() - began


def measure(folder: Path, precision: str, rounds: int, seconds: float) -> dict[str, Any]:
    """One stream and many, in turn."""
    with server(folder, STREAMS, "--precision", precision) as port:
        alone = {n: asyncio.run(ask(port, n)) for n in range(QUESTIONS)}
        answers: dict[int, list[Answer]] = {1: [], STREAMS: []}

        def rate(clients: int) -> float:
            found, taken = asyncio.run(load(port, clients, seconds))
            answers[clients] += found
            return sum(answer.tokens for answer in found) / taken

        rates = alternate({str(n): (lambda n=n: rate(n)) for n in answers}, rounds)
    wrong = [a for some in answers.values() for a in some if a.text != alone[a.number].text]
    result: dict[str, Any] = {}
    for clients, some in answers.items():
        first = statistics.quantiles([1000 * a.first for a in some], n=100)
        result[f"{clients} streams" if clients > 1 else "1 stream"] = {
            "tokens a second": round(medians(rates)[str(clients)]),
            "answers": len(some),
            "first words, median ms": round(first[49], 1),
            "first words, 99% ms": round(first[98], 1),
        }
    result["times one stream"] = round(ratio(rates, str(STREAMS), "1"), 2)
    result["answers that differ from those alone"] = len(wrong)
    return result


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 20.0
    with tempfile.TemporaryDirectory() as name:
        run(Path(name))
        result = {
            f"{STREAMS} streams, {precision}": measure(Path(name), precision, rounds, seconds)
            for precision in ("float32", "int8")
        }
    print(json.dumps(result, indent=2))
    keep("serve_streams", result)


if __name__ == "__main__":
    main()
