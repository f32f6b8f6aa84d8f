"""The example of CONTRIBUTING.md is a whole system: it passes every check, and its result is what it says."""

import importlib.util
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import fourfold
from fourfold.core.registry import _read
from fourfold.core.system import System
from fourfold.testing import CHECKS, check_system

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as a file."""
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    (example,) = [block for block in blocks if "@system(" in block]
    path = tmp_path_factory.mktemp("example") / "two_layers.py"
    path.write_text(example, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def example(source: Path) -> Iterator[type[System]]:
    """The example's class, from a module of its own."""
    spec = importlib.util.spec_from_file_location("two_layers", source)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["two_layers"] = module
    spec.loader.exec_module(module)
    yield module.TwoLayers
    del sys.modules["two_layers"]


def test_the_example_passes_every_check(example: type[System]) -> None:
    assert not example.exempt
    check_system(example)


def test_the_example_gives_its_result(example: type[System]) -> None:
    said = re.search(
        r"Result: mean squared error ([\d.]+)", sys.modules["two_layers"].__doc__ or ""
    )
    assert said
    runs = [fourfold.fit(example, "diabetes", out=False, seed=s) for s in range(3)]
    found = statistics.fmean(run.evaluate()["mse"] for run in runs)
    # other versions and processors round otherwise; predicting the mean costs nearly twice as much
    assert found == pytest.approx(float(said[1]), rel=0.06)


def test_the_examples_verb_answers_for_every_row(example: type[System]) -> None:
    sizes: list[float | None] = [20.0, 35.0, None, 80.0] * 15
    table = pl.DataFrame({"size": sizes, "rent": [10.0 * (s or 50) for s in sizes]})
    options: dict[str, Any] = {"data.missing": "drop", "data.dtype": "float64", "epochs": 60}
    run = fourfold.fit(example, table, out=False, target="rent", **options)
    answer = run.predict(table.drop("rent"))
    assert answer["prediction"].is_null().to_list() == [s is None for s in sizes]
    kept = answer.filter(pl.col("size").is_not_null())
    assert kept["prediction"].to_list() == pytest.approx((10 * kept["size"]).to_list(), abs=100)


def test_the_example_is_indexed_without_being_imported(source: Path) -> None:
    (entry,) = _read("two_layers", source)
    assert (entry.name, entry.reads, entry.cls) == ("two-layers", "table", "TwoLayers")
    assert entry.verbs == ("evaluate", "predict")


def test_the_example_follows_the_projects_own_style(source: Path) -> None:
    for words in (["check"], ["format", "--check", "--diff"]):
        command = [sys.executable, "-m", "ruff", *words, "--no-cache", "--config", "pyproject.toml"]
        found = subprocess.run([*command, source], cwd=ROOT, capture_output=True, text=True)
        if "No module named ruff" in found.stderr:
            pytest.skip("ruff is not installed: pip install 'fourfold[check]'")
        assert found.returncode == 0, found.stdout + found.stderr


def test_every_check_is_explained() -> None:
    explained = set(re.findall(r"^\| `(\w+)` \|.*\| (?:yes|no) \|$", TEXT, re.M))
    assert explained == set(CHECKS)
