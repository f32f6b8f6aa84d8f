"""Names of models that are not runs: `ollama:NAME`, a server's address `http(s)://HOST:PORT/v1#MODEL`, `FILE.gguf`."""

from __future__ import annotations

import os
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from fourfold.core.errors import UserError

OLLAMA = "ollama:"
PORT = 11434
"""Where ollama listens unless OLLAMA_HOST says otherwise."""


class Address(NamedTuple):
    """A model of somebody else's."""

    kind: Literal["ollama", "openai", "gguf"]
    name: str
    """As the user wrote it."""
    base: str
    """Where the server is, without a slash at its end; of a file its path."""
    model: str
    """As the server calls it; empty where the server has one only, or of a file."""


def address(name: str) -> Address | None:
    """What a word for a run means where it is no run's; None where it may be one.

    Raises:
        UserError: it begins as an address and is none.
    """
    if name.startswith(OLLAMA):
        model = name.removeprefix(OLLAMA)
        if not model.strip() or model != model.strip():
            raise UserError(f"{name}: expected a model's name behind the colon, as ollama:llama3.2")
        return Address("ollama", name, _ollama(), model)
    if name.startswith(("http://", "https://")):
        base, _, model = name.partition("#")
        return Address("openai", name, _checked(base, "http://127.0.0.1:8080/v1#NAME"), model)
    if name.lower().endswith(".gguf"):
        return Address("gguf", name, name, "")
    return None


def _ollama() -> str:
    """ollama's address, as its own client finds it: OLLAMA_HOST is a host, host:port or URL; 0.0.0.0 means this machine."""
    said = os.environ.get("OLLAMA_HOST", "").strip()
    url = said if "://" in said else f"http://{said or '127.0.0.1'}"
    if "://" not in said and not said.rpartition("]")[2].rpartition(":")[1]:
        url += f":{PORT}"
    checked = _checked(url, "127.0.0.1:11434", "OLLAMA_HOST=", "")
    return checked.replace("://0.0.0.0", "://127.0.0.1")


def _checked(url: str, example: str, said: str = "", path: str = "/v1") -> str:
    """A server's address without the slash at its end; `path` where it has none.

    Raises:
        UserError: it names no host, or a user and a password, which would be shown with it.
    """
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and parts.scheme in ("http", "https") and not parts.query
        parts.port  # noqa: B018  # a port that is no number is found here
    except ValueError:
        good = False
    if not good:
        raise UserError(f"{said}{url}: not the address of a server; expected one as {example}")
    if parts.username is not None:
        raise UserError(
            f"{said}{parts.scheme}://...@{parts.hostname}: a user in an address is not read; a token goes into FOURFOLD_API_KEY"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or path}"
