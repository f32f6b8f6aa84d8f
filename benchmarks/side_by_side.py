"""What every benchmark shares: alternating measurements, the machine they came from, results as JSON."""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def alternate(
    contenders: Mapping[str, Callable[[], float]], rounds: int = 3
) -> dict[str, list[float]]:
    """Measure each contender in turn, round after round, so that the machine's moods fall on all alike."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            found[name].append(measure())
    return found


def medians(values: Mapping[str, list[float]]) -> dict[str, float]:
    """The middle of each contender's measurements."""
    return {name: statistics.median(v) for name, v in values.items()}


def ratio(values: Mapping[str, list[float]], ours: str, peer: str) -> float:
    """Median over rounds of ours / peer: of neighbours in time, not of far ends."""
    return statistics.median(a / b for a, b in zip(values[ours], values[peer], strict=True))


def machine() -> dict[str, Any]:
    """Where and with what a result was made."""
    import torch

    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if "model name" in line
        ]
        processor = names[0] if names else processor
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
    }


def kept(name: str) -> dict[str, Any]:
    """What `results/<name>.json` holds by now: sections with a result each."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def keep(name: str, result: dict[str, Any], *, module: str | None = None) -> None:
    """Write `results/<name>.json`: the result, the command and the machine; sections made apart are merged.

    `module` is the benchmark's own name, where it keeps several files.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    before = kept(name)
    command = f"python -m benchmarks.{module or name} {shlex.join(sys.argv[1:])}".strip()
    sections = {
        key: {"result": value, "command": command, "machine": machine()}
        for key, value in result.items()
    }
    path.write_text(json.dumps({**before, **sections}, indent=2) + "\n")
    print(f"kept in {path}")


def data_file(relative: str) -> Path:
    """A file of the catalog's folder, FOURFOLD_DATA; exits with a sentence where it is not there."""
    folder = os.environ.get("FOURFOLD_DATA")
    path = Path(folder or "") / relative
    if not folder or not path.exists():
        sys.exit(f"{relative} is needed: set FOURFOLD_DATA to the folder that holds it")
    return path
