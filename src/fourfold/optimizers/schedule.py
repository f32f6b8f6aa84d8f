"""Learning-rate schedules: a factor of the peak rate by progress through the budget.

Cosine: Loshchilov & Hutter 2017. Warm-up, stable, decay: Hu et al. 2024 (MiniCPM). Inverse square root: Vaswani et al.
2017.
"""

from __future__ import annotations

import math
from typing import Literal

Name = Literal["constant", "linear", "cosine", "wsd", "inverse_sqrt"]


def factor(
    schedule: Name, step: int, progress: float, *, warmup: float, final: float, decay_from: float
) -> float:
    """The learning rate of a step as a factor of its peak.

    Args:
        schedule: the shape after the warm-up; "inverse_sqrt" falls with the root of the steps in units of the warm-up,
            of one step where there is none.
        step: steps done before this one.
        progress: share of the budget spent before this step, 0 to 1.
        warmup: its length: a share of the budget if below 1, otherwise a number of steps, which is
            cut to a tenth of the budget where that is shorter.
        final: the factor at the end of the budget; for "inverse_sqrt" the least.
        decay_from: for "wsd", the progress at which the rate begins to fall linearly.
    """
    start = 0.0
    if warmup >= 1:
        # a short budget must not be spent on the warm-up: it is over after a tenth of it at the latest
        spent = max((step + 1) / warmup, progress / 0.1)
    elif warmup > 0:
        # a first step at progress 0 still moves
        spent = max(progress, 1e-3 * warmup) / warmup
        start = warmup
    else:
        spent = step + 1.0
    rise = min(1.0, spent)  # time in units of the warm-up
    if schedule == "inverse_sqrt":
        return rise if spent < 1 else max(final, spent**-0.5)
    if schedule == "constant":
        return rise
    if schedule == "wsd":
        start = max(start, decay_from)
    share = min(1.0, max(0.0, (progress - start) / (1 - start))) if start < 1 else 0.0
    if schedule == "cosine":
        return rise * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share)))
    return rise * (final + (1 - final) * (1 - share))
