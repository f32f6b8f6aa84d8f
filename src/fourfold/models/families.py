"""Families of decoder-only models as Hugging Face folders, both ways: Llama (and SmolLM, which is one), Mistral, Qwen2,
Qwen3, GPT-2.

Formats: transformers' LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config and GPT2Config, versions 4 and 5, with
safetensors (`models/hf_folder.py`). What a config asks for and `Transformer` does not have is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fourfold.core.errors import UserError, nearest
from fourfold.models.family_weights import StoredWeights, stored_weights
from fourfold.models.hf_folder import fill, read_config, write_folder, write_json
from fourfold.models.position_tables import SCALINGS
from fourfold.models.transformer import Transformer

GATES = {
    "silu": "swiglu",
    "swish": "swiglu",
    "gelu": "geglu",
    "gelu_pytorch_tanh": "geglu_tanh",
    "gelu_new": "geglu_tanh",
    "relu": "reglu",
}
"""Activations by their names there, in a gated feed-forward."""
PLAIN = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
}
"""The same in a plain one."""
SIZES = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "hidden": "intermediate_size",
    "window": "max_position_embeddings",
    "eps": "rms_norm_eps",
    "head_dim": "head_dim",
}
GPT2_SIZES = {
    "width": "n_embd",
    "layers": "n_layer",
    "heads": "n_head",
    "hidden": "n_inner",
    "window": "n_positions",
    "eps": "layer_norm_epsilon",
}


@dataclass(frozen=True)
class Family:
    """One of the families."""

    name: str
    """Its model_type."""
    architecture: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What transformers takes where a config says nothing, beyond `DEFAULTS`."""
    biases: tuple[str, ...] = ("none",)
    """Values of `Transformer`'s bias that it can have."""
    query_key_norm: bool = False
    sliding: bool = False
    """Whether its attention may look back a limited way."""

    @property
    def conv1d(self) -> bool:
        """Whether it is GPT-2, whose config and weights are laid out their own way."""
        return self.name == "gpt2"


DEFAULTS: dict[str, Any] = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
}
FAMILIES: dict[str, Family] = {
    f.name: f
    for f in (
        Family(
            "llama", "LlamaForCausalLM", {"max_position_embeddings": 2048}, ("none", "attention", "all")
        ),
        Family(
            "mistral", "MistralForCausalLM",
            {"max_position_embeddings": 131_072, "num_key_value_heads": 8, "sliding_window": 4096},
            sliding=True,
        ),
        Family("qwen2", "Qwen2ForCausalLM", {"max_position_embeddings": 32_768}, ("qkv",), sliding=True),
        Family(
            "qwen3", "Qwen3ForCausalLM", {"max_position_embeddings": 32_768, "head_dim": 128},
            ("none", "attention"), query_key_norm=True, sliding=True,
        ),
        Family("gpt2", "GPT2LMHeadModel", {"tie_word_embeddings": True}, ("all",)),
    )
}  # fmt: skip
ARCHITECTURES = {f.architecture: f for f in FAMILIES.values()}


def family_of(config: Mapping[str, Any], path: Path) -> Family:
    """The family that a config.json is of.

    Args:
        config: its content.
        path: where it is.

    Raises:
        UserError: none of the supported ones.
    """
    names = config.get("architectures")
    if isinstance(names, list) and names:
        found = ARCHITECTURES.get(str(names[0])) if len(names) == 1 else None
        said, known = ", ".join(map(str, names)), list(ARCHITECTURES)
    else:
        said, known = str(config.get("model_type")), list(FAMILIES)
        found = FAMILIES.get(said)
    if found is None:
        stems = {n.removesuffix("ForCausalLM").removesuffix("LMHeadModel"): n for n in known}
        stem = said.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
        hint = nearest(stem, stems)  # the endings are alike in all of them
        hint = hint if "mean" in hint else ""
        raise UserError(f"{path}: architecture {said}{hint}; supported: {', '.join(known)}")
    return found


def arguments(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What `Transformer` is made with to be the model that a config.json describes.

    Args:
        config: its content.
        path: where it is, for errors.

    Raises:
        UserError: it is of no supported family, lacks a field, or asks for what `Transformer` does not have.
    """
    family = family_of(config, path)
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "some way")
        raise UserError(
            f"{path}, quantization_config: weights quantized by {method} are not read; expected float32, bfloat16 or float16"
        )
    sizes = GPT2_SIZES if family.conv1d else SIZES
    needed = ("width", "layers", "heads", *(() if family.conv1d else ("hidden",)))
    missing = [n for n in ("vocab_size", *(sizes[s] for s in needed)) if config.get(n) is None]
    if missing:
        raise UserError(f"{path}: has no {', '.join(missing)}")
    given = {**DEFAULTS, **family.defaults, **config}  # a null is said, as "sliding_window": null
    found: dict[str, Any] = {ours: given.get(theirs) for ours, theirs in sizes.items()}
    found |= {"vocabulary": config["vocab_size"], "tied": bool(given["tie_word_embeddings"])}
    for name in (
        "vocabulary",
        "width",
        "layers",
        "heads",
        "kv_heads",
        "hidden",
        "window",
        "head_dim",
    ):
        value = found.get(name)
        if value is not None and (not isinstance(value, int) or value < 1):
            field = "vocab_size" if name == "vocabulary" else sizes[name]
            raise UserError(f"{path}, {field}: expected a whole number from 1 on, got {value!r}")
    heads, kv_heads = found["heads"], found.get("kv_heads") or found["heads"]
    if heads % kv_heads:
        raise UserError(
            f"{path}, num_key_value_heads: expected a divisor of num_attention_heads {heads}, got {kv_heads}"
        )
    more = _gpt2(given, path) if family.conv1d else _llama(family, given, path)
    return {**{k: v for k, v in found.items() if v is not None}, **more}


def load_model(
    folder: Path, *, window: int | None = None, dropout: float = 0.0
) -> tuple[Transformer, Family]:
    """Read a folder, one file of weights or several; weights become float32.

    Args:
        folder: with config.json and model.safetensors or model.safetensors.index.json.
        window: most positions at once; None takes the folder's.
        dropout: of the model that is made.

    Raises:
        UserError: a file is missing or damaged, the weights are pickled, or the architecture is another one or uses
            what this model does not have.
    """
    path, config = folder / "config.json", read_config(folder)
    family, told = family_of(config, path), arguments(config, path)
    if window is not None:
        told["window"] = window
    try:
        with torch.device("meta"):
            model = Transformer(**told, dropout=dropout)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error
    stored = StoredWeights(folder, conv1d=family.conv1d)
    fill(model, stored.read)
    stored.check_all_read(model, family.architecture)
    model.reset_positions()
    return model, family


def suited_family(model: Transformer, name: str | None = None) -> Family:
    """The family in which a model can be written.

    Args:
        model: any.
        name: which one; None takes the first that can express it.

    Raises:
        UserError: it cannot, and why.
    """
    if name is not None:
        why = _misfit(model, FAMILIES[name])
        if why:
            raise UserError(f"family {name}: cannot express this model: {why}")
        return FAMILIES[name]
    reasons = {f.name: _misfit(model, f) for f in FAMILIES.values()}
    for found, why in reasons.items():
        if not why:
            return FAMILIES[found]
    said = "; ".join(f"{found}: {why}" for found, why in reasons.items())
    raise UserError(f"no supported family can express this model ({said})")


def save_model(
    model: Transformer,
    folder: Path,
    *,
    family: str | None = None,
    begin: int | None = None,
    end: int | None = None,
    ends: Sequence[int] = (),
    dtype: torch.dtype | None = None,
) -> Family:
    """Write config.json, generation_config.json and the weights.

    Args:
        model: its weights are not changed.
        folder: made if it is not there; files of these names are replaced.
        family: which one to write; None takes the first that can express the model.
        begin: the token that every document begins with; None takes the end token.
        end: the token that ends a document.
        ends: every token at which a text that is made ends; none given takes the end token.
        dtype: of the stored weights; None leaves them as they are.

    Raises:
        UserError: the family cannot express the model, or the disk is full or may not be written.
    """
    chosen = suited_family(model, family)
    dtype = dtype or model.embedding.weight.dtype
    kind = str(dtype).removeprefix("torch.")
    tokens = {
        "bos_token_id": end if begin is None else begin,
        "eos_token_id": list(ends) if len(ends) > 1 else end,
    }
    config = {
        "architectures": [chosen.architecture],
        "model_type": chosen.name,
        "vocab_size": model.vocabulary,
        **(_gpt2_config(model) if chosen.conv1d else _llama_config(model, chosen)),
        "tie_word_embeddings": model.tied,
        **tokens,
        "dtype": kind,
        "torch_dtype": kind,
    }
    write_folder(folder, config, stored_weights(model, dtype, conv1d=chosen.conv1d))
    write_json(folder / "generation_config.json", {**tokens, "do_sample": True})
    return chosen


# --- reading a config ---------------------------------------------------------------------------------


def _llama(family: Family, config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What is beside the sizes, of Llama and what follows it."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in SCALINGS:
        raise UserError(f"{path}, rope_type: expected one of {', '.join(SCALINGS)}, got {kind!r}")
    partial = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    _plain(path, {"partial_rotary_factor": (partial, 1.0)})
    base = float(rope.pop("rope_theta", None) or config["rope_theta"] or DEFAULTS["rope_theta"])
    attention, feedforward = bool(config.get("attention_bias")), bool(config.get("mlp_bias"))
    if family.name == "qwen2":
        bias = "qkv"
    else:
        bias = "all" if attention and feedforward else "attention" if attention else "none"
    if (feedforward and not attention) or bias not in family.biases:
        raise UserError(
            f"{path}: attention_bias {attention} with mlp_bias {feedforward} is not supported"
        )
    return {
        "kv_heads": config.get("num_key_value_heads") or config["num_attention_heads"],
        "feedforward": _known(GATES, config["hidden_act"], path, "hidden_act"),
        "bias": bias,
        "query_key_norm": family.query_key_norm,
        "base": base,
        "rotary_scaling": None if kind == "default" else {"rope_type": kind, **_numbers(rope)},
        "sliding": _sliding(family, config, path) if family.sliding else None,
    }


def _numbers(rope: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in rope.items() if isinstance(value, (int, float))}


def _sliding(
    family: Family, config: Mapping[str, Any], path: Path
) -> tuple[int | None, ...] | int | None:
    """How far each layer looks back; None where all of it."""
    window, layers = config.get("sliding_window"), config["num_hidden_layers"]
    if window is None or family.name == "mistral":
        return window
    if not config.get("use_sliding_window"):
        return None
    kinds = config.get("layer_types")
    if kinds is None:
        first = config.get("max_window_layers", 28)
        kinds = ["full_attention"] * min(first, layers) + ["sliding_attention"] * max(
            0, layers - first
        )
    unknown = set(kinds) - {"full_attention", "sliding_attention"}
    if unknown or len(kinds) != layers:
        raise UserError(
            f"{path}, layer_types: expected full_attention or sliding_attention for {layers} layers, got {kinds}"
        )
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _gpt2(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What is beside the sizes, of GPT-2."""
    _plain(path, {
        "scale_attn_weights": (config.get("scale_attn_weights", True), True),
        "scale_attn_by_inverse_layer_idx": (config.get("scale_attn_by_inverse_layer_idx", False), False),
        "add_cross_attention": (config.get("add_cross_attention", False), False),
    })  # fmt: skip
    activation = config.get("activation_function", "gelu_new")
    return {
        "window": config.get("n_positions") or config.get("n_ctx") or 1024,
        "hidden": config.get("n_inner") or 4 * config["n_embd"],
        "eps": config.get("layer_norm_epsilon", 1e-5),
        "norm": "layer",
        "feedforward": _known(PLAIN, activation, path, "activation_function"),
        "bias": "all",
        "positions": "learned",
    }


def _plain(path: Path, fields: Mapping[str, tuple[Any, Any]]) -> None:
    for name, (found, wanted) in fields.items():
        if found != wanted:
            raise UserError(f"{path}, {name}: expected {wanted}, got {found!r}")


def _known(names: Mapping[str, str], found: Any, path: Path, field: str) -> str:
    if found not in names:
        raise UserError(f"{path}, {field}: expected one of {', '.join(names)}, got {found!r}")
    return names[found]


# --- writing one --------------------------------------------------------------------------------------


def _misfit(model: Transformer, family: Family) -> str:
    """Why a family cannot express a model; empty where it can."""
    form = model.form
    wanted: dict[str, Sequence[Any]] = {
        "positions": ("learned",) if family.conv1d else ("rotary",),
        "norm": ("layer",) if family.conv1d else ("rms",),
        "feedforward": tuple(dict.fromkeys((PLAIN if family.conv1d else GATES).values())),
        "bias": family.biases,
        "query_key_norm": (family.query_key_norm,),
    }
    for name, values in wanted.items():
        if getattr(form, name) not in values:
            said = getattr(form, name)
            return f"it has {name} {said}, {family.name} {' or '.join(map(str, values))}"
    if family.conv1d and (form.kv_heads != form.heads or form.heads * form.head_dim != form.width):
        return "gpt2 has as many heads of keys as of queries, which share the width"
    if form.factor != 1:
        return f"its products are scaled by {form.scale:g}, those of {family.name} by 1 / sqrt(head_dim)"
    slides = any(s is not None for s in form.sliding)
    if slides and not family.sliding:
        return f"it looks back {max(s or 0 for s in form.sliding)} positions, {family.name} all"
    if slides and family.name == "mistral" and len(set(form.sliding)) > 1:
        return "only some of its layers look back a limited way, of mistral all"
    return ""


def _llama_config(model: Transformer, family: Family) -> dict[str, Any]:
    form = model.form
    scaling = model.rotary_scaling or {"rope_type": "default"}
    activation = next(theirs for theirs, ours in GATES.items() if ours == form.feedforward)
    config: dict[str, Any] = {
        "hidden_size": form.width,
        "intermediate_size": form.hidden,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": form.heads,
        "num_key_value_heads": form.kv_heads,
        "head_dim": form.head_dim,
        "hidden_act": activation,
        "max_position_embeddings": model.window,
        "rms_norm_eps": form.eps,
        "rope_theta": model.base,  # where transformers 4 looks; 5 reads rope_parameters
        "rope_scaling": None if model.rotary_scaling is None else dict(scaling),
        "rope_parameters": {**scaling, "rope_theta": model.base},
        "attention_dropout": 0.0,
    }
    if family.name in ("llama", "qwen3"):
        config["attention_bias"] = form.bias in ("attention", "all")
    if family.name == "llama":
        config["mlp_bias"] = form.bias == "all"
    if family.sliding:
        slides = [s for s in form.sliding if s is not None]
        config["sliding_window"] = slides[0] if slides else None
        if family.name != "mistral":
            first = next(
                (i for i, s in enumerate(form.sliding) if s is not None), len(form.sliding)
            )
            kinds = ["full_attention" if s is None else "sliding_attention" for s in form.sliding]
            config |= {
                "use_sliding_window": bool(slides),
                "max_window_layers": first,
                "layer_types": kinds,
            }
    return config


def _gpt2_config(model: Transformer) -> dict[str, Any]:
    form = model.form
    return {
        "n_embd": form.width,
        "n_layer": len(model.blocks),
        "n_head": form.heads,
        "n_inner": form.hidden,
        "n_positions": model.window,
        "n_ctx": model.window,
        "activation_function": next(t for t, ours in PLAIN.items() if ours == form.feedforward),
        "layer_norm_epsilon": form.eps,
        "resid_pdrop": form.dropout,
        "embd_pdrop": form.dropout,
        "attn_pdrop": 0.0,
    }
