"""`fourfold serve RUNS ...`: the verbs of runs over HTTP, and the page."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

from fourfold.cli.parse import flag, parse, positional
from fourfold.core.errors import UserError, nearest

if TYPE_CHECKING:
    from fourfold.serve.limits import Limits
    from fourfold.serve.shelf import Shelf

ABOUT = (
    "The verbs of runs over HTTP, and a page: run folders, or folders of runs (by default runs/)."
)


def _flags() -> list[Any]:
    groups = {"Address": 1, "Limits": 2, "Options": 3}

    def made(name: str, kind: Any, text: str, default: Any, group: str) -> Any:
        return flag(
            name.replace("-", "_"), [f"--{name}"], kind, text, default, group, groups[group]
        )

    token = (
        "Bearer token that every request needs; FOURFOLD_TOKEN is not shown to other users of this "
        "machine. Needed for any host but this machine's own."
    )
    return [
        positional("runs", "Run folders, or folders of runs.", many=True),
        made("host", str, "Address to listen on.", "127.0.0.1", "Address"),
        made("port", int, "Port; 0 takes a free one.", 8000, "Address"),
        made("token", str, token, None, "Address"),
        made("max-body", str, "Largest request, in bytes or as 32M.", "32M", "Limits"),
        made("max-seconds", float, "Longest that a verb may work.", 60, "Limits"),
        made("max-tokens", int, "Most tokens, and the like, of one request.", 4096, "Limits"),
        made("concurrency", int, "Verbs that work at once.", 2, "Limits"),
        made(
            "batch",
            int,
            "Requests that are answered together, where a verb allows it.",
            32,
            "Limits",
        ),
        made(
            "engine",
            str,
            "What texts grow by: torch, compiled, or auto, the faster one.",
            "auto",
            "Options",
        ),
        made(
            "precision",
            str,
            "Of its products: float32, bfloat16, int8; auto takes int8 where its cost is small.",
            "auto",
            "Options",
        ),
        made("queue", int, "Requests that wait at most.", 126, "Limits"),
        made("grace", float, "Seconds that requests have to end once it is stopped.", 20, "Limits"),
        made("fits", int, "Fits that are started here at once.", 1, "Limits"),
        made(
            "model",
            str,
            "Model that answers from knowledge bases: a run, ollama:NAME, a server's address, a GGUF file.",
            None,
            "Options",
        ),
        made("no-page", bool, "Leave the page out.", None, "Options"),
        made("debug", bool, "Show the traceback of an error.", None, "Options"),
    ]


def serve_command(tokens: list[str]) -> None:
    """The verbs of runs over HTTP, and the page."""
    parsed = parse("fourfold serve", ABOUT, _flags(), tokens)
    if parsed is None:
        return
    paths, given = parsed
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f'serve needs {error.name}: pip install "fourfold[serve]"') from None
    import torch

    from fourfold.core.folders import runs_folder
    from fourfold.serve.app import create_app
    from fourfold.serve.listen import bound, serve
    from fourfold.serve.security import checked
    from fourfold.serve.shelf import Shelf
    from fourfold.tasks.grounding import DEFAULT_MODEL

    if given.get("model"):
        import fourfold

        fourfold.open(given["model"])  # what cannot be opened is said now, not to a client
        os.environ[DEFAULT_MODEL] = str(given["model"])
    host = str(given.get("host", "127.0.0.1"))
    token = checked(given.get("token") or os.environ.get("FOURFOLD_TOKEN") or None, host)
    limits = _limits(given)
    shelf = Shelf(list(paths) or [runs_folder()], limits.open_runs)
    shelf.all()  # read once before anybody waits for it
    _check_engine(shelf, limits)
    listening = bound(host, _number("port", given.get("port", "8000"), 0, 65535))
    # verbs that work at once share the cores
    torch.set_num_threads(max(1, torch.get_num_threads() // limits.concurrency))
    app = create_app(shelf, token=token, limits=limits, page=not given.get("no_page"))

    def ready() -> None:
        name = f"[{host}]" if ":" in host else host
        count = len(shelf.names())
        print(
            f"{count} {'run' if count == 1 else 'runs'} on http://{name}:{listening.getsockname()[1]} "
            "(Ctrl-C ends it; what runs is finished)",
            file=sys.stderr,
            flush=True,
        )

    serve(app, listening, limits, ready)


def _check_engine(shelf: Shelf, limits: Limits) -> None:
    """Say which runs an engine that was asked for does not serve.

    Raises:
        UserError: it serves none of those that continue texts.
    """
    if limits.engine == "auto" and limits.precision == "auto":
        return
    from fourfold.core.registry import load_system
    from fourfold.models.transformer import Transformer
    from fourfold.tasks.engines import refused
    from fourfold.tasks.language import LanguageModel

    reasons, served = {}, False
    for info in shelf.all():
        if not info.ready or not issubclass(load_system(info.system), LanguageModel):
            continue
        model = shelf.open(info.name).model
        reason = None
        if isinstance(model, Transformer):
            reason = refused(model, limits.engine, limits.precision)
        if reason is None:
            served = True
        else:
            reasons[info.name] = reason
    if reasons and not served:
        raise UserError("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
    for name, reason in reasons.items():
        print(f"{name}: continues no text here: {reason}", file=sys.stderr)


def _limits(given: dict[str, Any]) -> Any:
    from fourfold.serve.limits import Limits
    from fourfold.tasks.engines import EngineName, Precision

    plain = Limits()
    tokens = _number("max-tokens", given.get("max_tokens", "4096"), 1, 2**31)
    return Limits(
        body=_bytes(given.get("max_body", "32M")),
        bodies=max(plain.bodies, 2 * _bytes(given.get("max_body", "32M"))),
        seconds=_seconds("max-seconds", given.get("max_seconds", "60")),
        stop=_seconds("grace", given.get("grace", "20")),
        concurrency=_number("concurrency", given.get("concurrency", "2"), 1, 256),
        batch=_number("batch", given.get("batch", "32"), 1, 1024),
        queue=_number("queue", given.get("queue", "126"), 0, 100_000),
        engine=_choice("engine", given.get("engine", "auto"), get_args(EngineName)),
        precision=_choice("precision", given.get("precision", "auto"), get_args(Precision)),
        fits=_number("fits", given.get("fits", "1"), 0, 256),
        most={**plain.most, **{name: tokens for name in ("tokens", "times", "steps")}},
    )


def _choice(name: str, word: str, known: Sequence[str]) -> Any:
    if word not in known:
        raise UserError(f"--{name} {word}: no such {name}{nearest(word, known)}")
    return word


def _number(name: str, text: str, low: int, high: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise UserError(f"--{name}: expected a whole number from {low} to {high}, got {text!r}")
    return value


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise UserError(f"--{name}: expected seconds above 0, got {text!r}")
    return value


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d{1,12})([kKmMgG]?)[iI]?[bB]?", text.strip())
    if found is None or int(found[1]) == 0:
        raise UserError(f"--max-body: expected bytes, as 1000000 or 32M, got {text!r}")
    return int(found[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[found[2].lower()]
