"""Servers in processes of their own, over real sockets: stopping, leaving, slow and many clients."""

from __future__ import annotations

import http.client
import json
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fourfold.cli.serve import serve_command
from fourfold.core.errors import UserError
from fourfold.serve.listen import bound
from serving import Server

Start = Callable[..., Server]


def post(server: Server, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
    status, content = server.ask(path, json.dumps(body).encode())
    return status, json.loads(content)


def opened(server: Server, sent: bytes) -> socket.socket:
    """A connection on which some bytes were sent."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    connection.sendall(sent)
    return connection


def head(path: str, *headers: str, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def test_what_runs_is_finished_and_then_it_ends_well(server: Start) -> None:
    served = server()
    answers: list[Any] = []
    asked = threading.Thread(
        target=lambda: answers.append(post(served, "/runs/polly/sleep", seconds=0.8))
    )
    counted = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    counted.request("POST", "/runs/books/generate", b'{"tokens": 400, "stream": true}')
    answer = counted.getresponse()
    assert answer.readline() == b"event: piece\n"
    asked.start()
    served.until(
        lambda: (
            served.number("fourfold_calls_present") >= 1
            and served.number("fourfold_calls_working") >= 1
        )
    )
    time.sleep(0.1)
    served.child.send(signal.SIGTERM)
    rest = answer.read().decode()
    counted.close()
    asked.join()
    assert rest.rstrip().split("\n\n")[-1].startswith("event: end")  # it was not cut
    assert answers[0][0] == 200 and answers[0][1]["text"] == "slept"
    assert served.child.wait() == 0 and "Traceback" not in served.child.stderr
    with pytest.raises(ConnectionRefusedError):
        opened(served, b"")


@pytest.mark.parametrize(("grace", "signals"), [("0.5", 1), ("60", 2)])
def test_one_that_hangs_does_not_hold_the_end_up(server: Start, grace: str, signals: int) -> None:
    """Given up after its time, or at once at the second Ctrl-C."""
    served = server("--grace", grace)
    body = b'{"seconds": 60}'
    with opened(served, head("/runs/polly/sleep", f"Content-Length: {len(body)}") + body):
        served.until(lambda: served.number("fourfold_calls_working") == 1)
        began = time.monotonic()
        for _ in range(signals):
            served.child.send(signal.SIGINT)
            time.sleep(0.3)
        assert served.child.wait() == 0 and time.monotonic() - began < 10


def test_who_leaves_in_the_middle_frees_the_place(server: Start) -> None:
    served = server()
    stream = json.dumps({"to": 10_000, "pause": 0.01, "stream": True}).encode()
    whole = json.dumps({"seconds": 600}).encode()
    for path, body, begun in (("count", stream, b"event: piece"), ("work", whole, None)):
        connection = opened(
            served, head(f"/runs/polly/{path}", f"Content-Length: {len(body)}") + body
        )
        if begun:
            while begun not in connection.recv(4096):
                pass
        served.until(lambda: served.number("fourfold_calls_working") == 1)
        connection.close()
        served.until(lambda: served.number("fourfold_calls_present") == 0, seconds=5)
    assert post(served, "/runs/polly/say", text="on")[1]["text"] == "on."


def test_slow_and_broken_clients_hold_nothing_up(server: Start) -> None:
    """Headers that trickle in, bodies that do not come, nonsense: refused or closed, while others are answered."""
    served = server("--max-body", "2000")
    silent = opened(served, b"")
    trickling = opened(served, b"POST /runs/polly/say HTTP/1.1\r\nHost: loc")
    long = opened(served, head("/runs/polly/say", "X: " + "y" * 200_000))
    assert b" 400 " in long.recv(200)
    nonsense = opened(served, b"\x16\x03\x01\x02\x00nonsense\r\n\r\n")
    assert b"400" in nonsense.recv(200)
    large = opened(served, head("/runs/polly/say", "Content-Length: 5000"))
    assert large.recv(200).startswith(b"HTTP/1.1 413")
    chunked = opened(served, head("/runs/polly/say", "Transfer-Encoding: chunked"))
    with_more = b"3e8\r\n" + b"a" * 1000 + b"\r\n"
    for _ in range(3):
        chunked.sendall(with_more)
    assert chunked.recv(200).startswith(b"HTTP/1.1 413")
    waiting = opened(served, head("/runs/polly/say", "Content-Length: 50") + b"{")
    for _ in range(5):
        assert post(served, "/runs/polly/say", text="on")[0] == 200
    for connection in (silent, trickling, long, nonsense, large, chunked, waiting):
        connection.close()
    served.until(lambda: served.number("fourfold_calls_present") == 0)


def test_times_for_headers_and_bodies_are_bounded(runs: Path) -> None:
    """The same with short times, on a server in a thread of this process."""
    import asyncio

    import uvicorn

    from fourfold.serve.app import create_app
    from fourfold.serve.limits import Limits
    from fourfold.serve.listen import Patient
    from fourfold.serve.shelf import Shelf

    limits = Limits(receive=0.3, header=0.3, stop=1.0)
    app = create_app(Shelf([runs]), limits=limits, page=False)
    protocol = type("Quick", (Patient,), {"seconds": limits.header})
    listening = bound("127.0.0.1", 0)
    config = uvicorn.Config(app, http=protocol, log_config=None, timeout_keep_alive=1, ws="none")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(running.serve(sockets=[listening])))
    thread.start()
    address = listening.getsockname()

    def ask(*pieces: bytes, pause: float = 0.0) -> tuple[bytes, float]:
        with socket.create_connection(address, timeout=10) as connection:
            began = time.monotonic()
            for piece in pieces:
                time.sleep(pause)
                connection.sendall(piece)
            got = connection.recv(4096)
            while got and b"}" not in got:  # head and body may come apart
                got += connection.recv(4096)
            return got, time.monotonic() - began

    try:
        while not running.started:
            time.sleep(0.01)
        got, seconds = ask(b"")
        assert got == b"" and 0.2 < seconds < 3  # closed
        got, seconds = ask(b"POST /runs/polly/say HTTP/1.1\r\nHost: loc")
        assert got == b"" and seconds < 3
        got, seconds = ask(head("/runs/polly/say", "Content-Length: 50") + b"{")
        assert got.startswith(b"HTTP/1.1 408") and b"within 0.3 seconds" in got and seconds < 3
        health = head("/health", method="GET")
        got, seconds = ask(health, health[:20], pause=0.1)  # a second request that never ends
        assert got.startswith(b"HTTP/1.1 200")
        body = b'{"seconds": 0.8}'
        got, seconds = ask(head("/runs/polly/sleep", f"Content-Length: {len(body)}") + body)
        assert got.startswith(b"HTTP/1.1 200") and seconds > 0.7  # work is not bounded by these
    finally:
        running.should_exit = True
        thread.join()


def test_addresses_that_cannot_be_had(runs: Path, tmp_path: Path) -> None:
    with bound("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: in use on 127.0.0.1 already"):
            bound("127.0.0.1", port)
        with pytest.raises(UserError, match=f"--port {port}: in use on 127.0.0.1 already"):
            serve_command([str(runs), "--port", str(port), "--no-page"])
    with pytest.raises(UserError, match="--host no.such.host.invalid: no such address"):
        bound("no.such.host.invalid", 0)
    with pytest.raises(UserError, match="not an address of this machine"):
        bound("203.0.113.7", 0)
    copy = tmp_path / "other" / "books"
    copy.mkdir(parents=True)
    (copy / "system.toml").write_bytes((runs / "books" / "system.toml").read_bytes())
    for arguments, sentence in (
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others can reach it, so it needs a token"),
        (["--token", "short"], "--token: expected 16 characters or more"),
        (["--port", "70000"], "--port: expected a whole number from 0 to 65535, got '70000'"),
        (["--max-body", "x"], "--max-body: expected bytes, as 1000000 or 32M, got 'x'"),
        (["--max-seconds", "0"], "--max-seconds: expected seconds above 0, got '0'"),
        (["--concurrency", "0"], "--concurrency: expected a whole number from 1"),
        (
            ["--engine", "steam"],
            "--engine steam: no such engine; choose from auto, compiled",
        ),
        (["--precision", "int9"], "--precision int9: no such precision; did you mean int8"),
        (["ollama:llama3.2"], "a model of somebody else's, which its own server serves"),
        ([runs / "none"], "none: no such folder"),
        ([tmp_path / "other"], "two runs of the name books"),
        (["--prot", "1"], "--prot"),
    ):
        with pytest.raises(UserError) as error:
            serve_command([str(word) for word in (runs, *arguments)])
        assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_token_from_the_environment(server: Start) -> None:
    served = server(FOURFOLD_TOKEN="a-token-of-the-environment")
    assert served.ask("/runs")[0] == 401 and served.ask("/health")[0] == 200
    assert served.ask("/runs", Authorization="Bearer a-token-of-the-environment")[0] == 200


# --- many clients ----------------------------------------------------------------------------------


class Crowd:
    """Clients that mix verbs and check that each answer is their own.

    Every question is asked alone first; where its answer is fixed by the question, any other is cross-talk.
    """

    def __init__(self, served: Server, clients: int, seconds: float) -> None:
        self.served, self.until = served, time.monotonic() + seconds
        self.lock = threading.Lock()
        self.sent = self.answered = self.busy = 0
        self.wrong: list[str] = []
        self.known: dict[int, str] = {}
        for seed in range(8):
            status, body = post(
                served, "/runs/books/generate", prompt=f"{seed} and", tokens=8, seed=seed
            )
            assert status == 200
            self.known[seed] = body["text"]
        threads = [threading.Thread(target=self._client, args=(i,)) for i in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(self, number: int) -> None:
        choose = random.Random(number)
        asks = (
            self._predict,
            self._generate,
            self._stream,
            self._say,
            self._wrong,
            self._fail,
            self._leave,
        )
        connection = http.client.HTTPConnection("127.0.0.1", self.served.port, timeout=60)
        count = 0
        while time.monotonic() < self.until:
            count += 1
            with self.lock:
                self.sent += 1
            try:
                fault = choose.choice(asks)(connection, f"{number}-{count}", choose)
            except Exception as error:
                fault = f"{type(error).__name__}: {error}"
                connection.close()
            with self.lock:
                self.answered += 1
                if fault:
                    self.wrong.append(fault)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, path: str, body: Any) -> tuple[int, Any]:
        while True:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 429:
                return answer.status, content
            with self.lock:
                self.busy += 1
            time.sleep(0.05 * float(answer.headers["Retry-After"]))

    def _predict(self, connection: Any, mark: str, choose: random.Random) -> str:
        size = choose.randint(40, 120)
        rows = [
            {"size": size + i, "town": "Bern", "rooms": 3, "mark": mark}
            for i in range(choose.randint(1, 4))
        ]
        status, content = self._ask(connection, "/runs/rents/predict", {"source": rows})
        found = json.loads(content)["rows"] if status == 200 else []
        own = [(r["size"], r["mark"]) for r in found] == [(r["size"], mark) for r in rows]
        right = all(abs(r["prediction"] - self._rent(r["size"])) < 1e-6 for r in found)
        return "" if own and right else f"predict: {status} {content[:200]!r}"

    def _rent(self, size: float) -> float:
        # a straight line, through two answers that were given alone
        with self.lock:
            if not hasattr(self, "line"):
                row = {"town": "Bern", "rooms": 3}
                answers = post(
                    self.served,
                    "/runs/rents/predict",
                    source=[{"size": 40, **row}, {"size": 100, **row}],
                )[1]
                a, b = (r["prediction"] for r in answers["rows"])
                self.line = (a, (b - a) / 60)
            return self.line[0] + self.line[1] * (size - 40)

    def _generate(self, connection: Any, mark: str, choose: random.Random) -> str:
        seed = choose.randrange(8)
        body = {"prompt": f"{seed} and", "tokens": 8, "seed": seed}
        status, content = self._ask(connection, "/runs/books/generate", body)
        right = status == 200 and json.loads(content)["text"] == self.known[seed]
        return "" if right else f"generate {seed}: {status} {content[:200]!r}"

    def _stream(self, connection: Any, mark: str, choose: random.Random) -> str:
        seed = choose.randrange(8)
        body = {"prompt": f"{seed} and", "tokens": 8, "seed": seed, "stream": True}
        status, content = self._ask(connection, "/runs/books/generate", body)
        blocks = content.decode().strip().split("\n\n")
        datas = [json.loads(b.split("\ndata: ")[1]) for b in blocks] if status == 200 else []
        text = "".join(d.get("text", "") for d in datas)
        return (
            ""
            if text == self.known[seed] and blocks[-1].startswith("event: end")
            else f"stream: {content[:200]!r}"
        )

    def _say(self, connection: Any, mark: str, choose: random.Random) -> str:
        verb = choose.choice(["say", "shout"])
        status, content = self._ask(connection, f"/runs/polly/{verb}", {"text": mark})
        expected = f"{mark}." if verb == "say" else f"{mark}!"
        return (
            ""
            if status == 200 and json.loads(content)["text"] == expected
            else f"{verb}: {content[:200]!r}"
        )

    def _wrong(self, connection: Any, mark: str, choose: random.Random) -> str:
        status, content = self._ask(connection, "/runs/polly/say", {"text": mark, mark: 1})
        return (
            ""
            if status == 422 and mark in content.decode()
            else f"wrong: {status} {content[:200]!r}"
        )

    def _fail(self, connection: Any, mark: str, choose: random.Random) -> str:
        status, content = self._ask(connection, "/runs/polly/fail", {})
        return "" if status == 500 and b'"id"' in content else f"fail: {status} {content[:200]!r}"

    def _leave(self, connection: Any, mark: str, choose: random.Random) -> str:
        body = json.dumps({"to": 1000, "pause": 0.005, "stream": True}).encode()
        left = opened(self.served, head("/runs/polly/count", f"Content-Length: {len(body)}") + body)
        left.settimeout(20)
        left.recv(100)
        left.close()
        return ""


def test_a_crowd_for_some_seconds(server: Start) -> None:
    served = server("--queue", "200")
    crowd = Crowd(served, clients=12, seconds=3.0)
    assert not crowd.wrong, (crowd.wrong[:3], served.child.stderr[-3000:])
    assert crowd.sent == crowd.answered >= 12
    served.until(lambda: served.number("fourfold_calls_present") == 0)


@pytest.mark.slow
def test_a_crowd_of_64_for_a_minute(server: Start) -> None:
    """Nothing lost, nobody's answer another's, memory flat."""
    served = server("--queue", "200")
    Crowd(served, clients=64, seconds=10.0)  # what is made once is made
    before = served.number("process_resident_memory_bytes")
    crowd = Crowd(served, clients=64, seconds=60.0)
    assert not crowd.wrong, crowd.wrong[:3]
    assert crowd.sent == crowd.answered > 1000
    after = served.number("process_resident_memory_bytes")
    assert after < before + (32 << 20), (before, after)
    served.until(lambda: served.number("fourfold_calls_present") == 0)
    print(
        f"{crowd.answered} answers, {crowd.busy} told to come again, {before / 2**20:.0f} to {after / 2**20:.0f} MiB"
    )
