"""Texts that grow together: each as if it were alone, whenever it joins and whatever the others do."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.models.compiled import CompiledDecoder
from fourfold.models.decoder import Decoder
from fourfold.models.generation import Voice, generate
from fourfold.models.sampling import Sampler, Sampling
from fourfold.models.torch_decoder import TorchDecoder
from fourfold.models.transformer import Transformer
from fourfold.tasks.continuous import PIECE, SHARED, Batch, Growing

GREEDY = Sampling(temperature=0)


class Letters:
    """Tokens as letters, so that texts can be looked at."""

    def push(self, token: int) -> str:
        return chr(97 + token)

    def finish(self) -> str:
        return ""


def model(vocabulary: int = 11, window: int = 64) -> Transformer:
    torch.manual_seed(1)
    made = Transformer(vocabulary, width=32, layers=2, heads=4, kv_heads=2, window=window)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return made.eval()


MODEL = model()
MAKE: dict[str, Callable[[int], Decoder]] = {
    "torch": lambda slots: TorchDecoder(MODEL, slots, torch.float32),
    "compiled": lambda slots: CompiledDecoder(MODEL, slots),
}


def growing(prompt: Sequence[int], tokens: int = 12, **given: Any) -> Growing:
    drawn = Sampler(
        given.pop("sampling", GREEDY), given.pop("generator", None), prompt, given.pop("never", ()), given.pop("guide", None),
    )  # fmt: skip
    given = {"ends": frozenset(), **given}
    stop = given.pop("stop", ())
    return Growing(list(prompt), tokens, drawn, voice=Voice(Letters(), stop), **given)


def run(batch: Batch, wanted: Sequence[Growing], steps: int = 10_000) -> dict[Growing, str]:
    """Until all have ended."""
    said = dict.fromkeys(wanted, "")
    for each in wanted:
        batch.join(each)
    while any(not g.finish for g in wanted):
        steps -= 1
        assert steps, "no end"
        for each in batch.step():
            said[each] += each.take()[0]
    return said


def alone(prompt: Sequence[int], tokens: int, sampling: Sampling = GREEDY, seed: int = 0) -> str:
    """By the plain loop."""
    generator = torch.Generator().manual_seed(seed)
    most = min(tokens, MODEL.window - len(prompt))
    made = generate(MODEL, [list(prompt)], tokens=most, sampling=sampling, generators=[generator], dtype=torch.float32)  # fmt: skip
    return "".join(chr(97 + token) for _, token in made)


@pytest.mark.parametrize(("engine", "threads"), [("torch", 1), ("compiled", 1), ("compiled", 3)])
def test_each_is_as_if_it_were_alone(engine: str, threads: int) -> None:
    """More texts than slots, of all lengths, that join at any time, some of which leave; by any number of threads."""
    draw = random.Random(3)
    decoder = MAKE[engine](3) if threads == 1 else CompiledDecoder(MODEL, 3, threads=threads)
    batch = Batch(decoder)
    texts = [[draw.randrange(11) for _ in range(draw.randrange(1, 50))] for _ in range(24)]
    waiting = [
        (prompt, growing(prompt, draw.randrange(1, 30), sampling=sampling, generator=torch.Generator().manual_seed(n)))
        for n, prompt in enumerate(texts)
        for sampling in [GREEDY if n % 2 else Sampling(0.9, top_k=5, top_p=0.95)]
    ]  # fmt: skip
    seeds = {g: n for n, (_, g) in enumerate(waiting)}
    asked, said, left = {g: g.tokens for _, g in waiting}, {}, set()
    begun: list[tuple[Sequence[int], Growing]] = []
    for _ in range(1000):
        if waiting and draw.random() < 0.3:
            prompt, new = waiting.pop(0)
            begun.append((prompt, new))
            said[new] = ""
            batch.join(new)
        if begun and draw.random() < 0.02:
            gone = draw.choice(begun)[1]
            batch.leave(gone)
            left.add(gone)
        for each in batch.step():
            said[each] += each.take()[0]
        if not waiting and all(g.finish or g in left for _, g in begun):
            break
    assert len(begun) == 24 and batch.alive <= 3 and 0 < len(left) < 12
    for prompt, each in begun:
        expected = alone(prompt, asked[each], each.sampler.sampling, seeds[each])
        if each in left:
            assert expected.startswith(said[each])
        else:
            assert said[each] == expected and each.made == len(expected)
    assert batch.alive == 0


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_who_leaves_before_the_end_gives_the_slot_back(steps: int) -> None:
    """Whether they wait, read or grow, and also where they took another's slot over."""
    batch = Batch(MAKE["torch"](2))
    for n in range(6):
        both = [growing([n, *range(10)] * 3, 20), growing([*range(10)] * 4, 20)]
        for each in both:
            batch.join(each)
        for _ in range(steps):
            batch.step()
        assert [batch.holds(each) for each in both] == [steps > 0] * 2
        for each in both:
            batch.leave(each)
            assert not batch.holds(each)
        assert batch.alive == 0 and not batch.waiting
    wanted = [growing([n, 3], 5) for n in range(5)]
    assert list(run(batch, wanted, steps=40).values()) == [alone([n, 3], 5) for n in range(5)]


@pytest.mark.parametrize("engine", MAKE)
def test_what_is_known_is_not_read_again(engine: str) -> None:
    decoder = MAKE[engine](4)
    read: list[int] = []
    plain = decoder.read

    def counted(slots: Any, tokens: Any, **more: Any) -> Tensor:
        read.append(sum(map(len, tokens)))
        return plain(slots, tokens, **more)

    decoder.read = counted  # type: ignore[method-assign]
    batch = Batch(decoder)
    system = [n % 7 for n in range(30)]
    prompts = [[*system, n] for n in range(8)]
    wanted = [growing(prompt, 5) for prompt in prompts]
    said = run(batch, wanted[:1])
    assert read[0] == 31 and wanted[0].reused == 0
    read.clear()
    said |= run(batch, wanted[1:])
    assert [g.reused for g in wanted[1:]] == [30] * 7
    assert sum(read) == 7 + 7 * 4  # the last token of each prompt, and all but the last made
    for prompt, each in zip(prompts, wanted, strict=True):
        assert said[each] == alone(prompt, 5)
    again = growing(prompts[0], 5)
    assert run(batch, [again])[again] == said[wanted[0]] and again.reused == 30


def test_one_beginning_that_many_bring_at_once_is_read_once() -> None:
    batch = Batch(MAKE["torch"](8))
    system = [n % 5 for n in range(40)]
    wanted = [growing([*system, n], 3) for n in range(8)]
    said = run(batch, wanted)
    assert [g.reused for g in wanted] == [0, *[40] * 7]
    assert [said[g] for g in wanted] == [alone([*system, n], 3) for n in range(8)]


def test_short_beginnings_are_read() -> None:
    batch = Batch(MAKE["torch"](2))
    same = [1] * (SHARED - 1)
    wanted = [growing([*same, 2], 2), growing([*same, 3], 2)]
    said = run(batch, wanted)
    assert [g.reused for g in wanted] == [0, 0] and said[wanted[1]] == alone([*same, 3], 2)


def test_a_long_prompt_does_not_hold_the_others_up() -> None:
    small = model(11, 4 * PIECE)
    batch = Batch(TorchDecoder(small, 2, torch.float32))
    short, long = growing([1, 2, 3], 50), growing([n % 11 for n in range(3 * PIECE)], 2)
    batch.join(short)
    batch.step()
    batch.join(long)
    for n in range(3):
        assert not long.made
        batch.step()
        assert short.made == n + 2
    assert long.made == 1


def test_how_it_ends() -> None:
    batch = Batch(MAKE["torch"](4))
    prompt = [1, 2, 3]
    whole = alone(prompt, 20)
    end = ord(whole[4]) - 97
    first = whole.index(whole[4])
    by_token, by_text = growing(prompt, 20, ends=frozenset({end})), growing(prompt, 20, stop=(whole[2:5],))  # fmt: skip
    by_length, by_window = growing(prompt, 7), growing([1] * 60, 20)
    said = run(batch, [by_token, by_text, by_length, by_window])
    assert (said[by_token], by_token.finish) == (whole[:first], "stop")
    assert said[by_text] == whole[: whole.index(whole[2:5])] and by_text.finish == "stop"
    assert (said[by_length], by_length.finish) == (whole[:7], "length")
    assert (len(said[by_window]), by_window.finish) == (4, "length")


def test_tokens_that_are_never_drawn() -> None:
    first = ord(alone([1, 2, 3], 1)) - 97
    batch = Batch(MAKE["torch"](1))
    each = growing([1, 2, 3], 30, never=(first,))
    assert chr(97 + first) not in run(batch, [each])[each]


@given(
    prompts=st.lists(st.lists(st.integers(0, 10), min_size=1, max_size=40), min_size=1, max_size=3),
    tokens=st.integers(0, 4),
    alternatives=st.integers(0, 3),
)
@settings(max_examples=20, deadline=None)
def test_probabilities_are_those_of_the_model(
    prompts: list[list[int]], tokens: int, alternatives: int
) -> None:
    """Of the prompt and of what is added, beside others that do not ask for any."""
    batch = Batch(MAKE["torch"](3))
    batch.join(growing([5] * 30, 3))
    wanted = [growing(p, tokens, alternatives=alternatives, echo=True) for p in prompts]
    said = run_told(batch, wanted)
    for prompt, each in zip(prompts, wanted, strict=True):
        told = said[each]
        text = [t.token for t in told]
        assert text[: len(prompt)] == prompt and len(text) == len(prompt) + tokens
        with torch.no_grad():
            logs = MODEL(torch.tensor([text]))[0].log_softmax(-1)
        assert told[0].logprob is None
        for place, one in enumerate(told[1:]):
            assert one.logprob is not None
            assert math.isclose(one.logprob, float(logs[place, one.token]), abs_tol=1e-4)
            best = logs[place].topk(alternatives)
            assert [v for _, v in one.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def run_told(batch: Batch, wanted: Sequence[Growing]) -> dict[Growing, list[Any]]:
    for each in wanted:
        batch.join(each)
    while any(not g.finish for g in wanted):
        batch.step()
    return {g: g.told for g in wanted}


class Counting:
    """A guide that lets a, b, c, ... come in order, ends after some, and may fail."""

    def __init__(self, most: int, fails: bool = False) -> None:
        self.most, self.fails, self.next = most, fails, 0

    def allowed(self) -> Tensor:
        if self.fails and self.next == 2:
            raise UserError("nothing can come next")
        return torch.arange(11) == self.next

    def push(self, token: int) -> None:
        assert token == self.next
        self.next += 1

    @property
    def ended(self) -> bool:
        return self.next == self.most


def test_guides_hold_their_own_text_alone() -> None:
    batch = Batch(MAKE["torch"](3))
    guided, failing = growing([1, 2, 3], 20, guide=Counting(4)), growing([1, 2], 20, guide=Counting(4, True))  # fmt: skip
    free = growing([1, 2, 3], 8)
    said = run(batch, [guided, failing, free])
    assert (said[guided], guided.finish, guided.wrong) == ("abcd", "stop", None)
    assert said[failing] == "ab" and str(failing.wrong) == "nothing can come next"
    assert said[free] == alone([1, 2, 3], 8)


def test_prompts_that_do_not_fit() -> None:
    batch = Batch(MAKE["torch"](1))
    for prompt in ([], [1] * 64):
        with pytest.raises(ValueError, match="prompts of 1 to 63 tokens"):
            batch.join(growing(prompt))
    batch.join(
        growing([1] * 64, 0, alternatives=0, echo=True)
    )  # to be scored, it may fill the window
    batch.step()
