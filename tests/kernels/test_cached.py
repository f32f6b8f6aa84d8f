"""Compiled code that is kept on disk is that of the files as they are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import fourfold.kernels
from fourfold.kernels import cached

INNER = "from fourfold.kernels.cached import njit\n\n@njit(cache=True)\ndef inner(x):\n    return x + {}\n"
OUTER = """
from fourfold.kernels.cached import njit
from fourfold.kernels.inner import (
    inner,
)

@njit(cache=True)
def outer(x):
    return 10 * inner(x)

print(outer(1), sum(outer.stats.cache_hits.values()))
"""


def test_a_change_in_what_a_kernel_calls_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "fourfold/kernels"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").write_text("")
    (folder / "cached.py").write_text(Path(cached.__file__).read_text())
    (folder / "outer.py").write_text(OUTER)
    said = []
    for number in (1, 1, 2):
        (folder / "inner.py").write_text(INNER.format(number))
        os.utime(folder / "inner.py", (1e9, 1e9))  # nor does it depend on when it was written
        variables = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        variables["NUMBA_CACHE_DIR"] = str(tmp_path / "cache")
        ran = subprocess.run(
            [sys.executable, "-c", "import fourfold.kernels.outer"],
            env=variables, capture_output=True, text=True, check=True, cwd=tmp_path,
        )  # fmt: skip
        said.append(ran.stdout.split())
    assert said == [["20", "0"], ["20", "1"], ["30", "0"]]


def test_the_decoder_is_made_of_all_that_it_calls() -> None:
    file = Path(fourfold.kernels.__file__).with_name("decoder.py")
    names = {source.stem for source in cached.sources(file)}
    assert names == {"decoder", "cached", "lanes", "panels", "team"}


def test_no_kernel_is_kept_by_its_own_file_alone() -> None:
    for file in Path(fourfold.kernels.__file__).parent.glob("*.py"):
        if file.stem != "cached":
            assert not re.search(
                r"from numba import[^\n]*\bnjit\b|numba\.njit", file.read_text()
            ), file
