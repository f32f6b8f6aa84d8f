"""Sizes of a system: what a known law lets expect, and a ladder of real runs that is not trained twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import fourfold
from fourfold.cli.main import dispatch
from fourfold.core.errors import UserError
from fourfold.core.registry import register
from fourfold.core.system import system
from fourfold.data.text import Text
from fourfold.optimizers.gradient import Gradient
from fourfold.selection.scaling import Scaling, Sized, prediction, replicates, scaling
from fourfold.systems.gpt import GPT

TEXT = " ".join(f"{a} and {b} make {a + b}." for a in range(40) for b in range(25))
SOURCE = {"text": [TEXT]}
STEPS = 25


@system("little", reads="text")
class Little(GPT):
    """gpt in sizes for a test."""

    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {"width": 8},
        "demo": {"width": 16},
        "small": {"width": 32, "data.window": 64},
        "base": {"width": 64},
    }
    data: Text = Text(unit="character", window=16, batch=8)
    layers: int = 1
    optimizer: Gradient = Gradient(lr=1e-2)


register(Little)


def made(law: dict[int, float], noise: float, seed: int, seeds: int = 1) -> list[Sized]:
    generator = np.random.default_rng(seed)
    common = 10 * noise * generator.standard_normal(100)  # what a passage costs any model
    found = []
    for weights, loss in law.items():
        for number in range(seeds):
            blocks = loss + common + noise * generator.standard_normal(100)
            found.append(
                Sized(f"{weights}", number, weights, float(blocks.mean()), 1000, blocks.tolist())
            )
    return found


@pytest.mark.parametrize(("floor", "exponent"), [(0.0, 0.1), (1.2, 0.4)])
def test_a_known_law_is_inside_the_interval(floor: float, exponent: float) -> None:
    def law(n: float) -> float:
        return floor + 8 * n**-exponent

    sizes = [200_000, 800_000, 3_000_000]
    inside = 0
    for seed in range(20):
        runs = made({n: law(n) for n in sizes}, 0.002, seed)
        found = prediction(runs, 10_000_000, seed)
        assert found is not None
        middle, low, high = found
        assert low <= middle <= high and high - low < 0.2
        inside += low <= law(10_000_000) <= high
    assert inside >= 15


def test_without_noise_the_power_law_is_exact() -> None:
    runs = [
        Sized(str(n), 0, n, 5 * n**-0.2, 1000, [5 * n**-0.2] * 100) for n in (1000, 4000)
    ]  # fmt: skip
    found = prediction(runs, 64_000)
    assert found == pytest.approx([5 * 64_000**-0.2] * 3)
    three = [Sized(str(n), 0, n, 1 + 5 * n**-0.5, 1, [1 + 5 * n**-0.5] * 100) for n in (100, 400, 1600)]  # fmt: skip
    half = replicates(three, np.array([6400.0]), 0)[1000:, 0]
    assert half == pytest.approx(1 + 5 * 6400**-0.5, abs=2e-3)  # exponents are tried on a grid


def test_seeds_that_differ_widen_it() -> None:
    law = {n: 5 * n**-0.2 for n in (1000, 4000, 16_000)}
    runs = made(law, 0.001, 0, seeds=2)
    apart = [
        Sized(r.size, r.seed, r.weights, r.bits_per_byte, 1, [b + 0.1 * r.seed for b in r.blocks])
        for r in runs
    ]
    widths = []
    for some in (runs, apart):
        found = prediction(some, 64_000)
        assert found is not None
        widths.append(found[2] - found[1])
    assert widths[1] > 3 * widths[0]


def test_where_larger_is_not_better_nothing_is_predicted() -> None:
    assert prediction(made({1000: 2.0, 4000: 2.5}, 0.001, 0), 16_000) is None


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Scaling:
    return scaling(
        SOURCE, system="little", sizes=["demo", "tiny"], steps=STEPS, check=True,
        out=tmp_path_factory.mktemp("scaling") / "all",
    )  # fmt: skip


def test_real_runs(found: Scaling) -> None:
    assert [run.size for run in found.runs] == ["tiny", "demo"]
    assert [run.size for run in found.checked] == ["small"]
    assert {run.tokens for run in found.runs} == {STEPS * 8 * 16}
    assert found.weights == found.checked[0].weights  # known before it was trained
    for run in [*found.runs, *found.checked]:
        opened = fourfold.open(found.folder / f"{run.size}-0")
        opened.sources, opened.about["in_memory"] = SOURCE, False
        assert opened.evaluate()["bits_per_byte"] == pytest.approx(run.bits_per_byte, rel=1e-6)
        assert float(np.mean(run.blocks)) == pytest.approx(run.bits_per_byte, rel=0.02)
        embedding = opened.model.get_submodule("embedding").weight.numel()  # type: ignore[union-attr]
        assert run.weights == sum(p.numel() for p in opened.model.parameters()) - embedding
    record = json.loads((found.folder / "scaling.json").read_text())
    assert record["predicted"] == (list(found.predicted) if found.predicted else None)
    assert "small" in (found.folder / "report.html").read_text()


def test_what_is_done_is_not_trained_again(found: Scaling, monkeypatch: pytest.MonkeyPatch) -> None:
    from fourfold import api

    monkeypatch.setattr(api, "fit", lambda *a, **k: pytest.fail("trained again"))
    monkeypatch.setattr(
        "fourfold.selection.scaling.held_out",
        lambda run: (run.data.reopen(SOURCE, seed=0), "test", ""),
    )
    again = scaling(
        SOURCE, system="little", sizes=["tiny", "demo"], steps=STEPS, check=True, out=found.folder
    )
    assert again.runs == found.runs and again.predicted == found.predicted


def test_wrong_ladders_of_sizes(found: Scaling, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="--sizes tinny: little has no such size; did you mean tiny"
    ):
        scaling(SOURCE, system="little", sizes=["tinny", "demo"])
    with pytest.raises(UserError, match="expected two sizes or more"):
        scaling(SOURCE, system="little", sizes=["tiny"])
    with pytest.raises(UserError, match="nothing comes after base"):
        scaling(SOURCE, system="little", sizes=["tiny", "base"])
    with pytest.raises(UserError, match="--predict tiny: is among"):
        scaling(SOURCE, system="little", sizes=["tiny", "demo"], predict="tiny")
    with pytest.raises(UserError, match="--system linear: expected a language model with sizes"):
        scaling(SOURCE, sizes=["tiny", "demo"], system="linear")
    with pytest.raises(UserError, match="another options"):
        scaling(SOURCE, system="little", sizes=["tiny", "demo"], steps=STEPS + 1, out=found.folder)
    for line, sentence in (
        (["--check"], "--check goes with --sizes"),
        (["--sizes", "tiny,demo", "--rungs", "gpt"], "--rungs does not go with --sizes"),
        (["--sizes", "tiny,demo", "--epochs", "0"], "--epochs: expected a number above 0"),
        (["--sizes", "tiny,demo", "--seeds", "0"], "--seeds: expected 1 or more"),
        (["--sizes", "tiny,demo", "--steps", "3", "--epochs", "2"], "expected one of them"),
    ):
        with pytest.raises(UserError, match=sentence):
            dispatch(["ladder", *line, "--out", str(tmp_path / "x")])


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sums.txt").write_text(TEXT)
    out = str(tmp_path / "out")
    line = ["ladder", str(tmp_path / "sums.txt"), "--sizes", "tiny,demo", "--steps", "9"]
    dispatch([*line, "--system", "little", "--unit", "byte", "--out", out, "--quiet", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["title"] == "little: tiny, demo and then small"
    assert [row[0] for row in told["tables"][0]["rows"]] == ["tiny", "demo"]
