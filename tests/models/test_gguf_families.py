"""Models as GGUF files: transformers' logits, both ways; the blocks by their definition; what cannot be read is refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.hf_models import FAMILIES, LLAMA3, drawn_config, model_of, transformers

from fourfold.core.errors import UserError
from fourfold.models.families import load_model
from fourfold.models.gguf_families import (
    gguf_architecture,
    load_gguf,
    rounded_copy,
    save_gguf,
)
from fourfold.models.gguf_file import GGUFFile, ggml_type, gguf_package, packed, rounded, write_gguf
from fourfold.models.transformer import Transformer

pytest.importorskip("gguf")
PLAIN = {"rope_type": "default", "rope_theta": 500.0}
WIDE: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 64,
        "head_dim": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "qwen2": {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    },
    # transformers reads no head_dim from a qwen3 file, and takes 128
    "qwen3": {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 128,
    },
    "gpt2": {
        "n_embd": 64,
        "n_head": 4,
        "n_inner": 256,
        "n_positions": 1024,
    },  # takes 1024 whatever the file says
}
"""Sizes whose rows are whole blocks, and which transformers' reader of GGUF files can tell."""


def drawn(family: str, tmp_path: Path, seed: int = 0, **changes: Any) -> tuple[Any, Transformer]:
    """transformers' model and ours."""
    if family == "gpt2":
        changes.setdefault("activation_function", "gelu_new")
    theirs = model_of(drawn_config(family, seed, **changes), seed)
    theirs.save_pretrained(tmp_path / "hf")
    return theirs, load_model(tmp_path / "hf")[0].eval()


def written(model: Transformer, path: Path, quantize: str = "f32") -> Path:
    settings: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [f"t{n}" for n in range(model.vocabulary)],
    }
    save_gguf(model, path, gguf_architecture(model), quantize, settings)
    return path


@torch.no_grad()
def difference(one: Any, other: Any, vocabulary: int) -> float:
    torch.manual_seed(1)
    tokens = torch.randint(vocabulary, (2, 24))
    a, b = (getattr(m(tokens), "logits", None) for m in (one, other))
    a, b = (m(tokens) if x is None else x for m, x in ((one, a), (other, b)))
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("quantize", ["f32", "f16", "q8_0", "q4_0"])
@pytest.mark.parametrize("family", list(WIDE))
def test_transformers_reads_what_is_written(tmp_path: Path, family: str, quantize: str) -> None:
    changes = {**WIDE[family], **({} if family == "gpt2" else {"rope_parameters": PLAIN, "intermediate_size": 96})}  # fmt: skip
    if family in ("llama", "qwen3"):
        changes["attention_bias"] = False
    if family in ("qwen2", "qwen3"):
        changes["use_sliding_window"] = False
    _, ours = drawn(family, tmp_path, **changes)
    path = written(ours, tmp_path / "model.gguf", quantize)
    assert gguf_architecture(ours) == family
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = transformers.AutoConfig.from_pretrained(tmp_path, gguf_file=path.name)
        again = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path, gguf_file=path.name, config=config, dtype=torch.float32
        ).eval()
    wanted = rounded_copy(ours, family, quantize).eval()
    assert difference(again, wanted, ours.vocabulary) < 1e-5
    back, _, name = load_gguf(path)
    assert name == family and difference(back.eval(), wanted, ours.vocabulary) < 1e-6
    moved = difference(back, ours, ours.vocabulary)
    least, most = {"f32": (0.0, 0.0), "f16": (0.0, 0.02), "q8_0": (1e-5, 0.3), "q4_0": (1e-3, 2.0)}[quantize]  # fmt: skip
    assert least <= moved <= most


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "gpt2"])
def test_odd_sizes_biases_and_stretched_positions_come_back(
    tmp_path: Path, family: str, seed: int
) -> None:
    changes: dict[str, Any] = {"rope_parameters": LLAMA3 if seed % 2 else {"rope_type": "linear", "factor": 3.0, "rope_theta": 50.0}}  # fmt: skip
    if family == "llama":
        changes |= {"attention_bias": True, "mlp_bias": seed > 1}
    if family == "qwen3":
        changes["attention_bias"] = False
    changes |= {"sliding_window": None} if family == "mistral" else {}
    changes |= {"use_sliding_window": False} if family[:4] == "qwen" else {}
    theirs, ours = drawn(family, tmp_path, seed, **changes)
    back, told, name = load_gguf(written(ours, tmp_path / "model.gguf"))
    assert name == family.replace("mistral", "llama")
    assert told["rotary_scaling"] == pytest.approx(ours.rotary_scaling)
    assert difference(back.eval(), theirs, ours.vocabulary) < 1e-5
    for (key, before), after in zip(ours.state_dict().items(), back.state_dict().values(), strict=True):  # fmt: skip
        assert torch.equal(before, after), key


def test_blocks_are_what_their_definition_says() -> None:
    torch.manual_seed(0)
    weights = torch.randn(3, 64)
    blocks = weights.view(-1, 32).double().numpy()
    raw = packed(weights, ggml_type("q8_0")).reshape(-1, 34)
    scale = raw[:, :2].copy().view(np.float16).astype(np.float64)
    assert np.allclose(scale[:, 0], np.abs(blocks).max(1) / 127, rtol=1e-3)
    assert np.abs(raw[:, 2:].view(np.int8) * scale - blocks).max() <= 0.51 * scale.max()
    raw = packed(weights, ggml_type("q4_0")).reshape(-1, 18)
    scale = raw[:, :2].copy().view(np.float16).astype(np.float64)
    numbers = np.concatenate([raw[:, 2:] & 15, raw[:, 2:] >> 4], 1).astype(np.float64) - 8
    assert np.allclose(rounded(weights, "q4_0").view(-1, 32).numpy(), numbers * scale, atol=1e-6)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)
    assert np.allclose(scale, largest / -8, rtol=1e-3)  # the largest is -8 times the scale
    assert np.abs(numbers * scale - blocks).max() <= 1.01 * np.abs(scale).max()


def test_rows_that_are_no_whole_blocks_are_f16_and_said(tmp_path: Path) -> None:
    model = Transformer(40, 32, 1, 2, hidden=40)
    other = save_gguf(model, tmp_path / "a.gguf", "llama", "q4_0", {})
    assert other == {"blk.0.ffn_down.weight": "f16"}
    kinds = GGUFFile(tmp_path / "a.gguf").kinds()
    assert kinds == {"Q8_0": 1, "F32": 3, "Q4_0": 6, "F16": 1}
    again, _, _ = load_gguf(tmp_path / "a.gguf")
    assert torch.equal(again.blocks[0].feedforward.down.weight, model.blocks[0].feedforward.down.weight.half().float())  # fmt: skip


@pytest.mark.parametrize("options, said", [
    ({"sliding": 5}, "looks back 5 positions"), ({"feedforward": "geglu"}, "feed-forward is geglu"),
    ({"positions": "alibi"}, "positions alibi"), ({"scale": 0.7}, "scaled by 0.7"),
    ({"query_key_norm": True, "bias": "attention"}, "biases"), ({"feedforward": "gelu"}, "gelu"),
])  # fmt: skip
def test_what_gguf_cannot_hold_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        gguf_architecture(Transformer(40, 32, 1, 2, **options))


def test_damaged_and_unsupported_files_are_refused(tmp_path: Path) -> None:
    model = Transformer(40, 32, 1, 2)
    whole = written(model, tmp_path / "whole.gguf").read_bytes()
    path = tmp_path / "bad.gguf"
    for size in (6, 20, 300, 3000, len(whole) - 200):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"bad.gguf: truncated or damaged"):
            load_gguf(path)
    path.write_bytes(b"PK" + whole[2:])
    with pytest.raises(UserError, match="no GGUF file"):
        load_gguf(path)
    save_gguf(model, path, "gemma3", "f32", {})
    with pytest.raises(
        UserError, match="architecture gemma3; supported: llama, qwen2, qwen3, gpt2"
    ):
        load_gguf(path)
    save_gguf(model, path, "llama", "f32", {"llama.rope.scaling.type": "yarn"})
    with pytest.raises(UserError, match="expected none or linear, got yarn"):
        load_gguf(path)
    save_gguf(model, path, "llama", "f32", {"llama.expert_count": 8})
    with pytest.raises(UserError, match="expert_count: expected 0, got 8"):
        load_gguf(path)
    shapes = {"token_embd.weight": (4, 32), "other.weight": (2, 32)}
    write_gguf(path, "llama", {}, shapes, lambda n: torch.zeros(shapes[n]), lambda n, s: "f32")
    with pytest.raises(UserError, match="has no llama.embedding_length"):
        load_gguf(path)


def test_quantizations_that_are_not_read_are_named(tmp_path: Path) -> None:
    package = gguf_package()
    writer = package.GGUFWriter(tmp_path / "t.gguf", "llama")
    kind = package.GGMLQuantizationType.TQ2_0
    writer.add_tensor("token_embd.weight", np.zeros((2, 66), np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(
        UserError, match=r"quantized as TQ2_0; supported: F32, F16, BF16, Q8_0, Q4_0"
    ):
        GGUFFile(tmp_path / "t.gguf")


def test_weights_beyond_float16_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    model = Transformer(40, 32, 1, 2)
    with torch.no_grad():
        model.head.weight[3, 4] = 1e5
    with pytest.raises(UserError, match="beyond float16's 65504; --quantize bf16 or f32"):
        written(model, tmp_path / "big.gguf", "f16")
    assert not (tmp_path / "big.gguf").exists()
    written(model, tmp_path / "big.gguf", "bf16")
