"""Full disks, file-size limits and read-only disks: one sentence, and what was there stays intact."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import fourfold
from children import BESIDE, Nursery
from runs import assert_same_run, last_step, lines, state

WIDE = ["faulty", "--width", "2000", "--data.pause", "0.002", "--checkpoint-every", "5"]
"""Weights of 40 kB, checkpoints of 160 kB."""


def one_sentence(text: str) -> str:
    """The error that a command ended with; nothing else may look like one."""
    assert "Traceback" not in text
    found = [line for line in text.splitlines() if line.startswith("fourfold: ")]
    assert len(found) == 1, text
    return found[0]


@pytest.fixture(scope="module")
def whole(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing got in the way of."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert nursery.run(["fit", *WIDE, "--out", folder]).code == 0
    return folder


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Nursery, Path, Path]]:
    """A nursery in a namespace of its own with small disks, their folder, and that folder as seen from here."""
    folder = tmp_path_factory.mktemp("disks")
    mounts = []
    for name, options in {"small": "size=2m", "tiny": "size=64k", "readonly": "ro"}.items():
        (folder / name).mkdir()
        mounts.append(f"mount -t tmpfs -o {options} none {folder / name}")
    prefix = ["unshare", "-rm", "sh", "-c", f'{" && ".join(mounts)} && exec "$@"', "sh"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*prefix, "true"], capture_output=True).returncode
    ):
        pytest.skip("no user and mount namespaces for a small disk here")
    made = Nursery(tmp_path_factory.mktemp("children"), prefix)
    made.run(["--version"])  # what is mounted can be seen from here once it answers
    yield made, folder, Path(f"/proc/{made.pid}/root{folder}")
    made.close()


def fill(disk: Path) -> Path:
    """Take all the room that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return filler


def test_full_disk(disks: tuple[Nursery, Path, Path], whole: Path) -> None:
    inside, folder, seen = disks
    parts, disk = folder / "small" / "run", seen / "small"
    child = inside.start(["fit", *WIDE, "--out", parts])
    child.until(lambda: last_step(disk / "run") >= 10)
    filler = fill(disk)
    assert child.wait() == 2, child.stderr
    said = one_sentence(child.stderr)
    assert "no space left" in said.lower() and "intact" in said
    done = last_step(disk / "run")
    assert 10 <= done < 60 and state(disk / "run")["done"] == done
    assert fourfold.open(disk / "run").evaluate()["loss"] > 0

    again = inside.run(["fit", "--resume", parts])  # still full
    assert again.code == 2 and "no space left" in one_sentence(again.stderr).lower()
    assert last_step(disk / "run") == done and state(disk / "run")["done"] == done

    filler.unlink()
    resumed = inside.run(["fit", "--resume", parts])
    assert resumed.code == 0, resumed.stderr
    assert_same_run(whole, disk / "run")


def test_a_disk_that_is_full_from_the_beginning(disks: tuple[Nursery, Path, Path]) -> None:
    inside, folder, seen = disks
    fill(seen / "tiny")
    child = inside.run(["fit", *WIDE, "--out", folder / "tiny" / "run"])
    assert child.code == 2 and "no space left" in one_sentence(child.stderr)


def test_no_write_permission(disks: tuple[Nursery, Path, Path]) -> None:
    inside, folder, _ = disks
    child = inside.run(["fit", "faulty", "--out", folder / "readonly" / "run"])
    assert child.code == 2
    assert "no permission to write in" in one_sentence(child.stderr)


@pytest.mark.parametrize("environment", [{}, BESIDE], ids=["between", "beside"])
def test_file_size_limit_on_the_first_checkpoint(
    nursery: Nursery, tmp_path: Path, environment: dict[str, str]
) -> None:
    arguments = ["fit", *WIDE, "--out", tmp_path / "run"]
    child = nursery.run(arguments, largest_file=100_000, **environment)
    assert child.code == 2
    said = one_sentence(child.stderr)
    assert "000000005: no space left to write this checkpoint; none was there before" in said
    assert not list((tmp_path / "run").rglob(".*.tmp")), "half a checkpoint was left"
    assert fourfold.open(tmp_path / "run").evaluate()["loss"] > 0


def test_file_size_limit_keeps_the_earlier_checkpoint(
    nursery: Nursery, whole: Path, tmp_path: Path
) -> None:
    parts = tmp_path / "parts"
    child = nursery.start(["fit", *WIDE, "--out", parts])
    child.until(lambda: lines(parts) >= 12)
    child.send(signal.SIGTERM)
    assert child.wait() == 143
    done = last_step(parts)
    weights = (parts / "weights.safetensors").read_bytes()

    child = nursery.run(["fit", "--resume", parts], largest_file=100_000)
    assert child.code == 2
    assert f"the checkpoint of step {done} is intact" in one_sentence(child.stderr)
    assert last_step(parts) == done and state(parts)["done"] == done

    child = nursery.run(["fit", "--resume", parts], largest_file=20_000)  # not even the weights
    assert child.code == 2 and "no space left" in one_sentence(child.stderr)
    assert len((parts / "weights.safetensors").read_bytes()) == len(weights)
    assert fourfold.open(parts).evaluate()["loss"] > 0

    assert nursery.run(["fit", "--resume", parts]).code == 0
    assert_same_run(whole, parts)


@pytest.mark.parametrize("limit", [300, 1500, 4000])
def test_file_size_limit_on_small_files(nursery: Nursery, tmp_path: Path, limit: int) -> None:
    """Configuration, log, progress and report too."""
    arguments = ["faulty", "--minutes", "0.01", "--out", tmp_path / "run"]
    child = nursery.run(["fit", *arguments], largest_file=limit)
    assert child.code == 2
    assert str(tmp_path / "run") in one_sentence(child.stderr)
