"""What a worker's thread does: one call of a verb, or several that may be made as one."""

from __future__ import annotations

import contextlib
import inspect
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fourfold.core.console import Silent
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.core.system import Batching, verbs
from fourfold.serve.schema import VerbForm

if TYPE_CHECKING:
    from fourfold.serve.call import Call

log = logging.getLogger("fourfold.serve")
PLAIN = (str, int, float, bool, tuple, type(None))


class Failed(Exception):
    """A verb failed inside: 500. What happened stands in the log, under this id, and nowhere else."""

    def __init__(self, id: str) -> None:
        super().__init__(f"it failed inside; the server's log says more under {id}")
        self.id = id


class Stopped(BaseException):
    """Nobody waits for the answer any more. No `Exception`: a verb must not take it for one of its own."""


class Notes(Silent):
    """What a verb says beside its answer."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


def work(run: Run, calls: Sequence[Call]) -> None:
    """Answer some calls; nothing is raised here: each call gets its answer or its error."""
    if len(calls) == 1 or not _together(run, calls):
        for call in calls:
            _alone(run, call)


def _alone(run: Run, call: Call) -> None:
    began = time.perf_counter()
    notes = Notes()
    run.console = notes
    try:
        with _stoppable(run, lambda: call.stopped):
            value = _value(run, call)
        call.done(value, tuple(notes.said), time.perf_counter() - began)
    except Stopped:
        call.failed(UserError("stopped"))  # nobody listens
    except UserError as error:
        # where things lie on this machine is nobody's business
        sentence = call.scratch.without(str(error)).replace(str(run.folder), call.name)
        call.failed(UserError(sentence))
    except BaseException:  # whatever it is, other requests must not feel it
        call.failed(logged(call))


def logged(call: Call) -> Failed:
    """What a client is told of the exception that is being handled; the log has all of it."""
    failure = Failed(uuid.uuid4().hex[:12])
    log.exception("failure %s: %s of the run %s", failure.id, call.form.verb, call.name)
    return failure


def _value(run: Run, call: Call) -> Any:
    values = dict(call.values)
    if call.form.writes:
        values["out"] = call.scratch.folder / f"{call.name}-{call.form.verb}"
    value = getattr(run, call.form.verb)(**values)
    if not inspect.isgenerator(value):
        return value
    with contextlib.closing(value):
        return _drawn(value, call)


def _drawn(pieces: Iterator[Any], call: Call) -> Any:
    """All that a generator gives; texts are handed on as they come where somebody reads along."""
    found = []
    for piece in pieces:
        if call.stopped:
            raise Stopped
        found.append(piece)
        if isinstance(piece, str):
            call.piece(piece)
    return "".join(found) if all(isinstance(p, str) for p in found) else found


@contextlib.contextmanager
def _stoppable(run: Run, stopped: Callable[[], bool]) -> Iterator[None]:
    """Let a call end at its model's next forward pass once nobody waits for it."""

    def look(*_: Any) -> None:
        if stopped():
            raise Stopped

    # the children too: of players and ensembles the whole is never called
    model = run.model
    handles = [m.register_forward_pre_hook(look) for m in (model, *model.children())]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# --- several calls as one --------------------------------------------------------------------------


def batching_of(run: Run, form: VerbForm) -> Batching | None:
    """How calls of a verb are made as one; None where they are not."""
    found = getattr(verbs(run.system)[form.verb], "batching", None)
    return found if isinstance(found, Batching) else None


def key_of(run: Run, form: VerbForm, values: dict[str, Any]) -> tuple[Any, ...] | None:
    """Calls with the same key may be made as one; None for one that stays alone.

    All arguments but one are equal, and that one is a text, or a table with the same columns and types.
    """
    batching = batching_of(run, form)
    if batching is None or batching.argument not in values:
        return None
    rest = {k: v for k, v in values.items() if k != batching.argument}
    if not all(isinstance(v, PLAIN) for v in rest.values()) or not batching.when(
        run.system, values
    ):
        return None
    value = values[batching.argument]
    kind: Any = "text"
    if type(value).__module__.split(".")[0] == "polars":
        kind = tuple((name, str(dtype)) for name, dtype in value.schema.items())
    elif not isinstance(value, str):
        return None
    return (form.verb, kind, tuple(sorted((k, repr(v)) for k, v in rest.items())))


def argument_of(run: Run, call: Call) -> Any:
    """The argument in which calls of one key differ."""
    batching = batching_of(run, call.form)
    return call.values[batching.argument] if batching else None


def _together(run: Run, calls: Sequence[Call]) -> bool:
    """Make several calls as one; False where each must be made by itself after all.

    So it must where one of them is at fault (which the others may not feel), and where something was
    said (which is said of all of them, and each may only hear what is said of its own).
    """
    batching = batching_of(run, calls[0].form)
    assert batching is not None  # noqa: S101
    began = time.perf_counter()
    notes = Notes()
    run.console = notes
    given = [call.values[batching.argument] for call in calls]
    values = {**calls[0].values, batching.argument: _joined(given)}
    try:
        with _stoppable(run, lambda: all(call.stopped for call in calls)):
            value = getattr(run, calls[0].form.verb)(**values)
            if inspect.isgenerator(value):
                value = list(value)
    except BaseException as error:
        if not isinstance(error, (UserError, Stopped)):
            log.info("%s calls as one failed, each is made by itself", len(calls), exc_info=True)
        return False
    answers = _parted(value, given)
    if answers is None or notes.said:
        return False
    seconds = time.perf_counter() - began
    for call, answer in zip(calls, answers, strict=True):
        call.done(answer, (), seconds)
    return True


def _joined(given: list[Any]) -> Any:
    if isinstance(given[0], str):
        return given
    import polars as pl

    return pl.concat(given)


def _parted(value: Any, given: list[Any]) -> list[Any] | None:
    """Each call's share of the answer; None if it is not of the promised shape."""
    if isinstance(given[0], str):
        texts = isinstance(value, list) and all(isinstance(v, str) for v in value)
        return [v.removesuffix("\n") for v in value] if texts and len(value) == len(given) else None
    heights = [frame.height for frame in given]
    if type(value).__module__.split(".")[0] != "polars" or value.height != sum(heights):
        return None
    ends = [sum(heights[: i + 1]) for i in range(len(heights))]
    return [value[end - height : end] for end, height in zip(ends, heights, strict=True)]
