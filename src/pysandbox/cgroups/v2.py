"""cgroup v2: one hierarchy."""

from __future__ import annotations

import contextlib
import os

from ..descriptors import open_above
from ..errors import SetupError, UnsupportedError
from ..plan import CgroupRequest
from . import base

_PERIOD = 100_000  # microseconds, the kernel's default of cpu.max


class Leaf(base.Leaf):
    """One folder."""

    def __init__(self, path: str, request: CgroupRequest) -> None:
        super().__init__(request)
        self._path = path
        self._fds: list[int] = []
        self._stat: int | None = None

    def attach_fds(self) -> list[int]:
        if not self._fds:
            self._fds.append(open_above(self._path + "/cgroup.procs", os.O_WRONLY))
        return self._fds

    def cpu_time(self) -> float | None:
        # cpu.stat has the times also where the cpu controller is not enabled
        if self._stat is None:
            self._stat = open_above(self._path + "/cpu.stat", os.O_RDONLY)
        first = os.pread(self._stat, 64, 0).split(b"\n")[0]
        return int(first.split()[1]) / 1e6 if first.startswith(b"usage_usec ") else None

    def readings(self) -> base.Readings:
        path = self._path
        found = base.Readings(cpu_time=self.cpu_time())
        found.sources["cpu_time"] = "cpu.stat usage_usec"
        user, system = (
            base.read_keyed(path + "/cpu.stat", "user_usec"),
            base.read_keyed(path + "/cpu.stat", "system_usec"),
        )
        if user is not None and system is not None:
            found.cpu_user, found.cpu_system = user / 1e6, system / 1e6
            found.sources["cpu_user"] = "cpu.stat user_usec"
            found.sources["cpu_system"] = "cpu.stat system_usec"
        found.memory_peak = base.read_number(path + "/memory.peak")  # Linux 5.19
        if found.memory_peak is not None:
            found.sources["memory_peak"] = "memory.peak"
        found.oom_kills = base.read_keyed(path + "/memory.events", "oom_kill")
        found.sources["oom_kills"] = "memory.events"
        found.pids_refused = base.read_keyed(path + "/pids.events", "max")
        found.sources["pids_refused"] = "pids.events"
        found.processes_peak = base.read_number(path + "/pids.peak")  # Linux 6.1
        if found.processes_peak is not None:
            found.sources["processes_peak"] = "pids.peak"
        return found

    def stop_forks(self) -> None:
        with contextlib.suppress(SetupError):
            base.write_knob(self._path + "/pids.max", "0")

    def remove(self) -> None:
        for fd in self._fds:
            os.close(fd)
        if self._stat is not None:
            os.close(self._stat)
        self._fds, self._stat = [], None
        base.remove_directory(self._path)


class Group(base.Group):
    """The calling process's own cgroup, with the controllers that it hands down or can be made to."""

    kind = "cgroup v2"

    def __init__(self, own: str, controllers: frozenset[str]) -> None:
        self._own = own
        self._controllers = controllers

    def folders(self) -> list[str]:
        return [self._own]

    def create(self, name: str, request: CgroupRequest) -> Leaf:
        needed = {"memory": request.memory, "pids": request.pids, "cpu": request.cpus}
        for controller, limit in needed.items():
            if limit is not None and controller not in self._controllers:
                raise UnsupportedError(
                    f"CgroupLimits ({controller})",
                    need=f"the cgroup controller {controller} handed down to the own cgroup",
                    have=f"{self.kind} with {', '.join(sorted(self._controllers)) or 'none'}",
                    remedy="delegate it, such as by systemd-run --user --scope -p Delegate=yes",
                )
        self._enable(self._controllers & {"memory", "pids", "cpu"})
        leaf = f"{self._own}/{name}"
        base.make_directory(leaf)
        try:
            if request.memory is not None:
                base.write_knob(leaf + "/memory.max", str(request.memory))
                if os.path.exists(leaf + "/memory.swap.max"):
                    base.write_knob(leaf + "/memory.swap.max", str(request.swap or 0))
                base.write_knob(leaf + "/memory.oom.group", "1")
            if request.pids is not None:
                base.write_knob(leaf + "/pids.max", str(request.pids))
            if request.cpus is not None:
                base.write_knob(leaf + "/cpu.max", f"{max(1000, round(request.cpus * _PERIOD))} {_PERIOD}")
        except BaseException:
            base.remove_directory(leaf)
            raise
        return Leaf(leaf, request)

    def _enable(self, wanted: frozenset[str]) -> None:
        knob = self._own + "/cgroup.subtree_control"
        missing = wanted - set((base.read_text(knob) or "").split())
        if missing:
            base.write_knob(knob, " ".join(f"+{name}" for name in sorted(missing)))
