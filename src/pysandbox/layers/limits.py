"""`CgroupLimits`: limit what a run as a whole can use.  See cgroups(7)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from .. import units
from ..errors import ConfigError
from ..plan import Blueprint, CgroupRequest, IoRequest
from .base import Layer

#: below it a program cannot even be loaded
LEAST_MEMORY = 1 << 20


@dataclass(frozen=True)
class IoLimit:
    """Limit what a run may read from and write to one block device, per second.

    :param device: the device, as a path to it ("/dev/vda"), a path to any file or folder on it, or "major:minor".
    :param read_bps, write_bps: bytes per second.
    :param read_iops, write_iops: operations per second.

    Counted where the device is reached: what the page cache answers costs nothing, and on cgroup v1 only writes that
    go past the page cache (O_DIRECT, O_SYNC) are counted.  See "IO" in the kernel's cgroup-v2.rst.
    """

    device: units.StrPath
    read_bps: int | str | None = None
    write_bps: int | str | None = None
    read_iops: int | None = None
    write_iops: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", units.path(self.device, "IoLimit(device)"))
        given = 0
        for name in ("read_bps", "write_bps"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, units.size(value, f"IoLimit({name}=)", least=4096))
                given += 1
        for name in ("read_iops", "write_iops"):
            if (value := getattr(self, name)) is not None:
                units.count(value, f"IoLimit({name}=)", least=1)
                given += 1
        if not given:
            raise ConfigError("IoLimit needs one of read_bps=, write_bps=, read_iops=, write_iops=")

    def request(self) -> IoRequest:
        """The limit with the device's number."""
        limits = {field.name: getattr(self, field.name) for field in fields(self)[1:]}
        return IoRequest(_device_number(os.fspath(self.device)), **limits)


def _device_number(path: str) -> str:
    """The number of the whole disk behind a path, as limits of partitions are refused (io.max)."""
    major, _, minor = path.partition(":")
    if major.isdigit() and minor.isdigit():
        number = f"{int(major)}:{int(minor)}"
    else:
        try:
            found = os.stat(path)
        except OSError as error:
            raise ConfigError(f"IoLimit(device): {path!r}: {error.strerror}") from None
        device = found.st_rdev if stat.S_ISBLK(found.st_mode) else found.st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
    sysfs = os.path.realpath(f"/sys/dev/block/{number}")
    if not os.path.exists(sysfs):
        raise ConfigError(f"IoLimit(device): no block device is behind {path!r} (number {number})")
    if os.path.exists(sysfs + "/partition"):
        with open(os.path.dirname(sysfs) + "/dev", encoding="ascii") as file:
            number = file.read().strip()
    return number


@dataclass(frozen=True, kw_only=True, slots=True)
class CgroupLimits(Layer):
    """Set upper limits on what each run may use, over all its processes, which the kernel enforces and counts.

    :param memory: bytes of memory, files in the box's own folders included; past it the kernel kills, and the whole run
        ends (`Verdict.MEMORY_EXCEEDED`).
    :param memory_high: bytes of memory past which the run is slowed down and its memory reclaimed, without an end
        (memory.high; cgroup v2 only).
    :param swap: bytes of swap on top; 0 by default, so that `memory` is all there is.
    :param cpus: how many CPUs' time it may use, such as 0.5.
    :param cpu_weight: its share of CPU time beside others, where CPUs are scarce: 1 to 10000, everybody's is 100.
    :param cpuset: the CPUs it may run on, such as (0, 1).
    :param pids: processes and threads at once; past it fork fails ("pids" in `Result.limits_hit`).
    :param io: `IoLimit`s, one a device.
    :param parent: the cgroup below which the runs' cgroups go, as a folder or as in /proc/PID/cgroup; by default the
        caller's own.  It must exist and be writable; nothing above it is touched.

    Beside the default layers, memory and pids that are not given stay bounded as in `Sandbox()`.
    Each run has a cgroup of its own, removed after it.  Huge pages, which no memory limit counts, are off where the
    hugetlb controller is at hand.  Where no cgroup can be had this is an
    `UnsupportedError` that says what to do, or, with `Sandbox(..., degrade=True)`, memory is watched and processes are
    limited by RLIMIT_NPROC, and `enforcement` says partial.  cgroup v2, or v1 and hybrid.  See cgroups(7).
    """

    memory: int | str | None = None
    memory_high: int | str | None = None
    swap: int | str = 0
    cpus: float | None = None
    cpu_weight: int | None = None
    cpuset: Sequence[int] | None = None
    pids: int | None = None
    io: Sequence[IoLimit] = ()
    parent: str | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        self._check_memory()
        if self.cpus is not None:
            cpus = self.cpus
            is_number = isinstance(cpus, (int, float)) and not isinstance(cpus, bool)
            if not is_number or not 0.01 <= cpus <= (os.cpu_count() or 1):
                raise ConfigError(
                    f"CgroupLimits(cpus=) must be a number of CPUs from 0.01 to {os.cpu_count()}, not {cpus!r}",
                    layers=("CgroupLimits",),
                )
            put(self, "cpus", float(cpus))
        if self.cpu_weight is not None:
            units.count(self.cpu_weight, "CgroupLimits(cpu_weight=)", least=1, most=10000)
        if self.cpuset is not None:
            put(self, "cpuset", _cpus(self.cpuset))
        if self.pids is not None:
            units.count(self.pids, "CgroupLimits(pids=)", least=1, most=4194304)
        put(self, "io", _io_limits(self.io))
        if self.parent is not None:
            parent = units.path(self.parent, "CgroupLimits(parent=)")
            if not parent.startswith("/") or ".." in parent.split("/"):
                raise ConfigError(f"CgroupLimits(parent=) must be absolute and without '..': {parent!r}")
            put(self, "parent", os.path.normpath(parent))

    def _check_memory(self) -> None:
        most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        for name in ("memory", "memory_high"):
            if getattr(self, name) is None:
                continue
            memory = units.size(getattr(self, name), f"CgroupLimits({name}=)", least=LEAST_MEMORY)
            if memory > most:
                raise ConfigError(f"CgroupLimits({name}=) is more than this machine has: {memory} > {most} bytes")
            object.__setattr__(self, name, memory)
        object.__setattr__(self, "swap", units.size(self.swap, "CgroupLimits(swap=)", least=0))
        if self.swap and self.memory is None:
            raise ConfigError("CgroupLimits(swap=) needs memory=")
        if self.memory is not None and self.memory_high is not None and int(self.memory_high) > int(self.memory):
            raise ConfigError(
                f"CgroupLimits: memory_high ({self.memory_high}) above memory ({self.memory}) would have no effect"
            )

    @property
    def looks_at_host(self) -> bool:
        return bool(self.io)

    def request(self, *, asked: bool = True) -> CgroupRequest:
        """The limits as the parent side wants them."""
        return CgroupRequest(
            memory=None if self.memory is None else int(self.memory),
            memory_high=None if self.memory_high is None else int(self.memory_high),
            swap=int(self.swap),
            cpus=self.cpus,
            cpu_weight=self.cpu_weight,
            cpuset=None if self.cpuset is None else tuple(self.cpuset),
            pids=self.pids,
            io=tuple(limit.request() for limit in self.io),
            parent=self.parent,
            asked=asked,
        )

    def contribute(self, blueprint: Blueprint) -> None:
        blueprint.cgroup = self.request()  # made anew for each run, by the parent side


def _cpus(value: object) -> tuple[int, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ConfigError(f"CgroupLimits(cpuset=) must be a sequence of CPU numbers: {value!r}")
    cpus = sorted({units.count(cpu, "each of CgroupLimits(cpuset=)", least=0) for cpu in value})
    missing = [cpu for cpu in cpus if cpu >= (os.cpu_count() or 1)]
    if missing or not cpus:
        raise ConfigError(
            f"CgroupLimits(cpuset=): this machine has CPUs 0 to {(os.cpu_count() or 1) - 1}, not {value!r}"
        )
    return tuple(cpus)


def _io_limits(value: object) -> tuple[IoLimit, ...]:
    if isinstance(value, IoLimit):
        value = (value,)
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ConfigError(f"CgroupLimits(io=) must be a sequence of IoLimit: {value!r}")
    limits = tuple(value)
    for limit in limits:
        if not isinstance(limit, IoLimit):
            raise ConfigError(f"CgroupLimits(io=) takes IoLimit objects, not {limit!r}")
    devices = [limit.request().device for limit in limits]
    if len(set(devices)) != len(devices):
        raise ConfigError("CgroupLimits(io=): two limits for one device", layers=("CgroupLimits", "CgroupLimits"))
    return limits
