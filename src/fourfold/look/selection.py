"""What cross-validation and a search left in a run's folder, as tables and pictures for its report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fourfold.core.types import Picture, Table
from fourfold.core.words import number
from fourfold.look.figures import COLORS, picture, plain_ticks, short_name, subplots

SHOWN = 15
"""Trials in a table, options in a picture."""


def pictures(folder: Path) -> Iterator[Picture]:
    """Of a search: its history, what its options matter, where good trials lie; of folds: their measures."""
    folds, search = _read(folder / "folds.json"), _read(folder / "search.json")
    if folds:
        yield fold_picture(folds)
    complete = [t for t in search.get("trials", ()) if t["state"] == "complete"]
    if not complete:
        return
    yield history(search["trials"], search["measure"], search["higher"])
    if len(search["importance"]) > 1:
        yield importance(search["importance"], len(complete))
    if len(complete) > 3:
        yield slices(complete, search["importance"], search["measure"], search["higher"])


def tables(folder: Path) -> Iterator[Table]:
    """Every fold's measures with mean and deviation; the best trials; the outer folds."""
    folds, search = _read(folder / "folds.json"), _read(folder / "search.json")
    if folds:
        yield fold_table(folds)
    if search.get("trials"):
        yield trial_table(search["trials"], search["measure"], search["higher"])
    if search.get("outer"):
        yield outer_table(search["outer"], search["measure"])


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


# --- folds ------------------------------------------------------------------------------------------


def fold_table(told: Mapping[str, Any]) -> Table:
    """A row for each fold, then mean and deviation."""
    names = tuple(told["mean"])
    rows = [
        (name.removeprefix("folds/"), *(score.get(n) for n in names))
        for name, score in zip(told["runs"] or _numbers(told), told["scores"], strict=True)
    ]
    rows.append(("mean", *(told["mean"][n] for n in names)))
    rows.append(("deviation", *(told["deviation"][n] for n in names)))
    repeats = f", {told['repeats']} times" if told["repeats"] > 1 else ""
    return Table(
        f"{told['folds']}-fold cross-validation{repeats}",
        ("fold", *names),
        tuple(rows),
        "Each fold is measured by a run that has not seen its rows; those runs are in folds/.",
    )


def _numbers(told: Mapping[str, Any]) -> list[str]:
    return [str(i + 1) for i in range(len(told["scores"]))]


def fold_picture(told: Mapping[str, Any]) -> Picture:
    """A dot for each fold, the mean as a line, for the first measures."""
    names = list(told["mean"])[:3]
    fig, grid = subplots(1, len(names), width=2.4 * len(names) + 0.6, height=2.8, squeeze=False)
    for name, axes, color in zip(names, grid[0], COLORS, strict=False):
        values = [score[name] for score in told["scores"]]
        x = np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(x, values, "o", color=color, alpha=0.8)
        mean, deviation = told["mean"][name], told["deviation"][name]
        axes.axhline(mean, color=color, linewidth=1.2)
        axes.axhspan(mean - deviation, mean + deviation, color=color, alpha=0.12, linewidth=0)
        axes.set_xlim(-0.5, 0.5)
        axes.set_xticks([])
        axes.margins(y=0.2)
        axes.locator_params(axis="y", nbins=5)
        plain_ticks(axes.yaxis)
        axes.set_title(name.replace("_", " "))
        axes.set_xlabel(f"{number(mean)} ± {number(deviation)}")
    caption = f"A dot for each of {len(told['scores'])} folds; line and band are mean and standard deviation."
    return picture(fig, "Cross-validation", caption)


# --- a search ---------------------------------------------------------------------------------------


def trial_table(trials: Sequence[Mapping[str, Any]], measure: str, higher: bool) -> Table:
    """The best trials, with what they tried."""
    complete = [t for t in trials if t["state"] == "complete"]
    best = sorted(complete, key=lambda t: -t["value"] if higher else t["value"])
    names = list(dict.fromkeys(n for t in best for n in t["options"]))
    counts = {s: sum(t["state"] == s for t in trials) for s in ("pruned", "failed")}
    rest = ", ".join(
        f"{n} {'stopped early' if s == 'pruned' else s}" for s, n in counts.items() if n
    )
    shown = f"The best {SHOWN} of {len(complete)} finished trials" if len(best) > SHOWN else ""
    words = [shown or f"{len(complete)} finished trials"] + ([rest] if rest else [])
    return Table(
        "Trials",
        ("trial", measure, "seconds", *names),
        tuple(
            (
                t["number"] + 1,
                t["value"],
                round(t["seconds"], 1),
                *(t["options"].get(n) for n in names),
            )
            for t in best[:SHOWN]
        ),
        f"{'; '.join(words)}. Trial 1 has the options as they were.",
    )


def outer_table(values: Sequence[float], measure: str) -> Table:
    """What a search finds is worth on rows that it never saw."""
    rows = [(str(i + 1), v) for i, v in enumerate(values)]
    rows.append(("mean", float(np.mean(values))))
    rows.append(("deviation", float(np.std(values, ddof=1)) if len(values) > 1 else 0.0))
    return Table(
        "Nested search",
        ("outer fold", measure),
        tuple(rows),
        "The whole search was done anew without each outer fold's rows, on which it is measured here. "
        "The best trial's own value is flattered by having been chosen.",
    )


def history(trials: Sequence[Mapping[str, Any]], measure: str, higher: bool) -> Picture:
    """Each trial's value and the best so far."""
    complete = [(t["number"] + 1, t["value"]) for t in trials if t["state"] == "complete"]
    pruned = [
        (t["number"] + 1, t["value"]) for t in trials if t["state"] == "pruned" and t["value"]
    ]
    x, y = (np.array(part) for part in zip(*complete, strict=True))
    best = np.maximum.accumulate(y) if higher else np.minimum.accumulate(y)
    fig, axes = subplots()
    axes.plot(x, y, "o", color=COLORS[0], markersize=5, label="trials")
    ends = [*x, max(t["number"] + 1 for t in trials)], [*best, best[-1]]
    axes.step(*ends, where="post", color=COLORS[1], label="best so far")
    axes.set_ylim(*_worth_seeing(y, higher))
    if pruned:
        axes.plot(
            *zip(*pruned, strict=True), "x", color="#999999", markersize=5, label="stopped early"
        )
    axes.set(xlabel="trial", ylabel=measure.replace("_", " "))
    axes.xaxis.get_major_locator().set_params(integer=True)
    plain_ticks(axes.yaxis)
    fig.legend(loc="outside lower center", ncols=3, frameon=False)
    return picture(
        fig,
        "The search",
        "Trials far off on the bad side are cut; those stopped early stand at their last value.",
    )


def importance(shares: Mapping[str, float], trials: int) -> Picture:
    """How much of the spread over the trials each option explains."""
    order = sorted(shares, key=lambda name: shares[name])[-SHOWN:]
    fig, axes = subplots(height=1.2 + 0.28 * len(order))
    axes.barh(range(len(order)), [shares[n] for n in order])
    axes.set_yticks(range(len(order)), [short_name(n, 28) for n in order])
    axes.set(xlabel="share of the spread explained", xlim=(0, 1))
    caption = f"From {trials} trials (fANOVA, Hutter et al. 2014). An option that matters little may keep its default."
    return picture(fig, "What the options matter", caption)


def slices(
    complete: Sequence[Mapping[str, Any]], shares: Mapping[str, float], measure: str, higher: bool
) -> Picture:
    """Each trial's value against the options that matter most."""
    names = list(dict.fromkeys(n for t in complete for n in t["options"]))
    names = sorted(names, key=lambda n: -shares.get(n, 0.0))[:4]
    across = min(2, len(names))
    down = -(-len(names) // across)
    fig, grid = subplots(
        down, across, width=3.6 * across + 0.6, height=2.5 * down + 0.2, sharey=True, squeeze=False
    )
    for place in grid.flat[len(names) :]:
        place.set_visible(False)
    y_all = np.array([t["value"] for t in complete])
    for name, axes in zip(names, grid.flat, strict=False):
        pairs = [(t["options"][name], t["value"]) for t in complete if name in t["options"]]
        x, y = zip(*pairs, strict=True)
        if all(isinstance(v, int | float) for v in x):
            axes.plot(x, y, "o", markersize=4)
            if min(x) > 0 and max(x) > 20 * min(x):
                axes.set_xscale("log")
            else:
                axes.locator_params(axis="x", nbins=5)
                plain_ticks(axes.xaxis)
        else:
            words = list(dict.fromkeys(map(str, x)))
            axes.plot([words.index(str(v)) for v in x], y, "o", markersize=4)
            axes.set_xticks(range(len(words)), [short_name(w, 12) for w in words])
            axes.margins(x=0.2)
        axes.set_xlabel(short_name(name, 34))
    grid[0, 0].set_ylim(*_worth_seeing(y_all, higher))
    plain_ticks(grid[0, 0].yaxis)
    for axes in grid[:, 0]:
        axes.set_ylabel(measure.replace("_", " "))
    return picture(
        fig, "Trials by option", "Each dot is a finished trial; the options that matter most."
    )


def _worth_seeing(values: np.ndarray, higher: bool) -> tuple[float, float]:
    """Ends of an axis that the better three quarters fill: a diverging trial would press them together."""
    low, high = np.quantile(values, [0.25, 1.0] if higher else [0.0, 0.75])
    room = max(0.25 * (high - low), 1e-3 * abs(high), 1e-12)
    return float(low - room), float(high + room)
