"""How a Transformer reads a text for the verbs of language models: token after token with a cache, or windows at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fourfold.core.types import Picture
from fourfold.data.text import segments_of
from fourfold.data.vocabulary import Vocabulary
from fourfold.look.figures import picture, subplots
from fourfold.models.decoder import Decoder, advance
from fourfold.models.generation import generate, samplers_of
from fourfold.models.sampling import Guide, Sampling
from fourfold.models.speculation import Guesser, speculate
from fourfold.models.torch_decoder import TorchDecoder
from fourfold.models.transformer import Transformer
from fourfold.tasks.reader import Reader

ROWS = 32
"""Windows scored at once, at most."""
READ = 1 << 14
"""Tokens read at once, at most, where they are more than one window."""
GuesserMaker = Callable[[int, int, Sampling, Sequence[torch.Generator]], Guesser]
LOGITS = 1 << 25
"""Logits that scoring a text holds at a time."""


class TransformerReader(Reader):
    """Reads with a cache; a full window goes on from its last half. Everything in float32, but what `make` says.

    A state is the decoder, the logits of what comes next, and the tokens of each row's window.

    Args:
        model: not changed.
        vocabulary: of its tokens.
        window: most tokens looked back at; None takes the model's window.
        apart: whether a document sees nothing before its own end token, as it was trained (`Text.document_mask`).
        say: what becomes of sentences for the user.
        make: the decoder of `read_on` where it is another one, from slots and window.
        guesser: what `read_on` speculates with, from slots, window, sampling and generators.
    """

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        window: int | None = None,
        *,
        apart: bool = False,
        say: Callable[[str], None] = lambda sentence: None,
        make: Callable[[int, int], Decoder] | None = None,
        guesser: GuesserMaker | None = None,
    ) -> None:
        self.model, self.vocabulary, self.apart = model, vocabulary, apart
        self.window, self.say, self.make = window or model.window, say, make
        self.guesser = guesser

    def start(self, rows: int = 1) -> Any:
        """See `Reader.start`."""
        decoder = TorchDecoder(self.model, rows, torch.float32, self.window)
        past = [[self.vocabulary.opening] for _ in range(rows)]
        return decoder, decoder.read(range(rows), past), past

    def next(self, state: Any) -> Tensor:
        """See `Reader.next`."""
        return state[1].float().log_softmax(-1)

    def push(self, state: Any, tokens: Tensor) -> Any:
        """See `Reader.push`."""
        decoder, _, past = state
        read = tokens.tolist()
        for row, token in enumerate(read):
            if self.apart and token == self.vocabulary.end:
                past[row].clear()
                decoder.cut(row)
            past[row].append(token)
            del past[row][: -self.window]
        return decoder, advance(decoder, range(len(past)), past), past

    def surprises(self, tokens: np.ndarray) -> np.ndarray:
        """See `Reader.surprises`: at least half a window precedes each token where there is as much."""
        end = self.vocabulary.end if self.apart else None
        return surprises(self.model, tokens.tolist(), self.window, end).numpy()

    def distributions(self, tokens: np.ndarray) -> Tensor:
        """See `Reader.distributions`."""
        if len(tokens) - 1 > self.window:
            return super().distributions(tokens)
        read = torch.from_numpy(np.asarray(tokens[:-1], np.int64))[None]
        read = read.to(self.model.embedding.weight.device)
        segments = segments_of(read, self.vocabulary.end) if self.apart else None
        with torch.no_grad():
            logits = self.model(read, segments)
        return logits[0].float().log_softmax(-1)

    def read_on(
        self,
        starts: Sequence[Sequence[int]],
        *,
        tokens: int,
        sampling: Sampling,
        generators: Sequence[torch.Generator],
        never: Sequence[int] = (),
        guides: Sequence[Guide] | None = None,
    ) -> Iterator[tuple[int, int]]:
        """See `Reader.read_on`: prompts are read at once, and a text ends before an end token."""
        prompts = [self.opened(start) for start in starts]
        if self.guesser is not None and self.make is not None:
            window = min(self.model.window, max(map(len, prompts)) + tokens)
            stream = speculate(
                self.make(len(prompts), window),
                self.guesser(len(prompts), window, sampling, generators),
                samplers_of(prompts, sampling, generators, never, guides),
                prompts,
                tokens=tokens,
            )
            return _until(stream, self.vocabulary.ends)
        stream = generate(
            self.model,
            prompts,
            tokens=tokens,
            sampling=sampling,
            generators=generators,
            never=never,
            dtype=torch.float32,
            make=self.make,
            guides=guides,
        )
        return _until(stream, self.vocabulary.ends)

    def opened(self, start: Sequence[int]) -> list[int]:
        """A text's first tokens as the model expects them, as many as the window holds.

        They come after the begin token where the vocabulary has one; an empty text after the end token.
        """
        begin = [] if self.vocabulary.begin is None else [self.vocabulary.begin]
        room = self.window - len(begin)
        if len(start) > room:
            self.say(
                f"A prompt of {len(start):,} tokens is longer than the window: the last {room:,} of them are read."
            )
        return [*begin, *start[-room:]] or [self.vocabulary.end]


def surprises(
    model: Transformer,
    tokens: Sequence[int],
    window: int | None = None,
    end: int | None = None,
) -> Tensor:
    """-log p of each token but the first, (N - 1,) in nats, each counted once.

    The windows overlap by half, and only what a window adds counts in it.

    Args:
        model: in evaluation mode.
        tokens: N numbers.
        window: tokens read at once; None takes the model's.
        end: token before the last of which nothing is seen; None where all of the window is.
    """
    place, window = model.embedding.weight.device, window or model.window
    whole = torch.tensor(tokens, device=place)
    count = len(tokens) - 1
    step = max(1, window // 2)
    starts = [0, *range(step, count - window + step, step)]
    found: list[Tensor] = []
    done, many = 0, max(1, min(ROWS, READ // window))
    for i in range(0, len(starts), many):
        rows = starts[i : i + many]
        length = min(window, count)
        at = torch.tensor([min(s, count - length) for s in rows], device=place)
        windows = whole[at[:, None] + torch.arange(length + 1, device=place)]  # (B, T + 1)
        nats = _nats(model, windows[:, :-1], windows[:, 1:], end)
        for start, row in zip(at.tolist(), nats, strict=True):
            found.append(row[done - start :])
            done = start + len(row)
    return torch.cat(found).cpu().double()


@torch.no_grad()
def mean_states(model: Transformer, vocabulary: Vocabulary, texts: Sequence[str]) -> tuple[np.ndarray, int]:  # fmt: skip
    """A vector for each text, (N, W) float32 of length 1: the mean over its tokens of the states before the output.

    Each text by itself, so that none depends on the others.

    Returns:
        The vectors, and how many texts were longer than the window: their beginning is read.
    """
    place, room = model.embedding.weight.device, model.window - 1
    found, cut = np.empty((len(texts), model.width), np.float32), 0
    for number, text in enumerate(texts):
        tokens = vocabulary.encode(text).tolist()
        cut += len(tokens) > room
        read = torch.tensor([[vocabulary.opening, *tokens[:room]]], device=place)
        states = model.states(read)[
            0, 1:
        ].float()  # without that of the token which opens every text
        found[number] = F.normalize(states.mean(0), dim=0).cpu().numpy()
    return found, cut


def loss_by_position(
    model: Transformer, tokens: Tensor, window: int, end: int | None = None
) -> Picture:
    """Mean loss at each place of the window: how much the model gains from what precedes.

    Args:
        model: in evaluation mode.
        tokens: (N,) int64, more than a window.
        window: tokens read at once.
        end: see `surprises`.
    """
    place = model.embedding.weight.device
    rows = (len(tokens) - 1) // window
    inputs = tokens[: rows * window].view(rows, window).to(place)
    targets = tokens[1 : rows * window + 1].view(rows, window).to(place)
    nats = torch.zeros(window, dtype=torch.float64)
    many = max(1, min(ROWS, READ // window))
    for some, wanted in zip(inputs.split(many), targets.split(many), strict=True):
        nats += _nats(model, some, wanted, end).double().sum(0).cpu()
    edges = [0, *(2**i for i in range(window.bit_length()) if 2**i < window), window]
    means = [float(nats[a:b].mean()) / rows for a, b in zip(edges, edges[1:], strict=False)]
    fig, axes = subplots()
    axes.bar(range(len(means)), means, width=0.9)
    spans = [
        f"{a + 1}-{b}" if b > a + 1 else f"{b}" for a, b in zip(edges, edges[1:], strict=False)
    ]
    axes.set_xticks(range(len(means)), spans, rotation=30 if len(means) > 8 else 0)
    axes.set(xlabel="tokens that precede, in the window", ylabel="nats per token")
    caption = (
        f"Mean over {rows} held-out windows: what falls is what the model draws from its context."
    )
    return picture(fig, "Loss by position", caption)


# --- private ----------------------------------------------------------------------------------------


def _until(stream: Any, ends: Sequence[int]) -> Iterator[tuple[int, int]]:
    """A stream whose rows end before any of these tokens; see `generate`."""
    answer: bool | None = None
    while True:
        try:
            row, token = stream.send(answer)
        except StopIteration:
            return
        answer = True if token in ends else (yield row, token)


@torch.no_grad()
def _nats(model: Transformer, inputs: Tensor, targets: Tensor, end: int | None) -> Tensor:
    """-log p of each target, (B, T) float32; the logits are there a part at a time."""
    segments = None if end is None else segments_of(inputs, end)
    states = model.states(inputs, segments=segments).flatten(0, 1)
    parts = zip(
        states.split(each := max(1, LOGITS // model.vocabulary)),
        targets.flatten().split(each),
        strict=True,
    )
    nats = [F.cross_entropy(model.head(s).float(), t, reduction="none") for s, t in parts]
    return torch.cat(nats).view_as(targets)
