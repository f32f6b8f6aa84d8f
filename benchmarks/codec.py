"""Photographs as files of codes, against JPEG and WebP at equal size: bits per pixel, PSNR and SSIM.

    python -m benchmarks.codec --steps 1000
    python -m benchmarks.codec --digits --steps 800

A vqvae of residual levels learns from 64 x 64 crops of 40 photographs of nerf-fox (halved to 540 x 960); it is tried on
the 10 others, of the same scene, and on the two photographs that scikit-learn brings, of other things. Sizes are whole
files, header and checks included. JPEG (optimized) and WebP by Pillow take the highest quality that is no larger than
our file, or their lowest where even that is larger.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import time
from typing import Any

import numpy as np
import torch

import fourfold
from benchmarks.side_by_side import data_file, keep
from fourfold.core.run import Run
from fourfold.tasks.picture_codec import pack, unpack

CROPS = 100  # of each photograph


def photographs() -> list[np.ndarray]:
    """(H, W, 3) uint8 each, halved."""
    from PIL import Image

    found = []
    with tarfile.open(data_file("nerf-fox/fox.tar.gz")) as archive:
        for member in sorted(archive.getmembers(), key=lambda m: m.name):
            if member.name.endswith(".jpg"):
                content = archive.extractfile(member)
                assert content is not None
                image = Image.open(io.BytesIO(content.read())).convert("RGB")
                found.append(np.asarray(image.reduce(2)))
    return found


def crops(photos: list[np.ndarray]) -> np.ndarray:
    random, made = np.random.default_rng(0), []
    for photo in photos:
        for _ in range(CROPS):
            top, left = (int(random.integers(side - 63)) for side in photo.shape[:2])
            made.append(photo[top : top + 64, left : left + 64])
    return np.stack(made)


def quality(made: np.ndarray, photo: np.ndarray) -> dict[str, float]:
    """PSNR in dB over all channels, SSIM of Wang et al. 2004."""
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    noise = float(np.mean((made.astype(float) - photo) ** 2))
    both = [torch.from_numpy(x.copy()).movedim(-1, 0)[None].float() for x in (made, photo)]
    return {
        "psnr": 10 * float(np.log10(255**2 / max(noise, 1e-9))),
        "ssim": float(ssim(*both, data_range=255.0)),  # type: ignore[arg-type]
    }


def peer(photo: np.ndarray, kind: str, most: int) -> tuple[int, dict[str, float]]:
    """Bytes and quality of the best file of a kind that is no larger; the smallest where all are."""
    from PIL import Image

    image, low, high = Image.fromarray(photo), 1, 95

    def written(setting: int) -> bytes:
        file = io.BytesIO()
        how: dict[str, Any] = {"optimize": True} if kind == "JPEG" else {"method": 4}
        image.save(file, kind, quality=setting, **how)
        return file.getvalue()

    while low < high:  # sizes grow with the setting
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(written(middle)) <= most else (low, middle - 1)
    content = written(low)
    return len(content), quality(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")), photo)


def curve(run: Run, photos: list[np.ndarray]) -> list[dict[str, Any]]:
    """A point of the rate-distortion curve for each number of levels, means over the photographs."""
    model: Any = run.model
    points = []
    for levels in range(1, model.codec.quantizer.levels + 1):
        rows: dict[str, list[float]] = {}
        for photo in photos:
            pixels = photo.transpose(2, 0, 1)
            file, made = pack(run, model, pixels, levels)
            assert np.array_equal(unpack(run, model, file, "the file"), made)
            area = photo.shape[0] * photo.shape[1]
            values = {"bits per pixel": 8 * len(file) / area}
            ours = quality(made.transpose(1, 2, 0), photo)
            values |= {f"fourfold {n}": v for n, v in ours.items()}
            for kind in ("JPEG", "WEBP"):
                size, theirs = peer(photo, kind, len(file))
                values[f"{kind} bits per pixel"] = 8 * size / area
                values |= {f"{kind} {n}": v for n, v in theirs.items()}
            for name, value in values.items():
                rows.setdefault(name, []).append(value)
        means = {name: round(float(np.mean(v)), 4) for name, v in rows.items()}
        points.append({"levels": levels, **means})
        print(points[-1], flush=True)
    return points


def digits(run: Run, steps: int, seconds: int) -> None:
    """What `evaluate` says of the embedded digits."""
    score = run.evaluate()
    values = {name: round(value, 4) for name, value in score.values.items()}
    keep(
        "codec", {"8 x 8 digits": {**values, "steps": steps, "seconds of processor time": seconds}}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--levels", type=int, default=6)
    parser.add_argument("--codes", type=int, default=256)
    parser.add_argument("--features", type=int, default=16)
    parser.add_argument("--photos", type=int, default=10)
    parser.add_argument("--out", default="runs/codec-bench")
    parser.add_argument("--run", help="a run that is there already, instead of fitting one")
    parser.add_argument("--digits", action="store_true", help="the embedded digits instead")
    arguments = parser.parse_args()
    photos = [] if arguments.digits else photographs()
    began = time.process_time()
    if arguments.run:
        run = fourfold.open(arguments.run)
    elif arguments.digits:
        run = fourfold.fit("vqvae", out=arguments.out, steps=arguments.steps)
    else:
        run = fourfold.fit(
            "vqvae", crops(photos[:40]), out=arguments.out, steps=arguments.steps, width=arguments.width,
            features=arguments.features, levels=arguments.levels, codes=arguments.codes, prior=False, stages=3, batch=16, drop=0.5,
        )  # fmt: skip
    seconds = round(time.process_time() - began)
    if arguments.digits:
        return digits(run, arguments.steps, seconds)
    if arguments.run:  # perhaps stopped before its end: the step of the weights that were kept
        told = {"steps": max(line["step"] for line in run.metrics.lines if line.get("kept_by"))}
    else:
        told = {"steps": arguments.steps, "seconds of processor time": seconds}
    from sklearn.datasets import load_sample_images

    for title, chosen in (
        ("held-out photographs of the scene", photos[40 : 40 + arguments.photos]),
        ("photographs of other things", [np.asarray(i) for i in load_sample_images().images]),
    ):
        print(title, flush=True)
        result = {
            "photographs": len(chosen),
            **told,
            "features of a code": getattr(run.system, "features"),  # noqa: B009  # of whichever system
            "curve": curve(run, chosen),
        }
        keep("codec", {title: result})


if __name__ == "__main__":
    main()
