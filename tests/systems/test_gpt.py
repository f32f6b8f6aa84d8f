"""The GPT system: verbs on a run that has learned, scores against their definition, bad input."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.text import Text
from fourfold.optimizers.gradient import Gradient
from fourfold.systems.gpt import GPT
from fourfold.tasks.language import vocabulary_of
from fourfold.tasks.transformer_reader import surprises

LESSON = "the cat sat on the mat. the dog sat on the log. "


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.manual_seed(0)
    toy, _ = GPT.toy()
    system = toy.model_copy(
        update={
            "data": Text(unit="character", window=24, batch=16),
            "optimizer": Gradient(
                algorithm="muon", lr=0.02, other_lr=1e-2, steps=200, precision="float32"
            ),
        }
    )
    return fourfold.fit(
        system, {"text": [LESSON * 120]}, out=tmp_path_factory.mktemp("gpt") / "run"
    )


def test_learns_and_continues(run: Run) -> None:
    text = "".join(run.generate("the cat sat on ", tokens=60, temperature=0))
    assert text.startswith("the ") and len(text) == 60
    assert text in LESSON * 4 or "sat on the" in text


def test_a_known_entropy_is_reached() -> None:
    """Independent letters with P = 1/4, 3/4 have H = 0.5623 nats: less would be leaked targets."""
    generator = torch.Generator().manual_seed(0)
    letters = (torch.rand(60_000, generator=generator) < 0.25).tolist()
    toy, _ = GPT.toy()
    system = toy.model_copy(update={"optimizer": Gradient(lr=3e-3, steps=100, precision="float32")})
    text = "".join("ab"[int(b)] for b in letters)
    fitted = fourfold.fit(system, {"text": [text]}, out=False)
    assert fitted.evaluate()["loss"] == pytest.approx(0.5623, abs=0.025)


def test_streams_a_single_prompt_and_lists_several(run: Run) -> None:
    pieces = list(run.generate("the ", tokens=20, seed=1))
    assert len(pieces) == 20
    both = list(run.generate(["the ", "a "], tokens=20, seed=1))
    assert both[0] == "".join(pieces) + "\n" and len(both) == 2
    assert both == [f"{''.join(run.generate(p, tokens=20, seed=1))}\n" for p in ("the ", "a ")]


def test_counts_and_seeds(run: Run) -> None:
    three = list(run.generate("the ", tokens=30, count=3, seed=1, temperature=1.5))
    assert len(set(three)) == 3
    assert three == list(run.generate("the ", tokens=30, count=3, seed=1, temperature=1.5))
    assert three != list(run.generate("the ", tokens=30, count=3, seed=2, temperature=1.5))
    assert three[:1] == ["".join(run.generate("the ", tokens=30, seed=1, temperature=1.5)) + "\n"]


def test_stops_before_a_string(run: Run) -> None:
    text = "".join(run.generate("the cat ", tokens=60, temperature=0))
    assert "." in text
    stopped = "".join(run.generate("the cat ", tokens=60, temperature=0, stop=(".",)))
    assert stopped == text[: text.index(".")]


def test_an_empty_prompt_and_an_unknown_letter(run: Run) -> None:
    assert "".join(run.generate(tokens=5, seed=0)) == "".join(run.generate([], tokens=5, seed=0))
    assert len("".join(run.generate("%", tokens=5, seed=0))) == 5
    assert run.system.preview(run) == run.system.preview(run)


@torch.no_grad()
def slow_surprises(model: torch.nn.Module, tokens: list[int]) -> list[float]:
    """Token after token: windows begin at 0, then every half window."""
    window, found, begin = model.window, [], 0
    for i in range(1, len(tokens)):
        if i - begin > window:
            begin = min(begin + max(1, window // 2), len(tokens) - 1 - window)
        logits = model(torch.tensor([tokens[begin:i]]))[0, -1]
        found.append(float(F.cross_entropy(logits, torch.tensor(tokens[i]))))
    return found


@pytest.mark.parametrize("length", [1, 2, 23, 24, 25, 36, 37, 48, 61, 100])
def test_every_token_is_scored_once(run: Run, length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    size = len(run.data.vocabulary)
    tokens = torch.randint(size, (length + 1,), generator=generator).tolist()
    fast = surprises(run.model, tokens)
    assert fast.shape == (length,)
    slow = torch.tensor(slow_surprises(run.model, tokens), dtype=torch.float64)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)


def test_score_in_all_its_units(run: Run) -> None:
    text = "the cat sat on the mat."
    score = run.score(text)
    data = run.data
    tokens = [data.vocabulary.end, *data.vocabulary.encode(text).tolist()]
    nats = float(surprises(run.model, tokens).sum())
    assert score["tokens"] == len(text)
    assert score["nats_per_token"] == pytest.approx(nats / len(text))
    assert score["bits_per_token"] == pytest.approx(nats / len(text) / math.log(2))
    assert score["bits_per_byte"] == pytest.approx(nats / len(text) / math.log(2))
    assert score["perplexity"] == pytest.approx(math.exp(nats / len(text)))
    assert run.score("tac eht no tas")["nats_per_token"] > 2 * score["nats_per_token"]
    assert "1 of 2 tokens" in run.score("a%").notes[0]
    with pytest.raises(UserError, match="empty"):
        run.score("")


def test_vectors_are_the_mean_of_a_texts_states(run: Run) -> None:
    long = "ab" * run.model.window  # type: ignore[operator]
    table = run.embed(["the cat", "the cat.", long])
    assert table["text"].to_list() == ["the cat", "the cat.", long]
    found = table.drop("text").to_numpy()
    vocabulary = vocabulary_of(run.data)
    for text, row in zip(["the cat", long], (found[0], found[2]), strict=True):
        tokens = vocabulary.encode(text)[: run.model.window - 1].tolist()  # type: ignore[operator]
        with torch.no_grad():
            states = run.model.states(torch.tensor([[vocabulary.opening, *tokens]]))[0]  # type: ignore[operator]
        expected = states[-len(tokens) :].mean(0)
        assert row == pytest.approx((expected / expected.norm()).numpy(), abs=1e-5)
    assert found[0] @ found[1] > found[0] @ found[2]
    assert run.embed("the cat").drop("text").to_numpy()[0] == pytest.approx(found[0], abs=1e-6)
    with pytest.raises(UserError, match="a text is empty"):
        run.embed(["a", " "])


def test_evaluates_its_own_and_other_texts(run: Run) -> None:
    own, other = run.evaluate(), run.evaluate({"text": ["on the log the cat sat. " * 8]})
    assert own["loss"] < 0.5 < other["loss"]
    assert own["bits_per_byte"] == pytest.approx(own["loss"] / math.log(2), rel=1e-6)
    assert own["perplexity"] == pytest.approx(math.exp(own["loss"]), rel=1e-6)
    assert other["tokens"] == 24 * 8 + other["tokens"] % 1


def test_export_is_read_by_transformers(run: Run, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer, LlamaForCausalLM
    folder = run.export(out=tmp_path / "hf")
    theirs, tokenizer = (
        LlamaForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    tokens = tokenizer("the cat sat", add_special_tokens=False)["input_ids"]
    assert tokens == run.data.vocabulary.encode("the cat sat").tolist()
    with torch.no_grad():
        logits = theirs(torch.tensor([tokens])).logits - run.model(torch.tensor([tokens]))
    assert float(logits.abs().max()) < 1e-4
    assert run.export() == run.folder.with_name("run-hf")


def test_sizes_that_do_not_divide() -> None:
    _, source = GPT.toy()
    with pytest.raises(UserError, match="context 4: gpt sees all of its window"):
        fourfold.fit("gpt", source, out=False, context=4, steps=1, unit="character")
    with pytest.raises(UserError, match="width 30, heads 4: .*heads [35] would do"):
        fourfold.fit("gpt", source, out=False, width=30, heads=4, steps=1, unit="character")
    with pytest.raises(UserError, match="kv_heads 3: expected a divisor of heads 4: 1, 2, 4"):
        fourfold.fit("gpt", source, out=False, heads=4, kv_heads=3, steps=1, unit="character")
    with pytest.raises(UserError, match="dropout"):
        fourfold.fit("gpt", source, out=False, dropout=1.0)


@pytest.mark.parametrize("size", sorted(GPT.sizes))
def test_sizes_build(size: str) -> None:
    from fourfold.api import configure

    configured = configure(GPT, {"unit": "byte"}, size)
    with torch.device("meta"):
        model = configured.build(Text(unit="byte").open({"text": [LESSON * 50]}))
    count = sum(p.numel() for p in model.parameters())
    assert model.width // model.heads in (32, 64)
    if size == "base":  # GPT-2 small has 85.1 M without embeddings
        assert count == pytest.approx(85e6, rel=0.01)


def test_from_refuses_what_the_old_preparation_would_ignore(run: Run, tmp_path: Path) -> None:
    for options, sentence in (
        ({"unit": "word"}, "data.unit stays 'character' (got 'word')"),
        ({"vocabulary": 20}, "data.vocabulary stays None (got 20)"),
        ({"layers": 3}, f"--layers 3: the weights of {run.folder} were made with layers 2"),
    ):
        with pytest.raises(UserError) as error:
            fourfold.fit(GPT, {"text": [LESSON * 20]}, from_=run, out=False, steps=1, **options)
        assert sentence in str(error.value) and "\n" not in str(error.value)
    again = fourfold.fit(GPT, {"text": [LESSON * 20]}, from_=run, out=False, steps=1, batch=4)
    assert again.system.data.batch == 4  # type: ignore[attr-defined]
    assert again.data.vocabulary.digest == run.data.vocabulary.digest  # type: ignore[attr-defined]


def test_greedy_takes_the_most_likely_token(run: Run) -> None:
    """Temperature 0 is the argmax of the model itself, not of a rounded copy."""
    prompt = "the dog sat "
    vocabulary = run.data.vocabulary  # type: ignore[attr-defined]
    tokens = vocabulary.encode(prompt).tolist()
    with torch.no_grad():
        for _ in range(10):
            tokens.append(int(run.model(torch.tensor([tokens]))[0, -1].argmax()))
    expected = vocabulary.decode(tokens)[len(prompt) :]
    assert "".join(run.generate(prompt, tokens=10, temperature=0)) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"positions": "learned", "kv_heads": 2, "norm": "layer", "feedforward": "gelu_tanh", "bias": "all", "context_length": 64},
        {"positions": "alibi", "query_key_norm": True, "feedforward": "reglu"},
        {"positions": "t5", "bias": "qkv", "tied": True},
        {"sliding": 5, "sliding_from": 1, "query_key_norm": True, "head_dim": 8, "rotary_scaling": {"rope_type": "linear", "factor": 2.0}},
    ],
)  # fmt: skip
def test_every_form_is_learned_opened_and_continued(tmp_path: Path, options: dict) -> None:
    toy, source = GPT.toy()
    made = fourfold.fit(
        fourfold.api.configure(toy, options),
        source,
        out=tmp_path / "run",
        steps=3,
        precision="float32",
    )
    again = fourfold.open(tmp_path / "run")
    vocabulary = again.data.vocabulary  # type: ignore[attr-defined]
    tokens = vocabulary.encode("1 and 2 make ").tolist()
    with torch.no_grad():
        torch.testing.assert_close(
            again.model(torch.tensor([tokens])), made.model(torch.tensor([tokens]))
        )
        for _ in range(8):
            tokens.append(int(again.model(torch.tensor([tokens]))[0, -1].argmax()))
    assert "".join(again.generate("1 and 2 make ", tokens=8, temperature=0)) == vocabulary.decode(
        tokens[-8:]
    )
    if options["positions" if "positions" in options else "sliding"] in ("alibi", "t5"):
        with pytest.raises(
            UserError, match=f"no supported family .* positions {options['positions']}"
        ):
            again.export(out=tmp_path / "hf")
    else:
        again.export(out=tmp_path / "hf")  # reads back and compares
        assert (tmp_path / "hf" / "config.json").exists()
