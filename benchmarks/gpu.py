"""On a CUDA GPU: word vectors a second at equal quality, and what a language model's training makes of the GPU's peak.

    python -m benchmarks.gpu word2vec
    python -m benchmarks.gpu gpt

word2vec: the text of `benchmarks.word2vec`, repeated to 100 million words for speed, once over for quality,
where the peer is our own kernel on the processor. gpt: GPT-2's smallest shape, window 1,024, vocabulary 50,000;
model FLOP utilisation counts 6 a weight and token of the products and 12 layers * width * window a token of
attention (PaLM: Chowdhery et al. 2022, appendix B) over the peak of bfloat16 products without sparsity.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import fourfold
from benchmarks import word2vec_text
from benchmarks.side_by_side import keep
from fourfold import api
from fourfold.core.console import Silent
from fourfold.core.run import Run
from fourfold.optimizers.search import Search

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations a second, from the makers' data sheets (SXM forms)."""
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


def gpt(seconds: float) -> dict[str, Any]:
    """Tokens a second and utilisation of GPT-2's smallest shape, compiled, with AdamW and with Muon."""
    found: dict[str, Any] = {}
    gpu = torch.cuda.get_device_name()
    peak = next((p for name, p in PEAKS.items() if name in gpu), None)
    with tempfile.TemporaryDirectory() as folder:
        text, _ = word2vec_text.write(Path(folder))
        for algorithm in ("adamw", "muon"):
            for batch in (32, 64):
                options = {
                    "size": "base", "data.vocabulary": 50_000, "data.batch": batch, "optimizer.steps": 10**6,
                    "optimizer.algorithm": algorithm, "optimizer.compile": True,
                    "optimizer.evaluate_every": "100%", "optimizer.checkpoint_every": "1000m",
                }  # fmt: skip
                size = options.pop("size")
                run = Run(api.configure("gpt", options, size=size), device="cuda")  # type: ignore[arg-type]
                api._begin(run, str(text), None)
                run.model.train()
                search = Search(run.system.optimizer, run.objective, run.model, run.data, run)  # type: ignore[arg-type]
                rate = _rate(search, batch * run.data.window, seconds)  # type: ignore[attr-defined]
                products = sum(p.numel() for p in run.model.parameters() if p.ndim == 2)
                shape = run.system
                attention = 12 * shape.layers * shape.width * run.data.window  # type: ignore[attr-defined]
                name = f"gpt 12 x 768 x 1024, {algorithm}, batch {batch}"
                found[name] = {
                    "parameters": sum(p.numel() for p in run.model.parameters()),
                    "tokens a second": round(rate),
                    "utilisation": round(rate * (6 * products + attention) / peak, 3)
                    if peak
                    else None,
                    "memory (GB)": round(torch.cuda.max_memory_allocated() / 1e9, 1),
                }
                print(name, found[name], flush=True)
                del search, run
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
    return found


def _rate(search: Search, tokens: int, seconds: float) -> float:
    """Tokens a second once it is compiled, for whole batches and for an epoch's short last one."""
    search._compile()  # as its own loop does before the first step
    steps = search._batches()
    while search.epoch == 0:
        search.step(next(steps))
    for _ in range(10):
        search.step(next(steps))
    torch.cuda.synchronize()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(10):
            search.step(next(steps))
        torch.cuda.synchronize()
        count += 10
    return count * tokens / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["word2vec", "gpt"])
    parser.add_argument("--seconds", type=float, default=20, help="of each timed part of gpt")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("a CUDA GPU is needed")
    keep("gpu", word2vec() if given.what == "word2vec" else gpt(given.seconds))


if __name__ == "__main__":
    main()
