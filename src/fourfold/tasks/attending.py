"""What the attention of a run compared on a batch: its maps, and one word's way through a head.

Shapes: H heads, T positions, S keys, D features of a head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fourfold.core.errors import UserError, nearest
from fourfold.core.parts import Batch
from fourfold.core.run import Run
from fourfold.core.types import Picture, Table
from fourfold.data.pairs import pair_data
from fourfold.look.attention import attention_maps, attention_table, visible
from fourfold.look.attention_walk import Walk, walked
from fourfold.models.attention import Looked, looking
from fourfold.models.attention_forms import repeated

TOKENS = 48
"""Positions of an attention map at most."""


class Seen(NamedTuple):
    """Attention between two sequences, or within one, on the first example of a batch."""

    title: str
    calls: dict[str, Looked]
    """By the module that made them."""
    queries: list[str]
    """Names of the positions that ask, without padding. A target's positions that look at the source are called by the
    token that is said there, not by the one before it, which is read."""
    keys: list[str]
    """Of those that are asked; the same list where a sequence looks at itself."""

    @property
    def own(self) -> bool:
        """Whether a sequence looks at itself."""
        return self.queries is self.keys


def attended(run: Run, batch: Batch, seed: int) -> list[Seen]:
    """What the objective's pass over a batch compared: of an encoder-decoder the source with itself, the target with
    itself, the target with the source; nothing without attention."""
    said: list[Tensor] = []
    hook = run.model.register_forward_hook(lambda module, given, found: said.append(found))
    try:
        with looking() as looked, _named(run.model, looked) as names:
            with torch.random.fork_rng(devices=devices(run)), torch.enable_grad():
                torch.manual_seed(seed)
                for _ in run.objective.losses(run.model, batch):
                    pass  # gradients are on, as some objectives differentiate by themselves
    finally:
        hook.remove()
    if not looked:
        return []
    sides = getattr(run.model, "sides", None)
    if sides is None:
        count = looked[0].k.shape[2]
        calls = {
            name: call
            for name, call in reversed(list(zip(names, looked, strict=True)))
            if call.q.shape[2] == call.k.shape[2] == count
        }
        tokens = _tokens(run, batch, count)
        return [Seen("Attention", dict(reversed(list(calls.items()))), tokens, tokens)]
    found: dict[tuple[str, str], dict[str, Looked]] = {}
    for name, call in zip(names, looked, strict=True):
        found.setdefault(sides(name), {}).setdefault(name, call)
    shown: dict[str, list[str]] = {}
    for asking, asked in found:
        for side in (asking, asked):
            if side not in shown:
                shown[side] = _side(run, batch, side, said)
    titles = {
        ("source", "source"): "Attention of the source to itself",
        ("target", "target"): "Attention of the target to itself",
        ("target", "source"): "Attention of the target to the source",
    }
    across = "target", "source"
    if across in found and not hasattr(run.model, "room"):
        vocabulary, row = pair_data(run.data).target_vocabulary, batch["targets"][0]
        shown["said"] = [vocabulary.shown(t).strip() for t in row[row >= 0].tolist()]
    return [
        Seen(
            titles[side],
            of,
            shown.get("said" if side == across else side[0], shown[side[0]]),
            shown[side[1]],
        )
        for side, of in found.items()
    ]


def attention_of(seen: Seen) -> dict[str, np.ndarray]:
    """Weights of the first example by layer, (H, T, S), as far as they are drawn."""
    with torch.no_grad():
        return {
            name: call.weights(1)[0, :, : len(seen.queries), : len(seen.keys)][:, :TOKENS, :TOKENS]
            .float()
            .cpu()
            .numpy()
            for name, call in seen.calls.items()
        }


def attention_pictures(seen: Sequence[Seen]) -> tuple[list[Table], list[Picture]]:
    """Maps of all layers and heads; what each head looks at in numbers, where a sequence looks at itself."""
    tables, pictures = [], []
    for one in seen:
        weights = attention_of(one)
        keys = one.keys[:TOKENS]
        if one.own:
            table = attention_table(weights)
            tables.append(table if len(seen) == 1 else replace(table, title=one.title))
        queries = None if one.own else one.queries[:TOKENS]
        sides = None if one.own else ("what is said", "the source")
        pictures.append(attention_maps(weights, keys, one.title, queries, sides))
    return tables, pictures


def word_walk(
    run: Run, seen: Sequence[Seen], word: str, module: str | None, head: int
) -> tuple[list[str], Table, Picture]:
    """One word of the first example through one head.

    Args:
        run: whose vocabulary knows the tokens of a word that no name shows, as Chinese in bytes.
        seen: what `attended` gave.
        word: as it stands in the text; of several pieces the last one asks.
        module: the layer's name; None takes the first of those in which the word asks.
        head: its number, from 0.

    Raises:
        UserError: no attention, no such word, layer or head.
    """
    if not any(one.calls for one in seen):
        raise UserError(f"--word {word}: this model has no self-attention to walk through")
    modules = {name: one for one in seen for name in one.calls}
    if module is not None and module not in modules:
        raise UserError(f"--module {module}: no attention of that name{nearest(module, modules)}")
    asked = [modules[module]] if module is not None else list(seen)
    spelled = _spellings(run, word)
    one = next((s for s in asked if _find(s.queries, word, spelled) is not None), asked[0])
    name = module or next(iter(one.calls))
    call = one.calls[name]
    heads = call.q.shape[1]
    if head >= heads:
        raise UserError(f"--head {head}: expected 0 to {heads - 1}, the heads of {name}")
    place = _place(one.queries, word, spelled)
    queries = None if one.own else one.queries
    return walked(walk_of(call, head, place), place, one.keys, f"{name}, head {head}", queries)


def walk_of(call: Looked, head: int, place: int) -> Walk:
    """What the query at a place met in a head; keys that it may not see are left out, which are the last ones."""
    batch, heads, time, size = call.q.shape
    count = call.k.shape[2]
    heard, held = (repeated(call.q, x)[0, head] for x in (call.k, call.v))
    added = torch.zeros(count)
    if call.bias is not None:
        added = call.bias.expand(batch, heads, time, count)[0, head, place].float().cpu()
    if call.seen is not None:
        seen = call.seen.expand(batch, heads, time, count)[0, head, place].cpu()
        added = added.masked_fill(~seen, -torch.inf)
    kept = int(added.isfinite().nonzero()[-1]) + 1
    query, keys, values = (
        x.cpu().double().numpy() for x in (call.q[0, head, place], heard[:kept], held[:kept])
    )
    scale = size**-0.5 if call.scale is None else call.scale
    return Walk(query, keys, values, scale, added[:kept].double().numpy())


# --- private ----------------------------------------------------------------------------------------


def _spellings(run: Run, word: str) -> list[list[str]]:
    """Names of a word's tokens, as it begins a text and as it follows a space."""
    vocabulary = getattr(run.data, "vocabulary", None)
    if vocabulary is None or not word:
        return []
    return [[vocabulary.token(int(t)) for t in vocabulary.encode(w)] for w in (word, f" {word}")]


def _find(tokens: Sequence[str], word: str, spelled: Sequence[Sequence[str]] = ()) -> int | None:
    """The position of a word: of the token that is it, or the last of those that spell it; None where it is not there."""
    plain = [token.strip(" Ġ▁") for token in tokens]
    if word in plain:
        return plain.index(word)
    for names in spelled:
        for first in range(len(tokens) - len(names) + 1):
            if names and list(tokens[first : first + len(names)]) == list(names):
                return first + len(names) - 1
    ends = np.cumsum([len(token) for token in tokens])
    at = "".join(tokens).find(word) if word else -1
    return None if at < 0 else int(np.searchsorted(ends, at + len(word)))


def _place(tokens: Sequence[str], word: str, spelled: Sequence[Sequence[str]]) -> int:
    place = _find(tokens, word, spelled)
    if place is None:
        plain = [token.strip(" Ġ▁") for token in tokens]
        raise UserError(
            f"--word {word}: not in the text{nearest(word, plain)}; what is read, all but the last token, is "
            f"{' '.join(visible(token) for token in tokens[:40])}"
        )
    return place


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


def _tokens(run: Run, batch: Batch, count: int) -> list[str]:
    """Names of the first example's positions, without padding."""
    tokens, targets = batch.get("tokens"), batch.get("targets")
    vocabulary = getattr(run.data, "vocabulary", None)
    if vocabulary is None or tokens is None or tokens.shape[-1] != count:
        return [str(i) for i in range(count)]
    used = count
    if targets is not None and targets.shape == tokens.shape:
        counted = (targets[0] >= 0).nonzero()  # negative targets do not count
        used = int(counted[-1]) + 1 if len(counted) else count
    name = getattr(run.data, "token_name", vocabulary.token)  # with tokens beyond the vocabulary
    return [name(int(t)) for t in tokens[0]][:used]


def _side(run: Run, batch: Batch, side: str, said: Sequence[Tensor]) -> list[str]:
    """Names of the first pair's source or target positions, without padding.

    A model that reads no target has slots: they are called by what it says in each, · where that is nothing.
    """
    data = pair_data(run.data)
    if side == "source":
        used = int(batch["source_lengths"][0])
        return [data.source_vocabulary.shown(int(t)).strip() for t in batch["source"][0, :used]]
    vocabulary = data.target_vocabulary
    if not hasattr(run.model, "room"):
        used = int((batch["targets"][0] >= 0).sum())
        read = batch["tokens"][0, 1:used].tolist()
        return ["<begin>", *(vocabulary.shown(t).strip() for t in read)]  # whatever token that is
    head: Any = run.model.head
    best = head(said[-1][0].detach()).argmax(-1).tolist()
    return ["·" if t == data.end else vocabulary.shown(t).strip() for t in best]


def devices(run: Run) -> list[torch.device]:
    """Devices whose noise a look must leave as it is."""
    return [run.device] if run.device.type == "cuda" else []
