"""Hugging Face's BertForMaskedLM folders, read and written: config.json and safetensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fourfold.core.errors import UserError, nearest
from fourfold.models.bert import GELU, Bert
from fourfold.models.hf_folder import StoredTensors, fill, read_config, read_json, write_folder
from fourfold.models.sentence_encoder import headless

ARCHITECTURES = ("BertForMaskedLM", "BertForPreTraining")
"""What is read; the first is written."""
BODY = "BertModel"
"""A body alone, as sentence-embedding models have it."""
NEEDED = (
    "architectures",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
WHOLE = {
    "embedding": "bert.embeddings.word_embeddings",
    "position": "bert.embeddings.position_embeddings",
    "kind": "bert.embeddings.token_type_embeddings",
    "embedding_norm": "bert.embeddings.LayerNorm",
    "transform": "cls.predictions.transform.dense",
    "transform_norm": "cls.predictions.transform.LayerNorm",
}
BLOCK = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feedforward.up": "intermediate.dense",
    "feedforward.down": "output.dense",
    "feedforward_norm": "output.LayerNorm",
}
BIAS = "cls.predictions.bias"
DECODER = "cls.predictions.decoder.weight"
FIXED = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
"""Settings that this model has no other form of."""


def bert_name(name: str) -> str:
    """A parameter's name in BertForMaskedLM: "blocks.0.attention.out.weight" and the like."""
    if name == "decoder.bias":
        return BIAS
    stem, kind = name.rsplit(".", 1)
    if stem in WHOLE:
        return f"{WHOLE[stem]}.{kind}"
    _, number, inner = stem.split(".", 2)
    return f"bert.encoder.layer.{number}.{BLOCK[inner]}.{kind}"


def is_bert(folder: Path) -> bool:
    """Whether a folder's config.json names an architecture that `load_bert` reads."""
    try:
        names = read_json(folder / "config.json").get("architectures")
    except UserError:
        return False
    return isinstance(names, list) and bool(set(ARCHITECTURES) & set(map(str, names)))


def load_bert(folder: Path) -> tuple[Bert, dict[str, Any]]:
    """Read a folder; weights become float32. The pooler and the head for the next sentence are left out.

    Returns:
        The model, with the folder's dropout, and its config.json.

    Raises:
        UserError: a file is missing or damaged, the weights are pickled, or the architecture is another one or
            uses what this model does not have.
    """
    config = read_config(folder, NEEDED)
    model = _empty(config, folder / "config.json", ARCHITECTURES)
    stored = StoredTensors(folder)

    def read(name: str, shape: torch.Size) -> Tensor:
        return stored.read(_stored_name(bert_name(name), stored), shape)

    fill(model, read)
    if DECODER in stored and not torch.equal(stored.read(DECODER), model.embedding.weight):
        raise UserError(
            f"{folder}: its output weights are not its embedding's; expected a BERT whose two are tied"
        )
    return model, config


class SentenceSettings(NamedTuple):
    """What a sentence-embedding folder does with the states of its body."""

    pooling: Literal["mean", "cls"] = "mean"
    normalize: bool = True
    window: int | None = None
    """Tokens of a text at most; None where it does not say."""


def is_sentence_folder(folder: Path) -> bool:
    """Whether a folder holds a BERT's body alone, as sentence-embedding models do."""
    try:
        names = read_json(folder / "config.json").get("architectures")
    except UserError:
        return False
    return isinstance(names, list) and BODY in names


def sentence_settings(folder: Path) -> SentenceSettings:
    """What modules.json and the folders that it names say; mean pooling to length 1 where there is none.

    Raises:
        UserError: pooling of another kind, or a further layer.
    """
    if not (folder / "modules.json").is_file():
        return SentenceSettings()
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    kinds = {str(m["type"]).rsplit(".", 1)[-1]: folder / m["path"] for m in modules}
    unknown = sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"})
    if unknown:
        raise UserError(
            f"{folder / 'modules.json'}: expected Transformer, Pooling and Normalize, got {unknown[0]}"
        )
    pooling = read_json(kinds["Pooling"] / "config.json") if "Pooling" in kinds else {}
    chosen = [
        name
        for name, value in pooling.items()
        if name.startswith("pooling_mode_") and value is True
    ]
    names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if len(chosen) > 1 or (chosen and chosen[0] not in names):
        raise UserError(f"{folder}: expected mean or first-token pooling, got {', '.join(chosen)}")
    said = folder / "sentence_bert_config.json"
    window = read_json(said).get("max_seq_length") if said.is_file() else None
    kind: Any = names[chosen[0]] if chosen else "mean"
    return SentenceSettings(kind, "Normalize" in kinds, window if isinstance(window, int) else None)


def load_body(folder: Path) -> tuple[Bert, dict[str, Any]]:
    """Read a BertModel's folder; its pooler is left out.

    Raises:
        UserError: as `load_bert`.
    """
    config = read_config(folder, NEEDED)
    model = headless(_empty(config, folder / "config.json", (BODY, *ARCHITECTURES)))
    stored = StoredTensors(folder)
    bare = "embeddings.word_embeddings.weight" in stored

    def read(name: str, shape: torch.Size) -> Tensor:
        there = bert_name(name)
        return stored.read(
            _stored_name(there.removeprefix("bert.") if bare else there, stored), shape
        )

    fill(model, read)
    return model, config


def _empty(config: dict[str, Any], path: Path, architectures: Sequence[str]) -> Bert:
    """A model of this shape on the meta device."""
    _check(config, path, architectures)
    try:
        with torch.device("meta"):
            return Bert(
                vocabulary=config["vocab_size"],
                width=config["hidden_size"],
                layers=config["num_hidden_layers"],
                heads=config["num_attention_heads"],
                hidden=config["intermediate_size"],
                window=config["max_position_embeddings"],
                types=config.get("type_vocab_size", 2),
                activation=config.get("hidden_act", "gelu"),
                dropout=config.get("hidden_dropout_prob", 0.1),
                eps=config.get("layer_norm_eps", 1e-12),
            )
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: {error}") from error


def save_bert(model: Bert, folder: Path, *, pad: int | None = None, dropout: float = 0.1) -> None:
    """Write config.json and model.safetensors.

    Args:
        model: its weights are not changed.
        folder: made if it is not there; files of these names are replaced.
        pad: the token that fills rows.
        dropout: what config.json tells further training.

    Raises:
        UserError: the disk is full or may not be written.
    """
    kind = str(model.embedding.weight.dtype).removeprefix("torch.")
    config = {
        "architectures": [ARCHITECTURES[0]],
        "model_type": "bert",
        "vocab_size": model.vocabulary,
        "hidden_size": model.width,
        "intermediate_size": model.hidden,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": model.heads,
        "hidden_act": model.activation,
        "max_position_embeddings": model.window,
        "type_vocab_size": model.types,
        "layer_norm_eps": model.eps,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "pad_token_id": pad,
        "dtype": kind,
        "torch_dtype": kind,
    }
    # a shared tensor is named once, as the embedding's
    write_folder(folder, config, ((bert_name(n), v) for n, v in model.named_parameters()))


def _stored_name(name: str, stored: StoredTensors) -> str:
    """The name in this folder: in the first files a norm's weight and bias were gamma and beta."""
    if name in stored or "LayerNorm" not in name:
        return name
    old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
        "LayerNorm.bias", "LayerNorm.beta"
    )
    return old if old in stored else name


def _check(config: dict[str, Any], path: Path, architectures: Sequence[str]) -> None:
    names = [str(name) for name in config["architectures"]]
    if not set(names) & set(architectures):
        raise UserError(
            f"{path}: architecture {', '.join(names)}{nearest(names[0], architectures)}; "
            f"supported: {', '.join(architectures)}"
        )
    for field, wanted in FIXED.items():
        found = config.get(field, wanted)
        if found not in (wanted, None):
            raise UserError(f"{path}, {field}: expected {wanted}, got {found!r}")
    activation = config.get("hidden_act", "gelu")
    if activation not in GELU:
        raise UserError(f"{path}, hidden_act: expected {', '.join(GELU)}, got {activation!r}")
