"""Weights spread over processes: the losses of one process, and checkpoints that any number reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fourfold
from children import BESIDE, Nursery, free_port
from faulty import register_all
from runs import last_step
from scale_cases import OFTEN, SYSTEMS, assert_alike, measures, write_sources


@pytest.fixture(autouse=True)
def sources(tmp_path: Path) -> None:
    """What the systems read, in the working folder."""
    register_all()
    write_sources(tmp_path)


def losses_alike(
    nursery: Nursery, tmp_path: Path, system: str, count: int, *options: str, rtol: float = 1e-4
) -> None:
    own = SYSTEMS[system]
    if "--algorithm" in options:
        own = own[: own.index("--algorithm")]
    arguments = ["fit", f"bare-{system}", *own, *OFTEN, "--steps", "50"]
    given = [o for o in options if not o.startswith("--parallel") and o != "bfloat16"]
    assert nursery.run([*arguments, *given, "--out", tmp_path / "1"]).code == 0
    nursery.together(count, [*arguments, *options, "--out", tmp_path / "n"])
    assert_alike(tmp_path / "1", tmp_path / "n", rtol)
    one, many = (load_file(tmp_path / n / "weights.safetensors") for n in ("1", "n"))
    assert {n: (t.shape, t.dtype) for n, t in one.items()} == {
        n: (t.shape, t.dtype) for n, t in many.items()
    }
    assert fourfold.open(tmp_path / "n").evaluate() is not None


def test_sharded_gpt(nursery: Nursery, tmp_path: Path) -> None:
    """With tied weights, an average, and activations that are computed again."""
    options = ("--tied", "--ema", "0.9", "--clip", "1", "--decay", "0.1")
    losses_alike(nursery, tmp_path, "gpt", 2, *options, "--parallel.shard", "--parallel.recompute")


def test_weights_in_bfloat16_are_summed_in_float32(nursery: Nursery, tmp_path: Path) -> None:
    """The fit is that of bfloat16 products; what is kept is float32."""
    shard = ("--parallel.shard", "--parallel.weights", "bfloat16")
    losses_alike(nursery, tmp_path, "gpt", 2, *shard, rtol=3e-2)
    one, many = (measures(tmp_path / n) for n in ("1", "n"))
    last = (50, "loss")
    assert one[last] != pytest.approx(many[last], rel=1e-6)  # they were used
    kept = load_file(tmp_path / "n" / "weights.safetensors")
    assert all(t.dtype == torch.float32 for t in kept.values())
    coarse = [float((t - t.bfloat16().float()).abs().max()) for t in kept.values()]
    assert max(coarse) > 1e-5  # steps are taken on more than bfloat16 holds


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("count", [2, 3])
def test_sharded(nursery: Nursery, tmp_path: Path, system: str, count: int) -> None:
    rtol = 1e-3 if system == "gan" else 1e-4
    losses_alike(nursery, tmp_path, system, count, "--parallel.shard", rtol=rtol)


@pytest.mark.slow
def test_sharded_muon(nursery: Nursery, tmp_path: Path) -> None:
    """Each process orthogonalizes whole matrices; in bfloat16, so rounding shows sooner."""
    options = ("--algorithm", "muon", "--lr", "0.01")
    losses_alike(nursery, tmp_path, "gpt", 2, *options, "--parallel.shard", rtol=2e-2)


def test_tensor_parallel_gpt(nursery: Nursery, tmp_path: Path) -> None:
    losses_alike(
        nursery, tmp_path, "gpt", 2, "--query-key-norm", "--bias", "all", "--parallel.tensor=2"
    )


@pytest.mark.slow
def test_tensor_parallel_in_sharded_pairs(nursery: Nursery, tmp_path: Path) -> None:
    options = ("--parallel.shard", "--parallel.tensor=2")
    losses_alike(nursery, tmp_path, "gpt", 4, *options, rtol=1e-3)


def test_a_sharded_checkpoint_is_read_by_any_number(nursery: Nursery, tmp_path: Path) -> None:
    constant = ["--schedule", "constant", "--warmup", "0", "--ema", "0.9"]
    arguments = ["fit", "bare-gpt", *SYSTEMS["gpt"], *OFTEN, *constant]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert nursery.run([*arguments, "--steps", "24", "--out", whole]).code == 0
    nursery.together(2, [*arguments, "--steps", "6", "--out", parts, "--parallel.shard"])
    last = parts / "checkpoints" / "000000006"
    assert sorted(p.name[:11] for p in last.iterdir()) == ["shard-00001", "shard-00002", "state.safet"]  # fmt: skip
    resume = ["fit", "--resume", parts, "--steps"]
    nursery.together(3, [*resume, "12", "--parallel.shard"])
    nursery.together(2, [*resume, "18", "--parallel.tensor", "2"])
    assert nursery.run([*resume, "24"]).code == 0
    a, b = (
        {k: v for k, v in measures(folder).items() if not k[1].startswith("valid")}
        for folder in (whole, parts)
    )
    assert a.keys() == b.keys() and len(a) == 48
    assert all(b[k] == pytest.approx(v, rel=1e-4, abs=1e-4) for k, v in a.items())


def test_parts_are_written_beside_the_steps(nursery: Nursery, tmp_path: Path) -> None:
    """While a checkpoint is written the weights go on; what is resumed from it goes on as if never stopped."""
    constant = ["--schedule", "constant", "--warmup", "0", "--checkpoint-every", "1"]
    arguments = ["fit", "bare-gpt", *SYSTEMS["gpt"], *OFTEN, *constant]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert nursery.run([*arguments, "--steps", "40", "--out", whole]).code == 0
    given = [*arguments, "--steps", "40", "--out", parts, "--parallel.shard"]
    children = nursery.ranks(2, given, **BESIDE)
    assert children[0].until(lambda: last_step(parts) >= 3)
    for child in children:
        child.kill()
    done = last_step(parts)
    assert 3 <= done < 40
    nursery.together(2, ["fit", "--resume", parts, "--parallel.shard"], **BESIDE)
    assert_alike(whole, parts, 1e-4)
    last = parts / "checkpoints" / "000000040"
    assert sorted(p.name[:11] for p in last.iterdir()) == ["shard-00001", "shard-00002", "state.safet"]  # fmt: skip
    assert not list(parts.rglob(".*")), "a killed process left its temporary files"


def test_no_room_for_a_part_is_said(nursery: Nursery, tmp_path: Path) -> None:
    """Whether it is found between the steps or beside them."""
    for number, environment in enumerate(({}, BESIDE)):
        arguments = ["fit", "bare-gpt", *SYSTEMS["gpt"], *OFTEN, "--checkpoint-every", "2"]
        given = [*arguments, "--steps", "30", "--out", tmp_path / str(number), "--parallel.shard"]
        there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
        children = [
            nursery.start(given, RANK=str(rank), largest_file=90_000, **there, **environment)
            for rank in range(2)
        ]
        assert {c.wait() for c in children} & {2}
        said = "".join(c.stderr for c in children)
        assert "no space left to write this checkpoint; none was there before" in said, said


def test_a_missing_or_damaged_shard_is_named(nursery: Nursery, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["fit", "bare-gpt", *SYSTEMS["gpt"], *OFTEN, "--steps", "2"]
    nursery.together(2, [*arguments, "--out", run, "--parallel.shard"])
    (shard,) = (run / "checkpoints").rglob("shard-00002-*")
    resume = ["fit", "--resume", run, "--steps", "4"]
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    child = nursery.run(resume)
    assert child.code == 2 and "damaged" in child.stderr and shard.name in child.stderr
    shard.unlink()
    for children in ([nursery.start(resume)], nursery.ranks(2, resume)):
        assert {c.wait() for c in children} == {2}
        said = "".join(c.stderr for c in children)
        assert said.count("written by 2 processes and needs all their shards") == 1
        assert shard.name in said
    assert last_step(run) == 2


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--heads", "2", "--parallel.tensor", "3"], "does not divide the 2 processes; 2 does"),
        (["--heads", "1", "--parallel.tensor", "2"], "does not divide heads 1; 1 does"),
        (["--heads", "2", "--positions", "alibi", "--parallel.tensor", "2"], "--positions rotary goes"),
    ],
)  # fmt: skip
def test_heads_that_do_not_divide(nursery: Nursery, options: list[str], found: str) -> None:
    given = SYSTEMS["gpt"][: SYSTEMS["gpt"].index("--heads")]
    children = nursery.ranks(2, ["fit", "bare-gpt", *given, *options])
    assert {c.wait() for c in children} == {2}
    said = "".join(c.stderr for c in children)
    assert said.count(found) == 1, said


def test_only_a_transformer_is_cut(nursery: Nursery) -> None:
    children = nursery.ranks(2, ["fit", "rows", "--parallel.tensor", "2"])
    assert {c.wait() for c in children} == {2}
    assert "is for decoder-only Transformers" in "".join(c.stderr for c in children)


def test_activations_are_computed_again_on_one_process(nursery: Nursery, tmp_path: Path) -> None:
    arguments = ["fit", "bare-gpt", *SYSTEMS["gpt"], *OFTEN, "--steps", "6", "--dropout", "0.2"]
    for name, options in (("a", []), ("b", ["--parallel.recompute"])):
        assert nursery.run([*arguments, *options, "--out", tmp_path / name]).code == 0
    assert measures(tmp_path / "a") == measures(tmp_path / "b")
    children = nursery.ranks(1, ["fit", "rows", "--parallel.recompute"])
    assert children[0].wait() == 2 and "no repeated blocks" in children[0].stderr


def test_recomputed_dropout_has_the_same_masks_on_several(nursery: Nursery, tmp_path: Path) -> None:
    arguments = ["fit", "bare-gpt", *SYSTEMS["gpt"], *OFTEN, "--steps", "6", "--dropout", "0.2"]
    for name, options in (("a", []), ("b", ["--parallel.recompute"])):
        nursery.together(2, [*arguments, *options, "--out", tmp_path / name])
    assert measures(tmp_path / "a") == measures(tmp_path / "b")
