"""What `Gradient` costs over a loop written by hand, per step, and where it goes.

    python -m benchmarks.overhead

Two models: a small MLP, where every microsecond shows, and the demo GPT, where the share counts. Both
loops draw the same batches, use the same torch optimizer and clip alike; one thread for the MLP.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.side_by_side import alternate, data_file, keep, medians, ratio
from fourfold import api, fitting
from fourfold.core.parts import Batch, Data, Move, Objective, Split
from fourfold.core.run import Run
from fourfold.data.loading import Indexed
from fourfold.optimizers.gradient import Gradient
from fourfold.optimizers.precision import autocast, chosen
from fourfold.optimizers.search import Search


class Rows(Indexed):
    """Random rows in memory."""

    unit = "rows"

    def __init__(self) -> None:
        super().__init__(batch=64, seed=0)
        torch.manual_seed(0)
        self.x, self.y = torch.randn(8192, 32), torch.randn(8192, 1)

    def size(self, split: Split) -> int:
        return len(self.x) if split == "train" else 0

    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        return {"x": self.x[index], "y": self.y[index]}

    def reopen(
        self, sources: Any, *, seed: int = 0, valid: Any = None, whole: bool = False
    ) -> Data:
        return self

    def save(self, folder: Any) -> None:
        pass


class Squares(Objective):
    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Move]:
        yield Move(
            "model", F.mse_loss(model(batch["x"]), batch["y"], reduction="sum"), len(batch["x"])
        )


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
    )


def by_hand(
    data: Data,
    model: nn.Module,
    loss_of: Callable[[nn.Module, Batch], torch.Tensor],
    lr: float,
    steps: int,
    dtype: torch.dtype,
) -> float:
    """Seconds a step of the loop that everybody writes: order, forward, backward, clip, step, loss for the log."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0, fused=True)
    context = autocast(dtype, torch.device("cpu"))
    model.train()
    total, done, epoch = 0.0, 0, 0
    began = time.perf_counter()
    while done < steps:
        for batch in data.batches("train", epoch=epoch):
            with context:
                loss = loss_of(model, batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item()
            done += 1
            if done == steps:
                break
        epoch += 1
    return (time.perf_counter() - began) / steps


def through_gradient(
    data: Data, model: nn.Module, objective: Objective, lr: float, steps: int
) -> float:
    """Seconds a step of the same search through `Gradient`, with its log, checks, budget and signals."""
    config = Gradient(
        algorithm="adamw", lr=lr, steps=steps, clip=1.0, evaluate_every="100%", schedule="constant"
    )
    search = Search(config, objective, model, data, Run(api.configure("linear", {})))
    search._end = lambda: None  # type: ignore[method-assign]  # the end is not a step
    began = time.perf_counter()
    search.run_to_end()
    return (time.perf_counter() - began) / steps


def small(rounds: int = 9, steps: int = 4000) -> dict[str, Any]:
    """Microseconds a step over the hand-written loop on a small MLP."""
    torch.set_num_threads(1)
    values = alternate(
        {
            "by hand": lambda: by_hand(
                Rows(),
                mlp(),
                lambda m, b: F.mse_loss(m(b["x"]), b["y"]),
                1e-3,
                steps,
                torch.float32,
            ),
            "Gradient": lambda: through_gradient(Rows(), mlp(), Squares(), 1e-3, steps),
        },
        rounds,
    )
    extra = [1e6 * (a - b) for a, b in zip(values["Gradient"], values["by hand"], strict=True)]
    middle = {k: round(1e6 * v, 1) for k, v in medians(values).items()}
    return {
        "microseconds a step": middle,
        "over by hand": round(statistics.median(extra), 1),
        "items": items(),
    }


def items(steps: int = 2000) -> dict[str, float]:
    """Microseconds a step of what the hand-written loop does not do, each taken by itself."""
    config = Gradient(lr=1e-3, steps=steps, clip=1.0, evaluate_every="100%")
    model = mlp()
    search = Search(config, Squares(), model, Rows(), Run(api.configure("linear", {})))
    batch = next(iter(Rows().batches("train")))
    search.step([batch])
    move = next(Squares().losses(model, batch))
    counted = search._looked_at(move, [batch])
    move.loss.backward()
    player = search.players["model"]
    numbers = iter(range(1, 10**9))
    cases = {
        "schedule and rate": lambda: player.set_rate(config.factor(next(numbers), 0.5)),
        "the loss looked at": lambda: search._looked_at(move, [batch]),
        "norm, checked and clipped": lambda: search._limit(player),
        "the same by clip_grad_norm_": lambda: nn.utils.clip_grad_norm_(model.parameters(), 1.0),
        "tally for the log": lambda: search._count(counted, True, [batch]),
        "budget": lambda: search.budget.advance(next(numbers)),
        "between steps: log, evaluation, checkpoint, console": lambda: (
            search.__setattr__("done", next(numbers)),
            search._between(),
        ),
    }
    found = {}
    search.budget.start()
    search.shown = float("inf")
    for name, call in cases.items():
        began = time.perf_counter()
        for _ in range(steps):
            call()
        found[name] = round(1e6 * (time.perf_counter() - began) / steps, 2)
    return found


def demo(rounds: int = 5, steps: int = 20) -> dict[str, Any]:
    """The share that `Gradient` adds on the demo GPT."""
    run = Run(api.configure("gpt", {"data.unit": "character"}))
    fitting.begin(run, str(data_file("tinyshakespeare/input.txt")), None)
    model, objective = run.model, run.objective
    dtype = chosen("auto", model, run.device)

    def loss_of(model: nn.Module, batch: Batch) -> torch.Tensor:
        move = next(objective.losses(model, batch))
        return move.loss / move.weight

    def fresh() -> Data:
        run.data.load_state_dict({"epoch": 0, "batches": 0})
        return run.data

    values = alternate(
        {
            "by hand": lambda: by_hand(fresh(), model, loss_of, 1e-4, steps, dtype),
            "Gradient": lambda: through_gradient(fresh(), model, objective, 1e-4, steps),
        },
        rounds,
    )
    return {
        "milliseconds a step": {k: round(1e3 * v, 2) for k, v in medians(values).items()},
        "over by hand": f"{100 * (ratio(values, 'Gradient', 'by hand') - 1):.1f}%",
    }


def main() -> None:
    threads = torch.get_num_threads()
    result = {"small MLP": small()}
    print(result, flush=True)
    torch.set_num_threads(threads)
    result["demo GPT"] = demo()
    print(result["demo GPT"])
    keep("overhead", result)


if __name__ == "__main__":
    main()
