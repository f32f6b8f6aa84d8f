"""Hugging Face folders of decoder-only models as runs: what `fourfold import` makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fourfold.core.errors import UserError
from fourfold.data.subwords import Subwords
from fourfold.data.text import Text, TextData
from fourfold.models.families import arguments, load_model
from fourfold.models.hf_folder import read_config
from fourfold.models.transformer import Transformer
from fourfold.optimizers.gradient import Gradient

WINDOW, BATCH = 512, 4
"""Of windows that an imported model is trained further on, unless options say otherwise."""
DIRECT = (
    "width", "layers", "heads", "kv_heads", "hidden", "tied", "eps", "head_dim", "norm", "feedforward", "bias",
    "query_key_norm", "positions",
)  # fmt: skip
"""Arguments of `Transformer` that are fields of a system under the same name."""


def looks_like_language_model(path: Path) -> bool:
    """Whether a folder's config.json speaks of a model of the next token; which one, reading it says."""
    if not (path / "config.json").is_file():
        return False
    config = read_config(path)
    names = config.get("architectures")
    said = [str(n) for n in names] if isinstance(names, list) else []
    return not said or any(n.endswith(("ForCausalLM", "LMHeadModel")) for n in said)


def fields_of(told: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A system's fields for the arguments of `Transformer`.

    Args:
        told: from `models.families.arguments`.
        path: the config.json that they were read from.

    Raises:
        UserError: its layers look back in a pattern that the fields do not say.
    """
    fields = {name: told[name] for name in DIRECT if name in told}
    fields |= {
        "context_length": told["window"],
        "rotary_base": told.get("base", 10_000.0),
        "rotary_scaling": dict(told.get("rotary_scaling") or {}),
    }
    sliding = told.get("sliding")
    if isinstance(sliding, int):
        fields["sliding"] = sliding
    elif sliding and any(sliding):
        first = next(i for i, size in enumerate(sliding) if size)
        if not all(sliding[first:]):
            raise UserError(
                f"{path}, layer_types: expected sliding attention in all layers from one on, got it in "
                f"{', '.join(str(i) for i, s in enumerate(sliding) if s)} of {len(sliding)}"
            )
        fields |= {"sliding": sliding[first], "sliding_from": first}
    return fields


def read_folder(folder: Path) -> tuple[dict[str, Any], TextData, Transformer, Sequence[str]]:
    """A folder's model: the fields of its system, its vocabulary as data, the model itself, and notes.

    Raises:
        UserError: see `models.families.load_model` and `data.hf_tokenizer`.
    """
    path = folder / "config.json"
    told = arguments(read_config(folder), path)
    vocabulary, notes = Subwords.imported(folder, told["vocabulary"])
    model, family = load_model(folder)
    options, prepared, said = further(told, family.name, vocabulary, model, path)
    return options, prepared, model, [f"{family.architecture}, {said}", *notes]


def further(
    told: Mapping[str, Any], family: str, vocabulary: Subwords, model: Transformer, path: Path
) -> tuple[dict[str, Any], TextData, str]:
    """The fields of an imported model's system, its vocabulary as data, and a sentence on both.

    The optimizer's options are those of training a model further that has learned: at the house's rates for models
    that know nothing, it would forget.

    Args:
        told: what the model was made with.
        family: of Hugging Face models, that it is of.
        vocabulary: its tokenizer.
        model: itself.
        path: the file or folder that it was read from.
    """
    window = min(told["window"], WINDOW)
    data = Text(unit="bpe", window=window, batch=BATCH)
    optimizer = Gradient(
        algorithm="adamw", arguments={"betas": [0.9, 0.95]}, lr=5e-5, decay=0.1, epochs=1, schedule="cosine",
        warmup=0.03, final=0.1, clip=1.0,
    )  # fmt: skip
    count = sum(p.numel() for p in model.parameters())
    said = (
        f"{count:,} weights, {len(vocabulary):,} tokens, reads {told['window']:,} at once; "
        f"--from trains it further on windows of {window}, with adamw at {optimizer.lr:g}, unless options say otherwise."
    )
    fields = fields_of(told, path)
    options = {**fields, "family": family, "data": data, "optimizer": optimizer}
    origin = str(path.parent if path.name == "config.json" else path)
    return options, TextData.of_vocabulary(data, vocabulary, origin), said
