"""The system bert: what it learns, its verbs against transformers and definitions, folders, resume, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import fourfold
from fourfold import api
from fourfold.core.errors import UserError
from fourfold.core.evaluation import measure
from fourfold.core.run import Run
from fourfold.data.masking import MaskedText
from fourfold.optimizers.gradient import Gradient
from fourfold.systems.bert import Bert
from fourfold.tasks.filling import text_vectors

LESSON = "the cat sat on the mat. the dog sat on the log. "
MUON = Gradient(
    algorithm="muon", lr=0.02, other_lr=1e-2, warmup=20, precision="float32", evaluate_every="50%"
)
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "paris", "is", "the", "capital", "of", "france",
          "city", "##s", "rome", "in", ".", "你", "好"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    toy, _ = Bert.toy()
    system = toy.model_copy(
        update={
            "data": MaskedText(unit="bpe", window=23, batch=16),
            "layers": 1,
            "optimizer": MUON.model_copy(update={"steps": 300}),
        }
    )
    folder = tmp_path_factory.mktemp("bert") / "run"
    begins = np.random.default_rng(0).integers(0, len(LESSON), 300)
    texts = [(LESSON * 4)[begin : begin + 120] for begin in begins.tolist()]
    return fourfold.fit(system, {"text": texts}, out=folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT folder as transformers writes it."""
    transformers = pytest.importorskip("transformers")
    place = tmp_path_factory.mktemp("hf")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16,
    )  # fmt: skip
    transformers.BertForMaskedLM(config).save_pretrained(place)
    (place / "vocab.txt").write_text("\n".join(PIECES), encoding="utf-8")
    return place


def test_learns_what_was_hidden(run: Run) -> None:
    score = run.evaluate()
    assert score["accuracy"] > 0.6 and score["loss"] < 2.0
    assert score["perplexity"] == pytest.approx(np.exp(score["loss"]))
    table = run.fill("the cat sat on the mat. the dog [MASK] on the log.")
    assert table["token"][0] == "sat"
    assert table["text"][0] == "the cat sat on the mat. the dog sat on the log."
    assert table["probability"].is_sorted(descending=True) and table.height == 5


def test_a_known_entropy_is_reached() -> None:
    """Documents of two topics, each of two letters with P = 1/4, 3/4: the topic is seen, so H = 0.5623 nats.

    Without the rest of the document it would be log 2 more; less would be leaked targets.
    """
    rng = np.random.default_rng(0)
    texts = [
        "".join(letters[int(n)] for n in rng.random(rng.integers(20, 40)) < 0.25)
        for letters in rng.permutation(["ab", "cd"] * 700).tolist()
    ]
    toy, _ = Bert.toy()
    data = MaskedText(unit="character", window=42, batch=32, random=0.0, kept=0.0)
    system = toy.model_copy(
        update={"data": data, "optimizer": Gradient(lr=5e-3, steps=150, precision="float32")}
    )
    fitted = fourfold.fit(system, {"text": texts}, out=False)
    assert fitted.evaluate()["loss"] == pytest.approx(0.5623, abs=0.03)


def test_leaked_targets_are_caught() -> None:
    """Independent letters say nothing of one another: with what is hidden in sight the loss falls below their entropy."""
    letters = np.random.default_rng(0).random(40_000) < 0.25
    text = {"text": ["".join("ab"[int(b)] for b in letters)]}
    toy, _ = Bert.toy()
    losses = {}
    for kept in (0.0, 1.0):
        data = MaskedText(unit="character", window=32, batch=32, random=0.0, kept=kept)
        system = toy.model_copy(
            update={"data": data, "optimizer": Gradient(lr=4e-3, steps=80, precision="float32")}
        )
        losses[kept] = fourfold.fit(system, text, out=False).evaluate()["loss"]
    assert losses[0.0] == pytest.approx(0.5623, abs=0.03)
    assert losses[1.0] < 0.1


def test_the_loss_is_that_of_all_logits(run: Run) -> None:
    """Sums over hidden tokens from the full (B, T, V) logits, position by position."""
    data, split = run.examples(), "valid"
    total, count = 0.0, 0
    for batch in data.batches(split):
        with torch.no_grad():
            logits = run.model(batch["tokens"], segments=batch.get("segments")).log_softmax(-1)
        for row, (places, targets) in enumerate(
            zip(batch["places"], batch["targets"], strict=True)
        ):
            for place, target in zip(places.tolist(), targets.tolist(), strict=True):
                if target >= 0:
                    total, count = total - float(logits[row, place, target]), count + 1
    found = measure(run.objective, run.model, data, split, run.device)
    assert found["loss"] == pytest.approx(total / count, rel=1e-5)


def test_fill_by_hand(run: Run) -> None:
    data = run.data
    text = "the dog [MASK] on the [MASK]. the cat"
    pieces = [data.vocabulary.encode(t).tolist() for t in ("the dog", " on the", ". the cat")]
    special = data.specials
    tokens = [
        special.cls,
        *pieces[0],
        special.mask,
        *pieces[1],
        special.mask,
        *pieces[2],
        special.sep,
    ]
    with torch.no_grad():
        said = run.model(torch.tensor([tokens]))[0].softmax(-1)
    table = run.fill(text, top=3)
    assert (
        table["mask"].to_list() == [1, 1, 1, 2, 2, 2] and table["rank"].to_list() == [1, 2, 3] * 2
    )
    for mask, place in ((1, len(pieces[0]) + 1), (2, len(pieces[0]) + len(pieces[1]) + 2)):
        best = said[place].topk(1)
        row = table.filter((pl.col("mask") == mask) & (pl.col("rank") == 1))
        assert row["probability"][0] == pytest.approx(float(best.values[0]), rel=1e-4)
        assert row["token"][0] == data.vocabulary.decode(best.indices).strip()
    best = table.filter(pl.col("rank") == 1)["token"].to_list()
    assert table["text"][0] == f"the dog {best[0]} on the {best[1]}. the cat"
    second = table["token"][1]
    assert table["text"][1] == f"the dog {second} on the {best[1]}. the cat"


def test_special_tokens_are_no_candidates(run: Run) -> None:
    table = run.fill("[MASK]", top=10_000)
    assert table.height == len(run.data.ordinary)
    assert "[CLS]" not in table["token"] and "<|end|>" not in table["token"]


def test_embeds_whatever_else_is_embedded(run: Run) -> None:
    texts = ["the cat sat on the mat.", "the dog", "a log sat on", "the", "cat " * 7]
    many = run.embed(texts).drop("text").to_numpy()
    for text, row in zip(texts, many, strict=True):
        one = run.embed(text).drop("text").to_numpy()[0]
        np.testing.assert_allclose(row, one, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1, atol=1e-5)
    lines = run.embed("the dog\n\nthe\n", lines=True)
    assert lines["text"].to_list() == ["the dog", "the"]
    plain = run.embed(texts, normalize=False).drop("text").to_numpy()
    assert (np.abs(np.linalg.norm(plain, axis=1) - 1) > 0.1).all()
    cls = run.embed(texts, pooling="cls").drop("text").to_numpy()
    assert np.abs(cls - many).max() > 0.01


def test_pseudo_perplexity_by_hand(run: Run) -> None:
    score = run.evaluate({"text": ["the cat sat on the mat."]}, pseudo=1000)
    data = run.data
    tokens = data.vocabulary.encode("the cat sat on the mat.").tolist()
    row = [data.specials.cls, *tokens, data.specials.sep]
    nats = []
    for place in range(1, len(row) - 1):
        hidden = list(row)
        hidden[place] = data.specials.mask
        said = run.model(torch.tensor([hidden]))[0, place].detach().log_softmax(-1)
        nats.append(-float(said[row[place]]))
    assert score["pseudo_perplexity"] == pytest.approx(float(np.exp(np.mean(nats))), rel=1e-4)


def test_imports_what_transformers_wrote(folder: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    run = fourfold.import_(folder, out=tmp_path / "b")
    peer = transformers.BertForMaskedLM.from_pretrained(folder).eval()
    tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
    texts = ["Paris is the capital of France.", "citys in Rome 你好", "xyz"]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = peer.bert(**tokens).last_hidden_state
        counted = tokens["attention_mask"].unsqueeze(-1)
        mean = torch.nn.functional.normalize((states * counted).sum(1) / counted.sum(1), dim=-1)
    found = Run.open(tmp_path / "b").embed(texts).drop("text").to_numpy()
    np.testing.assert_allclose(found, mean.numpy(), atol=1e-5)
    filler = transformers.pipeline("fill-mask", model=peer, tokenizer=tokenizer, top_k=20)
    wanted = {g["token_str"]: g["score"] for g in filler("paris is the [MASK] of france.")}
    table = run.fill("Paris is the [MASK] of France.", top=13)
    for token, probability in zip(table["token"], table["probability"], strict=True):
        assert wanted[token if token != "s" else "##s"] == pytest.approx(probability, rel=1e-3)
    assert any("no token" in note for note in run.notes)


def test_exports_what_transformers_reads(run: Run, folder: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for number, one in enumerate((run, fourfold.import_(folder, out=False))):
        place = one.export(out=tmp_path / str(number))
        peer = transformers.AutoModelForMaskedLM.from_pretrained(place).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        text = "the cat is in the city."
        tokens = tokenizer(text, return_tensors="pt")["input_ids"]
        data = one.data
        inner = data.vocabulary.encode(text).tolist()
        assert tokens[0].tolist() == [data.specials.cls, *inner, data.specials.sep]
        assert tokenizer.mask_token_id == data.specials.mask
        assert tokenizer.pad_token_id == data.specials.pad
        with torch.no_grad():
            torch.testing.assert_close(peer(tokens).logits, one.model(tokens), rtol=1e-4, atol=1e-4)
        again = fourfold.import_(place, out=False)
        tables = [r.fill("the [MASK] sat") for r in (again, one)]
        assert tables[0]["text"].to_list() == tables[1]["text"].to_list()
        np.testing.assert_allclose(*(t["probability"] for t in tables), rtol=1e-4)


def test_goes_on_from_an_imported_model_under_its_vocabulary(folder: Path, tmp_path: Path) -> None:
    base = fourfold.import_(folder, out=tmp_path / "b")
    texts = {"text": ["paris is the capital of france. rome is in the city. " * 60]}
    tuned = fourfold.fit(
        "bert", texts, from_=tmp_path / "b", out=tmp_path / "t",
        steps=3, **{"data.window": 12, "data.masking": "word"},
    )  # fmt: skip
    assert tuned.model.position.weight.shape == base.model.position.weight.shape
    assert len(tuned.data.vocabulary) == len(PIECES) and tuned.system.entries == 20
    moved = (tuned.model.embedding.weight - base.model.embedding.weight).detach().abs().max()
    assert 0 < float(moved) < 0.2
    with pytest.raises(UserError, match="--width 32.*width 16"):
        fourfold.fit("bert", texts, from_=tmp_path / "b", out=False, width=32)
    with pytest.raises(UserError, match="window 40: the model tells 16"):
        fourfold.fit("bert", texts, from_=tmp_path / "b", out=False, **{"data.window": 40})


def test_a_tokenizer_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(UserError, match="no tokenizer.json and no vocab.txt"):
        fourfold.import_(tmp_path, out=False)
    (tmp_path / "vocab.txt").write_text("\n".join([*PIECES, "a", "b", "c"]))
    with pytest.raises(UserError, match="21 entries, its embedding 20 rows"):
        fourfold.import_(tmp_path, out=False)
    (tmp_path / "vocab.txt").write_text("\n".join(p for p in PIECES if p != "[MASK]"))
    with pytest.raises(UserError, match=r"has no piece \[MASK\]"):
        fourfold.import_(tmp_path, out=False)


def test_names_of_special_tokens_are_honoured(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    renamed = [{"[MASK]": "<hole>", "[CLS]": "<go>"}.get(piece, piece) for piece in PIECES]
    (tmp_path / "vocab.txt").write_text("\n".join(renamed), encoding="utf-8")
    names = {"mask_token": "<hole>", "cls_token": {"content": "<go>"}, "do_lower_case": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    run = fourfold.import_(tmp_path, out=tmp_path / "run")
    assert run.data.specials.mask == 4 and run.data.specials.cls == 2
    opened = Run.open(tmp_path / "run")
    assert opened.data.specials == run.data.specials
    assert opened.fill("paris is <hole>").equals(opened.fill("paris is [MASK]"))
    assert opened.tokens("Paris")["token"].to_list() == ["[UNK]"]


@pytest.mark.parametrize(
    "text, said",
    [
        ("the cat", r"has no \[MASK\]; write it where"),
        ("", r"has no \[MASK\]"),
        ("the cat sat on the mat and " * 9 + "[MASK]", "the model sees 23; shorten it by"),
    ],
)
def test_what_cannot_be_filled(run: Run, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        run.fill(text)


def test_what_cannot_be_embedded(run: Run) -> None:
    for empty in ("", "  ", []):
        with pytest.raises(UserError, match="nothing to embed"):
            run.embed(empty)
    long = "the cat sat on the mat and " * 9
    with pytest.raises(UserError, match="the model sees 23"):
        run.embed(long)
    assert run.embed(long, cut=True).height == 1


def test_an_empty_text_and_one_without_a_window(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text"):
        fourfold.fit("bert", {"text": [""]}, out=False)
    with pytest.raises(UserError, match="fewer than one window"):
        fourfold.fit("bert", {"text": ["a few words"]}, out=False)


def test_shapes_that_do_not_divide() -> None:
    with pytest.raises(UserError, match="heads 2 would do|heads 4 would do"):
        api.fit(Bert, {"text": [LESSON * 50]}, out=False, width=32, heads=3)


def test_vectors_of_no_text(run: Run) -> None:
    found = text_vectors(run.model, [], 0, pooling="mean", normalize=True)
    assert found.shape == (0, 32)


def test_chinese(tmp_path: Path) -> None:
    text = "床前明月光，疑是地上霜。举头望明月，低头思故乡。" * 60
    toy, _ = Bert.toy()
    system = toy.model_copy(
        update={
            "data": MaskedText(unit="character", window=27, batch=16, masking="word"),
            "layers": 1,
            "optimizer": MUON.model_copy(update={"steps": 300}),
        }
    )
    run = fourfold.fit(system, {"text": [text]}, out=tmp_path / "run")
    table = run.fill("床前明月[MASK]，疑是地上霜。", top=3)
    assert "光" in table["token"] and "床前明月光，疑是地上霜。" in table["text"]
    assert run.embed(["明月", "故乡"]).height == 2
