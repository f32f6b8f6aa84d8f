"""The command line in this process, and an installed package whose system has every kind of verb."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fourfold.cli import main
from fourfold.core.registry import index
from lines import Command, Ended


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an installed package that brings the talker."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "talkative-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: talkative\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fourfold.systems]\ntalker = talkative:Talker\n")
    return folder


@pytest.fixture(autouse=True)
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package is installed for the test."""
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    index.cache_clear()
    yield
    index.cache_clear()


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command line in this process."""

    def run(*line: str | Path) -> Ended:
        capsys.readouterr()
        words = [str(word) for word in line]
        monkeypatch.setattr(sys, "argv", ["fourfold", *words])
        code = 0
        try:
            main(words)
        except SystemExit as stopped:
            assert isinstance(stopped.code, int)
            code = stopped.code
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def run_folder(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the talker; tests only read it."""
    import fourfold
    from talkative import Talker

    folder = tmp_path_factory.mktemp("runs") / "talker"
    fourfold.fit(Talker(), out=folder, steps=6)
    return folder
