"""Speculative decoding against decoding token by token: the same texts, or the same distribution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fourfold.models.compiled import CompiledDecoder
from fourfold.models.decoder import Decoder
from fourfold.models.generation import generate, samplers_of
from fourfold.models.sampling import Sampling
from fourfold.models.speculation import Draft, Guess, Guesser, LookUp, _looked_up, speculate
from fourfold.models.torch_decoder import TorchDecoder
from fourfold.models.transformer import Transformer

VOCABULARY = 13


def model(seed: int = 0, **changes: Any) -> Transformer:
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"width": 16, "layers": 2, "heads": 4, "window": 12}
    made = Transformer(VOCABULARY, **{**sizes, **changes}).eval()
    made.initialize(0.4)
    return made


class Wild:
    """Guesses anything, drawn from no distribution."""

    def __init__(self, seed: int) -> None:
        self.noise = np.random.default_rng(seed)

    def guess(
        self, rows: Sequence[int], texts: Sequence[Sequence[int]], counts: Sequence[int]
    ) -> list[Guess]:
        sizes = [int(self.noise.integers(0, counts[row] + 1)) for row in rows]
        return [Guess(self.noise.integers(0, VOCABULARY, size).tolist()) for size in sizes]


def plain(net: Transformer, prompts: Sequence[Sequence[int]], sampling: Sampling, tokens: int, made: Any) -> list[list[int]]:  # fmt: skip
    said: list[list[int]] = [[] for _ in prompts]
    noise = [torch.Generator().manual_seed(row) for row in range(len(prompts))]
    for row, token in generate(
        net, prompts, tokens=tokens, sampling=sampling, generators=noise, never=[3], make=made
    ):
        said[row].append(token)
    return said


def guessed(
    decoder: Decoder, guesser: Guesser, prompts: Sequence[Sequence[int]], sampling: Sampling, tokens: int, guesses: int = 4
) -> list[list[int]]:  # fmt: skip
    said: list[list[int]] = [[] for _ in prompts]
    noise = [torch.Generator().manual_seed(row) for row in range(len(prompts))]
    samplers = samplers_of(prompts, sampling, noise, [3])
    for row, token in speculate(
        decoder, guesser, samplers, prompts, tokens=tokens, guesses=guesses
    ):
        said[row].append(token)
    return said


PROMPTS = st.lists(
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12), min_size=1, max_size=3
)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("engine", ["torch", "compiled"])
@settings(max_examples=10, deadline=None)
@given(
    prompts=PROMPTS, window=st.integers(2, 12), seed=st.integers(0, 99), guesses=st.integers(1, 6)
)
def test_what_is_looked_up_or_wild_changes_no_token(
    engine: str, temperature: float, prompts: list[list[int]], window: int, seed: int, guesses: int
) -> None:
    """Past full windows too, and with draws from the same numbers."""
    net = model(window=window)
    prompts = [prompt[-window:] for prompt in prompts]

    def made(slots: int, room: int) -> Decoder:
        if engine == "torch":
            return TorchDecoder(net, slots, torch.float32, room)
        return CompiledDecoder(net, slots, window=room)

    sampling = Sampling(temperature, repetition_penalty=1.1)
    expected = plain(net, prompts, sampling, 20, made)
    for guesser in (LookUp(), Wild(seed)):
        decoder = made(len(prompts), window)
        assert guessed(decoder, guesser, prompts, sampling, 20, guesses) == expected


@settings(max_examples=10, deadline=None)
@given(prompts=PROMPTS, window=st.integers(2, 9), guesses=st.integers(1, 6))
def test_a_drafts_greedy_texts_are_the_models(
    prompts: list[list[int]], window: int, guesses: int
) -> None:
    net, small = model(), model(1, layers=1, window=window)
    greedy = Sampling(0.0)
    expected = plain(
        net, prompts, greedy, 25, lambda slots, room: CompiledDecoder(net, slots, window=room)
    )
    for other in (small, net):  # one that is mostly wrong, one that is always right
        draft = Draft(CompiledDecoder(other, len(prompts)), greedy)
        decoder = CompiledDecoder(net, len(prompts))
        assert guessed(decoder, draft, prompts, greedy, 25, guesses) == expected


class Table(Decoder):
    """A model whose next token depends on the last one only."""

    def __init__(self, logits: Tensor, slots: int) -> None:
        self.table, self.slots, self.window, self.vocabulary = logits, slots, 50, len(logits)
        self.device, self.lengths = torch.device("cpu"), [0] * slots

    def _read(self, slots: Sequence[int], tokens: Sequence[Sequence[int]], every: bool) -> Tensor:
        return torch.cat([self.table[list(some) if every else [some[-1]]] for some in tokens])

    def _copy(self, source: int, target: int, length: int) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0),
        Sampling(0.7, top_k=2),
        Sampling(1.2, min_p=0.1),
        Sampling(1.0, logit_bias={1: 2.0, 2: -3.0}),
    ],
)
def test_a_drafts_texts_have_the_models_distribution(sampling: Sampling) -> None:
    """Chi-square at one in ten thousand over all texts of three tokens, their probabilities enumerated."""
    from itertools import product

    from scipy.stats import chisquare

    noise = torch.Generator().manual_seed(0)
    target, other = (torch.randn(3, 3, generator=noise) for _ in range(2))
    bias = torch.zeros(3)
    for token, value in (sampling.logit_bias or {}).items():
        bias[token] = value
    shares = sampling.probabilities(target + bias).double()
    shares /= shares.sum(-1, keepdim=True)
    rows, count = 100, 40
    counts: Counter[tuple[int, ...]] = Counter()
    for _ in range(count):
        prompts = [[0]] * rows
        draft = Draft(Table(other, rows), sampling, [noise] * rows)
        samplers = samplers_of(prompts, sampling, [noise] * rows)
        texts: list[list[int]] = [[] for _ in range(rows)]
        for row, token in speculate(
            Table(target, rows), draft, samplers, prompts, tokens=3, guesses=2
        ):
            texts[row].append(token)
        counts.update(map(tuple, texts))
    expected = {
        (a, b, c): float(shares[0, a] * shares[a, b] * shares[b, c])
        for a, b, c in product(range(3), repeat=3)
    }
    possible = [text for text, share in expected.items() if share > 0]
    assert not {*counts} - {*possible}
    found = [counts[text] for text in possible]
    wanted = np.array([expected[text] for text in possible]) * rows * count
    assert chisquare(found, wanted * (sum(found) / wanted.sum())).pvalue > 1e-4


def test_fewer_readings_where_guesses_are_right() -> None:
    net = model()
    calls = []

    class Counting(CompiledDecoder):
        def _read(self, *given_: Any) -> Tensor:
            calls.append(1)
            return super()._read(*given_)

    greedy = Sampling(0.0)
    draft = Draft(CompiledDecoder(net, 1), greedy)
    guessed(Counting(net, 1), draft, [[1]], greedy, 11)
    assert len(calls) == 1 + 2  # the prompt, then five and five


def test_ends() -> None:
    net, greedy = model(), Sampling(0.0)
    (whole,) = plain(net, [[1]], greedy, 8, lambda slots, room: CompiledDecoder(net, slots))
    draft = Draft(CompiledDecoder(net, 1), greedy)
    samplers = samplers_of([[1]], greedy, None, [3])
    end = whole[2]
    stream = speculate(CompiledDecoder(net, 1), draft, samplers, [[1]], tokens=8, end=end)
    assert [token for _, token in stream] == whole[: whole.index(end)]
    stream = speculate(
        CompiledDecoder(net, 1), Draft(CompiledDecoder(net, 1), greedy), samplers, [[1]], tokens=8
    )
    assert next(stream) == (0, whole[0]) and stream.send(False) == (0, whole[1])
    with pytest.raises(StopIteration):
        stream.send(True)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from([0, 1, 256, 65536]), max_size=14), st.integers(1, 4))
def test_looking_up_by_its_definition(text: list[int], count: int) -> None:
    wanted: list[int] = []
    for size in (4, 3, 2):
        places = [p for p in range(len(text) - size) if text[p : p + size] == text[-size:]]
        if places and len(text) > size:
            wanted = text[places[-1] + size :][:count]
            break
    assert _looked_up(text, count) == wanted
