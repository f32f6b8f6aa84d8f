"""How tokens are drawn from logits: filters, a bias, a penalty on repetition, a guide that says what may come.

top-k: Fan et al. 2018; top-p: Holtzman et al. 2020; min-p: Nguyen et al. 2024; repetition penalty: Keskar et al. 2019.
Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


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
    repetition_penalty: float = 1.0
    """Divides the logits above 0 of tokens that the text has already, and multiplies those below: by a `Sampler`, first."""
    logit_bias: Mapping[int, float] | None = None
    """Added to tokens' logits, by number: by a `Sampler`, before the penalty."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or (self.top_k is not None and self.top_k < 1):
            raise ValueError(
                f"Sampling expects temperature >= 0 and top_k >= 1, got {self.temperature}, {self.top_k}"
            )
        for name in ("top_p", "min_p"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"Sampling expects {name} between 0 and 1, got {share}")
        if not self.repetition_penalty > 0:
            raise ValueError(
                f"Sampling expects repetition_penalty > 0, got {self.repetition_penalty}"
            )

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
        if logits.device.type == "cpu":
            pairs = zip(logits, generators, strict=True)
            return [self._draw_here(row, generator) for row, generator in pairs]
        if self.temperature == 0:
            return logits.argmax(-1).tolist()
        rows = zip(self.probabilities(logits), generators, strict=True)
        return [int(torch.multinomial(row, 1, generator=g)) for row, g in rows]

    def _draw_here(self, logits: Tensor, generator: torch.Generator | None) -> int:
        """On a CPU: torch's own way takes longer than a small model's step, with 32,000 entries by far."""
        found = logits.float().contiguous().numpy()
        if self.temperature == 0:
            return int(found.argmax())  # of equal ones the first, as torch's
        from fourfold.kernels.sampling import draw

        return int(
            draw(
                found,
                float(min(max(self.temperature, 1e-30), 1e30)),
                self.top_k or 0,
                1.0 if self.top_p is None else float(self.top_p),
                float(self.min_p or 0.0),
                uniform(generator),
            )
        )


def uniform(generator: torch.Generator | None) -> float:
    """A number from 0 to below 1."""
    place = "cpu" if generator is None else generator.device
    return float(torch.rand((), generator=generator, dtype=torch.float64, device=place))


class Guide(Protocol):
    """Says what may come next in one text, as a grammar does."""

    def allowed(self) -> Tensor:
        """(V,) bool on the CPU; True somewhere unless the text has ended."""

    def push(self, token: int) -> None:
        """One more token of the text, an allowed one."""

    @property
    def ended(self) -> bool:
        """Whether nothing may come any more."""


class Sampler:
    """Draws the tokens of one text, one after the other.

    Args:
        sampling: how.
        generator: on the logits' device; None takes torch's own.
        past: tokens that the text has already, which a repetition penalty counts.
        never: tokens that are not drawn.
        guide: what says which may come; None lets all.
    """

    def __init__(
        self,
        sampling: Sampling,
        generator: torch.Generator | None = None,
        past: Sequence[int] = (),
        never: Sequence[int] = (),
        guide: Guide | None = None,
    ) -> None:
        self.sampling, self.generator, self.guide = sampling, generator, guide
        self.never = list(never)
        self._seen = {*past}
        self._adjusts = bool(
            sampling.logit_bias or sampling.repetition_penalty != 1 or self.never or guide
        )

    def adjusted(self, logits: Tensor) -> Tensor:
        """Logits (V,) with bias, penalty and what may not come; new ones, if there is any of it."""
        if not self._adjusts:
            return logits
        logits = logits.clone()
        if bias := self.sampling.logit_bias:
            places = torch.tensor(list(bias), device=logits.device)
            logits[places] += torch.tensor(list(bias.values()), device=logits.device)
        if (penalty := self.sampling.repetition_penalty) != 1 and self._seen:
            places = torch.tensor(sorted(self._seen), device=logits.device)
            found = logits[places]
            logits[places] = torch.where(found > 0, found / penalty, found * penalty)
        if self.never:
            logits[self.never] = -torch.inf
        if self.guide is not None:
            logits.masked_fill_(~self.guide.allowed().to(logits.device), -torch.inf)
        return logits

    def shares(self, logits: Tensor) -> Tensor:
        """Probabilities (V,) that tokens are drawn by, from logits (V,); at temperature 0 one is 1."""
        logits = self.adjusted(logits)
        if self.sampling.temperature == 0:
            return torch.zeros_like(logits).index_fill_(0, logits.argmax(), 1.0)
        found = self.sampling.probabilities(logits[None])[0]
        return found / found.sum()

    def push(self, token: int) -> None:
        """One more token of the text."""
        self._seen.add(token)
        if self.guide is not None and not self.guide.ended:
            self.guide.push(token)

    @property
    def ended(self) -> bool:
        """Whether the text is whole: its guide lets nothing come any more."""
        return self.guide is not None and self.guide.ended


def draw(samplers: Sequence[Sampler], logits: Tensor) -> list[int]:
    """The next token of each text, which is remembered, from logits (B, V)."""
    rows = logits
    if any(sampler._adjusts for sampler in samplers):
        rows = torch.stack([s.adjusted(row) for s, row in zip(samplers, logits, strict=True)])
    if all(sampler.sampling is samplers[0].sampling for sampler in samplers):
        tokens = samplers[0].sampling.draw(rows, [sampler.generator for sampler in samplers])
    else:
        pairs = zip(samplers, rows.split(1), strict=True)
        tokens = [s.sampling.draw(row, [s.generator])[0] for s, row in pairs]
    for sampler, token in zip(samplers, tokens, strict=True):
        sampler.push(token)
    return tokens
