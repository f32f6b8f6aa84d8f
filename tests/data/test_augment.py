"""Augmentation against slow references one image, one pixel, one box at a time."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from fourfold.data import augment
from fourfold.data.augmentation import Augmentation, Draws, scaled
from fourfold.data.rand_augment import (
    CHANGES,
    equalize,
    posterize,
    rand_augment,
    sharpness,
    solarize,
)


def images(count: int = 5, channels: int = 3, height: int = 7, width: int = 9) -> Tensor:
    shape, random = (count, channels, height, width), torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)


def drawn(u: list[float]) -> Tensor:
    return torch.tensor(u)


# --- moving pixels ---------------------------------------------------------------------------------


def test_flip_mirrors_the_chosen_and_says_where_points_went() -> None:
    x = images(3)
    moved, affine = augment.flip(x, torch.tensor([True, False, True]))
    for b, mirrored in enumerate((True, False, True)):
        assert np.array_equal(moved[b].numpy(), x[b].numpy()[:, :, ::-1] if mirrored else x[b])
    assert (affine[0] @ torch.tensor([0.5, 2.5, 1.0])).tolist() == [8.5, 2.5]
    assert torch.equal(affine[1], augment.still(1)[0])


@settings(deadline=None, max_examples=30)
@given(st.integers(-6, 6), st.integers(-6, 6), st.integers(1, 3))
def test_shift_is_a_crop_of_the_image_padded_by_reflection(
    right: int, down: int, channels: int
) -> None:
    x = images(2, channels)
    moved, affine = augment.shift(x, torch.tensor([right, 0]), torch.tensor([down, 1]))
    padded = np.pad(x[0].numpy(), ((0, 0), (6, 6), (6, 6)), mode="reflect")
    expected = padded[:, 6 - down : 13 - down, 6 - right : 15 - right]
    assert np.array_equal(moved[0].numpy(), expected)
    assert (affine[0] @ torch.tensor([1.0, 2.0, 1.0])).tolist() == [1 + right, 2 + down]
    with pytest.raises(ValueError, match="less than the size"):
        augment.shift(x, torch.tensor([9, 0]), torch.tensor([0, 0]))


def warped_slowly(image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Bilinear interpolation, pixel by pixel, from where each comes from; the edge goes on outside."""
    channels, height, width = image.shape
    linear, offset = np.linalg.inv(affine[:, :2]), affine[:, 2]
    out = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            x, y = linear @ (np.array([column + 0.5, row + 0.5]) - offset) - 0.5
            x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
            left, top = min(int(x), width - 2), min(int(y), height - 2)
            a, b = x - left, y - top
            corner = image[:, top : top + 2, left : left + 2]
            above = (1 - a) * corner[:, 0, 0] + a * corner[:, 0, 1]
            below = (1 - a) * corner[:, 1, 0] + a * corner[:, 1, 1]
            out[:, row, column] = (1 - b) * above + b * below
    return out


@settings(deadline=None, max_examples=20)
@given(st.floats(-180, 180), st.floats(0.5, 2.0), st.floats(-0.5, 0.5))
def test_warp_equals_interpolation_pixel_by_pixel(angle: float, zoom: float, shear: float) -> None:
    x = images(1).double() / 255
    affine = augment.turned(
        (7, 9), drawn([angle]).double(), drawn([zoom]).double(), drawn([shear]).double()
    )
    slow = warped_slowly(x[0].numpy(), affine[0].numpy())
    np.testing.assert_allclose(augment.warp(x, affine)[0], slow, atol=1e-5)


def test_turning_is_clockwise_about_the_middle_and_chains() -> None:
    quarter = augment.turned((8, 8), drawn([90.0]), drawn([1.0]))
    x = images(1, 1, 8, 8).float()
    torch.testing.assert_close(
        augment.warp(x, quarter)[0, 0], torch.rot90(x[0, 0], -1), atol=1e-3, rtol=0
    )
    whole = quarter
    for _ in range(3):
        whole = augment.chained(whole, quarter)
    torch.testing.assert_close(whole, augment.still(1), atol=1e-4, rtol=0)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(4, 20),
    st.integers(4, 20),
    st.integers(0, 99),
)
def test_boxes_follow_as_if_they_were_drawn(
    left: int, top: int, wide: int, high: int, seed: int
) -> None:
    """A box painted into the image, moved with it, is found where the moved box says."""
    size = 64
    right, bottom = min(left + wide, size), min(top + high, size)
    picture = torch.zeros(1, 1, size, size)
    picture[..., top:bottom, left:right] = 1
    u = torch.from_numpy(np.random.default_rng(seed).random(4)).float()
    affine = augment.turned((size, size), 90 * (4 * u[:1]).floor(), 0.7 + 0.5 * u[1:2])
    picture = torch.nn.functional.pad(picture, (32, 32, 32, 32))  # the edge pixels go on outside
    outer = affine.clone()  # the same map, seen from the padded picture
    outer[0, :, 2] += 32 - affine[0, :, :2] @ torch.tensor([32.0, 32.0])
    found = (augment.warp(picture, outer)[0, 0, 32:-32, 32:-32] > 0.5).nonzero()
    boxes = torch.tensor([[left, top, right, bottom]]).float()
    moved, kept = augment.move_boxes(boxes, affine, (size, size))
    assert 0 <= float(kept) <= 1 + 1e-5
    if not len(found) or float(kept) < 0.2:
        return
    edges = torch.cat([found.amin(0).flip(0), found.amax(0).flip(0) + 1]).float()
    torch.testing.assert_close(moved[0], edges, atol=1.01, rtol=0)


def test_boxes_report_what_is_left_of_them() -> None:
    affine = augment.still(1)
    affine[0, 0, 2] = -10
    boxes = torch.tensor([[0.0, 0, 20, 10], [0, 0, 5, 5]])
    moved, kept = augment.move_boxes(boxes, affine[0], (32, 32))
    assert moved.tolist() == [[0, 0, 10, 10], [0, 0, 0, 5]] and kept.tolist() == [0.5, 0]


def test_masks_follow_without_new_values() -> None:
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    mask[..., 2:5, 1:4] = 7
    moved = augment.move_masks(mask, augment.flip(mask, torch.tensor([True]))[1])
    assert torch.equal(moved, mask.flip(3)) and moved.dtype == torch.uint8


# --- changing values -------------------------------------------------------------------------------


def test_colour_image_by_image() -> None:
    x = scaled(images(3))
    brightness, contrast, saturation = drawn([0.1, -0.2, 0]), drawn([0.5, 1, 2]), drawn([1, 0, 0.3])
    changed = augment.colour(x, brightness, contrast, saturation)
    for b in range(3):
        one = x[b].double().numpy()
        grey = 0.299 * one[0] + 0.587 * one[1] + 0.114 * one[2]
        one = grey + (one - grey) * float(saturation[b])
        one = one.mean() + (one - one.mean()) * float(contrast[b]) + float(brightness[b])
        np.testing.assert_allclose(changed[b], one.clip(-1, 1), atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 1), st.floats(0.2, 5), st.floats(0, 1), st.floats(0, 1))
def test_boxes_of_an_area_are_cut_at_the_edge(a: float, aspect: float, x: float, y: float) -> None:
    size = (20, 30)
    box = augment.box_of(drawn([a]), drawn([aspect]), drawn([x]), drawn([y]), size)[0]
    high, wide = (a / aspect) ** 0.5 * 20, (a * aspect) ** 0.5 * 30
    for value, middle, half, most in zip(
        box.tolist(), (x * 30, y * 20) * 2, (-wide, -high, wide, high), (30, 20) * 2, strict=True
    ):
        assert abs(value - min(max(middle + half / 2, 0), most)) <= 0.501
    painted = augment.erase(torch.ones(1, 2, *size), box[None], -1.0)
    assert int((painted == -1).sum()) == 2 * int((box[2] - box[0]) * (box[3] - box[1]))


# --- mixing ----------------------------------------------------------------------------------------


def test_mixup_and_cutmix_shares_by_hand() -> None:
    x = torch.arange(3).float().view(3, 1, 1, 1).expand(3, 1, 4, 5)
    mixed = augment.mixup(x, drawn([0.75, 0.5, 1.0]))
    assert mixed[:, 0, 0, 0].tolist() == [0.75 * 0 + 0.25 * 2, 1.0, 2.0]
    places = torch.tensor([[1, 1, 3, 3], [0, 0, 0, 0], [0, 0, 5, 4]])
    pasted, share = augment.cutmix(x, places)
    assert share.tolist() == pytest.approx([1 - 4 / 20, 1.0, 0.0])
    assert pasted[0, 0].sum() == 4 * 2 and pasted[2].sum() == 0
    for b in range(3):  # the share is that of the pixels that are the image's own
        own = float((pasted[b] == x[b]).float().mean())
        assert own == pytest.approx(float(share[b])) or b == 1


# --- RandAugment -----------------------------------------------------------------------------------


def pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def back(changed: Tensor) -> np.ndarray:
    return ((changed + 1) * 127.5).numpy()


def test_changes_of_values_are_pillows() -> None:
    x = images(3, 3, 12, 10)
    x[1] = x[1] // 4 + 60  # a narrow range of levels
    full = torch.ones(3)
    operations: list[tuple[Any, Any, float]] = [
        (CHANGES[12](scaled(x), full)[0], ImageOps.autocontrast, 1.0),
        (posterize(scaled(x), full)[0], lambda i: ImageOps.posterize(i, 4), 1e-3),
        (solarize(scaled(x), full / 2)[0], lambda i: ImageOps.solarize(i, 128), 1e-3),
        (sharpness(scaled(x), full / -0.9)[0], lambda i: i.filter(ImageFilter.SMOOTH), 1.0),
    ]
    for changed, reference, apart in operations:
        for b in range(3):
            expected = np.asarray(reference(pillow(x[b]))).transpose(2, 0, 1)
            np.testing.assert_allclose(back(changed[b]), expected, atol=apart)


def test_equalize_ranks_the_levels_of_each_channel() -> None:
    x = images(2, 3, 6, 5) // 16 * 16
    changed, _ = equalize(scaled(x), torch.ones(2))
    for b, c in np.ndindex(2, 3):
        plane = x[b, c].numpy()
        darkest = (plane == plane.min()).sum()
        for i, j in np.ndindex(*plane.shape):
            rank = ((plane <= plane[i, j]).sum() - darkest) / (plane.size - darkest)
            assert back(changed[b, c])[i, j] == pytest.approx(255 * rank, abs=1e-2)


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
def test_each_change_does_nothing_or_stays_in_range(change: Any) -> None:
    for channels in (1, 3):
        x = scaled(images(4, channels, 8, 8))
        changed, affine = change(x, drawn([-1.0, 1.0, 0.5, -0.3]))
        assert changed.shape == x.shape and changed.abs().max() <= 1 + 1e-5
        if affine is not None:
            torch.testing.assert_close(changed, augment.warp(x, affine))
        flat, _ = change(torch.full((1, channels, 8, 8), 0.25), drawn([0.0]))
        assert torch.isfinite(flat).all()
        if change.__name__ not in ("stretch", "equalize"):
            untouched, _ = change(x, torch.zeros(4))
            torch.testing.assert_close(untouched, x, atol=1e-5, rtol=0)


def test_a_batch_is_changed_as_its_images_one_by_one() -> None:
    x, random = scaled(images(6, 3, 8, 8)), torch.Generator().manual_seed(1)
    numbers = torch.randint(len(CHANGES), (6, 3), generator=random)
    strengths = 2 * torch.rand(6, 3, generator=random) - 1
    together, maps = rand_augment(x, numbers, strengths)
    for b in range(6):
        alone = x[b : b + 1]
        for k in range(3):
            alone, _ = CHANGES[int(numbers[b, k])](alone, strengths[b : b + 1, k])
        torch.testing.assert_close(together[b], alone[0])
    assert maps.shape == (6, 2, 3)


# --- a whole epoch ---------------------------------------------------------------------------------

EVERYTHING = Augmentation(rotate=10, zoom=0.2, colour=0.2, rand=2, erase=0.5)


def test_what_happens_to_an_image_does_not_depend_on_its_batch() -> None:
    x = images(8, 3, 16, 16)
    draws = Draws(EVERYTHING, 8, seed=0, epoch=2)
    whole, affine, share = draws.apply(x, torch.arange(8))
    assert share is None and whole.shape == x.shape
    for piece in torch.tensor([5, 0, 7]).split(1):
        part = draws.apply(x[piece], piece)
        torch.testing.assert_close(part.images[0], whole[piece[0]])
        torch.testing.assert_close(part.affine[0], affine[piece[0]])
    other = Draws(EVERYTHING, 8, seed=0, epoch=3).apply(x, torch.arange(8))
    assert not torch.equal(other.images, whole)


def test_the_map_says_where_every_point_went() -> None:
    """A smooth image stands, after any chain of moves, where its map says."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    smooth = (127 + 60 * torch.sin(x / 9) + 60 * torch.cos(y / 7)).byte().expand(6, 3, 32, 32)
    how = Augmentation(flip=True, shift=3, rotate=15, zoom=0.1)
    changed = Draws(how, 6, seed=1, epoch=0).apply(smooth, torch.arange(6))
    expected = augment.warp(scaled(smooth), changed.affine)
    inner = (slice(None), slice(None), slice(10, 22), slice(10, 22))
    torch.testing.assert_close(changed.images[inner], expected[inner], atol=0.05, rtol=0)


def test_grey_images_are_not_mirrored_unless_told() -> None:
    x = images(64, 1, 8, 8)
    left = Draws(Augmentation(shift=0), 64, 0, 0).apply(x, torch.arange(64))
    assert torch.equal(left.images, scaled(x))
    told = Draws(Augmentation(shift=0, flip=True), 64, 0, 0).apply(x, torch.arange(64))
    mirrored = [torch.equal(told.images[b], scaled(x[b]).flip(2)) for b in range(64)]
    assert 15 < sum(mirrored) < 50


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_shares_of_an_epoch_follow_their_distribution(name: str) -> None:
    x = images(400, 1, 16, 16)
    how = Augmentation.model_validate({"shift": 0, name: 1.0})
    _, _, share = Draws(how, 400, 0, 0).apply(x, torch.arange(400))
    assert share is not None
    # Beta(1, 1) is uniform; boxes that are cut at the edge leave a little more of the image
    mean = 0.5 if name == "mixup" else 0.6
    assert float(share.mean()) == pytest.approx(mean, abs=0.08) and 0 <= float(share.min())
