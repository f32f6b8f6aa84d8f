"""What smoothing takes from counts of 1, 2, ..., from the counts of counts n(1), n(2), ...

Absolute discounting: Ney, Essen and Kneser 1994; three discounts: Chen and Goodman 1998, equation 26;
Good-Turing (Good 1953) for counts up to 5: Katz 1987.
"""

from __future__ import annotations

from collections.abc import Sequence

FALLBACK = (0.5, 1.0, 1.5)
"""Discounts where the counts of counts give none, as in KenLM."""
HIGHEST = 5
"""The largest count that Good-Turing discounts, as Katz chose it."""


def discounts(counts: Sequence[int], *, three: bool) -> tuple[tuple[float, float, float], bool]:
    """What absolute discounting takes from counts of 1, 2 and more.

    Args:
        counts: n(1) to n(4).
        three: Chen and Goodman's three, else Ney's one.

    Returns:
        The discounts, and whether `FALLBACK` stands in: where n(1), n(2) or n(3) is zero, or a discount is
        not between 0 and its count, as happens on small or artificial texts.
    """
    n1, n2, n3, n4 = counts
    if not three:
        return ((n1 / (n1 + 2 * n2),) * 3, False) if n1 else ((FALLBACK[0],) * 3, True)
    if not (n1 and n2 and n3):
        return FALLBACK, True
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    usable = all(0 < d <= r for r, d in enumerate(found, 1))
    return (found, False) if usable else (FALLBACK, True)


def turing(counts: Sequence[int]) -> tuple[tuple[float, ...], bool]:
    """The share of a count r that Good-Turing leaves, for r = 1, 2, ... as Katz has it.

    Args:
        counts: n(1) to n(6).

    Returns:
        Shares in (0, 1) for the counts up to 5, or up to fewer where the counts of counts of more are
        unusable (zero, or growing): none at all on tiny texts; and whether there are fewer than 5.
    """
    for highest in range(HIGHEST, 1, -1):  # for 1 alone the formula leaves nothing
        n = [0, *counts[: highest + 1]]
        if not all(n[1:]):
            continue
        common = (highest + 1) * n[highest + 1] / n[1]
        if common >= 1:
            continue
        stars = [(r + 1) * n[r + 1] / n[r] for r in range(1, highest + 1)]
        shares = tuple((star / r - common) / (1 - common) for r, star in enumerate(stars, 1))
        if all(1e-9 < share < 1 for share in shares):
            return shares, highest < HIGHEST
    return (), True
