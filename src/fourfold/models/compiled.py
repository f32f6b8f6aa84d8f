"""Decoding by the compiled kernel (`kernels/decoder.py`), for Transformers in Llama's form on a CPU.

It takes the place of `models/generation.py`'s Decoder, step by step; prompts are read by the model itself, in
matrix products, into the same cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from fourfold.kernels import decoder as kernel
from fourfold.kernels import panels
from fourfold.models.adapters import merged
from fourfold.models.generation import Decoder, StepLayer, folded
from fourfold.models.transformer import Transformer

KINDS = ("float32", "int8")


def unsuited(model: Transformer) -> str | None:
    """Why the compiled decoder does not serve this model, as the end of a sentence; None where it does."""
    form, place = model.form, model.embedding.weight
    if place.device.type != "cpu":
        return f"the model is on {place.device.type}"
    for field, known in (("norm", "rms"), ("feedforward", "swiglu"), ("positions", "rotary")):
        if (value := getattr(form, field)) != known:
            return f"it has {field} {value}, not {known}"
    return None


class CompiledDecoder(Decoder):
    """See `Decoder`, which it equals.

    Args:
        model: suited; not changed, its weights are copied, adapters merged into them.
        rows: B.
        kind: of the weights that a step multiplies by: float32, or int8 with a scale for every 64 of them.
        window: see `Decoder`.
        weights: of another decoder of the same model and kind, which are only read.

    Raises:
        ValueError: the model is of another form, or the kind is not known.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: Transformer,
        rows: int,
        kind: str = "float32",
        window: int | None = None,
        weights: kernel.Weights | None = None,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f'CompiledDecoder: no kind "{kind}"; there are {", ".join(KINDS)}')
        if reason := unsuited(model):
            raise ValueError(f"CompiledDecoder does not serve this model: {reason}")
        model = merged(model)
        self.model, self.window = model, min(window or model.window, model.window)
        self.dtype, self.other = torch.float32, torch.float32
        self.device = model.embedding.weight.device
        form = model.form
        self.weights = weights or _weights(model, kind)
        self.sizes = kernel.Sizes(
            model.heads, model.kv_heads, model.head_dim, model.hidden, model.vocabulary,
            form.factor * model.head_dim**-0.5, model.eps,
        )  # fmt: skip
        shape = (len(model.blocks), rows, model.kv_heads, self.window, model.head_dim)
        self.keys, self.values = torch.zeros(shape), torch.zeros(shape)
        self.cache = list(zip(self.keys, self.values, strict=True))
        self.positions = [0] * rows

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """See `Decoder.step`."""
        if max(self.positions) >= self.window:
            raise ValueError(f"Decoder's window of {self.window} positions is full: read() it anew")
        read = np.array(tokens, np.int64)
        if read.min() < 0 or read.max() >= self.model.vocabulary:
            raise IndexError(
                f"Decoder expects tokens from 0 to {self.model.vocabulary - 1}, got {read.tolist()}"
            )
        size = self.model.vocabulary
        logits = np.empty((len(read), panels.padded(size)), np.float32)
        kernel.step(
            read, np.array(self.positions, np.int64), self.weights, self.sizes,
            self.keys.numpy(), self.values.numpy(), logits,
        )  # fmt: skip
        self.positions = [position + 1 for position in self.positions]
        return torch.from_numpy(logits)[:, :size]


# --- private ----------------------------------------------------------------------------------------


class _Packing:
    """Matrices and biases, put one after the other."""

    def __init__(self, layers: int, kind: str) -> None:
        self.kind = kind
        self.matrices: list[np.ndarray] = []
        self.scales: list[np.ndarray] = []
        self.biases: list[np.ndarray] = []
        self.at = np.zeros((layers + 1, 4), np.int64)
        self.bias_at = np.full((layers + 1, 4), -1, np.int64)

    def put(self, layer: int, place: int, weight: Tensor, bias: Tensor | None) -> None:
        """One more matrix (N, M) with its bias (N,)."""
        self.at[layer, place] = sum(map(len, self.matrices))
        if self.kind == "int8":
            codes, scales = panels.quantized(weight.numpy())
            self.matrices.append(codes)
            self.scales.append(scales)
        else:
            self.matrices.append(panels.packed(weight.numpy()))
        if bias is not None:
            self.bias_at[layer, place] = sum(map(len, self.biases))
            self.biases.append(bias.numpy())


def _weights(model: Transformer, kind: str) -> kernel.Weights:
    blocks, packing = list(model.blocks), _Packing(len(model.blocks), kind)
    heads = model.heads + model.kv_heads if model.form.query_key_norm else 0
    norms = np.zeros((len(blocks), heads, model.head_dim), np.float32)
    sliding = np.full(len(blocks), model.window, np.int64)
    for number, block in enumerate(blocks):
        layer = StepLayer(block, torch.float32, torch.float32, 1)
        for place, product in enumerate((layer.into_heads, layer.out, layer.up, layer.down)):
            packing.put(number, place, product.weight, product.bias)
        if layer.norms is not None:
            norms[number] = layer.norms.numpy()
        sliding[number] = layer.sliding or model.window
    head = folded(model.norm, [model.head], torch.float32, 1)
    packing.put(len(blocks), 0, head.weight, head.bias)
    cos, sin = cast(tuple[Tensor, Tensor], model.positions.turns(model.window))
    whole = np.concatenate(packing.matrices)
    nothing = np.zeros(0, np.float32)
    exact = kind == "float32"
    return kernel.Weights(
        floats=whole if exact else nothing,
        codes=np.zeros(0, np.uint8) if exact else whole,
        scales=np.concatenate(packing.scales or [nothing]),
        at=packing.at,
        bias=np.concatenate(packing.biases or [nothing]),
        bias_at=packing.bias_at,
        embedding=np.ascontiguousarray(model.embedding.weight.detach().float().numpy()),
        head_norms=norms,
        cos=np.ascontiguousarray(cos.float().numpy()),
        sin=np.ascontiguousarray(sin.float().numpy()),
        sliding=sliding,
    )
