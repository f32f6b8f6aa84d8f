"""Lists of images, empty class folders, archives' splits, and decoded images kept in the cache."""

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fourfold.core.errors import UserError
from fourfold.data import image_cache, image_reader
from fourfold.data.images import Images


def photos(folder: Path, count: int = 6) -> Path:
    random = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (folder / kind).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{i:04}.png")
    return folder


def write_list(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def rows(folder: Path) -> list[str]:
    files = sorted(folder.rglob("*.png"))
    return [str(f.relative_to(folder)) for f in files]


def test_a_list_is_its_folder(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    lines = [f"{r},{r.split('/')[0]}" for r in rows(folder)]
    listed = Images().open(write_list(folder / "all.csv", "image,kind\n" + "\n".join(lines)))
    named = Images().open(folder)
    assert listed.classes == ("cat", "dog")
    for split in ("train", "valid", "test"):
        assert torch.equal(listed.pixels(split), named.pixels(split))


def test_a_list_says_labels_and_splits(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    parts = ["train"] * 8 + ["val"] * 2 + ["test"] * 2
    lines = [
        f"{i}\t{r}\t{'猫' if 'cat' in r else '狗'}\t{part}"
        for i, (r, part) in enumerate(zip(rows(folder), parts, strict=True))
    ]
    text = "id\tfile_name\tlabel\tsplit\n" + "\n".join(lines)
    data = Images().open(write_list(folder / "all.tsv", text))
    assert data.classes == ("狗", "猫")
    assert [data.size(s) for s in ("train", "valid", "test")] == [8, 2, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,kind\n", "no rows in it"),
        ("image,kind\na.png,\n", "line 2: no label in column kind"),
        ("image,kind\n,cat\na.png,cat\nb.png,cat\n", "line 2: no path of an image in column image"),
        ("a,b,c\nx.png,1,2\n", r"which column is the label is not clear \(b, c\)"),
        ("a,b\n1,2\n", r"no column holds paths of images \(it has a, b\); name it path"),
        ("image,split\na.png,later\n", "split 'later', expected one of"),
        ("image,kind\nx.png,cat\n", r"does not open \(no such file\)"),
    ],
)
def test_what_is_wrong_with_a_list_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Images().open(write_list(tmp_path / "list.csv", text))


def test_images_of_a_list_that_are_missing_are_counted_or_refused(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    text = "path\n" + "\n".join([*rows(folder), "cat/gone.png"])
    data = Images().open(write_list(folder / "all.csv", text))
    assert data.summary()["skipped"] == 1
    assert "gone.png (no such file)" in data.summary()["notes"][0]
    with pytest.raises(UserError, match="gone.png: does not open"):
        Images(strict=True).open(folder / "all.csv")


def test_an_empty_class_folder_is_told(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    (folder / "bird" / "deep").mkdir(parents=True)
    data = Images().open(folder)
    assert data.classes == ("cat", "dog")
    assert "no images in bird; an empty folder makes no class" in data.summary()["notes"][0]


def test_a_folder_and_an_archive_of_one_split_keep_it(tmp_path: Path) -> None:
    train, test = photos(tmp_path / "a" / "train", 8), photos(tmp_path / "b" / "test", 3)
    with tarfile.open(tmp_path / "test.tar.gz", "w:gz") as archive:
        archive.add(test, "test")
    for held in (test, tmp_path / "test.tar.gz"):
        data = Images().open([train, held])
        assert data.size("test") == 6 and data.size("train") + data.size("valid") == 16


@pytest.mark.parametrize("packed", [False, True])
def test_decoded_images_are_kept_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_cache, "FROM", 10)
    folder = photos(tmp_path / "photos")
    (folder / "cat" / "broken.png").write_text("x")
    source = folder
    if packed:
        source = tmp_path / "photos.tar"
        with tarfile.open(source, "w") as archive:
            archive.add(folder, "photos")
    first = Images().open(source)

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as context:
        context.setattr(image_reader, "decode", refuse)
        context.setattr(image_reader, "probe", refuse)
        again = Images().open(source)
    assert again.summary() == first.summary() and again.fingerprint == first.fingerprint
    assert again.names == first.names
    for split in ("train", "valid", "test"):
        assert torch.equal(again.pixels(split), first.pixels(split))
    with pytest.raises(UserError, match="broken.png: does not open"):
        Images(strict=True).open(source)
    os.utime(source if packed else folder / "cat" / "0000.png", (1, 1))
    monkeypatch.setattr(image_reader, "decode", refuse)
    with pytest.raises(AssertionError, match="decoded again"):
        Images().open(source)
