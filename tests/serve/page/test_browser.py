"""The page in a real browser, as its readers use it."""

from __future__ import annotations

import csv
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from visiting import HOSTILE, SMALL, Opener, Server, houses, numbers, until

PAGES = {
    "runs": ("/", "li.run .pill.finished"),
    "curves": ("/run/books", ".chart svg"),
    "samples": ("/run/faces?part=samples", "figure img"),
    "generate": ("/run/books?part=playground&verb=generate", ".ask textarea"),
    "predict": ("/run/housing?part=playground&verb=predict", ".drop"),
    "report": ("/run/books?part=report", "iframe"),
    "options": ("/run/books?part=options", "table"),
    "damaged": ("/run/broken", ".say.bad"),
    "compare": ("/compare?run=books&run=poems", ".chart svg"),
    "fit": ("/fit?system=gpt", "details .field"),
    "explain": ("/explain", "iframe"),
}
"""Every page, and what is there once it is drawn."""


def grave_faults(page: Any) -> list[Any]:
    """What axe-core finds serious or critical."""
    from axe_playwright_python.sync_playwright import Axe

    faults = Axe().run(page).response["violations"]
    grave = [fault for fault in faults if fault["impact"] in ("serious", "critical")]
    return [(fault["id"], [node["html"][:200] for node in fault["nodes"]]) for fault in grave]


@pytest.mark.parametrize("name", PAGES)
def test_every_page(name: str, visit: Opener, artefacts: Path) -> None:
    """Drawn at desktop and phone width; accessible in light and dark; nothing is cut off at the side."""
    address, drawn = PAGES[name]
    page = visit(address)
    page.locator(drawn).first.wait_for()
    page.wait_for_timeout(300)
    page.screenshot(path=artefacts / f"{name}-desktop-light.png")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(
            "dark => document.body.classList.contains('body--dark') === dark", arg=scheme == "dark"
        )
        assert not grave_faults(page)
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.screenshot(path=artefacts / f"{name}-phone-dark.png")


def test_the_list_shows_every_run_and_the_damaged_one_with_its_reason(
    visit: Opener, runs: Path
) -> None:
    page = visit()
    assert not (runs.parent / ".nicegui").exists(), "the page keeps nothing on disk"
    names = {p.name for p in runs.iterdir() if (p / "system.toml").exists()}
    assert set(page.locator("li.run .name a").all_inner_texts()) == names
    broken = page.locator("li.run", has_text="broken")
    broken.locator(".pill.damaged").wait_for()
    assert "not valid TOML" in broken.inner_text()
    books = page.locator("li.run", has=page.get_by_role("link", name="books", exact=True))
    books.locator("svg polyline").wait_for()
    assert "gpt" in books.inner_text() and "valid loss" in books.inner_text()
    page.get_by_label("Find a run").fill("linear")
    until(lambda: page.locator("li.run").count() == 1, every=lambda: page.wait_for_timeout(50))
    assert page.locator("li.run .name a").inner_text() == "housing"
    page.get_by_label("Find a run").fill("nothing like it")
    page.get_by_text("No run matches").wait_for()


def test_keyboard_alone(visit: Opener) -> None:
    page = visit()
    page.locator("li.run .pill.finished").first.wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "search"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "focus is visible"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "books":
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/run/books")


def test_theme_and_language_are_kept(visit: Opener) -> None:
    page = visit(color_scheme="light")
    dark = "document.body.classList.contains('body--dark')"
    page.locator("li.run").first.wait_for()
    assert not page.evaluate(dark)
    theme = page.locator(".tools button").first
    assert theme.get_attribute("aria-label") == "Theme: as the system"
    theme.click()
    assert theme.get_attribute("aria-label") == "Theme: light"
    theme.click()
    assert theme.get_attribute("aria-label") == "Theme: dark" and page.evaluate(dark)
    page.reload()
    page.locator("li.run").first.wait_for()
    assert page.evaluate(dark)
    page.get_by_role("button", name="中文").click()
    page.get_by_role("heading", name="运行").wait_for()
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    page.goto(page.url + "run/books")
    page.get_by_role("link", name="曲线").wait_for()
    assert page.evaluate(dark)


def test_the_browsers_language_is_taken(visit: Opener) -> None:
    page = visit("/fit", locale="zh-CN")
    page.get_by_role("heading", name="新建训练").wait_for()


def test_watch_a_run_live(visit: Opener, runs: Path) -> None:
    """A real fit in a child process: its numbers and curves move while it trains, and its end is seen."""
    command = [sys.executable, "-m", "fourfold", "fit", "gpt", str(runs.parent / "sums.txt")]
    command += ["--steps=100000", *(f"--{key}={value}" for key, value in SMALL.items())]
    command += ["--out", str(runs / "live"), "--quiet"]
    child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        page = visit()
        row = page.locator("li.run", has=page.get_by_role("link", name="live", exact=True))
        row.locator(".pill.running").wait_for(timeout=40_000)  # it appears by itself
        page.goto(page.url + "run/live")
        first = until(lambda: numbers(page)[:2], every=lambda: page.wait_for_timeout(100))
        line = page.locator(".chart svg path[stroke='var(--c0)']").first
        line.wait_for(state="attached")
        path = line.get_attribute("d")
        later = until(
            lambda: (now := numbers(page)) and now[0] > first[0] and now,
            every=lambda: page.wait_for_timeout(100),
        )
        assert later[1] != first[1], "the loss moves"
        until(lambda: line.get_attribute("d") != path, every=lambda: page.wait_for_timeout(100))
        child.send_signal(signal.SIGTERM)
        page.locator(".pill.stopped").wait_for(timeout=40_000)
    finally:
        child.kill()
        child.wait()


def test_compare_two(visit: Opener) -> None:
    page = visit()
    for name in ("books", "poems"):
        page.get_by_label(f"Compare {name}", exact=True).check()
    page.get_by_role("button", name="Compare 2 runs").click()
    page.wait_for_url("**/compare?run=books&run=poems")
    loss = page.get_by_role("img", name=re.compile("^loss by step"))
    loss.wait_for()
    assert "books" in loss.get_attribute("aria-label") and "poems" in loss.get_attribute(
        "aria-label"
    )
    colors = page.locator(".chart").first.locator("path[stroke^='var(--c']")
    assert {c.get_attribute("stroke") for c in colors.all()} >= {"var(--c0)", "var(--c1)"}
    row = page.locator("tr", has=page.get_by_role("rowheader", name="optimizer.lr"))
    assert row.locator("td").all_inner_texts() == ["0.01", "0.001"]
    assert page.get_by_role("rowheader", name="layers").count() == 0, "only what differs is shown"
    assert page.locator(".side pre").count() == 2
    page.get_by_text("Time", exact=True).click()
    page.get_by_role("img", name=re.compile("^loss by training time")).wait_for()


def test_generate_text(visit: Opener) -> None:
    page = visit("/run/books?part=playground")
    page.get_by_label("tokens").fill("40")
    page.get_by_label("temperature").fill("0")
    page.get_by_role("textbox", name="prompt").fill("It was")
    page.keyboard.press("Enter")
    answer = page.locator(".bubble.theirs pre")
    page.get_by_text("It was", exact=True).wait_for()
    until(lambda: len(answer.inner_text()) == 40, every=lambda: page.wait_for_timeout(50))
    assert answer.inner_text().isprintable() or "\n" in answer.inner_text()
    page.get_by_role("textbox", name="prompt").fill("It was 3")
    page.get_by_role("button", name="Send").click()
    until(lambda: page.locator(".bubble").count() == 4, every=lambda: page.wait_for_timeout(50))


def test_wrong_input_is_one_sentence(visit: Opener) -> None:
    page = visit("/run/books?part=playground")
    page.get_by_label("temperature").fill("-1")
    page.get_by_role("textbox", name="prompt").fill("It")
    page.keyboard.press("Enter")
    page.get_by_text("temperature: expected greater than or equal to 0").wait_for()


def test_upload_a_table_and_download_predictions(visit: Opener) -> None:
    page = visit("/run/housing?part=playground")
    rows = houses(70, price=False)
    page.locator("input[type=file].unseen").first.set_input_files(
        {"name": "new.csv", "mimeType": "text/csv", "buffer": rows.encode()}
    )
    page.locator(".files", has_text="new.csv").wait_for()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("The first 50 of 70 rows.").wait_for()
    head = page.locator("thead th").first
    assert head.inner_text() == "prediction"
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download as CSV").click()
    table = list(csv.DictReader(io.StringIO(Path(waiting.value.path()).read_text())))
    assert waiting.value.suggested_filename == "predict.csv"
    assert len(table) == 70 and {"rooms", "age", "place", "prediction"} <= table[0].keys()
    for row in table:
        truth = 30 * int(row["rooms"]) - int(row["age"]) + 40 * (row["place"] == "south")
        assert abs(float(row["prediction"]) - truth) < 2  # the noise has a deviation of 1
    shown = page.locator("tbody tr").first.locator("td").first.inner_text()
    assert float(shown) == pytest.approx(float(table[0]["prediction"]), rel=1e-4)
    page.locator("input[type=file].unseen").first.set_input_files(
        {"name": "wrong.csv", "mimeType": "text/csv", "buffer": b"rooms\nmany\n"}
    )
    page.locator(".files", has_text="wrong.csv").wait_for()
    assert page.locator(".files li").count() == 1, "one table at a time"
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator(".say.bad").wait_for()
    page.get_by_role("button", name="Remove wrong.csv").click()
    page.locator(".files li").wait_for(state="detached")


def test_sliders_with_live_pictures(visit: Opener) -> None:
    page = visit("/run/drawer?part=playground&verb=traverse")
    page.get_by_text("shade 0.50, 3 squares").wait_for()
    page.get_by_label("columns").fill("6")
    page.get_by_text("shade 0.50, 6 squares").wait_for()
    page.get_by_label("shade").fill("0.9")
    page.get_by_text("shade 0.90, 6 squares").wait_for()
    page.get_by_label("columns").press("ArrowRight")
    page.get_by_text("shade 0.90, 7 squares").wait_for()


def test_overlay_of_a_picture(visit: Opener) -> None:
    from PIL import Image

    file = io.BytesIO()
    Image.linear_gradient("L").save(file, "PNG")
    page = visit("/run/drawer?part=playground&verb=locate")
    page.locator("input[type=file].unseen").set_input_files(
        {"name": "shades.png", "mimeType": "image/png", "buffer": file.getvalue()}
    )
    page.locator(".files", has_text="shades.png").wait_for()
    page.get_by_role("button", name="Run", exact=True).click()
    above = page.locator(".overlay img").nth(1)
    above.wait_for()
    page.get_by_label("Strength of the overlay").fill("40")
    assert above.evaluate("e => e.style.opacity") == "0.4"


def test_map_of_vectors(visit: Opener) -> None:
    page = visit("/run/drawer?part=playground&verb=embed")
    page.get_by_label("words").fill("ant\nbear\ncat\ndog\nelephant")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Array of shape 5 × 3").wait_for()
    drawing = page.frame_locator("iframe.drawing")
    drawing.get_by_text("elephant", exact=True).wait_for()


def test_open_the_graph_of_a_model(visit: Opener, artefacts: Path) -> None:
    page = visit("/run/books?part=playground&verb=explain")
    page.get_by_role("button", name="Run", exact=True).click()
    drawing = page.frame_locator("iframe.drawing").first
    drawing.locator("svg").wait_for()
    opener = drawing.locator("[data-opens]").first
    opener.wait_for()
    before = page.locator("iframe.drawing").first.bounding_box()
    opener.click()
    page.wait_for_timeout(200)
    assert before is not None
    page.locator("iframe.drawing").first.screenshot(path=artefacts / "graph.png")


def test_explain_an_expression(visit: Opener) -> None:
    page = visit("/explain")
    page.get_by_text("(x + y) * max(y, z) = 6.").wait_for()
    page.get_by_label("Expression").fill("a * a + b")
    page.keyboard.press("Tab")
    page.get_by_label("a", exact=True).fill("3")
    page.get_by_label("b", exact=True).fill("1")
    page.get_by_role("button", name="Explain").click()
    page.get_by_text("a * a + b = 10.").wait_for()
    assert "6 with respect to a" in page.locator("main").inner_text()
    page.frame_locator("iframe.drawing").locator("svg").wait_for()
    page.get_by_label("Expression").fill("__import__('os')")
    page.keyboard.press("Tab")
    page.locator(".say.bad").wait_for()


def test_start_stop_and_resume_a_fit(visit: Opener, runs: Path) -> None:
    page = visit("/fit")
    page.get_by_label("System", exact=True).select_option("gpt")
    page.get_by_label("Name of the run").fill("mine")
    page.get_by_label("Data", exact=True).set_input_files(runs.parent / "sums.txt")
    page.locator(".files", has_text="sums.txt").wait_for()
    for name in ("layers", "width", "heads"):
        page.get_by_label(name, exact=True).fill(str(SMALL[name]))
    page.locator("summary", has_text="Data").click()
    page.get_by_label("unit").select_option("character")
    page.get_by_label("window").fill("0")
    page.locator("summary", has_text="Optimizer").click()
    page.get_by_label("steps", exact=True).fill("100000")
    page.get_by_label("log every").fill("5")
    page.get_by_role("button", name="Start").click()
    page.get_by_text(
        "data.window: expected greater than 0, got '0'"
    ).wait_for()  # nothing was started
    page.get_by_label("window").fill("32")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/run/mine", timeout=40_000)
    page.locator("h1 + .pill.running").wait_for(timeout=40_000)
    step = until(
        lambda: [n for n in numbers(page)[:1] if n > 20], every=lambda: page.wait_for_timeout(100)
    )
    page.get_by_role("button", name="Stop the fit of mine").click()
    page.get_by_role("button", name="Resume").wait_for(timeout=40_000)
    stopped = numbers(page)[0]
    assert stopped >= step[0] and list((runs / "mine" / "checkpoints").iterdir())
    page.get_by_role("button", name="Resume").click()
    page.locator("h1 + .pill.running").wait_for(timeout=40_000)
    until(lambda: numbers(page)[0] > stopped, every=lambda: page.wait_for_timeout(100))
    page.get_by_role("button", name="Stop the fit of mine").click()


def test_what_a_run_says_is_text(visit: Opener) -> None:
    """Names, measures and samples with markup in them are shown and never run."""
    page = visit()
    link = page.get_by_role("link", name=HOSTILE)
    link.wait_for()
    link.click()
    page.get_by_role("heading", name=HOSTILE).wait_for()
    page.locator(".chart svg").first.wait_for()
    page.locator(".chart").last.hover()
    page.wait_for_timeout(300)
    page.get_by_role("link", name="Samples").click()
    page.get_by_text("window.hacked").wait_for()
    page.goto(page.url.split("/run/")[0] + "/compare?run=books&run=%3Cb%3Ebold%3Cb%3E")
    page.locator(".side pre", has_text="window.hacked").wait_for()
    assert page.evaluate("window.hacked") is None
    assert page.locator("main b").count() == 0


def test_a_failure_inside_has_an_id_and_no_trace(visit: Opener, server: Server) -> None:
    page = visit("/run/drawer?part=playground&verb=fail")
    page.get_by_role("button", name="Run", exact=True).click()
    said = page.get_by_text("Something went wrong")
    said.wait_for()
    mark = re.search(r"id (\w+)", said.inner_text())
    assert mark is not None and "secret" not in page.locator("main").inner_text()
    assert mark[1] in server.log.read_text() and "a secret of the inside" in server.log.read_text()


def test_cancel_ends_the_work(visit: Opener) -> None:
    page = visit("/run/drawer?part=playground&verb=count")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancelled.").wait_for()
    page.get_by_role("button", name="traverse").click()
    page.get_by_text("shade 0.50, 3 squares").wait_for(timeout=5000)  # the run is free again


def test_a_run_that_is_not_there(visit: Opener) -> None:
    page = visit("/run/nosuch")
    page.get_by_text("no such run here").wait_for()
    page.get_by_role("link", name="To the runs").click()
    page.locator("li.run").first.wait_for()
    answer = page.goto(page.url + "nowhere/at/all")
    assert answer.status == 404
    page.get_by_text("There is no such page").wait_for()
    assert all("404" in text for text in page.complaints)
    page.complaints.clear()


def test_programs_are_answered_in_json_beside_the_page(visit: Opener) -> None:
    page = visit("/")
    for method, path, status in (
        ("PUT", "runs", 405),
        ("GET", "runs/books/generate", 405),
        ("DELETE", "systems/gpt", 405),
        ("GET", "fits/none/of/these", 404),
    ):
        answer = page.request.fetch(page.url + path, method=method)
        assert answer.status == status and answer.json()["detail"], (method, path)


def test_the_token_is_asked_for_once(visit: Opener, runs: Path) -> None:
    started = Server(runs, runs.parent / "locked.log", "--token", "a-long-enough-token")
    try:
        started.wait()
        page = visit("/", url=started.url)
        assert not grave_faults(page)
        page.get_by_label(re.compile("token", re.IGNORECASE)).fill("wrong")
        page.get_by_role("button", name="Enter").click()
        page.get_by_role("alert").filter(has_text="not the token of this server").wait_for()
        page.complaints.clear()  # the browser says 401
        page.get_by_label(re.compile("token", re.IGNORECASE)).fill("a-long-enough-token")
        page.get_by_role("button", name="Enter").click()
        page.locator("li.run").first.wait_for()
        page.goto(started.url + "/run/books")
        page.locator(
            ".chart svg"
        ).first.wait_for()  # drawn over the web socket, which is let in too
        kept = next(c for c in page.context.cookies() if c["name"] == "fourfold")
        assert kept["httpOnly"] and kept["sameSite"] == "Strict"
        assert kept["value"] != "a-long-enough-token"
        page.context.close()
    finally:
        started.close()
