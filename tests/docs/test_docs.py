"""The documentation is current: generated tables and pages, links, command lines, code, named files and options."""

import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fourfold import api
from fourfold.cli.compare import compare_flags
from fourfold.cli.fit import _option_name, fit_parameters, of_options
from fourfold.cli.index import index_flags
from fourfold.cli.ladder import ladder_flags
from fourfold.cli.main import COMMANDS
from fourfold.cli.parse import parse
from fourfold.cli.search import search_flags, search_parameters
from fourfold.cli.verbs import PATH_LIKE, arguments, parameters
from fourfold.core.errors import UserError
from fourfold.core.registry import all_verbs, index, load_system
from fourfold.core.space import space_of
from fourfold.core.system import verbs

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
OTHER = {
    "import": {"out", "system"},
    "list": {"json"}, "runs": {"json"}, "show": {"json"}, "doctor": {"json"},
    "explain": {"table", "out", "json", "quiet"},
    "serve": {"model", "host", "port", "token", "max-body", "max-seconds", "max-tokens", "concurrency",
              "batch", "queue", "fits", "grace", "no-page", "engine", "precision"},
}  # fmt: skip
"""Flags of the commands that are neither fit nor a verb."""


@pytest.fixture(scope="module")
def generate() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- generated ------------------------------------------------------------------------------------


def test_generated_pages_are_current(generate: ModuleType) -> None:
    assert [name_of(p) for p in generate.stale()] == [], "run: make docs"


def test_check_names_what_is_not_current(
    generate: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    for name in ("README", "DATA"):
        copy = tmp_path / getattr(generate, name).name
        copy.write_text(text_of(getattr(generate, name)).replace("| --- |", "| -- |"))
        monkeypatch.setattr(generate, name, copy)
    monkeypatch.setattr(generate, "PAGES", tmp_path / "systems")
    (tmp_path / "systems").mkdir()
    (tmp_path / "systems" / "gone.md").write_text("# gone\n")
    assert generate.main(["--check"]) == 1
    said = capsys.readouterr().err
    for name in ("README.md", "data.md", "systems/gan.md", "systems/gone.md"):
        assert f"{name} is not current" in said
    assert generate.main([]) == 0
    assert not (tmp_path / "systems" / "gone.md").exists()
    assert generate.main(["--check"]) == 0


def test_a_page_has_every_option_verb_and_exemption(generate: ModuleType) -> None:
    page = generate.system_page("gan")
    cls = load_system("gan")
    for words in ("--optimizer.lr", "--objective.penalty-weight", "--data.size", "--width"):
        assert f"`{words}`" in page
    for verb in verbs(cls):
        assert f"\nrun.{verb}(" in page
    for check, reason in cls.exempt.items():
        assert f"| `{check}` | {reason} |" in page
    assert "run.sample(*, count: int = 64, seed: int | None = None) -> Picture\n" in page


def test_numbers_come_with_their_command(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "RESULTS", tmp_path)
    assert "make bench" in generate.numbers()
    machine = {"processor": "P|1", "threads": 2, "gpu": None, "torch": "2.13.0"}
    machine |= {"python": "3.11.7", "commit": "abc1234", "date": "2026-11-21"}
    result = {
        "fourfold": [1.6, 1.5, 1.7],
        "peer, tuned": {"lr 1": 1.9, "lr 2": 1.8},
        "measured": [{"rate": 1.0}, {"rate": 3.0}, {"rate": 2.5}],
        "times float32": 3.125,
    }
    section = {"result": result, "command": "python -m benchmarks.gpt_train", "machine": machine}
    (tmp_path / "gpt_train.json").write_text(json.dumps({"loss": section}))
    headline = (
        "gpt_train",
        "loss",
        "its loss",
        ("fourfold", "peer, tuned: lr 2", "times float32", "gone"),
    )
    monkeypatch.setattr(generate, "HEADLINES", (headline, ("other", "loss", "none", ("x",))))
    row = generate.numbers().splitlines()[-1]
    assert row == (
        "| its loss | fourfold 1.6 (median of 3); lr 2 1.8; times float32 3.125 "
        "| `python -m benchmarks.gpt_train` | P\\|1, 2 threads |"
    )
    for page in ("\n".join(generate._measured("gpt")), generate.numbers_page()):
        assert "| peer, tuned: lr 1 | 1.9 |" in page and "commit abc1234" in page
        assert "| measured: rate | 2.5 (median of 3) |" in page
    assert not list(generate._measured("gan"))


# --- links ----------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text_of(path), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", text_of(path), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        assert target.exists(), f"{name_of(path)}: {link}"
        assert not anchor or anchor in anchors(target), f"{name_of(path)}: {link}"


def test_pictures_are_small_enough_to_clone() -> None:
    pictures = sorted((ROOT / "docs" / "pictures").iterdir())
    assert pictures
    for path in pictures:
        assert path.stat().st_size < 300_000, path.name


# --- command lines --------------------------------------------------------------------------------


def command_lines() -> Iterator[Any]:
    """Every `fourfold ...` in the shell blocks of the pages, with the page."""
    for path in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", text_of(path), re.S):
            for line in block.splitlines():
                for command in re.split(r" ; | && | \| ", line):
                    if command.strip().startswith("fourfold "):
                        yield pytest.param(command, id=f"{name_of(path)}: {command.strip()[:60]}")


def check_fit(words: list[str]) -> None:
    name, rest = words[0], words[1:]
    if name.endswith(".toml"):
        name = "gpt"  # whatever system the file names
    cls = load_system(name if name in index() else "linear")
    if name not in index():
        assert name == "mlp"  # the example of CONTRIBUTING.md, whose data and optimizer linear has
    parsed = parse("fit", "", fit_parameters(cls), rest, loose=True)
    assert parsed
    given = {_option_name(k): v for k, v in parsed[1].items() if k.startswith("o_") or "." in k}
    api.configure(cls, given, size=parsed[1].get("size"))


def check_search(words: list[str]) -> None:
    if words[:1] == ["--resume"]:
        assert parse("search", "", search_flags(), words)
        return
    cls = load_system(words[0])
    parsed = parse("search", "", search_parameters(cls), words[1:], loose=True)
    assert parsed
    given, flags = of_options(parsed[1])
    api.configure(cls, given)
    space_of(cls, flags.get("space", ""), given)


def check_verb(verb: str, words: list[str]) -> None:
    assert words and not words[0].startswith("-"), f"{verb}: the run comes first"
    refused = []
    for word in words[1:]:
        if PATH_LIKE.fullmatch(word) and not Path(word).exists():
            Path(word.removeprefix("@")).write_text("the reader of the page has such a file")
    for name in all_verbs()[verb]:
        method = verbs(load_system(name))[verb]
        try:
            parsed = parse(verb, "", parameters(method), words[1:])
            assert parsed
            values = {k: v for k, v in parsed[1].items() if not k.startswith("g_")}
            arguments(method, parsed[0], values)
            return
        except UserError as error:
            refused.append(f"{name}: {error}")
    raise AssertionError("; ".join(refused))


@pytest.mark.parametrize("command", list(command_lines()))
def test_command_lines_parse(command: str) -> None:
    name, *words = shlex.split(command, comments=True)[1:]
    if name == "fit":
        check_fit(words)
    elif name == "search":
        check_search(words)
    elif name == "ladder":
        assert parse("ladder", "", ladder_flags(), words)
    elif name == "compare":
        assert parse("compare", "", compare_flags(), words)
    elif name == "index":
        assert parse("index", "", index_flags(), words, loose=True)
    elif name in COMMANDS and not (name in all_verbs() and words[0].startswith("runs/")):
        flags = {w.lstrip("-").split("=")[0] for w in words if w.startswith("-")}
        assert flags <= OTHER.get(name, set())
    else:
        assert name in all_verbs(), f"no verb {name}"
        check_verb(name, words)


def test_wrong_command_lines_are_found() -> None:
    for words in (["gpt", "--layer", "3"], ["gan", "--size", "huge"], ["gan", "--lr", "-1"]):
        with pytest.raises(UserError):
            check_fit(words)
    with pytest.raises(AssertionError, match="cuont"):
        check_verb("sample", ["runs/x", "--cuont", "3"])


# --- code, files and options that are named -------------------------------------------------------


def test_readmes_code_runs_or_compiles() -> None:
    ran = 0
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", text_of(ROOT / "README.md"), re.S)
    ):
        code = compile(block, f"README.md, block {number}", "exec")
        if "import torch" in block:
            space: dict[str, Any] = {}
            exec(code, space)
            assert all(p.grad is not None for p in space["model"].parameters())
            ran += 1
    assert ran == 1


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_options_that_are_named_exist(path: Path) -> None:
    """Words such as `--data.unit` in running text are options of a system, a verb or make's tools."""
    known: set[str] = {"--help", "--check", "--debug", "--json"}
    known |= {f"--{flag}" for flags in OTHER.values() for flag in flags}
    for name in index():
        cls = load_system(name)
        given = [
            *fit_parameters(cls),
            *search_flags(),
            *ladder_flags(),
            *compare_flags(),
            *index_flags(),
            *(p for v in verbs(cls).values() for p in parameters(v)),
        ]
        for parameter in given:
            for mark in getattr(parameter.annotation, "__metadata__", ()):
                known |= {
                    *(getattr(mark, "name", None) or ()),
                    *(getattr(mark, "negative", None) or ()),
                }
    text = re.sub(r"```.*?```", "", text_of(path), flags=re.S)
    for flag in re.findall(r"`(--[a-z][\w.-]*)", text):
        flag = "--data.kinds" if flag.startswith("--data.kinds.") else flag
        flag = re.sub(r"^(--objective|--optimizer)\.kind$", r"\1", flag)
        if flag not in {"--strict"}:
            assert flag in known, f"{name_of(path)}: {flag}"


def test_files_that_are_named_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"`((?:src|tests|docs|benchmarks)/[\w/.]+)`", text_of(page)):
            assert (ROOT / name).exists(), f"{name_of(page)}: {name}"
        for name in re.findall(
            r"`((?:core|cli|data|models|objectives|optimizers)/\w+\.py)`", text_of(page)
        ):
            assert (ROOT / "src" / "fourfold" / name).exists(), f"{name_of(page)}: {name}"


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^(\w+):", text_of(ROOT / "Makefile"), re.M))
    for page in PAGES:
        named = set(re.findall(r"(?:^|`)make (\w+)", text_of(page), re.M))
        assert named <= targets, name_of(page)


def test_nothing_stays_to_be_filled_in() -> None:
    for page in PAGES:
        assert not re.search(r"\b(TODO|TBD|FIXME|XXX|PENDING|RESULT)\b", text_of(page)), name_of(
            page
        )
