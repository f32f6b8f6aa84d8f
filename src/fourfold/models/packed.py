"""Weights as the compiled decoder reads them, kept for as long as their model lives: packing reads and writes all of them."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict

from torch import Tensor

from fourfold.kernels.decoder import Weights
from fourfold.models.compiled import weights_of
from fourfold.models.transformer import Transformer

KEPT, MOST = 4, 1 << 31
"""Packed models that are kept at most, the last used ones, and their bytes together."""
LOOKED = 64
"""Numbers of each weight that are looked at."""
Stamp = tuple[tuple[int, int, float], ...]

_lock = threading.Lock()
_kept: OrderedDict[tuple[int, str], tuple[weakref.ref[Transformer], Stamp, Weights]] = OrderedDict()


def packed(model: Transformer, kind: str) -> Weights:
    """A model's weights, packed anew where they have changed; not to be written to.

    Args:
        model: one that the compiled decoder serves.
        kind: float32 or int8.
    """
    key, now = (id(model), kind), stamp(model)
    with _lock:
        for other in [k for k, (place, _, _) in _kept.items() if place() is None]:
            del _kept[other]
        if key in _kept and _kept[key][1] == now:
            _kept.move_to_end(key)
            return _kept[key][2]
    made = weights_of(model, kind)
    with _lock:
        _kept.pop(key, None)
        _kept[key] = weakref.ref(model), now, made
        while len(_kept) > KEPT or sum(_size(w) for _, _, w in _kept.values()) > MOST:
            _kept.popitem(last=False)
    return made


def stamp(model: Transformer) -> Stamp:
    """Equal as long as the weights are: where each lies, how often it was written to, and some of its numbers.

    The last for what is written past autograd's count, as by `.data`.
    """
    return tuple((w.data_ptr(), _version(w), _some(w)) for w in (*model.parameters(), *model.buffers()))  # fmt: skip


# --- private ----------------------------------------------------------------------------------------


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version


def _some(weight: Tensor) -> float:
    flat = weight.detach().reshape(-1)
    return float(flat[:: max(1, flat.numel() // LOOKED)].double().sum())


def _size(weights: Weights) -> int:
    return sum(part.nbytes for part in weights)
