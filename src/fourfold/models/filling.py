"""Translations by a non-autoregressive model: slots filled at once, and filled again.

One pass: Gu et al. 2018. Further passes: the tokens that were least sure are asked anew, given the others (mask-predict:
Ghazvininejad et al. 2019, https://arxiv.org/abs/1904.09324). Several lengths at once, of which the surest translation is
kept: noisy parallel decoding without noise, Gu et al. 2018. Shapes: B sources, N slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fourfold.models.non_autoregressive import UNKNOWN, NonAutoregressive

ROWS = 1 << 22
"""Logits that are held at a time."""


@dataclass(frozen=True)
class Wanted:
    """How slots are filled."""

    passes: int = 1
    """Times that the decoder runs; more than one not with CTC."""
    sizes: Tensor | None = None
    """(B,) int64, tokens of each output; None: as the model says."""
    scale: float = 1.0
    """By which what the model says is multiplied."""
    candidates: int = 1
    """Predicted lengths that are tried, of which the surest output is kept."""
    never: tuple[int, ...] = ()
    """Tokens that are not said, as the unknown one."""


@torch.inference_mode()
def fill(
    model: NonAutoregressive, source: Tensor, lengths: Tensor, how: Wanted = Wanted()
) -> list[tuple[list[int], float]]:
    """Translate.

    Args:
        model: in evaluation mode, as `with_products` makes it.
        source: (B, S) int64.
        lengths: (B,) int64.
        how: options.

    Returns:
        For each source the tokens, without the end token, and the mean log-probability of what fills its slots.

    Raises:
        ValueError: several passes with CTC.
    """
    if model.length == "ctc" and how.passes > 1:
        raise ValueError("fill expects one pass with CTC, whose slots are no tokens")
    memory, keep = model.encode(source, lengths)
    if model.length == "ctc":
        return _merged(model, source, lengths, memory, keep, how)
    if model.length == "overlong":
        return _cut(model, source, lengths, memory, keep, how)
    return _predicted(model, source, lengths, memory, keep, how)


def _sizes(lengths: Tensor, how: Wanted, limit: int) -> Tensor:
    """Tokens wanted of each output where the model would say so many."""
    found = lengths if how.sizes is None else how.sizes
    if how.scale != 1.0:
        found = (found * how.scale).round().to(torch.int64)
    return found.clamp(1, limit)


def _predicted(
    model: NonAutoregressive,
    source: Tensor,
    lengths: Tensor,
    memory: Tensor,
    keep: Tensor | None,
    how: Wanted,
) -> list[tuple[list[int], float]]:
    if how.sizes is not None or how.candidates == 1:
        slots = _sizes(model.predicted(memory, lengths), how, model.window)
        slots = slots[:, None]
    else:
        logits = model.differences(memory, lengths)
        most = logits.topk(how.candidates).indices - logits.shape[1] // 2
        slots = _sizes(lengths[:, None] + most, how, model.window)  # (B, candidates)
    many = slots.shape[1]
    again = torch.arange(len(source), device=source.device).repeat_interleave(many)
    read = (source, lengths, memory, keep)
    if many > 1:
        read = (source[again], lengths[again], memory[again], None if keep is None else keep[again])
    never = (model.end, model.begin, *how.never)
    scored = how.passes > 1 or many > 1
    tokens, logs = _passes(model, read, slots.flatten(), how.passes, never, scored)
    found: list[tuple[list[int], float]] = []
    sizes = slots.flatten().tolist()
    for begin in range(0, len(sizes), many):
        best = max(
            range(begin, begin + many), key=lambda row: logs[row, : sizes[row]].mean().item()
        )
        found.append(
            (tokens[best, : sizes[best]].tolist(), logs[best, : sizes[best]].mean().item())
        )
    return found


def _cut(
    model: NonAutoregressive,
    source: Tensor,
    lengths: Tensor,
    memory: Tensor,
    keep: Tensor | None,
    how: Wanted,
) -> list[tuple[list[int], float]]:
    """More slots than enough, of which those before the first end token count."""
    slots = model.room(lengths)
    never = (model.begin, *how.never) if model.begin != model.end else how.never
    fixed = how.sizes is not None or how.scale != 1.0
    if how.sizes is not None:
        slots = torch.maximum(slots, how.sizes).clamp(max=model.window)
    read = (source, lengths, memory, keep)
    said, logs = _said(model, model(*read, slots), slots, never, True)
    count = said.shape[1]
    ended = (said == model.end) | (torch.arange(count, device=said.device) >= slots[:, None])
    ends = torch.where(ended.any(1), ended.int().argmax(1), slots)
    if fixed:
        ends = _sizes(ends, how, model.window)
        ends = torch.minimum(ends, slots)
        said, logs = _said(model, model(*read, slots), slots, (model.end, *never), True)
    if how.passes > 1:
        said, logs = _again(
            model, (*read, slots), ends, said, logs, how.passes, (model.end, *never)
        )
    return [
        (row[:end].tolist(), log[: max(1, end)].mean().item())
        for row, log, end in zip(said, logs, ends.tolist(), strict=True)
    ]


def _merged(
    model: NonAutoregressive,
    source: Tensor,
    lengths: Tensor,
    memory: Tensor,
    keep: Tensor | None,
    how: Wanted,
) -> list[tuple[list[int], float]]:
    """A label or a blank (the end token) for each slot; equal neighbours merged, blanks left out."""
    slots = model.room(lengths)
    fixed = how.sizes is not None or how.scale != 1.0
    if how.sizes is not None:
        slots = torch.maximum(slots, 2 * how.sizes).clamp(max=model.window)
    hidden = model(source, lengths, memory, keep, slots)
    never = (model.begin, *how.never) if model.begin != model.end else how.never
    said, logs = _said(model, hidden, slots, never, fixed)
    paths, counts = said.tolist(), slots.tolist()
    found = [merged(path[:n], model.end) for path, n in zip(paths, counts, strict=True)]
    if not fixed:
        return [(row, float("nan")) for row in found]
    sizes = _sizes(
        torch.tensor([len(row) for row in found], device=slots.device), how, model.window
    )
    labels, scores, blanks = _labels_and_blanks(model, hidden, (model.end, *never))
    return [
        (of_length(blanks[i, :n], scores[i, :n], labels[i, :n], size), logs[i, :n].mean().item())
        for i, (n, size) in enumerate(zip(counts, sizes.tolist(), strict=True))
    ]


# --- passes -----------------------------------------------------------------------------------------------


def _passes(
    model: NonAutoregressive,
    read: tuple[Tensor, Tensor, Tensor, Tensor | None],
    slots: Tensor,
    passes: int,
    never: tuple[int, ...],
    scored: bool,
) -> tuple[Tensor, Tensor]:
    """Tokens of all slots after so many passes, (B, N), and their log-probabilities."""
    said, logs = _said(model, model(*read, slots), slots, never, scored)
    if passes == 1:
        return said, logs
    return _again(model, (*read, slots), slots, said, logs, passes, never)


def _again(
    model: NonAutoregressive,
    read: tuple[Tensor | None, ...],
    sizes: Tensor,
    said: Tensor,
    logs: Tensor,
    passes: int,
    never: tuple[int, ...],
) -> tuple[Tensor, Tensor]:
    """Further passes: of `sizes`, (B,), tokens a falling share, the least sure, is asked anew."""
    within = torch.arange(said.shape[1], device=said.device) < sizes[:, None]
    for number in range(1, passes):
        many = sizes * (passes - number) // passes
        rank = logs.masked_fill(~within, torch.inf).argsort(1).argsort(1)
        asked = within & (rank < many[:, None])
        if not bool(asked.any()):
            break
        known = said.masked_fill(asked | ~within, UNKNOWN)
        if model.length == "overlong":  # the end that the output has is told
            places = sizes.clamp(max=said.shape[1] - 1)[:, None]
            known.scatter_(
                1,
                places,
                torch.where(sizes[:, None] < said.shape[1], model.end, known.gather(1, places)),
            )
        hidden = model(*read, known)  # type: ignore[arg-type]
        again, sure = _said(model, hidden, sizes, never, True)
        said, logs = torch.where(asked, again, said), torch.where(asked, sure, logs)
    return said, logs


def _said(
    model: NonAutoregressive, hidden: Tensor, sizes: Tensor, never: Sequence[int], scored: bool
) -> tuple[Tensor, Tensor]:
    """The most likely token of every slot, (B, N), and its log-probability (no number where not asked for).

    Of `sizes`, (B,), slots of each row, as the output weights are most of a small model's work; beyond them the end token.
    """
    batch, count = hidden.shape[:2]
    within = (torch.arange(count, device=hidden.device) < sizes[:, None]).flatten().nonzero()[:, 0]
    flat = hidden.flatten(0, 1)
    if len(within) < len(flat):
        flat = flat.index_select(0, within)
    rows = max(1, ROWS // model.target_embedding.num_embeddings)
    tokens, logs = [], []
    forbidden = sorted(set(never))
    for some in flat.split(rows):
        logits = model.head(some)
        if forbidden:
            logits[:, forbidden] = -torch.inf
        if scored:
            logits = logits.to(hidden.dtype)
            best, token = logits.max(-1)
            logs.append(best - logits.logsumexp(-1))
        else:
            # on a CPU in bfloat16 torch's argmax takes eight times as long
            token = logits.max(-1).indices
        tokens.append(token)
    said = within.new_full((batch * count,), model.end)
    sure = hidden.new_full((batch * count,), torch.nan)
    said[within] = torch.cat(tokens)
    if scored:
        sure[within] = torch.cat(logs)
    return said.view(batch, count), sure.view(batch, count)


def _labels_and_blanks(
    model: NonAutoregressive, hidden: Tensor, never: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The most likely label of every slot, its log-probability and that of a blank, each (B, N)."""
    logits = model.head(hidden.flatten(0, 1)).to(hidden.dtype)
    total, blank = logits.logsumexp(-1), logits[:, model.end].clone()
    logits[:, sorted(set(never))] = -torch.inf
    best, label = logits.max(-1)
    shape = hidden.shape[:2]
    return label.view(shape), (best - total).view(shape), (blank - total).view(shape)


# --- paths of CTC -------------------------------------------------------------------------------------------


def merged(path: list[int], blank: int) -> list[int]:
    """The target that a path makes: equal neighbours merged, blanks left out."""
    return [
        token
        for token, before in zip(path, [blank, *path[:-1]], strict=False)
        if token != blank and token != before
    ]


def of_length(blanks: Tensor, labels: Tensor, tokens: Tensor, count: int) -> list[int]:
    """The most probable target of exactly so many labels, among paths of blanks and each slot's best label.

    Args:
        blanks: (N,) log-probability of a blank in each slot.
        labels: (N,) of the slot's best label.
        tokens: (N,) int64, which label that is.
        count: labels wanted.

    Returns:
        The labels; fewer where so many slots cannot hold more.
    """
    blank, label, token = blanks.tolist(), labels.tolist(), tokens.tolist()
    # by number of labels so far: the best (score, labels) of paths that end in a blank, and in the slot's label
    after_blank: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    after_label: dict[int, tuple[float, tuple[int, ...]]] = {}
    for slot in range(len(token)):
        same = slot > 0 and token[slot] == token[slot - 1]
        blank_next: dict[int, tuple[float, tuple[int, ...]]] = {}
        label_next: dict[int, tuple[float, tuple[int, ...]]] = {}
        for ended, paths in ((False, after_blank), (True, after_label)):
            for number, (score, said) in paths.items():
                _better(blank_next, number, score + blank[slot], said)
                if ended and same:
                    _better(label_next, number, score + label[slot], said)
                elif number < count:
                    _better(label_next, number + 1, score + label[slot], (*said, token[slot]))
        after_blank, after_label = blank_next, label_next
    both: dict[int, tuple[float, tuple[int, ...]]] = {}
    for paths in (after_blank, after_label):
        for number, (score, said) in paths.items():
            _better(both, number, score, said)
    return list(both[max(both)][1])


def _better(
    paths: dict[int, tuple[float, tuple[int, ...]]],
    number: int,
    score: float,
    said: tuple[int, ...],
) -> None:
    if number not in paths or score > paths[number][0]:
        paths[number] = score, said
