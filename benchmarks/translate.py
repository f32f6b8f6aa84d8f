"""Quality of every translating system: English to German on Multi30k, its test set of 2016 looked at once.

    OMP_NUM_THREADS=1 python -m benchmarks.translate fit seq2seq-none seq2seq-dot seq2seq-additive --runs RUNS
    OMP_NUM_THREADS=1 python -m benchmarks.translate test seq2seq-none seq2seq-dot seq2seq-additive --runs RUNS
    python -m benchmarks.translate picture

29,000 pairs; the 1,014 validation pairs choose the checkpoint. BLEU is sacreBLEU's 13a, cased and detokenized, of beam
search with 5 beams; the signature is kept with the numbers. `fit` goes on where it was stopped, so that a fit may be
spread over several calls; the seconds of all of them count. `numbers-...` are the same systems, smaller, on the embedded
numbers, dates and times from Chinese to English, measured on their own 600 held-out pairs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import RESULTS, data_file, keep
from fourfold import api
from fourfold.core.console import make_console
from fourfold.core.run import Run
from fourfold.look.figures import COLORS, picture, subplots

FOLDER = "multi30k-en-de"
EPOCHS = 12
RECURRENT: dict[str, Any] = {
    "epochs": EPOCHS, "lr": 2e-3, "schedule": "wsd", "warmup": 50, "decay_from": 0.5, "final": 0.02, "dropout": 0.3
}  # fmt: skip
SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "seq2seq-none": ("seq2seq", {**RECURRENT, "attention": "none"}),
    "seq2seq-dot": ("seq2seq", {**RECURRENT, "attention": "dot"}),
    "seq2seq-additive": ("seq2seq", {**RECURRENT, "attention": "additive"}),
}
"""Each contender: a system and its options, where they are not the defaults."""
NUMBERS: dict[str, Any] = {
    "epochs": 12,
    "width": 128,
    "embedding": 128,
    "dropout": 0.1,
    "lr": 4e-3,
    "data.batch": 2048,
}
WHOLE: dict[str, Any] = {"epochs": 30, "dropout": 0.3, "data.vocabulary": 6000}
SYSTEMS["transformer"] = ("transformer", WHOLE)
TAUGHT: dict[str, Any] = {
    "data.vocabulary": 6000,
    "decoder_layers": 2,
    "warmup": 20,
    "dropout": 0.2,
    "minutes": 60,
    "from_": "transformer",
}
"""A student has the teacher's encoder and the first two layers of its decoder to begin with, whatever it learns from."""
SYSTEMS |= {
    f"nat-{kind}{taught}": (
        "nat",
        {**TAUGHT, **options, **({"teacher": "transformer"} if taught else {})},
    )
    for kind, options in {
        "ctc": {"length": "ctc", "upsample": 1.5},
        "masks": {"length": "predicted", "reveal": "masks"},
    }.items()
    for taught in ("", "-distilled")
}
SYSTEMS |= {
    f"numbers-{attention}": ("seq2seq", {**NUMBERS, "attention": attention})
    for attention in ("none", "dot", "additive")
}


def pair(part: str) -> list[str]:
    """The two files of a part of Multi30k."""
    return [str(data_file(f"{FOLDER}/{part}.{code}.gz")) for code in ("en", "de")]


def fit(name: str, runs: Path, device: str, budget: dict[str, float]) -> None:
    """Fit a contender, or go on with it."""
    system, options = SYSTEMS[name]
    if budget:
        options = {n: v for n, v in options.items() if n not in ("epochs", "minutes")} | budget
    others = {key: str(runs / options[key]) for key in ("teacher", "from_") if key in options}
    options = {**options, **others}
    folder, clocks = runs / name, runs / f"{name}.seconds"
    before = json.loads(clocks.read_text()) if clocks.exists() else [0.0, 0.0]
    began, processor = time.perf_counter(), time.process_time()
    console = make_console(quiet=False, json=False)
    try:
        if (folder / "system.toml").exists():
            api.resume(folder, console=console, device=device)
        else:
            if not name.startswith("numbers"):
                files = {"source": pair("train"), "valid": pair("val")}
                options = {**options, **files, "data.split": (1.0, 0.0, 0.0)}
            api.fit(system, out=folder, console=console, device=device, **options)
    finally:
        spent = [
            before[0] + time.perf_counter() - began,
            before[1] + time.process_time() - processor,
        ]
        runs.mkdir(parents=True, exist_ok=True)
        clocks.write_text(json.dumps(spent))


def trained(folder: Path) -> dict[str, Any]:
    """How a run was fitted: steps, the best validation loss, seconds."""
    run = Run.open(folder)
    looks = [line["valid.loss"] for line in run.metrics.lines if "valid.loss" in line]
    steps = max((line["step"] for line in run.metrics.lines), default=0)
    return {
        "valid loss": min(looks, default=None),
        "steps": steps,
        "parameters": sum(p.numel() for p in run.model.parameters()),
    }


def test(name: str, runs: Path, part: str, device: str) -> None:
    """Measure a contender, once for the test set; what learned with masks with 1, 4 and 10 passes."""
    for passes in (1, 4, 10) if "masks" in name else (None,):
        measure_one(name, runs, part, device, passes)


def measure_one(name: str, runs: Path, part: str, device: str, passes: int | None) -> None:
    """Measure a contender in one way."""
    run = api.open(runs / name, device=device)
    began = time.process_time()
    how = {} if passes is None else {"passes": passes}
    score = run.evaluate(None if name.startswith("numbers") else pair(part), **how)
    clocks = json.loads((runs / f"{name}.seconds").read_text())
    values = {
        **score.values,
        "signatures": [n for n in score.notes if n.startswith("signature")],
        **trained(runs / name),
        "fit, minutes": round(clocks[0] / 60, 1),
        "fit, processor minutes": round(clocks[1] / 60, 1),
        "evaluation, processor seconds": round(time.process_time() - began, 1),
    }
    label = name if passes is None else f"{name}, {passes} pass{'es' * (passes > 1)}"
    where = "" if name.startswith("numbers") else f", {_budget(run)}, Multi30k en-de, {part}"
    keep("translate", {f"{label}{where}": values})
    print(label, json.dumps(values, indent=2))


def _budget(run: Run) -> str:
    """What a run was given to learn, as 12 epochs."""
    optimizer: Any = run.system.optimizer
    if optimizer.epochs is not None:
        return f"{optimizer.epochs:g} epochs"
    return f"{optimizer.minutes:g} minutes"


def draw() -> None:
    """docs/pictures/translation_length.png: BLEU by the words of the source."""
    end = ", Multi30k en-de, test_2016_flickr"
    kept = json.loads((RESULTS / "translate.json").read_text())
    found = {n.removesuffix(end): s["result"] for n, s in kept.items() if n.endswith(end)}
    fig, axes = subplots(width=7.2, height=3.9)
    groups: list[str] = []
    for number, (name, row) in enumerate(found.items()):
        parts = {
            k.removeprefix("bleu, sources of "): v for k, v in row.items() if k.startswith("bleu, ")
        }
        groups = list(parts)
        style = {"color": COLORS[number % len(COLORS)], "label": f"{name} ({row['bleu']:.1f})"}
        axes.plot(range(len(parts)), list(parts.values()), "o-", **style)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="words of the source", ylabel="BLEU")
    axes.legend(fontsize=9)
    picture(fig, "Quality by length of the sentence").save("docs/pictures/translation_length.png")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["fit", "valid", "test", "picture"])
    parser.add_argument("names", nargs="*", choices=[*SYSTEMS, []])
    parser.add_argument("--runs", type=Path, default=Path("runs/translate"))
    parser.add_argument("--device", default="auto")
    for budget in ("epochs", "minutes"):
        parser.add_argument(f"--{budget}", type=float, help="instead of the contender's own budget")
    given = parser.parse_args()
    if given.what == "picture":
        return draw()
    for name in given.names:
        if given.what == "fit":
            budget = {"epochs": given.epochs, "minutes": given.minutes}
            fit(name, given.runs, given.device, {n: v for n, v in budget.items() if v is not None})
        else:
            part = "val" if given.what == "valid" else "test_2016_flickr"
            test(name, given.runs, part, given.device)
    return None


if __name__ == "__main__":
    main()
