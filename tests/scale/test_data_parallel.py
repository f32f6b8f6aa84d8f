"""Several processes make the steps of one: the same losses, weights, evaluations, and runs that go on on any number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fourfold
from children import Nursery, free_port
from faulty import register_all
from fourfold.core.shares import SharedBatch, drawn, rows_from, set_share, share_of
from runs import last_step, logged
from scale_cases import OFTEN, SYSTEMS, assert_alike, assert_same_file, measures, write_sources


@pytest.fixture(autouse=True)
def sources(tmp_path: Path) -> None:
    """What the systems read, in the working folder."""
    register_all()
    write_sources(tmp_path)


ROUNDING = {"gpt": 1e-4, "mlp": 1e-4, "gan": 2e-3}
"""What sums in another order may change a weight by in 50 steps; Adam divides small gradients by their own size."""


@pytest.mark.parametrize("system", SYSTEMS)
def test_losses_are_those_of_one_process(nursery: Nursery, tmp_path: Path, system: str) -> None:
    arguments = ["fit", f"bare-{system}", *SYSTEMS[system], *OFTEN, "--steps", "50"]
    assert nursery.run([*arguments, "--out", tmp_path / "1"]).code == 0
    for count in (2, 3):
        nursery.together(count, [*arguments, "--out", tmp_path / str(count)])
        assert_alike(tmp_path / "1", tmp_path / str(count), 1e-3 if system == "gan" else 1e-4)
    assert_same_file(tmp_path / "1", tmp_path / "3", ROUNDING[system])
    assert fourfold.open(tmp_path / "3").evaluate() is not None


def test_unequal_weights_give_the_same_steps(nursery: Nursery, tmp_path: Path) -> None:
    """Of the 8 rows of a batch ranks have 3, 3 and 2, and the rows count differently, some not at all."""
    arguments = ["fit", "weighed", "--dropout", "0", "--steps", "12", "--accumulate", "1", "--ema", "none"]  # fmt: skip
    assert nursery.run([*arguments, "--out", tmp_path / "1"]).code == 0
    nursery.together(3, [*arguments, "--out", tmp_path / "3"])
    assert_alike(tmp_path / "1", tmp_path / "3", 1e-5)


def test_a_controller_hears_all_processes(nursery: Nursery, tmp_path: Path) -> None:
    """The KL that moves its weight is that of the whole batch, of which the two have 16 and 15 images."""
    arguments = ["fit", "control-vae", "--network", "dense", "--hidden", "16", "--latents", "4", "--batch", "31",
                 "--goal", "0.05", "--optimizer.control.integral", "0.01", "--optimizer.control.most", "10", *OFTEN,
                 "--lr", "3e-3", "--steps", "24"]  # fmt: skip
    assert nursery.run([*arguments, "--out", tmp_path / "1"]).code == 0
    nursery.together(2, [*arguments, "--out", tmp_path / "2"])
    assert_alike(tmp_path / "1", tmp_path / "2", 1e-4)
    betas = [value for (_, name), value in measures(tmp_path / "2").items() if name == "beta"]
    assert len(set(betas)) > 20


def test_a_run_goes_on_on_any_number_of_processes(nursery: Nursery, tmp_path: Path) -> None:
    arguments = ["fit", "duel", "--dropout", "0", "--schedule", "constant", "--warmup", "0"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert nursery.run([*arguments, "--steps", "28", "--out", whole]).code == 0
    nursery.together(2, [*arguments, "--steps", "8", "--out", parts])
    assert last_step(parts) == 8
    resume = ["fit", "--resume", parts, "--steps"]
    nursery.together(3, [*resume, "16"])
    assert nursery.run([*resume, "28"]).code == 0
    a, b = (
        {k: v for k, v in measures(folder).items() if not k[1].startswith("valid")}
        for folder in (whole, parts)
    )
    assert a.keys() == b.keys() and len(a) > 80
    assert all(b[k] == pytest.approx(v, rel=1e-4, abs=1e-4) for k, v in a.items())


def test_dropout_differs_between_ranks_and_resumes_exactly(
    nursery: Nursery, tmp_path: Path
) -> None:
    """Masks are fixed by seed, step and rank; so are two runs, one of them stopped on the way."""
    arguments = ["fit", "faulty", "--dropout", "0.5", "--steps", "12"]
    nursery.together(2, [*arguments, "--out", tmp_path / "a"])
    nursery.together(2, [*arguments, "--out", tmp_path / "b"])
    assert logged(tmp_path / "a") == logged(tmp_path / "b")
    assert (tmp_path / "a/weights.safetensors").read_bytes() == (tmp_path / "b/weights.safetensors").read_bytes()  # fmt: skip


def test_states_of_rows_are_carried(nursery: Nursery, tmp_path: Path) -> None:
    arguments = ["fit", "gru", "words.txt", "--unit", "character", "--batch", "5", "--data.window", "8", "--width", "12",
                 "--dropout", "0", *OFTEN, "--checkpoint-every", "6"]  # fmt: skip
    assert nursery.run([*arguments, "--steps", "12", "--out", tmp_path / "1"]).code == 0
    nursery.together(2, [*arguments, "--steps", "12", "--out", tmp_path / "2"])
    assert_alike(tmp_path / "1", tmp_path / "2", 1e-4)


def test_rows_that_are_compared_stay_together(nursery: Nursery, tmp_path: Path) -> None:
    """An image is told from those of its batch: processes share the batches of a step, of which the last has fewer."""
    arguments = ["fit", "simclr", "--norm", "layer", "--width", "4", "--data.batch", "16", *OFTEN, "--steps", "10", "--accumulate"]  # fmt: skip
    for count in ("2", "3"):
        assert nursery.run([*arguments, count, "--out", tmp_path / "1" / count]).code == 0
        nursery.together(2, [*arguments, count, "--out", tmp_path / "2" / count])
        assert_alike(tmp_path / "1" / count, tmp_path / "2" / count, 1e-3)
    children = nursery.ranks(2, [*arguments, "1"])
    assert {c.wait() for c in children} == {2}
    said = "".join(c.stderr for c in children)
    assert "rows are compared with one another: take --optimizer.accumulate 2" in said


@pytest.mark.parametrize(
    "objective", [["beta-tc"], ["factor"], ["elbo", "--free-bits", "0.1"]], ids=" ".join
)
def test_bounds_of_a_whole_batch(nursery: Nursery, tmp_path: Path, objective: list[str]) -> None:
    """What is estimated from a batch is not estimated from a process's part of it."""
    arguments = ["fit", "vae", "--width", "4", "--hidden", "8", "--objective", *objective, "--data.batch", "16",
                 *OFTEN, "--steps", "4"]  # fmt: skip
    children = nursery.ranks(2, arguments)
    assert {c.wait() for c in children} == {2}
    assert "rows are compared with one another" in "".join(c.stderr for c in children)
    nursery.together(2, [*arguments, "--accumulate", "2", "--out", tmp_path / "2"])
    assert last_step(tmp_path / "2") == 4


def test_only_rank_0_writes_and_speaks(nursery: Nursery, tmp_path: Path) -> None:
    first, second = nursery.ranks(2, ["fit", "rows", "--steps", "5"])
    assert first.wait() == second.wait() == 0, first.stderr + second.stderr
    assert "The run is in" in first.stderr and not second.stderr and not second.stdout
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["rows-1"]


def test_shares_are_contiguous_and_whole() -> None:
    for total in range(1, 9):
        for size in range(1, 6):
            shares = [share_of(total, rank, size) for rank in range(size)]
            rows = [r for s in shares for r in range(s.first, s.first + s.rows)]
            assert rows == list(range(total))
            assert max(s.rows for s in shares) - min(s.rows for s in shares) <= 1


def test_what_is_drawn_does_not_depend_on_the_processes() -> None:
    def draw(count: int) -> torch.Tensor:
        return torch.randn(count, 2, generator=torch.Generator().manual_seed(3))

    whole = drawn(5, draw)
    try:
        for size in (2, 3, 7):
            rows = []
            for rank in range(size):
                share = share_of(5, rank, size)
                set_share(share)
                found = drawn(max(1, share.rows), draw)
                assert len(found) == max(1, share.rows)
                rows.append(found[: share.rows])
            assert torch.equal(torch.cat(rows), whole)
    finally:
        set_share(None)


def test_a_share_keeps_what_has_no_rows() -> None:
    batch = {"x": torch.arange(6).view(3, 2), "scale": torch.tensor(2.0), "name": "a"}
    mine = SharedBatch(rows_from(batch, 1, 2), share_of(3, 0, 2))
    assert mine["x"].tolist() == [[2, 3], [4, 5]] and mine["scale"] == 2 and mine["name"] == "a"


def test_more_processes_than_rows(nursery: Nursery) -> None:
    children = nursery.ranks(3, ["fit", "rows", "--data.batch", "2"])
    assert [c.wait() for c in children] == [2, 2, 2]
    said = "".join(c.stderr for c in children)
    assert said.count("3 processes cannot share a batch of 2") == 1 and "--data.batch 3" in said


def test_a_search_for_one_process(nursery: Nursery, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,y\n" + "\n".join(f"{i},{2 * i}" for i in range(40)))
    children = nursery.ranks(2, ["fit", "linear", "t.csv", "--target", "y"])
    assert [c.wait() for c in children] == [2, 2]
    assert "run it without torchrun" in "".join(c.stderr for c in children)


def test_ranks_that_differ_are_named(nursery: Nursery) -> None:
    there = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}
    for given, found in (
        ((["--lr", "0.1"], ["--lr", "0.2"]), "optimizer.lr is 0.1 on rank 0"),
        ((["--seed", "1"], ["--seed", "2"]), "seed is 1 on rank 0"),
    ):
        port = str(free_port())
        children = [
            nursery.start(["fit", "rows", *mine], RANK=str(r), MASTER_PORT=port, **there)
            for r, mine in enumerate(given)
        ]
        assert [c.wait() for c in children] == [2, 2]
        said = "".join(c.stderr for c in children)
        assert said.count(found) == 1 and "on rank 1" in said, said


def test_versions_that_differ_are_named(tmp_path: Path) -> None:
    """As on two machines, one of which has another fourfold."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import fourfold.core.version\nfourfold.core.version.__version__ = '0.0.9'\n"
    )
    port, children = str(free_port()), []
    command = [
        sys.executable,
        "-m",
        "fourfold",
        "fit",
        "gpt",
        "words.txt",
        "--steps",
        "2",
        "--out",
        str(tmp_path / "run"),
    ]
    for rank, more in enumerate(([], [str(site)])):
        path = os.pathsep.join([*more, *sys.path])
        there = {
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        environment = {**os.environ, **there, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        children.append(
            subprocess.Popen(
                command, env=environment, stderr=subprocess.PIPE, text=True, cwd=tmp_path
            )
        )
    said = "".join(child.communicate(timeout=300)[1] for child in children)
    assert [child.returncode for child in children] == [2, 2], said
    assert "the ranks differ in versions: fourfold is" in said and "'0.0.9' on rank 1" in said, said


def test_ranks_that_read_other_data_are_named(nursery: Nursery, tmp_path: Path) -> None:
    port = str(free_port())
    children = []
    for rank in range(2):
        place = tmp_path / str(rank)
        place.mkdir()
        (place / "words.txt").write_text(f"one two three {rank} " * 200)
        children.append(
            nursery.start(["fit", "bare-gpt", "words.txt", "--unit", "character", "--steps", "3"], cwd=place, RANK=str(rank),
                          WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        )  # fmt: skip
    assert [c.wait() for c in children] == [2, 2]
    assert "the ranks differ in the data: fingerprint is" in "".join(c.stderr for c in children)


def test_an_environment_that_is_half_set(nursery: Nursery) -> None:
    for environment, found in (
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR is not set"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, "RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}, "ranks go from 0 to 1"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "FOURFOLD_JOINING": "1"},
         "no rank 0 to meet there"),
    ):  # fmt: skip
        child = nursery.run(["fit", "rows", "--steps", "2"], **environment)
        assert child.code == 2 and found in child.stderr, child.stderr
        assert len(child.stderr.strip().splitlines()[-1]) > 40 and "Traceback" not in child.stderr


def test_sharding_needs_processes(nursery: Nursery) -> None:
    child = nursery.run(["fit", "rows", "--parallel.shard"])
    assert child.code == 2 and "torchrun --nproc-per-node" in child.stderr


def test_the_log_is_json(nursery: Nursery, tmp_path: Path) -> None:
    nursery.together(2, ["fit", "rows", "--steps", "3", "--out", tmp_path / "r", "--quiet"])
    assert [json.loads(line) for line in (tmp_path / "r/metrics.jsonl").read_text().splitlines()]
