"""On a CUDA GPU: word vectors a second at equal quality, and what a language model's training makes of the GPU's peak.

    python -m benchmarks.gpu word2vec
    python -m benchmarks.gpu gpt sft grpo --seconds 8 --deadline 150

word2vec: the text of `benchmarks.word2vec`, repeated to 100 million words for speed, once over for quality,
where the peer is our own kernel on the processor. gpt: GPT-2's smallest shape, window 1,024, vocabulary 50,000.
sft: half a billion weights on packed rows of 2,048 tokens; all weights, adapters of rank 16, and those on a base of
4 bits. Both on random tokens through the project's own loader and loop. Model FLOP utilisation counts 6 a weight and
token of the products (4 where the weights stay) and 12 layers * width * window a token of attention (PaLM: Chowdhery
et al. 2022, appendix B) over the peak of bfloat16 products without sparsity. grpo: roll-outs of the half billion.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import fourfold
from benchmarks import word2vec_text
from benchmarks.side_by_side import keep
from fourfold import api, fitting
from fourfold.core.console import Silent
from fourfold.core.parts import Batch, Data, Split
from fourfold.core.run import Run
from fourfold.data.loading import Indexed
from fourfold.models.adapters import give, merged
from fourfold.models.transformer import Transformer
from fourfold.optimizers.search import Search

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations a second, from the makers' data sheets (SXM forms)."""
ROWS = 16
"""Batches of random rows."""
LONG = 24
"""Times over, the text has 100 million words."""


def vectors(
    path: Path, held: Path, device: str, *, seed: int = 0, **options: Any
) -> dict[str, Any]:
    """Fit, and what the vectors are worth; words a second after the first round, which compiles."""
    run = fourfold.fit(
        "word2vec", str(path), out=False, console=Silent(), device=device, seed=seed, unit="space",
        **options,
    )  # fmt: skip
    lines = [line for line in run.metrics.lines if "rate" in line][1:]
    seconds = lines[-1]["seconds"] - lines[0]["seconds"]
    found = {"words a second": round((lines[-1]["seen"] - lines[0]["seen"]) / seconds)}
    return {**found, **_worth(run, held)}


def _worth(run: Run, held: Path) -> dict[str, float]:
    from benchmarks.word2vec_scores import answered, google, similarity

    class Found:
        words = run.data.vocabulary.words  # type: ignore[attr-defined]
        numbers = run.data.vocabulary.numbers  # type: ignore[attr-defined]
        unit = torch.nn.functional.normalize(run.model.vectors().float().cpu(), dim=1).numpy()  # type: ignore[operator]

    found: Any = Found
    return {
        "held-out loss": round(float(run.evaluate(str(held)).values["loss"]), 4),
        "WordSim-353": round(similarity(found, "EN-WS-353-ALL.txt")["rho"], 3),
        "Google analogies": round(float(answered(found, google()).mean()), 4),
    }


def word2vec() -> dict[str, Any]:
    """Skip-gram with negatives, CBOW and hierarchical softmax at width 300."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        text, held = word2vec_text.write(Path(folder))
        long = word2vec_text.repeated(text, LONG)
        for algorithm, loss in (
            ("skip-gram", "negative"), ("cbow", "negative"), ("skip-gram", "hierarchical"),
        ):  # fmt: skip
            options = {"algorithm": algorithm, "loss": loss, "width": 300, "epochs": 1}
            name = f"word2vec, {algorithm}, {loss}, width 300"
            fast = vectors(long, held, "cuda", **options)
            found[name] = {"100 M words on the GPU": fast}
            for device in ("cuda", "cpu"):
                seeds = [vectors(text, held, device, seed=s, **options) for s in range(3)]
                found[name][f"4 M words, 1 epoch, {device}"] = {
                    key: round(sum(s[key] for s in seeds) / 3, 4) for key in seeds[0]
                }
            print(name, found[name], flush=True)
    return found


class Synthetic(Indexed):
    """Random tokens through the project's own loader: what a step costs does not depend on what they say.

    With `packed`, a row holds conversations of 32 to 352 tokens, the last quarter of them not learned.
    """

    unit = "tokens"

    def __init__(self, vocabulary: int, time: int, batch: int, packed: bool) -> None:
        super().__init__(batch=batch, seed=0)
        random = np.random.default_rng(0)
        self.tokens = random.integers(vocabulary, size=(ROWS * batch, time + 1))
        self.segments = np.zeros((ROWS * batch, time), np.int64)
        self.learned = np.ones((ROWS * batch, time), bool)
        for row in range(ROWS * batch if packed else 0):
            ends = np.cumsum(random.integers(32, 352, size=time // 32))
            self.segments[row] = np.searchsorted(ends, np.arange(time), side="right")
            self.learned[row] = random.random(time) < 0.75
        self.packed = packed

    def size(self, split: Split) -> int:
        """The same rows again in every epoch."""
        return len(self.tokens) if split == "train" else 0

    def take(self, split: Split, index: np.ndarray | slice, epoch: int | None) -> Batch:
        """See `Indexed.take`."""
        rows = torch.from_numpy(self.tokens[index])
        batch = {"tokens": rows[:, :-1], "targets": rows[:, 1:]}
        if self.packed:
            learned = torch.from_numpy(self.learned[index])
            batch["targets"] = batch["targets"].where(learned, -100)
            batch["segments"] = torch.from_numpy(self.segments[index])
        return batch

    def reopen(
        self, sources: Any, *, seed: int = 0, valid: Any = None, whole: bool = False
    ) -> Data:
        """There is nothing to reopen."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """There is nothing to keep."""


class Shape(NamedTuple):
    """A Transformer's sizes and a step's."""

    layers: int
    width: int
    heads: int
    time: int
    batch: int
    vocabulary: int
    tied: bool

    def __str__(self) -> str:
        return f"{self.layers} x {self.width} x {self.time}, batch {self.batch}"


SMALLEST_GPT2 = Shape(12, 768, 12, 1024, 64, 50_000, True)
HALF_BILLION = Shape(20, 1280, 20, 2048, 8, 32_000, False)
TINY = Shape(2, 64, 2, 64, 4, 500, True)


def trained(
    shape: Shape,
    device: str,
    seconds: float,
    *,
    packed: bool = False,
    compiled: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Tokens a second, utilisation and peak memory of training one shape.

    Args:
        shape: sizes.
        device: where.
        seconds: of timed steps.
        packed: rows of many examples.
        compiled: whether torch.compile is used.
        options: of the system `gpt`.
    """
    began = time.perf_counter()
    given = {
        "optimizer.algorithm": "adamw",
        "optimizer.steps": 10**6,
        "optimizer.minutes": None,
        **options,
    }
    run = Run(api.configure("gpt", {**given, "optimizer.compile": compiled}), device=device)
    model = Transformer(
        shape.vocabulary, shape.width, shape.layers, shape.heads, window=shape.time, tied=shape.tied
    )
    system: Any = run.system
    if system.adapter != "none":
        weights = {n: t.clone() for n, t in model.state_dict().items()}
        give(system.adapted(model), weights)
    run.model = model.to(run.device).train()
    run.data = Synthetic(shape.vocabulary, shape.time, shape.batch, packed)
    run.objective = system.objective
    search = Search(system.optimizer, run.objective, run.model, run.data, run)
    rate = _rate(search, shape.batch * shape.time, seconds)
    products = sum(p.numel() for p in merged(run.model).parameters() if p.ndim == 2)
    products -= (
        0 if shape.tied else shape.vocabulary * shape.width
    )  # looking a token up is no product
    attention = 12 * shape.layers * shape.width * shape.time
    # with weights that stay, the backward pass makes one product of each weight instead of two
    operations = (4 if system.adapter != "none" else 6) * products + attention
    cuda = run.device.type == "cuda"
    gpu = torch.cuda.get_device_name() if cuda else ""
    peak = next((p for name, p in PEAKS.items() if name in gpu), None)
    return {
        "weights": sum(p.numel() for p in merged(run.model).parameters()),
        "weights that learn": sum(p.numel() for p in run.model.parameters() if p.requires_grad),
        "tokens a second": round(rate),
        "utilisation": round(rate * operations / peak, 3) if peak else None,
        "memory (GB)": round(torch.cuda.max_memory_allocated() / 1e9, 1) if cuda else None,
        "seconds in all": round(time.perf_counter() - began, 1),
    }


def gpt(shape: Shape = SMALLEST_GPT2) -> dict[str, dict[str, Any]]:
    """What is measured of pretraining."""
    return {
        f"gpt {shape}, adamw": {"shape": shape},
        f"gpt {shape}, muon": {"shape": shape, "optimizer.algorithm": "muon"},
    }


def sft(shape: Shape = HALF_BILLION) -> dict[str, dict[str, Any]]:
    """What is measured of tuning on packed conversations: all weights, adapters, adapters on a base of 4 bits."""
    lora = {"shape": shape, "packed": True, "adapter": "lora", "rank": 16}
    return {
        f"sft {shape}, packed, all weights": {"shape": shape, "packed": True},
        f"sft {shape}, packed, lora": lora,
        # unpacking is no part of a graph that is compiled
        f"sft {shape}, packed, nf4 + lora": {**lora, "quantize": "nf4", "compiled": False},
    }


def grpo(shape: Shape = HALF_BILLION) -> dict[str, dict[str, Any]]:
    """What is measured of tuning on rewards: roll-outs of 64 answers of 128 tokens, one update for each."""
    return {f"grpo {shape.layers} x {shape.width}, 64 answers of 128 tokens": {"shape": shape}}


def rolled(shape: Shape, device: str, seconds: float) -> dict[str, Any]:
    """Answers a second of GRPO, drawing, scoring, the reference and the update together, and peak memory."""
    began = time.perf_counter()
    tiny = shape.layers < 4
    rows = [{"prompt": f"Say the number {i} in words."} for i in range(64)]
    given = {
        "layers": shape.layers, "width": shape.width, "heads": shape.heads, "reward": "length", "data.unit": "byte",
        "data.window": 256, "data.prompts": 8, "data.answers": 8, "data.tokens": 8 if tiny else 128, "data.batch": 64,
        "data.split": (1, 0, 0), "optimizer.steps": 10**6, "optimizer.epochs": None, "optimizer.compile": False,
    }  # fmt: skip
    run = Run(
        api.configure("rlhf", {k: v for k, v in given.items() if v is not None}), device=device
    )
    fitting.begin(run, rows, None)
    for model in (run.model, run.objective._state.model):  # type: ignore[attr-defined]
        model.initialize()  # from nothing the output is zero, and answers would end anywhere
    run.model.train()
    config: Any = run.system.optimizer
    search = Search(config, run.objective, run.model, run.data, run)
    steps = search._batches()
    search.step(next(steps))
    started, count, words = time.perf_counter(), 0, 0
    while time.perf_counter() - started < seconds or not count:
        batch = next(steps)
        search.step(batch)
        count += sum(int(b["answers"]) for b in batch)
        words += sum(int((b["targets"] >= 0).sum()) for b in batch)
        if run.device.type == "cuda":
            torch.cuda.synchronize()
    taken = time.perf_counter() - started
    cuda = run.device.type == "cuda"
    return {
        "weights": sum(p.numel() for p in run.model.parameters()),
        "answers a second": round(count / taken, 1),
        "tokens drawn a second": round(words / taken),
        "memory (GB)": round(torch.cuda.max_memory_allocated() / 1e9, 1) if cuda else None,
        "seconds in all": round(time.perf_counter() - began, 1),
    }


def measured(
    parts: dict[str, dict[str, Any]], device: str, seconds: float, deadline: float
) -> dict[str, Any]:
    """Part after part, each said at once; one that fails costs the others nothing, none begins after the deadline."""
    found: dict[str, Any] = {}
    began = time.perf_counter()
    for name, options in parts.items():
        if time.perf_counter() - began > deadline:
            print(f"{name}: left out, {deadline:g} seconds are over", flush=True)
            continue
        try:
            measure = rolled if name.startswith("grpo") else trained
            found[name] = measure(device=device, seconds=seconds, **options)
        except Exception as error:  # noqa: BLE001  # machine time is short: the others are measured
            print(f"{name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
        else:
            print(name, found[name], flush=True)
        gc.collect()
        torch._dynamo.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    return found


def _rate(search: Search, tokens: int, seconds: float) -> float:
    """Tokens a second once it is compiled."""
    search._compile()  # as its own loop does before the first step
    steps = search._batches()

    def some(count: int) -> None:
        for _ in range(count):
            search.step(next(steps))
        if search.device.type == "cuda":
            torch.cuda.synchronize()

    some(5)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        some(5)
        count += 5
    rate = count * tokens / (time.perf_counter() - began)
    search.model._compiled_call_impl = None
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="+", choices=["word2vec", "gpt", "sft", "grpo"])
    parser.add_argument("--seconds", type=float, default=10, help="of timed steps of each part")
    parser.add_argument(
        "--deadline", type=float, default=1e9, help="seconds after which no part begins"
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape, to try this script")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("a CUDA GPU is needed")
    if "word2vec" in given.what:
        keep("gpu", word2vec())
    parts = {}
    for name, list_parts in (("gpt", gpt), ("sft", sft), ("grpo", grpo)):
        if name in given.what:
            parts |= list_parts(TINY) if given.tiny else list_parts()
    found = measured(parts, given.device, given.seconds, given.deadline)
    if found and not given.tiny:
        keep("gpu", found)


if __name__ == "__main__":
    main()
