"""One of several processes that fit a small Transformer and write down what they hold and what went over the wire.

Arguments: a JSON of options of `core.ranks.Parallel`, and the number of steps to measure. Rank 0 prints a JSON object:
bytes of weights, gradients and optimizer of this process, and bytes that all sent per step over the loopback device.
"""

import json
import sys
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from fourfold import api, fitting
from fourfold.core.jobs import begin_together, spread_over
from fourfold.core.ranks import join
from fourfold.core.run import Run
from fourfold.core.shares import local
from fourfold.optimizers.search import Search

TEXT = " ".join(f"{a} and {b} make {a + b}." for a in range(40) for b in range(40))
OPTIONS = {
    "unit": "character", "window": 16, "batch": 8, "layers": 2, "width": 128, "heads": 4, "algorithm": "adamw",
    "precision": "float32", "steps": 100,
}  # fmt: skip


def loopback() -> int:
    """Bytes that the loopback device has sent."""
    rows = (line.split() for line in Path("/proc/net/dev").read_text().splitlines())
    return next(int(row[9]) for row in rows if row[0] == "lo:")


def size(tensors: list[Tensor]) -> int:
    return sum(local(t).numel() * local(t).element_size() for t in tensors)


def main() -> None:
    torch.set_num_threads(1)
    ranks = join()
    parallel = spread_over(ranks, json.loads(sys.argv[1]))
    run = Run(api.configure("gpt", OPTIONS), device="cpu")
    begin_together(run, ranks, parallel)
    fitting.begin(run, {"text": [TEXT]}, None)
    search = Search(run.system.optimizer, run.objective, run.model, run.data, run)  # type: ignore[arg-type]
    run.model.train()
    batches = search._batches()
    held: dict[str, int] = {}
    player = search._player("model")
    step = player.step
    player.step = lambda: held.update(gradients=size(player.gradients())) or step()  # type: ignore[method-assign, func-returns-value]
    for some in islice(batches, 2):
        search.step(some)
    ranks.gather("ready")
    before = loopback()
    count = int(sys.argv[2])
    for some in islice(batches, count):
        search.step(some)
    ranks.gather("done")
    states = [t for o in player.optimizers for s in o.state.values() for t in s.values()]
    held["weights"] = size(list(run.model.parameters()))
    held["optimizer"] = size([t for t in states if isinstance(t, Tensor) and t.ndim])
    held["sent"] = (loopback() - before) // count
    if ranks.main:
        print(json.dumps(held))
    ranks.leave()


main()
