"""What a masked language model says of texts: what stands behind [MASK], and vectors of whole texts.

Shapes: N texts, T tokens of the longest in a batch, W width, V tokens, M masks of a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.data.mask_tokens import NAMES
from fourfold.data.masking import MaskedData
from fourfold.data.spaced import Spaced
from fourfold.data.subwords import Subwords
from fourfold.data.whole_words import entry_bytes
from fourfold.data.words import Words
from fourfold.models.bert import Bert

ROWS = 32
"""Texts read at once."""
Pooling = Literal["mean", "cls"]


class Guess(NamedTuple):
    """A token for one of a text's masks."""

    mask: int
    """Which mask, from 1 on."""
    rank: int
    token: int
    piece: str
    """What the token adds to the text, with the space before it where it has one."""
    probability: float


class Blanks(NamedTuple):
    """A text with masks, as the model reads it."""

    texts: list[str]
    """What stands before, between and after the masks, as given."""
    tokens: list[int]
    """With [CLS] and [SEP]."""
    places: list[int]
    """Of the masks in tokens."""

    def filled(self, guesses: Sequence[Guess]) -> str:
        """The text with a guess for each mask, in order."""
        said = self.texts[0]
        for guess, text in zip(guesses, self.texts[1:], strict=True):
            spaced = not said or said[-1].isspace()
            said += (guess.piece.removeprefix(" ") if spaced else guess.piece) + text
        return said


def blanks(data: MaskedData, text: str) -> Blanks:
    """Read a text in which [MASK], or what the tokenizer calls it, stands for what is missing.

    Raises:
        UserError: there is no mask in it, or it is longer than the window.
    """
    mask = data.token_name(data.specials.mask)
    names = dict.fromkeys((mask, *NAMES["mask"]))
    texts = re.split("|".join(re.escape(name) for name in names), text)
    if len(texts) == 1:
        raise UserError(
            f"text: has no {mask}; write it where something is to be filled in: "
            f'"Paris is the {mask} of France."'
        )
    takes_space = isinstance(data.vocabulary, Words | Spaced) or (
        isinstance(data.vocabulary, Subwords) and data.vocabulary.lossless
    )
    tokens, places = [data.specials.cls], []
    for number, stretch in enumerate(texts):
        if number:
            places.append(len(tokens))
            tokens.append(data.specials.mask)
        if takes_space and number < len(texts) - 1:
            stretch = stretch.removesuffix(" ")  # the hidden token brings the space before it
        before = "a" if number else ""  # some letter: what the mask stands for
        tokens += data.vocabulary.encode_many([stretch], [before])[0].tolist()
    tokens.append(data.specials.sep)
    fits(data, len(tokens), data.window)
    return Blanks(texts, tokens, places)


def fits(data: MaskedData, length: int, window: int) -> None:
    """Refuse what is longer than the window.

    Raises:
        UserError: it is.
    """
    if length > window:
        raise UserError(
            f"text: {length} tokens with [CLS] and [SEP], the model sees {window}; shorten it by {length - window}"
        )


@torch.no_grad()
def guesses(data: MaskedData, model: Bert, blank: Blanks, top: int) -> list[list[Guess]]:
    """The likeliest tokens for each mask, given the text and that the other masks are hidden too; no special ones.

    Args:
        data: whose vocabulary it is.
        model: in evaluation mode.
        blank: the text.
        top: how many for each mask.
    """
    device = model.embedding.weight.device
    tokens, places = (torch.tensor([v], device=device) for v in (blank.tokens, blank.places))
    said = model(tokens, places=places)[0].float().softmax(-1).cpu()  # (M, V)
    ordinary = torch.from_numpy(data.ordinary)
    values, order = said[:, ordinary].topk(min(top, len(ordinary)))
    pieces = entry_bytes(data.vocabulary)
    return [
        [
            Guess(mask, rank, token, pieces[token].decode("utf-8", "replace"), probability)
            for rank, (token, probability) in enumerate(
                zip(ordinary[order[mask - 1]].tolist(), values[mask - 1].tolist(), strict=True), 1
            )
        ]
        for mask in range(1, len(blank.places) + 1)
    ]


@torch.no_grad()
def text_vectors(
    model: Bert,
    rows: Sequence[Sequence[int]],
    pad: int,
    *,
    pooling: Pooling,
    normalize: bool,
) -> np.ndarray:
    """A vector for each text, whatever other texts it is read with.

    Args:
        model: in evaluation mode; its body alone is asked.
        rows: each text's tokens, [CLS] and [SEP] included.
        pad: the token that fills rows.
        pooling: the mean of all positions, or the state of [CLS].
        normalize: to length 1.

    Returns:
        (N, W) float32.
    """
    device = model.embedding.weight.device
    found = np.empty((len(rows), model.width), np.float32)
    for some, tokens, keep in _batches(rows, pad):
        states = model.states(tokens.to(device), keep=keep.to(device)).float()
        if pooling == "cls":
            vectors = states[:, 0]
        else:
            counted = keep.to(device).unsqueeze(-1)
            vectors = (states * counted).sum(1) / counted.sum(1)
        if normalize:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        found[some] = vectors.cpu().numpy()
    return found


def _batches(
    rows: Sequence[Sequence[int]], pad: int
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Texts of like length together: which, their tokens (B, T) int64, and (B, T) bool where there is no padding."""
    if not rows:
        return
    order = np.argsort([len(row) for row in rows], kind="stable")
    for some in np.split(order, range(ROWS, len(order), ROWS)):
        lengths = np.array([len(rows[n]) for n in some])
        keep = np.arange(lengths.max()) < lengths[:, None]
        tokens = np.full(keep.shape, pad)
        tokens[keep] = np.concatenate([rows[n] for n in some])
        yield some, torch.from_numpy(tokens), torch.from_numpy(keep)


@torch.no_grad()
def pseudo_surprises(data: MaskedData, model: Bert, row: Sequence[int]) -> np.ndarray:
    """-log p of each ordinary token of a row, hidden alone and given all others (Salazar et al. 2020), in nats.

    Args:
        data: says which tokens are ordinary.
        model: in evaluation mode.
        row: tokens, [CLS] and [SEP] included.

    Returns:
        (N,) float64.
    """
    device = model.embedding.weight.device
    tokens = torch.tensor(row)
    places = torch.isin(tokens, torch.from_numpy(data.ordinary)).nonzero().squeeze(1)
    found: list[Tensor] = []
    for some in places.split(ROWS):
        hidden = tokens.repeat(len(some), 1)
        hidden[torch.arange(len(some)), some] = data.specials.mask
        said = model(hidden.to(device), places=some[:, None].to(device))[:, 0].float()
        found.append(-said.log_softmax(-1).cpu().gather(1, tokens[some][:, None])[:, 0])
    return torch.cat(found).double().numpy() if found else np.empty(0)
