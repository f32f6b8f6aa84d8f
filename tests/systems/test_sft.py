"""Tuning on conversations: what counts, and that examples in one row do not see one another."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.conversations import ConversationData, Conversations
from fourfold.data.text import Text
from fourfold.models.transformer import Transformer
from fourfold.objectives.likelihood import NextToken
from fourfold.optimizers.gradient import Gradient
from fourfold.systems.gpt import GPT
from fourfold.systems.sft import SFT

WORDS = (
    "one two three four five six seven eight nine ten red blue green cat dog sun moon tree".split()
)
TALKS = [
    {"prompt": f"{a} then {b}?", "completion": f"{b}{'!' * (n % 9)}"}
    for n, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS)
]
TEXT = {"text": [" then ".join(WORDS) + "? User: Assistant: [!] <|im_start|>\n"] * 30}


@pytest.fixture(scope="module")
def base(tmp_path_factory: Any) -> Run:
    """A narrow character model of a few words."""
    small = GPT(
        data=Text(unit="character", window=160, batch=8), layers=2, width=32, heads=2, kv_heads=1,
        optimizer=Gradient(lr=3e-3, steps=30),
    )  # fmt: skip
    return fourfold.fit(small, TEXT, out=tmp_path_factory.mktemp("runs") / "base")


@pytest.fixture(scope="module")
def tuned(base: Run, tmp_path_factory: Any) -> Run:
    """The base, tuned briefly."""
    out = tmp_path_factory.mktemp("runs") / "sft"
    return fourfold.fit("sft", TALKS, from_=base.folder, out=out, steps=200, lr=5e-3)


def model_of(data: ConversationData) -> Transformer:
    torch.manual_seed(0)
    return Transformer(len(data.vocabulary), 16, 2, 2, window=data.window).double()


def alone(data: ConversationData, example: Any, model: torch.nn.Module) -> torch.Tensor:
    """The summed loss of one example by itself, by torch's own cross-entropy."""
    tokens = torch.from_numpy(example.tokens)[None]
    said = torch.from_numpy(example.said)[1:]
    nats = F.cross_entropy(model(tokens[:, :-1])[0], tokens[0, 1:], reduction="none")
    return nats[said].sum()


def test_packed_equals_unpacked_for_every_example_and_gradient() -> None:
    data = Conversations(unit="byte", window=160).open(TALKS)
    model = model_of(data)
    examples = data.examples("train")
    expected = torch.stack([alone(data, e, model) for e in examples])
    gradients = torch.autograd.grad(expected.sum(), list(model.parameters()), retain_graph=True)

    found, packed = [], torch.zeros((), dtype=torch.float64)
    for batch in data.batches("train"):
        assert (batch["segments"].amax(1) > 1).any()
        nats = F.cross_entropy(
            model(batch["tokens"], segments=batch["segments"]).mT,
            batch["targets"],
            reduction="none",
        )
        for row, segments in zip(nats, batch["segments"], strict=True):
            found += [row[segments == n].sum() for n in range(1, int(segments.max()) + 1)]
        (move,) = NextToken().losses(model, batch)
        packed = packed + move.loss
    order = [e for row in data._packed("train", None) for e in row.tolist()]
    torch.testing.assert_close(torch.stack(found), expected[order], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(packed, expected.sum(), rtol=1e-10, atol=1e-12)
    ours = torch.autograd.grad(packed, list(model.parameters()))
    for a, b in zip(ours, gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_what_shares_a_row_changes_nothing() -> None:
    data = Conversations(unit="byte", window=160).open(TALKS)
    model = model_of(data)
    first, second, third = data.examples("train")[:3]
    with torch.no_grad():
        one, other = (
            model(batch["tokens"], segments=batch["segments"])
            for batch in (data.collate([[first, second]]), data.collate([[third, second]]))
        )
    begin, end = len(first.tokens) - 1, len(first.tokens) + len(second.tokens) - 2
    at = len(third.tokens) - 1
    torch.testing.assert_close(
        one[0, begin:end], other[0, at : at + end - begin], rtol=1e-10, atol=1e-12
    )


def weights(base: Run, **changes: Any) -> dict[str, torch.Tensor]:
    options = {"steps": 3, "clip": None, "precision": "float32", "algorithm": "sgd", "lr": 0.1}
    optimizer = {**options, **changes.pop("optimizer", {})}
    run = fourfold.fit("sft", TALKS, from_=base.folder, out=False, optimizer=optimizer, **changes)
    return run.model.state_dict()


def test_a_batch_of_8_equals_8_of_1(base: Run) -> None:
    """The denominator is the assistant's tokens of the whole step, however many a micro-batch has."""
    whole = weights(base, data={"batch": 8})
    parts = weights(base, data={"batch": 1}, optimizer={"accumulate": 8})
    before = base.model.state_dict()
    assert any(not torch.equal(before[name], whole[name]) for name in whole)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-6)


def test_a_step_divides_by_the_assistants_tokens(base: Run) -> None:
    """One step of plain gradient descent on every example, against the gradient by hand."""
    options = {
        "steps": 1,
        "clip": None,
        "precision": "float32",
        "algorithm": "sgd",
        "lr": 1.0,
        "warmup": 0,
    }
    run = fourfold.fit(
        "sft",
        TALKS,
        from_=base.folder,
        out=False,
        optimizer=options,
        data={"batch": 400, "packing": False},
    )
    data = run.data
    assert isinstance(data, ConversationData)
    model = Run.open(base.folder).model.train()
    loss = torch.stack([alone(data, e, model) for e in data.examples("train")]).sum()
    tokens = sum(int(e.said[1:].sum()) for e in data.examples("train"))
    (loss / tokens).backward()
    for (name, now), before in zip(run.model.named_parameters(), model.parameters(), strict=True):
        assert before.grad is not None
        torch.testing.assert_close(now, before - before.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_it_inherits_the_base_and_keeps_it(base: Run, tuned: Run) -> None:
    assert isinstance(tuned.system, SFT)
    assert (tuned.system.width, tuned.system.layers, tuned.system.kv_heads) == (32, 2, 1)
    assert tuned.data.window == 160  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="width 64: the weights of .* were made with width 32"):
        fourfold.fit("sft", TALKS, from_=base.folder, out=False, width=64)
    with pytest.raises(UserError, match="window 200: .* reads 160 tokens at most"):
        fourfold.fit("sft", TALKS, from_=base.folder, out=False, data={"window": 200})
    for option in ({"unit": "byte"}, {"vocabulary": 60}):
        with pytest.raises(UserError, match="takes over the vocabulary of .* without effect"):
            fourfold.fit("sft", TALKS, from_=base.folder, out=False, data=option)
    again = fourfold.open(tuned.folder)
    assert again.evaluate(TALKS[:9]).values == tuned.evaluate(TALKS[:9]).values


def test_it_learns_its_task(tuned: Run) -> None:
    score = tuned.evaluate(TALKS[:60], base=True, tokens=12)
    assert score["loss"] < 0.8 < 1.5 < score["base_loss"]
    assert score["f1"] > score["base_f1"]
    assert {"exact_match", "f1", "rouge_l", "base_rouge_l"} <= set(score.values)
    bare = tuned.evaluate(TALKS[:60], answered=0)
    assert set(bare.values) == {"loss", "perplexity"} and bare["loss"] == score["loss"]


def test_the_loss_is_that_of_the_assistants_tokens(tuned: Run) -> None:
    """Against every example by itself."""
    data = tuned.data.reopen(TALKS[:20], whole=True)
    assert isinstance(data, ConversationData)
    with torch.no_grad():
        nats = sum(float(alone(data, e, tuned.model)) for e in data.examples("test"))
    count = sum(int(e.said[1:].sum()) for e in data.examples("test"))
    assert tuned.evaluate(TALKS[:20], answered=0)["loss"] == pytest.approx(nats / count, rel=1e-5)


def test_chat_answers_and_stops(tuned: Run) -> None:
    said = "".join(tuned.chat("cat then dog?", temperature=0, tokens=40))
    assert "User:" not in said and "<|end|>" not in said
    messages = [{"role": "user", "content": "cat then dog?"}]
    assert "".join(tuned.chat(messages=messages, temperature=0, tokens=40)) == said
    longer = [*messages, {"role": "assistant", "content": "dog"}]
    again = "".join(tuned.chat("sun then moon?", messages=longer, temperature=0, tokens=40))
    assert again == "".join(tuned.chat("sun then moon?", messages=longer, temperature=0, tokens=40))
    drawn = ["".join(tuned.chat("cat then dog?", seed=s, temperature=1.5)) for s in (1, 1, 2, 3, 4)]
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1


def test_chat_and_tasks_take_the_compiled_decoder(tuned: Run) -> None:
    class Console(type(tuned.console)):  # type: ignore[misc]
        said: list[str] = []

        def say(self, sentence: str) -> None:
            self.said.append(sentence)

    tuned.console = Console()
    long = {"temperature": 0, "tokens": 80}
    said = "".join(tuned.chat("cat then dog?", **long))
    assert [s for s in Console.said if "Engine" in s] == ["Engine: compiled, float32."]
    before = [{"role": "user", "content": "cat?"}, {"role": "assistant", "content": "cat"}]
    more = "".join(tuned.chat("cat then dog?", messages=before, **long))
    assert len([s for s in Console.said if "Engine" in s]) == 1  # a conversation hears it once
    assert said == "".join(tuned.chat("cat then dog?", engine="torch", **long))
    assert more == "".join(tuned.chat("cat then dog?", messages=before, engine="torch", **long))
    assert len([s for s in Console.said if "Engine" in s]) == 1
    done = list(tuned.generate(["cat", "sun"], task="summarize", precision="int8", **long))
    assert len(done) == 2 and "Engine: compiled, int8" in Console.said[-1]
    with pytest.raises(UserError, match="--stop and --draft go with prompts that are continued"):
        "".join(tuned.generate("cat", task="summarize", draft="prompt"))


def test_a_stop_of_several_tokens_is_heeded(base: Run) -> None:
    run = fourfold.fit(
        "sft", [{**t, "completion": "no"} for t in TALKS], from_=base.folder, out=False, steps=150, lr=3e-3,
        data={"template": "chatml", "unit": "character"},
    )  # fmt: skip
    assert run.data.stop == ("<|im_end|>", None)  # type: ignore[attr-defined]
    said = "".join(run.chat("cat then dog?", temperature=0, tokens=60))
    assert said == "no"


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({}, "expected a text, or messages that end with a turn of the user"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages that end with a turn of the user"),
        ({"messages": [{"role": "usr", "content": "x"}]}, "turn 1: unknown role 'usr'"),
        ({"text": "a", "messages": [{"role": "user", "content": "x"}]}, "two user turns in a row"),
        ({"text": "a" * 300}, r"a prompt of \d+ tokens: the context holds 160"),
    ],
)  # fmt: skip
def test_wrong_messages_are_said(tuned: Run, given: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        "".join(tuned.chat(**given))


def test_a_conversation_beyond_the_context_loses_its_beginning(tuned: Run) -> None:
    class Console(type(tuned.console)):  # type: ignore[misc]
        said: list[str] = []

        def say(self, sentence: str) -> None:
            self.said.append(sentence)

    tuned.console = Console()
    turns = [{"role": r, "content": "cat dog sun"} for _ in range(9) for r in ("user", "assistant")]
    long = "".join(tuned.chat("cat?", messages=turns, system="be", temperature=0, tokens=10))
    assert "The context holds 160 tokens: the first 14 turns are left out." in Console.said
    short = "".join(tuned.chat("cat?", messages=turns[14:], system="be", temperature=0, tokens=10))
    assert long == short
    "".join(tuned.chat("猫？", tokens=1))
    assert any("2 of " in s and "are not in the vocabulary" in s for s in Console.said)


def test_tasks_have_templates_that_can_be_edited(tuned: Run, tmp_path: Path) -> None:
    assert tuned.folder is not None
    file = tuned.folder / "tasks.toml"
    assert "[summarize]" in file.read_text()
    said = "".join(tuned.generate("cat dog", task="summarize", temperature=0, tokens=9))
    asked = "Summarize the following text.\n\ncat dog"
    assert said == "".join(tuned.chat(asked, temperature=0, tokens=9))
    own = tmp_path / "own.toml"
    own.write_text('[last]\nprompt = "{text} {question}?"\n')
    said = "".join(
        tuned.generate(
            "cat", task="last", question="then dog", templates_file=own, temperature=0, tokens=9
        )
    )
    assert said == "".join(tuned.chat("cat then dog?", temperature=0, tokens=9))
    both = list(
        tuned.generate(["cat", "sun"], task="last", templates_file=own, temperature=0, tokens=9)
    )
    one = "".join(tuned.generate("sun", task="last", templates_file=own, temperature=0, tokens=9))
    assert len(both) == 2 and both[1] == one + "\n"
    with pytest.raises(UserError, match="--task sumarize: no such task; did you mean summarize"):
        "".join(tuned.generate("x", task="sumarize"))
    own.write_text("[last]\nprompt = 3")
    with pytest.raises(UserError, match=r"task last: expected \[last\] with prompt"):
        "".join(tuned.generate("x", task="last", templates_file=own))
    plain = "".join(tuned.generate("cat then", temperature=0, tokens=5, seed=1))
    assert plain == "".join(
        GPT.generate(tuned.system, tuned, "cat then", temperature=0, tokens=5, seed=1)
    )  # type: ignore[arg-type]


def test_a_conversation_in_the_terminal(
    tuned: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fourfold.cli.main import dispatch

    lines = "cat then dog?\n\nsun then moon?\n/reset\ncat then dog?\n/exit\nnever\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    dispatch(["chat", str(tuned.folder), "--temperature", "0", "--tokens", "20"])
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3 and said[0] == said[2]
    assert said[0] == "".join(tuned.chat("cat then dog?", temperature=0, tokens=20))
    dispatch(["chat", str(tuned.folder), "cat then dog?", "--temperature", "0", "--tokens", "20"])
    assert capsys.readouterr().out.strip() == said[0]


def test_the_exported_template_is_the_one_it_was_tuned_in(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    small = SFT(
        layers=1,
        width=16,
        heads=1,
        data=Conversations(unit="byte", window=96),
        optimizer=Gradient(steps=2),
    )
    run = fourfold.fit(
        small, TALKS, out=tmp_path / "run", data={"unit": "bpe", "template": "chatml"}
    )
    folder = run.export(out=tmp_path / "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "cat then dog?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    from fourfold.data.turns import Turn

    assert ids == run.data.prompt([Turn("user", "cat then dog?")])  # type: ignore[attr-defined]


def test_over_http_chat_takes_messages(tuned: Run) -> None:
    from fourfold.serve.schema import describe

    form = describe(SFT, "chat")
    assert (
        form.streams
        and form.field("messages").kind == "json"
        and form.field("text").kind == "document"
    )
    from fourfold.serve.decode import from_json

    body = json.dumps({"messages": [{"role": "user", "content": "cat, then dog?"}], "tokens": 5})
    assert from_json(form, body.encode())["messages"] == [
        {"role": "user", "content": "cat, then dog?"}
    ]


def test_a_model_may_read_more_than_it_was_trained_on(tmp_path: Path) -> None:
    """As an imported one does: rows of the length that is asked for, answers with all of its context."""
    small = GPT(
        data=Text(unit="character", window=64, batch=8), layers=1, width=16, heads=1, context_length=160,
        positions="learned", optimizer=Gradient(steps=2),
    )  # fmt: skip
    base = fourfold.fit(small, TEXT, out=tmp_path / "base")
    run = fourfold.fit("sft", TALKS, from_=base.folder, out=tmp_path / "sft", steps=2)
    assert (run.data.row, run.model.window) == (64, 160)  # type: ignore[attr-defined]
    longer = fourfold.fit("sft", TALKS, from_=base.folder, out=False, steps=2, data={"window": 100})
    assert (longer.data.row, longer.model.window) == (100, 160)  # type: ignore[attr-defined]
    assert len("".join(fourfold.open(run.folder).chat("cat " * 25, tokens=9, seed=1))) <= 9
    with pytest.raises(UserError, match="window 161: .* reads 160 tokens at most"):
        fourfold.fit("sft", TALKS, from_=base.folder, out=False, data={"window": 161})
    plain = GPT(
        data=Text(unit="character", window=64, batch=8), layers=1, width=16, heads=1, positions="learned",
        optimizer=Gradient(steps=2),
    )  # fmt: skip
    first = fourfold.fit(plain, TEXT, out=tmp_path / "plain")
    assert fourfold.fit("sft", TALKS, from_=first.folder, out=False, steps=2).model.window == 64
