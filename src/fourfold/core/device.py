"""Devices, precision and memory of this machine."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from fourfold.core.errors import UserError, nearest


def choose_device(name: str = "auto", local: int | None = None) -> torch.device:
    """A torch device from a flag: "auto" takes CUDA, then Apple's MPS, then the CPU.

    Args:
        name: the flag's.
        local: of one of several processes on this machine its number: it takes the GPU of this number.

    Raises:
        UserError: no such device on this machine.
    """
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available = [*(f"cuda:{i}" for i in range(torch.cuda.device_count())), *available]
    if local is not None and name in ("auto", "cuda") and torch.cuda.is_available():
        device = torch.device("cuda", local % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return device
    if name == "auto":
        return torch.device(available[0])
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(
            f"--device {name}: no such device{nearest(name, ['auto', *available])}"
        ) from None
    if device.type not in {a.split(":")[0] for a in available} or (
        device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    ):
        raise UserError(f"--device {name}: this machine has {', '.join(available)}")
    return device


def own_cores() -> int:
    """Cores that this process may use."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return mine or 1


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's global generators: the CPU's and, where it is another, the device's.

    torch.manual_seed also leaves a note, with the stack's lines, for each kind of accelerator that is not
    there: up to 1 ms, as much as a step of a small network.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's generators seeded while entered, and afterwards as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_generators(seed, device)
        yield


@functools.cache
def gains_from_bfloat16(device_type: str) -> bool:
    """Whether bfloat16 matrix products are faster than float32 here: avx512_bf16, AMX, or a GPU since Ampere."""
    if device_type == "cuda":
        return torch.cuda.get_device_capability()[0] >= 8
    if device_type == "cpu":
        cpuinfo = Path("/proc/cpuinfo")
        if cpuinfo.exists():
            text = cpuinfo.read_text()
            return "avx512_bf16" in text or "amx_bf16" in text
    return False


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next one.

    By default it returns large blocks to the system at once, and each step of a CPU search faults
    all its activations in anew: up to 78,000 page faults a step of a small Transformer, 3 with this.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library
    no_mmap, trim_threshold, top_pad = -4, -1, -2  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
    mallopt(no_mmap, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**26)


def available_memory(device: torch.device) -> int:
    """Bytes that can still be taken on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            value = Path(limit).read_text().strip()
        except OSError:
            continue
        if value.isdigit():
            free = min(free, int(value))
    return free
