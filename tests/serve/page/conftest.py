"""One folder of runs, one server and one browser for the page's tests."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from visiting import HOSTILE, SCRIPT, SMALL, TEXT, Opener, Server, chromium, houses  # noqa: E402


@pytest.fixture(scope="module")
def started(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server over a folder that is still empty; it comes up while the runs are made."""
    folder = tmp_path_factory.mktemp("served") / "runs"
    folder.mkdir()
    server = Server(folder, folder.parent / "server.log")
    yield server
    server.close()


@pytest.fixture(scope="module")
def runs(started: Server) -> Path:
    """A folder of runs: two language models, a table's, images, a third party's, a damaged and a hostile one."""
    from drawer import Drawer, toy

    import fourfold
    from fourfold.core.registry import register

    folder = started.folder
    text = folder.parent / "sums.txt"
    text.write_text(TEXT, encoding="utf-8")
    for name, rate in (("books", 1e-2), ("poems", 1e-3)):
        fourfold.fit("gpt", str(text), out=folder / name, steps=80, lr=rate, **SMALL)
    table = folder.parent / "houses.csv"
    table.write_text(houses(200), encoding="utf-8")
    fourfold.fit("linear", str(table), out=folder / "housing", target="price")
    fourfold.fit("gan", out=folder / "faces", steps=12, width=4, **{"data.batch": 16})
    register(Drawer)
    fourfold.fit(*toy(), out=folder / "drawer")
    (folder / "broken").mkdir()
    (folder / "broken" / "system.toml").write_text("format = ")
    shutil.copytree(folder / "books", folder / HOSTILE)
    with (folder / HOSTILE / "metrics.jsonl").open("a", encoding="utf-8") as log:
        for step in (80, 81):
            line = {
                "step": step,
                "loss": 1.0,
                SCRIPT: 1.0 + step,
                ":formatter": 2.0,
                "sample": SCRIPT,
            }
            log.write(json.dumps(line) + "\n")
    return folder


@pytest.fixture(scope="module")
def server(started: Server, runs: Path) -> Server:
    """The page over the folder of runs."""
    started.wait()
    return started


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = chromium()
    if path is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Opener]:
    """Opens an address of the server; in the end nothing was asked of another host, and nothing complained."""
    contexts: list[Any] = []
    complaints: list[str] = []
    foreign: list[str] = []

    def watched(route: Any) -> None:
        if urlsplit(route.request.url).hostname != "127.0.0.1":
            foreign.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    def said(message: Any) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    def opened(address: str = "/", url: str = server.url, **settings: Any) -> Any:
        settings = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light", **settings}
        context = browser.new_context(accept_downloads=True, **settings)
        contexts.append(context)
        context.route("**/*", watched)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", said)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.complaints = complaints
        page.goto(url + address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not foreign, f"asked of other hosts: {foreign}"
    assert not complaints, f"the console complains: {complaints}"


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are kept: FOURFOLD_ARTEFACTS, or a folder of this test session."""
    given = os.environ.get("FOURFOLD_ARTEFACTS")
    folder = Path(given) if given else tmp_path_factory.mktemp("artefacts")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
