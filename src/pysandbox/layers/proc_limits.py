"""What /proc/meminfo and /proc/cpuinfo say in a box that shows its limits there, as on a machine of that size."""

from __future__ import annotations

import math
import os
from pathlib import Path

from ..plan import CgroupRequest

#: rows that programs look for (free(1), psutil), of what a machine that has just started uses: nothing
_EMPTY_ROWS = ("Buffers", "Cached", "SwapCached", "Active", "Inactive", "Shmem", "Slab", "SReclaimable", "SUnreclaim")


def limited_proc(limits: CgroupRequest | None) -> list[tuple[str, bytes]]:
    """Paths in /proc and what they are to say; what has no limit stays as it is."""
    found = []
    if limits is not None and limits.memory is not None:
        found.append(("/proc/meminfo", _meminfo(limits.memory >> 10, (limits.swap or 0) >> 10)))
    if limits is not None and (limits.cpus is not None or limits.cpuset is not None):
        found.append(("/proc/cpuinfo", _cpuinfo(limits.cpus, limits.cpuset)))
    return found


def _meminfo(memory: int, swap: int) -> bytes:
    rows = [("MemTotal", memory), ("MemFree", memory), ("MemAvailable", memory)]
    rows += [(name, 0) for name in _EMPTY_ROWS] + [("SwapTotal", swap), ("SwapFree", swap)]
    return "".join(f"{name + ':':<16}{kib:>8} kB\n" for name, kib in rows).encode()


def _cpuinfo(cpus: float | None, cpuset: tuple[int, ...] | None) -> bytes:
    processors = [text for text in Path("/proc/cpuinfo").read_bytes().split(b"\n\n") if text.strip()]
    if cpuset is not None and len(processors) == os.cpu_count():  # one paragraph each, as on most machines
        processors = [processors[number] for number in cpuset if number < len(processors)]
    if cpus is not None:
        processors = processors[: math.ceil(cpus)]
    return b"".join(text + b"\n\n" for text in processors)
