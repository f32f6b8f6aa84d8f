"""What the attention of a run compared on a batch: its maps, and one word's way through a head.

Shapes: H heads, T positions, S keys, D features of a head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from fourfold.core.errors import UserError, nearest
from fourfold.core.parts import Batch
from fourfold.core.run import Run
from fourfold.core.types import Picture, Table
from fourfold.look.attention import visible
from fourfold.look.attention_walk import Walk, walked
from fourfold.models.attention import Looked, looking
from fourfold.models.attention_forms import repeated

TOKENS = 48
"""Positions of an attention map at most."""
Seen = tuple[list[tuple[str, Looked]], list[str], int]
"""Calls of self-attention with the modules that made them; names of the first example's positions; how many of them
are drawn and no padding."""


def attended(run: Run, batch: Batch, seed: int) -> Seen | None:
    """What the objective's pass over a batch compared; None without attention."""
    with looking() as looked, _named(run.model, looked) as names:
        with torch.random.fork_rng(devices=devices(run)), torch.enable_grad():
            torch.manual_seed(seed)
            for _ in run.objective.losses(run.model, batch):
                pass  # gradients are on, as some objectives differentiate by themselves
    if not looked:
        return None
    count = looked[0].k.shape[2]
    calls: dict[str, Looked] = {}
    for name, call in zip(names, looked, strict=True):
        if call.q.shape[2] == call.k.shape[2] == count:
            calls.setdefault(name, call)
    return list(calls.items()), *_tokens(run, batch, count)


def attention_of(seen: Seen) -> tuple[Mapping[str, np.ndarray], list[str]]:
    """Weights of the first example by layer, (H, T, T), and its tokens."""
    calls, tokens, length = seen
    weights: dict[str, np.ndarray] = {}
    with torch.no_grad():
        for name, call in calls:
            weights[name] = call.weights(1)[0, :, :length, :length].cpu().numpy()
    return weights, tokens[:length]


def word_walk(
    seen: Seen | None, word: str, module: str | None, head: int
) -> tuple[list[str], Table, Picture]:
    """One word of the first example through one head.

    Args:
        seen: what `attended` gave.
        word: as it stands in the text; of several pieces the last one asks.
        module: the layer's name; None takes the first.
        head: its number, from 0.

    Raises:
        UserError: no attention, no such word, layer or head.
    """
    if seen is None or not seen[0]:
        raise UserError(f"--word {word}: this model has no self-attention to walk through")
    calls, tokens, _ = seen
    name, call = calls[0]
    if module is not None:
        found = dict(calls)
        if module not in found:
            raise UserError(f"--module {module}: no attention of that name{nearest(module, found)}")
        name, call = module, found[module]
    heads = call.q.shape[1]
    if head >= heads:
        raise UserError(f"--head {head}: expected 0 to {heads - 1}, the heads of {name}")
    place = _place(tokens, word)
    return walked(walk_of(call, head, place), place, tokens, f"{name}, head {head}")


def walk_of(call: Looked, head: int, place: int) -> Walk:
    """What the query at a place met in a head; keys that it may not see are left out, which are the last ones."""
    batch, heads, time, size = call.q.shape
    heard, held = (repeated(call.q, x)[0, head] for x in (call.k, call.v))
    added = torch.zeros(time)
    if call.bias is not None:
        added = call.bias.expand(batch, heads, time, time)[0, head, place].float().cpu()
    if call.seen is not None:
        seen = call.seen.expand(batch, heads, time, time)[0, head, place].cpu()
        added = added.masked_fill(~seen, -torch.inf)
    kept = int(added.isfinite().nonzero()[-1]) + 1
    query, keys, values = (
        x.cpu().double().numpy() for x in (call.q[0, head, place], heard[:kept], held[:kept])
    )
    scale = size**-0.5 if call.scale is None else call.scale
    return Walk(query, keys, values, scale, added[:kept].double().numpy())


# --- private ----------------------------------------------------------------------------------------


def _place(tokens: Sequence[str], word: str) -> int:
    """The position of a word: of the token that is it, or the last of those that spell it."""
    plain = [token.strip(" Ġ▁") for token in tokens]
    if word in plain:
        return plain.index(word)
    ends = np.cumsum([len(token) for token in tokens])
    at = "".join(tokens).find(word) if word else -1
    if at < 0:
        raise UserError(
            f"--word {word}: not in the text{nearest(word, plain)}; what is read, all but the last token, is "
            f"{' '.join(visible(token) for token in tokens[:40])}"
        )
    return int(np.searchsorted(ends, at + len(word)))


@contextlib.contextmanager
def _named(model: nn.Module, looked: list[Any]) -> Iterator[list[str]]:
    """While entered, the name of the module that was running for each new entry of a list."""
    names: list[str] = []
    running: list[str] = []

    def note() -> None:
        names.extend([running[-1] if running else ""] * (len(looked) - len(names)))

    def entering(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            note()
            running.append(name)

        return hook

    def leaving(module: nn.Module, inputs: Any, output: Any) -> None:
        note()
        running.pop()

    handles = [m.register_forward_pre_hook(entering(n)) for n, m in model.named_modules()]
    handles += [m.register_forward_hook(leaving) for m in model.modules()]
    try:
        yield names
        note()
    finally:
        for handle in handles:
            handle.remove()


def _tokens(run: Run, batch: Batch, count: int) -> tuple[list[str], int]:
    """Names of the first example's positions, and how many of them are no padding."""
    tokens, targets = batch.get("tokens"), batch.get("targets")
    vocabulary = getattr(run.data, "vocabulary", None)
    if vocabulary is None or tokens is None or tokens.shape[-1] != count:
        return [str(i) for i in range(count)], min(count, TOKENS)
    used = count
    if targets is not None and targets.shape == tokens.shape:
        counted = (targets[0] >= 0).nonzero()  # negative targets do not count
        used = int(counted[-1]) + 1 if len(counted) else count
    name = getattr(run.data, "name", vocabulary.token)  # with tokens beyond the vocabulary
    return [name(int(t)) for t in tokens[0]], min(used, TOKENS)


def devices(run: Run) -> list[torch.device]:
    """Devices whose noise a look must leave as it is."""
    return [run.device] if run.device.type == "cuda" else []
