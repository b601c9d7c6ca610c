"""cgroup v1, and hybrid hosts whose controllers are on v1: a folder in each controller's hierarchy."""

from __future__ import annotations

import contextlib
import errno
import os

from ..descriptors import open_above
from ..errors import SetupError, UnsupportedError
from ..plan import CgroupRequest
from . import base

_PERIOD = 100_000  # microseconds of cpu.cfs_period_us, the kernel's default


# Bytes that a leaf may still be charged with and yet serve another run: what the kernel keeps charged ahead on each CPU
# (64 pages, MEMCG_CHARGE_BATCH), and little more.
_RESIDUE = (256 << 10) * ((os.cpu_count() or 1) + 2)


_SOURCES = {
    "cpu_time": "cpuacct.usage",
    "memory_peak": "memory.max_usage_in_bytes",
    "oom_kills": "memory.oom_control",
    "pids_refused": "pids.events",
    "processes_peak": "pids.peak",
}


class Leaf(base.Leaf):
    """A folder in each hierarchy that a limit or a counter needs; its files stay open, as a leaf serves many runs."""

    def __init__(self, paths: dict[str, str], request: CgroupRequest) -> None:
        super().__init__(request)
        self._paths = paths  # controller → folder
        self._fds: dict[tuple[str, str], int] = {}
        self._spent = False  # changed in a way that no reset takes back

    def _fd(self, controller: str, name: str, flags: int) -> int:
        key = (controller, name)
        if key not in self._fds:
            self._fds[key] = open_above(f"{self._paths[controller]}/{name}", flags)
        return self._fds[key]

    def _read(self, controller: str, name: str) -> bytes | None:
        if controller not in self._paths:
            return None
        try:
            return os.pread(self._fd(controller, name, os.O_RDWR), 4096, 0)
        except PermissionError:
            return os.pread(self._fd(controller, name, os.O_RDONLY), 4096, 0)
        except FileNotFoundError:
            return None

    def _number(self, controller: str, name: str) -> int | None:
        text = self._read(controller, name)
        return int(text) if text is not None and text.strip().isdigit() else None

    def _keyed(self, controller: str, name: str, key: bytes) -> int | None:
        for line in (self._read(controller, name) or b"").split(b"\n"):
            word, _, value = line.partition(b" ")
            if word == key and value.isdigit():
                return int(value)
        return None

    def attach_fds(self) -> list[int]:
        # `tasks` and not `cgroup.procs`: for one thread that moves itself the kernel need not wait for an RCU grace
        # period (10 ms), as it takes no lock on thread groups.
        folders = {path: controller for controller, path in self._paths.items()}
        return [self._fd(controller, "tasks", os.O_WRONLY) for controller in folders.values()]

    def cpu_time(self) -> float | None:
        nanoseconds = self._number("cpuacct", "cpuacct.usage")
        return None if nanoseconds is None else nanoseconds / 1e9

    def readings(self) -> base.Readings:
        found = base.Readings(cpu_time=self.cpu_time())
        found.memory_peak = self._number("memory", "memory.max_usage_in_bytes")
        found.oom_kills = self._keyed("memory", "memory.oom_control", b"oom_kill")
        found.processes_peak = self._number("pids", "pids.peak")
        found.pids_refused = 0 if "pids" in self._paths else None
        # One process alone was refused nothing, unless one is all that it may have.
        if found.processes_peak is None or found.processes_peak > 1 or self.request.pids == 1:
            found.pids_refused = self._keyed("pids", "pids.events", b"max")
        found.sources = _SOURCES
        self._spent |= bool(found.oom_kills or found.pids_refused or (found.processes_peak or 0) > 1)
        return found

    def reset(self) -> bool:
        if self._spent or (self._number("memory", "memory.usage_in_bytes") or 0) > _RESIDUE:
            return False
        try:
            for controller, name in (("memory", "memory.max_usage_in_bytes"), ("cpuacct", "cpuacct.usage")):
                if controller in self._paths:
                    os.pwrite(self._fd(controller, name, os.O_RDWR), b"0", 0)
        except OSError:
            return False
        return True

    def stop_forks(self) -> None:
        self._spent = True
        if "pids" in self._paths:
            with contextlib.suppress(SetupError):
                base.write_knob(self._paths["pids"] + "/pids.max", "0")

    def remove(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
        for path in dict.fromkeys(self._paths.values()):
            base.remove_directory(path)


class Group(base.Group):
    """The calling process's own cgroup in each hierarchy."""

    kind = "cgroup v1"

    def __init__(self, hierarchies: dict[str, str]) -> None:
        self._hierarchies = hierarchies  # controller → the caller's own folder there

    def folders(self) -> list[str]:
        return list(dict.fromkeys(self._hierarchies.values()))

    def create(self, name: str, request: CgroupRequest) -> Leaf:
        # Where nobody asked for limits there is one leaf, for memory: each more costs a run about a tenth.  CPU time is
        # then what wait4(2) reports, and processes are not counted.
        wanted = {
            "memory": True,
            "pids": request.asked or request.pids is not None,
            "cpuacct": request.asked or request.exact_cpu,
            "cpu": request.cpus is not None,
        }
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
            Leaf(paths, request).remove()
            raise
        return Leaf(paths, request)

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
