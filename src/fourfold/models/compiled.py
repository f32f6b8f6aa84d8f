"""Decoding by the compiled kernel (`kernels/decoder.py`), for Transformers in Llama's form on a CPU.

Every token that is read is a row of the same products, be it one of a prompt, of a draft, or the next one of a slot.
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
from fourfold.models.decoder import Decoder
from fourfold.models.torch_decoder import StepLayer, folded
from fourfold.models.transformer import Transformer

KINDS = ("float32", "int8")
BLOCK = 64
"""Tokens read at once."""


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
    """See `Decoder`. In float32 it equals torch's; what a slot is answered does not depend on the others to the last bit.

    Args:
        model: suited; not changed, its weights are copied, adapters merged into them.
        slots: S.
        kind: of the weights that are multiplied by: float32, or int8 with a scale for every 64 of them.
        window: see `Decoder`; None takes the model's.
        weights: of another decoder of the same model and kind, which are only read.

    Raises:
        ValueError: the model is of another form, or the kind is not known.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: Transformer,
        slots: int,
        kind: str = "float32",
        window: int | None = None,
        weights: kernel.Weights | None = None,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f'CompiledDecoder: no kind "{kind}"; there are {", ".join(KINDS)}')
        if reason := unsuited(model):
            raise ValueError(f"CompiledDecoder does not serve this model: {reason}")
        self.window = min(window or model.window, model.window)
        self.slots, self.vocabulary, self.lengths = slots, model.vocabulary, [0] * slots
        self.device = model.embedding.weight.device
        self.weights = weights or _weights(merged(model), kind)
        self.sizes = kernel.Sizes(
            model.heads, model.kv_heads, model.head_dim, model.hidden, model.vocabulary,
            model.form.factor * model.head_dim**-0.5, model.eps,
        )  # fmt: skip
        shape = (len(model.blocks), slots, model.kv_heads, self.window, model.head_dim)
        self.keys, self.values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def _copy(self, source: int, target: int, length: int) -> None:
        for kept in (self.keys, self.values):
            kept[:, target, :, :length] = kept[:, source, :, :length]

    def _read(self, slots: Sequence[int], tokens: Sequence[Sequence[int]], every: bool) -> Tensor:
        counts = [len(some) for some in tokens]
        read = np.fromiter((token for some in tokens for token in some), np.int64)
        where = np.repeat(np.array(slots, np.int64), counts)
        at = np.concatenate(
            [np.arange(n) + self.lengths[s] for s, n in zip(slots, counts, strict=True)]
        )
        wanted = np.arange(len(read)) if every else np.cumsum(counts) - 1
        logits = np.empty((len(wanted), panels.padded(self.vocabulary)), np.float32)
        done = 0
        for begin in range(0, len(read), BLOCK):
            some = slice(begin, begin + BLOCK)
            last = int(np.searchsorted(wanted, begin + BLOCK))
            kernel.step(
                read[some], where[some], at[some], wanted[done:last] - begin, self.weights, self.sizes,
                self.keys, self.values, logits[done:last],
            )  # fmt: skip
            done = last
        return torch.from_numpy(logits)[:, : self.vocabulary]


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
