"""Many processes: what two make of one machine's two cores, how fast text is encoded by several, what is sent, large batches.

    python -m benchmarks.scale processes
    python -m benchmarks.scale tokens
    python -m benchmarks.scale sent
    python -m benchmarks.scale batches
    python -m benchmarks.scale checkpoints

`processes`: training tokens a second of the same GPT (4 x 256, batch 16 x 256, AdamW, float32) in one process with two
threads and in two processes of one thread each, in turn; the cores are the same. `tokens`: megabytes of text a second into
BPE tokens on disk, by one process and by two, beside Hugging Face tokenizers' own `encode_batch_fast` with as many threads
(in memory). `sent`: bytes over the loopback device per step beside the formula of docs/scale.md (needs network namespaces).
`batches`: MNIST at 14 x 14, an MLP of 256, the same epochs with batches of 32 to 65,536 (one that is larger than the training
split is the whole of it); the rate grows with the batch from what suits 256, after a warm-up of a tenth of the steps.
`checkpoints`: the seconds for which a checkpoint of 1.5 GB (GPT of 124 M weights with AdamW) holds the steps up, written
between them and beside them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fourfold
from benchmarks.side_by_side import alternate, data_file, keep, medians, ratio

ROOT = Path(__file__).parents[1]
SHAPE = {"layers": 4, "width": 256, "heads": 4, "window": 256, "batch": 16}
SIZES = (32, 256, 1024, 8192, 65_536)
RATES = {"sgd": 0.05, "adamw": 1e-3, "lars": 2.0, "lamb": 4e-3}
"""Of a batch of 256."""


# --- two processes on two cores ---------------------------------------------------------------------------


def rate(count: int, threads: int, steps: int = 25) -> float:
    """Training tokens a second of `count` processes, as the run's own log has them, the first ten steps left out."""
    with tempfile.TemporaryDirectory() as name:
        options = [f"--{key}={value}" for key, value in SHAPE.items()]
        command = ["fit", "gpt", *options, "--unit", "byte", "--algorithm", "adamw", "--precision", "float32",
                   "--steps", str(steps), "--log-every", "5", "--evaluate-every", "100%", "--out", f"{name}/run", "--quiet"]  # fmt: skip
        program = [sys.executable, "-m", "fourfold"]
        if count > 1:
            program = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                f"--nproc-per-node={count}",
                "-m",
                "fourfold",
            ]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        subprocess.run(
            [*program, *command], check=True, env=environment, cwd=ROOT, capture_output=True
        )
        lines = [
            json.loads(line) for line in Path(f"{name}/run/metrics.jsonl").read_text().splitlines()
        ]
        seen = [
            line for line in lines if "loss" in line and "seconds" in line and line["step"] >= 10
        ]
        first, last = seen[0], seen[-1]
        each = SHAPE["batch"] * SHAPE["window"] * _accumulated(Path(f"{name}/run"))
        return float(each * (last["step"] - first["step"]) / (last["seconds"] - first["seconds"]))


def _accumulated(folder: Path) -> int:
    return int(getattr(fourfold.open(folder).system.optimizer, "accumulate", 1) or 1)


def processes(rounds: int) -> None:
    """One process with two threads, and two with one each."""
    values = alternate(
        {"1 process, 2 threads": partial(rate, 1, 2), "2 processes": partial(rate, 2, 1)}, rounds
    )
    found: dict[str, Any] = {name: round(value) for name, value in medians(values).items()}
    found["efficiency"] = round(ratio(values, "2 processes", "1 process, 2 threads"), 3)
    print(json.dumps(found))
    keep("scale", {"training tokens a second, GPT 4 x 256": found})


# --- text into tokens ---------------------------------------------------------------------------------------


def tokens(rounds: int, megabytes: int = 96) -> None:
    """Encoding by one process and by two, and by Hugging Face's own threads."""
    from fourfold.data.corpus import Part
    from fourfold.data.subwords import Subwords
    from fourfold.data.token_workers import encoded_in_order
    from fourfold.data.tokens import batches

    text = gzip.decompress(data_file("text8-prefix/text8_first.txt.gz").read_bytes()).decode()
    vocabulary = Subwords.learn(lambda: iter([(text, "")]), 8000, 1, len(text))
    piece = 1 << 16
    pieces = [text[n : n + piece] for n in range(0, len(text), piece)]
    many = [pieces[n % len(pieces)] for n in range(megabytes * (1 << 20) // piece)]
    size = sum(map(len, many)) / 1e6

    def ours(count: int) -> float:
        parts = (Part("train", p, "", False, False) for p in many)
        began, total = time.perf_counter(), 0
        for _, found in encoded_in_order(batches(parts), vocabulary, processes=count):
            total += sum(len(p.tokens) for p in found.values())
        return size / (time.perf_counter() - began)

    def peer() -> float:
        began = time.perf_counter()
        for n in range(0, len(many), 64):
            for encoding in vocabulary._tokenizer.encode_batch_fast(
                many[n : n + 64], add_special_tokens=False
            ):
                np.array(encoding.ids, np.uint16)
        return size / (time.perf_counter() - began)

    values = alternate(
        {"1 process": partial(ours, 1), "2 processes": partial(ours, 2), "encode_batch_fast": peer},
        rounds,
    )
    found: dict[str, Any] = {name: round(value, 2) for name, value in medians(values).items()}
    found["2 processes beside encode_batch_fast"] = round(
        ratio(values, "2 processes", "encode_batch_fast"), 2
    )
    print(json.dumps(found))
    keep("scale", {f"megabytes a second into BPE tokens, {megabytes} MB": found})


# --- bytes of a step ----------------------------------------------------------------------------------------


def bytes_sent() -> None:
    """What the loopback device sends per step, beside the formula."""
    from tests.scale.test_formulas import measured, vocabulary

    from fourfold.optimizers.scale import Plan, gpt, sent

    rows = {}
    for count, parallel in ((2, {}), (3, {}), (2, {"shard": True}), (2, {"tensor": 2})):
        with tempfile.TemporaryDirectory() as name:
            found = measured(count, parallel, Path(name))["sent"]
        plan = Plan(count, parallel.get("tensor", 1), parallel.get("shard", False))
        moved = sent(gpt(2, 128, vocabulary(), 8 // plan.data, 16, bfloat16=False), plan)
        told = count * (sum(moved.values()) + (moved["gradients"] if plan.shard else 0))
        how = ", ".join(f"{k} {v}" for k, v in parallel.items()) or "data parallel"
        rows[f"{count} processes, {how}"] = {
            "sent": found,
            "formula": round(told),
            "ratio": round(found / told, 3),
        }
    print(json.dumps(rows, indent=1))
    keep("scale", {"bytes sent per step, GPT 2 x 128": rows})


# --- large batches ------------------------------------------------------------------------------------------


def digits(part: str) -> dict[str, np.ndarray]:
    """MNIST at 14 x 14 as a table."""
    raw = gzip.decompress(data_file(f"mnist/{part}-images-idx3-ubyte.gz").read_bytes())
    images = (
        np.frombuffer(raw, np.uint8, offset=16)
        .reshape(-1, 14, 2, 14, 2)
        .mean((2, 4), dtype=np.float32)
    )
    labels = np.frombuffer(
        gzip.decompress(data_file(f"mnist/{part}-labels-idx1-ubyte.gz").read_bytes()),
        np.uint8,
        offset=8,
    )
    columns = {f"p{n}": column for n, column in enumerate(images.reshape(len(images), -1).T / 255)}
    return {**columns, "digit": np.char.add("d", labels.astype(str))}


def large_batches(epochs: float) -> None:
    """Accuracy on the test set after the same epochs, by batch and algorithm."""
    import polars as pl

    train, test = (pl.DataFrame(digits(part)) for part in ("train", "t10k"))
    rows: dict[str, dict[str, Any]] = {}
    for algorithm, lr in RATES.items():
        for batch in SIZES:
            options = {
                "data.target": "digit", "data.batch": batch, "width": 256, "layers": 1, "epochs": epochs, "algorithm": algorithm,
                "lr": lr, "lr_batch": 256, "warmup": 0.1, "schedule": "cosine", "precision": "float32",
                "dropout": 0.0, "decay": 0.0, "ema": None, "patience": None, "evaluate_every": "100%", "data.split": (0.98, 0.02, 0.0),
            }  # fmt: skip
            began = time.process_time()
            run = fourfold.fit("mlp", train, out=False, **options)
            score = run.evaluate(test).values["accuracy"]
            steps = max(line["step"] for line in run.metrics.lines)
            spent = round(time.process_time() - began, 1)
            rows.setdefault(algorithm, {})[str(batch)] = {
                "accuracy": round(score, 4),
                "steps": steps,
                "processor seconds": spent,
            }
            print(algorithm, batch, rows[algorithm][str(batch)], flush=True)
    keep("scale", {f"accuracy by batch, MNIST 14 x 14, {epochs:g} epochs": rows})


# --- checkpoints --------------------------------------------------------------------------------------------


def checkpoints(rounds: int, gigabytes: float = 1.5) -> None:
    """How long a large checkpoint holds the steps up, between them and beside them."""
    from fourfold.core.ranks import ALONE
    from fourfold.optimizers.saving import Saving

    part = int(gigabytes * 1e9 / 4 / 30)
    state = {n: [torch.randn(part) for _ in range(10)] for n in ("model", "first", "second")}
    step = iter(range(1, 1000))
    with tempfile.TemporaryDirectory(dir=".") as name:
        kept = Saving(Path(name), ALONE, parts=False)

        def held(beside: bool) -> float:
            began = time.perf_counter()
            kept.save(next(step), state, beside)
            seconds = time.perf_counter() - began
            kept.end()
            return seconds

        ways = {"between the steps": partial(held, False), "beside them": partial(held, True)}
        values = alternate(ways, rounds)
    found = {f"seconds, {way}": round(value, 2) for way, value in medians(values).items()}
    found["times"] = round(ratio(values, "between the steps", "beside them"), 1)
    print(json.dumps(found))
    keep("scale", {f"steps held up by a checkpoint of {gigabytes:g} GB": found})


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["processes", "tokens", "sent", "batches", "checkpoints"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=30)
    given = parser.parse_args()
    if given.what == "processes":
        processes(given.rounds)
    elif given.what == "tokens":
        tokens(given.rounds)
    elif given.what == "sent":
        bytes_sent()
    elif given.what == "checkpoints":
        checkpoints(given.rounds)
    else:
        large_batches(given.epochs)


if __name__ == "__main__":
    main()
