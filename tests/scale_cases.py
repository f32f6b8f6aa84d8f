"""Small fits of real systems, and what must be alike where several processes make them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from runs import logged

OFTEN = ["--log-every", "1", "--evaluate-every", "10", "--precision", "float32"]
SYSTEMS = {
    "gpt": ["words.txt", "--unit", "character", "--window", "16", "--batch", "8", "--layers", "1", "--width", "32",
            "--heads", "2", "--algorithm", "adamw", "--lr", "1e-3"],
    "mlp": ["table.csv", "--target", "y", "--width", "8", "--dropout", "0", "--norm", "layer", "--data.batch", "32"],
    "gan": ["--batch", "16", "--noise-size", "4", "--width", "4", "--lr", "1e-4"],
}  # fmt: skip


def write_sources(folder: Path) -> None:
    """What the systems read."""
    sums = (f"{a} and {b} make {a + b}." for a in range(20) for b in range(20))
    (folder / "words.txt").write_text("\n".join(sums))
    torch.manual_seed(1)
    rows = torch.randn(230, 3).tolist()
    table = ["a,b,c,y", *(f"{a:.4f},{b:.4f},{c:.4f},{a * b + c:.4f}" for a, b, c in rows)]
    (folder / "table.csv").write_text("\n".join(table))


def measures(folder: Path) -> dict[tuple[int, str], float]:
    """Every number of the log that several processes could get wrong, by step and name."""
    left = {"lr", "progress", "step", "kept_by", "sample", "picture"}
    rows = logged(folder)
    return {(row["step"], n): v for row in rows for n, v in row.items() if n not in left}


def assert_same_file(one: Path, many: Path, atol: float) -> None:
    """Two weight files have the same header, the weights' own digest aside, and the same weights up to rounding."""
    heads = []
    for path in (one, many):
        content = (path / "weights.safetensors").read_bytes()
        head = content[8 : 8 + int.from_bytes(content[:8], "little")].decode()
        heads.append(re.sub(r'"sha256":"[0-9a-f]{64}"', "", head))
    assert heads[0] == heads[1]
    ours, theirs = (load_file(path / "weights.safetensors") for path in (one, many))
    for name in ours:
        torch.testing.assert_close(theirs[name], ours[name], rtol=0, atol=atol, msg=name)


def assert_alike(one: Path, many: Path, rtol: float) -> None:
    """Two logs are equal up to the rounding of sums; gradients, which Adam's steps amplify it in, up to ten times that."""
    a, b = measures(one), measures(many)
    assert a.keys() == b.keys() and len(a) > 20
    most = {k: 10 * rtol if k[1] == "grad_norm" else rtol for k in a}
    wrong = {k: (a[k], b[k]) for k in a if b[k] != pytest.approx(a[k], rel=most[k], abs=rtol)}
    assert not wrong, wrong
