"""Sources into outputs, tokens on both sides: by greedy search, beams, sampling, or the least risk among what is drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from fourfold.core.errors import UserError
from fourfold.data.pairs import PairData
from fourfold.models.decoding import (
    Beam,
    Output,
    Search,
    Stepper,
    beam,
    by_length,
    greedy,
    least_risk,
    sample,
)
from fourfold.models.sampling import Sampling
from fourfold.optimizers.precision import Precision
from fourfold.tasks.translation_scores import utility

PLACES = 4096
"""Source tokens that are decoded at once, padding and beams included."""
SPARE = 20
"""Tokens that an output may have beyond three times what is usual for its source."""


@dataclass(frozen=True)
class Decoding:
    """How sources are decoded."""

    beam: int = 5
    """Beams; 1 takes the most likely token at every step."""
    best: int = 1
    """Outputs for each source."""
    length_penalty: float = 1.0
    coverage: float = 0.0
    sampling: Sampling | None = None
    """Draws outputs instead of searching for them."""
    risk: int = 0
    """Outputs drawn for each source, of which the one closest to all others is taken; 0 for none."""
    seed: int = 0
    precision: Precision = "float32"
    """Of matrix products. In float32 no answer depends on what is translated beside it; in bfloat16 some do."""


def decoded(
    stepper: Stepper,
    data: PairData,
    sources: list[list[int]],
    how: Decoding,
    device: torch.device,
) -> list[list[Output]]:
    """Outputs of sources by a stepper, the best first, in batches of about as long ones.

    Args:
        stepper: the model.
        data: with the vocabularies.
        sources: tokens, the end token among them.
        how: options.
        device: of the model.
    """
    found: list[list[Output]] = [[] for _ in sources]
    wide = how.risk or (1 if how.sampling else how.beam)
    for numbers in by_length([len(s) for s in sources], max(1, PLACES // wide)):
        rows = [sources[n] for n in numbers]
        source = torch.full((len(rows), max(map(len, rows))), data.source_vocabulary.end)
        for row, tokens in zip(source, rows, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        lengths = torch.tensor([len(row) for row in rows])
        search = Search(
            data.begin, data.end, limits(data, lengths).to(device), _never(data, stepper)
        )
        some = _decoded(stepper, data, source.to(device), lengths.to(device), search, how, numbers)
        for number, outputs in zip(numbers, some, strict=True):
            found[number] = outputs
    return found


def limits(data: PairData, lengths: torch.Tensor) -> torch.Tensor:
    """Most tokens of an output for sources of so many tokens, (B,) int64: three times what is usual, and some more."""
    usual = data.usual_ratio
    most = (3 * usual * lengths).ceil().to(torch.int64) + SPARE
    return most.clamp(max=data.options.longest)


def _decoded(
    stepper: Stepper,
    data: PairData,
    source: torch.Tensor,
    lengths: torch.Tensor,
    search: Search,
    how: Decoding,
    numbers: list[int],
) -> list[list[Output]]:
    if how.sampling is not None:
        many = how.risk or 1
        generators = [
            torch.Generator(source.device).manual_seed((how.seed * 1_000_003 + draw) % 2**63)
            for _ in numbers
            for draw in range(many)
        ]
        again = torch.arange(len(source), device=source.device).repeat_interleave(many)
        wide = replace(search, limits=search.limits[again])
        drawn = sample(stepper, source[again], lengths[again], wide, how.sampling, generators)
        return [_chosen(data, drawn[i : i + many]) for i in range(0, len(drawn), many)]
    if how.beam == 1:
        return [[output] for output in greedy(stepper, source, lengths, search)]
    beams = Beam(how.beam, how.length_penalty, how.coverage)
    try:
        return beam(stepper, source, lengths, search, beams, how.best)
    except ValueError as error:  # coverage of a model without attention
        raise UserError(f"--{error}") from error


def _chosen(data: PairData, drawn: list[Output]) -> list[Output]:
    """The one of some outputs that all others are closest to, its mean utility the score."""
    if len(drawn) == 1:
        return drawn
    texts = [data.target_vocabulary.decode(o.tokens) for o in drawn]
    good = utility("chrf", texts)
    cached: dict[tuple[str, str], float] = {}
    table = torch.zeros(len(texts), len(texts))
    for i, output in enumerate(texts):
        for j, right in enumerate(texts):
            key = output, right
            if key not in cached:
                cached[key] = good(output, right)
            table[i, j] = cached[key]
    best = least_risk(table)
    return [replace(drawn[best], score=float(table[best].mean()))]


def _never(data: PairData, stepper: Stepper) -> tuple[int, ...]:
    """The unknown token is never said where nothing says what to copy for it."""
    unknown = data.target_vocabulary.unknown
    return () if unknown is None or hasattr(stepper, "attended") else (unknown,)
