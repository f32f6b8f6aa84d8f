"""What the benchmarks beside other trainers share: timed loops, ours and theirs, each in a process of its own."""

from __future__ import annotations

import json
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import ratio
from fourfold.core.parts import Batch
from fourfold.core.run import Run
from fourfold.optimizers.search import Search

ROOT = Path(__file__).parents[1]
Numbers = dict[str, float]


def apart(module: str, *words: object) -> Numbers:
    """What `python -m module words` prints as its last line, in a process of its own, as its user runs it."""
    given = list(map(str, words))
    command = [sys.executable, "-m", module, *given]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{shlex.join(given)}: {done.stderr[-2000:]}")
    found: Numbers = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def in_turn(
    contenders: tuple[str, ...], rounds: int, measure: Callable[[str], Numbers]
) -> Iterator[dict[str, list[Numbers]]]:
    """Contenders in turn; what is found so far after each round."""
    found: dict[str, list[Numbers]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in contenders:
            found[name].append(measure(name))
            print(name, {k: round(v, 2) for k, v in found[name][-1].items()}, flush=True)
        yield found


def by_fastest(
    found: Mapping[str, list[Numbers]],
    key: str,
    alike: Callable[[str, str], bool] = lambda ours, peer: True,
) -> Numbers:
    """Each of ours by its fastest peer, of neighbours in time; what reads float32 only by a peer that does."""
    rates = {name: [m[key] for m in each] for name, each in found.items()}
    result = {}
    for name in (n for n in found if n.startswith("fourfold")):
        others = [n for n in found if not n.startswith("fourfold") and alike(name, n)]
        peers = [p for p in others if "float32" in p] if "float32" in name else others
        if peers:
            fastest = max(peers, key=lambda p: statistics.median(rates[p]))
            result[f"{name}, times {fastest}"] = round(ratio(rates, name, fastest), 2)
            print(f"{name}: {result[f'{name}, times {fastest}']} x {fastest}", flush=True)
    return result


def ours_timed(run: Run, seconds: float, warm: int, **units: Callable[[Batch], int]) -> Numbers:
    """Steps of our own loop, timed once the first are done; what is counted of each batch."""
    run.model.train()
    search = Search(run.system.optimizer, run.objective, run.model, run.data, run)  # type: ignore[arg-type]
    batches = search._batches()
    for _ in range(warm):
        search.step(next(batches))
    began, steps, counts = time.perf_counter(), 0, dict.fromkeys(units, 0)
    while time.perf_counter() - began < seconds:
        step = next(batches)
        search.step(step)
        steps += 1
        for name, count in units.items():
            counts[name] += sum(map(count, step))
    return measured(steps, time.perf_counter() - began, **counts)


def clock(seconds: float, warm: int) -> Any:
    """A callback of transformers' Trainer: counts `steps` after the first and the seconds `taken`, then stops it."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        began, steps, taken = 0.0, 0, 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> Any:
            if state.global_step == warm:
                self.began = time.perf_counter()
            elif state.global_step > warm:
                self.steps, self.taken = state.global_step - warm, time.perf_counter() - self.began
                control.should_training_stop = self.taken > seconds
            return control

    return Clock()


def measured(steps: int, seconds: float, **units: float) -> Numbers:
    """Units a second, steps, and the peak memory of this process."""
    rates = {f"{name.replace('_', ' ')} a second": n / seconds for name, n in units.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**rates, "steps": steps, "peak memory (MiB)": peak}
