"""How well latents tell factors of variation apart: MIG, DCI, SAP, the FactorVAE score.

MIG: Chen et al. 2018, https://arxiv.org/abs/1802.04942; DCI: Eastwood and Williams 2018,
https://openreview.net/forum?id=By-7dz-AZ; SAP: Kumar et al. 2018, https://arxiv.org/abs/1711.00848; FactorVAE score: Kim and
Mnih 2018, https://arxiv.org/abs/1802.05983. As in Locatello et al. 2019 (https://arxiv.org/abs/1811.12359) latents are cut
into 20 bins of equal width for mutual information, and DCI asks gradient-boosted trees; how much a latent matters to them
is what they lose when it is dealt anew (Breiman 2001), where that work takes the trees' own importances. All are 1 at best and 0 at worst. Shapes: N examples, Z latents, K factors.
"""

from __future__ import annotations

import numpy as np

MEASURES = (
    "mig",
    "dci_disentanglement",
    "dci_completeness",
    "dci_informativeness",
    "factor_vae_score",
    "sap",
)
"""Names of the measures."""
BINS = 20
DEAD = 0.01
"""A latent whose variance is below this share of the largest takes no part in the FactorVAE score."""


def binned(latents: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Latents (N, Z) as numbers of bins of equal width between each one's least and largest value, int64."""
    low, high = latents.min(0), latents.max(0)
    width = np.where(high > low, high - low, 1.0)
    return np.minimum(((latents - low) / width * bins).astype(np.int64), bins - 1)


def entropy(values: np.ndarray) -> float:
    """Entropy of whole numbers (N,), in nats."""
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log(share)).sum())


def mutual_information(latents: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Between whole numbers (N, Z) and (N, K), in nats, (Z, K)."""
    own = [entropy(column) for column in latents.T]
    known = [entropy(column) for column in factors.T]
    found = np.zeros((latents.shape[1], factors.shape[1]))
    for j, latent in enumerate(latents.T):
        for k, factor in enumerate(factors.T):
            both = latent * (int(factor.max()) + 1) + factor
            found[j, k] = own[j] + known[k] - entropy(both)
    return found


def mig(latents: np.ndarray, factors: np.ndarray, bins: int = BINS) -> float:
    """Mutual information gap: of each factor, how much more the best latent tells than the second, over its entropy.

    Args:
        latents: (N, Z), Z at least 2.
        factors: (N, K) whole numbers, each with two values at least.
        bins: of each latent.
    """
    told = np.sort(mutual_information(binned(latents, bins), factors), axis=0)
    known = np.array([entropy(column) for column in factors.T])
    return float(((told[-1] - told[-2]) / known).mean())


def sap(latents: np.ndarray, factors: np.ndarray, seed: int = 0) -> float:
    """Separated attribute predictability: of each factor, the gap between the two latents that tell its class best.

    A class is told from one latent by a linear support vector machine with balanced classes, trained on half of the
    examples and tested on the other.

    Args:
        latents: (N, Z), Z at least 2.
        factors: (N, K) whole numbers.
        seed: of the halves.
    """
    from sklearn.svm import LinearSVC

    order = np.random.default_rng(seed).permutation(len(latents))
    train, test = order[::2], order[1::2]
    scores = np.zeros((latents.shape[1], factors.shape[1]))
    spread = latents.std(0)
    scaled = (latents - latents.mean(0)) / np.where(spread > 0, spread, 1.0)
    for k, factor in enumerate(factors.T):
        for j in range(latents.shape[1]):
            machine = LinearSVC(C=0.01, class_weight="balanced", dual=False, random_state=seed)
            machine.fit(scaled[train, j : j + 1], factor[train])
            scores[j, k] = machine.score(scaled[test, j : j + 1], factor[test])
    best = np.sort(scores, axis=0)
    return float((best[-1] - best[-2]).mean())


def dci(latents: np.ndarray, factors: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Disentanglement, completeness and informativeness, by how much each latent matters to trees that tell each factor.

    Args:
        latents: (N, Z).
        factors: (N, K) whole numbers.
        seed: of the halves and of the trees.

    Returns:
        disentanglement (each latent tells one factor), completeness (each factor is told by one latent),
        informativeness (accuracy on the half that the trees were not made from).
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.inspection import permutation_importance

    order = np.random.default_rng(seed).permutation(len(latents))
    train, test = order[::2], order[1::2]
    importance = np.zeros((latents.shape[1], factors.shape[1]))
    right = []
    for k, factor in enumerate(factors.T):
        trees = HistGradientBoostingClassifier(max_iter=40, max_leaf_nodes=15, early_stopping=False, random_state=seed)  # fmt: skip
        trees.fit(latents[train], factor[train])
        right.append(trees.score(latents[test], factor[test]))
        found = permutation_importance(trees, latents[test], factor[test], n_repeats=2, random_state=seed)  # fmt: skip
        importance[:, k] = np.maximum(found.importances_mean, 0)
    apart, whole = of_importance(importance)
    return {"disentanglement": apart, "completeness": whole, "informativeness": float(np.mean(right))}  # fmt: skip


def of_importance(importance: np.ndarray) -> tuple[float, float]:
    """Disentanglement and completeness of how much latents matter to factors, (Z, K) not negative.

    A row's disentanglement is 1 less its entropy in units of log K, a column's completeness 1 less its entropy in
    units of log Z; each counts as much as it matters.
    """

    def gathered(rows: np.ndarray) -> float:
        total = rows.sum(1)
        if rows.shape[1] < 2 or not total.sum() > 0:
            return float(total.sum() > 0)
        share = rows / np.where(total > 0, total, 1.0)[:, None]
        logs = np.log(np.where(share > 0, share, 1.0))
        pure = 1 + (share * logs).sum(1) / np.log(rows.shape[1])
        return float((pure * total).sum() / total.sum())

    return gathered(importance), gathered(importance.T)


def factor_score(
    latents: np.ndarray,
    factors: np.ndarray,
    *,
    votes: int = 800,
    batch: int = 64,
    seed: int = 0,
) -> float:
    """Accuracy of a majority vote that tells which factor was held fixed from the latent that varied least.

    Args:
        latents: (N, Z).
        factors: (N, K) whole numbers.
        votes: made for the vote; half as many are told.
        batch: examples with the same value of the factor in each vote.
        seed: of what is drawn.
    """
    random = np.random.default_rng(seed)
    spread = latents.var(0)
    live = np.flatnonzero((spread > 0) & (spread >= DEAD * spread.max()))
    if not len(live):
        return 0.0
    table = np.zeros((len(live), factors.shape[1]), dtype=np.int64)
    right = 0
    for number in range(votes + votes // 2):
        k = random.integers(factors.shape[1])
        value = factors[random.integers(len(factors)), k]
        alike = np.flatnonzero(factors[:, k] == value)
        some = latents[random.choice(alike, batch)][:, live]
        j = int((some.var(0) / spread[live]).argmin())
        if number < votes:
            table[j, k] += 1
        else:
            right += int(table[j].argmax() == k)
    return right / (votes // 2)


def measures(latents: np.ndarray, factors: np.ndarray, seed: int = 0) -> dict[str, float]:
    """All of them, by name."""
    told = dci(latents, factors, seed)
    return {
        "mig": mig(latents, factors),
        **{f"dci_{name}": value for name, value in told.items()},
        "factor_vae_score": factor_score(latents, factors, seed=seed),
        "sap": sap(latents, factors, seed),
    }
