"""Runs to serve, applications over them, and servers in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import fourfold
from children import Nursery
from fourfold.core.registry import register
from fourfold.serve.app import create_app
from fourfold.serve.limits import Limits
from fourfold.serve.shelf import Shelf
from fourfold.systems.gpt import GPT
from fourfold.systems.linear import LinearRegression
from parrot import Parrot
from serving import Client, Server

register(Parrot)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of three systems; tests only read it."""
    folder = tmp_path_factory.mktemp("served") / "runs"
    for cls, name in ((GPT, "books"), (LinearRegression, "rents")):
        toy, source = cls.toy()
        fourfold.fit(toy, source, out=folder / name)
    fourfold.fit(Parrot(), out=folder / "polly", steps=2)
    return folder


@pytest.fixture
def client(runs: Path) -> Iterator[Client]:
    """An application in this process: `client(token=...)`, `client(limits=...)`, `client(path)`."""
    opened: list[TestClient] = []

    def made(
        *paths: Path, token: str | None = None, limits: Limits | None = None, **settings: Any
    ) -> TestClient:
        limits = limits or Limits(stop=5.0)
        app = create_app(Shelf(paths or [runs]), token=token, limits=limits, page=False)
        test = TestClient(app, base_url="http://localhost", **settings)
        test.__enter__()
        opened.append(test)
        return test

    yield made
    for test in opened:
        if test.portal is not None:  # not ended by the test itself
            test.__exit__(None, None, None)


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Children that know the parrot, as of an installed package."""
    site = tmp_path_factory.mktemp("site")
    info = site / "parrots-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parrots\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fourfold.systems]\nparrot = parrot:Parrot\n")
    before = os.environ.get("PYTHONPATH")
    tests = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(site), tests, before]))
    made = Nursery(tmp_path_factory.mktemp("children"))
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    yield made
    made.close()


@pytest.fixture
def server(nursery: Nursery, runs: Path) -> Iterator[Callable[..., Server]]:
    """Start a server: `server("--token", "...")`."""
    started: list[Server] = []

    def start(*arguments: str | Path, folder: Path | None = None, **environment: str) -> Server:
        line = ["serve", str(folder or runs), "--port", "0", "--no-page", *map(str, arguments)]
        made = Server(nursery.start(line, **environment))
        started.append(made)
        return made

    yield start
    for each in started:
        each.child.kill()
