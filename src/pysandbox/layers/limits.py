"""`CgroupLimits`: limit what a run as a whole can use.  See cgroups(7)."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .. import units
from ..errors import ConfigError
from ..plan import Blueprint, CgroupRequest
from .base import Layer

#: below it a program cannot even be loaded
LEAST_MEMORY = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class CgroupLimits(Layer):
    """Set upper limits on what each run may use, over all its processes, which the kernel enforces and counts.

    :param memory: bytes of memory, files in the box's own folders included; past it the kernel kills
        (`Verdict.MEMORY_EXCEEDED`).
    :param swap: bytes of swap on top; 0 by default, so that `memory` is all there is.
    :param cpus: how many CPUs' time it may use, such as 0.5.
    :param pids: processes and threads at once; past it fork fails ("pids" in `Result.limits_hit`).

    Each run has a cgroup of its own, below the caller's, removed after it.  Where none can be had this is an
    `UnsupportedError` that says what to do, or, with `Sandbox(..., degrade=True)`, memory is watched and processes are
    limited by RLIMIT_NPROC, and `enforcement` says partial.  cgroup v2, or v1 and hybrid.  See cgroups(7).
    """

    memory: int | str | None = None
    swap: int | str = 0
    cpus: float | None = None
    pids: int | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        if self.memory is not None:
            memory = units.size(self.memory, "CgroupLimits(memory=)", least=LEAST_MEMORY)
            most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            if memory > most:
                raise ConfigError(f"CgroupLimits(memory=) is more than this machine has: {memory} > {most} bytes")
            put(self, "memory", memory)
        put(self, "swap", units.size(self.swap, "CgroupLimits(swap=)", least=0))
        if self.swap and self.memory is None:
            raise ConfigError("CgroupLimits(swap=) needs memory=")
        if self.cpus is not None:
            cpus = units.seconds(self.cpus, "CgroupLimits(cpus=)")
            if not 0.01 <= cpus <= (os.cpu_count() or 1):
                raise ConfigError(f"CgroupLimits(cpus=) must be from 0.01 to {os.cpu_count()}, not {cpus}")
            put(self, "cpus", cpus)
        if self.pids is not None:
            units.count(self.pids, "CgroupLimits(pids=)", least=1, most=4194304)

    def request(self, *, asked: bool = True) -> CgroupRequest:
        """The limits as the parent side wants them."""
        memory = None if self.memory is None else int(self.memory)
        return CgroupRequest(memory=memory, swap=int(self.swap), cpus=self.cpus, pids=self.pids, asked=asked)

    def contribute(self, blueprint: Blueprint) -> None:
        blueprint.cgroup = self.request()  # made anew for each run, by the parent side
