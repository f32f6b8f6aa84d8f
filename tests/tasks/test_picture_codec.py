"""Pictures as files of codes: whole, close to the entropy, and refused where they are not what was written here."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.models.code_context import CodeContext
from fourfold.models.vqvae import VQVAE, GridCodec
from fourfold.systems.vqvae import VectorQuantized
from fourfold.tasks import archive
from fourfold.tasks.picture_codec import read_codes, write_codes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    toy, source = VectorQuantized.toy()
    return fourfold.fit(toy, source, out=tmp_path_factory.mktemp("vqvae") / "run")


def photo(path: Path, size: tuple[int, int] = (37, 22), mode: str = "RGB", seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def model(levels: int = 2, sharp: float = 1.0) -> VQVAE:
    torch.manual_seed(0)
    made = VQVAE(GridCodec(1, 4, 3, 1, size=9, levels=levels), CodeContext(3, 9, levels, 8), None)
    with torch.no_grad():
        made.context.out.weight.mul_(sharp)
    return made.eval()


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (6, 7), (20, 31)])
@torch.inference_mode()
def test_any_codes_come_back(grid: tuple[int, int]) -> None:
    players = model(sharp=20)
    codes = torch.randint(9, (1, *grid, 2), generator=torch.Generator().manual_seed(1))
    assert torch.equal(read_codes(players, write_codes(players, codes), grid, 2), codes)


@torch.inference_mode()
def test_a_file_takes_what_its_model_says_within_one_percent() -> None:
    players = model(sharp=5)
    codes = torch.randint(9, (1, 40, 40, 2), generator=torch.Generator().manual_seed(1))
    bits = sum(float(players.context_nats(codes, n).sum()) for n in range(2)) / math.log(2)
    assert bits - 2 <= 8 * len(write_codes(players, codes)) <= 1.01 * bits


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (37, 22), (8, 8)])
def test_pictures_of_any_size_and_kind(
    run: Run, tmp_path: Path, mode: str, size: tuple[int, int]
) -> None:
    file = photo(tmp_path / "photo.png", size, mode)
    packed = run.compress(file)
    assert packed == tmp_path / "photo.png.ff"
    opened = fourfold.open(run.folder)
    back = opened.expand(packed, out=tmp_path / "back.png")
    with Image.open(back) as image:
        assert image.size == size and image.mode == "L"  # the run is of grey digits
        first = np.asarray(image).copy()
    opened.expand(packed, out=tmp_path / "again.webp")
    with Image.open(tmp_path / "again.webp") as image:
        assert np.array_equal(np.asarray(image.convert("L")), first)


def test_fewer_levels_make_smaller_files(run: Run, tmp_path: Path) -> None:
    file = photo(tmp_path / "photo.png", (200, 120))
    sizes = [run.compress(file, levels=n, out=tmp_path / f"{n}.ff").stat().st_size for n in (1, 2)]
    assert sizes[0] < sizes[1]
    with pytest.raises(UserError, match="this run has 2 levels of codes, got 3"):
        run.compress(file, levels=3, out=tmp_path / "3.ff")


def test_a_damaged_file_is_never_expanded(run: Run, tmp_path: Path) -> None:
    packed = run.compress(photo(tmp_path / "photo.png")).read_bytes()
    broken = tmp_path / "broken.ff"
    for place in range(0, len(packed), 7):
        changed = bytearray(packed)
        changed[place] ^= 0x10
        broken.write_bytes(bytes(changed))
        with pytest.raises(UserError, match="damaged|not a file that fourfold compress wrote"):
            run.expand(broken, out=tmp_path / "out.png")
    for size in (0, 5, 40, len(packed) - 1):
        broken.write_bytes(packed[:size])
        with pytest.raises(UserError, match="cut short|not a file"):
            run.expand(broken, out=tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_a_wrong_body_with_a_right_checksum_is_found(run: Run, tmp_path: Path) -> None:
    """Should the model ever say something else than it said: a sentence, and no file."""
    found = archive.read(run.compress(photo(tmp_path / "photo.png")).read_bytes(), "x")
    for body in (found.body[:5], bytes(len(found.body)), b"\xff" * len(found.body), b""):
        (tmp_path / "wrong.ff").write_bytes(dataclasses.replace(found, body=body).content())
        with pytest.raises(UserError, match="another checksum; .* nothing was written"):
            run.expand(tmp_path / "wrong.ff", out=tmp_path / "out.png")
    text = dataclasses.replace(found, picture={}).content()
    (tmp_path / "text.ff").write_bytes(text)
    with pytest.raises(UserError, match="holds no picture"):
        run.expand(tmp_path / "text.ff", out=tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_a_foreign_file_is_refused(run: Run, tmp_path: Path) -> None:
    toy, _ = VectorQuantized.toy()
    other = fourfold.fit(toy, out=False, seed=5)
    packed = other.compress(photo(tmp_path / "photo.png"))
    with pytest.raises(UserError, match="with another run"):
        run.expand(packed, out=tmp_path / "out.png")
    (tmp_path / "x.ff").write_bytes(photo(tmp_path / "y.png").read_bytes())
    with pytest.raises(UserError, match="not a file that fourfold compress wrote"):
        run.expand(tmp_path / "x.ff")


def test_weights_that_changed_are_noticed(run: Run, tmp_path: Path) -> None:
    """Even where everything that is compared is equal, other pixels are not written."""
    packed = run.compress(photo(tmp_path / "photo.png"))
    opened = fourfold.open(run.folder)
    said = archive.fingerprint(opened, opened.data.fingerprint)
    with torch.no_grad():
        opened.model.codec.decoder.layers[-2].bias.add_(0.1)  # type: ignore[union-attr, operator]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive, "fingerprint", lambda *_: said)
        with pytest.raises(UserError, match="another checksum; .* nothing was written"):
            opened.expand(packed, out=tmp_path / "out.png")


def test_wrong_pictures_and_places_are_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_bytes(b"no picture")
    for name, said in (
        ("empty.png", "empty, 0 bytes"),
        ("text.png", "not an image"),
        ("no.png", "no such file"),
    ):
        with pytest.raises(UserError, match=said):
            run.compress(tmp_path / name)
    file = photo(tmp_path / "photo.jpg")
    packed = run.compress(file)
    with pytest.raises(UserError, match="is there already"):
        run.compress(file)
    with pytest.raises(UserError, match="without further loss as .png"):
        run.expand(packed, out=tmp_path / "back.jpg")
    assert run.expand(packed) == tmp_path / "photo.jpg.png"  # no second loss by JPEG
    # files of text and of pictures are one format, and told apart
    buffer = io.BytesIO(packed.read_bytes())
    assert buffer.getvalue().startswith(b"\x93fourff\n")
