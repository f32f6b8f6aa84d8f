"""What goes wrong while a policy learns from rewards, read off its log and said in words.

Over-optimization of a reward: Gao et al. 2023, https://arxiv.org/abs/2210.10760; length: Singhal et al. 2023,
https://arxiv.org/abs/2310.03716.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fourfold.core.metrics import Metrics

LEAST = 4
"""Values of a measure below which nothing is said of its course."""
RUNAWAY = 2.0
"""Times the first length at which answers have run away."""
COLLAPSED = 0.1
"""Share of the first entropy, and nats, below which it has collapsed."""


def warnings_of(metrics: Metrics) -> list[str]:
    """Sentences about what should worry; none where nothing does."""
    found = []
    reward, judge = (metrics.series(f"valid.{name}")[1] for name in ("reward", "judge"))
    if len(judge) >= LEAST and len(judge) == len(reward):
        rose, fell = _change(reward), -_change(judge)
        if rose > _noise(reward) and fell > _noise(judge):
            found.append(
                f"The reward on held-out prompts rose from {_first(reward):.3g} to {_last(reward):.3g} while the judge fell from "
                f"{_first(judge):.3g} to {_last(judge):.3g}: the policy learns to please the reward, not to answer better. "
                "A larger --objective.beta or fewer steps hold it back."
            )
    lengths = metrics.series("length")[1]
    if len(lengths) >= LEAST and _last(lengths) > RUNAWAY * _first(lengths):
        found.append(
            f"Answers grew from {_first(lengths):.0f} to {_last(lengths):.0f} tokens: the reward may pay for length; "
            "look at its length correlation (fourfold evaluate on the reward run)."
        )
    entropy = metrics.series("entropy")[1]
    if len(entropy) >= LEAST and _last(entropy) < COLLAPSED * _first(entropy):
        found.append(
            f"The entropy of the next token collapsed from {_first(entropy):.3g} to {_last(entropy):.3g} nats: all answers become "
            "alike, and nothing more is learned from comparing them. --objective.entropy or a larger beta keep it up."
        )
    alike = metrics.series("groups_alike")[1]
    if len(alike) >= LEAST and float(np.mean(alike)) > 0.5:
        found.append(
            f"In {float(np.mean(alike)):.0%} of the groups all answers had the same reward and taught nothing: the prompts are too "
            "easy or too hard for this policy, or the reward too coarse."
        )
    return found


def _first(values: Sequence[float]) -> float:
    return float(np.mean(values[: max(1, len(values) // 4)]))


def _last(values: Sequence[float]) -> float:
    return float(np.mean(values[-max(1, len(values) // 4) :]))


def _change(values: Sequence[float]) -> float:
    return _last(values) - _first(values)


def _noise(values: Sequence[float]) -> float:
    """How far neighbours lie apart, as what would be no change."""
    return float(np.median(np.abs(np.diff(values))))
