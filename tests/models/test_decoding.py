"""Decoding against exhaustive search, on models that are tables; batches against single sources."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fourfold.models.decoding import (
    Beam,
    Output,
    Search,
    beam,
    by_length,
    greedy,
    least_risk,
    sample,
)
from fourfold.models.sampling import Sampling
from fourfold.models.seq2seq import Attending, Cell, Seq2Seq, stepper_of

END, BEGIN = 0, 0


class Table:
    """Logits drawn once for every source and every beginning of an output; looks at the source by a rule."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed

    def begin(self, source: Tensor, lengths: Tensor) -> Any:
        rows = zip(source.tolist(), lengths.tolist(), strict=True)
        return [(tuple(row[:length]), ()) for row, length in rows], source.shape[1]

    def next(self, state: Any, tokens: Tensor) -> tuple[Tensor, Any]:
        rows, width = state
        read = [
            (source, (*past, token))
            for (source, past), token in zip(rows, tokens.tolist(), strict=True)
        ]
        return torch.stack([self.logits(s, past[1:]) for s, past in read]), (read, width)

    def logits(self, source: tuple[int, ...], past: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(
            zlib.crc32(repr((self.seed, source, past)).encode())
        )
        return 2 * torch.randn(self.size, generator=generator)

    def reorder(self, state: Any, rows: Tensor) -> Any:
        return [state[0][row] for row in rows.tolist()], state[1]


class Looking(Table):
    """The same, with attention: step t looks at the source's token t, round again after its end, half of the time."""

    def attended(self, state: Any) -> Tensor:
        rows, width = state
        found = torch.zeros(len(rows), width)
        for place, (source, past) in enumerate(rows):
            found[place, (len(past) - 1) % len(source)] += 0.5
            found[place, 0] += 0.5
        return found


def _every(
    model: Table, source: tuple[int, ...], limit: int, how: Beam, never: tuple[int, ...] = ()
) -> Iterator[Output]:
    """All outputs of up to so many tokens, with their scores written out."""
    tokens = [t for t in range(model.size) if t != END and t not in never]
    for length in range(limit + 1):
        for output in itertools.product(tokens, repeat=length):
            total = 0.0
            for place, token in enumerate([*output, END]):
                logits = model.logits(source, output[:place]).double()
                logits[list(never)] = -math.inf
                total += float(logits.log_softmax(-1)[token])
            score = total / ((5 + length + 1) / 6) ** how.length_penalty
            if how.coverage:
                looked = torch.zeros(len(source), dtype=torch.float64)
                for step in range(length + 1):
                    looked[step % len(source)] += 0.5
                    looked[0] += 0.5
                score += how.coverage * float(looked.clamp(max=1, min=1e-10).log().sum())
            yield Output(list(output), total, score)


def _batch(sources: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, sources))
    padded = [[*source, *[9] * (width - len(source))] for source in sources]
    return torch.tensor(padded), torch.tensor([len(s) for s in sources])


sources = st.lists(
    st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4
)


@settings(deadline=None, max_examples=40)
@given(
    sources,
    st.integers(2, 3),
    st.integers(0, 3),
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.6, 1.0, 2.0]),
    st.sampled_from([0.0, 0.3]),
)
def test_a_wide_beam_is_exhaustive_search(
    given_sources: list[tuple[int, ...]],
    size: int,
    limit: int,
    seed: int,
    penalty: float,
    coverage: float,
) -> None:
    model = Looking(size, seed)
    width = max(1, (size - 1) ** limit)
    how = Beam(width, penalty, coverage, patient=True)
    limits = torch.full((len(given_sources),), limit)
    best = min(3, width)
    found = beam(model, *_batch(given_sources), Search(BEGIN, END, limits), how, best)
    for source, outputs in zip(given_sources, found, strict=True):
        every = sorted(_every(model, source, limit, how), key=lambda o: -o.score)[:best]
        assert [o.tokens for o in outputs] == [o.tokens for o in every]
        assert [o.score for o in outputs] == pytest.approx([o.score for o in every], abs=1e-4)
        assert [o.log_probability for o in outputs] == pytest.approx(
            [o.log_probability for o in every], abs=1e-4
        )


@settings(deadline=None, max_examples=30)
@given(
    sources,
    st.integers(0, 1000),
    st.integers(1, 4),
    st.lists(st.integers(0, 6), min_size=4, max_size=4),
)
def test_batches_answer_as_single_sources_do(
    given_sources: list[tuple[int, ...]], seed: int, width: int, most: list[int]
) -> None:
    model, limits = Looking(4, seed), torch.tensor(most[: len(given_sources)])
    search = Search(BEGIN, END, limits)

    def generators(numbers: range) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(n) for n in numbers]

    def all_ways(some: list[tuple[int, ...]], search: Search, numbers: range) -> list[Any]:
        batch = _batch(some)
        drawn = sample(model, *batch, search, Sampling(1.0), generators(numbers))
        return [
            greedy(model, *batch, search),
            beam(model, *batch, search, Beam(width, 1.0, 0.2), min(2, width)),
            drawn,
        ]

    together = all_ways(given_sources, search, range(len(given_sources)))
    for n, source in enumerate(given_sources):
        alone = all_ways([source], Search(BEGIN, END, limits[n : n + 1]), range(n, n + 1))
        for many, (one,) in zip(together, alone, strict=True):
            assert many[n] == one


def test_greedy_is_a_beam_of_one_without_patience() -> None:
    batch, limits = _batch([(1, 2), (3,), (2, 2, 1)]), torch.tensor([5, 5, 5])
    for seed in range(20):
        model = Table(4, seed)
        first = greedy(model, *batch, Search(BEGIN, END, limits))
        for output, source in zip(first, [(1, 2), (3,), (2, 2, 1)], strict=True):
            past: tuple[int, ...] = ()
            while len(past) < 5 and (token := int(model.logits(source, past).argmax())) != END:
                past = (*past, token)
            assert output.tokens == list(past)


def test_tokens_that_never_come_leave_a_distribution() -> None:
    model, how = Table(4, 3), Beam(64, 0.0, patient=True)
    search = Search(BEGIN, END, torch.tensor([3]), never=(2,))
    (outputs,) = beam(model, *_batch([(1, 1)]), search, how, 15)
    every = sorted(_every(model, (1, 1), 3, how, never=(2,)), key=lambda o: -o.score)
    assert [o.tokens for o in outputs] == [o.tokens for o in every]
    # the last step may only end: what is left of the probability is that of longer outputs
    assert sum(math.exp(o.log_probability) for o in outputs) <= 1 + 1e-6


def test_samples_come_as_often_as_they_are_likely() -> None:
    model, limit = Table(3, 5), 2
    source = torch.tensor([[1]]).repeat(4000, 1)
    search = Search(BEGIN, END, torch.full((4000,), limit))
    generators = [torch.Generator().manual_seed(n) for n in range(4000)]
    drawn = sample(
        model, source, torch.ones(4000, dtype=torch.int64), search, Sampling(1.0), generators
    )
    counts: dict[tuple[int, ...], int] = {}
    for output in drawn:
        counts[tuple(output.tokens)] = counts.get(tuple(output.tokens), 0) + 1
    for output in _every(model, (1,), limit, Beam(1)):
        # at the limit every output ends: there the end token's own probability is not drawn
        log_p = output.log_probability
        if len(output.tokens) == limit:
            log_p -= float(model.logits((1,), tuple(output.tokens)).log_softmax(-1)[END])
        p = math.exp(log_p)
        assert counts.get(tuple(output.tokens), 0) / 4000 == pytest.approx(
            p, abs=4 * math.sqrt(p / 4000) + 1e-3
        )


def test_where_each_token_looked_is_kept() -> None:
    model = Looking(4, 1)
    search = Search(BEGIN, END, torch.tensor([6, 6]))
    for output in greedy(model, *_batch([(1, 2, 3), (2, 1, 1)]), search):
        assert output.attended == [0] * len(output.tokens)  # place 0 has half of the weight or more


def test_coverage_needs_a_model_that_looks() -> None:
    with pytest.raises(ValueError, match="does not say where"):
        beam(Table(3, 0), *_batch([(1,)]), Search(0, 0, torch.tensor([2])), Beam(2, coverage=0.1))
    with pytest.raises(ValueError, match="best <= size"):
        beam(Table(3, 0), *_batch([(1,)]), Search(0, 0, torch.tensor([2])), Beam(2), 3)


def test_the_least_risk_is_the_middle_one() -> None:
    points = torch.tensor([0.0, 1.0, 1.1, 1.2, 5.0])
    assert least_risk(-(points[:, None] - points).abs()) == 2


@given(
    st.lists(st.integers(1, 30), max_size=30),
    st.integers(1, 100),
    st.none() | st.integers(0, 20),
)
def test_batches_by_length_hold_everything_once(
    lengths: list[int], places: int, padding: int | None
) -> None:
    batches = by_length(lengths, places, padding)
    assert sorted(n for batch in batches for n in batch) == list(range(len(lengths)))
    for batch in batches:
        wide, held = len(batch) * max(lengths[n] for n in batch), sum(lengths[n] for n in batch)
        assert len(batch) == 1 or (wide <= places and (padding is None or wide - held <= padding))


# --- recurrent encoder-decoders -----------------------------------------------------------------------


ways = st.tuples(st.sampled_from(["gru", "lstm"]), st.sampled_from(["none", "additive", "dot"]))


def _model(cell: Cell, attention: Attending, shared: bool = False, layers: int = 2) -> Seq2Seq:
    torch.manual_seed(0)
    sizes = (11, 11) if shared else (9, 11)
    model = Seq2Seq(
        cell, *sizes, shared=shared, embedding=6, width=5, layers=layers, attention=attention
    )
    return model.double().eval()


@settings(deadline=None, max_examples=20)
@given(ways, st.booleans(), st.integers(1, 2))
def test_steps_equal_all_at_once(way: tuple[Cell, Attending], shared: bool, layers: int) -> None:
    model = _model(*way, shared, layers)
    source, lengths = torch.randint(9, (3, 6)), torch.tensor([6, 1, 4])
    tokens = torch.randint(11, (3, 5))
    whole = model.head(model(source, lengths, tokens))
    stepper = stepper_of(model)
    state = stepper.begin(source, lengths)
    for step in range(5):
        logits, state = stepper.next(state, tokens[:, step])
        torch.testing.assert_close(logits, whole[:, step])


@settings(deadline=None, max_examples=20)
@given(ways, st.integers(1, 6))
def test_padding_and_batch_mates_change_nothing(way: tuple[Cell, Attending], length: int) -> None:
    model = _model(*way)
    source, tokens = torch.randint(9, (3, 6)), torch.randint(11, (3, 4))
    lengths = torch.tensor([6, length, 3])
    together = model(source, lengths, tokens)[1:2]
    alone = model(source[1:2, :length], lengths[1:2], tokens[1:2])
    torch.testing.assert_close(together, alone)
    later = tokens.clone()
    later[:, 2:] = (later[:, 2:] + 1) % 11
    torch.testing.assert_close(
        model(source, lengths, later)[:, :2], model(source, lengths, tokens)[:, :2]
    )


def test_attention_is_what_the_papers_write() -> None:
    model = _model("gru", "additive", layers=1)
    source, lengths = torch.randint(9, (1, 4)), torch.tensor([4])
    memory = model.encode(source, lengths)
    state = model.initial(memory)
    x = model.target_embedding(torch.tensor([[3]])) * model.scale
    scorer = model.scorer
    asked = scorer.from_query(state[0][0])[:, None] + scorer.from_key(memory.annotations)
    scores = scorer.score(torch.tanh(asked))
    context = (scores.softmax(1) * memory.annotations).sum(
        1
    )  # Bahdanau et al. 2015, equations 5 and 6
    hidden, _ = model.decoder[0](torch.cat([x[:, 0], context], -1)[:, None], state[0])
    features, _, weights = model.decode(memory, state, torch.tensor([[3]]))
    torch.testing.assert_close(weights[0, 0], scores[0, :, 0].softmax(0))
    again = torch.tanh(model.readout(torch.cat([hidden[:, 0], context, x[:, 0]], -1)))
    torch.testing.assert_close(features[:, 0], again)
