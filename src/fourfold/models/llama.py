"""Transformers as Hugging Face folders: `LlamaForCausalLM` in config.json and safetensors, both ways.

Format: transformers' LlamaConfig and LlamaForCausalLM. Weights map one to one, without permutation.
Pickled weights are refused: opening one would execute code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fourfold.core.errors import UserError, nearest
from fourfold.models.hf_folder import StoredTensors, fill, read_config, write_folder, write_json
from fourfold.models.transformer import Transformer

ARCHITECTURE = "LlamaForCausalLM"
BLOCK = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "feedforward_norm": "post_attention_layernorm",
    "feedforward.gate": "mlp.gate_proj",
    "feedforward.up": "mlp.up_proj",
    "feedforward.down": "mlp.down_proj",
}
NEEDED = (
    "architectures",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
WHOLE = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}


def llama_name(name: str) -> str:
    """A parameter's name in LlamaForCausalLM: "blocks.0.attention.out.weight" and the like."""
    stem = name.removesuffix(".weight")
    if stem in WHOLE:
        return f"{WHOLE[stem]}.weight"
    _, number, inner = stem.split(".", 2)
    return f"model.layers.{number}.{BLOCK[inner]}.weight"


def save_llama(
    model: Transformer, folder: Path, *, end: int | None = None, dtype: torch.dtype | None = None
) -> None:
    """Write config.json, generation_config.json and model.safetensors.

    Args:
        model: its weights are not changed.
        folder: made if it is not there; files of these names are replaced.
        end: the token that ends a document and that every document begins with.
        dtype: of the stored weights; None leaves them as they are.

    Raises:
        UserError: the disk is full or may not be written.
    """
    weights = (
        (llama_name(name), value.detach().to("cpu", dtype or value.dtype))
        for name, value in model.named_parameters()  # names a shared tensor once, as the embedding's
    )
    kind = str(dtype or model.embedding.weight.dtype).removeprefix("torch.")
    rope = {"rope_type": "default", "rope_theta": model.base}
    config = {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
        "vocab_size": model.vocabulary,
        "hidden_size": model.width,
        "intermediate_size": model.hidden,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.width // model.heads,
        "hidden_act": "silu",
        "max_position_embeddings": model.window,
        "rms_norm_eps": model.eps,
        "rope_theta": model.base,
        "rope_parameters": rope,  # where transformers 5 looks; earlier ones read rope_theta
        "tie_word_embeddings": model.tied,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": end,
        "eos_token_id": end,
        "dtype": kind,
        "torch_dtype": kind,
    }
    generation = {"bos_token_id": end, "eos_token_id": end, "do_sample": True}
    write_folder(folder, config, weights)
    write_json(folder / "generation_config.json", generation)


def load_llama(folder: Path, *, window: int | None = None, dropout: float = 0.0) -> Transformer:
    """Read a LlamaForCausalLM folder, one file or sharded; weights become float32.

    Args:
        folder: with config.json and model.safetensors or model.safetensors.index.json.
        window: most positions at once; None takes the folder's.
        dropout: of the model that is made.

    Raises:
        UserError: a file is missing or damaged, the weights are pickled, or the architecture is
            another one or uses what this model does not have.
    """
    path = folder / "config.json"
    config = read_config(folder, NEEDED)
    _check(config, path)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    try:
        with torch.device("meta"):
            model = Transformer(
                vocabulary=config["vocab_size"],
                width=config["hidden_size"],
                layers=config["num_hidden_layers"],
                heads=config["num_attention_heads"],
                kv_heads=config.get("num_key_value_heads"),
                hidden=config["intermediate_size"],
                window=window or config.get("max_position_embeddings", 2048),
                base=float(rope.get("rope_theta", config.get("rope_theta", 10_000.0))),
                tied=config.get("tie_word_embeddings", False),
                dropout=dropout,
                eps=config.get("rms_norm_eps", 1e-6),
            )
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error
    stored = StoredTensors(folder)
    fill(model, lambda name, shape: stored.read(llama_name(name), shape))
    model.reset_positions()
    return model


def _check(config: dict[str, Any], path: Path) -> None:
    names = config["architectures"]
    if names != [ARCHITECTURE]:
        raise UserError(
            f"{path}: architecture {', '.join(map(str, names))}{nearest(str(names[0]), [ARCHITECTURE])}; "
            f"supported: {ARCHITECTURE}"
        )
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    expected = {
        "rope_type": (rope.get("rope_type", rope.get("type", "default")), "default"),
        "hidden_act": (config.get("hidden_act", "silu"), "silu"),
        "attention_bias": (config.get("attention_bias", False), False),
        "mlp_bias": (config.get("mlp_bias", False), False),
        "head_dim": (config.get("head_dim") or head_dim, head_dim),
    }
    for field, (found, wanted) in expected.items():
        if found != wanted:
            raise UserError(f"{path}, {field}: expected {wanted}, got {found!r}")
