"""How well a run's latents tell known factors of variation apart. Shapes: N images, Z latents, K factors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.core.parts import Split
from fourfold.core.run import Run
from fourfold.data.images import ImageData
from fourfold.data.rows import Format
from fourfold.data.sprites import NAMES, factors_of
from fourfold.data.table_files import open_rows
from fourfold.objectives.disentanglement import BINS, binned, measures

MOST = 5000
"""Images that the measures look at."""
MANY = 64
"""Values of a factor from which on it counts as a continuous one, and is cut into bins."""
FILES = ("file", "image", "path", "picture", "filename")
"""Columns of text that say which image a row is of."""


def factor_measures(
    run: Run, source: Any, factors: Any, encode: Callable[[Run, ImageData, Split], Tensor]
) -> tuple[dict[str, float], tuple[str, ...]]:
    """The measures and what is to be said of them; nothing where no factors are known.

    Args:
        run: whose latents they are.
        source: images; None means the run's own, all splits of them.
        factors: a table with a row for each image in the order of the source, or with a column `file` that names the
            row's image; None takes those of a set that has known ones.
        encode: latents (N, Z) of a split.

    Raises:
        UserError: the table has another number of rows, none or several for an image that it names, a column with a
            value for each image alone, or no factor that varies; there are fewer than 2 latents.
    """
    named = run.sources if source is None else source
    if isinstance(named, (list, tuple)) and len(named) == 1:
        named = named[0]  # as the command line and a run's folder have it
    if factors is None and not (isinstance(named, str) and named in NAMES):
        return {}, ()
    if run.system.model_dump()["latents"] < 2:
        raise UserError(
            "factors are told apart by two latents at least: fit with --latents 2 or more"
        )
    latents, data = _all_latents(run, source, encode)
    columns = factors_of(str(named)) if factors is None else _columns(factors)
    by_name = next((c for c in FILES if c in columns and columns[c].dtype.kind in "OU"), None)
    if by_name is not None and data.examples is not None:
        columns = _of_images(columns, by_name, data.examples.names)
    elif data.summary().get("skipped"):
        raise UserError(
            "some of the images do not open, so that rows of factors cannot be told to images: a column file would tell"
        )
    for name, values in columns.items():
        if len(values) != len(latents):
            raise UserError(
                f"factors: expected a row for each of {len(latents):,} images, found {len(values):,} (column {name})"
            )
    numbers, constant = _numbered(columns)
    chosen = np.random.default_rng(run.seed).permutation(len(latents))[:MOST]
    found = measures(latents[chosen], np.stack(list(numbers.values()), axis=1)[chosen], run.seed)
    told = f"factors ({', '.join(numbers)}) are measured on {len(chosen):,} of all {len(latents):,} images"
    if constant:
        told += f"; {', '.join(constant)} never change{'s' * (len(constant) == 1)} and take{'s' * (len(constant) == 1)} no part"
    return found, (told,)


def _all_latents(
    run: Run, source: Any, encode: Callable[[Run, ImageData, Split], Tensor]
) -> tuple[np.ndarray, ImageData]:
    """Latents (N, Z) of a source's images, in the order in which it holds them."""
    data: Any = run.examples() if source is None else run.data.reopen(source, seed=run.seed, whole=True)  # fmt: skip
    splits: tuple[Split, ...] = ("train", "valid", "test")
    present = [split for split in splits if data.size(split)]
    places = torch.cat([data.numbers(split) for split in present])
    codes = torch.cat([encode(run, data, split) for split in present])
    ordered = torch.empty_like(codes)
    ordered[places] = codes
    return ordered.numpy(), data


def _columns(factors: Any) -> dict[str, np.ndarray]:
    rows = open_rows(factors, Format())
    if rows.count is None:
        raise UserError(f"{rows.name}: expected a table that can be counted")
    frames = [piece.table.lazy().select(rows.columns).collect() for piece in rows.pieces]
    found = {name: np.concatenate([f[name].to_numpy() for f in frames]) for name in rows.columns}
    for name, values in found.items():
        empty = [v is None or v != v for v in values.tolist()]
        if any(empty):
            raise UserError(f"{rows.name}, column {name}, row {empty.index(True) + 1}: expected a value of the factor, got none")  # fmt: skip
    return found


def _of_images(
    columns: dict[str, np.ndarray], named: str, images: list[str]
) -> dict[str, np.ndarray]:
    """The rows of images, in their order, by the column that names them; paths are told apart as far as they go."""
    rows: dict[str, list[int]] = {}
    paths = [PurePath(str(value)).parts for value in columns[named]]
    for number, path in enumerate(paths):
        rows.setdefault(path[-1] if path else "", []).append(number)
    chosen = []
    for name in images:
        parts = PurePath(name).parts
        # one of both goes on where the other begins
        shared = {n: min(len(paths[n]), len(parts)) for n in rows.get(parts[-1], [])}
        fitting = {n: depth for n, depth in shared.items() if paths[n][-depth:] == parts[-depth:]}
        found = [n for n, depth in fitting.items() if depth == max(fitting.values())]
        if len(found) != 1:
            many = "several rows" if found else "no row"
            raise UserError(f"factors: {many} for the image {name} in column {named}")
        chosen += found
    return {name: values[chosen] for name, values in columns.items() if name != named}


def _numbered(columns: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Factors as whole numbers from 0 on, and those of one value alone."""
    found, constant = {}, []
    for name, values in columns.items():
        kinds, numbers = np.unique(values, return_inverse=True)
        if len(kinds) < 2:
            constant.append(name)
            continue
        if len(kinds) > MANY and kinds.dtype.kind != "f" and len(kinds) == len(values):
            raise UserError(f"factors: column {name} has another value for each of {len(values):,} images and is no factor")  # fmt: skip
        if len(kinds) > MANY and kinds.dtype.kind in "fiu":
            numbers = binned(values.astype(float)[:, None], BINS)[:, 0]
        found[name] = numbers.reshape(-1).astype(np.int64)
    if not found:
        raise UserError("factors: none of the columns varies")
    return found, constant
