"""The detector end to end at toy size: its verbs, what they write, and what they refuse."""

import copy
import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

import fourfold
from fourfold.cli.write import write
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.box_digits import digit_scenes
from fourfold.data.boxes import BoxData
from fourfold.look.boxes import precision_recall_of_boxes
from fourfold.serve.calls import Result
from fourfold.serve.encode import answer, kind_of, respond
from fourfold.systems.detector import Detector


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    toy, source = Detector.toy()
    return fourfold.fit(toy, source, out=tmp_path_factory.mktemp("detector") / "run")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for scene in digit_scenes()[:2]:
        Image.fromarray(scene.image).save(folder / f"{scene.name}.png")
    return folder


def test_detect_gives_boxes_in_each_images_own_pixels(run: Run, tmp_path: Path) -> None:
    Image.fromarray(np.full((300, 200), 90, np.uint8)).save(tmp_path / "tall.png")
    table = run.detect(str(tmp_path / "tall.png"), threshold=0).table
    assert table.columns == ["image", "class", "score", "left", "top", "right", "bottom"]
    assert 0 < len(table) <= 100 and set(table["class"]) <= set("0123456789")
    assert table["right"].max() <= 200 and table["bottom"].max() <= 300
    assert table["bottom"].max() > 100  # not pixels of the canvas of 64
    assert (table["score"].diff().drop_nulls() <= 0).all()
    assert len(run.detect(str(tmp_path / "tall.png"), threshold=0, most=3).table) == 3


def test_detect_is_written_as_picture_or_as_table(
    run: Run, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run.detect(str(images), threshold=0.01)
    write(found, tmp_path / "boxes.png", as_json=False, verb="detect")
    with Image.open(tmp_path / "boxes.png") as drawn:
        assert drawn.mode == "RGB" and min(drawn.size) >= 300
    write(found, tmp_path / "boxes.csv", as_json=False, verb="detect")
    assert pl.read_csv(tmp_path / "boxes.csv").height == found.table.height
    write(found, tmp_path / "boxes.json", as_json=False, verb="detect")
    assert len(json.loads((tmp_path / "boxes.json").read_text())) == found.table.height
    capsys.readouterr()
    write(found, None, as_json=False, verb="detect")
    assert capsys.readouterr().out.startswith("image,class,score,left,top,right,bottom")


def test_detect_over_http_has_rows_and_a_picture(run: Run, images: Path) -> None:
    result = Result(run.detect(str(images), threshold=0.01), 0.1, [])
    assert kind_of(result.value) == "drawn"
    body = answer(result)
    assert body["columns"][0] == "image" and len(body["rows"]) == result.value.table.height
    assert set(body["picture"]) >= {"png"}
    png = respond(result, "image/png")
    assert Image.open(io.BytesIO(bytes(png.body))).format == "PNG"
    assert bytes(respond(result, "text/csv").body).startswith(b"image,class")


def test_every_image_is_looked_at_whatever_is_annotated(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        Image.fromarray(np.full((64, 64), 90, np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "a.xml").write_text("<annotation><object>")  # damaged, and of one image alone
    (tmp_path / "b.txt").write_text("0 0.5 0.5 0.1 0.1")
    (tmp_path / "c.png").write_bytes(b"")
    said: list[str] = []
    monkeypatch.setattr(run, "note", said.append)
    table = run.detect(str(tmp_path), threshold=0).table
    assert {Path(name).name for name in table["image"]} == {"a.png", "b.png"}
    assert run.detect(str(tmp_path), threshold=1).table.is_empty()
    assert "1 of 3 images skipped as unreadable" in said[0] and "c.png" in said[0]
    assert said[-1] == "no box scores 1 or more, in 2 images"


def test_evaluate_measures_each_class(run: Run) -> None:
    score = run.evaluate()
    assert 0 <= score["map"] <= score["map50"] <= 1
    assert [n for n in score.values if n.startswith("ap50_")] == [f"ap50_{i}" for i in range(10)]
    per_class = [v for n, v in score.values.items() if n.startswith("ap50_")]
    assert score["map50"] == pytest.approx(np.mean(per_class))
    assert "50 images" in score.notes[0]
    kept = [line for line in run.metrics.lines if "valid.map50" in line]
    assert kept, "the validation split is measured by its precision"


def test_boxes_that_are_ignored_are_none_to_find(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    data = copy.copy(run.examples())
    assert isinstance(data, BoxData)
    every = torch.ones_like(data.examples.ignored)
    monkeypatch.setattr(data, "_examples", data.examples._replace(ignored=every))
    monkeypatch.setattr(run, "examples", lambda: data)
    with pytest.raises(UserError, match="there is no box to find"):
        run.evaluate()


def test_precision_is_drawn_where_there_is_nothing_to_find() -> None:
    assert precision_recall_of_boxes([], []).png.startswith(b"\x89PNG")


def test_opened_again_it_finds_the_same(run: Run, images: Path) -> None:
    assert run.folder is not None
    again = fourfold.open(run.folder)
    assert again.detect(str(images)).table.equals(run.detect(str(images)).table)
    with torch.no_grad():
        titles = [p.title for p in again.system.pictures(again)]
    assert titles == [
        "Detections",
        "Precision and recall of each class",
        "What augmentation does to a batch",
    ]


def test_refusals(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--threshold: expected a score from 0 to 1, got 2"):
        run.detect("x.png", threshold=2)
    with pytest.raises(UserError, match="no such file"):
        run.detect(str(tmp_path / "none.png"))
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="no image opens"):
        run.detect(str(tmp_path / "bad.png"))


@pytest.mark.slow
def test_it_learns_to_find_digits() -> None:
    """Chance is below 0.01; a network that cannot place or name stays below 0.3."""
    run = fourfold.fit(Detector, None, out=False, steps=1200)
    assert run.evaluate()["map50"] > 0.8
