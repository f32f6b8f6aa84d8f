"""Generation from a Transformer: sampling, stop strings, streams of text.

top-k: Fan et al. 2018; top-p: Holtzman et al. 2020; min-p: Nguyen et al. 2024. Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fourfold.models.decoder import Decoder, advance
from fourfold.models.torch_decoder import TorchDecoder
from fourfold.models.transformer import Transformer


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from logits. Filters apply in the order of the fields."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token."""
    top_k: int | None = None
    """Only the k most likely tokens."""
    top_p: float | None = None
    """Only the most likely tokens that together have this probability."""
    min_p: float | None = None
    """Only tokens at least this share as likely as the most likely one."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or (self.top_k is not None and self.top_k < 1):
            raise ValueError(
                f"Sampling expects temperature >= 0 and top_k >= 1, got {self.temperature}, {self.top_k}"
            )
        for name in ("top_p", "min_p"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"Sampling expects {name} between 0 and 1, got {share}")

    def probabilities(self, logits: Tensor) -> Tensor:
        """What the filters leave, unnormalized: (B, V) float from logits (B, V), temperature above 0."""
        logits = logits.float()
        # from the largest, so that a tiny temperature does not overflow: it leaves the largest alone; a
        # huge one is no infinity, by which what must never come (-inf) would be no number
        temperature = min(max(self.temperature, 1e-30), 1e30)
        logits = (logits - logits.amax(-1, keepdim=True)) / temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < least, float("-inf"))
        shares = logits.softmax(-1)
        if self.top_p is not None and self.top_p < 1:
            ordered, places = shares.sort(dim=-1, descending=True)
            before = ordered.cumsum(-1) - ordered
            out = (before >= self.top_p) & (before > 0)  # the first token always stays
            shares = shares.scatter(-1, places, ordered.masked_fill(out, 0.0))
        if self.min_p is not None:
            shares = shares.masked_fill(shares < self.min_p * shares.amax(-1, keepdim=True), 0.0)
        return shares

    def draw(self, logits: Tensor, generators: Sequence[torch.Generator | None]) -> list[int]:
        """One token of each row of logits (B, V), each row from its own generator (None: torch's own)."""
        if self.temperature == 0:
            return logits.argmax(-1).tolist()
        rows = zip(self.probabilities(logits), generators, strict=True)
        return [int(torch.multinomial(row, 1, generator=g)) for row, g in rows]


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

    Yields:
        (row, token). Sending True back ends that row.
    """
    window = model.window
    generators = generators or [None] * len(prompts)
    past = [list(prompt[-window:]) for prompt in prompts]
    going = list(range(len(prompts)))
    needed = max(map(len, past)) + tokens  # a model for long contexts has few of its places used
    room = min(window, needed)
    decoder = make(len(prompts), room) if make else TorchDecoder(model, len(prompts), dtype, room)
    logits = decoder.read(going, past)
    for number in range(tokens):
        if never:
            logits = logits.index_fill(1, torch.tensor(never, device=logits.device), float("-inf"))
        drawn = sampling.draw(logits, [generators[row] for row in going])
        alive = []
        for row, token in zip(going, drawn, strict=True):
            if token != end and not (yield row, token):
                alive.append(row)
            past[row].append(token)
            del past[row][:-window]
        going = alive
        if not going or number == tokens - 1:
            return
        logits = advance(decoder, going, past)


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
