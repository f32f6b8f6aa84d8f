"""Folders of every family: transformers' logits, both ways; what cannot be read is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.hf_models import FAMILIES, LLAMA3, drawn_config, model_of, transformers

from fourfold.core.errors import UserError
from fourfold.models import hf_folder
from fourfold.models.families import load_model, save_model, suited_family
from fourfold.models.transformer import Transformer


@torch.no_grad()
def difference(ours: Transformer, theirs: Any, length: int = 32) -> float:
    torch.manual_seed(1)
    tokens = torch.randint(ours.vocabulary, (2, min(length, ours.window)))
    wanted = theirs(tokens).logits
    return float((ours(tokens) - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_transformers_both_ways(tmp_path: Path, family: str, seed: int) -> None:
    theirs = model_of(drawn_config(family, seed), seed)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="3KB" if seed % 2 else "1GB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists() == bool(seed % 2)
    ours, found = load_model(tmp_path / "theirs")
    assert found.name == family
    assert difference(ours.eval(), theirs) < 1e-5
    save_model(ours, tmp_path / "ours", family=family, end=3)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    assert type(again) is type(theirs)
    assert difference(ours, again) < 1e-5
    # and a third time: to the last byte
    third, _ = load_model(tmp_path / "ours")
    save_model(third, tmp_path / "third", family=family, end=3)
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        assert (tmp_path / "third" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()
    theirs.save_pretrained(tmp_path / "whole")
    before, after = (load_file(tmp_path / f / "model.safetensors") for f in ("whole", "ours"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_configurations_drawn_are_the_interesting_ones() -> None:
    drawn = [drawn_config(f, s) for f in FAMILIES for s in range(4)]
    assert {c.tie_word_embeddings for c in drawn} == {True, False}
    others = [c for c in drawn if c.model_type != "gpt2"]
    assert {c.rope_parameters["rope_type"] for c in others} == {"default", "llama3"}
    assert any(c.num_key_value_heads < c.num_attention_heads for c in others)
    assert any(c.model_type == "mistral" and c.sliding_window for c in others)
    assert any("sliding_attention" in c.layer_types for c in others if c.model_type[:4] == "qwen")
    assert any(c.head_dim * c.num_attention_heads != c.hidden_size for c in others)
    assert any(getattr(c, "attention_bias", False) for c in others)


def test_linear_scaling_and_gates(tmp_path: Path) -> None:
    scaling = {"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0}
    for number, activation in enumerate(("gelu", "gelu_pytorch_tanh", "relu")):
        config = drawn_config(
            "llama",
            0,
            rope_parameters=scaling,
            hidden_act=activation,
            mlp_bias=True,
            attention_bias=True,
        )
        theirs = model_of(config)
        theirs.save_pretrained(tmp_path / f"{number}")
        ours, _ = load_model(tmp_path / f"{number}")
        assert difference(ours.eval(), theirs) < 1e-5
        save_model(ours, tmp_path / "ours")
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
        assert difference(ours, again) < 1e-5


V4: dict[str, dict[str, Any]] = {
    "llama": {"rope_theta": 500.0, "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"}},
    "mistral": {"rope_theta": 1e5, "sliding_window": None},
    "qwen2": {"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 2.0}, "use_sliding_window": False, "sliding_window": 3},
}  # fmt: skip
"""As transformers 4 wrote rotary positions and sliding windows."""


@pytest.mark.parametrize("family", V4)
def test_configurations_of_transformers_4(tmp_path: Path, family: str) -> None:
    changed(tmp_path, family, rope_parameters="gone", layer_types="gone", **V4[family])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ours, _ = load_model(tmp_path)
    assert difference(ours.eval(), theirs) < 1e-5
    scaled = V4[family].get("rope_scaling")
    assert (ours.rotary_scaling is None) == (scaled is None) and ours.base == V4[family][
        "rope_theta"
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_weights_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    theirs = model_of(drawn_config("qwen2", 0)).to(dtype)
    theirs.save_pretrained(tmp_path / "theirs")
    ours, _ = load_model(tmp_path / "theirs")
    assert all(p.dtype == torch.float32 for p in ours.parameters())
    wide = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "theirs", dtype=torch.float32
    )
    assert difference(ours.eval(), wide.eval()) < 1e-5
    save_model(ours, tmp_path / "ours", dtype=dtype)
    before, after = (load_file(tmp_path / f / "model.safetensors") for f in ("theirs", "ours"))
    assert all(after[n].dtype == dtype and torch.equal(before[n], after[n]) for n in before)


def test_a_body_saved_without_its_head(tmp_path: Path) -> None:
    """openai-community/gpt2 is such a folder; it holds masks besides."""
    theirs = model_of(drawn_config("gpt2", 0))
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    bare = {n.removeprefix("transformer."): t.clone() for n, t in load_file(path).items()}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
    hf_folder.write_folder(
        tmp_path, json.loads((tmp_path / "config.json").read_text()), bare.items()
    )
    ours, _ = load_model(tmp_path)
    assert difference(ours.eval(), theirs) < 1e-5


def test_shards_are_written_and_old_files_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = model_of(drawn_config("llama", 1))
    theirs.save_pretrained(tmp_path / "theirs")
    ours, _ = load_model(tmp_path / "theirs")
    save_model(ours, tmp_path / "ours")
    monkeypatch.setattr(
        hf_folder.write_folder,
        "__kwdefaults__",
        {**hf_folder.write_folder.__kwdefaults__, "shard": 4096},
    )
    save_model(ours, tmp_path / "ours")
    assert not (tmp_path / "ours" / "model.safetensors").exists()
    count = len(list((tmp_path / "ours").glob("model-*-of-*.safetensors")))
    assert count > 2 and (tmp_path / "ours" / f"model-00001-of-{count:05d}.safetensors").exists()
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    assert difference(load_model(tmp_path / "ours")[0].eval(), again) < 1e-5
    monkeypatch.undo()
    save_model(ours, tmp_path / "ours")
    assert [p.name for p in (tmp_path / "ours").glob("model*")] == ["model.safetensors"]


def test_loaded_models_train_and_shorter_windows(tmp_path: Path) -> None:
    model_of(drawn_config("llama", 0)).save_pretrained(tmp_path)
    model, _ = load_model(tmp_path, dropout=0.1, window=8)
    assert model.window == 8
    model(torch.randint(19, (2, 8))).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_families_that_cannot_express_a_model() -> None:
    assert suited_family(Transformer(9, 8, 1, 2)).name == "llama"
    assert suited_family(Transformer(9, 8, 1, 2, sliding=3)).name == "mistral"
    assert (
        suited_family(Transformer(9, 8, 2, 2, sliding=[None, 3], query_key_norm=True)).name
        == "qwen3"
    )
    with pytest.raises(UserError, match="family llama: cannot express this model: it has bias qkv"):
        suited_family(Transformer(9, 8, 1, 2, bias="qkv"), "llama")
    with pytest.raises(UserError, match="no supported family .* positions alibi, llama rotary"):
        suited_family(Transformer(9, 8, 1, 2, positions="alibi"))


# --- what is refused --------------------------------------------------------------------------------


def changed(folder: Path, family: str = "llama", **changes: object) -> Path:
    model_of(drawn_config(family, 0)).save_pretrained(folder)
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v != "gone"}))
    return folder


@pytest.mark.parametrize(
    "family, changes, words",
    [
        ("llama", {"architectures": ["LLamaForCausalLM"]}, "did you mean Llama\\?; supported"),
        (
            "llama",
            {"architectures": ["BloomForCausalLM"]},
            "supported: LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, GPT2LMHeadModel",
        ),
        ("llama", {"rope_parameters": {**LLAMA3, "rope_type": "yarn"}}, "default, linear, llama3, got 'yarn'"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "linear: has no 'factor'"),
        ("llama", {"hidden_act": "mish"}, "hidden_act: expected one of silu.*got 'mish'"),
        ("llama", {"num_key_value_heads": 5}, "num_key_value_heads: expected a divisor"),
        ("llama", {"vocab_size": 20_000}, "model.embed_tokens.weight: expected shape"),
        ("llama", {"num_hidden_layers": 4}, "have no model.layers.3"),
        ("llama", {"num_hidden_layers": 1}, "holds model.layers.1.* has no place"),
        ("llama", {"hidden_size": "gone", "vocab_size": "gone"}, "has no vocab_size, hidden_size"),
        ("llama", {"num_attention_heads": 2.5}, "num_attention_heads: expected a whole number"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantized by gptq are not read"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor: expected 1.0, got 0.5"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "expected False, got True"),
        ("gpt2", {"n_head": "gone"}, "has no n_head"),
        ("qwen3", {"architectures": ["Qwen2ForCausalLM"]}, "q_norm.*has no place|have no"),
    ],
)  # fmt: skip
def test_what_is_not_supported(tmp_path: Path, family: str, changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        load_model(changed(tmp_path, family, **changes))
    assert "\n" not in str(error.value)


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_model(tmp_path / "nothing")
    folder = changed(tmp_path / "cut")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        load_model(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(UserError, match="expected a JSON object"):
        load_model(folder)


def test_pickles_are_refused(tmp_path: Path) -> None:
    folder = changed(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no model.safetensors"):
        load_model(folder)
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled weights are not opened.*save_pretrained"):
        load_model(folder)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    model_of(drawn_config("llama", 1)).save_pretrained(tmp_path, max_shard_size="4KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    shards[1].unlink()
    with pytest.raises(
        UserError, match=f"1 of the {len(shards)} files .* missing: {shards[1].name}"
    ):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["../model.safetensors", "model.bin"])
def test_shards_stand_beside_their_index(tmp_path: Path, name: str) -> None:
    folder = changed(tmp_path / "inner")
    shutil.move(folder / "model.safetensors", tmp_path / "model.safetensors")
    index = {"weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="beside it"):
        load_model(folder)


def test_weights_that_do_not_fit_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = changed(tmp_path)
    monkeypatch.setattr(hf_folder, "available_memory", lambda device: 1000)
    with pytest.raises(UserError, match="in float32 and .* is free"):
        load_model(folder)
