"""GPT training: tokens a second, and validation loss against time, beside a plain module of nanoGPT's shape.

    python -m benchmarks.gpt_train speed
    python -m benchmarks.gpt_train quality --minutes 1 --seeds 3
    python -m benchmarks.gpt_train quality --minutes 5 --seeds 3 --no-peers

The peer trains in float32, as nanoGPT does on a CPU, and with bfloat16 autocast; its batch and
learning rate are the best of a small grid for each time. Both see the first 90% of tiny Shakespeare
by characters and are measured on the whole last 10%.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

import fourfold
from benchmarks.nanogpt import NanoGPT, train, whole_loss
from benchmarks.side_by_side import alternate, data_file, keep, medians, ratio
from fourfold import api, fitting
from fourfold.core.run import Run
from fourfold.optimizers.search import Search

SHAPES = {"4x128x128": (4, 128, 4, 128), "6x384x256": (6, 384, 6, 256)}
"""layers, width, heads, window"""
BATCHES = {"4x128x128": (16, 32, 64), "6x384x256": (8, 16)}
"""Batches that are tried for speed."""
ROOT = Path(__file__).parents[1]
PEER_GRID = {1.0: [(12, 3e-3), (32, 3e-3)], 5.0: [(32, 3e-3)]}
"""minutes: (batch, lr) that are tried; nanoGPT ships batch 12 and lr 1e-3 for this set on a CPU."""


def text() -> str:
    return data_file("tinyshakespeare/input.txt").read_text(encoding="utf-8")


def encoded() -> tuple[torch.Tensor, torch.Tensor, int]:
    content = text()
    characters = sorted(set(content))
    table = {c: i for i, c in enumerate(characters)}
    tokens = torch.tensor([table[c] for c in content])
    cut = int(0.9 * len(tokens))
    return tokens[:cut], tokens[cut:], len(characters)


def our_options(shape: str) -> dict[str, Any]:
    layers, width, heads, window = SHAPES[shape]
    return {
        "layers": layers, "width": width, "heads": heads, "data.unit": "character", "data.window": window,
        "data.split": (0.9, 0.1, 0.0), "optimizer.evaluate_every": "100%", "optimizer.checkpoint_every": "1000m",
    }  # fmt: skip


def our_search(shape: str, batch: int, algorithm: str = "muon") -> Search:
    options = {**our_options(shape), "data.batch": batch, "optimizer.steps": 1_000_000}
    options["optimizer.algorithm"] = algorithm
    run = Run(api.configure("gpt", options))
    source = str(data_file("tinyshakespeare/input.txt"))
    fitting.begin(run, source, None)
    run.model.train()
    return Search(run.system.optimizer, run.objective, run.model, run.data, run)  # type: ignore[arg-type]


def one(contender: str, shape: str, batch: int, seconds: float) -> float:
    """Tokens a second of one contender; the first steps, which allocate and compile, do not count."""
    layers, width, heads, window = SHAPES[shape]
    if contender.startswith("fourfold"):
        search = our_search(shape, batch, "adamw" if "AdamW" in contender else "muon")
        steps = search._batches()
        for _ in range(3):
            search.step(next(steps))
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            search.step(next(steps))
            count += 1
        return count * batch * window / (time.perf_counter() - began)
    tokens, _, vocabulary = encoded()
    bf16 = contender.endswith("bfloat16")
    model = NanoGPT(vocabulary, width, layers, heads, window)
    train(tokens, model, window=window, batch=batch, lr=1e-3, seconds=1, steps=3, bf16=bf16)
    began = time.perf_counter()
    count = train(tokens, model, window=window, batch=batch, lr=1e-3, seconds=seconds, bf16=bf16)
    return count * batch * window / (time.perf_counter() - began)


def apart(contender: str, shape: str, batch: int, seconds: float) -> float:
    """`one` in a process of its own, as its user runs it: what one loop sets, the other must not enjoy."""
    command = [sys.executable, "-m", "benchmarks.gpt_train", "one", "--contender", contender]
    command += ["--shape", shape, "--batch", str(batch), "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return float(done.stdout.split()[-1])


def speed(rounds: int, seconds: float, shapes: list[str]) -> dict[str, Any]:
    """Tokens a second through each loop, as its user would have it."""
    result = {}
    # the peer's optimizer is AdamW; ours by default Muon, whose products are worth their time in loss
    contenders = ("fourfold", "fourfold, AdamW", "nanoGPT float32", "nanoGPT bfloat16")
    for shape in shapes:
        batch = {}
        for name in contenders:  # each contender's batch is tuned for its speed
            rates = {b: apart(name, shape, b, seconds / 2) for b in BATCHES[shape]}
            batch[name] = max(rates, key=lambda b: rates[b])  # noqa: B023
        values = alternate(
            {name: partial(apart, name, shape, batch[name], seconds) for name in contenders}, rounds
        )
        row = {
            **{k: round(v) for k, v in medians(values).items()},
            "batch": batch,
            "times float32": round(ratio(values, "fourfold", "nanoGPT float32"), 2),
            "times bfloat16": round(ratio(values, "fourfold", "nanoGPT bfloat16"), 2),
            "AdamW, times float32": round(ratio(values, "fourfold, AdamW", "nanoGPT float32"), 2),
            "AdamW, times bfloat16": round(ratio(values, "fourfold, AdamW", "nanoGPT bfloat16"), 2),
        }
        result[f"tokens a second, {shape}"] = row
        print(shape, row, flush=True)
    return result


def quality(minutes: float, seeds: int, peers: bool) -> dict[str, Any]:
    """Loss on the whole validation split after so many minutes of training, 4 x 128 x 128."""
    train_tokens, valid_tokens, vocabulary = encoded()
    layers, width, heads, window = SHAPES["4x128x128"]
    source = str(data_file("tinyshakespeare/input.txt"))
    found: dict[str, Any] = {"fourfold": []}
    for seed in range(seeds):
        run = fourfold.fit(
            "gpt", source, out=False, seed=seed, minutes=minutes, **our_options("4x128x128")
        )
        valid = torch.from_numpy(
            run.data.vocabulary.encode(text())[-len(valid_tokens) :].astype("int64")
        )  # type: ignore[attr-defined]
        found["fourfold"].append(whole_loss(run.model, valid, window))
        print("fourfold", seed, found["fourfold"][-1], flush=True)

    def peer(bf16: bool, batch: int, lr: float, seed: int, seconds: float) -> float:
        torch.manual_seed(seed)
        model = NanoGPT(vocabulary, width, layers, heads, window)
        train(train_tokens, model, window=window, batch=batch, lr=lr, seconds=seconds, bf16=bf16)
        model.eval()
        return whole_loss(model, valid_tokens, window)

    if peers:
        found["nanoGPT float32 as shipped (batch 12, lr 1e-3)"] = peer(
            False, 12, 1e-3, 0, 60 * minutes
        )
        print(found, flush=True)
        for bf16 in (False, True):
            grid = PEER_GRID.get(minutes, PEER_GRID[1.0])
            scores = {f"batch {b}, lr {lr:g}": peer(bf16, b, lr, 0, 60 * minutes) for b, lr in grid}
            found[f"nanoGPT {'bfloat16' if bf16 else 'float32'}, tuned"] = scores
            print(scores, flush=True)
    found["median"] = statistics.median(found["fourfold"])
    return {f"loss after {minutes:g} min, 4x128x128": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", nargs="?", choices=["speed", "quality", "all", "one"], default="all"
    )
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each speed measurement")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--shapes", nargs="+", choices=[*SHAPES], default=[*SHAPES])
    parser.add_argument("--contender", default="fourfold")
    parser.add_argument("--shape", choices=[*SHAPES], default="4x128x128")
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    if arguments.what == "one":
        print(one(arguments.contender, arguments.shape, arguments.batch, arguments.seconds))
        return
    if arguments.what in ("speed", "all"):
        keep("gpt_train", speed(arguments.rounds, arguments.seconds, arguments.shapes))
    if arguments.what in ("quality", "all"):
        keep("gpt_train", quality(arguments.minutes, arguments.seeds, not arguments.no_peers))


if __name__ == "__main__":
    main()
