"""Passages put into a better order: read together with the question, by their likelihood of it, or unlike one another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.core.system import verbs
from fourfold.data.question_pairs import RankedPairsData, padded
from fourfold.models.sentence_encoder import CrossEncoder

ROWS = 32
"""Pairs that are read at once."""


def pair_scores(run: Run, question: str, passages: Sequence[str]) -> np.ndarray:
    """(N,) float32: how well passages answer, by a run of `reranker`.

    Raises:
        UserError: it is a run of something else.
    """
    model, data = run.model, run.data
    if not isinstance(model, CrossEncoder) or not isinstance(data, RankedPairsData):
        raise UserError(
            f"{run.place}: a run of {run.system.name} scores no pairs; expected one of reranker"
        )
    pairs = [data.joined(question, passage) for passage in passages]
    found = np.empty(len(pairs), np.float32)
    order = np.argsort([len(tokens) for tokens, _ in pairs], kind="stable")
    with torch.no_grad():
        for some in np.split(order, range(ROWS, len(order), ROWS)):
            if len(some):
                tokens, keep = padded([pairs[n][0] for n in some], data.specials.pad)
                types, _ = padded([pairs[n][1] for n in some], 0)
                given = (t.to(run.device) for t in (tokens, keep, types))
                found[some] = model(*given).cpu().numpy()
    return found


def likelihoods(run: Run, question: str, passages: Sequence[str]) -> np.ndarray:
    """(N,) nats: log-likelihood of a question after each passage, by a language model. Ponte and Croft 1998.

    Raises:
        UserError: the model is no language model's.
    """
    if "score" not in verbs(run.system) or "generate" not in verbs(run.system):
        raise UserError(
            f"{run.place}: a run of {run.system.name} does not rank; expected one of reranker, or of a language model"
        )

    def nats(text: str) -> float:
        values = run.score(text).values
        return float(values["nats_per_token"] * values["tokens"])

    return np.array([nats(p) - nats(f"{p}\n{question}") for p in passages])


def fused(orders: Sequence[Sequence[int]], constant: int = 60) -> list[tuple[int, float]]:
    """Reciprocal-rank fusion: items by the sum of 1 / (constant + place) over orders, the best first.

    Cormack, Clarke and Buettcher 2009. Equal sums stand in the order of the first list that has them.
    """
    sums: dict[int, float] = {}
    for order in orders:
        for place, item in enumerate(order, 1):
            sums[item] = sums.get(item, 0.0) + 1 / (constant + place)
    return sorted(sums.items(), key=lambda pair: -pair[1])


def diverse(relevance: np.ndarray, alike: np.ndarray, top: int, share: float) -> list[int]:
    """Maximal marginal relevance: each next item is relevant and unlike those before it.

    Carbonell and Goldstein 1998.

    Args:
        relevance: (N,), scaled to [0, 1].
        alike: (N, N), how much items are alike, in [0, 1].
        top: how many.
        share: from 0 (relevance alone) to 1 (difference alone).

    Returns:
        Places of the items, in order.
    """
    left, chosen = list(range(len(relevance))), list[int]()
    while left and len(chosen) < top:
        nearest = alike[:, chosen].max(1) if chosen else np.zeros(len(relevance))
        best = max(left, key=lambda n: (1 - share) * relevance[n] - share * nearest[n])
        chosen.append(best)
        left.remove(best)
    return chosen
