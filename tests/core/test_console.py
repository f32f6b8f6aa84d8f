"""What is said while a run learns: on any terminal, in any encoding, to machines."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.cells import cell_len

from fourfold.core.console import Console, Json, Plain, Quiet, Silent, make_console
from fourfold.core.live import Rich, Trail
from fourfold.core.types import Picture
from fourfold.core.words import BLOCKS, duration, number, printable, short, sparkline

CHINESE = "春眠不觉晓，处处闻啼鸟。" * 9


def picture() -> Picture:
    out = io.BytesIO()
    Image.new("RGB", (6, 4), (200, 10, 30)).save(out, "png")
    return Picture("six red pixels", out.getvalue())


def play(console: Console) -> None:
    """A short search, with all that a console may be told."""
    console.say("opening books/")
    console.start("gpt · books/", "tokens", "20 steps")
    for step in range(1, 21):
        console.step(step / 20, step, {"loss": 4 / step, "lr": 8e-4}, 51234.5)
    console.evaluation(20, {"valid.loss": 1.7})
    console.preview("To be\x1b[31m or not\n" + CHINESE)
    console.preview(picture())
    console.step(1.0, 21, {"loss": math.nan}, None)
    console.stop("done")
    console.error("x.csv: no such file")
    console.close()
    console.close()


def rich(width: int = 80, encoding: str = "utf-8", **options: Any) -> tuple[Rich, io.BytesIO]:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    options = {"color_system": "truecolor", "force_terminal": True, **options}
    return Rich(stream, width=width, **options), raw


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(1, 80))
@settings(deadline=None, max_examples=50)
def test_sparkline_shows_highest_and_lowest(values: list[float], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) == min(width, len(values))
    assert set(line) <= set(BLOCKS)
    if len(values) <= width and max(values) - min(values) > 1e-3:
        assert line[values.index(max(values))] == "█"
        assert line[values.index(min(values))] == "▁"


def test_sparkline_of_known_series() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 0, 7, 7], width=2) == "▁█"
    assert sparkline([3, math.nan, 3, math.inf]) == "▁▁"
    assert sparkline([]) == "" == sparkline([math.nan])
    assert len(sparkline([-1e308, 1e308])) == 2


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0s"),
        (3.24, "3.2s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.7, "1m 00s"),
        (130, "2m 10s"),
        (3599.8, "1h 00m"),
        (3900, "1h 05m"),
        (86400 + 3 * 3600, "1d 03h"),
        (math.inf, "?"),
        (-1, "?"),
    ],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_numbers_in_words() -> None:
    assert [short(v) for v in (87.3, 12345, 999.6, 1.2e6, 3e9)] == [
        "87.3",
        "12.3k",
        "1k",
        "1.2M",
        "3G",
    ]
    assert [number(v) for v in (1.61234, 0.0008, 12.3456, 48213.7)] == [
        "1.612",
        "0.0008",
        "12.35",
        "48,214",
    ]
    assert (number(math.nan), number(0), number(-2.5)) == ("nan", "0", "-2.500")


@given(st.text())
@settings(deadline=None, max_examples=200)
def test_printable_leaves_nothing_that_moves_a_terminal(text: str) -> None:
    shown = printable(text)
    assert not any(c != "\n" and (ord(c) < 32 or 0x7F <= ord(c) < 0xA0) for c in shown)
    assert not any(c in "\u202e\u2066\u2028\u2029" for c in shown)
    shown.encode("utf-8")  # no lone surrogates


def test_printable_keeps_text_and_shows_control_characters() -> None:
    assert printable("春眠 é\u3000\u200c\n👍") == "春眠 é\u3000\u200c\n👍"
    assert printable("\x1b[31m\r\x00\u202e") == "\\x1b[31m\\r\\x00\\u202e"


def test_trail_keeps_the_shape_in_bounded_memory() -> None:
    trail = Trail(size=64)
    for i in range(10_000):
        trail.add(float(i))
        trail.add(math.nan)
    assert 32 <= len(trail.points) < 64
    assert trail.points == sorted(trail.points)
    assert trail.points[0] < 400 and trail.points[-1] > 9_000


def test_silent_says_nothing_and_quiet_only_errors(capsys: pytest.CaptureFixture[str]) -> None:
    play(Silent())
    assert capsys.readouterr() == ("", "")
    play(Quiet())
    assert capsys.readouterr() == ("", "error: x.csv: no such file\n")


def test_plain_keeps_stdout_free_and_says_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    play(Plain())
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[1] == "gpt · books/: 20 steps"
    assert "step 1  loss 4.000  lr 0.0008  51.2k tokens/s" in lines[2]
    assert sum("step " in line and "evaluated" not in line for line in lines) == 2  # first and last
    assert any("evaluated at step 20  loss 1.700" in line for line in lines)
    assert "      | To be\\x1b[31m or not" in lines
    assert "100%  step 21  loss nan" in err
    assert lines[-2:] == ["done", "error: x.csv: no such file"]


def test_time_left_counts_from_where_a_resumed_run_began(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stream = io.StringIO()
    plain = Plain(stream)
    plain.start("gpt", "tokens", "")
    plain.step(0.5, 100, {}, None)
    now[0] = 65.0
    plain.step(0.75, 150, {}, None)  # a quarter took 65 s, a quarter is left
    assert stream.getvalue().splitlines()[-1] == " 75%  step 150  1m 05s left"


def test_json_is_one_valid_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    play(Json())
    out, err = capsys.readouterr()
    assert err == "" and out.isascii()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    events = [json.loads(line, parse_constant=refuse) for line in out.splitlines()]
    names = [e["event"] for e in events]
    assert names == [
        "note",
        "start",
        "step",
        "evaluation",
        "sample",
        "sample",
        "step",
        "stop",
        "error",
    ]
    assert events[2]["values"] == {"loss": 4.0, "lr": 8e-4} and events[2]["rate"] == 51234.5
    assert events[3] == {"event": "evaluation", "step": 20, "values": {"valid.loss": 1.7}}
    assert events[4]["text"].startswith("To be\x1b[31m") and events[4]["text"].endswith(CHINESE)
    assert events[5]["picture"] == "six red pixels"
    assert events[6]["values"] == {"loss": None} and events[6]["step"] == 21


@pytest.mark.parametrize("width", [1, 12, 40, 200])
def test_live_display_fits_the_terminal(width: int) -> None:
    console, raw = rich(width, color_system=None, force_terminal=False)
    console.start("gpt · books/", "tokens", "20 steps")
    console.step(0.0, 0, {"loss": 5.0}, 10.0)
    console.step(0.5, 10, {"loss": 4.0}, 10.0)
    console.evaluation(20, {"valid.loss": 1.7})
    console.preview(CHINESE)
    console.stop()
    lines = raw.getvalue().decode().splitlines()
    assert lines and all(cell_len(line) <= max(width, 10) for line in lines)


def test_live_display_shows_progress_numbers_and_sample() -> None:
    console, raw = rich()
    play(console)
    text = raw.getvalue().decode()
    for words in ("opening books/", "gpt · books/", "step 21", "100%", "█", "evaluated at step 20"):
        assert words in text
    assert "a sample at step 20" in text
    assert "38;2;200;10;30" in text and "▀" in text  # the red picture
    assert "\x1b[31m or not" not in text  # the sample's own escape sequence
    assert "error: \x1b[0m" in text and text.rstrip().endswith("x.csv: no such file")


def test_live_display_without_colours_names_the_picture() -> None:
    console, raw = rich(no_color=True)
    play(console)
    assert "picture: six red pixels" in raw.getvalue().decode()


def test_live_display_survives_ascii() -> None:
    console, raw = rich(encoding="ascii")
    play(console)
    raw.getvalue().decode("ascii")
    assert b"step 21" in raw.getvalue()


def test_live_display_ends_its_thread() -> None:
    before = set(threading.enumerate())
    console, _ = rich()
    with console:
        console.start("gpt", "tokens", "")
        drawing = set(threading.enumerate()) - before
    assert len(drawing) == 1
    thread = drawing.pop()
    thread.join(timeout=10)
    assert not thread.is_alive()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("term", "options", "kind"),
    [
        ("xterm", {}, Rich),
        ("dumb", {}, Plain),
        ("xterm", {"quiet": True}, Quiet),
        ("xterm", {"json": True}, Json),
    ],
)
def test_choice_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, term: str, options: dict[str, bool], kind: type[Console]
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", term)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert type(make_console(**options)) is kind


def test_choice_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert type(make_console()) is Plain
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert type(make_console()) is Plain


def test_a_closed_reader_does_not_cost_the_training() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    play(Json(Closed()))
    play(Plain(Closed()))


def test_rich_and_torch_are_not_imported_for_plain_lines() -> None:
    code = (
        "import sys; from fourfold.core.console import make_console; make_console().say('hi');"
        "print([m for m in ('rich', 'torch', 'PIL', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "hi\n")


def test_ascii_streams_get_escapes() -> None:
    code = "from fourfold.core.console import Json, Plain; Plain().say('鸟'); Json().say('鸟')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        env={"PYTHONIOENCODING": "ascii"},
    )
    assert done.stderr == b"\\u9e1f\n"
    assert json.loads(done.stdout) == {"event": "note", "text": "鸟"}
