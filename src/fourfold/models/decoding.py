"""Decoding a sequence from a model that reads a source: greedy, beam search, sampling, and the least risk.

Beam search with length normalization and coverage: Wu et al. 2016, https://arxiv.org/abs/1609.08144, section 7.
Minimum Bayes risk: Kumar and Byrne 2004; over samples: Eikema and Aziz 2020. What an output is does not depend on the
others of its batch. Shapes: B sources, S their tokens, K beams, R rows (one for each output under way), V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from fourfold.models.sampling import Sampling


class Stepper(Protocol):
    """A model that reads sources once and then says, token after token, what comes next.

    A state is the model's own; each of its rows goes on by itself.
    """

    def begin(self, source: Tensor, lengths: Tensor) -> Any:
        """The state of B rows before their first token: source (B, S) int64, lengths (B,) int64."""
        ...

    def next(self, state: Any, tokens: Tensor) -> tuple[Tensor, Any]:
        """Read a token in each row, (R,) int64, first the begin token.

        Returns:
            Logits (R, V) of what comes next, and the state after it. The old state is not used again.
        """
        ...

    def reorder(self, state: Any, rows: Tensor) -> Any:
        """The state whose row i is the old row rows[i], (R',) int64: rows may be left out and repeated."""
        ...


@runtime_checkable
class Attends(Protocol):
    """A stepper that says where in the source it looked for the token it read last."""

    def attended(self, state: Any) -> Tensor:
        """Weights over the source's tokens, (R, S), of the last call of `next`; each row's sum is 1."""
        ...


@dataclass
class Output:
    """One way to go on from a source."""

    tokens: list[int]
    """Without begin and end tokens."""
    log_probability: float
    """Of the tokens and the end token, in nats."""
    score: float
    """What outputs are ordered by."""
    attended: list[int] = field(default_factory=list)
    """For each token the place in the source that it looked at most; empty where the model does not say."""


@dataclass(frozen=True)
class Search:
    """How outputs are searched for."""

    begin: int
    """The token that is read first."""
    end: int
    """The token that ends an output."""
    limits: Tensor
    """(B,) int64, most tokens of each output; it ends there, whatever the model says."""
    never: tuple[int, ...] = ()
    """Tokens that never come, as the unknown one."""

    def log_probabilities(self, logits: Tensor, limits: Tensor, done: int) -> Tensor:
        """Of the next token, (R, V), once `done` tokens have come; after `limits` (R,) only the end may."""
        never = set(self.never)
        if self.begin != self.end and self.begin < logits.shape[-1]:
            never.add(self.begin)
        logits = logits.float()
        if never:  # what is left is a distribution again
            index = torch.tensor(sorted(never), device=logits.device)
            logits = logits.index_fill(1, index, float("-inf"))
        found = logits.log_softmax(-1)
        over = limits <= done
        if bool(over.any()):
            ended = torch.full_like(found, float("-inf"))
            ended[:, self.end] = found[:, self.end]
            found = torch.where(over[:, None], ended, found)
        return found


class _Trace:
    """What the rows have read, and where they looked."""

    def __init__(self, stepper: Stepper, rows: int, device: torch.device) -> None:
        self.stepper = stepper if isinstance(stepper, Attends) else None
        self.tokens = torch.empty(rows, 0, dtype=torch.int64, device=device)
        self.places = torch.empty(rows, 0, dtype=torch.int64, device=device)

    def looked(self, state: Any) -> None:
        """Keep the places that were looked at for the token that comes next."""
        if self.stepper is not None:
            most = self.stepper.attended(state).argmax(-1)
            self.places = torch.cat([self.places, most[:, None]], dim=1)

    def choose(self, rows: Tensor, tokens: Tensor) -> None:
        """Go on from old rows with new tokens."""
        self.tokens = torch.cat([self.tokens[rows], tokens[:, None]], dim=1)
        self.places = self.places[rows]

    def output(self, row: int, log_probability: float, score: float) -> Output:
        """What a row says that has just read the end token."""
        tokens = self.tokens[row, :-1].tolist()
        return Output(tokens, log_probability, score, self.places[row, : len(tokens)].tolist())


@torch.no_grad()
def greedy(stepper: Stepper, source: Tensor, lengths: Tensor, search: Search) -> list[Output]:
    """The most likely token at every step.

    Args:
        stepper: the model.
        source: (B, S) int64.
        lengths: (B,) int64.
        search: how.
    """
    return _walk(stepper, source, lengths, search, None, ())


@torch.no_grad()
def sample(
    stepper: Stepper,
    source: Tensor,
    lengths: Tensor,
    search: Search,
    sampling: Sampling,
    generators: Sequence[torch.Generator],
) -> list[Output]:
    """Outputs drawn token by token, each row from its own generator.

    Args:
        stepper, source, lengths, search: as for `greedy`. For several outputs of a source give it several times.
        sampling: how each token is drawn.
        generators: of each row.
    """
    return _walk(stepper, source, lengths, search, sampling, generators)


def _walk(
    stepper: Stepper,
    source: Tensor,
    lengths: Tensor,
    search: Search,
    sampling: Sampling | None,
    generators: Sequence[torch.Generator],
) -> list[Output]:
    rows = len(source)
    found: list[Output | None] = [None] * rows
    alive = list(range(rows))
    state, limits = stepper.begin(source, lengths), search.limits
    tokens = torch.full((rows,), search.begin, device=source.device)
    sums = torch.zeros(rows, dtype=torch.float64, device=source.device)
    trace = _Trace(stepper, rows, source.device)
    done = 0
    while alive:
        logits, state = stepper.next(state, tokens)
        said = search.log_probabilities(logits, limits, done)
        trace.looked(state)
        if sampling is None:
            tokens = said.argmax(-1)
        else:
            drawn = sampling.draw(said, [generators[row] for row in alive])
            tokens = torch.tensor(drawn, device=source.device)
        sums += said.gather(1, tokens[:, None])[:, 0].double()
        trace.choose(torch.arange(len(alive), device=source.device), tokens)
        done += 1
        ended = (tokens == search.end).tolist()
        if any(ended):
            for place, row in enumerate(alive):
                if ended[place]:
                    total = float(sums[place])
                    found[row] = trace.output(place, total, total)
            left = [place for place in range(len(alive)) if not ended[place]]
            alive = [alive[place] for place in left]
            kept = torch.tensor(left, dtype=torch.int64, device=source.device)
            state = stepper.reorder(state, kept) if left else None
            tokens, sums, limits = tokens[kept], sums[kept], limits[kept]
            trace.tokens, trace.places = trace.tokens[kept], trace.places[kept]
    return [output for output in found if output is not None]


@dataclass(frozen=True)
class Beam:
    """How hypotheses are compared.

    Score: log p / ((5 + length) / 6)^length_penalty + coverage sum_i log min(sum_j a_ij, 1), where the length counts
    the end token and a_ij is how much output j looked at source token i.
    """

    size: int = 5
    """Hypotheses kept at each step for each source."""
    length_penalty: float = 1.0
    """0 takes the most probable output, which tends to be short; 1 the mean of its tokens, about."""
    coverage: float = 0.0
    """Weight of source tokens that nothing looked at."""
    patient: bool = False
    """Whether to go on until no beginning can reach a better score however long it gets; otherwise until none has a
    better one by what it has so far, which is quicker and rarely another output."""

    def __post_init__(self) -> None:
        if self.size < 1 or self.length_penalty < 0 or self.coverage < 0:
            raise ValueError(
                f"Beam expects size >= 1, length_penalty >= 0 and coverage >= 0, got {self}"
            )

    def normalizer(self, length: Any) -> Any:
        """What log p is divided by, of outputs with so many tokens, the end token among them."""
        return ((5.0 + length) / 6.0) ** self.length_penalty


@torch.no_grad()
def beam(
    stepper: Stepper,
    source: Tensor,
    lengths: Tensor,
    search: Search,
    how: Beam = Beam(),
    best: int = 1,
) -> list[list[Output]]:
    """The best outputs that are found by keeping the most promising beginnings, the best first.

    A source is done once no beginning under way promises a better score than its outputs have. With as many beams
    as there are beginnings and patience this is exhaustive search.

    Args:
        stepper, source, lengths, search: as for `greedy`.
        how: beams and scores.
        best: outputs of each source.

    Raises:
        ValueError: more outputs than beams are asked for, or coverage of a model that does not say where it looks.
    """
    if best > how.size:
        raise ValueError(f"beam expects best <= size, got {best} of {how.size} beams")
    if how.coverage and not isinstance(stepper, Attends):
        raise ValueError("coverage: this model does not say where in the source it looks")
    return _Beams(stepper, source, lengths, search, how, best).run()


class _Beams:
    """Beam search under way. Rows of the state are alive sources times K."""

    def __init__(
        self,
        stepper: Stepper,
        source: Tensor,
        lengths: Tensor,
        search: Search,
        how: Beam,
        best: int,
    ) -> None:
        self.stepper, self.search, self.how, self.best = stepper, search, how, best
        count, size, device = len(source), how.size, source.device
        self.device = device
        self.found: list[list[Output]] = [[] for _ in range(count)]
        self.alive = torch.arange(count, device=device)
        state = stepper.begin(source, lengths)
        self.state = stepper.reorder(state, self.alive.repeat_interleave(size))
        self.tokens = torch.full((count * size,), search.begin, device=device)
        # all beams of a source are alike at first: one of them counts
        self.sums = torch.full((count, size), float("-inf"), device=device)
        self.sums[:, 0] = 0
        self.limits = search.limits.to(device)
        self.trace = _Trace(stepper, count * size, device)
        self.looked: Tensor | None = None
        """(rows, S) how much each source token was looked at, where coverage counts."""
        within = torch.arange(source.shape[1], device=device) < lengths.to(device)[:, None]
        self.within = within.repeat_interleave(size, dim=0)

    def run(self) -> list[list[Output]]:
        done = 0
        while len(self.alive):
            logits, self.state = self.stepper.next(self.state, self.tokens)
            self._step(logits, done)
            done += 1
        for outputs in self.found:
            outputs.sort(key=lambda output: -output.score)
            del outputs[self.best :]
        return self.found

    def _step(self, logits: Tensor, done: int) -> None:
        size, end = self.how.size, self.search.end
        count = len(self.alive)
        limits = self.limits.repeat_interleave(size)
        said = self.search.log_probabilities(logits, limits, done)
        self.trace.looked(self.state)
        if self.how.coverage:
            now = self.stepper.attended(self.state)  # type: ignore[attr-defined]
            self.looked = now if self.looked is None else self.looked + now
        totals = self.sums[:, :, None] + said.view(count, size, -1)  # (alive, K, V)
        self._end(totals[:, :, end], done + 1)
        # what goes on: the end token is no beginning of anything
        totals[:, :, end] = float("-inf")
        entries = totals.shape[-1]
        self.sums, places = totals.flatten(1).topk(size, dim=1)
        beams, tokens = places // entries, places % entries
        self._go_on(beams, tokens, done + 1)

    def _end(self, totals: Tensor, length: int) -> None:
        """Take up the outputs that end here: totals (alive, K) log-probabilities with the end token."""
        scores = totals / self.how.normalizer(length) + self._penalties().view_as(totals)
        for place, source in enumerate(self.alive.tolist()):
            outputs = self.found[source]
            worst = min((o.score for o in outputs), default=-math.inf)
            for k, score in enumerate(scores[place].tolist()):
                full = len(outputs) >= self.best
                if score == -math.inf or (full and score <= worst):
                    continue
                row = place * self.how.size + k
                # the end token has not been read yet: put it behind
                tokens = self.trace.tokens[row].tolist()
                looked = self.trace.places[row, : len(tokens)].tolist()
                outputs.append(Output(tokens, float(totals[place, k]), score, looked))
                outputs.sort(key=lambda output: -output.score)
                del outputs[self.best :]
                worst = outputs[-1].score

    def _penalties(self) -> Tensor:
        """Coverage of every row, (rows,); 0 where it does not count."""
        if self.looked is None:
            return self.sums.new_zeros(self.sums.numel())
        logs = self.looked.clamp(max=1.0).clamp(min=1e-10).log()
        return self.how.coverage * (logs * self.within).sum(-1)

    def _go_on(self, beams: Tensor, tokens: Tensor, done: int) -> None:
        """Move to the best beginnings, of the sources that can still get better."""
        # log p only falls, its divisor is largest at the limit, and coverage at most 0
        longest = self.limits + 1.0 if self.how.patient else torch.full_like(self.sums[:, 0], done)
        bound = self.sums[:, 0] / self.how.normalizer(longest)
        worst = torch.tensor(
            [
                self.found[s][-1].score if len(self.found[s]) >= self.best else -math.inf
                for s in self.alive.tolist()
            ],
            device=self.device,
        )
        open_ = (self.sums[:, 0] > -math.inf) & (bound > worst)
        kept = open_.nonzero()[:, 0]
        size = self.how.size
        rows = (kept[:, None] * size + beams[kept]).flatten()
        self.alive, self.limits, self.sums = self.alive[kept], self.limits[kept], self.sums[kept]
        self.tokens = tokens[kept].flatten()
        if not len(kept):
            return
        self.state = self.stepper.reorder(self.state, rows)
        self.trace.choose(rows, self.tokens)
        self.within = self.within[rows]
        if self.looked is not None:
            self.looked = self.looked[rows]


def least_risk(utilities: Tensor) -> int:
    """The candidate with the greatest mean utility, all taken as what may be right.

    Args:
        utilities: (N, N) float: how good each candidate (row) is if another (column) is right.
    """
    return int(utilities.mean(1).argmax())


def by_length(lengths: Sequence[int], places: int, padding: int | None = None) -> list[list[int]]:
    """Numbers of sources in batches of similar length, the longest first.

    Args:
        lengths: tokens of each.
        places: most of a batch, padding included; a longer source is a batch by itself.
        padding: most padded places of a batch; None: any number.
    """
    found: list[list[int]] = []
    held = 0
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        wide = (len(found[-1]) + 1) * lengths[found[-1][0]] if found else 0
        held += lengths[number]
        if found and wide <= places and (padding is None or wide - held <= padding):
            found[-1].append(number)
        else:
            found.append([number])
            held = lengths[number]
    return found
