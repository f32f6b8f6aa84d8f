"""Verbs from the command line: arguments by type, answers by writer, errors in one line."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import fourfold
from lines import Command


def test_options_come_from_the_signature(command: Command, run_folder: Path) -> None:
    assert command("say", run_folder, "hello").out == "hello.\n"
    assert (
        command("say", run_folder, "hello", "--times", "2", "--loud", "--end", "!").out
        == "HELLO HELLO!\n"
    )
    assert command("count", run_folder, "--from", "2").out == "2\n3\n"
    help_ = command("say", run_folder, "--help")
    assert help_.code == 0
    for word in (
        "Say a text.",
        "what to say",
        "--times",
        "how often",
        "--loud",
        "--out",
        "--json",
        "1",
    ):
        assert word in help_.out


def test_help_of_a_verb_names_its_systems(command: Command) -> None:
    shown = command("say", "--help").out
    assert "fourfold say RUN" in shown and "talker" in shown and "Says things." in shown


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["sey", "RUN"], "sey: no such command or verb; did you mean say?"),
        (["say", "no-run", "x"], "no-run: no such run"),
        (["say", "RUN", "x", "--tims", "2"], "Unknown option: --tims. Did you mean --times?"),
        (["say", "RUN", "x", "--times", "0"], "--times: expected greater than 0, got '0'"),
        (["say", "RUN", "x", "--times", "many"], "--times: expected a valid integer, unable to parse"),
        (["say", "RUN", "x", "--end", "?"], "--end"),
        (["say", "RUN"], "TEXT requires an argument"),
        (["say", "RUN", "@no-file"], "no-file: no such file (a text that begins with @ is written @@...)"),
        (["say", "RUN", "x", "y"], "y"),
        (["say", "--times", "2"], "say: the run comes first: fourfold say RUN ..."),
        (["count", "RUN", "--from", "x"], "--from: expected a valid integer"),
        (["join", "RUN"], "WORDS is missing: fourfold join RUN WORDS"),
        (["refuse", "RUN"], "this cannot be done"),
        (["predict", "RUN", "x"], "a run of talker has no verb predict"),
        (["evaluate", "RUN", "--device", "tpu"], "--device tpu: no such device"),
        (["export", "RUN"], "--out"),
    ],
)  # fmt: skip
def test_wrong_lines_end_in_one_sentence(
    command: Command, run_folder: Path, line: list[str], sentence: str
) -> None:
    ended = command(*[run_folder if word == "RUN" else word for word in line])
    assert sentence in ended.sentence


def test_a_bug_comes_through_as_it_is(command: Command, run_folder: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        command("break_", run_folder)


def test_debug_shows_where_an_error_comes_from(command: Command, run_folder: Path) -> None:
    with pytest.raises(fourfold.UserError):
        command("refuse", run_folder, "--debug")


# --- what a document is ------------------------------------------------------------------------------


def test_documents(command: Command, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("text.txt").write_text("from é file", encoding="utf-8")
    at = command("say", run_folder, "@text.txt")
    assert at.out == "from é file.\n" and at.err == ""
    named = command("say", run_folder, "text.txt")
    assert named.out == "from é file.\n" and "Reading the file text.txt" in named.err
    assert command("say", run_folder, "@@text.txt").out == "@text.txt.\n"
    for mistyped in ("texxt.txt", "nowhere/text.txt", "text.txtt"):
        wrong = command("say", run_folder, mistyped)
        assert wrong.code == 2 and f"{mistyped}: no such file" in wrong.sentence
    assert "did you mean text.txt?" in command("say", run_folder, "texxt.txt").sentence
    assert command("say", run_folder, "and/or").out == "and/or.\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("piped in"))
    assert command("say", run_folder, "-").out == "piped in.\n"
    Path("latin").write_bytes("café".encode("latin-1"))
    assert command("say", run_folder, "@latin").sentence == "latin: not UTF-8 text at byte 3"
    long = "word " * 2000
    assert command("say", run_folder, long).out == f"{long}.\n"
    assert command("say", run_folder, "").out == ".\n"


def test_words_that_look_like_options(command: Command, run_folder: Path) -> None:
    assert command("say", run_folder, "--", "--loud").out == "--loud.\n"
    assert command("say", run_folder, "-5").out == "-5.\n"


def test_several_words(command: Command, run_folder: Path) -> None:
    assert command("join", run_folder, "a", "b", "c").out == "a+b+c\n"
    assert command("join", run_folder, "a").out == "a\n"
    assert command("measure", run_folder).out == "None\n"
    assert command("measure", run_folder, "x.csv").out == "'x.csv'\n"
    assert command("measure", run_folder, "x.csv", "y.csv").out == "['x.csv', 'y.csv']\n"


# --- what an answer becomes --------------------------------------------------------------------------


def test_texts(command: Command, run_folder: Path) -> None:
    assert json.loads(command("say", run_folder, "é", "--json").out) == {"text": "é."}
    assert json.loads(command("count", run_folder, "--json").out) == {"text": "1\n2\n3\n"}
    assert command("count", run_folder).out == "1\n2\n3\n"  # which ends its last line itself
    ended = command("count", run_folder, "--out", "counted.txt")
    assert ended.out == "" and "Written to counted.txt" in ended.err
    assert Path("counted.txt").read_text() == "1\n2\n3\n"
    assert command("count", run_folder, "--out", "again.txt", "--quiet").err == ""


def test_scores(command: Command, run_folder: Path) -> None:
    plain = command("evaluate", run_folder)
    assert plain.out.startswith("loss  ") and "8 examples on its own test split" in plain.out
    value = json.loads(command("evaluate", run_folder, "--json").out)["values"]["loss"]
    assert value == fourfold.open(run_folder).evaluate()["loss"]
    command("evaluate", run_folder, "--out", "score.json")
    assert json.loads(Path("score.json").read_text())["values"]["loss"] == value
    command("evaluate", run_folder, "--out", "score.txt")
    assert Path("score.txt").read_text() == plain.out
    assert (
        command("evaluate", run_folder, "--out", "score.csv").sentence
        == "score.csv: numbers are written as .json or .txt"
    )


def test_frames(command: Command, run_folder: Path) -> None:
    assert command("rows", run_folder).out == "name,value\na,1.5\nb,\n"
    rows = [json.loads(line) for line in command("rows", run_folder, "--json").out.splitlines()]
    assert rows == [{"name": "a", "value": 1.5}, {"name": "b", "value": None}]
    expected = pl.DataFrame({"name": ["a", "b"], "value": [1.5, None]})
    readers = {
        ".csv": pl.read_csv, ".parquet": pl.read_parquet, ".jsonl": pl.read_ndjson, ".json": pl.read_json,
        ".tsv": lambda p: pl.read_csv(p, separator="\t"), ".arrow": pl.read_ipc,
    }  # fmt: skip
    for suffix, read in readers.items():
        assert command("rows", run_folder, "--out", f"rows{suffix}").code == 0
        assert read(Path(f"rows{suffix}")).equals(expected)
    said = command("rows", run_folder, "--out", "rows.parqet").sentence
    assert said == "rows.parqet: no writer for a table as .parqet; did you mean .parquet?"
    assert "a file without extension" in command("rows", run_folder, "--out", "rows").sentence


def test_pictures_and_images(command: Command, run_folder: Path) -> None:
    for suffix in (".png", ".jpg", ".webp", ".pdf"):
        assert command("draw", run_folder, "--out", f"red{suffix}").code == 0
    with Image.open("red.png") as image:
        assert image.size == (3, 2) and image.getpixel((0, 0)) == (255, 0, 0)
    assert Path("red.pdf").read_bytes().startswith(b"%PDF")
    assert (
        "red.xyz: a picture is written as"
        in command("draw", run_folder, "--out", "red.xyz").sentence
    )
    assert command("paint", run_folder, "--out", "black.png").code == 0
    assert "black.xyz" in command("paint", run_folder, "--out", "black.xyz").sentence
    with Image.open("black.png") as image:
        assert image.getpixel((0, 0)) == (0, 0, 0)


def test_arrays_and_anything_else(command: Command, run_folder: Path) -> None:
    assert command("numbers", run_folder).out == "1,2.5\n3,-4\n"
    assert json.loads(command("numbers", run_folder, "--json").out) == [[1.0, 2.5], [3.0, -4.0]]
    command("numbers", run_folder, "--out", "n.npy")
    assert np.load("n.npy").tolist() == [[1.0, 2.5], [3.0, -4.0]]
    command("numbers", run_folder, "--out", "n.csv")
    assert Path("n.csv").read_text() == "1,2.5\n3,-4\n"
    assert (
        "n.xls: an array is written as .npy, .csv or .tsv"
        in command("numbers", run_folder, "--out", "n.xls").sentence
    )
    assert json.loads(command("facts", run_folder).out) == {"é": 1, "list": [1, 2]}
    assert json.loads(command("tell", run_folder, "--json").out)[0]["title"] == "T"


def test_a_verb_that_writes_itself(command: Command, run_folder: Path) -> None:
    ended = command("export", run_folder, "--out", "there")
    assert ended.code == 0 and ended.out == "there\n" and Path("there").read_text() == "exported"


@pytest.mark.parametrize(
    ("verb", "out"),
    [("count", "no/such/x.txt"), ("rows", "no/such/x.csv"), ("rows", "no/such/x.parquet"), ("draw", "no/such/x.png"),
     ("paint", "no/such/x.jpg"), ("numbers", "no/such/x.npy"), ("count", "folder"), ("evaluate", "folder")],
)  # fmt: skip
def test_places_that_cannot_be_written(
    command: Command, run_folder: Path, verb: str, out: str
) -> None:
    Path("folder").mkdir()
    assert f"{out}: cannot be written" in command(verb, run_folder, "--out", out).sentence


# --- pipes -------------------------------------------------------------------------------------------


def test_a_reader_that_leaves(run_folder: Path, site: Path) -> None:
    """`fourfold count RUN --to 1000000 | head -1` ends at once and quietly."""
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(tests)])}
    line = f'"{sys.executable}" -m fourfold count "{run_folder}" --to 100000000 | head -2; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.stdout == "1\n2\n141\n" and done.stderr == ""


def test_bytes_into_a_pipe(run_folder: Path, site: Path) -> None:
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(tests)])}
    done = subprocess.run(
        [sys.executable, "-m", "fourfold", "draw", run_folder],
        capture_output=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0 and done.stdout.startswith(b"\x89PNG")


def test_a_text_with_commas_is_one_text() -> None:
    from fourfold.cli.verbs import arguments
    from fourfold.systems.gpt import GPT
    from fourfold.systems.seq2seq import Sequences

    for verb in (GPT.generate, Sequences.translate):
        assert arguments(verb, ["Hello, world"], {}) == (["Hello, world"], {})
        assert arguments(verb, ["a, b", "[c]"], {}) == ([["a, b", "[c]"]], {})
    # numbers are no text: there commas part them
    assert arguments(GPT.tokens, [], {"numbers": "1,2"}) == ([], {"numbers": (1, 2)})
