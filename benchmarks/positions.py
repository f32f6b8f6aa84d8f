"""Schemes of positions: do random or learned vectors do as well as sines, and what happens beyond the training length?

    python -m benchmarks.positions text            # tiny Shakespeare by characters, windows of 64, measured up to 256
    python -m benchmarks.positions copy            # a known generator: letters, "|", the same letters again, each example alone
    python -m benchmarks.positions picture         # docs/pictures/positions.png from what was kept

Each scheme trains the same decoder-only Transformer for the same steps on the same batches; only `positions`
differs. The model has places for four times the length that it is trained on, so that nothing fails for lack of a
table: vectors beyond it were computed (waves), drawn (random) or never learned (learned).
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import fourfold
from benchmarks.side_by_side import RESULTS, data_file, keep
from fourfold.core.run import Run
from fourfold.look.figures import COLORS, picture, subplots
from fourfold.models.positions import KINDS

WINDOW = 64
"""Positions of a training window."""
LONGEST = 4 * WINDOW
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "positions.png"
LETTERS = "abcdefghijklmnop"
COPIED = (10, 20, 30, 40, 60)
"""Letters to copy when measured; training has 1 to 20."""
SHAPE: dict[str, dict[str, int]] = {
    "text": {"layers": 2, "width": 64, "heads": 2, "steps": 500},
    "copy": {"layers": 2, "width": 64, "heads": 2, "steps": 1500},
}


def fit(kind: str, task: str, source: Any, seed: int, **more: Any) -> tuple[Run, float]:
    """A trained run and the seconds that training took."""
    shape = SHAPE[task]
    began = time.perf_counter()
    run = fourfold.fit(
        "gpt", source, out=False, seed=seed, device="cpu", positions=kind, context_length=LONGEST,
        layers=shape["layers"], width=shape["width"], heads=shape["heads"],
        **{
            "data.unit": "character", "data.window": WINDOW, "data.batch": 16, "data.split": (0.9, 0.1, 0.0),
            "optimizer.steps": shape["steps"], "optimizer.minutes": None, "optimizer.evaluate_every": "100%",
            "optimizer.precision": "float32", **more,
        },
    )  # fmt: skip
    return run, time.perf_counter() - began


# --- text -------------------------------------------------------------------------------------------


@torch.no_grad()
def by_place(run: Run) -> list[float]:
    """Mean nats of a held-out character at each place of windows of LONGEST."""
    tokens = torch.from_numpy(run.data.tokens("valid").astype("int64"))  # type: ignore[attr-defined]
    rows = (len(tokens) - 1) // LONGEST
    inputs = tokens[: rows * LONGEST].view(rows, LONGEST)
    targets = tokens[1 : rows * LONGEST + 1].view(rows, LONGEST)
    nats = torch.zeros(LONGEST)
    for some, wanted in zip(inputs.split(32), targets.split(32), strict=True):
        nats += F.cross_entropy(run.model(some).mT, wanted, reduction="none").sum(0)
    return (nats / rows).tolist()


def text(kinds: list[str], seeds: int) -> dict[str, Any]:
    source = str(data_file("tinyshakespeare/input.txt"))
    found: dict[str, Any] = {}
    for kind in kinds:
        rows, seconds = [], []
        for seed in range(seeds):
            run, took = fit(kind, "text", source, seed)
            rows.append(by_place(run))
            seconds.append(took)
        curve = [statistics.fmean(at) for at in zip(*rows, strict=True)]
        spans = {"33 to 64": (32, 64), "65 to 128": (64, 128), "129 to 256": (128, 256)}
        each = {
            name: [statistics.fmean(row[a:b]) for row in rows] for name, (a, b) in spans.items()
        }
        found[kind] = {
            "nats a character at places": {
                n: round(statistics.fmean(v), 4) for n, v in each.items()
            },
            "seeds": {name: [round(x, 4) for x in v] for name, v in each.items()},
            "minutes of training": round(statistics.fmean(seconds) / 60, 2),
            "by place": [round(x, 4) for x in curve],
        }
        print(kind, found[kind]["nats a character at places"], flush=True)
        keep("positions", {f"text, {kind}": found[kind]})
    return found


# --- copying ----------------------------------------------------------------------------------------


def example(noise: random.Random, length: int) -> str:
    letters = "".join(noise.choice(LETTERS) for _ in range(length))
    return f"{letters}|{letters}"


@torch.no_grad()
def copied(run: Run, length: int, count: int = 100) -> tuple[float, float]:
    """Share of letters, and of whole examples, that the most likely token gets right given the true ones before."""
    noise = random.Random(length)
    vocabulary = run.data.vocabulary  # type: ignore[attr-defined]
    texts = [vocabulary.encode(example(noise, length)).tolist() for _ in range(count)]
    tokens = torch.tensor([[vocabulary.end, *text] for text in texts])
    said = run.model(tokens[:, :-1]).argmax(-1)[:, length + 1 :]
    right = said == tokens[:, length + 2 :]
    return float(right.float().mean()), float(right.all(1).float().mean())


def copy(kinds: list[str], seeds: int) -> dict[str, Any]:
    noise = random.Random(0)
    source = {"text": [example(noise, noise.randint(1, 20)) for _ in range(60_000)]}
    found: dict[str, Any] = {}
    for kind in kinds:
        letters: dict[str, list[float]] = {str(n): [] for n in COPIED}
        whole: dict[str, list[float]] = {str(n): [] for n in COPIED}
        seconds = []
        for seed in range(seeds):
            # each example sees itself alone, its places counted from its own beginning
            run, took = fit(kind, "copy", source, seed, **{"data.document_mask": True})
            seconds.append(took)
            for n in COPIED:
                share, exact = copied(run, n)
                letters[str(n)].append(round(share, 3))
                whole[str(n)].append(round(exact, 3))
        found[kind] = {
            "letters right": {n: round(statistics.fmean(v), 3) for n, v in letters.items()},
            "examples right": {n: round(statistics.fmean(v), 3) for n, v in whole.items()},
            "seeds, letters": letters,
            "minutes of training": round(statistics.fmean(seconds) / 60, 2),
        }
        print(kind, found[kind]["letters right"], found[kind]["examples right"], flush=True)
        keep("positions", {f"copy, {kind}": found[kind]})
    return found


# --- the picture ------------------------------------------------------------------------------------


def draw() -> None:
    """One panel for each task: what was kept, by length."""
    kept = {k: v["result"] for k, v in json.loads((RESULTS / "positions.json").read_text()).items()}
    fig, (left, right) = subplots(1, 2, width=12, height=4.4)
    for number, kind in enumerate(KINDS):
        look = {"color": COLORS[number % len(COLORS)], "ls": "-" if number < len(COLORS) else "--"}
        if row := kept.get(f"text, {kind}"):
            nats = np.array(row["by place"])
            edges = [0, 4, 8, 16, 32, 48, 64, 80, 96, 128, 192, 256]
            means = [nats[a:b].mean() for a, b in itertools.pairwise(edges)]
            left.plot(
                [(a + b) / 2 for a, b in itertools.pairwise(edges)], means, label=kind, **look
            )
        if row := kept.get(f"copy, {kind}"):
            shares = row["letters right"]
            right.plot([int(n) for n in shares], list(shares.values()), "o", label=kind, **look)
    left.axvspan(WINDOW, LONGEST, color="gray", alpha=0.12, lw=0)
    left.set(
        xlabel="place in the window", ylabel="nats a character", ylim=(1.7, 3.2), xlim=(0, LONGEST)
    )
    left.set_title("tiny Shakespeare; gray: beyond the training length")
    right.axvspan(20, max(COPIED), color="gray", alpha=0.12, lw=0)
    right.set(xlabel="letters to copy", ylabel="letters right", ylim=(0, 1.03))
    right.set_title("copying; gray: longer than in training")
    lines = {line.get_label(): line for axes in (left, right) for line in axes.get_lines()}
    fig.legend(handles=[lines[kind] for kind in KINDS if kind in lines], loc="outside right center")
    PICTURE.write_bytes(picture(fig, "Positions").png)
    print(f"drawn: {PICTURE}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("task", choices=["text", "copy", "picture"])
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    if given.task == "picture":
        draw()
    else:
        {"text": text, "copy": copy}[given.task](given.kinds, given.seeds)


if __name__ == "__main__":
    main()
