"""Decoder-only models in GGUF's architectures, both ways: llama (which Mistral and SmolLM are there), qwen2, qwen3, gpt2.

Format: llama.cpp's settings and names of tensors of each architecture. Its llama turns neighbours, features 2 i and
2 i + 1 of a head, where ours (and Hugging Face's) turns feature i with i + D / 2: the rows of queries and keys are
written in another order. llama3's stretched positions are the tensor rope_freqs, by which wavelengths grow.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.models.families import suited_family
from fourfold.models.family_weights import FUSED
from fourfold.models.gguf_file import BLOCK, GGUFFile, Setting, rounded, write_gguf
from fourfold.models.hf_folder import fill
from fourfold.models.position_tables import rotary_turns
from fourfold.models.transformer import Transformer

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt2")
ENDS = {
    "embedding": "token_embd",
    "positions.table": "position_embd",
    "norm": "output_norm",
    "head": "output",
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.out": "attn_output",
    "attention.query_norm": "attn_q_norm",
    "attention.key_norm": "attn_k_norm",
    "feedforward_norm": "ffn_norm",
    "feedforward.gate": "ffn_gate",
    "feedforward.up": "ffn_up",
    "feedforward.down": "ffn_down",
}
BIASES: dict[tuple[bool, bool, bool], str] = {
    (False, False, False): "none",
    (True, False, False): "qkv",
    (True, True, False): "attention",
    (True, True, True): "all",
}
"""By the biases that a file has: of queries, of the attention's output, of the feed-forward."""
FREQUENCIES = "rope_freqs.weight"
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}
"""ggml's number for what most tensors of a file are."""
STRETCH = {
    "original_max_position_embeddings": ("original_context_length", 8192),
    "low_freq_factor": ("low_freq_factor", 1.0),
    "high_freq_factor": ("high_freq_factor", 4.0),
}
"""Numbers of llama3's scaling, under rope.scaling where we write them, and what Llama 3 has."""
SPARE = ("rope_freqs.weight", "rot_embd.weight", "rope.freqs")


def gguf_architecture(model: Transformer, family: str | None = None) -> str:
    """The architecture in which a model can be written.

    Args:
        model: a plain one.
        family: of Hugging Face models, which it was; None takes the first that can express it.

    Raises:
        UserError: none can, and why.
    """
    try:
        name = suited_family(model, family).name
    except UserError as error:
        raise UserError(f"--to gguf: {error}") from error
    form = model.form
    why = ""
    if any(size is not None and size < model.window for size in form.sliding):
        why = f"it looks back {max(size or 0 for size in form.sliding)} positions, llama.cpp's {name} all"
    wanted = "gelu_tanh" if name == "gpt2" else "swiglu"
    if form.feedforward != wanted:
        why = f"its feed-forward is {form.feedforward}, that of llama.cpp's {name} {wanted}"
    if name == "qwen3" and form.bias != "none":
        why = f"it has biases ({form.bias}), llama.cpp's qwen3 has none"
    if name == "gpt2" and not model.tied:
        why = "its output weights are not the embedding's, as in gpt2"
    if why:
        raise UserError(f"--to gguf: cannot express this model: {why}; --to hf writes it")
    return "llama" if name == "mistral" else name


def save_gguf(
    model: Transformer,
    path: Path,
    architecture: str,
    quantize: str,
    settings: Mapping[str, Setting],
) -> dict[str, str]:
    """Write a model.

    Args:
        model: a plain one; its weights are not changed.
        path: the file.
        architecture: from `gguf_architecture`.
        quantize: one of `gguf_file.WRITABLE`; see `kind_of`.
        settings: what is said beside the model: its name, the tokenizer.

    Returns:
        The tensors whose rows do not divide into blocks, by name, with the type that they have instead.

    Raises:
        UserError: see `write_gguf`.
    """
    named = {name: value.detach() for name, value in model.named_parameters()}
    places: dict[str, list[str]] = {}  # GPT-2 has queries, keys and values in one tensor
    for name in named:
        places.setdefault(gguf_name(name, architecture), []).append(name)
    shapes = {
        stored: (sum(named[n].shape[0] for n in names), *named[names[0]].shape[1:])
        for stored, names in places.items()
    }
    stretched = (model.rotary_scaling or {}).get("rope_type") == "llama3"
    if stretched:
        shapes[FREQUENCIES] = (model.head_dim // 2,)

    def read(stored: str) -> Tensor:
        if stored == FREQUENCIES:
            plain = rotary_turns(model.head_dim, model.base)
            return plain / rotary_turns(model.head_dim, model.base, model.rotary_scaling)
        parts = [_turned(model, n, named[n], architecture) for n in places[stored]]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    told: dict[str, Setting] = {
        **_settings(model, architecture),
        "general.file_type": FILE_TYPES[quantize],
        "general.quantization_version": 2,
        **settings,
    }
    write_gguf(path, architecture, told, shapes, read, lambda n, s: kind_of(n, s, quantize))
    wanted = (
        {n: kind_of(n, s, quantize) for n, s in shapes.items() if len(s) > 1 and s[-1] % BLOCK}
        if quantize[0] == "q"
        else {}
    )
    return {name: kind for name, kind in wanted.items() if kind == "f16"}


def load_gguf(path: Path | GGUFFile) -> tuple[Transformer, dict[str, Any], str]:
    """Read a model; weights become float32.

    Returns:
        The model, what `Transformer` is made with to be it, and the family of Hugging Face models that it is of.

    Raises:
        UserError: the file is damaged, of another architecture, or uses what this model does not have.
    """
    file = path if isinstance(path, GGUFFile) else GGUFFile(path)
    told, family = gguf_arguments(file)
    architecture = str(file.settings["general.architecture"])
    try:
        with torch.device("meta"):
            model = Transformer(**told)
    except (ValueError, TypeError) as error:
        raise UserError(f"{file.path}: {error}") from error
    used: set[str] = set()

    def read(name: str, shape: torch.Size) -> Tensor:
        stored = gguf_name(name, architecture)
        used.add(stored)
        part = name.split(".")[-2]
        if architecture == "gpt2" and part in FUSED:
            number = FUSED.index(part)
            whole = file.read(stored, (3 * shape[0], *shape[1:]))
            return whole[number * shape[0] : (number + 1) * shape[0]].clone()
        return _turned(model, name, file.read(stored, shape), architecture, back=True)

    fill(model, read)
    left = [n for n in file if n not in used and n not in SPARE]
    if model.tied and "output.weight" in left:  # older files of gpt2 have it twice
        again = file.read("output.weight", model.embedding.weight.shape)
        if torch.equal(again, model.embedding.weight):
            left.remove("output.weight")
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise UserError(
            f"{file.path}: holds {left[0]}{more}, for which {architecture} as its settings describe it has no place"
        )
    model.reset_positions()
    return model, told, family


def gguf_arguments(file: GGUFFile) -> tuple[dict[str, Any], str]:
    """What `Transformer` is made with to be a file's model, and the family of Hugging Face models that it is of.

    Raises:
        UserError: another architecture, a setting is missing, or it asks for what `Transformer` does not have.
    """
    name = str(file.settings.get("general.architecture"))
    if name not in ARCHITECTURES:
        raise UserError(f"{file.path}: architecture {name}; supported: {', '.join(ARCHITECTURES)}")

    def said(key: str, kind: Any = int, default: Any = None) -> Any:
        return file.get(f"{name}.{key}", kind, default)

    width, heads, window = (
        said("embedding_length"),
        said("attention.head_count"),
        said("context_length"),
    )
    if min(width, heads, window) < 1:
        raise UserError(f"{file.path}: expected sizes from 1 on, got {width}, {heads}, {window}")
    told: dict[str, Any] = {
        "vocabulary": file.rows("token_embd.weight"),
        "width": width,
        "layers": said("block_count"),
        "heads": heads,
        "kv_heads": said("attention.head_count_kv", int, heads),
        "hidden": said("feed_forward_length"),
        "window": window,
        "bias": _bias(file),
        "tied": name == "gpt2" or "output.weight" not in file,
    }
    if name == "gpt2":
        told |= {
            "eps": said("attention.layer_norm_epsilon", float), "norm": "layer", "feedforward": "gelu_tanh",
            "positions": "learned", "bias": "all", "head_dim": width // heads,
        }  # fmt: skip
        return told, name
    size = said("attention.key_length", int, width // heads)
    plain = {
        "attention.value_length": (said("attention.value_length", int, size), size),
        "rope.dimension_count": (said("rope.dimension_count", int, size), size),
        "expert_count": (said("expert_count", int, 0), 0),
    }
    for key, (found, wanted) in plain.items():
        if found != wanted:
            raise UserError(f"{file.path}, {name}.{key}: expected {wanted}, got {found}")
    if said("attention.sliding_window", int, window) < window:
        raise UserError(f"{file.path}, {name}.attention.sliding_window: is not read")
    base = said("rope.freq_base", float, 10_000.0)
    told |= {
        "eps": said("attention.layer_norm_rms_epsilon", float),
        "head_dim": size,
        "base": base,
        "query_key_norm": name == "qwen3",
        "rotary_scaling": _scaling(file, name, size, base),
    }
    return told, "qwen2" if told["bias"] == "qkv" else name


def kind_of(name: str, shape: tuple[int, ...], quantize: str) -> str:
    """The type in which a tensor is written.

    Vectors and learned positions stay in float32. With q4_0 the embedding and the output weights, which cost most by it,
    take q8_0. Rows that do not divide into blocks take f16.
    """
    if len(shape) < 2 or name.startswith("position_embd"):
        return "f32"
    if quantize in ("f32", "f16", "bf16"):
        return quantize
    if shape[-1] % BLOCK:
        return "f16"
    return "q8_0" if name.startswith(("token_embd", "output.")) else quantize


def rounded_copy(model: Transformer, architecture: str, quantize: str) -> Transformer:
    """A model with the weights that are left once it is written; blocks lie within rows, whatever their order."""
    made = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            kind = kind_of(gguf_name(name, architecture), tuple(weight.shape), quantize)
            weight.copy_(rounded(weight, kind))
    return made


def gguf_name(name: str, architecture: str) -> str:
    """A parameter's name in a file: "blk.0.attn_output.weight" and so on."""
    stem, end = name.rsplit(".", 1)
    if not stem.startswith("blocks."):
        return f"{ENDS[stem]}.{end}"
    _, number, inner = stem.split(".", 2)
    fused = architecture == "gpt2" and inner.split(".")[-1] in FUSED
    return f"blk.{number}.{'attn_qkv' if fused else ENDS[inner]}.{end}"


# --- private ----------------------------------------------------------------------------------------


def _turned(
    model: Transformer, name: str, tensor: Tensor, architecture: str, *, back: bool = False
) -> Tensor:
    """A tensor with the rows of each head as the architecture turns them: (2, D / 2) here, (D / 2, 2) in llama."""
    part = name.split(".")[-2]
    if architecture != "llama" or part not in ("query", "key"):
        return tensor
    heads = model.heads if part == "query" else model.kv_heads
    half = model.head_dim // 2
    split = tensor.unflatten(0, (heads, half, 2) if back else (heads, 2, half))
    return split.transpose(1, 2).flatten(0, 2).contiguous()


def _settings(model: Transformer, name: str) -> dict[str, Setting]:
    form = model.form
    told: dict[str, Setting] = {
        "context_length": model.window,
        "embedding_length": form.width,
        "block_count": len(model.blocks),
        "feed_forward_length": form.hidden,
        "attention.head_count": form.heads,
        "attention.head_count_kv": form.kv_heads,
        "vocab_size": model.vocabulary,
    }
    if name == "gpt2":
        told["attention.layer_norm_epsilon"] = float(form.eps)
        return {f"{name}.{key}": value for key, value in told.items()}
    told |= {
        "attention.layer_norm_rms_epsilon": float(form.eps),
        "attention.key_length": form.head_dim,
        "attention.value_length": form.head_dim,
        "rope.dimension_count": form.head_dim,
        "rope.freq_base": float(model.base),
    }
    scaling = model.rotary_scaling or {}
    if scaling.get("rope_type") == "linear":
        told |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling["factor"])}
    if scaling.get("rope_type") == "llama3":
        told |= {
            f"rope.scaling.{key}": type(d)(scaling[ours]) for ours, (key, d) in STRETCH.items()
        }
    return {f"{name}.{key}": value for key, value in told.items()}


def _bias(file: GGUFFile) -> str:
    ends = ("attn_q.bias", "attn_output.bias", "ffn_up.bias")
    found = tuple(f"blk.0.{end}" in file for end in ends)
    if "blk.0.attn_qkv.weight" in file:
        return "all"
    if found not in BIASES:
        raise UserError(f"{file.path}: this combination of biases is not read")
    return BIASES[found]


def _scaling(file: GGUFFile, name: str, head_dim: int, base: float) -> dict[str, Any] | None:
    """How rotary positions are stretched; None where they are not."""
    kind = file.get(f"{name}.rope.scaling.type", str, "none")
    if kind not in ("none", "linear"):
        raise UserError(
            f"{file.path}, {name}.rope.scaling.type: expected none or linear, got {kind}"
        )
    if kind == "linear":
        factor = file.get(f"{name}.rope.scaling.factor", float)
        return {"rope_type": "linear", "factor": factor}
    if FREQUENCIES not in file:
        return None
    stored = file.read(FREQUENCIES, (head_dim // 2,)).double()
    scaling = {"rope_type": "llama3", "factor": float(f"{float(stored.max()):.6g}")}
    for ours, (key, default) in STRETCH.items():
        scaling[ours] = file.get(f"{name}.rope.scaling.{key}", type(default), default)
    made = rotary_turns(head_dim, base) / rotary_turns(head_dim, base, scaling)
    if not torch.allclose(made, stored, rtol=1e-4):
        raise UserError(
            f"{file.path}, {FREQUENCIES}: expected Llama 3's stretched positions (factor {scaling['factor']:g}, "
            f"context {scaling['original_max_position_embeddings']} before), got others"
        )
    return scaling
