"""How fast a run generates: by engine and precision, beside what the machine's memory lets it."""

from __future__ import annotations

import contextlib
import statistics
import time
from typing import Any, NamedTuple

import torch

from fourfold.core.console import Silent
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.core.types import Table
from fourfold.models.generation import generate
from fourfold.models.sampling import Sampling
from fourfold.models.transformer import Transformer
from fourfold.tasks.engines import EngineName, Precision, chosen

ENGINES: tuple[tuple[EngineName, Precision, float], ...] = (
    ("torch", "float32", 4), ("torch", "bfloat16", 2), ("compiled", "float32", 4), ("compiled", "int8", 1.0625),
    ("llama.cpp", "float32", 4), ("llama.cpp", "int8", 1.0625),
)  # fmt: skip
"""With the bytes of a weight."""
READ = 1 << 26
"""Bytes that are read to measure the memory."""
ROUNDS = 3


class Speed(NamedTuple):
    """Of one engine: medians over rounds, greedy."""

    engine: EngineName
    precision: Precision
    first: float
    """Seconds to the first token, the prompt's reading."""
    rate: float
    """Tokens a second after it, of all texts together."""
    limit: float
    """Tokens a second of one text at which the weights alone are read as fast as memory gives them."""


def bandwidth() -> float:
    """Bytes a second that torch's threads read, at best."""
    values, best = torch.ones(READ // 4), 0.0
    for _ in range(20):
        began = time.perf_counter()
        values.sum()
        best = max(best, READ / (time.perf_counter() - began))
    return best


def speeds(
    run: Run, *, tokens: int = 128, prompt: int = 32, rows: int = 1
) -> tuple[list[Speed], list[str], float]:
    """Measure the engines that serve a run, one after the other, in turn for three rounds.

    Args:
        run: a language model that is a Transformer.
        tokens: to generate.
        prompt: tokens that are read before.
        rows: texts at once.

    Returns:
        Speeds; sentences about engines that do not serve; bytes a second of the memory.

    Raises:
        UserError: the run is of another kind.
    """
    model = run.model
    if not isinstance(model, Transformer) or not hasattr(run.system, "generate"):
        raise UserError(
            f"bench generate: measures Transformers that continue text; {run.folder or 'this run'} is a run of {run.system.name}"
        )
    tokens = min(tokens, model.window - 2)
    prompt = max(1, min(prompt, model.window - tokens))
    texts = torch.randint(
        model.vocabulary, (rows, prompt), generator=run.generator("bench")
    ).tolist()
    made: dict[Any, Any] = {}
    refused: list[str] = []
    quiet, run.console = run.console, Silent()
    try:
        for engine, precision, _ in ENGINES:
            try:
                taken = chosen(run, model, engine, precision, tokens=tokens, temperature=1)
                _timed(model, texts, 4, taken.make)
            except UserError as error:
                refused.append(str(error))
                continue
            made[engine, precision] = taken.make
    finally:
        run.console = quiet
    found: dict[Any, list[tuple[float, float]]] = {key: [] for key in made}
    for _ in range(ROUNDS):
        for key, make in made.items():
            found[key].append(_timed(model, texts, tokens, make))
    memory = bandwidth()
    read = sum(w.numel() for w in model.blocks.parameters()) + model.head.weight.numel()
    limits = {(engine, precision): memory / (size * read) for engine, precision, size in ENGINES}
    measured = []
    for (engine, precision), times in found.items():
        first, rate = (statistics.median(part) for part in zip(*times, strict=True))
        measured.append(Speed(engine, precision, first, rate, limits[engine, precision]))
    return measured, [*dict.fromkeys(refused)], memory


def speed_table(found: list[Speed], memory: float, rows: int) -> Table:
    """For the terminal."""
    cells = tuple(
        (s.engine, s.precision, f"{s.first * 1e3:,.1f}", f"{s.rate:,.0f}", f"{s.limit:,.0f}", f"{s.rate / rows / s.limit:.0%}")
        for s in found
    )  # fmt: skip
    columns = (
        "engine",
        "precision",
        "first token, ms",
        "tokens/s",
        "memory's limit, one text",
        "of it",
    )
    threads = torch.get_num_threads()
    caption = (
        f"{rows} text{'s' * (rows > 1)} at once, greedy, {threads} thread{'s' * (threads > 1)}; this memory gives "
        f"{memory / 1e9:,.1f} GB/s, and every token reads all weights once. What fits a cache is read faster."
    )
    return Table("Generation", columns, cells, caption)


# --- private ----------------------------------------------------------------------------------------


def _timed(
    model: Transformer, texts: list[list[int]], tokens: int, make: Any
) -> tuple[float, float]:
    """Seconds to the first token, and tokens a second after it."""
    began = time.perf_counter()
    stream = generate(model, texts, tokens=tokens, sampling=Sampling(0.0), make=make)
    first, count = 0.0, 0
    with contextlib.closing(stream):  # type: ignore[type-var]
        for _ in stream:
            first, count = first or time.perf_counter(), count + 1
    took = time.perf_counter() - first
    return first - began, (count - len(texts)) / took if took > 0 else 0.0
