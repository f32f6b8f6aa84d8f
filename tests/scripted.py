"""Servers of somebody else's on loopback, scripted: OpenAI's API and ollama's."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Script = Callable[[str, dict[str, Any]], Any]
"""From a path and a request's body to an answer: (status, object), or an iterator of lines to stream."""


class Scripted:
    """A server under way, and what it was asked."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        """Path, body and headers of each request, in order."""
        self.left = threading.Event()
        """A client left before its answer was whole."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._answer({})

            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                self._answer(json.loads(self.rfile.read(size)))

            def _answer(self, body: dict[str, Any]) -> None:
                owner.asked.append((self.path, body, dict(self.headers)))
                told = owner.script(self.path, body)
                if isinstance(told, tuple):
                    status, content = told
                    said = content if isinstance(content, bytes) else json.dumps(content).encode()
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(said)))
                    if status == 429:
                        self.send_header("Retry-After", "0.01")
                    self.end_headers()
                    self.wfile.write(said)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                try:
                    for line in told:
                        self.wfile.write(line)
                        self.wfile.flush()
                except OSError:
                    owner.left.set()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_address[1]}"

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """What was asked of one path."""
        return [body for place, body, _ in self.asked if place == path]


@contextmanager
def scripted(script: Script) -> Iterator[Scripted]:
    """Serve while the block lasts."""
    made = Scripted(script)
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        thread.join()
        made.server.server_close()


def events(*objects: Any, done: bool = True) -> Iterator[bytes]:
    """Server-sent events; numbers among the objects are pauses in seconds."""
    yield b": a comment that keeps the connection\n\n"
    for each in objects:
        if isinstance(each, float):
            time.sleep(each)
        else:
            yield b"data: " + json.dumps(each).encode() + b"\n\n"
    if done:
        yield b"data: [DONE]\n\n"


def lines(*objects: Any) -> Iterator[bytes]:
    """An object a line, as ollama streams."""
    for each in objects:
        yield json.dumps(each).encode() + b"\n"


def openai(
    answer: Callable[[list[dict[str, str]]], str] = lambda messages: (
        f"You said: {messages[-1]['content']}"
    ),
    models: tuple[str, ...] = ("small",),
) -> Script:
    """A server with OpenAI's API that answers a conversation by a function; it streams word by word."""

    def script(path: str, body: dict[str, Any]) -> Any:
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": name} for name in models]}
        if body.get("model") not in models:
            return 404, {"error": {"message": f"no model {body.get('model')}", "code": None}}
        if path == "/v1/chat/completions":
            words = answer(body["messages"]).split(" ")
            deltas = [{"content": w if i == 0 else f" {w}"} for i, w in enumerate(words)]
            end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
            first = {"choices": [{"index": 0, "delta": {"role": "assistant"}}]}
            return events(first, *({"choices": [{"index": 0, "delta": d}]} for d in deltas), end)
        if path == "/v1/completions" and body.get("echo"):
            tokens = [c for c in body["prompt"]]
            told = {"tokens": tokens, "token_logprobs": [None, *[-0.5] * (len(tokens) - 1)]}
            return 200, {"choices": [{"text": body["prompt"], "logprobs": told}]}
        if path == "/v1/completions":
            text = f"{body['prompt']}!"
            choice = {"index": 0, "text": text, "finish_reason": "length"}
            return events({"choices": [choice]})
        if path == "/v1/embeddings":
            rows = [{"index": i, "embedding": [3.0, 4.0, float(i)]} for i in range(len(body["input"]))]  # fmt: skip
            return 200, {"data": rows[::-1]}
        return 404, {"detail": "Not Found"}

    return script


def ollama(models: tuple[str, ...] = ("llama3.2:latest", "qwen3:4b")) -> Script:
    """ollama's API."""

    def script(path: str, body: dict[str, Any]) -> Any:
        if path == "/api/tags":
            return 200, {"models": [{"name": name} for name in models]}
        if path == "/api/show":
            return 200, {"parameters": "", "model_info": {"llama.context_length": 4096}}
        if path == "/api/chat":
            said = body["messages"][-1]["content"]
            pieces = [{"message": {"content": f"{word} "}, "done": False} for word in said.split()]
            return lines({"message": {"content": "", "thinking": "hm"}}, *pieces, {"done": True})
        if path == "/api/generate":
            return lines({"response": body["prompt"][::-1], "done": False}, {"done": True})
        if path == "/api/embed":
            return 200, {"embeddings": [[1.0, 0.0]] * len(body["input"])}
        return 404, {"error": "not found"}

    return script
