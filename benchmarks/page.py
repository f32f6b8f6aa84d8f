"""The page: time to its first paint with 200 runs in the folder, and what it costs to watch one run.

    python -m benchmarks.page

A headless Chromium of the system's on the same machine, over loopback. Each load is a fresh browser
context: nothing is cached. Watching is timed by the server process's own processor time while a log of
100,000 lines grows by 10 lines a second and the page of that run is open.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import keep

RUNS = 200
LOADS = 9
LINES = 100_000
SECONDS = 60.0
LEFT = 20.0  # seconds until the server has let go of readers who left
PAINT = """() => {
    const paint = performance.getEntriesByName("first-contentful-paint")[0];
    return paint ? paint.startTime : null;
}"""


def run_folder(folder: Path) -> Path:
    """A folder of runs: one small fit, copied."""
    import fourfold

    first = folder / "gpt-1"
    options: dict[str, Any] = {"data.unit": "byte", "layers": 1, "width": 32, "heads": 2}
    fourfold.fit("gpt", out=first, steps=200, **options)
    for number in range(2, RUNS + 1):
        shutil.copytree(first, folder / f"gpt-{number}")
    return first


def grown(run: Path) -> Path:
    """Give a run a long log, as a fit under way has one; returns the log."""
    log = run / "metrics.jsonl"
    with log.open("w") as file:
        file.writelines(line(step) for step in range(LINES))
    about = run / "system.toml"
    unfinished = [t for t in about.read_text().splitlines() if not t.startswith("finished")]
    about.write_text("\n".join(unfinished) + "\n")
    return log


def line(step: int) -> str:
    """A line of the log, as a language model's fit writes it."""
    values = {
        "step": step,
        "loss": 3 + 2 / (1 + step / 1000),
        "rate": 24_000.0 + step % 7,
        "lr": 1e-3,
    }
    return json.dumps({**values, "grad_norm": 0.5 + step % 11 / 20, "seconds": step / 10}) + "\n"


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def paints(browser: Any, url: str) -> dict[str, float]:
    """Milliseconds to the first paint, and until the list's rows are filled."""
    first, filled = [], []
    for _ in range(LOADS):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        began = time.perf_counter()
        page.goto(url)
        page.locator("li.run .pill.finished").first.wait_for()
        filled.append(1000 * (time.perf_counter() - began))
        first.append(page.evaluate(PAINT))
        context.close()
    return {
        "first paint (ms)": round(statistics.median(first)),
        "slowest first paint (ms)": round(max(first)),
        "rows filled (ms)": round(statistics.median(filled)),
    }


def watched(browser: Any, url: str, pid: int, log: Path) -> dict[str, float]:
    """Share of a core that the server takes: with nobody there, and while one run is watched."""
    time.sleep(LEFT)
    idle = share(pid, SECONDS / 3)
    ended = threading.Event()

    def write() -> None:
        step = LINES
        while not ended.wait(0.1):
            with log.open("a") as file:
                file.write(line(step))
            step += 1

    writer = threading.Thread(target=write)
    writer.start()
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{url}/run/{log.parent.name}")
    page.locator(".chart svg").first.wait_for()
    page.wait_for_timeout(5000)
    before = page.locator("dd").first.inner_text()
    found = share(pid, SECONDS)
    assert page.locator("dd").first.inner_text() != before, "the page follows the run"
    ended.set()
    writer.join()
    return {
        "nobody there (% of a core)": round(100 * idle, 2),
        "watching (% of a core)": round(100 * found, 2),
    }


def share(pid: int, seconds: float) -> float:
    """Processor time over time."""
    before, began = processor_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return (processor_seconds(pid) - before) / (time.monotonic() - began)


def main() -> None:
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        sys.exit("Chromium is needed (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name) / "runs"
        log = grown(run_folder(folder))
        command = [sys.executable, "-m", "fourfold", "serve", str(folder), "--port", "8765"]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            url = next(w for w in server.stderr.readline().split() if w.startswith("http"))
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            keep(
                "page",
                {
                    f"{RUNS} runs": paints(browser, url),
                    "one run": watched(browser, url, server.pid, log),
                },
            )
            browser.close()
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
