"""Continuous batching: sequences join and leave one decoder at every step (iteration-level scheduling: Yu et al. 2022, Orca).

A prompt is read in pieces beside the others' next tokens, so that nobody waits for a long one (Agrawal et al. 2023,
Sarathi), and what a slot holds of its beginning is not read again, as of a shared system prompt (prefix reuse: Zheng et
al. 2024, SGLang). S slots, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.models.decoder import Decoder
from fourfold.models.generation import Voice
from fourfold.models.sampling import Sampler, draw
from fourfold.tasks.answering import Lead

PIECE = 256
"""Tokens of prompts that are read in one step, at most."""
SHARED = 16
"""Tokens from which a common beginning is copied rather than read."""
Finish = Literal["stop", "length"]


class Told(NamedTuple):
    """A token and how likely it was."""

    token: int
    logprob: float | None
    """In nats, of the model itself, before temperature and filters; None of a text's first token."""
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens there, as many as were asked for."""


@dataclass(eq=False)
class Growing:
    """A text that grows.

    Attributes:
        prompt: at least one token, fewer than the window.
        tokens: most to add.
        sampler: draws them.
        ends: tokens before which it ends.
        voice: turns tokens into text, and knows the stop strings.
        lead: what the chat template sets before an answer, taken away.
        alternatives: how many likely tokens are told beside each; None tells no probabilities.
        echo: whether the prompt's tokens are told too.
        opened: whether the prompt's first token opens a text rather than being of it, and is not told.
    """

    prompt: Sequence[int]
    tokens: int
    sampler: Sampler
    ends: frozenset[int]
    voice: Voice
    lead: Lead = field(default_factory=lambda: Lead(""))
    alternatives: int | None = None
    echo: bool = False
    opened: bool = False
    # --- what becomes of it
    text: str = ""
    """Said and not yet taken by `take`."""
    told: list[Told] = field(default_factory=list)
    """Of the tokens added, and before them, with `echo`, of the prompt; not yet taken."""
    made: int = 0
    """Tokens added."""
    last: int = -1
    """The token added last."""
    reused: int = 0
    """Tokens of the prompt that were not read again."""
    finish: Finish | None = None
    wrong: UserError | None = None
    """Why it could not go on, as where its grammar lets nothing come."""

    def take(self) -> tuple[str, list[Told]]:
        """What was said since the last time."""
        found = self.text, self.told
        self.text, self.told = "", []
        return found

    def end(self, why: Finish) -> None:
        """It ends here; what was held back is said."""
        if self.finish is None:
            self.text += self.lead.push(self.voice.finish()) + self.lead.finish()
            self.finish = why

    def accept(self, token: int) -> None:
        """One more token, which may be its last."""
        self.last = token
        if token in self.ends:
            return self.end("stop")
        self.made += 1
        self.text += self.lead.push(self.voice.push(token))
        if self.voice.ended or self.sampler.ended:
            self.end("stop")
        elif self.made >= self.tokens:
            self.end("length")


@dataclass
class _Slot:
    """What a slot of the decoder holds, and whether a text has it."""

    held: list[int] = field(default_factory=list)
    taken: bool = False
    left: int = 0
    """When its last text left it: those left longest ago are taken first."""


class Batch:
    """Texts that grow together.

    Args:
        decoder: nobody else uses it.
        reuse: whether the decoder can copy and cut what it holds.
    """

    def __init__(self, decoder: Decoder, *, reuse: bool = True) -> None:
        self.decoder, self.reuse = decoder, reuse
        self.waiting: deque[Growing] = deque()
        self._slots = [_Slot() for _ in range(decoder.slots)]
        self._alive: dict[Growing, int] = {}
        """The texts in slots, in the order in which they came."""
        self._begun: set[Growing] = set()
        """Those that have read something."""
        self._clock = 0

    @property
    def alive(self) -> int:
        """Texts in slots."""
        return len(self._alive)

    def holds(self, growing: Growing) -> bool:
        """Whether a text is in a slot."""
        return growing in self._alive

    def join(self, growing: Growing) -> None:
        """One more text; it waits where no slot is free.

        Raises:
            ValueError: its prompt is empty or leaves no place in the window.
        """
        room = self.decoder.window - len(growing.prompt)
        if not growing.prompt or room < (1 if growing.tokens else 0):
            raise ValueError(
                f"Batch expects prompts of 1 to {self.decoder.window - 1} tokens, got {len(growing.prompt)}"
            )
        growing.tokens = min(growing.tokens, room)
        self.waiting.append(growing)

    @torch.inference_mode()
    def step(self) -> list[Growing]:
        """Every text grows by a token, or reads on in its prompt.

        Returns:
            Those that said something or ended; the latter have left already.
        """
        self._seat()
        reading = list(self._reading())
        changed: list[Growing] = []
        if reading:
            numbers, tokens = [self._alive[g] for g, _ in reading], [t for _, t in reading]
            every = any(self._tells_prompt(growing) for growing, _ in reading)
            logits = self.decoder.read(numbers, tokens, every=every)
            for number, some in zip(numbers, tokens, strict=True):
                self._slots[number].held += some
            if every:
                logits = self._told_prompts(reading, logits)
            changed = self._grow([growing for growing, _ in reading], logits)
        for growing in [g for g in self._alive if g.finish]:
            self.leave(growing)
        return changed

    def leave(self, growing: Growing) -> None:
        """Nobody wants a text any more, or it has ended: its slot is free, and keeps what it holds."""
        if growing not in self._alive:
            if growing in self.waiting:
                self.waiting.remove(growing)
            return
        slot = self._slots[self._alive.pop(growing)]
        self._begun.discard(growing)
        self._clock += 1
        slot.taken, slot.left = False, self._clock

    # --- private ----------------------------------------------------------------------------------

    def _seat(self) -> None:
        """Those that wait take the free slots, in order; what these hold stays until their text begins to read."""
        free = [n for n, slot in enumerate(self._slots) if not slot.taken]
        free.sort(key=lambda n: self._slots[n].left)
        while self.waiting and free:
            growing = self.waiting.popleft()
            if not growing.finish:
                self._alive[growing] = free.pop(0)
                self._slots[self._alive[growing]].taken = True

    def _reading(self) -> Iterator[tuple[Growing, list[int]]]:
        """What each text reads next: its new token, or as much of its prompt as the step has room for."""
        room = PIECE
        begins: list[list[int]] = []
        for growing in list(self._alive):
            prompt = list(growing.prompt)
            if growing not in self._begun:
                source, shared = self._beginning(growing, prompt)
                soon = max((_shared(prompt, other) for other in begins), default=0)
                if room <= 0 or (self.reuse and soon >= shared + SHARED):
                    continue  # another one reads the same beginning now: it is copied in the next step
                begins.append(prompt)
                self._begin(growing, source, shared)
            held = len(self._slots[self._alive[growing]].held)
            if held >= len(prompt):
                yield growing, [growing.last]
            elif room > 0:
                some = prompt[held : held + room]
                room -= len(some)
                yield growing, some

    def _beginning(self, growing: Growing, prompt: list[int]) -> tuple[int, int]:
        """The slot that holds most of a prompt's beginning, its own where none holds enough, and how many tokens."""
        own = self._alive[growing]
        if not self.reuse or (growing.echo and growing.alternatives is not None):
            return own, 0
        most = prompt[:-1]  # the last is read in any case, for what follows it
        lengths = [_shared(slot.held, most) for slot in self._slots]
        best = max(range(len(lengths)), key=lambda n: (lengths[n], n == own))
        return (best, lengths[best]) if best == own or lengths[best] >= SHARED else (own, 0)

    def _begin(self, growing: Growing, source: int, shared: int) -> None:
        """Let a text's slot hold what another has of its beginning; where nobody wants more of that, it is taken over."""
        self._begun.add(growing)
        own = self._alive[growing]
        growing.reused = shared
        other = self._slots[source]
        if source != own and not other.taken and 2 * shared >= len(other.held):
            self._slots[own].taken, other.taken = False, True
            self._alive[growing] = own = source
        if source == own:
            self.decoder.cut(own, shared)
        else:
            self.decoder.copy(source, own, shared)
        self._slots[own].held = other.held[:shared]

    def _tells_prompt(self, growing: Growing) -> bool:
        held = len(self._slots[self._alive[growing]].held)
        return growing.echo and growing.alternatives is not None and held < len(growing.prompt)

    def _told_prompts(self, reading: Sequence[tuple[Growing, list[int]]], logits: Tensor) -> Tensor:
        """Tell how likely prompts' tokens are; of all logits those that follow the last that each text read."""
        last = []
        parts = logits.split([len(some) for _, some in reading])
        for (growing, some), part in zip(reading, parts, strict=True):
            last.append(part[-1])
            begin = len(self._slots[self._alive[growing]].held) - len(some)
            if growing.alternatives is None or not growing.echo or begin >= len(growing.prompt):
                continue
            if begin == 0 and not growing.opened:
                growing.told.append(Told(growing.prompt[0], None))
            following = growing.prompt[begin + 1 : begin + 1 + len(some)]
            logs = part[: len(following)].float().log_softmax(-1)
            growing.told += _told(logs, following, growing.alternatives)
        return torch.stack(last)

    def _grow(self, read: Sequence[Growing], logits: Tensor) -> list[Growing]:
        """Draw for each text whose prompt is read."""
        changed = []
        rows: list[tuple[int, Growing]] = []
        for row, growing in enumerate(read):
            if len(self._slots[self._alive[growing]].held) < len(growing.prompt):
                continue
            changed.append(growing)
            if growing.tokens:
                rows.append((row, growing))
            else:
                growing.end("length")  # its prompt is all that was asked about
        free = [pair for pair in rows if pair[1].sampler.guide is None]
        drawn = draw([g.sampler for _, g in free], logits[[row for row, _ in free]]) if free else []
        for token, (row, growing) in zip(drawn, free, strict=True):
            self._accept(growing, token, logits[row])
        for row, growing in rows:
            if growing.sampler.guide is not None:
                try:
                    (token,) = draw([growing.sampler], logits[row : row + 1])
                except UserError as error:  # its own fault: the others grow on
                    growing.wrong = error
                    growing.end("stop")
                else:
                    self._accept(growing, token, logits[row])
        return changed

    def _accept(self, growing: Growing, token: int, logits: Tensor) -> None:
        if growing.alternatives is not None and token not in growing.ends:
            logs = logits[None].float().log_softmax(-1)  # what is told is what the model says
            growing.told += _told(logs, [token], growing.alternatives)
        growing.accept(token)


def _told(logs: Tensor, tokens: Sequence[int], alternatives: int) -> list[Told]:
    """What is told of tokens: their log-probabilities, (N, V), and the most likely ones beside them."""
    wanted = torch.tensor(tokens, dtype=torch.int64, device=logs.device)
    own = logs.gather(-1, wanted[:, None])[:, 0].tolist()
    if not alternatives:
        return [Told(t, v) for t, v in zip(tokens, own, strict=True)]
    best = logs.topk(min(alternatives, logs.shape[-1]), dim=-1)
    rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        Told(token, value, tuple(zip(*row, strict=True)))
        for token, value, row in zip(tokens, own, rows, strict=True)
    ]


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    least, most = 0, min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    while least < most:  # equal up to least, not up to most
        middle = (least + most + 1) // 2
        if one[:middle] == other[:middle]:
            least = middle
        else:
            most = middle - 1
    return least
