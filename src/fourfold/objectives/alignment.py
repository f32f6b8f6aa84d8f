"""Connectionist temporal classification: Graves et al. 2006, https://www.cs.toronto.edu/~graves/icml_2006.pdf.

A path gives each of N slots a label or a blank; merging equal neighbours and leaving out blanks makes a target of it.
The probability of a target is the sum over its paths, by dynamic programming over slots. States of a target of U
labels are blank, 1st, blank, 2nd, ..., blank: 2 U + 1. Shapes: B batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEVER = -1e30
"""Log-probability of what cannot be; finite, so that gradients are numbers."""


def _states(emissions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Emissions of the states, (B, N, 2 U + 1), and where a state may be reached from two before, (B, 2 U + 1)."""
    blank, labels = emissions[..., :1], emissions[..., 1:]
    batch, slots, count = labels.shape
    both = torch.stack((blank.expand_as(labels), labels), dim=-1).view(batch, slots, 2 * count)
    skips = torch.zeros(batch, 2 * count + 1, dtype=torch.bool, device=targets.device)
    skips[:, 3::2] = targets[:, 1:] != targets[:, :-1]
    return torch.cat((both, blank), dim=-1), skips


def _arrivals(alpha: Tensor, skips: Tensor) -> Tensor:
    """From the state itself, the one before, and the one before that: (3, B, 2 U + 1)."""
    never = alpha.new_full((len(alpha), 2), NEVER)
    late = torch.cat((never, alpha), dim=1)
    before, skipped = late[:, 1:-1], late[:, :-2].where(skips, NEVER)
    return torch.stack((alpha, before, skipped))


def _first(states: Tensor) -> Tensor:
    """Log-probabilities of beginnings of one slot, (B, 2 U + 1)."""
    begins = torch.full_like(states[:, 0], NEVER)
    return torch.cat((states[:, 0, :2], begins[:, 2:]), dim=1)


def ctc(emissions: Tensor, targets: Tensor, slots: Tensor, lengths: Tensor) -> Tensor:
    """-log p of targets, summed over their paths.

    Args:
        emissions: (B, N, 1 + U) float: log-probability of the blank and of each of the target's labels, in order.
        targets: (B, U) int64, the labels; what is beyond a row's length is arbitrary.
        slots: (B,) int64, slots of each row.
        lengths: (B,) int64, labels of each row.

    Returns:
        (B,) nats; about 1e30 where no path of so many slots makes the target.
    """
    states, skips = _states(emissions, targets)
    alpha = _first(states)
    for slot in range(1, states.shape[1]):
        onward = _arrivals(alpha, skips).logsumexp(0) + states[:, slot]
        alpha = torch.where((slot < slots)[:, None], onward, alpha)
    last = 2 * lengths[:, None]
    ends = torch.cat((alpha.gather(1, last), alpha.gather(1, (last - 1).clamp(min=0))), dim=1)
    ends = torch.stack((ends[:, 0], ends[:, 1].where(lengths > 0, NEVER)))
    return -ends.logsumexp(0)


@torch.no_grad()
def best_path(emissions: Tensor, targets: Tensor, slots: Tensor, lengths: Tensor) -> Tensor:
    """The most probable path of each target. Arguments as for `ctc`.

    Returns:
        (B, N) int64: 0 for the blank, u + 1 for the label targets[:, u]; arbitrary beyond a row's slots.
    """
    states, skips = _states(emissions, targets)
    alpha, came = _first(states), []
    for slot in range(1, states.shape[1]):
        best, step = _arrivals(alpha, skips).max(0)
        going = (slot < slots)[:, None]
        alpha = torch.where(going, best + states[:, slot], alpha)
        came.append(torch.where(going, step, 0))
    last = 2 * lengths
    before = (last - 1).clamp(min=0)
    ends = [alpha.gather(1, at[:, None])[:, 0] for at in (last, before)]
    state = torch.where((ends[1] > ends[0]) & (lengths > 0), before, last)
    path = [state]
    for step in reversed(came):
        state = state - step.gather(1, state[:, None])[:, 0]
        path.append(state)
    found = torch.stack(path[::-1], dim=1)  # (B, N)
    return torch.where(found % 2 == 1, (found + 1) // 2, 0)


def needed(targets: Tensor, lengths: Tensor) -> Tensor:
    """The fewest slots that a path of each target has, (B,): a label and, between equal neighbours, a blank."""
    within = torch.arange(1, max(1, targets.shape[1]), device=targets.device) < lengths[:, None]
    return lengths + ((targets[:, 1:] == targets[:, :-1]) & within).sum(1)
