"""LSTM language model, 2 x 200, 10,000 words, windows of 35 in 20 rows: beside the plain torch.nn.LSTM loop.

    OMP_NUM_THREADS=1 python -m benchmarks.lstm speed
    python -m benchmarks.lstm quality --epochs 4

The peer is the loop as torch's own word language model example has it: embedding, nn.LSTM, Linear, F.cross_entropy,
clipped SGD, float32. Ours goes through `fourfold fit`'s own loop with the same SGD, for quality from weights drawn alike. Both read the same tokens in the
same rows; both are measured in float32 on the same test tokens, state carried from the first to the last. With one thread
speed is by processor time, which what else runs on the machine moves less than the clock.
"""

from __future__ import annotations

import argparse
import gzip
import math
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.side_by_side import alternate, data_file, keep, medians, ratio
from fourfold import api, fitting
from fourfold.core.run import Run
from fourfold.optimizers.search import Search

VOCABULARY, WIDTH, LAYERS, WINDOW, BATCH = 10_000, 200, 2, 35, 20
LR, CLIP = 20.0, 0.25
"""Of the example that ships with torch."""
OBJECTIVES = ("softmax", "sampled", "adaptive")
ROOT = Path(__file__).parents[1]


def clock() -> float:
    """Seconds: of processor time where there is one thread."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


class Plain(nn.Module):
    """As torch's example writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(VOCABULARY, WIDTH)
        self.rnn = nn.LSTM(WIDTH, WIDTH, LAYERS)
        self.decoder = nn.Linear(WIDTH, VOCABULARY)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        found, state = self.rnn(self.encoder(tokens), state)
        return self.decoder(found).view(-1, VOCABULARY), state


def text() -> str:
    """WikiText-2's validation part, then its test part, with a mark between."""
    folder = data_file("wikitext-2-valid-test")
    return gzip.decompress((folder / "valid.txt.gz").read_bytes()).decode()


def configured(objective: str, **options: Any) -> Run:
    """A run of our system before its first step, on WikiText-2's validation part."""
    path = Path(tempfile.mkdtemp()) / "valid.txt"
    path.write_text(text(), encoding="utf-8")
    system = api.configure(
        "lstm",
        {
            "data.vocabulary": VOCABULARY, "data.split": (1.0, 0.0, 0.0), "objective": objective,
            "width": WIDTH, "layers": LAYERS, "dropout": 0.0, "data.window": WINDOW, "data.batch": BATCH,
            "optimizer.algorithm": "sgd", "optimizer.lr": LR, "optimizer.clip": CLIP,
            "optimizer.schedule": "constant", "optimizer.warmup": 0.0, "optimizer.evaluate_every": "100%",
            "optimizer.checkpoint_every": "1000m", **options,
        },
    )  # fmt: skip
    run = Run(system)
    fitting.begin(run, str(path), None)
    run.model.train()
    return run


def rows(tokens: np.ndarray) -> Tensor:
    """(N / B, B) int64."""
    count = len(tokens) // BATCH
    return torch.from_numpy(tokens[: count * BATCH].astype(np.int64)).view(BATCH, count).T


@torch.no_grad()
def begun_plainly(model: Any) -> None:
    """Ours with the first weights of torch's example: SGD at so high a rate stays where a zeroed output begins."""
    for weight in model.parameters():
        if len(weight) != VOCABULARY:
            nn.init.uniform_(weight, -(WIDTH**-0.5), WIDTH**-0.5)
        elif weight.ndim == 2:
            nn.init.uniform_(weight, -0.1, 0.1)
        else:
            nn.init.zeros_(weight)


def plain_epoch(model: Plain, data: Tensor, seconds: float | None = None) -> int:
    """One epoch, or as much as so many seconds allow; returns the tokens trained on."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    state: Any = (torch.zeros(LAYERS, BATCH, WIDTH),) * 2
    began, done = clock(), 0
    for at in range(0, len(data) - 1, WINDOW):
        length = min(WINDOW, len(data) - 1 - at)
        tokens, targets = data[at : at + length], data[at + 1 : at + 1 + length].reshape(-1)
        state = tuple(s.detach() for s in state)
        optimizer.zero_grad()
        logits, state = model(tokens, state)
        F.cross_entropy(logits, targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        done += len(targets)
        if seconds is not None and clock() - began > seconds:
            break
    return done


def one(contender: str, seconds: float) -> float:
    """Tokens a second; the first steps, which allocate and compile, do not count."""
    if contender == "torch.nn.LSTM":
        torch.manual_seed(0)
        run = configured("softmax", **{"optimizer.steps": 1})
        data, model = rows(run.data.tokens("train")), Plain()  # type: ignore[attr-defined]
        plain_epoch(model, data[: 3 * WINDOW])
        began = clock()
        return plain_epoch(model, data, seconds) / (clock() - began)
    run = configured(contender.split()[-1], **{"optimizer.steps": 1_000_000})
    search = Search(run.system.optimizer, run.objective, run.model, run.data, run)  # type: ignore[arg-type]
    search.frozen.train()
    steps = search._batches()
    for _ in range(3):
        search.step(next(steps))
    began, done = clock(), 0
    while clock() - began < seconds:
        batches = next(steps)
        search.step(batches)
        done += batches[0]["targets"].numel()
    return done / (clock() - began)


def apart(contender: str, seconds: float) -> float:
    """`one` in a process of its own: what one loop sets, the other must not enjoy."""
    command = [sys.executable, "-m", "benchmarks.lstm", "one", "--contender", contender]
    command += ["--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return float(done.stdout.split()[-1])


def speed(rounds: int, seconds: float) -> dict[str, Any]:
    """Tokens a second of each loop, in turn."""
    names = ["torch.nn.LSTM", *(f"fourfold {objective}" for objective in OBJECTIVES)]
    values = alternate({name: partial(apart, name, seconds) for name in names}, rounds)
    found: dict[str, Any] = {name: round(value) for name, value in medians(values).items()}
    for name in names[1:]:
        found[f"{name}, times torch.nn.LSTM"] = round(ratio(values, name, names[0]), 2)
    print(found, flush=True)
    threads = torch.get_num_threads()
    how = "of processor time, 1 thread" if threads == 1 else f", {threads} threads"
    return {f"tokens a second {how}".replace(" ,", ","): found}


def perplexity(model: Any, tokens: np.ndarray) -> float:
    """e to the mean surprise, in float32, of either model."""
    whole, state, total = torch.from_numpy(tokens.astype(np.int64)), None, 0.0
    with torch.no_grad():
        for at in range(0, len(whole) - 1, 512):
            piece = whole[at : at + 513]
            if isinstance(model, Plain):
                logits, state = model(piece[:-1, None], state)
                total += float(F.cross_entropy(logits, piece[1:], reduction="sum"))
            else:
                hidden, state = model(piece[None, :-1], state)
                total += float(model.head.negative_log(hidden[0], piece[1:]).sum())
    return math.exp(total / (len(whole) - 1))


def quality(epochs: int) -> dict[str, Any]:
    """Perplexity on WikiText-2's test part after the same tokens of its validation part."""
    folder = data_file("wikitext-2-valid-test")
    held = gzip.decompress((folder / "test.txt.gz").read_bytes()).decode()
    found: dict[str, Any] = {}
    for name in ("torch.nn.LSTM", *OBJECTIVES):
        ours = name != "torch.nn.LSTM"
        run = configured(name if ours else "softmax", **{"optimizer.epochs": epochs})
        vocabulary: Any = run.data.vocabulary  # type: ignore[attr-defined]
        tokens = np.concatenate([[vocabulary.end], vocabulary.encode(held)])
        model: Any = run.model
        torch.manual_seed(0)
        if ours:
            begun_plainly(model)
            run.system.optimizer.minimize(run.objective, model, run.data, run)
        else:
            model = Plain()
            data = rows(run.data.tokens("train"))  # type: ignore[attr-defined]
            for _ in range(epochs):
                plain_epoch(model, data)
        found[f"fourfold {name}" if ours else name] = round(perplexity(model.eval(), tokens), 1)
        print(found, flush=True)
    return {f"perplexity of the test part after {epochs} epochs of the validation part": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", nargs="?", choices=["speed", "quality", "all", "one"], default="all"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each speed measurement")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--contender", default="torch.nn.LSTM")
    arguments = parser.parse_args()
    if arguments.what == "one":
        print(one(arguments.contender, arguments.seconds))
        return
    if arguments.what in ("speed", "all"):
        keep("lstm", speed(arguments.rounds, arguments.seconds))
    if arguments.what in ("quality", "all"):
        keep("lstm", quality(arguments.epochs))


if __name__ == "__main__":
    main()
