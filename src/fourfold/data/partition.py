"""The split of a table's rows, by what its options name: folds, classes, groups, order.

Shapes: N rows.
"""

from __future__ import annotations

import numpy as np

from fourfold.core.errors import UserError
from fourfold.core.targets import Target
from fourfold.data.answers import check_classes, classes_of
from fourfold.data.cells import cells, numbered
from fourfold.data.splits import NONE, TRAIN, VALID, Fold, divide
from fourfold.data.survey import Fit
from fourfold.data.table import column_missing


def partition(work: Fit, target: Target, count: int, gone: np.ndarray, seed: int) -> np.ndarray:
    """The part of each row.

    Args:
        work: the fit.
        target: of a known kind.
        count: rows that are split; those from there on are a validation source of their own.
        gone: (N,) bool, rows without a target.
        seed: fixes what is drawn.

    Returns:
        (N,) int8 of TRAIN, VALID, TEST and NONE.

    Raises:
        UserError: nothing is left to train on, a fold cannot be made, or a class cannot be learned.
    """
    options = work.options
    kept = np.flatnonzero(~gone[:count])
    fold = None if options.fold is None else Fold.parse(options.fold)
    if fold is not None and len(kept) < fold.count + options.ordered:
        raise UserError(f"{len(kept)} rows with a target cannot make {fold.count} folds")
    shares = (
        options.split if count == work.rows.count else (options.split[0], 0.0, options.split[2])
    )
    names, codes = _classes(work, target, kept, fold)
    parts = np.full(work.rows.count, NONE, np.int8)
    parts[kept] = divide(
        len(kept),
        shares,
        seed,
        fold=fold,
        ordered=options.ordered,
        classes=codes,
        groups=_groups(work, kept, fold),
    )
    parts[count:][~gone[count:]] = VALID
    if not (parts == TRAIN).any():
        raise UserError(f"{len(kept)} rows with a target: none is left to train on")
    if codes is not None:
        _check_learned(work, target, names, codes, parts[kept])
    return parts


def _classes(
    work: Fit, target: Target, kept: np.ndarray, fold: Fold | None
) -> tuple[list[str], np.ndarray | None]:
    """Names of all classes, and (n,) int numbers of the kept rows' ones."""
    if target.kind != "category":
        return [], None
    names, codes = classes_of(work, target)
    check_classes(work, target, names, codes)
    codes = codes[kept]
    if work.options.ordered or work.options.group is not None:
        return names, codes
    single = np.flatnonzero(np.bincount(codes, minlength=len(names)) == 1)
    if not len(single):
        return names, codes
    row = int(kept[np.flatnonzero(codes == single[0])[0]])
    if fold is not None:
        raise UserError(
            f"{work.rows.place(row)}, column {target.name}: class {names[single[0]]} has this single row, which "
            f"cannot be learned and tested in turn by {fold.count} folds; leave it out, or join it with another class"
        )
    shown = ", ".join(names[i] for i in single[:5]) + (" and more" if len(single) > 5 else "")
    work.notes.append(f"classes of {target.name} with a single row, which is trained on: {shown}")
    return names, codes


def _check_learned(
    work: Fit, target: Target, names: list[str], codes: np.ndarray, parts: np.ndarray
) -> None:
    """Whole groups or an order may keep all rows of a class from the training rows."""
    used = np.unique(codes[parts >= 0])
    lacking = np.setdiff1d(used, codes[parts == TRAIN])
    if len(lacking):
        group = work.options.group
        where = (
            "in later rows" if group is None else f"in groups of {group} that are not trained on"
        )
        raise UserError(
            f"{work.rows.name}, column {target.name}: all rows of class {names[lacking[0]]} are {where}, so it "
            "cannot be learned; leave them out, join the class with another, or split otherwise"
        )


def _groups(work: Fit, kept: np.ndarray, fold: Fold | None) -> np.ndarray | None:
    """(n,) int numbers of the kept rows' groups."""
    name = work.options.group
    if name is None:
        return None
    if name not in work.rows.types:
        raise column_missing(name, work.rows.columns, work.rows.name)
    names: dict[str, int] = {}
    found = []
    for _, frame in work.rows.chunks([name]):
        texts = cells(frame[name])
        for value in texts.drop_nulls().unique(maintain_order=True):
            names.setdefault(value, len(names))
        found.append(numbered(texts, list(names)))
    groups = np.concatenate(found)[kept]
    if (groups < 0).any():
        place = work.rows.place(int(kept[np.argmax(groups < 0)]))
        raise UserError(f"{place}, column {name}: missing; every row needs its group")
    count, least = len(np.unique(groups)), 2 if fold is None else fold.count
    if count < least:
        what = "a split" if fold is None else f"{fold.count} folds"
        raise UserError(
            f"{work.rows.name}, column {name}: {count} different groups cannot make {what}; "
            f"each stays whole, so {least} are needed at least"
        )
    work.notes.append(f"split by {name}: the rows of each of its {count:,} groups stay together")
    return groups
