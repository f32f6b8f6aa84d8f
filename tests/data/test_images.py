"""Images: every kind of file and array becomes one tensor; what is wrong is named, counted or refused."""

import gzip
import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from fourfold.core.errors import UserError
from fourfold.data.images import ImageData, Images


def pixels(count: int = 10, size: int = 8, channels: int = 1, seed: int = 0) -> np.ndarray:
    shape = (count, size, size) if channels == 1 else (count, size, size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(folder: Path, images: np.ndarray, suffix: str = ".png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03}{suffix}")
    return folder


def everything(data: ImageData) -> torch.Tensor:
    """All splits' images together, (N, C, H, W) uint8."""
    return torch.cat([data.pixels(s) for s in ("train", "valid", "test")])


def same_set(a: torch.Tensor, b: np.ndarray) -> bool:
    return sorted(bytes(x.numpy()) for x in a) == sorted(
        np.ascontiguousarray(x).tobytes() for x in b
    )


# --- what comes out --------------------------------------------------------------------------------


def test_embedded_digits_are_scikit_learns() -> None:
    digits, data = load_digits(), Images().open(None)
    assert data.shape == (1, 8, 8) and data.classes == tuple("0123456789") and data.unit == "images"
    assert [data.size(s) for s in ("train", "valid", "test")] == [1437, 180, 180]
    expected = {
        image.tobytes(): int(label)
        for image, label in zip(digits.images, digits.target, strict=True)
    }
    seen = 0
    for split in ("train", "valid", "test"):
        for batch in data.batches(split):
            assert batch["image"].dtype == torch.float32 and batch["label"].dtype == torch.int64
            levels = np.rint((batch["image"].numpy()[:, 0] + 1) * 8).astype(np.float64)
            for image, label in zip(levels, batch["label"].tolist(), strict=True):
                assert expected[image.tobytes()] == label
                seen += 1
    assert seen == 1797


def test_values_are_exact_and_in_range() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(10, axis=0)
    batch = next(iter(Images(batch=4).open(image).batches("train")))["image"]
    expected = torch.arange(256, dtype=torch.float64).reshape(16, 16) / 127.5 - 1
    torch.testing.assert_close(batch[0, 0].double(), expected, rtol=0, atol=1e-6)
    assert batch.shape == (4, 1, 16, 16) and batch.min() == -1 and batch.max() == 1


@settings(deadline=None, max_examples=25)
@given(st.integers(3, 60), st.integers(1, 9), st.integers(0, 5), st.integers(0, 3))
def test_each_epoch_is_every_image_once(count: int, batch: int, seed: int, epoch: int) -> None:
    images = np.arange(count, dtype=np.uint8)[:, None, None].repeat(2, axis=1)
    data = Images(batch=batch).open(images, seed=seed)
    splits = {s: data.pixels(s)[:, 0, 0, 0].tolist() for s in ("train", "valid", "test")}
    assert sorted(sum(splits.values(), [])) == list(range(count)) and all(splits.values())
    again = Images(batch=batch).open(images, seed=seed)
    passes = [
        torch.cat([b["image"][:, 0, 0, 0] for b in opened.batches("train", epoch=epoch)])
        for opened in (data, again)
    ]
    assert torch.equal(*passes)  # fixed by (seed, epoch)
    assert ((passes[0] + 1) * 127.5).round().long().sort().values.tolist() == splits["train"]


def test_position_resumes_exactly() -> None:
    def rest(data: ImageData) -> list[torch.Tensor]:
        return [b["image"] for b in data.batches("train", epoch=3)]

    whole = rest(Images(batch=4).open(pixels(40)))
    data = Images(batch=4).open(pixels(40))
    iterator = data.batches("train", epoch=3)
    next(iterator), next(iterator)
    again = Images(batch=4).open(pixels(40))
    again.load_state_dict(data.state_dict())
    for ours, theirs in zip(rest(again), whole[2:], strict=True):
        assert torch.equal(ours, theirs)


# --- sources ---------------------------------------------------------------------------------------


def test_folder_globs_and_files_agree(tmp_path: Path) -> None:
    images = pixels(6)
    folder = write(tmp_path / "set", images)
    (folder / "notes.txt").write_text("x")
    (folder / ".hidden.png").write_text("x")
    data = Images().open(folder)
    assert same_set(everything(data), images) and data.classes == () and data.shape == (1, 8, 8)
    assert "1 files that are no images (.txt) were left out" in data.summary()["notes"][0]
    assert "label" not in next(iter(data.batches("train")))
    for sources in (str(folder / "*.png"), sorted(folder.glob("0*.png"))):
        assert same_set(everything(Images().open(sources)), images)


def test_folder_per_class_and_given_splits(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("test", 3)):
        for kind in ("dog", "cat"):
            write(tmp_path / split / kind, pixels(count, seed=10 * len(split) + ord(kind[0])))
    data = Images().open(tmp_path)
    assert data.classes == ("cat", "dog") and data.size("test") == 6
    assert data.size("train") + data.size("valid") == 12 and data.summary()["classes"] == {
        "cat": 9,
        "dog": 9,
    }
    flat = Images().open(tmp_path / "train")
    assert (
        flat.classes == ("cat", "dog")
        and sum(flat.size(s) for s in ("train", "valid", "test")) == 12
    )


def test_numeric_classes_sort_as_numbers(tmp_path: Path) -> None:
    for kind in ("2", "10", "1"):
        write(tmp_path / kind, pixels(2))
    assert Images().open(tmp_path).classes == ("1", "2", "10")


def test_loose_images_beside_class_folders_drop_the_labels(tmp_path: Path) -> None:
    write(tmp_path, pixels(2))
    write(tmp_path / "a", pixels(2))
    data = Images().open(tmp_path)
    assert (
        data.classes == ()
        and "2 images lie outside the class folders" in data.summary()["notes"][0]
    )


def test_archives_equal_the_folder(tmp_path: Path) -> None:
    for kind in ("a", "b"):
        write(tmp_path / "set" / kind, pixels(3, seed=ord(kind)))
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "set", "set")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in (tmp_path / "set").rglob("*.png"):
            archive.write(path, path.relative_to(tmp_path))
    folder = Images().open(tmp_path / "set")
    for name in ("set.tar.gz", "set.zip"):
        data = Images().open(tmp_path / name)
        assert data.classes == ("a", "b") and torch.equal(everything(data), everything(folder))


def idx(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


def test_idx_files_with_labels_and_split(tmp_path: Path) -> None:
    images, labels = pixels(9), np.array([3, 7, 3] * 3, np.uint8)
    for part, rows in (("train", slice(0, 6)), ("t10k", slice(6, 9))):
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images[rows])))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels[rows])))
    data = Images().open(tmp_path)
    assert data.classes == ("3", "7") and same_set(data.pixels("test"), images[6:])
    assert [b["label"].tolist() for b in data.batches("test")] == [[0, 1, 0]]


@pytest.mark.parametrize("names", [("train_images", "train_labels"), ("x_train", "y_train")])
def test_npz_pairs_images_and_labels(tmp_path: Path, names: tuple[str, str]) -> None:
    images, labels = pixels(8), np.arange(8)[:, None] % 2
    test = (name.replace("train", "test") for name in names)
    more = dict(zip(test, (images[:3], labels[:3]), strict=True))
    np.savez(tmp_path / "set.npz", **{names[0]: images, names[1]: labels}, **more)
    data = Images().open(tmp_path / "set.npz")
    assert data.classes == ("0", "1") and same_set(data.pixels("test"), images[:3])
    np.save(tmp_path / "set.npy", images)
    assert same_set(everything(Images().open(tmp_path / "set.npy")), images)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", ["uint8", "unit", "symmetric", "bytes as floats", "tensor"])
def test_arrays_of_every_form_are_the_same_images(form: str, channels: int) -> None:
    images = pixels(10, channels=channels)
    images.flat[:2] = 0, 255
    given: Any = {
        "uint8": images,
        "unit": images / 255,
        "symmetric": (images / 127.5 - 1).astype(np.float32),
        "bytes as floats": images.astype(np.float64),
        "tensor": torch.from_numpy(
            images if channels == 1 else images.transpose(0, 3, 1, 2).copy()
        ),
    }[form]
    data = Images().open((given, list("ab" * 5)))
    expected = images[:, None] if channels == 1 else images.transpose(0, 3, 1, 2)
    assert same_set(everything(data), expected) and data.classes == ("a", "b")


def test_the_range_of_training_holds_for_later_arrays() -> None:
    data = Images().open(np.linspace(-1, 1, 160).reshape(10, 4, 4))
    later = data.reopen(np.full((2, 4, 4), 0.5), whole=True)  # alone, 0.5 might also mean [0, 1]
    assert later.pixels("test").unique().tolist() == [191]
    with pytest.raises(UserError, match=r"values from 0.5 to 2, expected \[-1, 1\] as in training"):
        data.reopen(np.array([[[0.5, 2.0]]]), whole=True)


def test_a_validation_source_of_its_own(tmp_path: Path) -> None:
    train, valid = pixels(10), pixels(4, seed=1)
    data = Images().open(train, valid=valid)
    assert same_set(data.pixels("valid"), valid) and data.size("train") + data.size("test") == 10


# --- kinds of image --------------------------------------------------------------------------------


def one(tmp_path: Path, image: Image.Image, name: str = "x.png", **options: Any) -> np.ndarray:
    folder = tmp_path / "one"
    folder.mkdir(exist_ok=True)
    for i in range(3):
        image.save(folder / f"{i}{name}", **{k: v for k, v in options.items() if k != "channels"})
    return Images(channels=options.get("channels")).open(folder).pixels("train")[0].numpy()


def test_transparency_stands_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[..., 0], rgba[:4, :, 3], rgba[4:, :, 3] = 200, 255, 0
    pixels_ = one(tmp_path, Image.fromarray(rgba))
    assert pixels_[:, 0, 0].tolist() == [200, 0, 0] and pixels_[:, 7, 7].tolist() == [255] * 3
    array = Images().open(np.stack([rgba] * 3)).pixels("train")[0]
    np.testing.assert_array_equal(array, pixels_)


def test_palettes_keep_their_colours(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) % 2, "P")
    image.putpalette([255, 0, 0, 0, 0, 255] + [0, 0, 0] * 254)
    assert one(tmp_path, image)[:, 0, :2].T.tolist() == [[255, 0, 0], [0, 0, 255]]


def test_sixteen_bits_are_scaled_not_cut(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    got = one(tmp_path, Image.fromarray(deep))
    np.testing.assert_allclose(got[0], deep / 257, atol=0.5)
    np.testing.assert_array_equal(Images().open(np.stack([deep] * 3)).pixels("train")[0], got)


UPRIGHT = {  # what makes a stored image upright, by the orientation that a camera writes (EXIF 2.3, table 8)
    1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud,
    5: np.transpose, 6: lambda x: np.rot90(x, -1), 7: lambda x: np.rot90(x, 2).T, 8: np.rot90,
}  # fmt: skip


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_photographs_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 16), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = one(tmp_path, Image.fromarray(image), exif=exif)
    np.testing.assert_array_equal(got[0], UPRIGHT[orientation](image))


def test_grey_from_rgb_is_pillows(tmp_path: Path) -> None:
    images = pixels(10, channels=3)
    ours = everything(Images(channels="grey").open(images))
    assert same_set(
        ours, np.stack([np.asarray(Image.fromarray(i).convert("L"))[None] for i in images])
    )
    files = Images(channels="grey").open(write(tmp_path / "x", images))
    assert same_set(everything(files), ours.numpy())
    rgb = everything(Images(channels="rgb").open(pixels(4)))
    assert rgb.shape == (4, 3, 8, 8) and torch.equal(rgb[:, 0], rgb[:, 2])


def test_mixed_sizes_take_the_most_frequent_and_say_so(tmp_path: Path) -> None:
    write(tmp_path, pixels(5, size=8))
    write(tmp_path / "more", pixels(2, size=16))
    data = Images().open(str(tmp_path / "**" / "*.png"))
    assert data.shape == (1, 8, 8) and data.summary()["resized"] == 2
    assert "2 of 7 images scaled to 8 x 8" in data.summary()["notes"][0]
    assert Images(size=4).open(tmp_path / "more" / "..").shape == (1, 4, 4)


def test_resizing_keeps_proportions(tmp_path: Path) -> None:
    wide = np.zeros((3, 8, 32), np.uint8)
    wide[:, :, 12:20] = 255  # only the middle 8 x 8 is left
    for source in (wide, write(tmp_path / "wide", wide)):
        assert Images(size=8).open(source).pixels("train").min() == 255


def test_several_frames_are_counted(tmp_path: Path) -> None:
    frames = [Image.fromarray(p) for p in pixels(2)]
    for i in range(3):
        frames[0].save(tmp_path / f"{i}.gif", save_all=True, append_images=frames[1:])
    assert (
        "3 of 3 images have several frames; the first was taken"
        in Images().open(tmp_path).summary()["notes"]
    )


# --- preparation -----------------------------------------------------------------------------------


def test_save_and_restore_treat_other_images_alike(tmp_path: Path) -> None:
    data = Images().open((pixels(10, channels=3), ["b", "a"] * 5))
    data.save(tmp_path)
    restored = Images().restore(tmp_path)
    assert restored.fingerprint == data.fingerprint and restored.summary() == data.summary()
    assert (restored.shape, restored.classes, restored.size("test")) == (
        data.shape,
        data.classes,
        0,
    )
    with pytest.raises(ValueError, match="reopen brings them"):
        restored.pixels("test")
    later = restored.reopen((pixels(2, size=16), ["b", "b"]), whole=True)
    batch = next(iter(later.batches("test")))
    assert batch["image"].shape == (2, 3, 8, 8) and batch["label"].tolist() == [1, 1]
    strange = restored.reopen((pixels(2), ["b", "c"]), whole=True)
    assert "training had no class c (it had a, b)" in strange.summary()["notes"][0]
    assert "label" not in next(iter(strange.batches("test")))


def test_the_fingerprint_follows_content_and_preparation(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", pixels(5))
    first = Images().open(folder).fingerprint
    assert first == Images(batch=7).open(folder).fingerprint
    assert first != Images(size=4).open(folder).fingerprint
    Image.fromarray(pixels(1, seed=9)[0]).save(folder / "002.png")
    assert first != Images().open(folder).fingerprint


# --- bad input -------------------------------------------------------------------------------------


def test_broken_images_are_named_and_counted_or_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", pixels(6, size=32))
    (folder / "a_empty.png").write_bytes(b"")
    (folder / "b_text.png").write_text("no image")
    whole = (folder / "000.png").read_bytes()
    (folder / "c_cut.png").write_bytes(whole[: len(whole) // 2])
    data = Images().open(folder)
    assert data.summary()["skipped"] == 3 and same_set(everything(data), pixels(6, size=32))
    (note,) = data.summary()["notes"]
    assert note.startswith("3 of 9 images skipped as unreadable: ")
    for part in (
        "a_empty.png (empty, 0 bytes)",
        "b_text.png (not an image that Pillow knows)",
        "c_cut.png (",
    ):
        assert part in note
    with pytest.raises(UserError, match="a_empty.png: does not open \\(empty, 0 bytes\\)"):
        Images(strict=True).open(folder)
    (folder / "a_empty.png").unlink(), (folder / "b_text.png").unlink()
    with pytest.raises(UserError, match="c_cut.png: does not open"):
        Images(strict=True).open(folder)


def test_nothing_that_opens_is_an_error(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"0.png: does not open .* nor do the other 2"):
        Images().open(tmp_path)


def test_a_folder_without_images_says_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"no images in this folder \(found 1 .txt; expected"):
        Images().open(tmp_path)
    with pytest.raises(UserError, match="no file matches this pattern"):
        Images().open(str(tmp_path / "*.png"))
    with pytest.raises(UserError, match="found nothing"):
        Images().open(write(tmp_path / "none", pixels(0)))


def test_a_path_that_does_not_exist_offers_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "faces", pixels(3))
    with pytest.raises(UserError, match=r"facse: no such file.*did you mean .*faces\?"):
        Images().open(tmp_path / "facse")
    with pytest.raises(UserError, match=r"did you mean mnist\?"):
        Images().open("mnits")
    with pytest.raises(
        UserError, match="housing: in the catalog as table, expected images or sound"
    ):
        Images().open("housing")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((8, 8)), r"got shape \(8, 8\); one image is array\[None\]"),
        (np.zeros((4, 5, 8, 8)), r"expected 1, 3 or 4 channels, got shape \(4, 5, 8, 8\)"),
        (np.zeros((0, 8, 8)), r"got shape \(0, 8, 8\)"),
        (np.full((4, 8, 8), 300), r"values from 300 to 300, expected \[0, 255\]"),
        (
            np.full((4, 8, 8), -3.0),
            r"values from -3 to -3, expected \[0, 1\], \[-1, 1\] or \[0, 255\]",
        ),
        (np.zeros((4, 8, 8), complex), "expected numbers, got complex128"),
        (np.array([[["a"]]], dtype=object), "expected numbers, got Python objects"),
        ((np.zeros((4, 8, 8)), np.zeros(3)), r"one label for each of 4 images, got shape \(3,\)"),
        ([np.zeros((8, 8)), np.zeros((9, 9))], r"expected equal shapes, got \(8, 8\) and \(9, 9\)"),
    ],
)
def test_arrays_that_are_no_images_are_refused(array: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Images().open(array)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_named_with_its_place(value: float) -> None:
    images = np.zeros((4, 8, 8))
    images[2, 3, 5] = value
    with pytest.raises(UserError, match=rf"image 2: {value} at \(0, 3, 5\), expected numbers"):
        Images().open(images)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_images_to_split(count: int) -> None:
    with pytest.raises(UserError, match=f"{count} images?: too few to split .* at least 3"):
        Images().open(pixels(count))
    assert Images(split=(1, 0, 0)).open(pixels(count)).size("train") == count


def test_damaged_files_of_arrays_are_named(tmp_path: Path) -> None:
    cut = idx(pixels(4))[:-10]
    cases = {
        "a-images-idx3-ubyte": (cut, "promises 256 bytes"),
        "b-images-idx3-ubyte": (b"hello world", "not an IDX file"),
        "c-images-idx3-ubyte": (b"\0\0\x08\x03\0", "ends within its header"),
        "d-images-idx3-ubyte.gz": (gzip.compress(cut)[:-9], "damaged gzip file"),
        "e.npy": (b"\x93NUMPY broken", "not a NumPy file"),
        "f.npz": (b"PK broken", "not a NumPy file"),
        "g.tar.gz": (b"\x1f\x8b broken", "damaged archive"),
        "h.zip": (b"PK broken", "damaged archive"),
        "i-labels-idx1-ubyte": (idx(np.zeros(3, np.uint8)), "labels without their images"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: .*{message}"):
            Images().open(tmp_path / name)
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "j.npy").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="j.npy: not a NumPy file of numbers"):
        Images().open(tmp_path / "j.npy")


def test_more_than_memory_is_refused_with_a_size_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourfold.data.pixels.available_memory", lambda device: 1000)
    with pytest.raises(UserError, match=r"10 images of 32 x 32 need .* --data.size 8 would fit"):
        Images().open(pixels(10, size=32))


@pytest.mark.parametrize("split", [(0.5, 0.5, 0.5), (0, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_shares_must_add_up(split: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="three shares that add up to 1"):
        Images(split=split)


def test_real_sets() -> None:
    root = os.environ.get("FOURFOLD_DATA")
    if not root:
        pytest.skip("FOURFOLD_DATA is not set: no real data sets here")
    data = Images().open("mnist-test")
    assert data.shape == (1, 28, 28) and data.summary()["images"] == 10_000
    assert data.summary()["classes"]["7"] == 1028  # as published
    data = Images(size=32).open(Path(root) / "brain-mri-tumor")
    assert data.summary()["classes"] == {"no": 98, "yes": 155} and data.shape == (3, 32, 32)
