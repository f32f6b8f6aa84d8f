"""Generation from a Transformer: streams of tokens and of text, stop strings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch

from fourfold.models.decoder import Decoder, advance
from fourfold.models.sampling import Guide, Sampler, Sampling, draw
from fourfold.models.torch_decoder import TorchDecoder
from fourfold.models.transformer import Transformer


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    tokens: int,
    sampling: Sampling,
    generators: Sequence[torch.Generator | None] | None = None,
    end: int | None = None,
    never: Sequence[int] = (),
    dtype: torch.dtype | None = None,
    make: Callable[[int, int], Decoder] | None = None,
    guides: Sequence[Guide] | None = None,
) -> Iterator[tuple[int, int]]:
    """Continue prompts, all rows at once, each as if it were alone.

    A row whose window is full goes on by reading the last half of the window anew; of a prompt
    longer than the window only the end is read.

    Args:
        model: in evaluation mode.
        prompts: token numbers, at least one a row.
        tokens: most tokens to add to each.
        sampling: how each is drawn.
        generators: of each row, on the model's device.
        end: token that ends a row; it is not handed out.
        never: tokens that are not drawn.
        dtype: see `TorchDecoder`.
        make: another decoder of the model, from slots and window.
        guides: of each row, what says which tokens may come; a row ends where its guide does.

    Yields:
        (row, token). Sending True back ends that row.
    """
    window = model.window
    samplers = samplers_of(prompts, sampling, generators, never, guides)
    past = [list(prompt[-window:]) for prompt in prompts]
    going = list(range(len(prompts)))
    needed = max(map(len, past)) + tokens  # a model for long contexts has few of its places used
    room = min(window, needed)
    decoder = make(len(prompts), room) if make else TorchDecoder(model, len(prompts), dtype, room)
    logits = decoder.read(going, past)
    for number in range(tokens):
        alive = []
        drawn = draw([samplers[row] for row in going], logits)
        for row, token in zip(going, drawn, strict=True):
            if token != end and not (yield row, token) and not samplers[row].ended:
                alive.append(row)
            past[row].append(token)
            del past[row][:-window]
        going = alive
        if not going or number == tokens - 1:
            return
        logits = advance(decoder, going, past)


def samplers_of(
    starts: Sequence[Sequence[int]],
    sampling: Sampling,
    generators: Sequence[torch.Generator | None] | None = None,
    never: Sequence[int] = (),
    guides: Sequence[Guide] | None = None,
) -> list[Sampler]:
    """One for each text; see `generate`."""
    return [
        Sampler(
            sampling,
            generators[row] if generators else None,
            start,
            never,
            guides[row] if guides else None,
        )
        for row, start in enumerate(starts)
    ]


class Speller(Protocol):
    """Turns tokens into text one by one."""

    def push(self, token: int) -> str:
        """The text that is certain now."""

    def finish(self) -> str:
        """What was held back."""


class Voice:
    """The text of one row as far as it is certain: no half characters, nothing of a stop string."""

    def __init__(self, speller: Speller, stop: Sequence[str] = ()) -> None:
        self.speller, self.stop = speller, [s for s in stop if s]
        self.held, self.ended = "", False

    def push(self, token: int) -> str:
        """Text to say now; `ended` tells whether a stop string came."""
        return self._say(self.speller.push(token))

    def finish(self) -> str:
        """What is left when no token follows."""
        if self.ended:
            return ""
        said = self._say(self.speller.finish())
        rest, self.held = self.held, ""
        return said if self.ended else said + rest

    def _say(self, text: str) -> str:
        text = self.held + text
        ends = [place + len(s) for s in self.stop if (place := text.find(s)) >= 0]
        if ends:  # the one that is whole first decides, also where several came in one piece
            self.ended, self.held = True, ""
            text = text[: min(ends)]
            return text[: min(place for s in self.stop if (place := text.find(s)) >= 0)]
        longest = max((len(s) for s in self.stop), default=1) - 1
        beginnings = (text[-n:] for n in range(min(longest, len(text)), 0, -1))
        self.held = next((b for b in beginnings if any(s.startswith(b) for s in self.stop)), "")
        return text[: len(text) - len(self.held)]


def generate_text(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    voices: Sequence[Voice],
    *,
    tokens: int,
    sampling: Sampling,
    generators: Sequence[torch.Generator | None] | None = None,
    end: int | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[tuple[int, str]]:
    """As `generate`, in text: yields (row, piece) as soon as a piece is certain."""
    stream = generate(
        model,
        prompts,
        tokens=tokens,
        sampling=sampling,
        generators=generators,
        end=end,
        dtype=dtype,
    )
    yield from spoken(stream, voices)


def spoken(stream: Iterator[tuple[int, int]], voices: Sequence[Voice]) -> Iterator[tuple[int, str]]:
    """A stream of tokens in text: yields (row, piece) as soon as a piece is certain.

    Args:
        stream: a generator of (row, token); True is sent back to it when a stop string came.
        voices: of each row.
    """
    answer: bool | None = None
    while True:
        try:
            row, token = stream.send(answer)  # type: ignore[attr-defined]
        except StopIteration:
            break
        if piece := voices[row].push(token):
            yield row, piece
        answer = voices[row].ended
    for row, voice in enumerate(voices):
        if piece := voice.finish():
            yield row, piece
