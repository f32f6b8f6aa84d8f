"""Measuring: sums and weights of an objective over a split, divided once at the end."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fourfold.core.device import seed_generators, seeded
from fourfold.core.errors import UserError
from fourfold.core.parts import Data, Objective, Split
from fourfold.core.ranks import ALONE, Ranks
from fourfold.core.run import Run
from fourfold.core.shares import SharedBatch, rows_from, rows_of, share_of
from fourfold.core.sources import describe
from fourfold.core.types import Score


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on the device; nothing is copied that is there already."""
    if device.type == "cpu":
        return batch
    moved = {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }
    return SharedBatch(moved, batch.share) if isinstance(batch, SharedBatch) else moved


def measure(
    objective: Objective,
    model: nn.Module,
    data: Data,
    split: Split,
    device: torch.device,
    seed: int = 0,
    ranks: Ranks = ALONE,
    together: bool = False,
) -> dict[str, float]:
    """The objective's measures over a whole split; generators and training mode are left as they were.

    Several processes take turns with its pieces and add up; what is drawn for one depends on its number alone. Where
    the model is spread over them (`together`), all compute every piece, and rank 0 counts.

    Raises:
        UserError: nothing in the split counts.
    """
    sums: dict[str, Tensor | float] = {}
    weights: dict[str, Tensor | float] = {}
    kept: dict[str, list[Tensor]] = {}
    training = model.training
    model.eval()
    try:
        with seeded(seed, device), torch.no_grad():
            for number, batch in enumerate(data.blocks(split, model=model)):
                if number:
                    seed_generators(seed + number, device)
                if ranks.several and not together:
                    if objective.carries:  # row by row, as no piece can be left out
                        share = share_of(rows_of(batch), ranks.rank, ranks.size)
                        batch = rows_from(batch, share.first, share.rows)
                    elif number % ranks.size != ranks.rank:
                        continue
                for name, (total, weight) in objective.measure(
                    model, to_device(batch, device)
                ).items():
                    if weight is None:
                        kept.setdefault(name, []).append(total.detach().cpu())
                        continue
                    sums[name] = sums.get(name, 0.0) + _double(total)
                    weights[name] = weights.get(name, 0.0) + _double(weight)
    finally:
        model.train(training)
    if ranks.several and not together:
        sums, weights, kept = _over_ranks(ranks, sums, weights, kept)
    means = {}
    for name in sums:
        weight = float(weights[name])
        if weight == 0:
            raise UserError(f"the {split} split has nothing that counts for {name}")
        means[name] = float(sums[name]) / weight
    return dict(objective.conclude(means, {name: torch.cat(rows) for name, rows in kept.items()}))


def _over_ranks(
    ranks: Ranks,
    sums: dict[str, Tensor | float],
    weights: dict[str, Tensor | float],
    kept: dict[str, list[Tensor]],
) -> tuple[dict[str, Tensor | float], dict[str, Tensor | float], dict[str, list[Tensor]]]:
    """What was measured on all processes; one that had no piece of the split knows no names."""
    mine = {name: [float(sums[name]), float(weights[name])] for name in sums}
    rows = {name: torch.cat(found).tolist() for name, found in kept.items()}
    every = ranks.gather([mine, rows])
    for name in dict.fromkeys(name for told, _ in every for name in told):
        sums[name], weights[name] = (
            math.fsum(told[name][i] for told, _ in every if name in told) for i in (0, 1)
        )
    for name in dict.fromkeys(name for _, found in every for name in found):
        kept[name] = [torch.tensor(found[name]) for _, found in every if found.get(name)]
    order = list(every[0][0]) or list(sums)  # rank 0 has the first piece
    return {n: sums[n] for n in order}, {n: weights[n] for n in order}, kept


def _double(value: Tensor | float) -> Tensor | float:
    # float64 sums: a split of millions of terms loses digits in float32
    return (
        value.detach().double()
        if isinstance(value, Tensor) and value.device.type != "mps"
        else value
    )


def held_out(run: Run, source: Any = None) -> tuple[Data, Split, str]:
    """What to measure a run on: other data as a whole, or its own held-out split.

    Returns:
        The data, the split of it to use, and a sentence that says which it is.

    Raises:
        UserError: the run holds nothing out, and no other data was given.
    """
    if source is not None:
        data = run.data.reopen(source, seed=run.seed, whole=True)
        return data, "test", f"on {describe(source)}"
    data = run.examples()
    splits: tuple[Split, ...] = ("test", "valid")
    for split in splits:
        if data.size(split):
            return data, split, f"on its own {split} split"
    raise UserError(
        "this run holds nothing out to be measured on; give it data: fourfold evaluate RUN FILE"
    )


def evaluate(run: Run, source: Any = None) -> Score:
    """The run's objective, measured on its own test split or on other data."""
    data, split, sentence = held_out(run, source)
    model = run.model
    values = measure(run.objective, model, data, split, run.device, run.seed)
    return Score(
        values,
        notes=(f"{data.size(split):,} examples {sentence}", *data.summary().get("notes", ())),
    )
