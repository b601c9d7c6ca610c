"""cgroup v1, and hybrid hosts whose controllers are on v1: a folder in each controller's hierarchy."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
import time

from ..descriptors import open_above
from ..errors import ConfigError, SetupError, UnsupportedError
from ..plan import CgroupRequest
from ..result import Stats
from . import base

_PERIOD = 100_000  # microseconds of cpu.cfs_period_us, the kernel's default
_UNLIMITED = "-1"

# Bytes that a leaf may still be charged with and yet serve another run: what the kernel keeps charged ahead on each CPU
# (64 pages, MEMCG_CHARGE_BATCH), and little more.
_RESIDUE = (256 << 10) * ((os.cpu_count() or 1) + 2)

_IO_COUNTERS = "blkio.throttle.io_service_bytes_recursive"

_swap_is_counted: dict[str, bool] = {}  # hierarchy of the memory controller → whether it has memsw (swapaccount=)

_SOURCES = {
    "cpu_time": "cpuacct.usage",
    "cpu_user": "cpuacct.usage, in the proportion of cpuacct.usage_user",
    "cpu_system": "cpuacct.usage, in the proportion of cpuacct.usage_sys",
    "memory_peak": "memory.max_usage_in_bytes",
    "oom_kills": "memory.oom_control",
    "pids_refused": "pids.events",
    "processes_peak": "pids.peak",
    "io_read": _IO_COUNTERS,
    "io_written": _IO_COUNTERS,
    "throttled": "cpu.stat throttled_time",
}


def _controllers(request: CgroupRequest, there: dict[str, str]) -> list[str]:
    """The hierarchies in which a run needs a folder.

    Where nobody asked for limits that is one, for memory: each more costs a run about a tenth.  CPU time is then what
    wait4(2) reports, and processes are not counted.
    """
    wanted = {
        "memory": True,
        "pids": request.asked or request.pids is not None,
        "cpuacct": request.asked or request.exact_cpu,
        "cpu": request.cpus is not None or request.cpu_weight is not None,
        "cpuset": request.cpuset is not None,
        "blkio": request.asked or bool(request.io),
        "hugetlb": request.asked,
    }
    return [name for name, want in wanted.items() if want and name in there]


class Leaf(base.Leaf):
    """A folder in each hierarchy that a limit or a counter needs; its files stay open, as a leaf serves many runs."""

    def __init__(self, parents: dict[str, str], name: str, request: CgroupRequest) -> None:
        super().__init__(request)
        self._parents = parents  # controller → the folder in which ours lies, where we may make one
        self._name = name
        self._paths: dict[str, str] = {}  # controller → our folder
        self._fds: dict[tuple[str, str], int] = {}
        self._opening = threading.Lock()  # `Sandbox.stats` reads beside the thread that waits for the run
        self._refused: int | None = None  # forks, before we forbade them all
        self._late: set[str] = set()  # controllers that have not seen the run from its start
        self._spent = False  # changed in a way that no reset takes back

    # --- folders ------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Make the folders and put the limits in force."""
        for controller in _controllers(self.request, self._parents):
            self._make(controller)
        self.put_limits(self.request, CgroupRequest(asked=False))

    def _make(self, controller: str) -> None:
        if controller in self._paths:
            return
        path = f"{self._parents[controller]}/{self._name}"
        if path not in self._paths.values():  # controllers that share a hierarchy
            base.make_directory(path)
        self._paths[controller] = path
        if controller == "cpuset":  # empty at first, and nobody may enter then
            for name in ("cpus", "mems"):
                above = base.read_text(f"{self._parents[controller]}/cpuset.{name}") or ""
                base.write_knob(f"{path}/cpuset.{name}", above.strip())
        if controller == "hugetlb":
            for entry in os.listdir(path):
                if entry.endswith(".limit_in_bytes") and "rsvd" not in entry:
                    base.write_knob(f"{path}/{entry}", "0")

    def _join(self, controller: str) -> None:
        """Make a folder while processes are about, and bring them all there; what they fork goes along."""
        if controller in self._paths:
            return
        self._make(controller)
        self._late.add(controller)
        moved: set[int] = set()
        while new := set(self.members()) - moved:
            for pid in new:
                with contextlib.suppress(SetupError):  # it has ended
                    base.write_knob(self._paths[controller] + "/cgroup.procs", str(pid))
            moved |= new

    # --- limits -------------------------------------------------------------------------------------------------

    def update(self, request: CgroupRequest) -> None:
        self._spent = True
        for controller in _controllers(request, self._parents):
            # What only counts would count from now on, and be called the whole.
            if controller != "cpuacct" and (controller != "blkio" or request.io):
                self._join(controller)
        base.change_limits(self, request)

    def put_limits(self, request: CgroupRequest, before: CgroupRequest) -> None:
        self._limit_memory(request, before)
        if request.pids != before.pids:
            self._write("pids", "pids.max", "max" if request.pids is None else str(request.pids))
        if request.cpus != before.cpus:
            quota = _UNLIMITED if request.cpus is None else str(max(1000, round(request.cpus * _PERIOD)))
            self._write("cpu", "cpu.cfs_period_us", str(_PERIOD))
            self._write("cpu", "cpu.cfs_quota_us", quota)
        if request.cpu_weight != before.cpu_weight:
            weight = 100 if request.cpu_weight is None else request.cpu_weight
            self._write("cpu", "cpu.shares", str(max(2, weight * 1024 // 100)))
        if request.cpuset != before.cpuset:
            above = base.read_text(self._parents["cpuset"] + "/cpuset.cpus") or ""
            cpus = above.strip() if request.cpuset is None else ",".join(map(str, request.cpuset))
            self._write("cpuset", "cpuset.cpus", cpus)
        self._limit_io(request, before)

    def _limit_memory(self, request: CgroupRequest, before: CgroupRequest) -> None:
        if (request.memory, request.swap) == (before.memory, before.swap) or request.memory == before.memory is None:
            return
        memory = _UNLIMITED if request.memory is None else str(request.memory)
        total = _UNLIMITED if request.memory is None else str(request.memory + (request.swap or 0))
        knobs = [("memory.limit_in_bytes", memory)]
        if self._counts_swap():
            knobs.append(("memory.memsw.limit_in_bytes", total))
        elif not request.swap and _has_swap():
            raise SetupError(
                errno.ENOENT,
                layer=base.LAYER,
                step="write",
                arguments={"path": self._paths["memory"] + "/memory.memsw.limit_in_bytes", "value": total},
                hint="this kernel does not count swap (boot with swapaccount=1), so memory is not all there is; "
                "switch swap off, or allow it by swap=",
            )
        grows = before.memory is not None and (request.memory is None or request.memory > before.memory)
        for name, value in reversed(knobs) if grows else knobs:  # the total may never be below the memory
            self._write("memory", name, value)

    def _counts_swap(self) -> bool:
        parent = self._parents["memory"]
        if parent not in _swap_is_counted:
            _swap_is_counted[parent] = os.path.exists(self._paths["memory"] + "/memory.memsw.limit_in_bytes")
        return _swap_is_counted[parent]

    def _limit_io(self, request: CgroupRequest, before: CgroupRequest) -> None:
        if request.io == before.io:
            return
        for device in {limit.device for limit in before.io} - {limit.device for limit in request.io}:
            for kind in ("read_bps", "write_bps", "read_iops", "write_iops"):
                self._write("blkio", f"blkio.throttle.{kind}_device", f"{device} 0")
        for limit in request.io:
            for kind in ("read_bps", "write_bps", "read_iops", "write_iops"):
                value = getattr(limit, kind)
                if value is not None or before.io:
                    self._write("blkio", f"blkio.throttle.{kind}_device", f"{limit.device} {value or 0}")

    def _write(self, controller: str, name: str, value: str) -> None:
        base.write_knob(f"{self._paths[controller]}/{name}", value)

    # --- reading ------------------------------------------------------------------------------------------------

    def _fd(self, controller: str, name: str, flags: int) -> int:
        key = (controller, name)
        fd = self._fds.get(key)
        if fd is None:
            with self._opening:
                if key not in self._fds:
                    self._fds[key] = open_above(f"{self._paths[controller]}/{name}", flags)
                fd = self._fds[key]
        return fd

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

    def _io(self) -> tuple[int | None, int | None]:
        """Bytes read and written, over all devices: lines "8:0 Read 4096"."""
        text = self._read("blkio", _IO_COUNTERS)
        if text is None or "blkio" in self._late:
            return None, None
        totals = {b"Read": 0, b"Write": 0}
        for line in text.split(b"\n"):
            fields = line.split()
            if len(fields) == 3 and fields[1] in totals:
                totals[fields[1]] += int(fields[2])
        return totals[b"Read"], totals[b"Write"]

    def attach_fds(self) -> list[int]:
        # `tasks` and not `cgroup.procs`: for one thread that moves itself the kernel need not wait for an RCU grace
        # period (10 ms), as it takes no lock on thread groups.
        folders = {path: controller for controller, path in self._paths.items()}
        return [self._fd(controller, "tasks", os.O_WRONLY) for controller in folders.values()]

    def cpu_time(self) -> float | None:
        nanoseconds = self._number("cpuacct", "cpuacct.usage")
        return None if nanoseconds is None else nanoseconds / 1e9

    def open_counters(self) -> None:
        for name in ("memory.max_usage_in_bytes", "memory.oom_control") if "memory" in self._paths else ():
            with contextlib.suppress(OSError):  # `_read` will tell
                self._fd("memory", name, os.O_RDWR)

    def oom_kills(self) -> int | None:
        return self._keyed("memory", "memory.oom_control", b"oom_kill")

    def members(self) -> list[int]:
        folder = next(iter(self._paths.values()))
        return [int(pid) for pid in (base.read_text(folder + "/cgroup.procs") or "").split()]

    def readings(self) -> base.Readings:
        found = base.Readings(cpu_time=self.cpu_time())
        found.memory_peak = self._number("memory", "memory.max_usage_in_bytes")
        found.oom_kills = self.oom_kills()
        found.processes_peak = None if "pids" in self._late else self._number("pids", "pids.peak")
        found.pids_refused = 0 if "pids" in self._paths else None
        # One process alone was refused nothing, unless one is all that it may have.
        if found.processes_peak is None or found.processes_peak > 1 or self.request.pids == 1:
            found.pids_refused = self._keyed("pids", "pids.events", b"max")
        if self._refused is not None:
            found.pids_refused = self._refused
        if self.request.asked:
            self._read_what_was_asked_for(found)
        found.sources = _SOURCES
        self._spent |= bool(found.oom_kills or found.pids_refused or (found.processes_peak or 0) > 1)
        return found

    def _read_what_was_asked_for(self, found: base.Readings) -> None:
        user, system = self._number("cpuacct", "cpuacct.usage_user"), self._number("cpuacct", "cpuacct.usage_sys")
        if found.cpu_time is not None and user is not None and system is not None and user + system:
            # These two are sampled at timer ticks; their proportion is what they are good for.
            found.cpu_user = found.cpu_time * user / (user + system)
            found.cpu_system = found.cpu_time - found.cpu_user
        found.io_read, found.io_written = self._io()
        self._spent |= bool(found.io_read or found.io_written)
        throttled = self._keyed("cpu", "cpu.stat", b"throttled_time")
        found.throttled = None if throttled is None else throttled / 1e9
        self._spent |= bool(throttled)

    def stats(self) -> Stats:
        read, written = self._io()
        throttled = self._keyed("cpu", "cpu.stat", b"throttled_time")
        return Stats(
            time=time.monotonic(),
            processes=self._number("pids", "pids.current"),
            memory=self._number("memory", "memory.usage_in_bytes"),
            cpu_time=self.cpu_time(),
            io_read=read,
            io_written=written,
            throttled=None if throttled is None else throttled / 1e9,
        )

    # --- events -------------------------------------------------------------------------------------------------

    def _event(self, name: str, *words: str) -> int:
        """An eventfd that the kernel raises (cgroup.event_control)."""
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            line = " ".join([str(event), str(self._fd("memory", name, os.O_RDONLY)), *words])
            base.write_knob(self._paths["memory"] + "/cgroup.event_control", line)
        except BaseException:
            os.close(event)
            raise
        self._fds["event", name] = event  # the registration ends with the leaf
        return event

    def oom_event(self) -> int | None:
        if "memory" not in self._paths:
            return None
        if ("event", "memory.oom_control") in self._fds:
            return self._fds["event", "memory.oom_control"]
        try:
            return self._event("memory.oom_control")
        except SetupError:  # a kernel without event_control: the counter is read at the end
            return None

    def pressure_event(self) -> tuple[int, int]:
        if "memory" not in self._paths:
            raise UnsupportedError("on_pressure", need="the memory controller", have=", ".join(sorted(self._paths)))
        if ("event", "memory.pressure_level") not in self._fds:
            self._event("memory.pressure_level", "medium")
        return self._fds["event", "memory.pressure_level"], select.POLLIN

    # --- doing --------------------------------------------------------------------------------------------------

    def freeze(self, frozen: bool) -> None:
        self._spent = True
        self._join("freezer")
        self._write("freezer", "freezer.state", "FROZEN" if frozen else "THAWED")
        deadline = time.monotonic() + 5
        while frozen and (self._read("freezer", "freezer.state") or b"").strip() == b"FREEZING":
            if time.monotonic() > deadline:
                break  # a process in the kernel's hands stops when it comes back
            self._write("freezer", "freezer.state", "FROZEN")
            time.sleep(0.001)

    def thaw(self) -> None:
        if "freezer" in self._paths:
            with contextlib.suppress(SetupError):
                self._write("freezer", "freezer.state", "THAWED")

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
            if self._refused is None:
                self._refused = self._keyed("pids", "pids.events", b"max")
            with contextlib.suppress(SetupError):
                self._write("pids", "pids.max", "0")

    def remove(self) -> None:
        self.thaw()
        while self._fds:
            os.close(self._fds.popitem()[1])
        for path in dict.fromkeys(self._paths.values()):
            base.remove_directory(path)


class Group(base.Group):
    """The calling process's own cgroup in each hierarchy, or another that it was given."""

    kind = "cgroup v1"
    remedy = "boot with that controller enabled, or make its own cgroup writable for this user"

    def __init__(self, hierarchies: dict[str, str], points: dict[str, str]) -> None:
        self._hierarchies = hierarchies  # controller → the caller's own folder there
        self._points = points  # controller → where its hierarchy is mounted

    def folders(self) -> list[str]:
        return list(dict.fromkeys(self._hierarchies.values()))

    def below(self, parent: str) -> Group:
        for point in self._points.values():
            if parent == point or parent.startswith(point + "/"):
                parent = parent.removeprefix(point) or "/"
        there = {name: point + parent for name, point in self._points.items() if os.path.isdir(point + parent)}
        if not there:
            raise ConfigError(f"CgroupLimits(parent=): no such cgroup: {parent!r}", layers=("CgroupLimits",))
        writable = {name: path for name, path in there.items() if os.access(path, os.W_OK | os.X_OK)}
        if not writable:
            have = f"{parent!r}, which is not writable for this user"
            raise UnsupportedError("CgroupLimits(parent=)", need="a writable cgroup", have=have, remedy=self.remedy)
        return Group(writable, self._points)

    @property
    def limits_huge_pages(self) -> bool:
        return "hugetlb" in self._hierarchies

    def describe(self) -> str:
        return f"{self.kind} with {', '.join(sorted(self._hierarchies)) or 'none'}"

    def lacks(self, request: CgroupRequest) -> dict[str, str]:
        needed = {
            "memory": ("memory", request.memory),
            "pids": ("pids", request.pids),
            "cpus": ("cpu", request.cpus),
            "cpu_weight": ("cpu", request.cpu_weight),
            "cpuset": ("cpuset", request.cpuset),
            "io": ("blkio", request.io or None),
        }
        lacking = {
            name: f"the cgroup controller {controller}, writable below the own cgroup"
            for name, (controller, limit) in needed.items()
            if limit is not None and controller not in self._hierarchies
        }
        if request.memory_high is not None:
            lacking["memory_high"] = "cgroup v2 (boot with systemd.unified_cgroup_hierarchy=1): v1 has nothing like it"
        return lacking

    def create(self, name: str, request: CgroupRequest) -> Leaf:
        self.check(request)
        leaf = Leaf(self._hierarchies, name, request)
        try:
            leaf.build()
        except BaseException:
            leaf.remove()
            raise
        return leaf


def _has_swap() -> bool:
    return len((base.read_text("/proc/swaps") or "").splitlines()) > 1
