"""Cached generation against reading everything anew, sampling against its definition, streams and stops."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fourfold.models.generation import Voice, generate, generate_text
from fourfold.models.positions import KINDS
from fourfold.models.sampling import Sampler, Sampling
from fourfold.models.torch_decoder import TorchDecoder
from fourfold.models.transformer import Transformer

GREEDY = Sampling(temperature=0)


def model(window: int = 16, **changes: object) -> Transformer:
    torch.manual_seed(0)
    sizes: dict = {"vocabulary": 13, "width": 16, "layers": 2, "heads": 4, "window": window}
    made = Transformer(**{**sizes, **changes}).eval()
    made.initialize(0.5)  # far from uniform: an error in the cache changes the choice
    torch.nn.init.normal_(made.norm.weight, 1.0, 0.3)
    for block in made.blocks:
        torch.nn.init.normal_(block.attention_norm.weight, 1.0, 0.3)
    return made


@torch.no_grad()
def uncached(net: Transformer, prompt: Sequence[int], tokens: int) -> list[int]:
    """Greedy continuation that reads the whole context for every token."""
    context, said = list(prompt[-net.window :]), []
    for _ in range(tokens):
        said.append(int(net(torch.tensor([context]))[0, -1].argmax()))
        context.append(said[-1])
        if len(context) > net.window:
            context = context[-((net.window + 1) // 2) :]
    return said


def cached(
    net: Transformer, prompts: Sequence[Sequence[int]], tokens: int, **settings_: object
) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in prompts]
    options: dict = {"sampling": GREEDY, "dtype": torch.float32, **settings_}
    for row, token in generate(net, prompts, tokens=tokens, **options):
        rows[row].append(token)
    return rows


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("tied", [True, False])
def test_cached_equals_uncached(kv_heads: int, tied: bool) -> None:
    net = model(kv_heads=kv_heads, tied=tied)
    prompts = [[a, b, 3] for a in range(4) for b in range(4)]
    said = cached(net, prompts, 13)
    assert said == [uncached(net, prompt, 13) for prompt in prompts]
    assert len({token for row in said for token in row}) > 4


@pytest.mark.parametrize("window", [16, 7, 2])
@pytest.mark.parametrize("prompt", [[5], list(range(12)) * 3])
def test_beyond_the_window(window: int, prompt: list[int]) -> None:
    net = model(window)
    assert cached(net, [prompt], 40) == [uncached(net, prompt, 40)]


@settings(deadline=None, max_examples=15)
@given(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=20), min_size=1, max_size=4))
def test_an_answer_does_not_depend_on_its_batch_mates(prompts: list[list[int]]) -> None:
    net = model(8)
    assert cached(net, prompts, 20) == [cached(net, [p], 20)[0] for p in prompts]
    noise = [torch.Generator().manual_seed(3) for _ in prompts]
    together = cached(net, prompts, 20, sampling=Sampling(1.0), generators=noise)
    for prompt, said in zip(prompts, together, strict=True):
        alone = [torch.Generator().manual_seed(3)]
        assert cached(net, [prompt], 20, sampling=Sampling(1.0), generators=alone) == [said]


def test_step_gives_the_logits_of_the_model() -> None:
    net = model(kv_heads=2)
    tokens = torch.randint(13, (3, 10))
    decoder = TorchDecoder(net, 3, torch.float32)
    found = [decoder.read(range(3), tokens[:, :4].tolist())]
    found += [decoder.read(range(3), tokens[:, t : t + 1].tolist()) for t in range(4, 10)]
    with torch.no_grad():
        torch.testing.assert_close(torch.stack(found, 1), net(tokens)[:, 3:])


def test_bfloat16_weights_are_close() -> None:
    net = model(width=64, heads=2)
    exact, fast = TorchDecoder(net, 1, torch.float32), TorchDecoder(net, 1, torch.bfloat16)
    for decoder in (exact, fast):
        decoder.read([0], [[1, 2]])
    a, b = exact.read([0], [[3]]), fast.read([0], [[3]])
    torch.testing.assert_close(b, a, rtol=0.05, atol=0.1 * float(a.abs().max()))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bfloat16_logits_are_drawn_from(temperature: float) -> None:
    said = cached(model(), [[1], [2, 3]], 5, sampling=Sampling(temperature), dtype=torch.bfloat16)
    assert [len(row) for row in said] == [5, 5]


def test_the_end_token_ends_a_row_only() -> None:
    net = model()
    alone = cached(net, [[1], [2]], 12)
    end = alone[0][3]
    ended = cached(net, [[1], [2]], 12, end=end)
    assert ended[0] == alone[0][: alone[0].index(end)]
    stop = alone[1].index(end) if end in alone[1] else 12
    assert ended[1] == alone[1][:stop]


def test_filters_by_definition() -> None:
    shares = torch.tensor([[0.5, 0.25, 0.15, 0.1]])
    for sampling, left in [
        (Sampling(), [0.5, 0.25, 0.15, 0.1]),
        (Sampling(top_k=2), [0.5, 0.25, 0, 0]),
        (Sampling(top_k=9), [0.5, 0.25, 0.15, 0.1]),
        (Sampling(top_p=0.7), [0.5, 0.25, 0, 0]),
        (Sampling(top_p=0.0), [0.5, 0, 0, 0]),
        (Sampling(top_p=1.0), [0.5, 0.25, 0.15, 0.1]),
        (Sampling(min_p=0.3), [0.5, 0.25, 0.15, 0]),
        (Sampling(min_p=1.0), [0.5, 0, 0, 0]),
        (Sampling(temperature=0.5), [0.25, 0.0625, 0.0225, 0.01]),
    ]:
        found = sampling.probabilities(shares.log())[0]
        wanted = torch.tensor(left)
        torch.testing.assert_close(found / found.sum(), wanted / wanted.sum())


def test_samples_follow_their_distribution() -> None:
    shares = torch.tensor([0.6, 0.3, 0.1])
    generator = torch.Generator().manual_seed(0)
    logits = shares.log().expand(5000, 3)
    drawn = torch.tensor(Sampling().draw(logits, [generator] * 5000))
    frequencies = drawn.bincount(minlength=3) / 5000
    torch.testing.assert_close(frequencies, shares, rtol=0, atol=0.03)  # four deviations


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1}, {"top_k": 0}, {"top_p": 1.5}, {"min_p": -0.1}, {"repetition_penalty": 0}],
)
def test_sampling_out_of_range(wrong: dict) -> None:
    with pytest.raises(ValueError, match="Sampling expects"):
        Sampling(**wrong)


def test_penalty_and_bias_by_definition() -> None:
    sampler = Sampler(Sampling(repetition_penalty=2.0, logit_bias={0: 1.5, 3: -1.0}), past=[0, 1])
    sampler.push(3)
    found = sampler.adjusted(torch.tensor([0.5, -3.0, 4.0, 2.0, 1.0]))
    assert found.tolist() == [1.0, -6.0, 4.0, 0.5, 1.0]
    logits = torch.tensor([[0.5, -3.0]])
    assert Sampler(Sampling()).adjusted(logits[0]) is not None and logits.tolist() == [[0.5, -3.0]]


class Letters:
    """Tokens are letters; "z" is held back until the next one comes."""

    def __init__(self) -> None:
        self.held = ""

    def push(self, token: int) -> str:
        text = self.held + chr(97 + token)
        self.held = "z" if text.endswith("z") else ""
        return text[: len(text) - len(self.held)]

    def finish(self) -> str:
        return self.held


def said(text: str, stop: Sequence[str]) -> tuple[list[str], bool]:
    voice, pieces = Voice(Letters(), stop), []
    for letter in text:
        pieces.append(voice.push(ord(letter) - 97))
        if voice.ended:
            break
    return [*pieces, voice.finish()], voice.ended


def test_stop_strings_across_tokens() -> None:
    assert said("abcdef", ["cd"]) == (["a", "b", "", "", ""], True)
    assert said("abcef", ["cd"]) == (["a", "b", "", "ce", "f", ""], False)
    assert said("abc", ["cd"]) == (["a", "b", "", "c"], False)
    assert "".join(said("aabaac", ["aac"])[0]) == "aab"
    assert "".join(said("xyzq", ["zq", "y"])[0]) == "x"
    assert "".join(said("abz", ["bz"])[0]) == "a"
    assert said("ab", [""]) == (["a", "b", ""], False)


@settings(deadline=None, max_examples=100)
@example("aza", ["z", "aza"])
@given(st.text("abz", max_size=12), st.lists(st.text("abz", min_size=1, max_size=3), max_size=3))
def test_stop_strings_equal_searching_the_whole_text(text: str, stop: list[str]) -> None:
    ends = [text.find(s) for s in stop if s in text]
    first = min((text.find(s) + len(s) for s in stop if s in text), default=len(text))
    voice = "".join(said(text, stop)[0])
    # token after token, the stop string that is whole first decides, not the one that begins first
    cut = [text.find(s) for s in stop if s in text[:first]]
    assert voice == (text[: min(cut)] if ends else text)


def test_text_streams_and_stops() -> None:
    net = model()
    options: dict = {"sampling": Sampling(2.0), "tokens": 12, "dtype": torch.float32}

    def noise() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(0) for _ in range(2)]

    tokens = [t for row, t in generate(net, [[1], [1]], **options, generators=noise()) if row == 0]
    text = "".join(chr(97 + t) for t in tokens)
    stop = text[4:6]
    assert text.find(stop) == 4
    whole = {0: "", 1: ""}
    voices = [Voice(Letters(), [stop]), Voice(Letters())]
    for row, piece in generate_text(net, [[1], [1]], voices, **options, generators=noise()):
        whole[row] += piece
    assert whole == {0: text[:4], 1: text}


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1.0, 1e30, 1.7e308])
def test_no_temperature_makes_what_must_never_come_possible(temperature: float) -> None:
    logits = torch.tensor([[1.0, float("-inf"), 3.0]])
    for filters in ({}, {"min_p": 0.9}, {"top_p": 0.5}, {"top_k": 2}):
        shares = Sampling(temperature, **filters).probabilities(logits)
        assert shares.isfinite().all() and shares[0, 1] == 0 and shares.sum() > 0


FORMS: dict[str, dict] = {
    **{kind: {"positions": kind} for kind in KINDS},
    "gpt2": {"positions": "learned", "norm": "layer", "feedforward": "gelu_tanh", "bias": "all"},
    "qwen2": {"bias": "qkv", "sliding": (None, 5)},
    "qwen3": {"query_key_norm": True, "head_dim": 6},
    "mistral": {"sliding": 3},
    "sliding alibi": {"positions": "alibi", "sliding": 4},
    "sliding shaw": {"positions": "shaw", "sliding": 2, "kv_heads": 1},
    "scale": {"scale": 0.9, "query_key_norm": True},
    "odd heads": {"positions": "alibi", "heads": 3, "kv_heads": 3, "width": 18},
}


def perturbed(**form: object) -> Transformer:
    """A model of which every weight counts: biases and norms too are far from where they begin."""
    made = model(**{"kv_heads": 2, **form})
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim < 2:
                weight += 0.3 * torch.randn_like(weight)
    return made


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_cached_equals_uncached(form: dict) -> None:
    net = perturbed(window=11, **form)
    tokens = torch.randint(13, (3, 11))
    decoder = TorchDecoder(net, 3, torch.float32)
    found = [decoder.read(range(3), tokens[:, :4].tolist())]
    found += [decoder.read(range(3), tokens[:, t : t + 1].tolist()) for t in range(4, 11)]
    with torch.no_grad():
        oracle = net(tokens)[:, 3:]
    torch.testing.assert_close(torch.stack(found, 1), oracle, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(sorted(FORMS)),
    st.integers(2, 12),
    st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=14), min_size=1, max_size=3),
)
def test_every_form_answers_rows_of_any_length_alike(
    form: str, window: int, prompts: list[list[int]]
) -> None:
    net = perturbed(window=window, **FORMS[form])
    assert cached(net, prompts, 15) == [uncached(net, prompt, 15) for prompt in prompts]
