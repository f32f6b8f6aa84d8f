"""Images with boxes: VOC, COCO and YOLO read alike; letterboxing; what is refused; augmentation against drawn boxes."""

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fourfold.core.errors import UserError
from fourfold.data.box_augment import BoxAugment, augment, follow
from fourfold.data.box_formats import yolo_classes
from fourfold.data.boxes import BoxData, Boxes

WIDE, TALL = 60, 40
SCENES: list[list[tuple[str, tuple[int, int, int, int]]]] = [
    [("cat", (10, 5, 30, 25)), ("dog", (40, 10, 55, 35))],
    [("dog", (0, 0, 20, 20))],
    [],
    [("cat", (5, 5, 50, 35))],
]


def photographs(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(len(SCENES)):
        pixels = np.random.default_rng(i).integers(0, 255, (TALL, WIDE, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def voc(name: str, things: list[tuple[str, tuple[float, ...]]], difficult: bool = False) -> str:
    objects = "".join(
        f"<object><name>{label}</name><difficult>{int(difficult)}</difficult><bndbox><xmin>{b[0]}</xmin>"
        f"<ymin>{b[1]}</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
        for label, b in things
    )
    size = f"<size><width>{WIDE}</width><height>{TALL}</height></size>"
    return f"<annotation><filename>{name}</filename>{size}{objects}</annotation>"


def as_voc(root: Path) -> Path:
    photographs(root / "JPEGImages")
    (root / "Annotations").mkdir()
    for i, things in enumerate(SCENES):
        (root / "Annotations" / f"{i}.xml").write_text(voc(f"{i}.png", list(things)))
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("0\n1\n")
    (lists / "val.txt").write_text("2\n")
    (lists / "test.txt").write_text("3\n")
    return root


def coco_tree() -> dict[str, list[dict[str, object]]]:
    tree: dict[str, list[dict[str, object]]] = {
        "images": [
            {"id": i + 7, "file_name": f"{i}.png", "width": WIDE, "height": TALL}
            for i in range(len(SCENES))
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 18, "name": "dog"}],
        "annotations": [],
    }
    for i, things in enumerate(SCENES):
        for label, (a, b, c, d) in things:
            category = {"cat": 3, "dog": 18}[label]
            tree["annotations"].append(
                {
                    "id": len(tree["annotations"]),
                    "image_id": i + 7,
                    "category_id": category,
                    "bbox": [a, b, c - a, d - b],
                }
            )
    return tree


def as_coco(root: Path) -> Path:
    photographs(root / "images")
    (root / "annotations.json").write_text(json.dumps(coco_tree()))
    return root


def as_yolo(root: Path) -> Path:
    photographs(root / "images")
    (root / "labels").mkdir()
    (root / "data.yaml").write_text("path: .\nnames:\n  0: cat\n  1: dog\n")
    for i, things in enumerate(SCENES):
        lines = [
            f"{['cat', 'dog'].index(label)} {(a + c) / 2 / WIDE} {(b + d) / 2 / TALL} {(c - a) / WIDE} {(d - b) / TALL}"
            for label, (a, b, c, d) in things
        ]
        if things:  # a file without lines and none at all mean the same
            (root / "labels" / f"{i}.txt").write_text("\n".join(lines))
    return root


def opened(source: Path, **options: object) -> BoxData:
    return Boxes(**{"split": (0.5, 0.25, 0.25), **options}).open(str(source))  # type: ignore[arg-type]


def told(data: BoxData) -> dict[str, set[tuple[str, tuple[int, ...]]]]:
    """Of each image its boxes in its own pixels."""
    found = {}
    scenes, boxes, labels = data.examples.scenes, data.examples.boxes, data.examples.labels
    for scene, around, label in zip(scenes, boxes, labels, strict=True):
        real = label >= 0
        corners = (around[real] / scene.scale).round().int().tolist()
        names = [data.classes[i] for i in label[real].tolist()]
        found[Path(scene.name).name] = {(n, tuple(c)) for n, c in zip(names, corners, strict=True)}
    return found


EXPECTED = {f"{i}.png": set(things) for i, things in enumerate(SCENES)}


@pytest.mark.parametrize("write", [as_voc, as_coco, as_yolo])
def test_three_formats_say_the_same(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = opened(write(tmp_path / "set"))
    assert told(data) == EXPECTED and data.classes == ("cat", "dog")
    assert data.summary()["without boxes"] == 1


def test_an_archive_says_the_same_and_lists_split_it(tmp_path: Path) -> None:
    as_voc(tmp_path / "set")
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "set", "VOC")
    data = opened(tmp_path / "set.tar.gz")
    assert told(data) == EXPECTED
    names = {s: [Path(x.name).stem for x in data.scenes(s)] for s in ("train", "valid", "test")}  # type: ignore[arg-type]
    assert names == {"train": ["0", "1"], "valid": ["2"], "test": ["3"]}


def test_folders_name_the_split(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        as_yolo(tmp_path / "set" / part)
    data = opened(tmp_path / "set")
    assert [data.size(s) for s in ("train", "valid", "test")] == [4, 4, 4]


def as_coco_of_parts(root: Path, parts: tuple[str, ...]) -> Path:
    """COCO's own layout: annotations beside folders of images, whose names are the same in each."""
    (root / "annotations").mkdir(parents=True)
    for number, part in enumerate(parts):
        photographs(root / part)
        tree = coco_tree()
        for entry in tree["annotations"]:
            entry["bbox"] = [number, number, 10, 10]
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(tree))
    return root


def test_images_of_one_name_in_several_folders_keep_their_own_boxes(tmp_path: Path) -> None:
    data = opened(as_coco_of_parts(tmp_path / "set", ("train2017", "val2017")), split=(0.5, 0.5, 0))
    for split, folder, corner in (("train", "train2017", 0), ("valid", "val2017", 1)):
        rows = data.examples.rows[split]  # type: ignore[index]
        assert {Path(s.name).parent.name for s in data.scenes(split)} == {folder}  # type: ignore[arg-type]
        real = data.examples.labels[rows] >= 0
        assert (data.examples.boxes[rows][real][:, :2].round() == corner).all() and len(rows) == 4


def test_annotations_of_a_folder_that_is_missing_take_no_other_folders_images(
    tmp_path: Path,
) -> None:
    root = as_coco_of_parts(tmp_path / "set", ("train2017", "val2017"))
    for image in (root / "val2017").iterdir():
        image.unlink()
    data = opened(root)
    assert data.size("train") + data.size("valid") + data.size("test") == 4
    assert "4 of 8 annotations left out as their image is missing" in data.summary()["notes"][0]


def test_an_image_that_is_annotated_twice_is_refused(tmp_path: Path) -> None:
    root = as_coco(tmp_path / "set")
    (root / "more.json").write_text((root / "annotations.json").read_text())
    with pytest.raises(UserError, match=r"0.png: annotated more than once, in .*annotations.json"):
        opened(root)


def test_a_batch_is_letterboxed(tmp_path: Path) -> None:
    data = opened(as_voc(tmp_path / "set"), size=120)
    batch = data.take("train", slice(0, 1), None)
    assert batch["image"].shape == (1, 3, 96, 128)  # 80 x 120 in whole 32s
    scale = 96 / TALL
    assert data.examples.scenes[0].scale == pytest.approx(min(scale, 128 / WIDE))
    edge = round(TALL * data.examples.scenes[0].scale)
    below = batch["image"][0, :, edge + 1 :]
    torch.testing.assert_close(below, torch.full_like(below, 114 / 127.5 - 1))
    torch.testing.assert_close(
        batch["boxes"][0, 0], torch.tensor([10.0, 5, 30, 25]) * data.examples.scenes[0].scale
    )


def broken(root: Path, box: tuple[float, ...]) -> Path:
    as_voc(root)
    things: list[tuple[str, tuple[float, ...]]] = [("cat", (10, 5, 30, 25)), ("cat", box)]
    (root / "Annotations" / "0.xml").write_text(voc("0.png", things))
    return root


@pytest.mark.parametrize(
    ("box", "word"),
    [
        ((70, 5, 90, 25), "outside"),
        ((30, 5, 10, 25), "inverted"),
        ((10, 5, 10, 25), "empty"),
    ],
)
def test_boxes_that_are_none_are_counted_or_refused(
    box: tuple[float, ...], word: str, tmp_path: Path
) -> None:
    source = broken(tmp_path / "set", box)
    data = opened(source)
    assert told(data)["0.png"] == {("cat", (10, 5, 30, 25))}
    (note,) = data.summary()["notes"]
    assert note.startswith("1 ") and word in note and "0.xml" in note
    with pytest.raises(UserError, match=word):
        opened(source, strict=True)


def test_a_box_that_stands_out_is_cut_and_said(tmp_path: Path) -> None:
    data = opened(broken(tmp_path / "set", (40, 20, 80, 50)))
    assert ("cat", (40, 20, WIDE, TALL)) in told(data)["0.png"]
    assert "cut at its edge" in data.summary()["notes"][0]


def test_an_annotation_without_its_image(tmp_path: Path) -> None:
    source = as_voc(tmp_path / "set")
    (source / "JPEGImages" / "1.png").unlink()
    data = opened(source)
    assert "1 of 4 annotations left out" in data.summary()["notes"][0]
    with pytest.raises(UserError, match=r"1\.xml: an annotation for 1\.png, which is not there"):
        opened(source, strict=True)


def test_an_unknown_category_id(tmp_path: Path) -> None:
    source, tree = as_coco(tmp_path / "coco"), coco_tree()
    tree["annotations"][1]["category_id"] = 99
    (source / "annotations.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match="annotation 1: unknown category id 99; there are 3 cat"):
        opened(source)
    source = as_yolo(tmp_path / "yolo")
    (source / "labels" / "0.txt").write_text("5 0.5 0.5 0.1 0.1\n")
    with pytest.raises(UserError, match=r"0\.txt, line 1: unknown category id 5; there are 2"):
        opened(source)


@pytest.mark.parametrize("declared", [True, False])
def test_annotations_in_a_chinese_encoding(declared: bool, tmp_path: Path) -> None:
    root = as_voc(tmp_path / "voc")
    for file in root.rglob("*.xml"):
        text = (
            file.read_text()
            .replace("<name>cat", "<name>红细胞")
            .replace("<name>dog", "<name>血小板")
        )
        head = '<?xml version="1.0" encoding="GBK"?>' if declared else ""
        file.write_bytes((head + text).encode("gbk"))
    assert opened(root).classes == ("红细胞", "血小板")


def test_names_of_classes_in_a_chinese_encoding(tmp_path: Path) -> None:
    root = as_yolo(tmp_path / "yolo")
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_bytes("红细胞\n血小板\n".encode("gbk"))
    (root / "labels" / "2.txt").write_bytes(b"")
    assert opened(root).classes == ("红细胞", "血小板")


def test_images_whose_boxes_are_all_left_out_say_why(tmp_path: Path) -> None:
    root = as_voc(tmp_path / "set")
    for file in root.rglob("*.xml"):
        file.write_text(voc(f"{file.stem}.png", [("cat", (20, 20, 20, 30))]))
    with pytest.raises(
        UserError, match=r"none of the images has a box: .* \(.*empty boxes left out"
    ):
        opened(root)


def test_a_box_of_which_too_little_is_left_loses_its_label() -> None:
    """By hand: moved 30 pixels to the left in a frame of 40 x 40, boxes keep 50%, 20% and all of 1.5 pixels' width."""
    boxes = torch.tensor([[[20.0, 0, 40, 10], [22, 0, 32, 10], [32, 0, 33.5, 10], [35, 0, 39, 4]]])
    labels, matrix = torch.tensor([[0, 1, 2, -1]]), torch.tensor([[1.0, 1.0, -30.0, 0.0]])
    moved, left = follow(boxes, labels, matrix, (40, 40), 0.35)
    assert left.tolist() == [[0, -1, -1, -1]]
    assert moved.tolist() == [[[0, 0, 10, 10], [0] * 4, [0] * 4, [0] * 4]]
    _, kept = follow(boxes, labels, matrix, (40, 40), 0.2)
    assert kept.tolist() == [[0, 1, -1, -1]]


def test_a_folder_of_several_formats(tmp_path: Path) -> None:
    as_voc(tmp_path / "set" / "a")
    as_coco(tmp_path / "set" / "b")
    with pytest.raises(UserError, match="several formats, VOC .* and COCO"):
        opened(tmp_path / "set")


def test_pixels_where_shares_are_expected(tmp_path: Path) -> None:
    source = as_yolo(tmp_path / "set")
    (source / "labels" / "0.txt").write_text("0 30 20 10 10\n")
    with pytest.raises(UserError, match="these look like pixels"):
        opened(source)
    (source / "labels" / "0.txt").write_text("cat 0.5 0.5 0.1 0.1\n")
    with pytest.raises(UserError, match="expected a class number and four shares"):
        opened(source)


def test_no_annotations_and_damaged_ones(tmp_path: Path) -> None:
    photographs(tmp_path / "plain")
    with pytest.raises(UserError, match="4 images without annotations"):
        opened(tmp_path / "plain")
    source = as_voc(tmp_path / "set")
    (source / "Annotations" / "0.xml").write_text("<annotation><object>")
    with pytest.raises(UserError, match=r"0\.xml: damaged XML"):
        opened(source)
    (source / "JPEGImages" / "2.png").write_bytes(b"")
    (source / "Annotations" / "0.xml").write_text(voc("0.png", []))
    data = opened(source)
    assert "1 of 4 images skipped as unreadable" in data.summary()["notes"][0]


def test_difficult_boxes_are_ignored(tmp_path: Path) -> None:
    source = as_voc(tmp_path / "set")
    text = voc("1.png", [("dog", (0, 0, 20, 20))], difficult=True)
    (source / "Annotations" / "1.xml").write_text(text)
    batch = opened(source).take("train", slice(0, 2), None)
    assert batch["ignored"].tolist() == [[False, False], [True, False]]


def test_new_images_are_laid_on_the_same_canvas(tmp_path: Path) -> None:
    data = opened(as_voc(tmp_path / "set"))
    data.save(tmp_path)
    again = data.options.restore(tmp_path)
    Image.new("RGB", (200, 50), "red").save(tmp_path / "new.png")
    looked = again.look_at(str(tmp_path / "new.png"))
    assert looked.shape == data.shape and looked.size("test") == 1
    more = again.reopen(str(as_yolo(tmp_path / "more")), whole=True)
    assert more.size("test") == 4 and more.classes == data.classes


def test_classes_of_a_list_or_a_yaml() -> None:
    for text in (
        "names: [cat, 'dog']\nnc: 2",
        "nc: 2\nnames:\n- cat\n- dog\nval: x",
        "names: {0: cat, 1: dog}",
    ):
        assert yolo_classes(text, "data.yaml") == ["cat", "dog"]
    assert yolo_classes("猫\n狗\n", "classes.txt") == ["猫", "狗"]
    with pytest.raises(UserError, match="names no classes"):
        yolo_classes("nc: 2", "data.yaml")


def test_the_embedded_scenes_have_their_digits_where_they_say() -> None:
    data = Boxes().open(None)
    assert [data.size(s) for s in ("train", "valid", "test")] == [400, 50, 50]
    images, boxes, labels = data.examples.images, data.examples.boxes, data.examples.labels
    for image, around, label in zip(images[:50], boxes[:50], labels[:50], strict=True):
        bright = (image[0] > 100).float()
        for left, top, right, bottom in around[label >= 0].int().tolist():
            assert bright[top:bottom, left:right].sum() > 5
            bright[top:bottom, left:right] = 0
        assert bright.sum() == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 0.6), st.booleans())
def test_augmented_boxes_are_those_of_augmented_drawings(
    seed: int, scale: float, vertical: bool
) -> None:
    draw = np.random.default_rng(seed)
    height, width, count = 96, 128, 3
    boxes = torch.zeros(2, count, 4)
    images = torch.full((2, count, height, width), -1.0)  # each box in a channel of its own
    for i in range(2):
        for j in range(count):
            low = draw.integers(0, [width - 12, height - 12])
            side = draw.integers(12, 50, 2)
            high = np.minimum(low + side, [width, height])
            boxes[i, j] = torch.from_numpy(np.concatenate([low, high])).float()
            images[i, j, low[1] : high[1], low[0] : high[0]] = 1.0
    labels = torch.zeros(2, count, dtype=torch.int64)
    options = BoxAugment(scale=scale, flip_vertical=vertical, colour=0, keep=0.01)
    moved, around, left = augment(images, boxes, labels, options, [[seed, 1], [seed, 2]])
    for i in range(2):
        for j in range(count):
            drawn = (moved[i, j] > 0.5).nonzero()
            if left[i, j] < 0:
                assert len(drawn) == 0 or min(np.ptp(drawn.numpy(), axis=0)) <= 4
                continue
            top, start = drawn.min(0).values.tolist()
            bottom, end = (drawn.max(0).values + 1).tolist()
            seen = torch.tensor([start, top, end, bottom]).float()
            assert (around[i, j] - seen).abs().max() <= 1.0, (around[i, j], seen)


def test_augmentation_is_fixed_by_epoch_and_number() -> None:
    data = Boxes(batch=4).open(None)
    both = data.take("train", np.arange(4), 1), data.take("train", np.arange(2, 4), 1)
    assert torch.equal(both[0]["image"][2:], both[1]["image"])
    assert torch.equal(both[0]["boxes"][2:], both[1]["boxes"])
    assert not torch.equal(both[0]["image"], data.take("train", np.arange(4), 2)["image"])
    plain = data.take("train", slice(0, 4), None)
    assert torch.equal(plain["boxes"], data.examples.boxes[data.examples.rows["train"][:4]])


def test_grey_images_are_not_mirrored_unless_told() -> None:
    """They may be digits, as the embedded ones are, of which a mirrored one is another or none."""
    half = torch.full((8, 1, 32, 64), -1.0)
    half[..., :32] = 1.0
    nothing = torch.zeros(8, 1, 4), torch.full((8, 1), -1)
    keys = [[0, i] for i in range(8)]

    def mirrored(images: torch.Tensor, **options: bool) -> int:
        moved, _, _ = augment(images, *nothing, BoxAugment(scale=0, colour=0, **options), keys)
        return int((moved[:, 0, 0, 0] < 0).sum())

    assert mirrored(half) == 0 and 0 < mirrored(half, flip=True) < 8
    colour = half.expand(-1, 3, -1, -1)
    assert 0 < mirrored(colour) < 8 and mirrored(colour, flip=False) == 0


def test_images_that_training_holds_too_are_told(tmp_path: Path) -> None:
    root = as_coco_of_parts(tmp_path / "set", ("train", "val"))  # the same photographs in both
    said = "4 of 4 images of the valid split were trained on, pixel by pixel the same (first "
    data = opened(root, split=(0.5, 0.5, 0))
    assert [note.startswith(said) for note in data.summary()["notes"]] == [True]
    data.save(tmp_path)
    again = Boxes(split=(0.5, 0.5, 0)).restore(tmp_path)
    whole = again.reopen(str(as_voc(tmp_path / "other")), whole=True)
    assert whole.summary()["notes"][-1].startswith("4 of 4 images of the test split were trained")
    plain = again.look_at(str(root / "val"))
    assert not plain.summary()["notes"]


@pytest.mark.skipif("FOURFOLD_DATA" not in os.environ, reason="FOURFOLD_DATA is not set")
def test_blood_cells_from_the_catalog() -> None:
    data = Boxes(size=64).open("bccd")
    assert [data.size(s) for s in ("train", "valid", "test")] == [205, 87, 72]
    assert data.classes == ("Platelets", "RBC", "WBC")
    assert sum(data.summary()["boxes"].values()) == 4888 - 2  # two are empty
