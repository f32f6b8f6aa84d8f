"""Decoding by the compiled kernel (`kernels/decoder.py`), for Transformers in Llama's form on a CPU.

Every token that is read is a row of the same products, be it one of a prompt, of a draft, or the next one of a slot.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from fourfold.kernels import decoder as kernel
from fourfold.kernels import panels
from fourfold.kernels import team as kernel_team
from fourfold.models.adapters import merged
from fourfold.models.decoder import Decoder
from fourfold.models.torch_decoder import StepLayer, folded
from fourfold.models.transformer import Transformer

KINDS = ("float32", "int8")
BLOCK = 64
"""Tokens read at once."""
TRIED, AGAIN = 4, 96
"""Steps by threads together before one is tried, and steps after which the slower way is tried again."""
SHARED = 1 << 20
"""Bytes of weights from which threads share a step: below, meeting takes longer."""


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
        threads: that compute together; None takes torch's number where the weights are many enough to share.

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
        threads: int | None = None,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f'CompiledDecoder: no kind "{kind}"; there are {", ".join(KINDS)}')
        if reason := unsuited(model):
            raise ValueError(f"CompiledDecoder does not serve this model: {reason}")
        self.window = min(window or model.window, model.window)
        self.slots, self.vocabulary, self.lengths = slots, model.vocabulary, [0] * slots
        self.device = model.embedding.weight.device
        self.weights = weights or weights_of(model, kind)
        self.sizes = kernel.Sizes(
            model.heads, model.kv_heads, model.head_dim, model.hidden, model.vocabulary,
            model.form.factor * model.head_dim**-0.5, model.eps,
        )  # fmt: skip
        shape = (len(model.blocks), slots, model.kv_heads, self.window, model.head_dim)
        # beside weights in bytes, halves cost nothing that is seen, and many texts wait for theirs
        self.keys, self.values = (kernel.cache(*shape, half=kind == "int8") for _ in range(2))
        size = self.weights.floats.nbytes + self.weights.codes.nbytes
        self.threads = threads or (torch.get_num_threads() if size >= SHARED else 1)
        self.work = _work(model, self.threads)
        self.pace = Pace()
        self._lock = threading.Lock()
        self._helpers = Helpers(self, self._arguments) if self.threads > 1 else None

    @property
    def _arguments(self) -> tuple[Any, ...]:
        return self.work, self.weights, self.sizes, self.keys, self.values

    def _copy(self, source: int, target: int, length: int) -> None:
        for kept in (self.keys, self.values):
            kept[:, target, :, :length] = kept[:, source, :, :length]

    def _read(self, slots: Sequence[int], tokens: Sequence[Sequence[int]], every: bool) -> Tensor:
        with self._lock:  # all readings share what they work in
            return self._read_alone(slots, tokens, every)

    def _read_alone(
        self, slots: Sequence[int], tokens: Sequence[Sequence[int]], every: bool
    ) -> Tensor:
        counts = [len(some) for some in tokens]
        read = np.fromiter((token for some in tokens for token in some), np.int64)
        where = np.repeat(np.array(slots, np.int64), counts)
        at = np.concatenate(
            [np.arange(n) + self.lengths[s] for s, n in zip(slots, counts, strict=True)]
        )
        wanted = np.arange(len(read)) if every else np.cumsum(counts) - 1
        logits = np.empty((len(wanted), self.vocabulary), np.float32)
        work, done = self.work, 0
        for begin in range(0, len(read), BLOCK):
            some = slice(begin, begin + BLOCK)
            rows, last = len(read[some]), int(np.searchsorted(wanted, begin + BLOCK))
            work.tokens[:rows], work.slots[:rows], work.at[:rows] = (
                read[some],
                where[some],
                at[some],
            )
            work.wanted[: last - done] = wanted[done:last] - begin
            work.counts[:] = rows, last - done
            self._step(rows)
            logits[done:last] = work.logits[: last - done, : self.vocabulary]
            done = last
        return torch.from_numpy(logits)

    def _step(self, rows: int) -> None:
        """With the helpers, where that is sooner; they are woken for the next step if they sleep."""
        if self._helpers is None:
            kernel.step(*self._arguments, 1)
            return
        size, began = rows.bit_length(), time.perf_counter()
        together = self.pace.together(size)
        threads = self.threads if together and self._helpers.there else 1
        working = kernel.step(*self._arguments, threads)
        if together and working < self.threads:
            self._helpers.wake()
        else:
            self.pace.note(size, together, time.perf_counter() - began)


class Pace:
    """Whether threads together are sooner than one, as far as steps of about as many rows have shown.

    On a machine that others use they are not: each waits for the one whose core was taken.
    """

    def __init__(self) -> None:
        self._steps: dict[int, int] = {}
        self._seconds: dict[tuple[int, bool], float] = {}

    def together(self, size: int) -> bool:
        """For the next step: mostly the sooner way, now and then the other."""
        count = self._steps.get(size, 0)
        both, one = (self._seconds.get((size, way)) for way in (True, False))
        if both is None or one is None:
            return count < TRIED
        sooner = both < one
        slow = max(both, one) > 2 * min(both, one)
        return sooner if count % (AGAIN * (4 if slow else 1)) else not sooner

    def note(self, size: int, together: bool, seconds: float) -> None:
        """What a step took."""
        self._steps[size] = self._steps.get(size, 0) + 1
        before = self._seconds.get((size, together))
        self._seconds[size, together] = (
            seconds if before is None else 0.85 * before + 0.15 * seconds
        )


class Helpers:
    """The threads beside the caller's: they sleep until they are woken, and end with the decoder.

    Args:
        decoder: whose they are.
        arguments: of its steps; the threads hold nothing else of it.
    """

    def __init__(self, decoder: CompiledDecoder, arguments: tuple[Any, ...]) -> None:
        self._arguments, self._threads = arguments, decoder.threads
        self._process = -1
        self._calls: list[threading.Event] = []
        weakref.finalize(decoder, _end, arguments[0].team, self._calls)

    @property
    def there(self) -> bool:
        """Whether this process has them: a forked one has not."""
        return self._process == os.getpid()

    def wake(self) -> None:
        """Have all threads there for the next step; in a forked process, new ones."""
        if not self.there:
            self._process = os.getpid()
            self._calls[:] = [threading.Event() for _ in range(1, self._threads)]
            self._arguments[0].team[kernel_team.ASLEEP :: kernel_team.LINE] = 1
            for number, call in enumerate(self._calls, 1):
                told = (call, self._arguments, number, self._threads)
                threading.Thread(target=_help, args=told, daemon=True).start()
        for call in self._calls:
            call.set()


@torch.inference_mode()
def weights_of(model: Transformer, kind: str) -> kernel.Weights:
    """A model's weights as the kernel reads them, adapters merged; kind is one of `KINDS`."""
    model = merged(model)
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


# --- private ----------------------------------------------------------------------------------------


def _help(call: threading.Event, arguments: tuple[Any, ...], me: int, threads: int) -> None:
    team = arguments[0].team
    while True:
        call.wait()
        call.clear()
        if team[kernel_team.STOP]:
            return
        kernel.help_(*arguments, me, threads)


def _end(team: np.ndarray, calls: list[threading.Event]) -> None:
    team[kernel_team.STOP] = 1
    for call in calls:
        call.set()


def _work(model: Transformer, threads: int) -> kernel.Work:
    inner, padded = model.heads * model.head_dim, panels.padded
    joined = inner + 2 * model.kv_heads * model.head_dim
    sizes = (model.width, padded(joined), inner, padded(2 * model.hidden), padded(model.width), padded(model.vocabulary))  # fmt: skip
    return kernel.Work(
        kernel_team.numbers(threads),
        np.zeros(2, np.int64),
        *(np.zeros(BLOCK, np.int64) for _ in range(4)),
        *(np.zeros((BLOCK, size), np.float32) for size in sizes),
    )


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
