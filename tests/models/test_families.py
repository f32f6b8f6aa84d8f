"""The Transformer's forms against transformers' own models, weight by weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fourfold.models.transformer import Transformer

transformers = pytest.importorskip("transformers")

LLAMA = {
    "embedding": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "feedforward_norm": "post_attention_layernorm",
    "feedforward.gate": "mlp.gate_proj",
    "feedforward.up": "mlp.up_proj",
    "feedforward.down": "mlp.down_proj",
}
SIZES: dict[str, Any] = {
    "vocab_size": 19,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-5,
    "attn_implementation": "eager",
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 500.0,
}
OURS: dict[str, Any] = {"kv_heads": 2, "hidden": 20, "window": 32, "tied": False, "eps": 1e-5}


def drawn(model: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.3, 0.5) if weight.ndim < 2 else weight.normal_(0.0, 0.3)
    return model.double().eval()


def like_llama(theirs: Any, **options: Any) -> Transformer:
    """Ours with the weights of a model that names them as Llama does."""
    ours = Transformer(19, 24, 2, 4, **{**OURS, **options}).double().eval()
    named = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, weight in ours.named_parameters():
            stem, end = name.rsplit(".", 1)
            if stem.startswith("blocks."):
                _, number, inner = stem.split(".", 2)
                weight.copy_(named.pop(f"model.layers.{number}.{LLAMA[inner]}.{end}"))
            else:
                weight.copy_(named.pop(f"{LLAMA[stem]}.{end}"))
    assert not named
    return ours


def agree(ours: Transformer, theirs: Any) -> None:
    tokens = torch.randint(19, (3, 30))
    with torch.no_grad():
        oracle = theirs(tokens).logits
    torch.testing.assert_close(ours(tokens), oracle, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scaling", [None, {"rope_type": "linear", "factor": 2.5}, LLAMA3])
@pytest.mark.parametrize("bias", ["none", "all"])
def test_llama(scaling: dict[str, Any] | None, bias: str) -> None:
    rope = {"rope_type": "default", "rope_theta": 500.0, **(scaling or {})}
    biased = bias == "all"
    config = transformers.LlamaConfig(
        **SIZES, rope_parameters=rope, attention_bias=biased, mlp_bias=biased
    )
    theirs = drawn(transformers.LlamaForCausalLM(config))
    agree(like_llama(theirs, base=500.0, rotary_scaling=scaling, bias=bias), theirs)


def test_mistral_slides() -> None:
    theirs = drawn(
        transformers.MistralForCausalLM(transformers.MistralConfig(**SIZES, sliding_window=7))
    )
    agree(like_llama(theirs, sliding=7), theirs)
    with pytest.raises(AssertionError):
        agree(like_llama(theirs, sliding=8), theirs)


def test_qwen2_has_biases_and_layers_that_slide() -> None:
    config = transformers.Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=1
    )
    theirs = drawn(transformers.Qwen2ForCausalLM(config))
    agree(like_llama(theirs, bias="qkv", sliding=(None, 5)), theirs)


def test_qwen3_normalizes_queries_and_keys() -> None:
    theirs = drawn(transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES, head_dim=8)))
    agree(like_llama(theirs, head_dim=8, query_key_norm=True), theirs)


def test_gpt2() -> None:
    config = transformers.GPT2Config(
        vocab_size=19, n_positions=32, n_embd=24, n_layer=2, n_head=4, attn_implementation="eager"
    )
    theirs = drawn(transformers.GPT2LMHeadModel(config))
    ours = Transformer(
        19, 24, 2, 4, window=32, positions="learned", norm="layer", feedforward="gelu_tanh", bias="all"
    ).double()  # fmt: skip
    names = {
        "embedding": "transformer.wte",
        "positions.table": "transformer.wpe",
        "norm": "transformer.ln_f",
        "attention_norm": "ln_1",
        "attention.out": "attn.c_proj",
        "feedforward_norm": "ln_2",
        "feedforward.up": "mlp.c_fc",
        "feedforward.down": "mlp.c_proj",
    }
    named = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, weight in ours.named_parameters():
            stem, end = name.rsplit(".", 1)
            if not stem.startswith("blocks."):
                weight.copy_(named[f"{names[stem]}.{end}"])
                continue
            _, number, inner = stem.split(".", 2)
            place = f"transformer.h.{number}."
            if inner in ("attention.query", "attention.key", "attention.value"):
                third = ("attention.query", "attention.key", "attention.value").index(inner)
                stored = named[f"{place}attn.c_attn.{end}"].chunk(3, dim=-1)[third]
            else:
                stored = named[f"{place}{names[inner]}.{end}"]
            norm = inner.endswith("_norm")
            weight.copy_(stored.T if end == "weight" and not norm else stored)
    agree(ours, theirs)
