"""`fourfold explain`: what its first word means, and how an explanation is written."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import fourfold
from fourfold.systems.gpt import GPT
from lines import Command


@pytest.fixture(scope="module")
def run_of_gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    toy, source = GPT.toy()
    folder = tmp_path_factory.mktemp("runs")
    text = folder / "sums.txt"
    text.write_text(source["text"][0], encoding="utf-8")
    fourfold.fit(toy, text, out=folder / "gpt", steps=2)
    return folder / "gpt"


EXAMPLE = ("explain", "(x + y) * max(y, z)", "x=1", "y=2", "z=0")


def test_an_expression(command: Command) -> None:
    shown = command(*EXAMPLE)
    assert shown.code == 0 and shown.out.startswith("(x + y) * max(y, z) = 6.\nGradient: 2 with")
    assert "max(y, z)                2         3" in shown.out


def test_values_with_blanks_and_signs(command: Command) -> None:
    assert "= -7." in command("explain", "x @ y", "x = [1, -2]", "y=[-1, 3]").out
    assert "-x + 1 = 3." in command("explain", "-x + 1", "x=-2").out
    assert "summed over the batch 3" in command("explain", "w * x", "w=1", "x=1,2").out


def test_json(command: Command) -> None:
    found = json.loads(command(*EXAMPLE, "--json").out)
    assert found["title"] == "(x + y) * max(y, z)" and len(found["tables"]) == 2
    assert found["tables"][0]["rows"][1] == ["y", 2.0, 5.0]


def test_files(command: Command) -> None:
    assert command(*EXAMPLE, "--out", "graph.html").err == "Written to graph.html\n"
    page = Path("graph.html").read_text(encoding="utf-8")
    assert "<svg" in page and "max(y, z)" in page
    command(*EXAMPLE, "--out", "graph.svg", "--quiet")
    assert Path("graph.svg").read_text(encoding="utf-8").startswith("<svg")
    command(*EXAMPLE, "--out", "graph.png")
    assert Path("graph.png").read_bytes().startswith(b"\x89PNG")
    command(*EXAMPLE, "--out", "graph.json")
    assert json.loads(Path("graph.json").read_text(encoding="utf-8"))["pictures"][0]["title"]
    command(*EXAMPLE, "--out", "graph.txt")
    assert Path("graph.txt").read_text(encoding="utf-8").startswith("(x + y) * max(y, z) = 6.")
    command(*EXAMPLE, "--out", "folder")
    assert {p.name for p in Path("folder").iterdir()} == {"index.html", "explain.svg"}
    assert (
        "graph.xyz: an explanation is written as"
        in command(*EXAMPLE, "--out", "graph.xyz").sentence
    )


def test_a_table(command: Command) -> None:
    Path("joint.csv").write_text("a,b,p\nx,u,0.5\nx,v,0.2\ny,u,0.2\ny,v,0.1\n", encoding="utf-8")
    assert "a and b are not independent" in command("explain", "--table", "joint.csv").out
    command("explain", "--table", "joint.csv", "--out", "joint.svg")
    assert "P(x, u) = 0.5" in Path("joint.svg").read_text(encoding="utf-8")


def test_a_run(command: Command, run_of_gpt: Path) -> None:
    shown = command("explain", run_of_gpt, "3 and 4 make 7.", "--out", "graph.svg")
    assert "Seen: 1 example of the given text." in shown.out
    assert shown.err.endswith("Written to graph-1.svg, graph-2.png, graph-3.svg\n")
    assert all(Path(name).exists() for name in ("graph-1.svg", "graph-2.png", "graph-3.svg"))
    Path("more.txt").write_text("1 and 2 make 3.", encoding="utf-8")
    assert "1 example of more.txt" in command("explain", run_of_gpt, "more.txt").out
    assert "1 example of more.txt" in command("explain", run_of_gpt, "@more.txt").out
    assert "no such file" in command("explain", run_of_gpt, "mroe.txt").sentence
    assert "--module" in command("explain", run_of_gpt, "--help").out
    assert "Verdict: " in command("inspect", run_of_gpt).out


def test_the_newest_run_is_last(
    command: Command, run_of_gpt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "last: no run in" in command("explain", "last").sentence
    monkeypatch.setenv("FOURFOLD_RUNS", str(run_of_gpt.parent))
    assert "Transformer has" in command("explain", "last", "3 and 4").out
    assert "Transformer has" in command("explain", "gpt", "3 and 4").out


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["runs/bookz"], "runs/bookz: no such run; an expression needs its values, as x=1"),
        (["bookz"], "bookz: no such run"),
        ([], "expected an expression, --table FILE or a run"),
        (["x * y", "x=1"], "y: has no value; give it one: y=1"),
        (["x * y", "x=1", "y"], "y: expected a value for a name, as x=1"),
        (["x * y", "x=1", "x=2", "y=1"], "x: has a value twice; a batch is written x=1,2"),
        (["x * y", "x=1", "y=1", "--tabel", "t.csv"], "--tabel"),
        (["x", "--table", "t.csv"], "--table explains a table alone"),
        (["--table", "t.csv"], "t.csv: cannot be read"),
        (["__import__('os').system('true')"], "has no place in an expression"),
        (["x / y", "x=1", "y=0"], "x / y: division by zero: y is 0"),
    ],
)
def test_wrong_lines_end_in_one_sentence(command: Command, line: list[str], sentence: str) -> None:
    assert sentence in command("explain", *line).sentence


def test_help(command: Command) -> None:
    shown = command("explain", "--help")
    assert (
        shown.code == 0 and "--table" in shown.out and "are a batch" in " ".join(shown.out.split())
    )
    assert "explain" in command("--help").out


def test_completion_knows_it_once(command: Command) -> None:
    assert command("completion", "bash").code == 0


def test_an_expression_needs_no_torch() -> None:
    code = (
        "import sys; from fourfold.cli import main; main(['explain', 'x * y', 'x=1', 'y=2']); "
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


PAGE = Path(__file__).parents[2] / "docs" / "look.md"
LINES = [
    shlex.split(line)[1:]
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith('fourfold explain "')
]


@pytest.mark.parametrize("words", LINES, ids=lambda words: words[1])
def test_the_pages_expressions_are_explained(command: Command, words: list[str]) -> None:
    assert command(*words).code == 0
