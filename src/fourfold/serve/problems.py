"""What goes wrong, as a status and a sentence. Whatever is inside stays inside: the log has it, under an id."""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Mapping
from typing import Any

from fastapi import Response
from pydantic_core import to_json

from fourfold.core.errors import UserError
from fourfold.serve.limits import Busy, TooLarge, TooSlow
from fourfold.serve.schema import NoSuchVerb
from fourfold.serve.shelf import NoSuchRun, NotReady
from fourfold.serve.work import Failed
from fourfold.tasks.prompts import BeyondContext

OPENAI = "/v1/"
"""Below which requests and answers are those of OpenAI's API."""
log = logging.getLogger("fourfold.serve")


class Unreadable(UserError):
    """A request that is no such request: 400."""


class Forbidden(UserError):
    """A request that may not come from where it comes from: 403."""


class Unauthorized(UserError):
    """No token, or another: 401."""


class UnknownType(UserError):
    """A body of a media type that is not read here: 415."""


STATUS: dict[type[Exception], int] = {
    Unreadable: 400,
    Unauthorized: 401,
    Forbidden: 403,
    NoSuchRun: 404,
    NoSuchVerb: 404,
    TooSlow: 408,
    NotReady: 409,
    TooLarge: 413,
    UnknownType: 415,
    Busy: 429,
    Failed: 500,
}


def problem(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body of an error; a `UserError` of no other kind is 422, a bug of the server's own 500."""
    if not isinstance(error, (UserError, Failed)):
        failure = Failed(uuid.uuid4().hex[:12])
        log.error("failure %s in the server itself", failure.id, exc_info=error)
        error = failure
    status = next((s for kind, s in STATUS.items() if isinstance(error, kind)), 422)
    if isinstance(error, Failed):
        return status, {"detail": str(error), "id": error.id}
    return status, {"detail": str(error)}


KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 500: "server_error"}  # fmt: skip
CODES: dict[type[Exception], str] = {
    NoSuchRun: "model_not_found",
    BeyondContext: "context_length_exceeded",
    Unauthorized: "invalid_api_key",
    Busy: "rate_limit_exceeded",
    NotReady: "model_not_ready",
}


class Wrong(UserError):
    """A field of a request to OpenAI's API that is wrong: 400, with its name."""

    def __init__(self, sentence: str, field: str | None) -> None:
        super().__init__(sentence)
        self.field = field


def openai_problem(error: Exception) -> tuple[int, dict[str, Any]]:
    """As `problem`, in OpenAI's shape; what is wrong with a request is 400 there."""
    status, body = problem(error)
    status = 400 if status in (415, 422) else status
    return status, _openai(status, body["detail"], error)


def _openai(status: int, sentence: str, error: Exception | None = None) -> dict[str, Any]:
    code = next((c for kind, c in CODES.items() if isinstance(error, kind)), None)
    field = error.field if isinstance(error, Wrong) else "model" if code == "model_not_found" else None  # fmt: skip
    kind = KINDS.get(status, "invalid_request_error")
    return {"error": {"message": sentence, "type": kind, "param": field, "code": code}}


def short(status: int, sentence: str, path: str, headers: Mapping[str, str] | None = None) -> Response:  # fmt: skip
    """The response to what the framework itself finds wrong with a request to a path."""
    body = _openai(status, sentence) if path.startswith(OPENAI) else {"detail": sentence}
    return Response(to_json(body), status, dict(headers or {}), "application/json")


def refusal(error: Exception, path: str = "") -> Response:
    """The response to what goes wrong with a request to a path."""
    status, body = (openai_problem if path.startswith(OPENAI) else problem)(error)
    headers = {}
    if isinstance(error, Busy):
        headers["Retry-After"] = str(max(1, math.ceil(error.after)))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="fourfold"'
    if isinstance(error, (TooLarge, TooSlow)):
        headers["Connection"] = "close"  # what is still coming is not read
    return Response(to_json(body), status, headers, "application/json")
