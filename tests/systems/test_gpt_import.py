"""Models of other libraries as runs: they say what transformers says, learn further, and go back whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.hf_models import FAMILIES, TEXT, saved, tokenizer_of, transformers

import fourfold
from fourfold.core.console import Silent
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.systems.gpt import GPT

CHAT = "{% for m in messages %}<|turn|>{{ m['role'] }}: {{ m['content'] }}<|stop|>{% endfor %}"


class Heard(Silent):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A Llama whose texts begin with a token, with a chat template, and a run of it."""
    folder = tmp_path_factory.mktemp("llama")
    saved(folder / "hf", "llama", begin=True, chat=CHAT, max_position_embeddings=64)
    return folder / "hf", fourfold.import_(folder / "hf", out=folder / "run")


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_continuations_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    theirs = saved(tmp_path / "hf", family, 1, begin=family in ("llama", "mistral"))
    run = fourfold.import_(tmp_path / "hf", out=False)
    assert isinstance(run.system, GPT) and run.system.family == family
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    for prompt in ("the cat", "猫坐"):
        tokens = tokenizer(prompt, return_tensors="pt")["input_ids"]
        said = theirs.generate(
            tokens,
            max_new_tokens=16,
            do_sample=False,
            pad_token_id=0,
            attention_mask=torch.ones_like(tokens),
        )[0, tokens.shape[1] :].tolist()
        said = said[: min([said.index(e) for e in (1, 2) if e in said], default=None)]
        reader = run.system.reader(run)
        from fourfold.models.sampling import Sampling

        found = reader.read_on(
            [run.data.vocabulary.encode(prompt).tolist()],
            tokens=16,
            sampling=Sampling(0.0),
            generators=[None],  # type: ignore[attr-defined, list-item]
        )
        assert [token for _, token in found] == said
        text = "".join(run.generate(prompt, tokens=16, temperature=0))
        assert text == run.data.vocabulary.decode(said)  # type: ignore[attr-defined]


def test_an_imported_run_is_whole_and_opens_again(llama: tuple[Path, Run]) -> None:
    folder, run = llama
    again = fourfold.open(run.folder)
    assert again.system == run.system and again.data.vocabulary.digest == run.data.vocabulary.digest
    assert all(
        torch.equal(a, b)
        for a, b in zip(run.model.parameters(), again.model.parameters(), strict=True)
    )
    vocabulary = again.data.vocabulary
    assert (vocabulary.begin, vocabulary.end, vocabulary.ends) == (0, 1, (1, 2))
    assert vocabulary.chat_template == CHAT
    text = "the cat sat on “naïve” 猫"
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert vocabulary.encode("<|stop|>").tolist() != [1]  # text that spells a special token is text
    before = run.score("the cat sat on the mat.")
    assert before["nats_per_token"] == pytest.approx(
        again.score("the cat sat on the mat.")["nats_per_token"]
    )
    assert any("LlamaForCausalLM" in note for note in again.notes)
    with pytest.raises(UserError, match="was imported"):
        again.evaluate()
    assert (run.folder / "report.html").exists()


def test_scores_are_those_of_transformers(llama: tuple[Path, Run]) -> None:
    folder, run = llama
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "the dog sat on the log. the cat"
    tokens = tokenizer(text, return_tensors="pt")["input_ids"]
    assert tokens[0, 0] == 0  # the family's texts begin with it
    with torch.no_grad():
        loss = float(theirs(tokens, labels=tokens).loss)
    assert run.score(text)["nats_per_token"] == pytest.approx(loss, rel=1e-4)


def test_it_learns_further_and_goes_back(llama: tuple[Path, Run], tmp_path: Path) -> None:
    folder, base = llama
    run = fourfold.fit(
        "gpt",
        {"text": [TEXT] * 4},
        from_=base.folder,
        out=tmp_path / "run",
        window=16,
        steps=30,
        lr=3e-3,
    )
    assert run.system.family == "llama" and run.system.optimizer.algorithm == "adamw"  # type: ignore[attr-defined]
    tokens = run.examples().tokens("train").tolist()  # type: ignore[attr-defined]
    after_ends = [tokens[i + 1] for i, token in enumerate(tokens[:-1]) if token == 1]
    assert tokens[0] == 0 and after_ends and set(after_ends) == {0}
    targets = torch.cat([b["targets"].flatten() for b in run.examples().batches("train")])
    assert not (targets == 0).any() and (targets == 1).any()  # what is given is not guessed
    other = {"text": ["the cat sat on the log."]}
    assert run.evaluate(other)["loss"] < base.evaluate(other)["loss"]
    out = run.export(out=tmp_path / "back")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    assert type(theirs).__name__ == "LlamaForCausalLM"
    sample = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(sample).logits, run.model(sample), atol=1e-4, rtol=1e-4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert (
        tokenizer("the cat")["input_ids"]
        == transformers.AutoTokenizer.from_pretrained(folder)("the cat")["input_ids"]
    )
    turns = [{"role": "user", "content": "the cat?"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "<|turn|>user: the cat?<|stop|>"
    assert (tokenizer.eos_token, tokenizer.bos_token) == ("<|stop|>", "<|begin|>")


@pytest.mark.parametrize("family", FAMILIES)
def test_export_gives_back_what_was_imported(tmp_path: Path, family: str) -> None:
    saved(tmp_path / "hf", family, 2, chat=CHAT)
    run = fourfold.import_(tmp_path / "hf", out=tmp_path / "run")
    run.export(out=tmp_path / "back")
    before, after = (load_file(tmp_path / f / "model.safetensors") for f in ("hf", "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
    ):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "hf" / name).read_bytes(), (
            name
        )
    a, b = (transformers.AutoConfig.from_pretrained(tmp_path / f) for f in ("hf", "back"))
    assert a.architectures == b.architectures
    assert b.eos_token_id == [1, 2] and a.vocab_size == b.vocab_size


def test_padded_embeddings_are_said_and_never_drawn(tmp_path: Path) -> None:
    theirs = saved(tmp_path / "hf", "qwen2", vocab_size=340)
    with torch.no_grad():  # what is beyond the tokenizer would win
        theirs.get_output_embeddings().weight[300:] *= 30
    theirs.save_pretrained(tmp_path / "hf")
    run = fourfold.import_(tmp_path / "hf", out=tmp_path / "run")
    assert any(
        "340 rows and the tokenizer 300 entries: the other 40 are never drawn" in n
        for n in run.notes
    )
    again = fourfold.open(run.folder)
    assert len(again.data.vocabulary) == 340 and again.data.vocabulary.never == tuple(
        range(300, 340)
    )
    drawn = [t for _, t in _stream(again, tokens=20)]
    assert drawn and max(drawn) < 300
    assert "".join(again.generate("the", tokens=5, temperature=0)) is not None


def _stream(run: Run, **options: Any) -> Any:
    from fourfold.models.sampling import Sampling

    vocabulary = run.data.vocabulary  # type: ignore[attr-defined]
    return run.system.reader(run).read_on(
        [vocabulary.encode("the").tolist()], sampling=Sampling(0.0), generators=[None], never=vocabulary.never, **options
    )  # fmt: skip


def test_prompts_longer_than_the_context_are_said(llama: tuple[Path, Run]) -> None:
    run = fourfold.open(llama[1].folder)
    run.console = heard = Heard()
    assert run.model.window == 64 and run.system.data.window == 64
    "".join(run.generate(TEXT[:600], tokens=5, temperature=0))
    assert any(
        "is longer than the window: the last 63 of them are read" in s for s in heard.sentences
    )


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "llama")
    tokenizer_of(size=310).save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"tokenizer has 310 entries and the model's embedding 300 rows"
    ):
        fourfold.import_(tmp_path, out=False)


def test_options_that_would_change_the_weights(llama: tuple[Path, Run]) -> None:
    base = llama[1]
    width = base.system.width  # type: ignore[attr-defined]
    for options, words in (
        (
            {"width": 2 * width, "head_dim": 8},
            f"--width {2 * width}: the weights of {base.folder} were made with width {width}",
        ),
        ({"norm": "layer"}, "--norm layer: .* made with norm rms"),
        ({"query_key_norm": True}, "--query-key-norm True: .* made with query_key_norm False"),
        (
            {"window": 65},
            "data.window 65: more tokens than --context-length 64, .* expected --data.window 64 or less",
        ),
    ):
        with pytest.raises(UserError, match=words):
            fourfold.fit("gpt", {"text": [TEXT]}, from_=base.folder, out=False, steps=1, **options)  # type: ignore[arg-type]
    longer = fourfold.fit(
        "gpt", {"text": [TEXT * 2]}, from_=base.folder, out=False, steps=1, window=100, context_length=128,
        rotary_scaling={"rope_type": "linear", "factor": 2.0},
    )  # fmt: skip
    assert longer.model.window == 128


def test_learned_positions_stay_as_many(tmp_path: Path) -> None:
    saved(tmp_path / "hf", "gpt2")
    base = fourfold.import_(tmp_path / "hf", out=tmp_path / "run")
    with pytest.raises(UserError, match="--context-length 64: .* made with context_length 32"):
        fourfold.fit(
            "gpt", {"text": [TEXT]}, from_=base.folder, out=False, steps=1, context_length=64
        )
    run = fourfold.fit("gpt", {"text": [TEXT]}, from_=base.folder, out=False, steps=1, window=8)
    assert run.model.window == 32


def test_gpt2_without_a_tokenizer_json(tmp_path: Path) -> None:
    saved(tmp_path, "gpt2")
    described = json.loads((tmp_path / "tokenizer.json").read_text())
    wanted = fourfold.import_(tmp_path, out=False).data.vocabulary.encode(TEXT).tolist()  # type: ignore[attr-defined]
    vocab, merges = described["model"]["vocab"], described["model"]["merges"]
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (tmp_path / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(m) for m in merges), encoding="utf-8"
    )
    (tmp_path / "tokenizer.json").unlink()
    found = fourfold.import_(tmp_path, out=False)
    assert found.data.vocabulary.encode(TEXT).tolist() == wanted  # type: ignore[attr-defined]
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(UserError, match="has no tokenizer.json; .*save_pretrained"):
        fourfold.import_(tmp_path, out=False)


def test_folders_that_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "hf", "qwen3")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())

    def folder(name: str, **changes: Any) -> Path:
        made = shutil.copytree(tmp_path / "hf", tmp_path / name)
        (made / "config.json").write_text(json.dumps({**config, **changes}))
        return made

    for place, words in (
        (
            folder("bloom", architectures=["BloomForCausalLM"]),
            "architecture BloomForCausalLM.*supported: LlamaForCausalLM, ",
        ),
        (
            folder("t5", architectures=["T5ForConditionalGeneration"]),
            "no system recognizes it .*gpt reads Hugging Face folders",
        ),
        (
            folder(
                "mixed",
                use_sliding_window=True,
                sliding_window=4,
                layer_types=["sliding_attention", "full_attention"]
                + ["full_attention"] * (config["num_hidden_layers"] - 2),
            ),
            "layer_types",
        ),
        (tmp_path / "none", "no such file or folder"),
    ):
        with pytest.raises(UserError, match=words):
            fourfold.import_(place, out=False)
