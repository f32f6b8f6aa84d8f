"""Generation on the same weights: our engines beside transformers' cached `generate` and llama.cpp; what int8 and guesses are worth.

    python -m benchmarks.generate speed [--shapes 6x384,12x768] [--rows 1,8] [--tokens 64] [--rounds 5] [--threads 2]
    python -m benchmarks.generate quality RUN
    python -m benchmarks.generate guess RUN SMALLER

speed: greedy, on Llama shapes of 10.7 and 134 million weights. All engines have the same number of threads and take turns in
one process. `--clock processor`, with one thread, counts processor time, for a machine that others use. Goals for one
text: 8 times transformers in float32 and 5 times in bfloat16 by the compiled decoder, and llama.cpp's q8_0 by int8.
quality: bits per byte of a trained run's held-out text by each engine, which makes int8 and q8_0 comparable. guess: tokens a
second of a trained run with guesses of a smaller one and of its own text. llama.cpp runs files of our GGUF export,
through llama-cpp-python; without it, it is left out.
"""

from __future__ import annotations

import argparse
import functools
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.side_by_side import alternate, keep, medians, ratio
from fourfold.core.console import Silent
from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out
from fourfold.core.run import Run
from fourfold.data.gguf_tokenizer import tokenizer_settings
from fourfold.data.text import TextData
from fourfold.data.vocabulary import Bytes
from fourfold.models.adapters import merged
from fourfold.models.compiled import CompiledDecoder
from fourfold.models.decoder import Decoder
from fourfold.models.families import save_model
from fourfold.models.generation import generate, samplers_of
from fourfold.models.gguf_families import save_gguf
from fourfold.models.llama_cpp import LlamaCppDecoder
from fourfold.models.packed import packed
from fourfold.models.sampling import Sampling
from fourfold.models.speculation import Draft, Guesser, LookUp, speculate
from fourfold.models.torch_decoder import TorchDecoder
from fourfold.models.transformer import Transformer
from fourfold.tasks.speeds import bandwidth
from fourfold.tasks.transformer_gguf import export_gguf
from fourfold.tasks.transformer_language import transformer

SHAPES = {"6x384": (6, 384, 6, 257), "12x768": (12, 768, 12, 32000)}
"""layers, width, heads, vocabulary: 10.8 and 134 million weights"""
PROMPT, WINDOW = 16, 512
FILES = ("f16", "q8_0")
RATIOS = (
    ("compiled int8", "transformers float32"), ("compiled int8", "transformers bfloat16"),
    ("compiled int8", "llama.cpp q8_0"), ("compiled float32", "transformers float32"),
    ("compiled float32", "llama.cpp f16"), ("torch bfloat16", "transformers bfloat16"),
)  # fmt: skip
HELD, DRAWN = 8192, 200
"""Held-out tokens of `quality`, and tokens of a text of `guess`."""
GUESSES = ("smaller run", "prompt")
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
Call = Callable[[], float]


# --- speed ------------------------------------------------------------------------------------------


def ours(model: Transformer, folder: Path, rows: int, threads: int) -> dict[str, Callable[[], Decoder]]:  # fmt: skip
    """From an engine's name to what makes its decoder; llama.cpp's read files of the folder."""
    made: dict[str, Callable[[], Decoder]] = {}
    for kind in ("float32", "bfloat16"):
        dtype = getattr(torch, kind)
        made[f"torch {kind}"] = functools.partial(TorchDecoder, model, rows, dtype, WINDOW)
    for kind in ("float32", "int8"):
        made[f"compiled {kind}"] = functools.partial(
            CompiledDecoder, model, rows, kind, WINDOW, packed(model, kind)
        )
    for kind in FILES:
        made[f"llama.cpp {kind}"] = functools.partial(
            LlamaCppDecoder, folder / f"{kind}.gguf", rows, WINDOW, model.vocabulary, threads
        )
    return made


def peers(folder: Path) -> dict[str, Any]:
    """transformers' models of the same weights."""
    from transformers import LlamaForCausalLM

    return {
        f"transformers {name}": LlamaForCausalLM.from_pretrained(folder, dtype=getattr(torch, name)).eval()
        for name in ("float32", "bfloat16")
    }  # fmt: skip


def rate_of_ours(model: Transformer, decoder: Decoder, prompts: Any, tokens: int, clock: Any) -> float:  # fmt: skip
    """Tokens a second, the prompts' reading included."""
    for slot in range(decoder.slots):
        decoder.cut(slot)
    began = clock()
    stream = generate(
        model, prompts, tokens=tokens, sampling=Sampling(0.0), make=lambda slots, window: decoder
    )
    return sum(1 for _ in stream) / (clock() - began)


def rate_of_peer(model: Any, prompts: torch.Tensor, tokens: int, clock: Any) -> float:
    """As `rate_of_ours`."""
    began = clock()
    with torch.inference_mode():
        out = model.generate(
            prompts, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
    return (out.shape[1] - prompts.shape[1]) * len(out) / (clock() - began)


def padded(settings: dict[str, Any], vocabulary: int) -> dict[str, Any]:
    """A tokenizer with as many entries as the model: nothing is read by it."""
    kinds, entries = "tokenizer.ggml.token_type", list(settings["tokenizer.ggml.tokens"])
    more = [f"<unused {n}>" for n in range(vocabulary - len(entries))]
    told = {**settings, "tokenizer.ggml.tokens": [*entries, *more]}
    if kinds in told:
        told[kinds] = [*told[kinds], *[5] * len(more)]  # unused
    return told


def speed(shape: str, rows: int, given: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of each engine, all rows together."""
    layers, width, heads, vocabulary = SHAPES[shape]
    torch.manual_seed(0)
    model = Transformer(vocabulary, width, layers, heads, window=WINDOW).eval()
    prompts, clock = torch.randint(vocabulary, (rows, PROMPT)), CLOCKS[given.clock]
    contenders: dict[str, Call] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(model, folder)
        settings = {"general.name": shape, **tokenizer_settings(Bytes(), stops=(), template=None)}
        for kind in FILES:
            save_gguf(model, folder / f"{kind}.gguf", "llama", kind, padded(settings, vocabulary))
        for name, make in ours(model, folder, rows, given.threads).items():
            try:
                args = model, make(), prompts.tolist(), given.tokens, clock
            except UserError as error:
                print(f"{name}: {error}")
                continue
            contenders[name] = functools.partial(rate_of_ours, *args)
        for name, peer in peers(folder).items():
            contenders[name] = functools.partial(rate_of_peer, peer, prompts, given.tokens, clock)
        for call in contenders.values():
            call()
        values = alternate(contenders, given.rounds)
    memory = bandwidth()
    weights = sum(w.numel() for w in model.blocks.parameters()) + model.head.weight.numel()
    rates = {name: round(value, 1) for name, value in medians(values).items()}
    pairs = {f"{a}, times {b}": round(ratio(values, a, b), 2) for a, b in RATIOS if a in values and b in values}  # fmt: skip
    limits = {f"memory's limit of one text, {n}": round(memory / (weights * size)) for n, size in (("float32", 4), ("f16", 2), ("int8", 1.0625))}  # fmt: skip
    return {
        **rates, **pairs, **limits, "memory, GB/s": round(memory / 1e9, 1), "clock": given.clock,
        "millions of weights": round(sum(w.numel() for w in model.parameters()) / 1e6, 1),
    }  # fmt: skip


# --- quality ----------------------------------------------------------------------------------------


def bits(decoder: Decoder, tokens: list[int], window: int) -> float:
    """Of all tokens but the first, each read with up to a window before it."""
    nats = 0.0
    for begin in range(0, len(tokens) - 1, window):
        some = tokens[begin : begin + window + 1]
        decoder.cut(0)
        logits = decoder.read([0], [some[:-1]], every=True).float()
        nats += float(F.cross_entropy(logits, torch.tensor(some[1:]), reduction="sum"))
    return nats / math.log(2)


def quality(run: Run) -> dict[str, Any]:
    """Bits per byte of held-out text by each engine."""
    model, (data, split, _) = merged(transformer(run)), held_out(run)
    assert isinstance(data, TextData)
    whole = data.tokens(split)
    tokens = whole[: HELD + 1].astype("int64").tolist()
    each = data.bytes(split) / (len(whole) - 1)
    decoders: dict[str, Decoder] = {
        f"compiled {kind}": CompiledDecoder(model, 1, kind) for kind in ("float32", "int8")
    }
    run.console = Silent()
    with tempfile.TemporaryDirectory() as name:
        for kind in ("f32", *FILES, "q4_0"):
            path = Path(name) / f"{kind}.gguf"
            export_gguf(run, model, path, kind, None)  # type: ignore[arg-type]
            try:
                decoders[f"llama.cpp {kind}"] = LlamaCppDecoder(
                    path, 1, model.window, model.vocabulary
                )
            except UserError as error:
                print(f"llama.cpp: {error}")
        count = len(tokens) - 1
        found = {name: bits(d, tokens, model.window) / count / each for name, d in decoders.items()}
    return {
        **{f"bits per byte, {name}": round(value, 5) for name, value in found.items()},
        "held-out tokens": count, "millions of weights": round(sum(w.numel() for w in model.parameters()) / 1e6, 1),
    }  # fmt: skip


# --- guesses ----------------------------------------------------------------------------------------


class Guessing:
    """Texts of a model, alone and with guesses, by one engine."""

    def __init__(
        self, decoders: tuple[Decoder, Decoder], texts: tuple[Transformer, list[list[int]]], sampling: Sampling, given: Any
    ) -> None:  # fmt: skip
        (self.decoder, self.small), (self.model, self.starts) = decoders, texts
        self.sampling, self.clock = sampling, CLOCKS[given.clock]
        self.length, self.readings = min(DRAWN, self.model.window - PROMPT), 0
        self._read = self.decoder.read
        self.decoder.read = self._counted  # type: ignore[method-assign]

    def _counted(self, *args: Any, **more: Any) -> torch.Tensor:
        self.readings += 1
        return self._read(*args, **more)

    def rate(self, kind: str) -> float:
        """Tokens a second."""
        began = self.clock()
        for start in self.starts:
            self.decoder.cut(0)
            self.small.cut(0)
            for _ in self._alone(start) if kind == "alone" else self._guessed(start, kind):
                pass
        return len(self.starts) * self.length / (self.clock() - began)

    def each(self, kind: str) -> float:
        """Tokens for each reading of the model."""
        self.readings = 0
        self.rate(kind)
        return len(self.starts) * self.length / self.readings

    def _alone(self, start: list[int]) -> Iterator[tuple[int, int]]:
        told = {"tokens": self.length, "sampling": self.sampling}
        return generate(self.model, [start], make=lambda slots, window: self.decoder, **told)

    def _guessed(self, start: list[int], kind: str) -> Iterator[tuple[int, int]]:
        guesser: Guesser = LookUp() if kind == "prompt" else Draft(self.small, self.sampling)
        samplers = samplers_of([start], self.sampling)
        return speculate(self.decoder, guesser, samplers, [start], tokens=self.length)


def guess(run: Run, smaller: Run, given: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:  # fmt: skip
    """By engine, tokens a second and tokens for each reading of the model, after pieces of held-out text."""
    model, small, (data, split, _) = transformer(run), transformer(smaller), held_out(run)
    assert isinstance(data, TextData)
    text = data.tokens(split).astype("int64").tolist()
    texts = model, [text[n : n + PROMPT] for n in range(0, 8 * 200, 200)]
    kinds: dict[str, Callable[[Transformer], Decoder]] = {
        "torch float32": lambda m: TorchDecoder(m, 1, torch.float32),
        "compiled float32": lambda m: CompiledDecoder(m, 1, "float32", None, packed(m, "float32")),
        "compiled int8": lambda m: CompiledDecoder(m, 1, "int8", None, packed(m, "int8")),
    }
    for name, make in kinds.items():
        for temperature in (0.0, 0.8):
            both = Guessing((make(model), make(small)), texts, Sampling(temperature), given)
            each = {kind: both.each(kind) for kind in GUESSES}
            calls = {kind: functools.partial(both.rate, kind) for kind in ("alone", *GUESSES)}
            values = alternate(calls, given.rounds)
            yield f"{name}, temperature {temperature}", {
                **{f"tokens a second, {k}": round(v, 1) for k, v in medians(values).items()},
                **{f"{k}, times alone": round(ratio(values, k, "alone"), 2) for k in GUESSES},
                **{f"tokens a reading, {k}": round(n, 2) for k, n in each.items()},
            }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("speed", "quality", "guess"))
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--rows", default="1,8")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    given = parser.parse_args()
    if given.clock == "processor" and given.threads != 1:
        parser.error("--clock processor: goes with --threads 1")
    torch.set_num_threads(given.threads)
    runs = [Run.open(name) for name in given.runs]
    if given.what == "speed":
        for shape in given.shapes.split(","):
            for rows in map(int, given.rows.split(",")):
                keep("generate", {f"{shape}, batch {rows}": speed(shape, rows, given)})
    elif given.what == "quality":
        keep("generate", {"quality": quality(runs[0])})
    else:
        for name, result in guess(runs[0], runs[1], given):
            keep("generate", {f"guesses, {name}": result})


if __name__ == "__main__":
    main()
