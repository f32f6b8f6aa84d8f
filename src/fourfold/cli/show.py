"""`list`, `runs`, `show`, `doctor`."""

from __future__ import annotations

import json
import os
import platform
import shutil
from typing import Any

from fourfold.cli.parse import flag, parse, positional
from fourfold.core.errors import UserError

EXTRAS = {
    "vision": "kornia", "audio": "soundfile", "serve": "fastapi", "rag": "lancedb", "llm": "gguf", "export": "onnxruntime",
    "search": "optuna", "rl": "gymnasium", "series": "stumpy", "threed": "trimesh", "stream": "river",
    "tensorboard": "tensorboard", "zstd": "zstandard", "vectors": "hnswlib", "chinese": "jieba",
    "translation": "sacrebleu",
}  # fmt: skip


def _flags() -> list[Any]:
    return [
        flag("json", ["--json"], bool, "JSON for machines.", None, "Options", 1),
        flag("debug", ["--debug"], bool, "Show the traceback of an error.", None, "Options", 1),
    ]


def list_command(tokens: list[str]) -> None:
    """Every system: what it reads, its verbs, its source."""
    parsed = parse(
        "fourfold list", "Every system: what it reads, its verbs, its source.", _flags(), tokens
    )
    if parsed is None:
        return
    from fourfold.core.registry import index

    entries = index()
    if parsed[1].get("json"):
        print(
            json.dumps(
                [
                    {
                        "name": e.name,
                        "reads": e.reads,
                        "summary": e.summary,
                        "verbs": e.verbs,
                        "source": e.source,
                    }
                    for e in entries.values()
                ],
                ensure_ascii=False,
            )
        )
        return
    for e in entries.values():
        print(f"{e.name:<12} reads {e.reads:<8} {e.summary}")
        print(f"{'':<12} {'verbs: ' + ', '.join(e.verbs)}")
        print(f"{'':<12} {e.source}\n")


def runs_command(tokens: list[str]) -> None:
    """What has been trained here."""
    text = "What has been trained in a folder (runs/ by default), oldest first."
    parsed = parse(
        "fourfold runs", text, [positional("folder", "Folder of runs."), *_flags()], tokens
    )
    if parsed is None:
        return
    from pathlib import Path

    from fourfold.core.folders import all_runs, runs_folder

    folder = Path(parsed[0][0]) if parsed[0] and parsed[0][0] else runs_folder()
    if parsed[0] and parsed[0][0] and not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    rows = [_row(path) for path in all_runs(folder)]
    if parsed[1].get("json"):
        print(json.dumps(rows))
        return
    if not rows:
        print(
            f"No run in {folder}/ yet; `fourfold fit SYSTEM` makes one (`fourfold list` names the systems)."
        )
        return
    table = [
        ("run", "system", "state", "step", "result", "trained"),
        *((r["run"], r["system"], r["state"], r["step"], r["result"], r["trained"]) for r in rows),
    ]
    widths = [max(len(str(row[i])) for row in table) for i in range(6)]
    for row in table:
        print("  ".join(f"{cell!s:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip())


def _row(path: Any) -> dict[str, Any]:
    from fourfold.core.folders import read_toml, whole
    from fourfold.core.metrics import Metrics, best_line

    empty = {
        "run": str(path),
        "system": "?",
        "state": "damaged",
        "step": "",
        "result": "",
        "trained": "",
    }
    try:
        about = read_toml(path / "system.toml")
    except UserError:
        return empty
    lines = Metrics(path / "metrics.jsonl").lines
    steps = [line["step"] for line in lines if "step" in line]
    seconds = [line["seconds"] for line in lines if "seconds" in line]
    best = best_line(lines) or {}
    result = next((f"{k} {v:.4g}" for k, v in best.items() if k.startswith("valid.")), "")
    from fourfold.core.words import duration

    state = "finished" if about.get("finished") else "unfinished"
    if about.get("finished") and not whole(path / "weights.safetensors"):
        state = "damaged"
    return {
        "run": str(path),
        "system": about.get("system", "?"),
        "state": state,
        "step": max(steps, default=0),
        "result": result,
        "trained": duration(seconds[-1]) if seconds else duration(about.get("fit_seconds", 0.0)),
    }


def show_command(tokens: list[str]) -> None:
    """One run in full."""
    parsed = parse(
        "fourfold show",
        "One run in full; `last` names the newest.",
        [
            positional("run", "A run's folder, its name under runs/, or last.", required=False),
            flag(
                "scale",
                ["--scale"],
                str,
                "Memory and bytes sent per step, predicted for so many devices of this kind.",
            ),
            *_flags(),
        ],
        tokens,
    )
    if parsed is None:
        return
    from fourfold.core.run import Run

    run = Run.open(parsed[0][0] if parsed[0] and parsed[0][0] else "last")
    if "scale" in parsed[1]:
        return _show_scale(run, parsed[1]["scale"], bool(parsed[1].get("json")))
    if parsed[1].get("json"):
        print(
            json.dumps(
                {
                    "folder": str(run.folder),
                    **run.about,
                    "options": run.system.model_dump(mode="json"),
                    "notes": run.notes,
                    "last": run.metrics.lines[-1:],
                }
            )
        )
        return
    from fourfold.look.summary import summary_text

    print(summary_text(run))


def _show_scale(run: Any, given: str, as_json: bool) -> None:
    """What each of so many devices holds and sends, with the run's batch on each."""
    from fourfold.optimizers import scale

    if not given.isdigit() or int(given) < 1:
        raise UserError(f"--scale: expected a number of devices, got {given!r}")
    table = [scale.HEADER, *scale.rows(scale.of_run(run), int(given))]
    if as_json:
        print(json.dumps([dict(zip(scale.HEADER, row, strict=True)) for row in table[1:]]))
        return
    widths = [max(len(row[i]) for row in table) for i in range(len(scale.HEADER))]
    for row in table:
        print("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip())
    print("Of one device, with the run's batch on each; docs/scale.md has the formulas.")


def doctor_command(tokens: list[str]) -> None:
    """What this machine has."""
    parsed = parse(
        "fourfold doctor",
        "What this machine has: threads, bf16, compiler, extras, GPU.",
        _flags(),
        tokens,
    )
    if parsed is None:
        return
    facts = _facts()
    if parsed[1].get("json"):
        print(json.dumps(facts))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")


def _facts() -> dict[str, Any]:
    import importlib.util

    import torch

    import fourfold
    from fourfold.core.device import available_memory, choose_device, gains_from_bfloat16
    from fourfold.core.registry import cache_folder

    device = choose_device()
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if torch.cuda.is_available()
        else []
    )
    missing = [
        extra for extra, module in EXTRAS.items() if importlib.util.find_spec(module) is None
    ]
    return {
        "fourfold": fourfold.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads",
        "memory free": f"{available_memory(torch.device('cpu')) / 2**30:.1f} GiB",
        "device": f"{device} is taken by default",
        "gpu": ", ".join(gpus) or "none",
        "bf16": "fast here, and used where a model gains from it"
        if gains_from_bfloat16(device.type)
        else "not faster than float32 here",
        "compiler": compiler or "none found: torch.compile is not used",
        "matrix product": f"{_gflops():,.0f} GFLOP/s in float32",
        "cache": str(cache_folder()),
        "data": os.environ.get("FOURFOLD_DATA") or "FOURFOLD_DATA is not set",
        "extras missing": ", ".join(missing) + f" (pip install 'fourfold[{missing[0]}]')"
        if missing
        else "none",
    }


def _gflops() -> float:
    import time

    import torch

    a = torch.randn(1024, 1024)
    a @ a
    began = time.perf_counter()
    for _ in range(4):
        a @ a
    return 4 * 2 * 1024**3 / (time.perf_counter() - began) / 1e9
