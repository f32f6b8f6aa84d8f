"""Calls: batches, lines, limits, and that nobody feels what another does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from fourfold.core.errors import UserError
from fourfold.serve.calls import Calls, Failed, Result, TooLong
from fourfold.serve.limits import Busy, Limits
from fourfold.serve.shelf import NoSuchRun, Shelf
from parrot import TOGETHER

Test = Callable[[Calls], Coroutine[Any, Any, None]]


def with_calls(runs: Path, test: Test, **limits: Any) -> None:
    """Run a test's calls on a loop of their own; nothing may be left behind."""

    async def main() -> None:
        calls = Calls(Shelf([runs]), Limits(**{"stop": 2.0, **limits}))
        try:
            await asyncio.wait_for(test(calls), 60)
            await idle(calls)
        finally:
            await calls.close()

    asyncio.run(main())


async def idle(calls: Calls) -> None:
    while calls.present or calls.working:
        await asyncio.sleep(0.005)
    assert not calls._calls and not calls._lines and not calls._drains


@contextlib.asynccontextmanager
async def busy(calls: Calls, seconds: float = 0.3) -> AsyncIterator[None]:
    """While this run's line is held up."""
    task = asyncio.create_task(calls.run("polly", "sleep", {"seconds": seconds}))
    while not calls.working:
        await asyncio.sleep(0.005)
    yield
    await task


def rent(size: float) -> dict[str, Any]:
    return {"source": [{"size": size, "town": "Bern", "rooms": 3}]}


def test_tables_of_several_calls_are_predicted_as_one(runs: Path) -> None:
    async def test(calls: Calls) -> None:
        alone = [await calls.run("rents", "predict", rent(size)) for size in range(40, 60)]

        async def one(size: float) -> Result:
            return await calls.run("rents", "predict", rent(size))

        together = await asyncio.gather(*(one(size) for size in range(40, 60)))
        for a, b in zip(alone, together, strict=True):
            assert (
                a.value["size"].to_list() == b.value["size"].to_list()
            )  # its own row, nobody else's
            assert b.value["prediction"][0] == pytest.approx(a.value["prediction"][0], rel=1e-12)
        counted = 'fourfold_batch_calls_sum{system="linear",verb="predict"} 40.0'
        for _ in range(500):  # a batch is counted once its answers are out
            text = calls.measures.text().decode()
            if counted in text:
                break
            await asyncio.sleep(0.01)
        assert counted in text
        count = next(
            line
            for line in text.splitlines()
            if line.startswith('fourfold_batch_calls_count{system="linear"')
        )
        assert float(count.split()[1]) < 40

    with_calls(runs, test)


def test_texts_of_several_calls_are_continued_as_one(runs: Path) -> None:
    async def test(calls: Calls) -> None:
        asked = [{"prompt": f"{i} and", "tokens": 6, "seed": 3} for i in range(12)]
        alone = [(await calls.run("books", "generate", each)).value for each in asked]
        together = await asyncio.gather(*(calls.run("books", "generate", each) for each in asked))
        assert [r.value for r in together] == alone

    with_calls(runs, test)


def test_what_is_put_together(runs: Path) -> None:
    """Only equal arguments, different texts, and up to the limit; what the verb itself keeps alone stays alone."""

    async def test(calls: Calls) -> None:
        async def sizes(*asked: dict[str, Any]) -> list[int]:
            TOGETHER.clear()
            async with busy(calls, 0.15):
                found = await asyncio.gather(*(calls.run("polly", "shout", each) for each in asked))
            ends = [each.get("end", "!") for each in asked]
            assert [r.value for r in found] == [
                each["text"].upper() + end for each, end in zip(asked, ends, strict=True)
            ]
            return sorted(TOGETHER)

        assert await sizes({"text": "a"}, {"text": "b"}, {"text": "c"}) == [3]
        assert await sizes({"text": "a"}, {"text": "a"}, {"text": "b"}) == [1, 2]
        assert await sizes({"text": "a"}, {"text": "b", "end": "?"}, {"text": "c"}) == [1, 2]
        assert await sizes({"text": "a", "end": "alone"}, {"text": "b", "end": "alone"}) == [1, 1]
        assert await sizes(*({"text": str(i)} for i in range(9))) == [1, 4, 4]

    with_calls(runs, test, batch=4)


def test_one_at_fault_does_not_disturb_its_batch(runs: Path) -> None:
    async def test(calls: Calls) -> None:
        async with busy(calls):
            texts = ["a", "", "noted", "b"]
            found = await asyncio.gather(
                *(calls.run("polly", "shout", {"text": t}) for t in texts), return_exceptions=True
            )
        assert isinstance(found[1], UserError) and str(found[1]) == "text: is empty"
        others = [r for r in found if isinstance(r, Result)]
        assert [r.value for r in others] == ["A!", "NOTED!", "B!"]
        assert [r.notes for r in others] == [(), ("this was noted",), ()]  # to whom it is said

    with_calls(runs, test)


def test_a_failure_inside_has_an_id_and_its_trace_in_the_log_only(
    runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(calls: Calls) -> None:
        with caplog.at_level(logging.ERROR, "fourfold.serve"), pytest.raises(Failed) as failed:
            await calls.run("polly", "fail", {})
        assert failed.value.id in str(failed.value) and "secret" not in str(failed.value)
        assert (
            failed.value.id in caplog.text
            and "ZeroDivisionError: the secret of this bug" in caplog.text
        )
        assert (await calls.run("polly", "say", {"text": "on"})).value == "on."

    with_calls(runs, test)


def test_what_is_wrong_is_said(runs: Path) -> None:
    async def test(calls: Calls) -> None:
        for name, verb, arguments, kind, sentence in (
            ("pollx", "say", {}, NoSuchRun, "did you mean polly?"),
            ("polly", "sax", {}, UserError, "did you mean say?"),
            ("polly", "say", {}, UserError, "text: is missing"),
            ("polly", "refuse", {}, UserError, "this cannot be done"),
            ("books", "evaluate", {}, UserError, "books: was fitted on data in memory"),
            ("rents", "predict", {"source": "size\nx\n"}, UserError, "town"),
        ):
            with pytest.raises(kind) as error:
                await calls.run(name, verb, arguments)
            assert sentence in str(error.value) and "/tmp" not in str(error.value)

    with_calls(runs, test)


def test_a_line_is_bounded_and_says_when_to_come_again(runs: Path) -> None:
    async def test(calls: Calls) -> None:
        async with busy(calls, 0.4):
            waiting = asyncio.create_task(calls.run("polly", "say", {"text": "a"}))
            while calls.present < 2:
                await asyncio.sleep(0.005)
            with pytest.raises(Busy, match="2 requests to polly under way") as error:
                await calls.run("polly", "say", {"text": "b"})
            assert 1 <= error.value.after <= 60
            other = await calls.run(
                "books", "score", {"text": "1 and 2"}
            )  # another run's line is free
            assert other.value["tokens"] == 7
        assert (await waiting).value == "a."

    with_calls(runs, test, per_run=2, queue=4, concurrency=2)


def test_all_lines_together_are_bounded(runs: Path) -> None:
    async def test(calls: Calls) -> None:
        async with busy(calls):
            with pytest.raises(Busy, match="1 requests under way"):
                await calls.run("books", "score", {"text": "1"})

    with_calls(runs, test, concurrency=1, queue=0)


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("sleep", {"seconds": 0.6}),
        ("work", {"seconds": 30}),
        ("count", {"to": 1000, "pause": 0.02}),
    ],
)
def test_a_verb_that_takes_too_long_is_given_up(
    runs: Path, verb: str, arguments: dict[str, Any]
) -> None:
    """Whoever asked is told in time; work that looks up, at a pass of the model or a piece, ends."""

    async def test(calls: Calls) -> None:
        await calls.run("polly", "say", {"text": "open"})
        began = time.monotonic()
        with pytest.raises(TooLong, match=f"{verb}: took longer than 0.3 s"):
            await calls.run("polly", verb, arguments)
        assert time.monotonic() - began < 2
        assert (await calls.run("polly", "say", {"text": "next"})).value == "next."
        assert time.monotonic() - began < 5

    with_calls(runs, test, seconds=0.3)


def test_who_waits_too_long_is_told(runs: Path) -> None:
    async def test(calls: Calls) -> None:
        async with busy(calls, 0.5):
            calls.limits = Limits(seconds=0.1)
            with pytest.raises(Busy, match="has not come to this one in time"):
                await calls.run("polly", "say", {"text": "a"})
            assert calls.present == 1  # it is out of the line at once

    with_calls(runs, test)


def test_pieces_come_as_they_are_made(runs: Path) -> None:
    async def test(calls: Calls) -> None:
        stream = calls.stream("polly", "count", {"to": 3, "pause": 0.1, "noted": True})
        times, pieces = [], []
        async for piece in stream:
            pieces.append(piece)
            times.append(time.monotonic())
        assert pieces == ["1\n", "2\n", "3\n"] and times[-1] - times[0] > 0.15
        assert stream.notes == ("counted to 3",) and stream.seconds > 0.25
        whole = await calls.run("polly", "count", {"to": 3})
        assert whole.value == "1\n2\n3\n"
        with pytest.raises(UserError, match="to: expected greater than or equal to 1"):
            await anext(calls.stream("polly", "count", {"to": 0}))
        late = calls.stream("polly", "fail", {"late": True})
        assert await anext(late) == "a piece"
        with pytest.raises(Failed):
            await anext(late)

    with_calls(runs, test)


def test_who_leaves_frees_the_place(runs: Path) -> None:
    async def test(calls: Calls) -> None:
        stream = calls.stream("polly", "count", {"to": 1000, "pause": 0.02})
        assert await anext(stream) == "1\n"
        waiting = asyncio.create_task(calls.run("polly", "say", {"text": "a"}))
        while calls.present < 2:
            await asyncio.sleep(0.005)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert calls.present == 1
        await stream.aclose()
        began = time.monotonic()
        await idle(calls)
        assert time.monotonic() - began < 1
        task = asyncio.create_task(calls.run("polly", "work", {"seconds": 30}))
        while not calls.working:
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        began = time.monotonic()
        await idle(calls)
        assert time.monotonic() - began < 1

    with_calls(runs, test)


def test_one_who_leaves_does_not_end_its_batch(runs: Path) -> None:
    async def test(calls: Calls) -> None:
        async with busy(calls, 0.2):
            asked = [
                asyncio.create_task(calls.run("polly", "shout", {"text": t, "pause": 0.2}))
                for t in "abc"
            ]
            while calls.present < 4:
                await asyncio.sleep(0.005)
        while not calls.working:
            await asyncio.sleep(0.005)
        asked[0].cancel()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert [r.value for r in found[1:] if isinstance(r, Result)] == ["B!", "C!"]

    with_calls(runs, test)


def test_files_live_as_long_as_their_answer(runs: Path) -> None:
    async def test(calls: Calls) -> None:
        result = await calls.run("polly", "save", {"word": "é"})
        assert result.value.name == "polly-save.txt" and result.value.read_text() == "é"
        result.close()
        assert not result.value.exists()

    with_calls(runs, test)


def test_closing_finishes_what_runs(runs: Path) -> None:
    async def test(calls: Calls) -> None:
        asked = [
            asyncio.create_task(calls.run("polly", "sleep", {"seconds": 0.2})) for _ in range(3)
        ]
        while calls.present < 3 or not calls.working:
            await asyncio.sleep(0.005)
        closing = asyncio.create_task(calls.close())
        await asyncio.sleep(0.01)
        with pytest.raises(Busy, match="is being stopped"):
            await calls.run("polly", "say", {"text": "late"})
        assert await closing
        assert [(await task).value for task in asked] == ["slept"] * 3

    with_calls(runs, test)


def test_closing_does_not_wait_for_ever(runs: Path) -> None:
    async def main() -> None:
        calls = Calls(Shelf([runs]), Limits(stop=0.2))
        task = asyncio.create_task(calls.run("polly", "sleep", {"seconds": 2.5}))
        while not calls.working:
            await asyncio.sleep(0.005)
        began = time.monotonic()
        assert not await calls.close() and time.monotonic() - began < 2
        with pytest.raises(Busy):
            await task

    asyncio.run(main())
