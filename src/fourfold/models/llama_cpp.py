"""Decoding by llama.cpp (https://github.com/ggml-org/llama.cpp), where llama-cpp-python is installed: a GGUF file's model.

The tokens are the file's own numbers, which for files of ours are the run's.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.models.decoder import Decoder

INSTALL = "llama.cpp is not installed: pip install llama-cpp-python (compiles for minutes; needs a C++ compiler)"
FLOAT32 = 0
"""ggml's number of the type."""
NO_FLASH = 0
"""Its flash attention rounds to half precision: log-probabilities would be 1e-3 away."""
_SILENT: list[Any] = []


def package() -> Any:
    """The module llama_cpp.

    Raises:
        UserError: it is not installed.
    """
    try:
        import llama_cpp
    except ImportError:
        raise UserError(f"--engine llama.cpp: {INSTALL}") from None
    if not _SILENT:  # it writes a page to stderr for every file that it opens
        _SILENT.append(llama_cpp.llama_log_callback(lambda level, text, data: None))
        llama_cpp.llama_log_set(_SILENT[0], None)
    return llama_cpp


class LlamaCppDecoder(Decoder):
    """See `Decoder`. Keys and values are float32, as ours.

    Args:
        path: a GGUF file.
        slots: S.
        window: see `Decoder`.
        vocabulary: V.
        threads: that compute; None takes torch's number.

    Raises:
        UserError: llama.cpp is not installed, or does not read the file.
    """

    def __init__(
        self, path: Path, slots: int, window: int, vocabulary: int, threads: int | None = None
    ) -> None:
        self.slots, self.window, self.vocabulary, self.lengths = (
            slots,
            window,
            vocabulary,
            [0] * slots,
        )
        self.device = torch.device("cpu")
        self.kept: Any = None
        """What must not go before the decoder does, as the file's folder."""
        self._lib = lib = package()
        threads = threads or torch.get_num_threads()
        options = lib.llama_model_default_params()
        options.n_gpu_layers = 0
        model = lib.llama_model_load_from_file(str(path).encode(), options)
        if not model:
            raise UserError(f"{path}: llama.cpp does not read it")
        # not by __del__: when the interpreter ends the library may have gone before
        _later(self, lib.llama_model_free, model)
        told = lib.llama_context_default_params()
        told.n_ctx, told.n_seq_max, told.kv_unified = slots * window, slots, True
        told.n_batch = told.n_ubatch = max(slots, min(512, slots * window))
        told.n_threads = told.n_threads_batch = threads
        told.type_k = told.type_v = FLOAT32
        told.flash_attn_type = NO_FLASH
        self._context = lib.llama_init_from_model(model, told)
        if not self._context:
            raise UserError(f"{path}: llama.cpp has no memory for {slots} texts of {window} tokens")
        _later(self, lib.llama_free, self._context)
        self._most = int(told.n_batch)
        self._batch = lib.llama_batch_init(self._most, 0, 1)
        _later(self, lib.llama_batch_free, self._batch)
        self._held = [0] * slots
        self._memory = lib.llama_get_memory(self._context)

    def _read(self, slots: Sequence[int], tokens: Sequence[Sequence[int]], every: bool) -> Tensor:
        rows = [
            (token, self.lengths[slot] + n, slot, every or n == len(some) - 1)
            for slot, some in zip(slots, tokens, strict=True)
            for n, token in enumerate(some)
        ]
        for slot, some in zip(slots, tokens, strict=True):
            if self._held[slot] > self.lengths[slot]:
                self._lib.llama_memory_seq_rm(self._memory, slot, self.lengths[slot], -1)
            self._held[slot] = self.lengths[slot] + len(some)
        found = []
        for begin in range(0, len(rows), self._most):
            found += self._read_some(rows[begin : begin + self._most])
        return torch.from_numpy(np.stack(found))

    def _read_some(self, rows: Sequence[tuple[int, int, int, bool]]) -> list[np.ndarray]:
        batch = self._batch
        batch.n_tokens = len(rows)
        for n, (token, place, slot, wanted) in enumerate(rows):
            batch.token[n], batch.pos[n] = token, place
            batch.n_seq_id[n], batch.seq_id[n][0] = 1, slot
            batch.logits[n] = wanted
        if (code := self._lib.llama_decode(self._context, batch)) != 0:
            raise RuntimeError(f"llama.cpp: llama_decode gave {code} for {len(rows)} tokens")
        pointers = (
            self._lib.llama_get_logits_ith(self._context, n) for n, row in enumerate(rows) if row[3]
        )
        # the context writes them anew at the next reading
        return [np.ctypeslib.as_array(p, (self.vocabulary,)).copy() for p in pointers]

    def _copy(self, source: int, target: int, length: int) -> None:
        self._lib.llama_memory_seq_rm(self._memory, target, -1, -1)
        self._lib.llama_memory_seq_cp(self._memory, source, target, 0, length)
        self._held[target] = length


def _later(decoder: LlamaCppDecoder, free: Any, what: Any) -> None:
    """Free something when the decoder goes, before what was given first; nothing when the interpreter ends."""
    weakref.finalize(decoder, free, what).atexit = False
