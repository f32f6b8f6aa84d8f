"""Many large files are read in pieces: memory does not grow with them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import resource, sys
from fourfold.data.text import Text

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

data = Text(unit="byte", window=128, batch=16, **{options}).open(sys.argv[2])
def own():
    line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024

before, small = most(), own()
data = Text(unit="byte", window=128, batch=16, **{options}).open(sys.argv[1])
opened = most() - before
for number, batch in zip(range(200), data.batches("train", epoch=1)):
    assert batch["tokens"].shape == (16, 128)
print(opened, own() - small, data.size("train"))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="asks Linux how much memory is used"
)
@pytest.mark.parametrize("options", ["{}", "{'mixture': {'a': 1, 'b': 3}}"])
def test_memory_stays_bounded(tmp_path: Path, options: str) -> None:
    block = "".join(f"line {n} of a long text, of which there is much.\n" for n in range(20_000))
    for folder, repeats in (("many", 4), ("few", 1)):
        for source in ("a", "b"):
            (tmp_path / folder / source).mkdir(parents=True)
            for number in range(20 if folder == "many" else 1):
                (tmp_path / folder / source / f"{number}.txt").write_text(block * repeats)
    size = sum(p.stat().st_size for p in (tmp_path / "many").rglob("*.txt"))
    assert size > 120e6
    run = subprocess.run(
        [sys.executable, "-c", CHILD.replace("{options}", options), str(tmp_path / "many"), str(tmp_path / "few")],
        capture_output=True, text=True, check=True,
        env={**os.environ, "FOURFOLD_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    opened, own, windows = map(int, run.stdout.split())
    assert windows * 128 > 0.8 * size
    assert opened < 110e6  # what may stay in memory before it is known to be too much, and a piece
    assert own < 40e6  # the tokens are in files, whose pages the system takes back
