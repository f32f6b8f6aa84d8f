"""The drawings' own scripts, in a real browser: a graph is played, modules are opened."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fourfold.core.types import Explanation
from fourfold.look.expression_words import explain
from fourfold.look.modules_draw import draw
from fourfold.look.modules_trace import trace
from fourfold.look.page import render
from look_objectives import Squares

BROWSER = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed here")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that is asked at the end whether anything went wrong, and that reaches no other host."""
    opened = browser.new_page(viewport={"width": 390, "height": 800})
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda r: None if r.url.startswith("file:") else wrong.append(r.url))
    yield opened
    opened.close()
    assert not wrong


def open_file(page: Any, name: str, content: str) -> None:
    Path(name).write_text(content, encoding="utf-8")
    page.goto(Path(name).resolve().as_uri())


def shown(page: Any) -> set[str]:
    """Texts of the drawing that are seen."""
    return set(
        page.evaluate(
            "Array.from(document.querySelectorAll('svg text')).filter(t => getComputedStyle(t).visibility"
            " === 'visible' && t.getClientRects().length).map(t => t.textContent)"
        )
    )


@pytest.mark.parametrize("name", ["graph.html", "graph.svg"])
def test_a_graph_is_played_forward_and_backward(page: Any, name: str) -> None:
    found = explain("(x + y) * max(y, z)", {"x": "1", "y": "2", "z": "0"})
    open_file(page, name, render(found) if name.endswith("html") else found.pictures[0].svg)
    assert {"2 + 3 = 5", "3 × 1 = 3", "6"} <= shown(page)  # the end state, until it is played

    def press(label: str) -> None:
        page.locator(f"[aria-label='{label}']").click()

    press("first step")
    assert not {"2 + 3 = 5", "3 × 1 = 3", "6", "value"} & shown(page)
    for _ in range(4):
        press("step forward")
    assert "3" in shown(page) and "6" not in shown(page)
    assert any(t.startswith("Step 4 of 12, forward: x + y: value 3") for t in shown(page))
    for _ in range(4):
        press("step forward")
    assert {"6", "1 × 3 = 3", "3 × 1 = 3"} <= shown(page) and "2 + 3 = 5" not in shown(page)
    press("step back")
    assert "3 × 1 = 3" not in shown(page)
    page.locator("[aria-label='last step']").focus()
    page.keyboard.press("Enter")
    assert "2 + 3 = 5" in shown(page)
    page.keyboard.press("ArrowLeft")
    assert any(t.startswith("Step 11 of 12") for t in shown(page))


@pytest.mark.parametrize("name", ["model.html", "model.svg"])
def test_modules_open_and_close(page: Any, name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 4),
        nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.Tanh())),
        nn.Linear(4, 1),
    )
    (step,) = trace(model, Squares(), {"x": torch.randn(2, 3)})
    pictures = draw(step, model)
    content = render(Explanation("t", pictures=tuple(pictures)))
    open_file(page, name, content if name.endswith("html") else pictures[0].svg)
    assert "ReLU · 0 parameters" not in shown(page)

    def box(view: int, title: str) -> Any:
        return page.locator(f"[data-view='{view}'] [data-opens]").filter(has_text=title).first

    def height() -> float:
        return float(page.evaluate("document.querySelector('svg').viewBox.baseVal.height"))

    closed = height()
    box(0, "Sequential").click()
    assert "ReLU · 0 parameters" in shown(page) and "Tanh · 0 parameters" not in shown(page)
    assert height() > closed
    inner = page.locator("[data-opens]:visible").filter(has_text="Sequential").nth(1)
    inner.focus()
    page.keyboard.press("Enter")
    assert "Tanh · 0 parameters" in shown(page)
    assert box(0, "Sequential").get_attribute("aria-expanded") == "true"
    box(0, "Sequential").click()  # closes what opened from it too
    assert not {"ReLU · 0 parameters", "Tanh · 0 parameters"} & shown(page) and height() == closed
