"""The formulas of docs/scale.md against what small runs hold, keep and send; the page's tables against the formulas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import fourfold
from children import free_port
from fourfold.cli import main
from fourfold.models.transformer import Transformer
from fourfold.objectives.likelihood import NextToken
from fourfold.optimizers.memory import saved_bytes
from fourfold.optimizers.scale import (
    HEADER,
    Plan,
    Shape,
    gpt,
    memory,
    resnet50,
    rows,
    sent,
    shape_of,
)
from fourfold.optimizers.sharded import blocks_of

ROOT = Path(__file__).parents[2]
STEPS = 5
PROGRAM = Path(__file__).with_name("measured.py")


def vocabulary() -> int:
    from fourfold.data.vocabulary import Characters

    text = " ".join(f"{a} and {b} make {a + b}." for a in range(40) for b in range(40))
    return len(Characters.learn(lambda: iter([(text, "")]), None, 1))


def measured(count: int, parallel: dict[str, Any], tmp_path: Path) -> dict[str, int]:
    """What rank 0 holds, and what all of `count` processes send, in a network of their own."""
    script = tmp_path / "all.sh"
    script.write_text(
        "ip link set lo up || exit 77\n"
        f'for r in $(seq 1 {count - 1}); do RANK=$r "$@" > /dev/null & done\n'
        'RANK=0 "$@"\nwait\n'
    )
    environment = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
                   "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}  # fmt: skip
    command = [
        "unshare",
        "-rn",
        "bash",
        str(script),
        sys.executable,
        str(PROGRAM),
        json.dumps(parallel),
        str(STEPS),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no network namespaces here: {done.stderr.strip()[-120:]}")
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "parallel"),
    [
        (2, {}),
        (3, {}),
        (2, {"shard": True}),
        (3, {"shard": True}),
        (2, {"shard": True, "weights": "bfloat16"}),
        (2, {"tensor": 2}),
        (2, {"tensor": 2, "recompute": True}),
        (4, {"shard": True, "tensor": 2}),
    ],
)
def test_what_is_held_and_sent(count: int, parallel: dict[str, Any], tmp_path: Path) -> None:
    found = measured(count, parallel, tmp_path)
    plan = Plan(
        count,
        parallel.get("tensor", 1),
        parallel.get("shard", False),
        parallel.get("recompute", False),
        2 if "weights" in parallel else 4,
    )
    shape = gpt(2, 128, vocabulary(), 8 // plan.data, 16, bfloat16=False)
    told = memory(shape, plan)
    for kind in ("weights", "gradients", "optimizer"):
        # rank 0 has the longer part where a tensor does not divide
        assert found[kind] == pytest.approx(told[kind], rel=0.02 if count == 3 else 0.001), kind
    # headers, acknowledgements, and the few numbers of a step beside the tensors
    moved = sent(shape, plan)
    # gloo has no reduce-scatter of its own: it sends as much as for sums of the whole
    total = count * (sum(moved.values()) + (moved["gradients"] if plan.shard else 0))
    assert 0.98 * total < found["sent"] < 1.03 * total + 60_000, (found["sent"], total)


def test_parameters_and_blocks_are_counted() -> None:
    model = Transformer(50, 64, 3, 2, tied=False)
    told = gpt(3, 64, 50, 1, 16)
    counted = shape_of(model, 2, 0, 0)
    assert sum(p.numel() for p in model.parameters()) == told.parameters == counted.parameters
    assert (told.blocks, told.block, told.cut) == (counted.blocks, counted.block, counted.cut)
    assert len(blocks_of(model)) == 3
    tied = Transformer(50, 64, 3, 2, tied=True)
    assert sum(p.numel() for p in tied.parameters()) == gpt(3, 64, 50, 1, 16, tied=True).parameters


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize(("layers", "width", "count"), [(2, 128, 2), (4, 192, 1)])
def test_activations_are_what_autograd_keeps(
    bfloat16: bool, layers: int, width: int, count: int
) -> None:
    """At a length from which attention stores no scores."""
    time, words = 1100, 50
    model = Transformer(words, width, layers, 2, window=time, tied=False)
    batch = {n: torch.randint(words, (count, time)) for n in ("tokens", "targets")}
    context = torch.autocast("cpu", dtype=torch.bfloat16) if bfloat16 else nullcontext()
    kept = saved_bytes(NextToken(), model, batch, context)
    told = memory(gpt(layers, width, words, count, time, bfloat16=bfloat16), Plan(1))
    assert told["activations"] == pytest.approx(kept, rel=0.1)


def test_recomputation_keeps_what_enters_a_block() -> None:
    from fourfold.optimizers.sharded import recompute

    model = Transformer(50, 128, 4, 2, window=1100)
    batch = {n: torch.randint(50, (1, 1100)) for n in ("tokens", "targets")}
    whole = saved_bytes(NextToken(), model, batch, nullcontext())
    recompute(model)
    kept = saved_bytes(NextToken(), model, batch, nullcontext())
    shape = gpt(4, 128, 50, 1, 1100, bfloat16=False)
    told = memory(shape, Plan(1, recompute=True))["activations"]
    one = shape.inside / shape.blocks  # of the block under way, which the forward pass does not see
    assert kept == pytest.approx(told - one, rel=0.15) and kept < whole / 3


def test_alone_nothing_is_sent_and_more_devices_hold_less() -> None:
    shape = gpt(12, 768, 50257, 8, 1024)
    assert sum(sent(shape, Plan(1)).values()) == 0
    assert sum(sent(shape, Plan(1, shard=True)).values()) == 0
    together = [sum(memory(shape, Plan(n, shard=True)).values()) for n in (1, 8, 64)]
    assert together == sorted(together, reverse=True)
    many = sum(sent(shape, Plan(1024)).values())
    assert many == pytest.approx(8 * shape.parameters, rel=0.01)


CASES: dict[str, Shape] = {
    "GPT 124M, 8 windows of 1,024": gpt(12, 768, 50257, 8, 1024, tied=True),
    "GPT 1.3 B, 4 windows of 2,048": gpt(24, 2048, 50257, 4, 2048, tied=True),
    "GPT 7 B, 1 window of 4,096": gpt(32, 4096, 32000, 1, 4096, hidden=11008),
}


def tables() -> str:
    """The worked examples of docs/scale.md."""
    found = []
    for name, shape in [*CASES.items(), ("ResNet-50, 32 images of 224 x 224", resnet50(32))]:
        found += [f"### {name}", "", f"{shape.parameters:,} parameters.", ""]
        found += [f"| {' | '.join(HEADER)} |", f"|{' --- |' * len(HEADER)}"]
        for devices in (1024,) if "ResNet" in name else (1, 8, 64, 1024):
            found += [f"| {' | '.join(row)} |" for row in rows(shape, devices, 2)]
        found.append("")
    return "\n".join(found)


def test_the_pages_tables_are_the_formulas() -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert tables().strip() in page, tables()


def test_show_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "words.txt").write_text("one and two make three. " * 200)
    fourfold.fit(
        "gpt",
        "words.txt",
        out="run",
        unit="character",
        window=16,
        layers=2,
        width=32,
        heads=2,
        steps=2,
    )
    capsys.readouterr()
    main(["show", "run", "--scale", "64"])
    said = capsys.readouterr().out
    assert "sharded, tensor 2, recompute" in said and "sent per step" in said
    main(["show", "run", "--scale", "4", "--json"])
    table = json.loads(capsys.readouterr().out)
    assert [row["spread"] for row in table][:2] == ["data parallel", "sharded"]
    with pytest.raises(SystemExit):
        main(["show", "run", "--scale", "many"])
    assert "expected a number of devices" in capsys.readouterr().err
