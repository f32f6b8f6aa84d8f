"""Pictures of predicted classes and labels: confusion matrix, ROC and precision-recall curves.

Shapes: N rows, C classes or labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fourfold.core.types import Picture
from fourfold.look.figures import COLORS, picture, short_name, subplots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELLS = 30
"""Classes in a confusion matrix; of more, those with the most errors are drawn."""
NUMBERED = 15
"""Classes up to which each cell says its number."""
CURVES = 6
"""Curves in a picture; of more classes the best and the worst are drawn."""


def confusion(
    true: np.ndarray,
    decided: np.ndarray,
    classes: Sequence[str],
    weights: np.ndarray | None = None,
    caption: str = "",
) -> Picture:
    """How often each true class (row) was decided to be each class (column).

    Args:
        true, decided: (N,) numbers of classes.
        classes: names.
        weights: (N,) how much each row counts; None is once each.
        caption: for the report.
    """
    count = len(classes)
    matrix = np.bincount(true * count + decided, weights, count * count).reshape(count, count)
    names, cut = list(classes), ""
    if count > CELLS:
        wrong = matrix.sum(0) + matrix.sum(1) - 2 * np.diag(matrix)
        some = np.sort(np.argsort(-wrong, kind="stable")[:CELLS])
        matrix, names = matrix[np.ix_(some, some)], [names[i] for i in some]
        cut = f" The {CELLS} of {count:,} classes with the most errors."
    size = len(names)
    side = min(8.0, 2.2 + 0.42 * size)
    fig, axes = subplots(width=side + 1.2, height=side)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1e-300)
    image = axes.imshow(share, vmin=0, vmax=max(0.2, share.max()), cmap="Blues")
    axes.grid(False)
    labels = [short_name(name, 18) for name in names]
    long = max(map(len, labels)) > 3
    axes.set_xticks(
        range(size), labels, rotation=45 if long else 0, ha="right" if long else "center"
    )
    axes.set_yticks(range(size), labels)
    axes.set(xlabel="decided", ylabel="true")
    if size <= NUMBERED:
        for row, column in np.ndindex(size, size):
            color = "white" if share[row, column] > 0.55 * max(0.2, share.max()) else "#222222"
            text = (
                f"{matrix[row, column]:.4g}"
                if matrix[row, column] < 1e5
                else f"{matrix[row, column]:.1e}"
            )
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
    fig.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    return picture(
        fig,
        "Confusion matrix",
        f"{caption} Rows are true classes; colour is the share of the row.{cut}".strip(),
    )


def roc(
    predicted: np.ndarray,
    true: np.ndarray,
    classes: Sequence[str],
    weights: np.ndarray | None = None,
    caption: str = "",
) -> Picture | None:
    """Receiver operating characteristic: right alarms against false alarms over all thresholds.

    Args:
        predicted: (N, C) probabilities or scores.
        true: (N,) numbers of classes, or (N, C) of 0 and 1.
        classes: names.
        weights: (N,) how much each row counts.
        caption: for the report.

    Returns:
        The picture; None if no class has both rows with it and rows without.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    def curve(came: np.ndarray, told: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        false, right, _ = roc_curve(came, told, sample_weight=weights)
        return false, right, float(roc_auc_score(came, told, sample_weight=weights))

    drawn = _curves(predicted, true, classes, curve, "area")
    if drawn is None:
        return None
    fig, axes, cut = drawn
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle=":")
    axes.set(
        xlabel="false positive rate",
        ylabel="true positive rate",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.02),
    )
    return picture(fig, "ROC curve", f"{caption} The dotted line is guessing.{cut}".strip())


def precision_recall(
    predicted: np.ndarray,
    true: np.ndarray,
    classes: Sequence[str],
    weights: np.ndarray | None = None,
    caption: str = "",
) -> Picture | None:
    """Precision against recall over all thresholds; arguments as of `roc`."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    def curve(came: np.ndarray, told: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        precision, recall, _ = precision_recall_curve(came, told, sample_weight=weights)
        return recall, precision, float(average_precision_score(came, told, sample_weight=weights))

    drawn = _curves(predicted, true, classes, curve, "average precision", steps=True)
    if drawn is None:
        return None
    fig, axes, cut = drawn
    axes.set(xlabel="recall", ylabel="precision", xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    return picture(fig, "Precision and recall", f"{caption}{cut}".strip())


def _curves(
    predicted: np.ndarray,
    true: np.ndarray,
    classes: Sequence[str],
    curve: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, float]],
    what: str,
    steps: bool = False,
) -> tuple[Any, Axes, str] | None:
    known = true if true.ndim == 2 else true[:, None] == np.arange(len(classes))
    wanted = [1] if true.ndim == 1 and len(classes) == 2 else list(range(len(classes)))
    wanted = [c for c in wanted if 0 < known[:, c].sum() < len(known)]
    if not wanted:
        return None
    found = [(c, *curve(known[:, c].astype(int), predicted[:, c])) for c in wanted]
    found.sort(key=lambda f: -f[3])
    cut = ""
    if len(found) > CURVES:
        cut = f" The {CURVES // 2} best and the {CURVES // 2} worst of {len(found):,}."
        found = found[: CURVES // 2] + found[-CURVES // 2 :]
    fig, axes = subplots(width=6.8, height=3.9 + 0.2 * len(found) / 2)
    for (c, x, y, area), color in zip(found, COLORS, strict=False):
        label = f"{short_name(classes[c], 24)}: {area:.3f}"
        axes.plot(x, y, label=label, color=color, drawstyle="steps-post" if steps else "default")
    fig.legend(
        loc="outside lower center", ncols=2 if len(found) > 1 else 1, frameon=False, title=what
    )
    return fig, axes, cut
