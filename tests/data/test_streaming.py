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
before = most()
data = Text(unit="byte", window=128, batch=16, **{options}).open(sys.argv[1])
for number, batch in zip(range(200), data.batches("train", epoch=1)):
    assert batch["tokens"].shape == (16, 128)
print(most() - before, data.size("train"))
"""


@pytest.mark.slow
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
    grown, windows = map(int, run.stdout.split())
    assert windows * 128 > 0.8 * size
    # the tokens, two bytes each, are in files; what was read of them may be taken back by the system
    assert grown < size / 2
