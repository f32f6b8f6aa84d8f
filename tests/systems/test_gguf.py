"""Runs as GGUF files and ollama's folders, and back: the same greedy tokens, tokenizer and chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import fourfold
from fourfold.core.console import Silent
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.chat import TEMPLATES, Chat
from fourfold.data.gguf_tokenizer import read_settings, tokenizer_settings
from fourfold.data.subwords import Subwords
from fourfold.data.text import Text
from fourfold.data.turns import Turn
from fourfold.data.vocabulary import Bytes
from fourfold.models.gguf_file import GGUFFile
from fourfold.models.llama_cpp import LlamaCppDecoder
from fourfold.optimizers.gradient import Gradient
from fourfold.systems.gpt import GPT
from fourfold.tasks.language import vocabulary_of
from fourfold.tasks.ollama import go_template, modelfile

pytest.importorskip("gguf")
TEXT = "the cat sat on the mat. User:\nwhere is the dog?\nAssistant:\non the log. “naïve” 猫坐在垫子上。 12345\n"


class Heard(Silent):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A narrow model of sub-words whose rows are whole blocks."""
    system = GPT(
        data=Text(unit="bpe", vocabulary=300, window=48, batch=8), layers=2, width=64, heads=4, kv_heads=2,
        optimizer=Gradient(lr=5e-3, steps=30, precision="float32"),
    )  # fmt: skip
    texts = {"text": [f"{n} {TEXT}" for n in range(60)]}
    return fourfold.fit(system, texts, out=tmp_path_factory.mktemp("gguf") / "run")


def exported(run: Run, out: Path, **options: Any) -> list[str]:
    run.console = Heard()
    assert run.export(out=out, **options) == out
    return run.console.sentences


@pytest.mark.parametrize("quantize", ["f32", "f16"])
def test_greedy_tokens_of_what_is_read_back_are_the_runs(
    run: Run, tmp_path: Path, quantize: str
) -> None:
    exported(run, tmp_path / "m.gguf", to="gguf", quantize=quantize)
    back = fourfold.import_(tmp_path / "m.gguf", out=tmp_path / "back")
    assert back.system.name == "gpt"
    for prompt in ("the cat", "猫坐", "User:\n", ""):
        told = {"tokens": 40, "temperature": 0}
        assert "".join(back.generate(prompt, **told)) == "".join(run.generate(prompt, **told))
    texts = [TEXT, "  double  spaces\t\n\n<|end|> 猫", "don't 3.14"]
    before, after = (r.data.vocabulary for r in (run, Run.open(tmp_path / "back")))
    for text in texts:
        assert before.encode(text).tolist() == after.encode(text).tolist()
    assert (after.end, after.begin, after.ends, len(after)) == (before.end, None, (before.end,), len(before))  # fmt: skip
    assert float(back.score(TEXT)["bits_per_byte"]) == pytest.approx(
        float(run.score(TEXT)["bits_per_byte"]), rel=1e-6 if quantize == "f32" else 2e-3
    )


@pytest.mark.parametrize(
    ("quantize", "tolerance"), [("f32", 1e-4), ("f16", 2e-3), ("q8_0", 0.05), ("q4_0", 0.3)]
)
def test_llama_cpp_gives_the_same_probabilities(
    run: Run, tmp_path: Path, quantize: str, tolerance: float
) -> None:
    """As the model with the weights that the file rounds to; of rounded weights llama.cpp rounds the states too."""
    pytest.importorskip(
        "llama_cpp", reason="llama-cpp-python is not installed: llama.cpp runs nothing here"
    )
    exported(run, tmp_path / "m.gguf", to="gguf", quantize=quantize)
    back = fourfold.import_(tmp_path / "m.gguf", out=tmp_path / "back")
    tokens = vocabulary_of(run.data).encode(TEXT).tolist()[:40]
    theirs = LlamaCppDecoder(tmp_path / "m.gguf", 2, 48, len(vocabulary_of(run.data)))
    found = theirs.read([0, 1], [tokens, tokens[:7]], every=True).log_softmax(-1)
    with torch.no_grad():
        expected = back.model(torch.tensor([tokens])).log_softmax(-1)[0]
    assert float(expected.max(-1).values.exp().mean()) > 0.1  # it knows something
    assert float((found[: len(tokens)] - expected).abs().max()) < tolerance
    assert float((found[len(tokens) :] - expected[:7]).abs().max()) < tolerance
    # and goes on as if it had read all at once
    theirs.cut(1, 5)
    again = theirs.read([1], [tokens[5:]], every=True).log_softmax(-1)
    assert float((again - expected[5:]).abs().max()) < tolerance


def test_what_rounding_costs_is_measured_and_said(run: Run, tmp_path: Path) -> None:
    costs = {}
    for quantize in ("f16", "q8_0", "q4_0"):
        said = exported(run, tmp_path / f"{quantize}.gguf", to="gguf", quantize=quantize)[-1]
        words = said.replace(",", "").split()
        costs[quantize] = float(words[words.index("nats") - 1])
        assert "bits per byte" in said and "held-out tokens" in said
        before, after = (float(words[words.index(w) - 1]) for w in ("before", "after"))
        assert after == pytest.approx(before, rel=0.05)
    assert 0 <= costs["f16"] < costs["q8_0"] < costs["q4_0"]
    sizes = [(tmp_path / f"{q}.gguf").stat().st_size for q in costs]
    assert sizes == sorted(sizes, reverse=True)


def test_an_imported_file_is_a_run_that_learns_further_and_goes_back(
    run: Run, tmp_path: Path
) -> None:
    exported(run, tmp_path / "m.gguf", to="gguf", quantize="q8_0")
    back = fourfold.import_(tmp_path / "m.gguf", out=tmp_path / "back")
    assert any("from GGUF (tensors: " in s and "q8_0" in s for s in back.notes)
    exported(back, tmp_path / "again.gguf", to="gguf", quantize="q8_0")
    one, other = GGUFFile(tmp_path / "m.gguf"), GGUFFile(tmp_path / "again.gguf")
    assert list(one) == list(other)
    for key, value in one.settings.items():
        assert key == "general.name" or other.settings[key] == value, key
    more = fourfold.fit(
        "gpt", {"text": [TEXT * 20]}, from_=back.folder, out=tmp_path / "more", steps=2
    )
    assert len(more.data.vocabulary) == len(run.data.vocabulary)
    back.export(to="hf", out=tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    assert config["eos_token"] == "<|end|>" and not config["add_bos_token"]


def test_adapters_are_merged_and_a_chat_template_is_inside(run: Run, tmp_path: Path) -> None:
    talks = [{"prompt": f"where is the {a}?", "completion": f"on the {b}."} for a in ("cat", "dog", "log", "mat") for b in ("mat", "log", "cat")]  # fmt: skip
    tuned = fourfold.fit(
        "sft",
        talks,
        from_=run.folder,
        out=tmp_path / "sft",
        steps=10,
        adapter="lora",
        rank=2,
        lr=1e-2,
    )
    said = exported(tuned, tmp_path / "chat", to="ollama", quantize="f32")
    assert any("ollama create chat" in s for s in said)
    file = GGUFFile(tmp_path / "chat" / "chat.gguf")
    template = file.settings["tokenizer.chat_template"]
    assert "generation" not in template.replace("add_generation_prompt", "")
    back = fourfold.import_(tmp_path / "chat" / "chat.gguf", out=False)
    tokens = torch.randint(len(back.data.vocabulary), (2, 20))
    with torch.no_grad():
        assert torch.allclose(back.model(tokens), tuned.model(tokens), atol=1e-4)
        assert not torch.allclose(back.model(tokens), run.model(tokens), atol=1e-2)
    lines = (tmp_path / "chat" / "Modelfile").read_text()
    assert lines.startswith("FROM ./chat.gguf\nTEMPLATE")
    assert 'PARAMETER stop "<|end|>"' in lines and f"num_ctx {tuned.model.window}" in lines
    for turns in ([Turn("user", "hi")], [Turn("system", "be"), Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c")]):  # fmt: skip
        chats = [Chat(t, name="t", bos="<|end|>", eos="<|end|>", specials=("<|end|>",)) for t in (tuned.data.chat.source, template)]  # fmt: skip
        assert chats[0].prompt(turns).text == chats[1].prompt(turns).text


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_chat_templates_are_said_in_gos(name: str) -> None:
    chat = Chat(TEMPLATES[name], name=name, bos="<s>", eos="</s>", specials=("<s>", "</s>"))
    said = go_template(chat)
    assert said.count("{{ .Content }}") == 3 and "<s>" not in said.replace("</s>", "")
    if name == "chatml":
        assert '{{ "<|im_start|>user\\n" }}{{ .Content }}{{ "<|im_end|>\\n' in said
        assert said.endswith('<|im_start|>assistant\\n" }}') or "<|im_start|>" in said
    text, note = modelfile("m.gguf", chat, 128)
    assert not note and chat.stop in text


def test_a_template_that_go_cannot_say_is_left_out_and_said() -> None:
    source = "{{ messages | length }}" + TEMPLATES["chatml"]
    text, note = modelfile("m.gguf", Chat(source, name="odd", bos="", eos="", specials=()), 128)
    assert "TEMPLATE" not in text and "odd cannot be said" in note
    assert modelfile("m.gguf", None, 9)[0].startswith('FROM ./m.gguf\nTEMPLATE """{{ .Prompt }}"""')


def test_bytes_come_back() -> None:
    made, _ = read_settings(tokenizer_settings(Bytes()), "x", 257)
    assert made.encode(TEXT).tolist() == list(TEXT.encode())
    assert made.end == 256 and made.decode(made.encode(TEXT)) == TEXT


def test_cuts_and_special_tokens_come_back(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, trainers

    from fourfold.data import gguf_tokenizer
    from fourfold.data.hf_tokenizer import Special

    for name in gguf_tokenizer.CUTS:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = gguf_tokenizer._pre_tokenizer(name)
        from tokenizers import decoders, pre_tokenizers

        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=330, special_tokens=["<|begin|>", "<|stop|>", "<|turn|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        )  # fmt: skip
        tokenizer.train_from_iterator([TEXT * 9], trainer)
        tokenizer.add_tokens(["<tool>"])
        words = Subwords(tokenizer, None, Special(1, 0, (1, 2), 340))
        settings = tokenizer_settings(words)
        assert settings["tokenizer.ggml.pre"] == name
        back, notes = read_settings(settings, "x", 340)
        assert (back.begin, back.end, back.ends, back.never) == (0, 1, (1, 2), words.never)
        assert back.specials() == words.specials() and len(notes) == 1
        for text in (TEXT, "I'll  say\r\n\r\n 99999 <|stop|> <tool> 猫!?", "x" * 40):
            assert back.encode(text).tolist() == words.encode(text).tolist(), (name, text)


def test_bad_input(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--quantize q8_0: goes with --to gguf or ollama"):
        run.export(to="hf", quantize="q8_0", out=tmp_path / "x")
    with pytest.raises(UserError, match="is a folder; --to gguf writes a file"):
        run.export(to="gguf", out=tmp_path)
    toy, texts = GPT.toy()
    characters = fourfold.fit(toy, texts, out=False)
    with pytest.raises(UserError, match="byte-level BPE, this run's unit is character"):
        characters.export(to="gguf", out=tmp_path / "c.gguf")
    assert not (tmp_path / "c.gguf").exists()
    exported(run, tmp_path / "m.gguf", to="gguf")
    whole = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        UserError, match=rf"truncated or damaged: its {len(whole) // 2:,} bytes are not all"
    ):
        fourfold.import_(tmp_path / "cut.gguf", out=tmp_path / "r")
    (tmp_path / "old.gguf").write_bytes(b"GGUF\x01\0\0\0" + whole[8:])
    with pytest.raises(UserError, match="version 1"):
        fourfold.import_(tmp_path / "old.gguf", out=tmp_path / "r")
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(UserError, match="no GGUF file"):
        fourfold.import_(tmp_path / "text.gguf", out=tmp_path / "r")
    settings = tokenizer_settings(run.data.vocabulary)
    with pytest.raises(UserError, match="expected gpt2 .byte-level BPE., got llama"):
        read_settings({**settings, "tokenizer.ggml.model": "llama"}, "x", 300)
    with pytest.raises(UserError, match="tokenizer.ggml.pre: tekken; supported: gpt-2, llama-bpe"):
        read_settings({**settings, "tokenizer.ggml.pre": "tekken"}, "x", 300)
