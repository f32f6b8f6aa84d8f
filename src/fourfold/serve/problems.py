"""What goes wrong, as a status and a sentence. Whatever is inside stays inside: the log has it, under an id."""

from __future__ import annotations

import logging
import math
import uuid
from typing import Any

from fastapi import Response
from pydantic_core import to_json

from fourfold.core.errors import UserError
from fourfold.serve.limits import Busy, TooLarge, TooSlow
from fourfold.serve.schema import NoSuchVerb
from fourfold.serve.shelf import NoSuchRun, NotReady
from fourfold.serve.work import Failed

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


def refusal(error: Exception) -> Response:
    """The response to what goes wrong."""
    status, body = problem(error)
    headers = {}
    if isinstance(error, Busy):
        headers["Retry-After"] = str(max(1, math.ceil(error.after)))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="fourfold"'
    if isinstance(error, (TooLarge, TooSlow)):
        headers["Connection"] = "close"  # what is still coming is not read
    return Response(to_json(body), status, headers, "application/json")
