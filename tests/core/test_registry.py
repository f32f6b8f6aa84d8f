"""The index of systems: made without importing them (or torch), true to the classes, open to third parties."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fourfold.core import registry
from fourfold.core.errors import UserError
from fourfold.core.registry import all_verbs, index, load_system
from fourfold.core.system import verbs

THIRD = '''"""Sums of numbers: Somebody 2020.

    fourfold fit sums
"""

from fourfold.core.run import Run
from fourfold.core.system import System, system
from thirdparty.bases import Base


@system("sums", reads="numbers")
class Sums(Base):
    """Add numbers."""

    def tag(self, run: Run, text: str) -> str:
        """Not the base's."""
        return text

    def _private(self, run: Run) -> None: ...
    def preview(self, run: Run) -> None: ...
'''
BASE = '''from fourfold.core.run import Run
from fourfold.core.system import System


class Base(System):
    def act(self, run: Run, number: int) -> int:
        """An inherited verb."""
        return number
'''


def child(code: str, **environment: str) -> str:
    """Run Python code in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import fourfold",
        "from fourfold.cli import main; main(['--help'])",
        "from fourfold.cli import main; main(['list'])",
        "from fourfold.cli import main; main(['list', '--json'])",
        "from fourfold.cli import main; main(['fit', '--help'])",
        "from fourfold.cli import main; main(['evaluate', '--help'])",
        "from fourfold.cli import main; main(['--version'])",
        "from fourfold.cli import main; main(['runs'])",
    ],
)
@pytest.mark.parametrize("fresh", [True, False], ids=["no index yet", "index there"])
def test_torch_is_not_imported(code: str, fresh: bool, tmp_path: Path) -> None:
    environment = {"FOURFOLD_CACHE": str(tmp_path)} if fresh else {}
    heavy = "('torch', 'numpy', 'polars', 'matplotlib', 'sklearn')"
    print_heavy = f"; import sys; print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code + print_heavy],
        capture_output=True, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_the_index_is_true_to_the_classes() -> None:
    for name, entry in index().items():
        cls = load_system(name)
        assert (entry.name, entry.reads) == (cls.name, cls.reads)
        assert set(entry.verbs) == set(verbs(cls)), name
        assert entry.summary == (cls.__doc__ or "").split("\n")[0]
        assert entry.source and entry.module == cls.__module__ and entry.cls == cls.__name__
    assert "evaluate" in all_verbs() and set(all_verbs()["evaluate"]) == set(index())


def test_an_unknown_system_offers_the_nearest() -> None:
    known = sorted(index())
    with pytest.raises(UserError, match=f"{known[0]}x: no such system; did you mean {known[0]}?"):
        load_system(f"{known[0]}x")


@pytest.fixture
def third_party(tmp_path: Path) -> Path:
    """An installed package with a system in it."""
    site = tmp_path / "site"
    info = site / "thirdparty-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fourfold.systems]\nsums = thirdparty.sums:Sums\n")
    package = site / "thirdparty"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "sums.py").write_text(THIRD)
    (package / "bases.py").write_text(BASE)
    return site


def test_third_parties_add_systems(third_party: Path, tmp_path: Path) -> None:
    code = """
import json, sys
from fourfold.core.registry import index, load_system
entry = index()["sums"]
before = "torch" in sys.modules, "thirdparty.sums" in sys.modules
from fourfold.core.system import verbs
print(json.dumps([entry.verbs, entry.reads, entry.source, before, sorted(verbs(load_system("sums")))]))
"""
    found = child(code, PYTHONPATH=str(third_party), FOURFOLD_CACHE=str(tmp_path / "cache"))
    names, reads, source, before, real = json.loads(found)
    assert names == real == ["act", "evaluate", "tag"]
    assert (reads, source) == ("numbers", "Sums of numbers: Somebody 2020.")
    assert before == [False, False]


@pytest.mark.parametrize("broken", ["gone", "syntax"])
def test_a_broken_third_party_is_said_and_hides_no_other(
    third_party: Path, tmp_path: Path, broken: str
) -> None:
    if broken == "gone":
        (third_party / "thirdparty-1.0.dist-info" / "entry_points.txt").write_text(
            "[fourfold.systems]\nsums = nowhere.sums:Sums\n"
        )
    else:
        (third_party / "thirdparty" / "sums.py").write_text("def (")
    done = subprocess.run(
        [sys.executable, "-m", "fourfold", "list"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(third_party), "FOURFOLD_CACHE": str(tmp_path / "c")},
    )  # fmt: skip
    assert done.returncode == 0 and "linear" in done.stdout and "sums" not in done.stdout
    assert "sums" in done.stderr and done.stderr.count("\n") == 1


def test_the_index_is_read_anew_when_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "mine.py"
    path.write_text(
        'from fourfold.core.system import System, system\n@system("mine", reads="x")\nclass A(System):\n    """One."""\n'
    )
    monkeypatch.setattr(registry, "_modules", lambda: iter([("mine", path)]))
    index.cache_clear()
    try:
        assert index()["mine"].summary == "One."
        path.write_text(path.read_text().replace("One", "Two!"))
        os.utime(path, ns=(1, 1))
        index.cache_clear()
        assert index()["mine"].summary == "Two!."
        cached = list((tmp_path / "cache").iterdir())
        for file in cached:
            file.write_text("[damaged")
        index.cache_clear()
        assert index()["mine"].summary == "Two!."
    finally:
        index.cache_clear()


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path / "file" / "cache"))
    index.cache_clear()
    try:
        assert index()
    finally:
        index.cache_clear()
