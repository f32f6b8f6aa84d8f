"""Which engine continues a text: torch, or the compiled decoder in float32 or int8; and what int8 costs.

The choice depends on the model, the machine and what is asked of each prompt, never on how many prompts there
are: what one is answered does not depend on the others.
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out
from fourfold.core.run import Run
from fourfold.core.state import write_text
from fourfold.data.text import TextData
from fourfold.models.adapters import merged
from fourfold.models.decoder import Decoder
from fourfold.models.torch_decoder import TorchDecoder
from fourfold.models.transformer import Transformer

if TYPE_CHECKING:
    from fourfold.models.compiled import CompiledDecoder

EngineName = Literal["auto", "torch", "compiled", "llama.cpp"]
Precision = Literal["auto", "float32", "bfloat16", "int8"]
FILE = "int8.json"
"""In a run's folder: what int8 costs, measured once."""
SHORT = 64
"""Tokens up to which torch, which begins at once, is taken by itself."""
LARGE = 50_000_000
"""Weights from which many threads of torch are taken rather than the compiled decoder's."""
MANY = 4
"""Threads that are many."""
ROWS, LENGTH = 8, 64
"""Held-out tokens on which int8 is measured: rows and tokens of each."""
MOST_BITS, MOST_ERROR = 0.01, 0.05
"""Bits per byte, or share of the logits' deviation, that int8 may cost to be taken by itself."""
TYPES: dict[str, Any] = {"float32": "f32", "bfloat16": "bf16", "int8": "q8_0"}
"""Of matrices in GGUF files."""
_COSTS: weakref.WeakKeyDictionary[Transformer, tuple[Any, Cost]] = weakref.WeakKeyDictionary()
"""Of models that are in memory only, with the stamp of their weights."""
DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}


class Engine(NamedTuple):
    """What continues a text."""

    name: EngineName
    """torch, compiled or llama.cpp."""
    precision: Precision
    """Of the weights that are multiplied by; auto is the faster one here, of torch."""
    make: Callable[[int, int], Decoder]
    """From slots and window to a decoder; all that are made share their weights where the engine is compiled."""


class Cost(NamedTuple):
    """What int8 changes. Bits per byte on held-out text; without one, the logits' error over their deviation."""

    before: float | None
    after: float | None
    error: float

    @property
    def small(self) -> bool:
        """Whether int8 may be taken unasked."""
        if self.before is None or self.after is None:
            return self.error <= MOST_ERROR
        return self.after - self.before <= MOST_BITS

    @property
    def sentence(self) -> str:
        """As it is said."""
        if self.before is None or self.after is None:
            return f"int8 moves the logits by {self.error:.2%} of their deviation"
        return f"bits per byte on {ROWS * LENGTH} held-out tokens: {self.before:.4f} in float32, {self.after:.4f} in int8"


def chosen(
    run: Run,
    model: Transformer,
    engine: EngineName,
    precision: Precision,
    *,
    tokens: int,
    temperature: float,
    quiet: bool = False,
    threads: int | None = None,
) -> Engine:
    """The engine, said where it was not asked for in every detail.

    Args:
        run: says it, and keeps what int8 costs.
        model: in evaluation mode.
        engine: auto takes the fastest one here, of equal results where the temperature is 0.
        precision: auto as for engine.
        tokens: to be added to each prompt.
        temperature: 0 wants the most likely token.
        quiet: it was said before, as in a conversation.
        threads: of the compiled decoder; None takes torch's number.

    Raises:
        UserError: the engine does not serve the model or the precision.
    """
    if reason := refused(model, engine, precision):
        raise UserError(reason)
    say = (lambda sentence: None) if quiet else run.console.say
    if engine == "llama.cpp":
        return _llama_cpp(run, model, precision, temperature, say)
    if engine == "torch" or precision == "bfloat16" or (
        engine == "auto" and precision != "int8" and not _pays(model, tokens)
    ):  # fmt: skip
        if precision == "auto" and temperature == 0:
            precision = "float32"
        dtype = DTYPES[precision]
        return Engine(
            "torch", precision, lambda slots, window: TorchDecoder(model, slots, dtype, window)
        )
    return _compiled(run, model, precision, temperature, say, threads)


def int8_cost(run: Run, model: Transformer, decoder: CompiledDecoder) -> Cost:
    """What int8 costs: measured on held-out text, once for a run's weights.

    Args:
        run: the decoder's.
        model: the decoder's, in evaluation mode.
        decoder: in int8, `ROWS` rows of `LENGTH` places or more.
    """
    from fourfold.models.packed import stamp

    weights = run.folder / "weights.safetensors" if run.folder is not None else None
    if weights is None or not weights.is_file():
        now = stamp(model)
        known = _COSTS.get(model)
        cost = known[1] if known and known[0] == now else _measured(run, model, decoder)
        _COSTS[model] = now, cost
        return cost
    stat = weights.stat()
    written = [stat.st_size, stat.st_mtime_ns]
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads((weights.parent / FILE).read_text())
        if kept["weights"] == written:
            return Cost(*kept["cost"])
    cost = _measured(run, model, decoder)
    with contextlib.suppress(OSError):  # a folder that is only read
        write_text(weights.parent / FILE, json.dumps({"weights": written, "cost": cost}))
    return cost


def refused(model: Transformer, engine: str, precision: str) -> str | None:
    """Why an engine does not serve a model or a precision, with what would; None where it does."""
    from fourfold.models.compiled import unsuited

    if engine == "torch" and precision == "int8":
        return "--precision int8: is the compiled engine's; --engine compiled or auto"
    if engine == "compiled" and precision == "bfloat16":
        return "--precision bfloat16: is torch's; the compiled engine has float32 and int8"
    if engine == "llama.cpp":
        return None
    wanted = "--engine compiled" if engine == "compiled" else "--precision int8"
    if (engine == "compiled" or precision == "int8") and (reason := unsuited(model)):
        return f"{wanted}: does not serve this model: {reason}; --engine torch does"
    return None


# --- private ----------------------------------------------------------------------------------------


def _pays(model: Transformer, tokens: int) -> bool:
    from fourfold.models.compiled import unsuited

    if tokens <= SHORT or unsuited(model):
        return False
    size = sum(weight.numel() for weight in model.parameters())
    return torch.get_num_threads() <= MANY or size < LARGE


def _compiled(
    run: Run,
    model: Transformer,
    precision: str,
    temperature: float,
    say: Callable[[str], None],
    threads: int | None,
) -> Engine:
    from fourfold.kernels.decoder import compiled_before
    from fourfold.kernels.panels import HAS_VNNI
    from fourfold.models.compiled import CompiledDecoder
    from fourfold.models.packed import packed

    if not compiled_before():
        run.console.say("Compiling the decoder, once on this machine.")
    kind: Literal["float32", "int8"] = "float32"
    more = ""
    if precision == "int8" or (precision == "auto" and temperature > 0 and HAS_VNNI):
        probe = CompiledDecoder(model, ROWS, "int8", LENGTH, packed(model, "int8"))
        cost = int8_cost(run, model, probe)
        kind, more = "int8", f"; {cost.sentence}"
        if precision == "auto" and not cost.small:
            kind = "float32"
    weights = packed(model, kind)
    say(f"Engine: compiled, {kind}{more}.")
    return Engine(
        "compiled",
        kind,
        lambda slots, window: CompiledDecoder(model, slots, kind, window, weights, threads),
    )


def _llama_cpp(
    run: Run,
    model: Transformer,
    precision: Precision,
    temperature: float,
    say: Callable[[str], None],
) -> Engine:
    """The run as a GGUF file, written once for its weights; in memory only, for as long as the engine lives."""
    from fourfold.models.llama_cpp import LlamaCppDecoder, package
    from fourfold.tasks.transformer_gguf import export_gguf

    package()
    if precision == "auto":
        precision = "float32" if temperature == 0 else "int8"
    folder = run.folder / "llama.cpp" if run.folder is not None else None
    kept = tempfile.TemporaryDirectory() if folder is None else None
    path = Path(kept.name if kept else str(folder)) / f"{TYPES[precision]}.gguf"
    weights = run.folder / "weights.safetensors" if run.folder is not None else path
    if not path.exists() or path.stat().st_mtime_ns < weights.stat().st_mtime_ns:
        path.parent.mkdir(exist_ok=True)
        export_gguf(run, merged(model), path, TYPES[precision], getattr(run.system, "family", None))
    say(f"Engine: llama.cpp, {precision}.")

    def make(slots: int, window: int) -> Decoder:
        decoder = LlamaCppDecoder(path, slots, window, model.vocabulary)
        decoder.kept = kept
        return decoder

    return Engine("llama.cpp", precision, make)


@torch.inference_mode()
def _measured(run: Run, model: Transformer, decoder: CompiledDecoder) -> Cost:
    tokens, each = _sample(run, model)
    rows = tokens.shape[0]
    exact = model(tokens[:, :-1]).float()
    for row in range(rows):
        decoder.cut(row)
    found = decoder.read(range(rows), tokens[:, :-1].tolist(), every=True).view_as(exact)
    error = float((found - exact).std() / exact.std().clamp_min(1e-9))
    if each is None:
        return Cost(None, None, error)
    before, after = (
        float(F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())) / math.log(2) / each
        for logits in (exact, found)
    )
    return Cost(before, after, error)


def _sample(run: Run, model: Transformer) -> tuple[Tensor, float | None]:
    """Rows of held-out tokens, (R, T + 1) int64, and the bytes of a token; of any tokens where none is held out."""
    with contextlib.suppress(UserError):
        data, split, _ = held_out(run)
        if isinstance(data, TextData):
            text = np.asarray(data.tokens(split), np.int64)
            length = min(LENGTH, model.window, len(text) - 1)
            if length > 0:
                rows = max(1, min(ROWS, (len(text) - 1) // length))
                starts = np.linspace(0, len(text) - length - 1, rows).astype(np.int64)
                found = text[starts[:, None] + np.arange(length + 1)]
                return torch.from_numpy(found), data.bytes(split) / (len(text) - 1)
    size = (ROWS, min(LENGTH, model.window) + 1)
    return torch.randint(model.vocabulary, size, generator=run.generator("int8")), None
