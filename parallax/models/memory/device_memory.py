"""How much memory there is, and how much this process holds: what a forecast is compared with.

On a CPU the smallest of what the machine has left, what the control group (a container, a Slurm job) may still take, and
what the process may still map counts. Files that the kernel keeps in memory for speed count as free.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes. `held` is what this process has for tensors (on a CPU: all that is resident), `free` what it can still get."""

    free: int
    held: int
    name: str


def device_memory(device: torch.device | str) -> DeviceMemory:
    """The memory of `device` as it is now."""
    device = torch.device(device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device)
        held = torch.cuda.memory_allocated(device)
        return DeviceMemory(free + reserved - held, held, torch.cuda.get_device_name(device))
    held = resident()
    limits = [left for left in (_left_on_machine(), _left_in_cgroup(CGROUP), _left_to_map()) if left is not None]
    return DeviceMemory(max(0, min(limits)) if limits else sys.maxsize, held, "this machine")


def resident() -> int:
    """Bytes of this process that are in memory now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # on macOS in bytes, and the most there ever were
    return pages * _page()


def peak_resident(call: Callable[[], Any], every: float = 0.002) -> int:
    """Largest number of resident bytes seen during `call`, looked up every `every` seconds by a thread beside it."""
    seen, done = [resident()], threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen[0] = max(seen[0], resident())
            time.sleep(every)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        made = call()
        seen[0] = max(
            seen[0], resident()
        )  # with what it made still there: a busy machine may have had no turn for the thread
        del made
    finally:
        done.set()
        thread.join()
    return seen[0]


def _page() -> int:
    import resource

    return resource.getpagesize()


def _left_on_machine() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import os

        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _left_in_cgroup(root: Path) -> int | None:
    """What the process's control group may still take: version 2, version 1, or None where there is no limit."""
    for limit, used, stat, inactive in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file",
        ),
    ):  # fmt: skip
        try:
            most = (root / limit).read_text().strip()
            if most == "max" or int(most) >= 2**60:
                return None
            numbers = dict(line.split(maxsplit=1) for line in (root / stat).read_text().splitlines())
            return int(most) - int((root / used).read_text()) + int(numbers.get(inactive, 0))
        except (OSError, ValueError):
            continue
    return None


def _left_to_map() -> int | None:
    """What RLIMIT_AS leaves of the address space."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft in (resource.RLIM_INFINITY, -1):
        return None
    try:
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * _page()
    except OSError:
        return None
    return soft - mapped
