"""What follows from a joint probability table: marginals, conditionals, Bayes' rule, independence."""

from __future__ import annotations

import math
from functools import reduce
from itertools import combinations, permutations
from pathlib import Path

import numpy as np

from fourfold.core.types import Explanation, Picture, Table
from fourfold.look.joint import Joint, read
from fourfold.look.svg import Drawing, elide

INDEPENDENT = 1e-9  # largest difference of P(a, b) from P(a) P(b) that is taken for rounding


def explain(path: Path, *, drawn: bool = True) -> Explanation:
    """A table with all that follows from it; see `joint.read` and `describe`."""
    return describe(read(path), str(path), drawn=drawn)


def describe(joint: Joint, title: str, *, drawn: bool = True) -> Explanation:
    """Marginals, conditionals, Bayes' rule and independence of a joint table.

    Args:
        joint: the table.
        title: what it is called.
        drawn: with a mosaic of each pair of variables.
    """
    pairs = list(combinations(range(len(joint.names)), 2))
    sentences = [_independence(joint, a, b) for a, b in pairs]
    sentences += [*_all_together(joint), *_given_third(joint)]
    if joint.total is not None:
        sentences.append(f"{joint.total:g} observations; a probability is a share of them.")
    if joint.missing:
        sentences.append(f"{joint.missing} combinations are not listed and have probability 0.")
    if not pairs:
        sentences.append(f"{joint.names[0]} alone: with a second variable there are conditionals.")
    tables = [_joint_table(joint), *(_marginal_table(joint, a) for a in range(len(joint.names)))]
    for a, b in permutations(range(len(joint.names)), 2):
        tables.append(_conditional_table(joint, a, b))
    tables += [_bayes(joint, a, b) for a, b in pairs]
    pictures = tuple(_mosaic(joint, a, b) for a, b in pairs if drawn)
    return Explanation(title, tuple(sentences), tuple(tables), pictures)


def _independence(joint: Joint, a: int, b: int) -> str:
    first, second = joint.names[a], joint.names[b]
    both = joint.marginal(a, b)
    apart = np.outer(joint.marginal(a), joint.marginal(b))
    gap = np.abs(both - apart)
    if gap.max() <= INDEPENDENT:
        return f"{first} and {second} are independent: each joint probability is the product of its marginals."
    i, j = np.unravel_index(int(gap.argmax()), gap.shape)
    x, y = joint.values[a][i], joint.values[b][j]
    told = (
        f"{first} and {second} are not independent: P({x}, {y}) = {both[i, j]:.4g}, the product of the marginals is "
        f"{apart[i, j]:.4g}; they share {joint.information(a, b):.4g} bits."
    )
    return told + (_chance(both, apart, joint.total) if joint.total else "")


def _chance(both: np.ndarray, apart: np.ndarray, total: float) -> str:
    """Pearson's chi-squared test: how often chance alone would part counts so far from independence."""
    from scipy.special import chdtrc

    expected = apart[apart > 0]
    statistic = float(total * ((both[apart > 0] - expected) ** 2 / expected).sum())
    freedom = ((apart.sum(axis=1) > 0).sum() - 1) * ((apart.sum(axis=0) > 0).sum() - 1)
    if not freedom:
        return ""
    few = " (rough: some expected counts are below 5)" if (total * expected).min() < 5 else ""
    return (
        f" As {total:g} counts: chi-squared {statistic:.4g} with {freedom} degrees of freedom; were they independent, "
        f"chance would part them as far with probability {float(chdtrc(freedom, statistic)):.3g}{few}."
    )


def _all_together(joint: Joint) -> list[str]:
    """Mutual independence, which pairs alone do not tell."""
    if joint.p.ndim < 3:
        return []
    product = reduce(np.multiply.outer, [joint.marginal(a) for a in range(joint.p.ndim)])
    independent = np.abs(joint.p - product).max() <= INDEPENDENT
    return [f"All {joint.p.ndim} together are {'' if independent else 'not '}independent."]


def _given_third(joint: Joint) -> list[str]:
    """Conditional independence of each pair given each third variable."""
    found = []
    for a, b in combinations(range(len(joint.names)), 2):
        for c in range(len(joint.names)):
            if c in (a, b):
                continue
            p = joint.marginal(c, a, b)
            condition = p.sum(axis=(1, 2))[:, None, None]
            product = p.sum(axis=2, keepdims=True) * p.sum(axis=1, keepdims=True)
            independent = np.abs(p * condition - product).max() <= INDEPENDENT
            verb = "are" if independent else "are not"
            found.append(
                f"Given {joint.names[c]}, {joint.names[a]} and {joint.names[b]} {verb} independent."
            )
    return found


def _joint_table(joint: Joint) -> Table:
    rows = []
    for at in np.ndindex(*joint.p.shape):
        names = [joint.values[k][i] for k, i in enumerate(at)]
        product = math.prod(float(joint.marginal(k)[i]) for k, i in enumerate(at))
        rows.append((*names, float(joint.p[at]), product))
    columns = (*joint.names, "probability", "product of marginals")
    return Table("Joint", columns, tuple(rows))


def _marginal_table(joint: Joint, a: int) -> Table:
    pairs = zip(joint.values[a], joint.marginal(a).tolist(), strict=True)
    return Table(f"P({joint.names[a]})", (joint.names[a], "probability"), tuple(pairs))


def _conditional_table(joint: Joint, of: int, given: int) -> Table:
    rows = []
    for value, row in zip(joint.values[given], joint.conditional(of, given), strict=True):
        rows.append((value, *(None if math.isnan(p) else float(p) for p in row)))
    title = f"P({joint.names[of]} | {joint.names[given]})"
    caption = f"Each row sums to 1: the joint row divided by P({joint.names[given]})."
    return Table(title, (joint.names[given], *joint.values[of]), tuple(rows), caption)


def _bayes(joint: Joint, a: int, b: int) -> Table:
    """P(a | b) = P(b | a) P(a) / P(b) for every pair of values."""
    rows = []
    likelihood, prior, evidence = joint.conditional(b, a), joint.marginal(a), joint.marginal(b)
    for i, x in enumerate(joint.values[a]):
        for j, y in enumerate(joint.values[b]):
            if not evidence[j] or not prior[i]:
                continue
            posterior = likelihood[i, j] * prior[i] / evidence[j]
            rows.append((x, y, *map(float, (likelihood[i, j], prior[i], evidence[j], posterior))))
    first, second = joint.names[a], joint.names[b]
    columns = (
        first,
        second,
        f"P({second} | {first})",
        f"P({first})",
        f"P({second})",
        f"P({first} | {second})",
    )
    caption = f"P({first} | {second}) = P({second} | {first}) P({first}) / P({second}); Bayes 1763."
    return Table(f"Bayes' rule: {first} given {second}", columns, tuple(rows), caption)


def _mosaic(joint: Joint, a: int, b: int) -> Picture:
    """Columns as wide as P(a), parted as P(b | a): equal heights throughout mean independence."""
    width, height, gap = 520.0, 260.0, 3.0
    shares, parts = joint.marginal(a), joint.conditional(b, a)
    drawing = Drawing(width + 120, height + 46)
    drawing.text(
        0,
        12,
        f"width: P({joint.names[a]}), height: P({joint.names[b]} | {joint.names[a]})",
        fill="soft",
    )
    x = 0.0
    for i, share in enumerate(shares):
        wide = float(share) * width
        y = 22.0
        for j, part in enumerate(np.nan_to_num(parts[i])):
            tall = float(part) * height
            hint = (
                f"P({joint.values[a][i]}, {joint.values[b][j]}) = {share * part:.4g}; "
                f"P({joint.values[b][j]} | {joint.values[a][i]}) = {part:.4g}"
            )
            with drawing.group(hint):
                drawing.box(
                    x, y, max(wide - gap, 0.5), max(tall - gap, 0.0),
                    fill=f"c{j % 6}", stroke="none", radius=2,
                )  # fmt: skip
                if tall > 20 and wide > 44:
                    drawing.text(
                        x + wide / 2 - 1, y + tall / 2 + 4, f"{share * part:.3g}", fill="page", anchor="middle", size=11
                    )  # fmt: skip
            y += tall
        label = elide(joint.values[a][i], max(wide - 4, 14), 11)
        drawing.text(x + wide / 2, height + 40, label, anchor="middle", size=11)
        x += wide
    for j, value in enumerate(joint.values[b][:12]):
        drawing.box(width + 12, 24 + 20 * j, 12, 12, fill=f"c{j % 6}", stroke="none", radius=2)
        drawing.text(width + 30, 34 + 20 * j, elide(value, 90, 11), size=11)
    title = f"{joint.names[a]} and {joint.names[b]}"
    caption = "Areas are joint probabilities. Were the variables independent, all columns would be parted alike."
    return drawing.picture(title, caption)
