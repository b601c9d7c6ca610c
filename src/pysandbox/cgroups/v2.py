"""cgroup v2: one hierarchy.  See the kernel's cgroup-v2.rst."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time

from ..descriptors import open_above
from ..errors import ConfigError, SetupError, UnsupportedError
from ..plan import CgroupRequest
from ..result import Stats
from . import base

_PERIOD = 100_000  # microseconds, the kernel's default of cpu.max
_RESOURCES = ("cpu", "memory", "io")

_SOURCES = {
    "cpu_time": "cpu.stat usage_usec",
    "cpu_user": "cpu.stat user_usec",
    "cpu_system": "cpu.stat system_usec",
    "memory_peak": "memory.peak",
    "oom_kills": "memory.events oom_kill",
    "pids_refused": "pids.events max",
    "processes_peak": "pids.peak",
    "io_read": "io.stat rbytes",
    "io_written": "io.stat wbytes",
    "throttled": "cpu.stat throttled_usec",
}


class Leaf(base.Leaf):
    """One folder."""

    def __init__(self, path: str, request: CgroupRequest) -> None:
        super().__init__(request)
        self._path = path
        self._attach: int | None = None
        self._stat: int | None = None
        self._opening = threading.Lock()  # `Sandbox.stats` reads beside the thread that waits for the run
        self._pressure: int | None = None
        self._refused: int | None = None  # forks, before we forbade them all

    def build(self) -> None:
        """Make the folder and put the limits in force."""
        base.make_directory(self._path)
        self._write("memory.oom.group", "1", optional=True)
        if self.request.asked:
            for entry in os.listdir(self._path):
                if entry.startswith("hugetlb.") and entry.endswith(".max") and "rsvd" not in entry:
                    self._write(entry, "0")
        self.put_limits(self.request, CgroupRequest(asked=False))

    def update(self, request: CgroupRequest) -> None:
        base.change_limits(self, request)

    def put_limits(self, request: CgroupRequest, before: CgroupRequest) -> None:
        if request.memory != before.memory:
            self._write("memory.max", _or_max(request.memory))
        if request.memory_high != before.memory_high:
            self._write("memory.high", _or_max(request.memory_high))
        if request.memory is not None and (request.swap != before.swap or before.memory is None):
            self._write("memory.swap.max", str(request.swap or 0), optional=True)
        if request.pids != before.pids:
            self._write("pids.max", _or_max(request.pids))
        if request.cpus != before.cpus:
            quota = "max" if request.cpus is None else str(max(1000, round(request.cpus * _PERIOD)))
            self._write("cpu.max", f"{quota} {_PERIOD}")
        if request.cpu_weight != before.cpu_weight:
            self._write("cpu.weight", str(100 if request.cpu_weight is None else request.cpu_weight))
        if request.cpuset != before.cpuset:
            self._write("cpuset.cpus", "" if request.cpuset is None else ",".join(map(str, request.cpuset)))
        if request.io != before.io:
            for device in {limit.device for limit in before.io} - {limit.device for limit in request.io}:
                self._write("io.max", f"{device} rbps=max wbps=max riops=max wiops=max")
            for limit in request.io:
                rates = {"rbps": limit.read_bps, "wbps": limit.write_bps}
                rates |= {"riops": limit.read_iops, "wiops": limit.write_iops}
                words = " ".join(f"{key}={_or_max(value)}" for key, value in rates.items())
                self._write("io.max", f"{limit.device} {words}")

    def _write(self, name: str, value: str, *, optional: bool = False) -> None:
        path = f"{self._path}/{name}"
        if not optional or os.path.exists(path):
            base.write_knob(path, value)

    # --- reading ------------------------------------------------------------------------------------------------

    def _number(self, name: str) -> int | None:
        return base.read_number(f"{self._path}/{name}")

    def _keyed(self, name: str, key: str) -> int | None:
        return base.read_keyed(f"{self._path}/{name}", key)

    def attach_fds(self) -> list[int]:
        if self._attach is None:
            self._attach = open_above(self._path + "/cgroup.procs", os.O_WRONLY)
        return [self._attach]

    def cpu_time(self) -> float | None:
        # cpu.stat has the times also where the cpu controller is not enabled
        first = os.pread(self._open_stat(), 64, 0).split(b"\n")[0]
        return int(first.split()[1]) / 1e6 if first.startswith(b"usage_usec ") else None

    def _open_stat(self) -> int:
        with self._opening:
            if self._stat is None:
                self._stat = open_above(self._path + "/cpu.stat", os.O_RDONLY)
            return self._stat

    def open_counters(self) -> None:
        self._open_stat()

    def oom_kills(self) -> int | None:
        return self._keyed("memory.events", "oom_kill")

    def members(self) -> list[int]:
        return [int(pid) for pid in (base.read_text(self._path + "/cgroup.procs") or "").split()]

    def _io(self) -> tuple[int | None, int | None]:
        """Bytes read and written, over all devices: lines "8:0 rbytes=1 wbytes=2 rios=3 ..."."""
        text = base.read_text(self._path + "/io.stat")
        if text is None:
            return None, None
        totals = {"rbytes": 0, "wbytes": 0}
        for word in text.split():
            key, _, value = word.partition("=")
            if key in totals and value.isdigit():
                totals[key] += int(value)
        return totals["rbytes"], totals["wbytes"]

    def readings(self) -> base.Readings:
        found = base.Readings(cpu_time=self.cpu_time())
        user, system = self._keyed("cpu.stat", "user_usec"), self._keyed("cpu.stat", "system_usec")
        if user is not None and system is not None:
            found.cpu_user, found.cpu_system = user / 1e6, system / 1e6
        found.memory_peak = self._number("memory.peak")  # Linux 5.19
        found.oom_kills = self.oom_kills()
        found.pids_refused = self._keyed("pids.events", "max") if self._refused is None else self._refused
        found.processes_peak = self._number("pids.peak")  # Linux 6.1
        if self.request.asked:
            found.io_read, found.io_written = self._io()
            throttled = self._keyed("cpu.stat", "throttled_usec")
            found.throttled = None if throttled is None else throttled / 1e6
            for resource in _RESOURCES:
                if (waited := self._waited_for(resource)) is not None:
                    found.pressure[resource] = waited
        found.sources = _SOURCES
        return found

    def _waited_for(self, resource: str) -> float | None:
        """Seconds in which some process here waited for a resource: "some avg10=... total=MICROSECONDS" (psi.rst)."""
        for line in (base.read_text(f"{self._path}/{resource}.pressure") or "").splitlines():
            if line.startswith("some "):
                return int(line.rpartition("total=")[2]) / 1e6
        return None

    def stats(self) -> Stats:
        read, written = self._io()
        throttled = self._keyed("cpu.stat", "throttled_usec")
        return Stats(
            time=time.monotonic(),
            processes=self._number("pids.current"),
            memory=self._number("memory.current"),
            cpu_time=self.cpu_time(),
            io_read=read,
            io_written=written,
            throttled=None if throttled is None else throttled / 1e6,
        )

    def pressure_event(self) -> tuple[int, int]:
        if self._pressure is None:
            path = self._path + "/memory.pressure"
            try:
                self._pressure = open_above(path, os.O_RDWR)
                # 100 ms of waiting in 2 s: windows of whole 2 s are what ordinary users may ask for (Linux 6.5)
                os.write(self._pressure, b"some 100000 2000000\0")
            except OSError as error:
                arguments = {"path": path, "value": "some 100000 2000000"}
                raise SetupError(error.errno or 0, layer=base.LAYER, step="write", arguments=arguments) from None
        return self._pressure, select.POLLPRI

    # --- doing --------------------------------------------------------------------------------------------------

    def freeze(self, frozen: bool) -> None:
        self._write("cgroup.freeze", "1" if frozen else "0")
        deadline = time.monotonic() + 5
        while frozen and self._keyed("cgroup.events", "frozen") != 1 and time.monotonic() < deadline:
            time.sleep(0.001)

    def thaw(self) -> None:
        pass  # a frozen process dies of SIGKILL here

    def stop_forks(self) -> None:
        if self._refused is None:
            self._refused = self._keyed("pids.events", "max")
        with contextlib.suppress(SetupError):
            self._write("pids.max", "0")

    def remove(self) -> None:
        fds, self._attach, self._stat, self._pressure = (self._attach, self._stat, self._pressure), None, None, None
        for fd in fds:
            if fd is not None:
                os.close(fd)
        base.remove_directory(self._path)


def _or_max(value: int | None) -> str:
    return "max" if value is None else str(value)


class Group(base.Group):
    """The calling process's own cgroup, with the controllers that it hands down or can be made to; or another."""

    kind = "cgroup v2"
    remedy = "delegate it, such as by systemd-run --user --scope -p Delegate=yes"

    def __init__(self, folder: str, controllers: frozenset[str], point: str) -> None:
        self._folder = folder
        self._controllers = controllers
        self._point = point  # where the hierarchy is mounted

    def folders(self) -> list[str]:
        return [self._folder]

    def below(self, parent: str) -> Group:
        inside = parent == self._point or parent.startswith(self._point + "/")
        folder = parent if inside else self._point + parent
        if not os.path.isdir(folder):
            raise ConfigError(f"CgroupLimits(parent=): no such cgroup: {parent!r}", layers=("CgroupLimits",))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UnsupportedError(
                "CgroupLimits(parent=)",
                need="a writable cgroup",
                have=f"{parent!r}, which is not writable for this user",
                remedy=self.remedy,
            )
        return Group(folder, controllers_of(folder), self._point)

    @property
    def limits_huge_pages(self) -> bool:
        return "hugetlb" in self._controllers

    def describe(self) -> str:
        return f"{self.kind} with {', '.join(sorted(self._controllers)) or 'none'}"

    def lacks(self, request: CgroupRequest) -> dict[str, str]:
        needed = {
            "memory": ("memory", request.memory),
            "memory_high": ("memory", request.memory_high),
            "pids": ("pids", request.pids),
            "cpus": ("cpu", request.cpus),
            "cpu_weight": ("cpu", request.cpu_weight),
            "cpuset": ("cpuset", request.cpuset),
            "io": ("io", request.io or None),
        }
        return {
            name: f"the cgroup controller {controller} handed down to {self._folder}"
            for name, (controller, limit) in needed.items()
            if limit is not None and controller not in self._controllers
        }

    def create(self, name: str, request: CgroupRequest) -> Leaf:
        self.check(request)
        wanted = {"memory", "pids", "cpu"}
        if request.asked:
            wanted |= {"io", "hugetlb"}
        if request.cpuset is not None:
            wanted.add("cpuset")
        self._enable(self._controllers & wanted)
        leaf = Leaf(f"{self._folder}/{name}", request)
        try:
            leaf.build()
        except BaseException:
            leaf.remove()
            raise
        return leaf

    def _enable(self, wanted: frozenset[str]) -> None:
        knob = self._folder + "/cgroup.subtree_control"
        missing = wanted - set((base.read_text(knob) or "").split())
        if missing:
            base.write_knob(knob, " ".join(f"+{name}" for name in sorted(missing)))


def controllers_of(folder: str) -> frozenset[str]:
    """The controllers that a cgroup hands down, or can be made to: not while it holds processes (cgroups(7))."""
    available = frozenset((base.read_text(folder + "/cgroup.controllers") or "").split())
    enabled = frozenset((base.read_text(folder + "/cgroup.subtree_control") or "").split())
    is_real_root = not os.path.exists(folder + "/cgroup.type")  # the root cgroup has no such file
    others = (base.read_text(folder + "/cgroup.procs") or "").split()
    can_enable = os.access(folder + "/cgroup.subtree_control", os.W_OK) and (is_real_root or not others)
    return available if can_enable else enabled & available
