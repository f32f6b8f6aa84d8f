"""Is a network numerically healthy? One batch forward and backward, a verdict in words, the evidence drawn.

Vanishing and exploding gradients: Hochreiter 1991; Bengio et al. 1994; initializations that keep the
scale: Glorot and Bengio 2010, He et al. 2015. Each bound is a constant below, and is said with what
was measured.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from fourfold.core.parts import Batch, Objective
from fourfold.core.types import Explanation
from fourfold.core.words import number
from fourfold.look.affine import AFFINE, affine_chains, equal_to_one
from fourfold.look.health_pictures import activation_picture, gradient_picture, tables
from fourfold.look.normalization import normalization_pictures
from fourfold.look.seen import NEAR, Call, Watched
from fourfold.look.watch import watch

Kind = Literal["", "not finite", "explode", "vanish", "dead", "saturated", "symmetric"]

VANISH, EXPLODE = 1e-3, 1e3
"""Between the last third of the layers and the first, gradients may change by factors between these, and
so may the spread of activations between the first third and the last."""
DEAD = 0.25
"""Share of a rectifier's units that may be 0 for every example."""
SATURATED = 0.5
"""Share of a hidden tanh's or sigmoid's values that may lie within NEAR of its bounds."""
FEW = 3
"""Names in a sentence."""


@dataclass(frozen=True)
class Finding:
    """What one check found: a sentence with the numbers, and what is wrong, if something is."""

    kind: Kind
    """Empty where all is well."""
    sentence: str
    layers: tuple[str, ...] = ()


def inspect_batch(
    model: nn.Module, objective: Objective, batch: Batch, *, seed: int = 0, title: str = ""
) -> Explanation:
    """Run one batch forward and backward and tell whether activations and gradients are healthy.

    Args:
        model: any module. Its weights, buffers, gradients and training mode stay as they were.
        objective: prepared for the run; each of its players is judged by its first move.
        batch: of examples, on any device.
        seed: of dropout and noise; torch's global generators stay as they were.
        title: of what is inspected.

    Raises:
        UserError: nothing in the batch counts, or it has one example and the model normalizes over the batch.
    """
    players = watch(model, objective, batch, seed=seed)
    verdicts, sentences = [], []
    alone = len(players) == 1
    for watched in players:
        findings = judge(watched)
        who = "" if alone else f"{watched.player}: "
        kinds = list(dict.fromkeys(f.kind for f in findings if f.kind))
        verdicts.append(who + (", ".join(kinds) or "healthy"))
        sentences += [who + f.sentence for f in sorted(findings, key=lambda f: not f.kind)]
        sentences += [who + s for s in _notes(watched, model)]
    count = players[0].examples if players else 0
    losses = ", ".join(("" if alone else f"{w.player} ") + number(w.loss) for w in players)
    first = f"Verdict: {'; '.join(verdicts)}. One batch of {count:,} examples, forward and backward, loss {losses}."
    pictures = [
        draw(w, "" if alone else w.player)
        for w in players
        for draw in (activation_picture, gradient_picture)
    ]
    return Explanation(
        title or "Numerical health",
        (first, *sentences),
        tuple(t for w in players for t in tables(w, "" if alone else w.player)),
        (*pictures, *normalization_pictures(model)),
    )


def judge(watched: Watched) -> list[Finding]:
    """Every check on one player's move, the gravest kind first."""
    broken = list(_not_finite(watched))
    checks = [] if broken else [*_signal(watched), *_gradients(watched)]
    return [*broken, *checks, *_dead(watched), *_saturated(watched), *_symmetric(watched)]


# --- the checks ---------------------------------------------------------------------------------


def _not_finite(watched: Watched) -> Iterator[Finding]:
    weights = [w for w in watched.weights if w.broken]
    calls = [c for c in watched.calls if c.broken]
    slopes = [w for w in watched.weights if w.broken_gradient]
    if weights:
        yield Finding(
            "not finite",
            f"Not finite: {_few([w.name for w in weights])} hold NaN or infinity.",
            tuple(w.layer for w in weights),
        )
    if calls:
        first = calls[0]
        others = f", and {len(calls) - 1} outputs after it" if calls[1:] else ""
        yield Finding(
            "not finite",
            f"Not finite: {first.name} ({first.kind}) is the first layer to give NaN or infinity, in "
            f"{first.broken:,} of {math.prod(first.shape):,} values{others}.",
            _names(calls),
        )
    if slopes and not weights and not calls:
        last = next((c.name for c in reversed(watched.calls) if c.broken_gradient), "the loss")
        yield Finding(
            "not finite",
            f"Not finite: the gradient, first at {last} on its way back, and so that of {_few([w.name for w in slopes])}.",
            tuple(w.layer for w in slopes),
        )


def _signal(watched: Watched) -> Iterator[Finding]:
    """Do examples stay apart on their way through the layers?"""
    spreads: dict[str, float] = {}
    for call in _hidden(watched.calls):
        if math.isfinite(call.spread):
            spreads[call.name] = max(spreads.get(call.name, 0.0), call.spread)
    # a constant (of positions, say) on the way is no end of the signal; zeros up to the output are
    alive = [i for i, spread in enumerate(spreads.values()) if spread > 0]
    last = alive[-1] if alive else -1
    hidden = [name for i, name in enumerate(spreads) if spreads[name] > 0 or i > last]
    found = _thirds([spreads[name] for name in hidden])
    if found is None:
        return
    early, late, third = found
    factor = _factor(late, early)
    names = tuple(hidden[-third:])
    told = (
        f"the spread of activations over the examples goes from {early:.2g} in the first layers "
        f"({_few(hidden[:third])}) to {late:.2g} in the last ({_few(names)}), times {factor:.2g}"
    )
    if factor < VANISH:
        yield Finding(
            "vanish",
            f"Vanish: {told}; below {VANISH:g} the last layers hardly tell the examples apart. "
            "He or Xavier initialization, normalization or residual connections keep the scale.",
            names,
        )
    elif factor > EXPLODE:
        yield Finding(
            "explode",
            f"Explode: {told}; above {EXPLODE:g} a small step changes the output without measure. "
            "A smaller initialization or normalization keeps the scale.",
            names,
        )
    else:
        yield Finding("", f"Signal: {told} (healthy: {VANISH:g} to {EXPLODE:,g}).")


def _gradients(watched: Watched) -> Iterator[Finding]:
    """How strongly do the first layers feel the loss, compared with the last?"""
    trained = [w for w in watched.weights if w.trained and math.isfinite(w.gradient)]
    if not trained:
        return
    by_layer: dict[str, float] = {}
    for w in trained:
        by_layer[w.layer] = max(by_layer.get(w.layer, 0.0), w.gradient)
    unmoved = [layer for layer, gradient in by_layer.items() if gradient == 0]
    if unmoved:
        yield Finding(
            "vanish",
            f"Vanish: no gradient at all reaches {_few(unmoved)} ({len(unmoved)} of {len(by_layer)} layers): "
            "what lies after them is dead, saturated or zero.",
            tuple(unmoved),
        )
    matrices = [w for w in trained if len(w.shape) > 1 and w.ratio > 0]
    found = _thirds([w.ratio for w in matrices])
    if found is None:
        return
    early, late, third = found
    factor = _factor(early, late)
    names = tuple(w.layer for w in matrices[:third])
    told = (
        f"the norm of the gradient over that of the weights is {late:.2g} in the last layers "
        f"({_few([w.layer for w in matrices[-third:]])}) and {early:.2g} in the first ({_few(names)}), times {factor:.2g}"
    )
    if factor < VANISH:
        yield Finding(
            "vanish",
            f"Vanish: {told}; below {VANISH:g} the first layers hardly learn. Residual connections, "
            "normalization, He or Xavier initialization, or rectifiers in place of sigmoids help.",
            names,
        )
    elif factor > EXPLODE:
        yield Finding(
            "explode",
            f"Explode: {told}; above {EXPLODE:g} no learning rate suits both. A smaller initialization, "
            "normalization or clipping helps.",
            names,
        )
    else:
        yield Finding("", f"Gradients: {told} (healthy: {VANISH:g} to {EXPLODE:,g}).")


def _dead(watched: Watched) -> Iterator[Finding]:
    masks: dict[str, Tensor] = {}
    for call in watched.calls:
        if call.dead is not None:  # a unit is alive if any call of its layer wakes it
            known = masks.get(call.name)
            fits = known is not None and known.shape == call.dead.shape
            masks[call.name] = call.dead & known if fits else call.dead  # type: ignore[operator]
    shares = {name: (int(m.sum()), len(m)) for name, m in masks.items()}
    worst = {name: f"{n} of {u} in {name}" for name, (n, u) in shares.items() if n > DEAD * u}
    if worst:
        yield Finding(
            "dead",
            f"Dead: units that are 0 for every one of the {watched.examples:,} examples, so that no gradient passes: "
            f"{_few(list(worst.values()))}; more than {DEAD:.0%} of a layer is judged dead (a larger batch may wake some). "
            "A smaller learning rate, leaky rectifiers or normalization before them help.",
            tuple(worst),
        )
    elif shares:
        dead, units = (sum(pair[i] for pair in shares.values()) for i in (0, 1))
        yield Finding(
            "",
            f"Rectifiers: {dead:,} of {units:,} units are 0 for every example (healthy: at most {DEAD:.0%} of a layer).",
        )


def _saturated(watched: Watched) -> Iterator[Finding]:
    """Hidden ones only: an output is meant to reach its bounds."""
    shares: dict[str, list[float]] = {}
    for call in _hidden(watched.calls):
        if math.isfinite(call.saturated):
            shares.setdefault(call.name, []).append(call.saturated)
    means = {name: statistics.fmean(values) for name, values in shares.items()}
    worst = {name: f"{m:.0%} in {name}" for name, m in means.items() if m > SATURATED}
    within = f"within {NEAR:.0%} of its range from a bound"
    if worst:
        yield Finding(
            "saturated",
            f"Saturated: values of a tanh or sigmoid {within}, where its slope is nearly 0: {_few(list(worst.values()))}; "
            f"more than {SATURATED:.0%} is judged saturated. Smaller weights, standardized inputs or normalization help.",
            tuple(worst),
        )
    elif means:
        most = max(means, key=lambda name: means[name])
        yield Finding(
            "",
            f"Saturation: at most {means[most]:.0%} of a hidden layer's values ({most}) lie {within} "
            f"(healthy: at most {SATURATED:.0%}).",
        )


def _symmetric(watched: Watched) -> Iterator[Finding]:
    """Hidden units only: outputs of classes that never occur may well be equal."""
    output = next((c.name for c in reversed(watched.calls) if c.kind in AFFINE), "")
    for w in watched.weights:
        if w.twins is None or w.layer == output:
            continue
        units, equal, kinds, moving = w.twins
        fate = (
            "they are perfectly symmetric and will stay equal"
            if moving
            else "and no gradient tells them apart"
        )
        groups = "one group" if kinds == 1 else f"{kinds} groups"
        yield Finding(
            "symmetric",
            f"Symmetric: {equal} of the {units} units of {w.name} have equal weights and equal gradients, in {groups}; "
            f"{fate}, so that {units - equal + kinds} would do as well. Random initialization breaks the symmetry.",
            (w.layer,),
        )


# --- what is told besides -----------------------------------------------------------------------


def _notes(watched: Watched, model: nn.Module) -> Iterator[str]:
    frozen = [w.name for w in watched.weights if not w.trained]
    unused = [w.name for w in watched.weights if w.trained and math.isnan(w.gradient)]
    if len(frozen) == len(watched.weights):
        yield "No parameter is trained, so there are no gradients to judge."
    elif frozen:
        yield f"Frozen, so without gradient: {_few(frozen)}."
    if unused and len(unused) + len(frozen) < len(watched.weights):
        yield f"Not used for this loss, so without gradient: {_few(unused)}."
    modules = dict(model.named_modules())
    for chain in affine_chains(watched.calls):
        yield equal_to_one(chain, [modules.get(name) for name in chain])


# --- small things -------------------------------------------------------------------------------


def _hidden(calls: Sequence[Call]) -> list[Call]:
    """Calls of layers, without those of the one that gives the output."""
    layers = [c for c in calls if not c.block]
    return [c for c in layers if c.name != layers[-1].name]


def _names(calls: Sequence[Call]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(c.name for c in calls))


def _thirds(values: Sequence[float]) -> tuple[float, float, int] | None:
    """Medians of the first and of the last third, and the size of a third; None for a single value."""
    if len(values) < 2:
        return None
    third = max(1, len(values) // 3)
    return statistics.median(values[:third]), statistics.median(values[-third:]), third


def _factor(value: float, base: float) -> float:
    if base == 0:
        return 1.0 if value == 0 else math.inf
    return value / base


def _few(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:FEW]) + (f" and {len(names) - FEW} more" if len(names) > FEW else "")
