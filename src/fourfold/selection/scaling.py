"""A ladder of one system's sizes: a few small runs on the same tokens predict the next size's loss, with an interval.

Kaplan et al. 2020; Hoffmann et al. 2022: at a fixed number of tokens the loss falls with the number N of weights that a
token is multiplied with, as L = A N^-a over a short range and as L = E + A N^-a over a longer one. Few runs do not tell
the two apart, so from three sizes on both are fitted, each to half of the bootstrap's replicates. A replicate draws
blocks of the held-out text, the same for all sizes, and a seed of each size where there are several.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fourfold import api
from fourfold.core.console import Console, Silent
from fourfold.core.errors import Interrupted, UserError, nearest
from fourfold.core.evaluation import held_out
from fourfold.core.folders import new_folder
from fourfold.core.registry import load_system
from fourfold.core.run import Run
from fourfold.core.sources import stored
from fourfold.core.state import write_text
from fourfold.core.types import Explanation, Table
from fourfold.look.page import render
from fourfold.look.scaling import scaling_picture
from fourfold.tasks.language import LanguageModel, text_data

RECORD = "scaling.json"
BLOCKS = 100
"""Pieces of the held-out text that a replicate draws from."""
REPLICATES = 2000
INTERVAL = (5.0, 95.0)
EXPONENTS = np.geomspace(0.01, 2.0, 200)
"""Tried in L = E + A N^-a."""


@dataclass
class Sized:
    """One run of a size."""

    size: str
    seed: int
    weights: int
    """That a token is multiplied with: all but an embedding that is only looked up."""
    bits_per_byte: float
    tokens: int
    """Trained on, short batches at an epoch's end counted as whole ones."""
    blocks: list[float]
    """Bits per byte of each piece of the held-out text, as many tokens in each."""


@dataclass
class Scaling:
    """The runs, and what they say of the next size."""

    folder: Path
    plan: dict[str, Any]
    runs: list[Sized] = field(default_factory=list)
    predicted: tuple[float, float, float] | None = None
    """Middle, low and high, bits per byte; None where larger is not better."""
    weights: int = 0
    """Of the predicted size."""
    checked: list[Sized] = field(default_factory=list)
    """Runs of the predicted size."""

    def explanation(self) -> Explanation:
        """The report's content."""
        return Explanation(
            f"{self.plan['system']}: {', '.join(self.plan['sizes'])} and then {self.plan['predict']}",
            tuple(_sentences(self)),
            (_table(self),),
            (self._picture(),),
        )

    def _picture(self) -> Any:
        few, many = (
            min(r.weights for r in self.runs),
            max([self.weights, *(r.weights for r in self.runs)]),
        )
        places = np.geomspace(few, many, 60)
        curves = None
        if self.predicted is not None:
            curves = np.percentile(
                replicates(self.runs, places, self.plan["seed"]), (5, 50, 95), axis=0
            )
        return scaling_picture(
            [(r.size, r.weights, r.bits_per_byte) for r in self.runs],
            places,
            curves,
            None
            if self.predicted is None
            else (self.plan["predict"], self.weights, *self.predicted),
            [(r.weights, r.bits_per_byte) for r in self.checked],
        )

    def __str__(self) -> str:
        return str(self.explanation())


def scaling(
    source: Any = None,
    *,
    sizes: Sequence[str],
    system: str = "gpt",
    predict: str | None = None,
    check: bool = False,
    seeds: int = 1,
    steps: int | None = None,
    epochs: float | None = None,
    valid: Any = None,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    console: Console | None = None,
    command: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Scaling:
    """Train sizes of a language model on the same tokens and predict another one's loss.

    All have the window, batch and budget of the smallest. Runs that are done in the folder are not trained again.

    Args:
        source: texts, as for `fit`.
        sizes: two or more presets of the system.
        system: a language model with sizes.
        predict: the size to predict; None takes the one after the largest.
        check: train that size too, and measure it.
        seeds: runs of each size.
        steps: of each run; None with epochs None takes one epoch.
        epochs: of each run, instead.
        valid: texts of the validation split, if they are files of their own.
        out: the folder; None makes `runs/scaling-<n>`.
        seed: the first; also of the bootstrap.
        device: as for `fit`.
        console: where progress is said; silent by default.
        command: what to type to go on, said where it is stopped.
        options: further options of all sizes.

    Raises:
        UserError: an unknown size, one size only, a folder of another plan, nothing held out.
        Interrupted: it was stopped; the same command goes on.
    """
    console = console or Silent()
    wanted, predict = _sizes(system, sizes, predict)
    if steps is not None and epochs is not None:
        raise UserError("--steps and --epochs: expected one of them")
    window = api.configure(system, dict(options or {}), wanted[0]).data.model_dump()["window"]
    budget = {"optimizer.steps": steps} if steps else {"optimizer.epochs": epochs or 1}
    given = {**budget, "data.window": window, **(options or {})}
    plan = {"system": system, "sizes": wanted, "predict": predict, "seeds": seeds, "seed": seed, "source": stored(source), "options": given}  # fmt: skip
    folder = Path(out) if out is not None else new_folder("scaling")
    found = Scaling(folder, plan)
    _begin(found)

    def trained(size: str) -> list[Sized]:
        return [
            _trained(size, s, source, valid, found, device, console, command)
            for s in range(seed, seed + seeds)
        ]

    for size in wanted:
        found.runs += trained(size)
    found.weights = _weights_of(folder / f"{wanted[0]}-{seed}", system, predict, given)
    found.predicted = prediction(found.runs, found.weights, seed)
    _keep(found)
    if found.predicted is not None:
        middle, low, high = found.predicted
        console.say(f"{predict} is expected at {middle:.4f} bits per byte, {low:.4f} to {high:.4f}")
    if check:
        found.checked = trained(predict)
        _keep(found)
    return found


# --- what the runs predict --------------------------------------------------------------------------


def prediction(
    runs: Sequence[Sized], weights: int, seed: int = 0
) -> tuple[float, float, float] | None:
    """Middle and interval of the bits per byte at a number of weights; None where the largest size is not the best."""
    means = _means(runs)
    if means[max(means)] >= min(value for n, value in means.items() if n != max(means)):
        return None
    drawn = replicates(runs, np.array([weights], float), seed)[:, 0]
    low, high = np.percentile(drawn, INTERVAL)
    return float(np.median(drawn)), float(low), float(high)


def replicates(runs: Sequence[Sized], places: np.ndarray, seed: int) -> np.ndarray:
    """What each replicate of the bootstrap expects at some numbers of weights, (replicates, places)."""
    generator = np.random.default_rng([seed, 0x5CA1E])
    sizes = sorted({run.weights for run in runs})
    blocks = len(runs[0].blocks)
    chosen = generator.integers(blocks, size=(REPLICATES, blocks))
    losses = np.empty((REPLICATES, len(sizes)))
    for column, size in enumerate(sizes):
        same = np.array([run.blocks for run in runs if run.weights == size])  # (seeds, blocks)
        means = same[:, chosen].mean(-1)  # (seeds, replicates)
        picked = generator.integers(len(same), size=(len(same), REPLICATES))
        losses[:, column] = np.take_along_axis(means, picked, axis=0).mean(0)
    logs = np.log(np.array(sizes, float))
    both = len(sizes) > 2
    cut = REPLICATES // 2 if both else REPLICATES
    found = np.empty((REPLICATES, len(places)))
    found[:cut] = _power(logs, losses[:cut], np.log(places))
    if both:
        found[cut:] = _with_floor(logs, losses[cut:], np.log(places))
    return found


def _power(logs: np.ndarray, losses: np.ndarray, at: np.ndarray) -> np.ndarray:
    """L = A N^-a, by least squares in logarithms: (R, sizes) to (R, places)."""
    x = logs - logs.mean()
    y = np.log(losses)
    slope = (y * x).sum(1) / (x * x).sum()
    return np.exp(y.mean(1)[:, None] + slope[:, None] * (at - logs.mean()))


def _with_floor(logs: np.ndarray, losses: np.ndarray, at: np.ndarray) -> np.ndarray:
    """L = E + A N^-a with E and A at least 0, by least squares over E, A and the exponents tried."""
    best = np.full(len(losses), np.inf)
    found = np.empty((len(losses), len(at)))
    for a in EXPONENTS:
        x, z = np.exp(-a * (logs - logs[0])), np.exp(-a * (at - logs[0]))
        centred = x - x.mean()
        factor = np.maximum((losses * centred).sum(1) / (centred * centred).sum(), 0.0)
        floor = losses.mean(1) - factor * x.mean()
        below = floor < 0  # then A alone is fitted
        factor = np.where(below, (losses * x).sum(1) / (x * x).sum(), factor)
        floor = np.maximum(floor, 0.0)
        error = ((losses - floor[:, None] - factor[:, None] * x) ** 2).sum(1)
        better = error < best
        best[better] = error[better]
        found[better] = floor[better, None] + factor[better, None] * z
    return found


def _means(runs: Sequence[Sized]) -> dict[int, float]:
    by: dict[int, list[float]] = {}
    for run in runs:
        by.setdefault(run.weights, []).append(run.bits_per_byte)
    return {weights: float(np.mean(values)) for weights, values in by.items()}


# --- one run ----------------------------------------------------------------------------------------


def _trained(
    size: str,
    seed: int,
    source: Any,
    valid: Any,
    found: Scaling,
    device: str,
    console: Console,
    command: str | None,
) -> Sized:
    """A size's run, finished, gone on with or new, and measured."""
    folder = found.folder / f"{size}-{seed}"
    console.say(f"--- {size}, seed {seed}")
    try:
        if (folder / "system.toml").exists():
            run = Run.open(folder, device=None if device == "auto" else device)
            if not run.about.get("finished"):
                run = api.resume(folder, console=console)
        else:
            run = api.fit(
                found.plan["system"], source, out=folder, seed=seed, valid=valid, size=size,
                device=device, console=console, **found.plan["options"],
            )  # fmt: skip
    except Interrupted as stopped:
        raise Interrupted(
            stopped.signum, stopped.step, command or "", after=f"{stopped.after} of {size}"
        ) from None
    return _measured(run, size, seed)


def _measured(run: Run, size: str, seed: int) -> Sized:
    data, split, _ = held_out(run)
    text = text_data(data)
    tokens = np.asarray(text.tokens(split), np.int64)
    count = (len(tokens) - 1) // BLOCKS * BLOCKS
    if not count:
        raise UserError(
            f"{run.folder}: {len(tokens) - 1} held-out tokens, expected {BLOCKS} or more"
        )
    assert isinstance(run.system, LanguageModel)  # noqa: S101
    nats = run.system.reader(run).surprises(tokens)
    # all runs have the same tokens, so that bits per byte are a line of nats per token
    per_token = len(nats) / (math.log(2) * text.bytes(split))
    spelling = text.spelling(split) / text.bytes(split)
    blocks = nats[:count].reshape(BLOCKS, -1).mean(1) * per_token + spelling
    steps = max((int(line["step"]) for line in run.metrics.lines), default=0)
    each = text.batch * text.window * int(run.system.optimizer.model_dump().get("accumulate", 1))
    return Sized(
        size,
        seed,
        _weights(run.model),
        float(nats.mean()) * per_token + spelling,
        steps * each,
        [float(b) for b in blocks],
    )


def _weights(model: Any) -> int:
    """Weights that a token is multiplied with: without an embedding that is only looked up."""
    total = sum(p.numel() for p in model.parameters())
    embedding, tied = getattr(model, "embedding", None), getattr(model, "tied", False)
    return total - (0 if tied or embedding is None else embedding.weight.numel())


def _weights_of(folder: Path, system: str, size: str, options: Mapping[str, Any]) -> int:
    """Of a size that is not trained yet, under the vocabulary of a run."""
    prepared = Run.open(folder).data
    return _weights(api.configure(system, dict(options), size).build(prepared))


def _sizes(system: str, sizes: Sequence[str], predict: str | None) -> tuple[list[str], str]:
    """The sizes in the system's order, and the one to predict."""
    cls = load_system(system)
    if not issubclass(cls, LanguageModel) or not cls.sizes:
        raise UserError(f"--system {system}: expected a language model with sizes, such as gpt")
    known = list(cls.sizes)
    for size in [*sizes, *([predict] if predict else [])]:
        if size not in known:
            raise UserError(f"--sizes {size}: {system} has no such size{nearest(size, known)}")
    wanted = sorted(dict.fromkeys(sizes), key=known.index)
    if len(wanted) < 2:
        raise UserError("--sizes: expected two sizes or more to predict another from")
    if predict is None:
        after = known[known.index(wanted[-1]) + 1 :]
        if not after:
            raise UserError(f"--sizes: nothing comes after {wanted[-1]}; --predict names a size")
        predict = after[0]
    if predict in wanted:
        raise UserError(f"--predict {predict}: is among the sizes that are trained")
    return wanted, predict


# --- the folder, words ------------------------------------------------------------------------------


def _begin(found: Scaling) -> None:
    """Refuse a folder of another plan."""
    path = found.folder / RECORD
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))["plan"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: damaged ({error}); another --out begins anew") from error
        for name in ("system", "seed", "source", "options"):
            if before.get(name) != found.plan[name]:
                raise UserError(
                    f"{found.folder}: holds sizes with another {name} ({before.get(name)}, now {found.plan[name]}); "
                    "another --out begins anew"
                )
    elif (found.folder / "system.toml").exists():
        raise UserError(f"{found.folder}: holds a run; --out names another folder")
    found.folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"plan": found.plan}))


def _keep(found: Scaling) -> None:
    record = {
        "plan": found.plan,
        "runs": [asdict(run) for run in found.runs],
        "weights": found.weights,
        "predicted": found.predicted,
        "checked": [asdict(run) for run in found.checked],
    }
    write_text(found.folder / RECORD, json.dumps(record))
    write_text(found.folder / "report.html", render(found.explanation()))


def _sentences(found: Scaling) -> list[str]:
    plan, runs = found.plan, found.runs
    sizes = len({run.weights for run in runs})
    if found.predicted is None:
        return [
            f"The largest of these sizes is not the best of them: after {runs[0].tokens:,} tokens size is not what the loss "
            "depends on, so nothing is predicted. Larger ones need more tokens (--steps, --epochs)."
        ]
    middle, low, high = found.predicted
    said = [
        f"{plan['predict']} ({found.weights:,} weights) is expected at {middle:.4f} bits per byte, between {low:.4f} and "
        f"{high:.4f} in 90% of {REPLICATES:,} replicates of a bootstrap."
    ]
    forms = (
        "L = A N^-a and L = E + A N^-a, half of them each"
        if sizes > 2
        else "L = A N^-a: two sizes tell no floor"
    )
    seeds = (
        f"{plan['seeds']} seeds a size"
        if plan["seeds"] > 1
        else "one seed a size, so how much seeds differ is not in it"
    )
    said.append(
        f"A replicate draws {BLOCKS} blocks of the held-out text, the same for all sizes, and fits {forms}; {seeds}. "
        "That the law goes on is assumed."
    )
    if found.checked:
        true = float(np.mean([run.bits_per_byte for run in found.checked]))
        inside = "inside" if low <= true <= high else "outside"
        said.append(
            f"Trained, {plan['predict']} reaches {true:.4f}: {inside} the interval, {true - middle:+.4f} from its middle."
        )
    return said


def _table(found: Scaling) -> Table:
    rows = [
        (run.size, run.seed, run.weights, run.tokens, round(run.bits_per_byte, 4))
        for run in [*found.runs, *found.checked]
    ]
    return Table(
        "Every run",
        ("size", "seed", "weights", "tokens", "bits per byte"),
        tuple(rows),
        "Weights that a token is multiplied with: an embedding that is only looked up is left out.",
    )
