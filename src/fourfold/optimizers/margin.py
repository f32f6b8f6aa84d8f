"""Whether a hyperplane separates two classes, by how much, or why not.

With points p = s x, s = ±1 the class and x a row with a one for the bias, a hyperplane u separates the
classes if every p u > 0. The point of the points' convex hull that is nearest to 0 answers all: its
direction is the best u, its length the margin; and where it is 0 itself, positive shares of rows sum to
0, which no u survives (Gordan 1873). It is found exactly by Wolfe's algorithm (1976).
Shapes: n rows, D columns with the one for the bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

TINY = 1e-9
"""Margins and residuals below this share of the longest row are taken for rounding."""


@dataclass(frozen=True)
class Separation:
    """What was found, checked on all rows."""

    verdict: Literal["separable", "not separable", "undecided"]
    """The first two are proven up to rounding: by a direction, by shares of rows."""
    direction: np.ndarray
    """(D,) unit vector of the largest margin found."""
    margin: float
    """gamma, the least of p u over the rows: how far the nearest row lies from the hyperplane."""
    radius: float
    """R, the length of the longest row."""
    rows: np.ndarray
    """Numbers of the rows whose shares make the nearest point: those on the margin, or those that cannot be
    told apart."""
    shares: np.ndarray
    """Positive, summing to 1."""

    @property
    def bound(self) -> float:
        """(R / gamma)^2: mistakes of Rosenblatt's rule at most (Novikoff 1962); infinite without a margin."""
        return (self.radius / self.margin) ** 2 if self.margin > 0 else float("inf")


def separation(points: np.ndarray) -> Separation:
    """Decide whether every point lies on the positive side of some hyperplane through 0.

    Args:
        points: (n, D) float64: rows times ±1 for their class, the bias's column of ones included.
    """
    rows, shares = nearest_in_hull(points)
    nearest = shares @ points[rows]
    length, radius = float(np.linalg.norm(nearest)), float(np.sqrt((points**2).sum(axis=1).max()))
    direction = nearest / length if length > 0 else nearest
    margin = float((points @ direction).min())
    if margin > TINY * radius:
        verdict: Literal["separable", "not separable", "undecided"] = "separable"
    else:
        verdict = "not separable" if length <= TINY * radius else "undecided"
    return Separation(verdict, direction, max(margin, 0.0), radius, rows, shares)


def nearest_in_hull(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The point of the convex hull nearest to 0, as numbers of at most D + 1 points and their shares.

    Args:
        points: (n, D) float64.
    """
    squares = (points**2).sum(axis=1)
    size = float(squares.max())
    corral = [int(squares.argmin())]
    shares = np.ones(1)
    for _ in range(50 * (points.shape[1] + 20)):
        nearest = shares @ points[corral]
        ahead = points @ nearest
        new = int(ahead.argmin())
        gap = float(nearest @ nearest - ahead[new])
        if gap <= 1e-14 * size or new in corral:
            break  # no point lies nearer to 0 in this direction
        corral.append(new)
        corral, shares = _inside(points, corral, np.append(shares, 0.0))
    return np.array(corral), shares


def _inside(
    points: np.ndarray, corral: list[int], shares: np.ndarray
) -> tuple[list[int], np.ndarray]:
    """Leave out points until the nearest point of the others' affine hull lies within them."""
    while True:
        wanted = _affine(points[corral])
        if (wanted > 1e-12).all():
            return corral, wanted
        leaving = wanted <= 1e-12
        fall = shares[leaving] / np.maximum(shares[leaving] - wanted[leaving], 1e-300)
        shares = shares + min(1.0, float(fall.min())) * (wanted - shares)
        stays = shares > 1e-12
        stays[np.flatnonzero(leaving)[int(fall.argmin())]] = False  # the one that reached 0
        corral = [row for row, stay in zip(corral, stays, strict=True) if stay]
        shares = shares[stays] / shares[stays].sum()


def _affine(some: np.ndarray) -> np.ndarray:
    """Shares, of any sign, that sum to 1 and whose point is nearest to 0."""
    q, r = np.linalg.qr((some[1:] - some[0]).T)
    edges = np.abs(np.diag(r))
    if len(edges) and edges.min() <= 1e-12 * edges.max():  # points that depend on one another
        others = np.linalg.lstsq((some[1:] - some[0]).T, -some[0], rcond=None)[0]
    else:
        others = np.linalg.solve(r, -(q.T @ some[0]))
    return np.append(1 - others.sum(), others)
