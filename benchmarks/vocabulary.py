"""Objectives over large vocabularies: training speed by vocabulary, and perplexity after equal training time.

python -m benchmarks.vocabulary speed
FOURFOLD_DATA=... python -m benchmarks.vocabulary quality --minutes 1 --set brown

Speed: an nnlm (context 5, width 128, 256 hidden units) on words that are as frequent as Zipf's law has it, whole steps of
2,048 words. Quality: the same model on real text, always measured with the exact probabilities.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fourfold
from benchmarks.ladder import SETS
from benchmarks.side_by_side import alternate, keep, medians, ratio
from fourfold import api
from fourfold.core.device import gains_from_bfloat16
from fourfold.models.nnlm import NeuralLanguageModel
from fourfold.objectives.vocabulary import (
    Adaptive,
    Contrast,
    Drawn,
    Hierarchical,
    NextWord,
    Sampled,
    Softmax,
)
from fourfold.tasks.vocabulary import output_layer

OBJECTIVES: dict[str, NextWord] = {
    o.kind: o  # type: ignore[attr-defined]
    for o in (Softmax(), Sampled(), Adaptive(), Hierarchical(), Contrast())
}
BATCH, WINDOW, CONTEXT, WIDTH, HIDDEN = 32, 64, 5, 128, 256
STEPS = 4
"""Timed together."""


def steps(objective: NextWord, words: int) -> Callable[[], float]:
    """Words a second of training."""
    torch.manual_seed(0)
    counts = (1e7 / np.arange(1, words + 1)).astype(np.int64)
    learned = objective.model_copy()
    if isinstance(learned, Drawn):
        learned.know(counts)
    head = output_layer(objective, counts, HIDDEN)
    model = NeuralLanguageModel(words, head, WIDTH, HIDDEN, CONTEXT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    drawn = np.random.default_rng(0).choice(
        words, (BATCH, CONTEXT + WINDOW), p=counts / counts.sum()
    )
    tokens = torch.from_numpy(drawn)
    batch = {"tokens": tokens[:, :-1], "targets": tokens[:, CONTEXT:]}
    bfloat16 = gains_from_bfloat16("cpu")

    def run() -> float:
        begun = time.perf_counter()
        for _ in range(STEPS):
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                move = next(learned.losses(model, batch))
            optimizer.zero_grad()
            (move.loss / move.weight).backward()
            optimizer.step()
        return STEPS * BATCH * WINDOW / (time.perf_counter() - begun)

    run()
    return run


def speed(rounds: int) -> dict[str, Any]:
    """Each objective at several vocabularies, in turn."""
    found = {}
    for words in (2_000, 10_000, 30_000):
        values = alternate({k: steps(o, words) for k, o in OBJECTIVES.items()}, rounds)
        found[f"{words} words"] = {
            name: {
                "words/s": round(each),
                "against softmax": round(ratio(values, name, "softmax"), 2),
            }
            for name, each in medians(values).items()
        }
        print(words, found[f"{words} words"], flush=True)
    return found


def quality(name: str, minutes: float, vocabulary: int, kinds: list[str]) -> dict[str, Any]:
    """nnlm with each objective, as long each."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        train, valid, test = SETS[name](Path(folder))
        for kind in kinds:
            system = api.configure(
                "nnlm",
                {
                    "data": {"unit": "space", "vocabulary": vocabulary, "min_count": 1},
                    "objective": {"kind": kind},
                    "optimizer": {"minutes": minutes, "evaluate_every": "25%"},
                },
            )
            run = fourfold.fit(system, str(train), valid=valid and str(valid), out=False)
            last = [line for line in run.metrics.lines if "seconds" in line][-1]
            seen = last["step"] * BATCH * WINDOW
            found[kind] = {
                "perplexity": round(math.exp(run.evaluate(str(test))["loss"]), 1),
                "words/s": round(seen / last["seconds"]),
            }
            print(kind, found[kind], flush=True)
    return found


def main() -> None:
    """Run what is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["speed", "quality"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--set", choices=[*SETS], default="brown")
    parser.add_argument("--vocabulary", type=int, default=10_000)
    parser.add_argument("--objectives", default=",".join(OBJECTIVES))
    given = parser.parse_args()
    if given.what == "speed":
        keep("vocabulary", {"speed": speed(given.rounds)})
        return
    found = quality(given.set, given.minutes, given.vocabulary, given.objectives.split(","))
    keep("vocabulary", {f"quality on {given.set}, {given.minutes:g} minutes": found})


if __name__ == "__main__":
    main()
