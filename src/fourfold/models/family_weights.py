"""Names and layouts of weights in Hugging Face's decoder-only models, both ways.

Llama and what follows it name one tensor for each of ours. GPT-2 keeps queries, keys and values in one, and its matrices
transposed (Conv1D).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.models.hf_folder import StoredTensors
from fourfold.models.transformer import Transformer

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
GPT2 = {
    "embedding": "transformer.wte",
    "positions.table": "transformer.wpe",
    "norm": "transformer.ln_f",
    "head": "lm_head",
    "attention_norm": "ln_1",
    "attention.query": "attn.c_attn",
    "attention.key": "attn.c_attn",
    "attention.value": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "feedforward_norm": "ln_2",
    "feedforward.up": "mlp.c_fc",
    "feedforward.down": "mlp.c_proj",
}
FUSED = ("query", "key", "value")
BUFFERS = ("rotary_emb.inv_freq", "attn.bias", "attn.masked_bias")
"""Ends of names that older folders hold beside the weights: tables and masks, computed here."""


def llama_name(name: str) -> str:
    """A parameter's name in LlamaForCausalLM and its like: "blocks.0.attention.out.weight" and so on."""
    return _named(name, LLAMA, "model.layers")


def gpt2_name(name: str) -> str:
    """A parameter's name in GPT2LMHeadModel; queries, keys and values share one."""
    return _named(name, GPT2, "transformer.h")


def _named(name: str, names: dict[str, str], blocks: str) -> str:
    stem, end = name.rsplit(".", 1)
    if stem.startswith("blocks."):
        _, number, inner = stem.split(".", 2)
        return f"{blocks}.{number}.{names[inner]}.{end}"
    return f"{names[stem]}.{end}"


class StoredWeights:
    """The weights of a folder by our names.

    Args:
        folder: the model's.
        conv1d: whether the layout is GPT-2's.

    Raises:
        UserError: see `StoredTensors`.
    """

    def __init__(self, folder: Path, *, conv1d: bool) -> None:
        self.stored, self.conv1d = StoredTensors(folder), conv1d
        self.prefix = "transformer." if conv1d else "model."
        embedding = (gpt2_name if conv1d else llama_name)("embedding.weight")
        # a body that was saved without its head has names without the body's own
        self.bare = (
            embedding not in self.stored and embedding.removeprefix(self.prefix) in self.stored
        )
        self.read_names: set[str] = set()

    def read(self, name: str, shape: torch.Size) -> Tensor:
        """A parameter by its name here, as `hf_folder.fill` asks.

        Raises:
            UserError: it is missing, damaged or of another shape.
        """
        if not self.conv1d:
            return self._stored(llama_name(name), shape)
        parts = name.split(".")
        if parts[-2] in FUSED:
            number = FUSED.index(parts[-2])
            each = slice(number * shape[0], (number + 1) * shape[0])
            fused = self._stored(gpt2_name(name), (*shape[1:], 3 * shape[0]))
            return fused[..., each].T.contiguous() if len(shape) > 1 else fused[each].clone()
        if parts[-1] == "weight" and parts[-2] in ("out", "up", "down"):
            return self._stored(gpt2_name(name), tuple(reversed(shape))).T.contiguous()
        return self._stored(gpt2_name(name), shape)

    def _stored(self, name: str, shape: tuple[int, ...]) -> Tensor:
        name = name.removeprefix(self.prefix) if self.bare else name
        self.read_names.add(name)
        return self.stored.read(name, shape)

    def check_all_read(self, model: Transformer, architecture: str) -> None:
        """Refuse a folder that holds weights for which the model has no place.

        Raises:
            UserError: it does.
        """
        spare = {"lm_head.weight"} if model.tied else set()
        left = [
            name
            for name in self.stored
            if name not in self.read_names | spare and not name.endswith(BUFFERS)
        ]
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise UserError(
                f"{self.stored.folder}: holds {left[0]}{more}, for which {architecture} as its config.json "
                "describes it has no place"
            )


def stored_weights(
    model: Transformer, dtype: torch.dtype, *, conv1d: bool
) -> Iterator[tuple[str, Tensor]]:
    """A plain model's weights by their names in a folder, one by one; what is tied comes once.

    Args:
        model: not changed.
        dtype: of what is handed out.
        conv1d: whether the layout is GPT-2's.
    """
    named = dict(model.named_parameters())
    for name, value in named.items():
        if not conv1d:
            yield llama_name(name), value.detach().to(dtype)
            continue
        parts = name.split(".")
        if parts[-2] in FUSED[1:]:
            continue
        tensor = value.detach()
        if parts[-2] == FUSED[0]:
            each = (named[".".join([*parts[:-2], part, parts[-1]])].detach() for part in FUSED)
            tensor = torch.cat(list(each))
        if parts[-1] == "weight" and parts[-2] in (FUSED[0], "out", "up", "down"):
            tensor = tensor.T.contiguous()
        yield gpt2_name(name), tensor.to(dtype)
