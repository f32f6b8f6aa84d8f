"""Figures become pictures without pyplot; grids put each pixel where it belongs."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from fourfold.look import figures
from fourfold.look.figures import grid, picture, subplots


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_a_figure_becomes_a_png_of_its_size() -> None:
    fig, axes = subplots(width=4, height=2)
    axes.plot([0, 1, 2], [3, 1, 2])
    axes.set(xlabel="time (s)", ylabel="loss (nats)")
    drawn = picture(fig, "Loss", "It falls.", dpi=100)
    assert (drawn.title, drawn.caption) == ("Loss", "It falls.")
    image = pixels(drawn.png)
    assert image.shape == (200, 400, 3)
    assert (image[0, 0] == 255).all() and image.min() < 100  # light ground, dark ink


def test_equal_figures_are_equal_bytes() -> None:
    def draw() -> bytes:
        fig, axes = subplots(1, 2, sharey=True)
        axes[0].plot([1, 2], [2, 1])
        return picture(fig, "twice").png

    assert draw() == draw()


def test_chinese_text_draws_without_warning_and_takes_an_installed_font() -> None:
    fig = Figure()  # a plain figure, not made by subplots
    fig.subplots().set_title("训练损失")
    assert pixels(picture(fig, "中文").png).size
    fonts = {name for text in fig.axes[0].texts + [fig.axes[0].title] for name in text.get_family()}
    assert fonts == set(figures.families())


def test_names_that_no_font_has_are_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "families", lambda: ("DejaVu Sans",))
    assert figures.stand_ins(("cat", "dog")) == (("cat", "dog"), "")
    names, key = figures.stand_ins(("猫", "dog", "鸟"))
    assert names == ("#1", "dog", "#3")
    assert key == "No font of this machine has these names: #1 猫, #3 鸟."
    monkeypatch.setattr(figures, "families", lambda: ("DejaVu Sans", "Noto Sans CJK SC"))
    assert figures.stand_ins(("猫", "dog")) == (("猫", "dog"), "")


def test_a_chinese_font_is_used_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import font_manager

    entry = font_manager.FontEntry(fname="x.ttf", name="Noto Sans CJK SC")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [entry])
    figures.families.cache_clear()
    try:
        assert figures.families() == ("DejaVu Sans", "Noto Sans CJK SC")
    finally:
        figures.families.cache_clear()


def test_pyplot_is_not_imported() -> None:
    code = (
        "import sys, numpy; from fourfold.look.figures import grid, picture, subplots;"
        "picture(subplots()[0], 'x'); grid(numpy.zeros((1, 2, 2)), 'x');"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 7), st.sampled_from([1, 3]), st.integers(1, 6), st.integers(1, 5))
def test_each_image_stands_in_its_cell(
    count: int, channels: int, height: int, columns: int
) -> None:
    images = np.random.default_rng(0).random((count, channels, height, height + 1))
    image = pixels(grid(torch.from_numpy(images), "x", columns=columns, width=60).png)
    columns = min(columns, count)
    scale = max(1, round(60 / (columns * (height + 1 + figures.GAP))))
    for i in range(count):
        top = figures.GAP * scale + (i // columns) * (height + figures.GAP) * scale
        left = figures.GAP * scale + (i % columns) * (height + 1 + figures.GAP) * scale
        cell = image[top : top + height * scale : scale, left : left + (height + 1) * scale : scale]
        expected = np.broadcast_to(images[i], (3, height, height + 1)).transpose(1, 2, 0)
        np.testing.assert_array_equal(cell, np.rint(expected * 255))


def test_values_outside_are_clipped_and_nan_is_seen() -> None:
    images = np.array([[[-1.0, 2.0, np.nan]]])
    image = pixels(grid(images, "x", width=5).png)
    assert [tuple(image[2, 2 + i]) for i in range(3)] == [(0, 0, 0), (255,) * 3, (255, 0, 255)]


def test_labels_are_written_below_and_cut_to_their_cell() -> None:
    images = np.ones((4, 8, 8))
    plain, long = grid(images, "x"), grid(images, "x", labels=["0", "long " * 40, "数字", ""])
    assert (pixels(plain.png) == 255).all()  # white on white: only labels can be dark
    image = pixels(long.png)
    assert image.shape[0] > pixels(plain.png).shape[0] and image.min() < 100
    with pytest.raises(ValueError, match="one label for each image, got 1 for 4"):
        grid(images, "x", labels=["one"])


@pytest.mark.parametrize("shape", [(0, 1, 4, 4), (2, 2, 4, 4), (4, 4), (2, 3, 0, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="grid expects images of shape"):
        grid(np.zeros(shape), "x")
