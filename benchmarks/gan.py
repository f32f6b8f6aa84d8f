"""The GAN on scikit-learn's 8x8 digits: two-sample accuracy of its samples by seed, and speed beside a plain loop.

    python -m benchmarks.gan --seeds 3

The plain loop is the one of PyTorch's DCGAN tutorial on the same two networks: BCEWithLogitsLoss on
labels of ones and zeros, a DataLoader, two Adam optimizers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fourfold
from benchmarks.side_by_side import alternate, keep, medians, ratio
from fourfold import api, fitting
from fourfold.core.run import Run
from fourfold.optimizers.search import Search


def ready() -> Run:
    run = Run(api.configure("gan", {"steps": 1_000_000}))
    fitting.begin(run, None, None)
    run.model.train()
    return run


def ours(seconds: float) -> float:
    """Images a second."""
    run = ready()
    search = Search(run.system.optimizer, run.objective, run.model, run.data, run)  # type: ignore[arg-type]
    began, count = time.perf_counter(), 0
    for batches in search._batches():
        search.step(batches)
        count += len(batches[0]["image"])
        if time.perf_counter() - began > seconds:
            return count / (time.perf_counter() - began)
    raise AssertionError


def plain(seconds: float) -> float:
    """Images a second of the tutorial's loop on the same networks and batches."""
    run = ready()
    players: Any = run.model
    images = torch.cat([b["image"] for b in run.data.batches("train")])
    batch = run.system.data.batch  # type: ignore[attr-defined]
    loader = DataLoader(TensorDataset(images), batch_size=batch, shuffle=True)
    rate, betas = run.system.optimizer.lr, (0.5, 0.999)  # type: ignore[attr-defined]
    first = torch.optim.Adam(players.discriminator.parameters(), lr=rate, betas=betas)
    second = torch.optim.Adam(players.generator.parameters(), lr=rate, betas=betas)
    criterion = nn.BCEWithLogitsLoss()
    began, count = time.perf_counter(), 0
    while True:
        for (real,) in loader:
            ones, zeros = torch.ones(len(real)), torch.zeros(len(real))
            players.discriminator.zero_grad()
            criterion(players.discriminator(real), ones).backward()
            fake = players.generator(players.draw(len(real)))
            criterion(players.discriminator(fake.detach()), zeros).backward()
            first.step()
            players.generator.zero_grad()
            criterion(players.discriminator(fake), ones).backward()
            second.step()
            count += len(real)
            if time.perf_counter() - began > seconds:
                return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    values = alternate(
        {
            "fourfold": lambda: ours(arguments.seconds),
            "plain loop": lambda: plain(arguments.seconds),
        },
        3,
    )
    speed = {
        **{k: round(v) for k, v in medians(values).items()},
        "times": round(ratio(values, "fourfold", "plain loop"), 2),
    }
    print(speed, flush=True)
    keep("gan", {"images a second": speed})
    accuracy, seconds = [], []
    for seed in range(arguments.seeds):
        began = time.perf_counter()
        run = fourfold.fit("gan", out=False, seed=seed)
        seconds.append(round(time.perf_counter() - began, 1))
        accuracy.append(round(run.evaluate().values["two_sample_accuracy"], 4))
        print(seed, accuracy[-1], seconds[-1], flush=True)
    result = {
        "two-sample accuracy": accuracy,
        "median": statistics.median(accuracy),
        "seconds": seconds,
    }
    keep("gan", {"8x8 digits, default settings (0.5 is indistinguishable)": result})


if __name__ == "__main__":
    main()
