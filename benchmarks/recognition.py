"""Networks that recognize images: errors by budget, shifted digits, depth, distillation, speed beside a plain loop.

    python -m benchmarks.recognition digits --epochs 1       # MNIST: linear, MLP and CNN, and all three on shifted digits
    python -m benchmarks.recognition mnist --minutes 5       # MNIST's error
    python -m benchmarks.recognition cifar --minutes 30      # CIFAR-10's
    python -m benchmarks.recognition depth --epochs 2 --limit 4000       # plain against residual, depth 8 to 56
    python -m benchmarks.recognition distil --epochs 3       # a student with and without its teacher
    python -m benchmarks.recognition speed                   # images a second, and preprocessing's share

Seconds are wall-clock; processor seconds, of all threads, stand beside them, as other jobs may share the machine. Where
they do, a budget in epochs holds better than one in minutes: the processor seconds then say what it took.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.side_by_side import alternate, keep, medians, ratio
from fourfold import api, fitting
from fourfold.core.run import Run
from fourfold.data.labelled_images import LabelledImageData, LabelledImages
from fourfold.models.cnn import ConvNet
from fourfold.models.resnet import ResNet
from fourfold.objectives.classification import CrossEntropy
from fourfold.optimizers.gradient import Gradient
from fourfold.optimizers.search import Search
from fourfold.systems.cnn import ConvolutionalNetwork
from fourfold.systems.resnet import ResidualNetwork
from fourfold.tasks.recognition import Recognizer
from fourfold.tasks.recognizing import probabilities

MNIST, CIFAR = ["mnist", "mnist-test"], ["cifar10", "cifar10-test"]
Sources = list[str]
Budget = dict[str, float]
"""One of optimizer.epochs and optimizer.minutes."""
SHIFT = 3
"""Pixels by which digits are moved, at most, in the test that asks what translation invariance buys."""


class Flat(Recognizer):
    """Pixels in a row: linear (hidden 0) or with one hidden layer."""

    hidden: int = 0
    """Width of the hidden layer."""

    def network(self, data: LabelledImageData, outputs: int) -> nn.Module:
        size = int(np.prod(data.shape))
        if not self.hidden:
            return nn.Sequential(nn.Flatten(), nn.Linear(size, outputs))
        layers = nn.Linear(size, self.hidden), nn.ReLU(), nn.Linear(self.hidden, outputs)
        return nn.Sequential(nn.Flatten(), *layers)


def some(sources: list[str], limit: int | None, folder: str) -> list[str]:
    """The sources, or, where there is a limit, a file of so many of their training images, and so many of test."""
    if limit is None:
        return sources
    data = LabelledImages(split=(1.0, 0.0, 0.0)).open(sources)
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", "test"):
        images, labels = data.pixels(split), data.labels(split)  # type: ignore[arg-type]
        taken = np.sort(random.permutation(len(images))[:limit])
        arrays |= {
            f"{split}_images": images[taken].numpy(),
            f"{split}_labels": labels[taken].numpy(),
        }
    path = Path(folder) / f"{sources[0]}-{limit}.npz"
    np.savez(path, **arrays)
    return [str(path)]


def fitted(
    system: Recognizer, sources: Any, seed: int, **options: Any
) -> tuple[Run, dict[str, float]]:
    """A run, and what it took."""
    configured = api.configure(system, options)
    began, processor = time.perf_counter(), time.process_time()
    run = api.fit(configured, sources, out=False, seed=seed)
    spent = {
        "seconds": round(time.perf_counter() - began, 1),
        "processor seconds": round(time.process_time() - processor, 1),
    }
    return run, spent


def in_words(budget: Budget) -> str:
    """As "5 epochs"."""
    return ", ".join(f"{v:g} {k.removeprefix('optimizer.')}" for k, v in budget.items())


def error(run: Run, average: str = "none") -> float:
    """Per cent of the test images that are taken for another class."""
    data: Any = run.data
    found = probabilities(run, data, "test", average)
    return round(100 * float((found.argmax(1) != data.labels("test").numpy()).mean()), 3)


def shifted_error(run: Run, seed: int) -> float:
    """The same of test digits moved by up to `SHIFT` pixels on black."""
    data: Any = run.data
    images, random = data.pixels("test"), np.random.default_rng(seed)
    padded = F.pad(images, (SHIFT,) * 4)
    size = images.shape[2:]
    moved = torch.stack(
        [
            image[:, y : y + size[0], x : x + size[1]]
            for image, (y, x) in zip(
                padded, random.integers(0, 2 * SHIFT + 1, (len(images), 2)), strict=True
            )
        ]
    )
    other = data.reopen((moved.numpy(), data.labels("test").numpy()), whole=True)
    found = probabilities(run, other, "test")
    return round(100 * float((found.argmax(1) != other.labels("test").numpy()).mean()), 2)


def digits(sources: Sources, budget: Budget, seeds: int) -> None:
    """Linear, MLP and CNN without augmentation, on MNIST and on shifted digits."""
    data = LabelledImages.model_validate({"batch": 128, "augment": {"kind": "none"}})
    search = Gradient(lr=2e-3, warmup=0.1, evaluate_every="50%")
    systems: dict[str, Recognizer] = {
        "linear": Flat(data=data, objective=CrossEntropy(), optimizer=search),
        "mlp (512)": Flat(data=data, objective=CrossEntropy(), optimizer=search, hidden=512),
        "cnn": ConvolutionalNetwork(data=data, optimizer=search, width=16),
    }
    rows: dict[str, Any] = {name: [] for name in systems}
    for seed in range(seeds):
        for name, system in systems.items():
            run, spent = fitted(system, sources, seed, **budget)
            row = {"error %": error(run), "error % shifted": shifted_error(run, seed), **spent}
            rows[name].append(row)
    told = f"MNIST, {in_words(budget)}, and digits moved by up to {SHIFT} pixels"
    keep("recognition", {told: rows})


def mnist(sources: Sources, budget: Budget, seeds: int) -> None:
    """MNIST's error."""
    found = []
    for seed in range(seeds):
        options = {"width": 16, "data.batch": 128, "data.split": (0.97, 0.03, 0.0)}
        options |= {"optimizer.evaluate_every": "25%", "optimizer.ema": 0.99, **budget}
        run, spent = fitted(ConvolutionalNetwork(), sources, seed, **options)
        found.append({"error %": error(run), "error % averaged": error(run, "shift"), **spent})
        keep("recognition", {f"MNIST, cnn, {in_words(budget)}": found})


def cifar(sources: Sources, budget: Budget, seeds: int) -> None:
    """CIFAR-10's error (re-encoded JPEG)."""
    found = []
    network = fitting.configure("cnn", {}, size="fast")
    for seed in range(seeds):
        options = {"data.split": (0.98, 0.02, 0.0), "optimizer.evaluate_every": "20%", **budget}
        run, spent = fitted(network, sources, seed, **options)  # type: ignore[arg-type]
        averaged: dict[str, Any] = {
            f"error % averaged over {views}": error(run, views) for views in ("flip", "shift")
        }
        found.append({"error %": error(run), **averaged, **spent})
        keep("recognition", {f"CIFAR-10, cnn of size fast, {in_words(budget)}": found})


def depth(sources: Sources, budget: Budget, seeds: int) -> None:
    """Plain against residual."""
    rows: dict[str, Any] = {}
    images = "all images"
    for layers in (8, 20, 32, 56):
        for shortcut in ("none", "identity"):
            options = {"depth": layers, "shortcut": shortcut, "optimizer.evaluate_every": "50%"}
            name = f"{'plain' if shortcut == 'none' else 'residual'} {layers}"
            rows[name] = []
            for seed in range(seeds):
                run, spent = fitted(ResidualNetwork(), sources, seed, **options, **budget)
                rows[name].append({"error %": error(run), **spent})
                images = f"{run.data.size('train'):,} images"
    keep("recognition", {f"CIFAR-10, plain and residual, {in_words(budget)} of {images}": rows})


def distil(sources: Sources, budget: Budget, seeds: int) -> None:
    """A narrow student with and without a wide teacher, on MNIST."""
    found: dict[str, Any] = {"student": [], "student of the teacher": [], "teacher": []}
    same = {**budget, "optimizer.evaluate_every": "50%"}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            wide = api.configure(ConvolutionalNetwork(width=16), same)
            teacher = api.fit(wide, sources, out=f"{folder}/teacher", seed=seed)
            found["teacher"].append({"error %": error(teacher)})
            for name, more in (
                ("student", {}),
                ("student of the teacher", {"teacher": f"{folder}/teacher"}),
            ):
                narrow = ConvolutionalNetwork(width=2, dense=16, dropout=0.0)
                run, spent = fitted(narrow, sources, seed, **{**same, **more})
                found[name].append({"error %": error(run), **spent})
    keep("recognition", {f"MNIST, distillation, {in_words(budget)}": found})


def speed(seconds: float) -> None:
    """Images a processor second of training, beside a plain DataLoader loop on the same network."""
    rows = {}
    cases: dict[str, tuple[Recognizer, tuple[int, int, int]]] = {
        "MNIST size, cnn of width 16": (ConvolutionalNetwork(width=16), (1, 28, 28)),
        "CIFAR size, resnet 20": (ResidualNetwork(depth=20), (3, 32, 32)),
    }
    for name, (system, shape) in cases.items():
        random = np.random.default_rng(0)
        images = random.integers(0, 256, (6_000, *shape), dtype=np.uint8)
        labels = random.integers(0, 10, len(images))
        exact = api.configure(system, {"optimizer.precision": "float32"})
        share: list[float] = []
        rates = alternate(
            {
                "fourfold": partial(_ours, system, images, labels, seconds, share),
                "fourfold in float32": partial(_ours, exact, images, labels, seconds, []),
                "plain loop": partial(_plain, shape, images, labels, seconds),
            }
        )
        rows[name] = {
            **{who: round(rate) for who, rate in medians(rates).items()},
            "times": round(ratio(rates, "fourfold", "plain loop"), 2),
            "times in float32": round(ratio(rates, "fourfold in float32", "plain loop"), 2),
            "preprocessing's share of a step": round(sorted(share)[1], 3),
        }
    keep("recognition", {"training images a processor second, batch 128": rows})


def _ours(
    system: Recognizer, images: np.ndarray, labels: np.ndarray, seconds: float, share: list[float]
) -> float:
    """Images a processor second; the share of it that was spent on preparing batches is added."""
    run = Run(api.configure(system, {"steps": 1_000_000, "batch": 128}))
    fitting.begin(run, (images, labels), None)
    run.model.train()
    search = Search(run.system.optimizer, run.objective, run.model, run.data, run)  # type: ignore[arg-type]
    began = last = time.process_time()
    count, waited = 0, 0.0
    for batches in search._batches():
        waited += time.process_time() - last
        search.step(batches)
        last = time.process_time()
        count += len(batches[0]["features"])
        if last - began > seconds:
            break
    share.append(waited / (last - began))
    return count / (last - began)


class _Transformed(TensorDataset):
    """A dataset as it is usually written: each image is scaled, padded and cropped by itself."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        image, label = super().__getitem__(index)
        reach = image.shape[1] // 8
        padded = F.pad(image.float().div(255).sub(0.5).div(0.5), (reach,) * 4, mode="reflect")
        top, left = torch.randint(0, 2 * reach + 1, (2,)).tolist()
        image = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
        if len(image) == 3 and torch.rand(()) < 0.5:
            image = image.flip(2)
        return image, label


def _plain(
    shape: tuple[int, int, int], images: np.ndarray, labels: np.ndarray, seconds: float
) -> float:
    model: nn.Module = (
        ConvNet(shape, 10, width=16, stages=3, dropout=0.2) if shape[0] == 1 else ResNet(3, 10, 20)
    )
    data = _Transformed(torch.from_numpy(images), torch.from_numpy(labels))
    loader = DataLoader(data, batch_size=128, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    began, count = time.process_time(), 0
    while True:
        for features, targets in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(features), targets).backward()
            optimizer.step()
            count += len(features)
            if time.process_time() - began > seconds:
                return count / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["digits", "mnist", "cifar", "depth", "distil", "speed"])
    parser.add_argument(
        "--epochs", type=float, help="passes over the training images, by default 3"
    )
    parser.add_argument("--minutes", type=float, help="of training, instead of epochs")
    parser.add_argument(
        "--limit", type=int, help="images of training, and of test, at most, drawn by lot"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="of the processor, for each speed"
    )
    given = parser.parse_args()
    if given.what == "speed":
        speed(given.seconds)
        return
    budget: Budget = {"optimizer.epochs": given.epochs or 3}
    if given.minutes:
        budget = {"optimizer.minutes": given.minutes}
    names = CIFAR if given.what in ("cifar", "depth") else MNIST
    run = {"digits": digits, "mnist": mnist, "cifar": cifar, "depth": depth, "distil": distil}
    with tempfile.TemporaryDirectory() as folder:
        run[given.what](some(names, given.limit, folder), budget, given.seeds)


if __name__ == "__main__":
    main()
