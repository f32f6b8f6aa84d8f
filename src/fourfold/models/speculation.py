"""Speculative decoding: a guesser proposes a few tokens, the model reads them at once and keeps what it would have drawn.

Leviathan et al. 2023, https://arxiv.org/abs/2211.17192; Chen et al. 2023. A guess x, drawn from q, is kept with probability
min(1, p(x) / q(x)), otherwise the token is drawn from what p has above q: the text has the distribution of the model
alone, and at temperature 0 it is the same, token for token. Guesses come from a smaller model, or from the prompt
itself (Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding). Shapes: V vocabulary, T guesses.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fourfold.models.decoder import Decoder, advance
from fourfold.models.sampling import Sampler, Sampling, draw, uniform

GUESSES = 4
"""Tokens that are guessed at once."""
LONGEST, SHORTEST = 4, 2
"""Tokens at the end of a text that are looked up in it."""


class Guess(NamedTuple):
    """Tokens that may come next.

    Attributes:
        tokens: T numbers, fewer than asked for or none.
        shares: (T, V) probabilities that each was drawn by; None where they were not drawn but taken.
    """

    tokens: list[int]
    shares: Tensor | None = None


class Guesser(Protocol):
    """What proposes tokens for texts."""

    def guess(
        self, rows: Sequence[int], texts: Sequence[Sequence[int]], counts: Sequence[int]
    ) -> list[Guess]:
        """Tokens after texts.

        Args:
            rows: numbers of N texts.
            texts: by number, all tokens of each.
            counts: most tokens wanted, by number, 0 or more.

        Returns:
            N guesses.
        """


class LookUp:
    """Guesses what came after the same few tokens before: in a summary, an answer from a text, code that is edited."""

    def guess(
        self, rows: Sequence[int], texts: Sequence[Sequence[int]], counts: Sequence[int]
    ) -> list[Guess]:
        """See `Guesser.guess`."""
        return [Guess(_looked_up(texts[row], counts[row])) for row in rows]


class Draft:
    """Guesses by a smaller model of the same vocabulary, drawn as the texts are.

    Args:
        decoder: of the smaller model, with a slot for each text.
        sampling: as of the texts; bias, penalty and guide are left to the model.
        generators: of each text.
    """

    def __init__(
        self,
        decoder: Decoder,
        sampling: Sampling,
        generators: Sequence[torch.Generator | None] | None = None,
    ) -> None:
        # what is told as q must be what guesses are drawn from: neither has the bias, which the model's p has
        self.sampling = replace(sampling, logit_bias=None, repetition_penalty=1.0)
        self.decoder = decoder
        self.generators = generators or [None] * decoder.slots
        # what each slot holds: where in its text that begins, its tokens, and how many of them are no guesses
        self._begin, self._sure = [0] * decoder.slots, [0] * decoder.slots
        self._held: list[list[int]] = [[] for _ in range(decoder.slots)]

    def guess(
        self, rows: Sequence[int], texts: Sequence[Sequence[int]], counts: Sequence[int]
    ) -> list[Guess]:
        """See `Guesser.guess`."""
        tokens: dict[int, list[int]] = {row: [] for row in rows}
        shares: dict[int, list[Tensor]] = {row: [] for row in rows}
        alive = [row for row in rows if 0 < counts[row] < self.decoder.window]
        if not alive:
            return [Guess([]) for _ in rows]
        unread = [self._unread(row, texts[row], counts[row]) for row in alive]
        while alive:
            logits = self.decoder.read(alive, unread)
            for row, found in zip(alive, logits, strict=True):
                if self.sampling.temperature > 0:
                    shares[row].append(Sampler(self.sampling).shares(found))
                (token,) = self.sampling.draw(found[None], [self.generators[row]])
                tokens[row].append(token)
            alive = [row for row in alive if len(tokens[row]) < counts[row]]
            unread = [[tokens[row][-1]] for row in alive]
            for row in alive:
                self._held[row].append(tokens[row][-1])
        drawn = [torch.stack(shares[row]) if shares[row] else None for row in rows]
        return [Guess(tokens[row], s) for row, s in zip(rows, drawn, strict=True)]

    def _unread(self, row: int, text: Sequence[int], count: int) -> list[int]:
        """What the slot has yet to read of its text; guesses that were not kept are taken back."""
        begin, held, same = self._begin[row], self._held[row], self._sure[row]
        if len(text) - begin + count - 1 > self.decoder.window:  # half of it, read anew
            begin, same = len(text) - max(1, (self.decoder.window - count + 1) // 2), 0
        most = min(len(held), len(text) - begin - 1)
        while same < most and held[same] == text[begin + same]:
            same += 1
        same = min(same, len(text) - begin - 1)
        if begin != self._begin[row]:
            same = 0
        self.decoder.cut(row, same)
        self._begin[row], self._held[row] = begin, list(text[begin:])
        self._sure[row] = len(text) - begin
        return list(text[begin + same :])


def speculate(
    decoder: Decoder,
    guesser: Guesser,
    samplers: Sequence[Sampler],
    prompts: Sequence[Sequence[int]],
    *,
    tokens: int,
    end: int | None = None,
    guesses: int = GUESSES,
) -> Iterator[tuple[int, int]]:
    """As `models.generation.generate`, with fewer readings: the same texts in distribution, greedy ones token for token.

    Texts are drawn the same, number by number, where guesses are looked up.

    Args:
        decoder: of the model, with an empty slot for each prompt.
        guesser: proposes.
        samplers: of each text.
        prompts: token numbers, from one to the decoder's window each.
        tokens: most tokens to add to each.
        end: token that ends a row; it is not handed out.
        guesses: most tokens guessed at once.

    Yields:
        (row, token), up to guesses + 1 of a row in a row. Sending True back ends that row.
    """
    texts, left = [list(prompt) for prompt in prompts], [tokens] * len(prompts)
    going, window = list(range(len(prompts))), decoder.window
    logits = list(decoder.read(going, texts).split(1))
    guessed = [Guess([]) for _ in going]
    while going:
        alive = []
        for row, found, guess in zip(going, logits, guessed, strict=True):
            before, ended = len(texts[row]), False
            for token in _settled(samplers[row], found, guess):
                texts[row].append(token)
                left[row] -= 1
                ended = token == end or bool((yield row, token))
                ended = ended or samplers[row].ended or not left[row]
                if ended:
                    break
            if not ended:
                alive.append(row)
                # all but the last token, which nothing has read yet
                unkept = len(guess.tokens) + 1 - (len(texts[row]) - before)
                decoder.cut(row, decoder.lengths[row] - unkept)
        going = alive
        counts = [min(guesses, n - 1) for n in left]
        for row in going:
            counts[row] = min(counts[row], window - decoder.lengths[row] - 1)
        full = [row for row in going if counts[row] < 0]
        rest = [row for row in going if counts[row] >= 0]
        logits, guessed, going = [], [Guess([]) for _ in full], [*full, *rest]
        if full:
            logits += advance(decoder, full, texts).split(1)
        if rest:
            new = guesser.guess(rest, texts, counts)
            reads = [[texts[r][-1], *g.tokens] for r, g in zip(rest, new, strict=True)]
            logits += decoder.read(rest, reads, every=True).split([len(some) for some in reads])
            guessed += new


# --- private ----------------------------------------------------------------------------------------


def _looked_up(text: Sequence[int], count: int) -> list[int]:
    """What followed the last place that ends as the text does."""
    whole = array("i", text)
    held, width = whole.tobytes(), whole.itemsize
    for size in range(min(LONGEST, len(text) - 1), SHORTEST - 1, -1):
        end, limit = held[-size * width :], (len(text) - 1) * width
        place = held.rfind(end, 0, limit)
        while place >= 0 and place % width:  # it begins inside a number
            place = held.rfind(end, 0, place + len(end) - 1)
        if place >= 0:
            begin = place // width + size
            return list(text[begin : begin + count])
    return []


def _settled(sampler: Sampler, logits: Tensor, guess: Guess) -> Iterator[int]:
    """The tokens that the model draws, from logits (T + 1, V): guesses as long as they are kept, then one more."""
    for number, token in enumerate(guess.tokens):
        if guess.shares is None or sampler.sampling.temperature == 0:
            (found,) = draw([sampler], logits[number : number + 1])
        else:
            found = _kept(sampler, logits[number], token, guess.shares[number])
            sampler.push(found)
        yield found
        if found != token:
            return
    yield from draw([sampler], logits[-1:])


def _kept(sampler: Sampler, logits: Tensor, token: int, guessed: Tensor) -> int:
    """A token drawn by the model's shares, which is the guess as often as it can be."""
    wanted = sampler.shares(logits)
    if uniform(sampler.generator) * float(guessed[token]) < float(wanted[token]):
        return token
    rest = (wanted - guessed).clamp_min(0).double().cumsum(0)
    found = int(torch.searchsorted(rest, uniform(sampler.generator) * float(rest[-1]), right=True))
    return min(found, len(rest) - 1)
