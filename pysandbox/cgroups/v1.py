"""cgroup v1, and hybrid hosts whose controllers are on v1: a folder in each controller's hierarchy."""

from __future__ import annotations

import contextlib
import errno
import os

from ..errors import SetupError, UnsupportedError
from ..plan import CgroupRequest
from . import base

_PERIOD = 100_000  # microseconds of cpu.cfs_period_us, the kernel's default


class Leaf(base.Leaf):
    """A folder in each hierarchy that a limit or a counter needs."""

    def __init__(self, paths: dict[str, str]) -> None:
        self._paths = paths  # controller → folder
        self._fds: list[int] = []
        self._usage: int | None = None

    def attach_fds(self) -> list[int]:
        # `tasks` and not `cgroup.procs`: for one thread that moves itself the kernel need not wait for an RCU grace
        # period (10 ms), as it takes no lock on thread groups.
        if not self._fds:
            for path in dict.fromkeys(self._paths.values()):
                self._fds.append(os.open(path + "/tasks", os.O_WRONLY | os.O_CLOEXEC))
        return self._fds

    def cpu_time(self) -> float | None:
        if "cpuacct" not in self._paths:
            return None
        if self._usage is None:
            self._usage = os.open(self._paths["cpuacct"] + "/cpuacct.usage", os.O_RDONLY | os.O_CLOEXEC)
        return int(os.pread(self._usage, 32, 0)) / 1e9

    def readings(self) -> base.Readings:
        found = base.Readings(cpu_time=self.cpu_time())
        if found.cpu_time is not None:
            found.sources["cpu_time"] = "cpuacct.usage"
            ticks = os.sysconf("SC_CLK_TCK")
            stat = self._paths["cpuacct"] + "/cpuacct.stat"
            user, system = base.read_keyed(stat, "user"), base.read_keyed(stat, "system")
            if user is not None and system is not None:
                found.cpu_user, found.cpu_system = user / ticks, system / ticks
                found.sources["cpu_user"] = found.sources["cpu_system"] = "cpuacct.stat"
        if "memory" in self._paths:
            memory = self._paths["memory"]
            found.memory_peak = base.read_number(memory + "/memory.max_usage_in_bytes")
            found.oom_kills = base.read_keyed(memory + "/memory.oom_control", "oom_kill")
            found.sources["memory_peak"] = "memory.max_usage_in_bytes"
            found.sources["oom_kills"] = "memory.oom_control"
        if "pids" in self._paths:
            found.pids_refused = base.read_keyed(self._paths["pids"] + "/pids.events", "max")
            found.sources["pids_refused"] = "pids.events"
            found.processes_peak = base.read_number(self._paths["pids"] + "/pids.peak")
            if found.processes_peak is not None:
                found.sources["processes_peak"] = "pids.peak"
        return found

    def stop_forks(self) -> None:
        if "pids" in self._paths:
            with contextlib.suppress(SetupError):
                base.write_knob(self._paths["pids"] + "/pids.max", "0")

    def remove(self) -> None:
        for fd in self._fds:
            os.close(fd)
        if self._usage is not None:
            os.close(self._usage)
        self._fds, self._usage = [], None
        for path in dict.fromkeys(self._paths.values()):
            base.remove_directory(path)


class Group(base.Group):
    """The calling process's own cgroup in each hierarchy."""

    kind = "cgroup v1"

    def __init__(self, hierarchies: dict[str, str]) -> None:
        self._hierarchies = hierarchies  # controller → the caller's own folder there

    def create(self, name: str, request: CgroupRequest) -> Leaf:
        wanted = {"cpuacct": True, "memory": request.memory is not None, "pids": request.pids is not None}
        wanted["memory"] |= "memory" in self._hierarchies  # also for the counter
        wanted["pids"] |= "pids" in self._hierarchies
        wanted["cpu"] = request.cpus is not None
        needed = {"memory": request.memory, "pids": request.pids, "cpu": request.cpus}
        for controller, limit in needed.items():
            if limit is not None and controller not in self._hierarchies:
                raise UnsupportedError(
                    f"CgroupLimits ({controller})",
                    need=f"the cgroup controller {controller}, writable below the own cgroup",
                    have=f"{self.kind} with {', '.join(sorted(self._hierarchies)) or 'none'}",
                    remedy="boot with that controller enabled, or delegate it to this user",
                )
        paths: dict[str, str] = {}
        try:
            for controller, want in wanted.items():
                if want and controller in self._hierarchies:
                    path = f"{self._hierarchies[controller]}/{name}"
                    if path not in paths.values():  # controllers that share a hierarchy
                        base.make_directory(path)
                    paths[controller] = path
            self._limit(paths, request)
        except BaseException:
            Leaf(paths).remove()
            raise
        return Leaf(paths)

    def _limit(self, paths: dict[str, str], request: CgroupRequest) -> None:
        if request.memory is not None:
            memory = paths["memory"]
            base.write_knob(memory + "/memory.limit_in_bytes", str(request.memory))
            total = memory + "/memory.memsw.limit_in_bytes"
            if os.path.exists(total):
                base.write_knob(total, str(request.memory + (request.swap or 0)))
            elif not request.swap and _has_swap():
                raise SetupError(
                    errno.ENOENT,
                    layer=base.LAYER,
                    step="write",
                    arguments={"path": total, "value": request.memory},
                    hint="this kernel does not count swap (boot with swapaccount=1), so memory is not all there is; "
                    "switch swap off, or allow it by swap=",
                )
        if request.pids is not None:
            base.write_knob(paths["pids"] + "/pids.max", str(request.pids))
        if request.cpus is not None:
            base.write_knob(paths["cpu"] + "/cpu.cfs_period_us", str(_PERIOD))
            base.write_knob(paths["cpu"] + "/cpu.cfs_quota_us", str(max(1000, round(request.cpus * _PERIOD))))


def _has_swap() -> bool:
    return len((base.read_text("/proc/swaps") or "").splitlines()) > 1
