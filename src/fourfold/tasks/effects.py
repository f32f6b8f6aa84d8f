"""What the predictions of a run rest on over all: importance and effect of columns.

Shapes: N rows, D prepared columns, G original columns, C classes or labels, K of them shown.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from fourfold.core.evaluation import held_out
from fourfold.core.run import Run
from fourfold.core.targets import Target
from fourfold.core.types import Explanation, Picture, Table
from fourfold.core.words import number
from fourfold.data.table import TableData
from fourfold.look import attribution as look
from fourfold.objectives.supervised import Supervised
from fourfold.tasks.attribution import groups_of, partial_dependence, permutation
from fourfold.tasks.gathering import Predictions, answers, sample
from fourfold.tasks.losses import mean, measure_of, rowwise, shown

NAMED = 5
"""Columns named in a sentence."""
DRAWN = 4
"""Columns whose effect is drawn."""
REPEATS = 5
"""Shuffles of each column."""
WORK = 4_000_000
"""Rows predicted for an importance at most; fewer rows are shuffled where columns are many."""
FEWEST, MOST = 200, 5_000
"""Rows that are shuffled."""
GRID, AVERAGED = 24, 500
"""Values of a column whose effect is drawn, and rows over which it is averaged."""
CATEGORIES, CLASSES = 12, 6
"""Categories and classes drawn at most."""


def explain_columns(run: Run, source: Any = None) -> Explanation:
    """What predictions rest on over all: permutation importance and partial dependence.

    Raises:
        UserError: the run holds nothing out and no other rows are given.
    """
    names, means, deviations, measure, where = importance(run, source)
    order = np.argsort(-means, kind="stable")
    caption = (
        f"{where}, each column shuffled {REPEATS} times; bars are standard deviations. Columns that say the same "
        "stand in for one another and seem less important than they are."
    )
    table = Table(
        "Permutation importance",
        ("column", f"rise of the {measure} when shuffled", "deviation"),
        tuple((names[i], float(means[i]), float(deviations[i])) for i in order),
        caption,
    )
    first = ", ".join(f"{names[i]} ({number(float(means[i]))})" for i in order[:NAMED])
    sentences = (
        f"Predictions rest most on {first}: so much higher is the {measure} when the column is shuffled.",
        f"Measured on {where}.",
    )
    pictures = [look.importance(names, means, deviations, measure, caption)]
    pictures += dependence(run, [names[i] for i in order[:DRAWN]], source)
    return Explanation("What the predictions rest on", sentences, (table,), tuple(pictures))


def importance(run: Run, source: Any = None) -> tuple[list[str], np.ndarray, np.ndarray, str, str]:
    """Original columns, how much the loss grows when each is shuffled, its deviation, the loss and the rows in words."""
    examples, split, sentence = held_out(run, source)
    data = cast(TableData, examples)
    names, group = groups_of([column.source for column in data.columns])
    most = int(np.clip(WORK // (REPEATS * len(names)), FEWEST, MOST))
    rows = sample(data, split, most)
    probable = cast(Supervised, run.objective).probabilistic
    measure = measure_of(data.target, probable)

    def worse(features: np.ndarray) -> float:
        found = Predictions(answers(run, features), {}, rows.true)
        return shown(measure, mean(rowwise(data.target, found, probable), rows.weight))

    random = np.random.default_rng([run.seed, 0x5A0F])
    means, deviations = permutation(worse, rows.features, group, repeats=REPEATS, random=random)
    name = "root mean squared error" if data.target.kind == "number" else measure
    return names, means, deviations, name, f"{len(rows.features):,} rows {sentence}"


def dependence(run: Run, columns: list[str], source: Any = None) -> list[Picture]:
    """The mean prediction over the values of some original columns, drawn; nothing if none can be."""
    examples, split, sentence = held_out(run, source)
    data = cast(TableData, examples)
    rows = sample(data, split, AVERAGED).features
    target = data.target
    outputs = _outputs(target, answers(run, rows))
    curves: dict[str, Any] = {}
    rugs: dict[str, np.ndarray] = {}
    for name in columns:
        for label, which, values, shown_values in _settings(data, name, rows):
            told = partial_dependence(lambda x: answers(run, x), rows, which, values)
            curves[label] = shown_values, told[:, outputs]
            if isinstance(shown_values, np.ndarray):
                column = data.columns[int(which[0])]
                rugs[label] = rows[:200, which[0]] * column.scale + column.mean
    if not curves:
        return []
    words = [target.name] if target.kind == "number" else [target.classes[k] for k in outputs]
    probable = cast(Supervised, run.objective).probabilistic
    label = target.name if target.kind == "number" else "probability" if probable else "score"
    if target.kind == "category" and len(outputs) == 1:
        label = f"{label} of {words[0]}"
    caption = (
        f"The mean prediction over {len(rows):,} rows {sentence} when one column is set to a value in all of them; "
        "ticks are values that the rows have. Combinations that never occur count too."
    )
    return [look.dependence(curves, rugs, words, label, caption)]


# --- partial dependence -----------------------------------------------------------------------------


def _outputs(target: Target, told: np.ndarray) -> list[int]:
    """Which outputs are drawn: the number; of two classes the second; of more the most probable few."""
    if target.kind == "number":
        return [0]
    if target.kind == "category" and len(target.classes) == 2:
        return [1]
    return sorted(np.argsort(-told.mean(axis=0), kind="stable")[:CLASSES].tolist())


def _settings(
    data: TableData, name: str, rows: np.ndarray
) -> list[tuple[str, np.ndarray, np.ndarray, Any]]:
    """What an original column is set to: label, prepared columns (W,), their values (V, W), the values in words or units.

    A date has several numbers, each of which is set by itself.
    """
    places = np.array([i for i, c in enumerate(data.columns) if c.source == name])
    kinds = [data.columns[i].kind for i in places]
    numbers = [i for i, kind in zip(places, kinds, strict=True) if kind == "number"]
    found: list[tuple[str, np.ndarray, np.ndarray, Any]] = []
    for i in numbers:
        grid = np.unique(np.quantile(rows[:, i], np.linspace(0.02, 0.98, GRID)))
        if len(grid) > 1:
            column = data.columns[i]
            units = grid * column.scale + column.mean
            # whoever has a value does not lack it: the indicator of a missing cell goes to 0 with it
            lacking = [j for j, kind in zip(places, kinds, strict=True) if kind == "missing"]
            values = np.hstack([grid[:, None], np.zeros((len(grid), len(lacking)))])
            found.append((column.name, np.array([i, *lacking]), values, units))
    if numbers or not set(kinds) & {"category", "binary", "code"}:
        return found
    words, values = _categories(data, name, places, rows)
    return [(name, places, values, words)] if len(words) > 1 else []


def _categories(
    data: TableData, name: str, places: np.ndarray, rows: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """Categories, the most frequent ones of many, and what the prepared columns hold for each; no cell is missing."""
    encoding = next(e for e in data.schema.encodings if e.name == name)
    words = list(encoding.categories)
    kinds = [data.columns[i].kind for i in places]
    values = np.zeros((len(words), len(places)))
    if "category" in kinds:
        values[:, [j for j, kind in enumerate(kinds) if kind == "category"]] = np.eye(len(words))
        counts = rows[:, [i for i in places if data.columns[i].kind == "category"]].sum(axis=0)
    elif "code" in kinds:
        place = kinds.index("code")
        values[:, place] = np.arange(1, len(words) + 1)
        codes = rows[:, places[place]].astype(int)
        counts = np.bincount(codes, minlength=len(words) + 1)[1 : len(words) + 1]
    else:
        values[:, kinds.index("binary")] = [0, 1]
        counts = np.ones(2)
    some = np.sort(np.argsort(-counts, kind="stable")[:CATEGORIES])
    return [words[i] for i in some], values[some]
