"""Weights in transformers' LlamaForCausalLM give the same logits, both ways; what cannot be read is refused."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.core.errors import UserError
from fourfold.models.llama import load_llama, save_llama
from fourfold.models.transformer import Transformer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import LlamaConfig, LlamaForCausalLM


def small(**changes: object) -> Transformer:
    torch.manual_seed(0)
    sizes: dict = {
        "vocabulary": 19,
        "width": 24,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "window": 16,
    }
    model = Transformer(**{**sizes, **changes}).eval()
    for parameter in model.parameters():  # norms away from one, logits away from equal
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.3)
    return model


@torch.no_grad()
def difference(ours: Transformer, theirs: LlamaForCausalLM) -> float:
    tokens = torch.randint(ours.vocabulary, (2, ours.window))
    return float((ours(tokens) - theirs(tokens).logits).abs().max())


@settings(deadline=None, max_examples=12)
@given(
    st.integers(1, 3),
    st.sampled_from([(1, 1), (2, 1), (4, 2), (6, 3), (3, 3)]),
    st.sampled_from([2, 6, 10]),
    st.integers(1, 50),
    st.booleans(),
    st.sampled_from([10_000.0, 500_000.0]),
)
def test_logits_equal_transformers(
    tmp_path_factory: pytest.TempPathFactory,
    layers: int,
    heads: tuple[int, int],
    head_dim: int,
    hidden: int,
    tied: bool,
    base: float,
) -> None:
    folder = tmp_path_factory.mktemp("llama")
    ours = small(
        layers=layers,
        width=heads[0] * head_dim,
        heads=heads[0],
        kv_heads=heads[1],
        hidden=hidden,
        tied=tied,
        base=base,
        eps=1e-6,
    )
    save_llama(ours, folder / "ours", end=3)
    theirs = LlamaForCausalLM.from_pretrained(folder / "ours").eval()
    assert difference(ours, theirs) < 1e-4
    theirs.save_pretrained(folder / "theirs")
    again = load_llama(folder / "theirs").eval()
    assert difference(again, theirs) < 1e-4
    for name, value in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


@pytest.mark.parametrize("tied", [True, False])
def test_models_made_by_transformers(tmp_path: Path, tied: bool) -> None:
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=23,
            hidden_size=16,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=1,
            max_position_embeddings=32,
            tie_word_embeddings=tied,
            initializer_range=0.3,
        )
    ).eval()
    theirs.save_pretrained(tmp_path / "sharded", max_shard_size="4KB")
    assert (tmp_path / "sharded" / "model.safetensors.index.json").exists()
    ours = load_llama(tmp_path / "sharded").eval()
    assert difference(ours, theirs) < 1e-4
    assert load_llama(tmp_path / "sharded", window=8).window == 8


def test_what_generate_needs_is_there(tmp_path: Path) -> None:
    save_llama(small(), tmp_path, end=3)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    assert theirs.generation_config.eos_token_id == 3
    said = theirs.generate(
        torch.tensor([[1, 2]]), max_new_tokens=5, do_sample=False, pad_token_id=3
    )
    assert said.shape[1] > 2


def test_half_precision(tmp_path: Path) -> None:
    save_llama(small(), tmp_path, dtype=torch.bfloat16)
    again = load_llama(tmp_path)
    assert again.embedding.weight.dtype == torch.float32
    assert torch.equal(again.norm.weight, small().norm.weight.bfloat16().float())


def test_loaded_models_train(tmp_path: Path) -> None:
    save_llama(small(), tmp_path)
    model = load_llama(tmp_path, dropout=0.1)
    model(torch.randint(19, (2, 16))).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def changed(folder: Path, **changes: object) -> Path:
    save_llama(small(), folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"architectures": ["LLamaForCausalLM"]}, "did you mean LlamaForCausalLM"),
        ({"architectures": ["BertModel"]}, "supported: LlamaForCausalLM"),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}},
            "rope_type: expected default",
        ),
        ({"hidden_act": "gelu"}, "hidden_act: expected silu"),
        ({"attention_bias": True}, "attention_bias"),
        ({"head_dim": 8}, "head_dim: expected 6, got 8"),
        ({"num_key_value_heads": 3}, "divisible"),
        ({"vocab_size": 20}, "expected shape"),
        ({"num_hidden_layers": 3}, "have no model.layers.2"),
    ],
)
def test_what_is_not_supported(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_llama(changed(tmp_path, **changes))


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_llama(tmp_path / "nothing")
    folder = changed(tmp_path / "no-width")
    config = json.loads((folder / "config.json").read_text())
    del config["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="hidden_size"):
        load_llama(folder)
    folder = changed(tmp_path / "cut")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        load_llama(folder)


def test_pickles_are_refused(tmp_path: Path) -> None:
    folder = changed(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no model.safetensors"):
        load_llama(folder)
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled weights are not opened"):
        load_llama(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "model.bin", "gone.safetensors"])
def test_shards_stand_beside_their_index(tmp_path: Path, name: str) -> None:
    folder = changed(tmp_path / "inner")
    shutil.move(folder / "model.safetensors", tmp_path / "model.safetensors")
    index = {"weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="beside it|missing"):
        load_llama(folder)
