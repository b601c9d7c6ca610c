"""What a cgroup of a run can do, whichever version of the interface the host has."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ..errors import SetupError, UnsupportedError
from ..lazy import lazy
from ..plan import CgroupRequest
from ..result import Enforcement, Level, Stats

LAYER = "CgroupLimits"


@dataclass
class Readings:
    """The counters of a leaf, None where this host has none; `sources` names the file of each."""

    cpu_time: float | None = None
    cpu_user: float | None = None
    cpu_system: float | None = None
    memory_peak: int | None = None
    oom_kills: int | None = None
    pids_refused: int | None = None
    processes_peak: int | None = None
    io_read: int | None = None
    io_written: int | None = None
    throttled: float | None = None  #: seconds held back by a CPU quota
    pressure: dict[str, float] = field(default_factory=dict)  #: resource → seconds in which something waited for it
    sources: dict[str, str] = field(default_factory=dict)


class Leaf(ABC):
    """The cgroup of one run."""

    def __init__(self, request: CgroupRequest) -> None:
        self.request = request

    @abstractmethod
    def attach_fds(self) -> list[int]:
        """Descriptors to which a process writes "0" to move itself here."""

    @abstractmethod
    def cpu_time(self) -> float | None:
        """CPU seconds used so far, by everything that ever ran here."""

    @abstractmethod
    def readings(self) -> Readings:
        """All counters."""

    @abstractmethod
    def open_counters(self) -> None:
        """Open what `readings` will read: there is time for it while the program runs, and none to spare at its end."""

    @abstractmethod
    def oom_kills(self) -> int | None:
        """Processes that the kernel has killed here for want of memory."""

    @abstractmethod
    def members(self) -> list[int]:
        """The pids of the processes here."""

    @abstractmethod
    def stats(self) -> Stats:
        """What is used now."""

    @abstractmethod
    def freeze(self, frozen: bool) -> None:
        """Stop every process here, or let them go on."""

    @abstractmethod
    def thaw(self) -> None:
        """Let frozen processes go on, where they could not be killed otherwise."""

    @abstractmethod
    def update(self, request: CgroupRequest) -> None:
        """Put other limits in force; if one of them is refused, those before stay."""

    @abstractmethod
    def put_limits(self, request: CgroupRequest, before: CgroupRequest) -> None:
        """Write what differs between two requests."""

    def oom_event(self) -> int | None:
        """A descriptor that is readable after an OOM here, where the kernel leaves the rest of the run alive."""
        return None

    @abstractmethod
    def pressure_event(self) -> tuple[int, int]:
        """A descriptor that tells of memory running short, and the poll(2) event by which it does."""

    @abstractmethod
    def stop_forks(self) -> None:
        """Let no process here fork any more, so that killing them one by one comes to an end."""

    def reset(self) -> bool:
        """Make the leaf as good as new for another run with the same limits; False where that cannot be."""
        return False

    @abstractmethod
    def remove(self) -> None:
        """Remove the leaf; its processes must be dead.  Closes its descriptors."""


class Group(ABC):
    """Where a process makes the leaves of its runs: its own cgroup."""

    kind: str
    _had: CgroupRequest | None = None  # the last request that can be had whole

    @lazy
    def enforcement(self) -> Enforcement:
        """What limits in a leaf of this group amount to."""
        if huge_pages_are_possible() and not self.limits_huge_pages:
            return Enforcement(Level.PARTIAL, self.kind, "no hugetlb controller: huge pages are not counted or limited")
        return Enforcement(Level.FULL, self.kind)

    @lazy
    def default_enforcement(self) -> Enforcement:
        """The same for bounds that nobody asked for, where an rlimit bounds the processes."""
        row = self.enforcement
        return replace(row, mechanism=f"memory: {row.mechanism}; processes: RLIMIT_NPROC, refusals not counted")

    @property
    @abstractmethod
    def limits_huge_pages(self) -> bool:
        """Whether huge pages are switched off in leaves whose limits were asked for."""

    @abstractmethod
    def folders(self) -> list[str]:
        """The cgroups in which leaves are made."""

    @abstractmethod
    def below(self, parent: str) -> Group:
        """The same for another cgroup than the caller's own; `ConfigError` if it is not there."""

    @abstractmethod
    def lacks(self, request: CgroupRequest) -> dict[str, str]:
        """The limits of a request that cannot be had here, and what each would need."""

    def check(self, request: CgroupRequest) -> None:
        """Raise `UnsupportedError` for the first limit that cannot be had."""
        if request is self._had:
            return
        for name, need in self.lacks(request).items():
            raise UnsupportedError(f"CgroupLimits({name}=)", need=need, have=self.describe(), remedy=self.remedy)
        self._had = request

    @abstractmethod
    def describe(self) -> str:
        """What there is, for errors."""

    remedy: str

    @abstractmethod
    def create(self, name: str, request: CgroupRequest) -> Leaf:
        """Make a leaf with these limits; all of them are in force, or it is an error and nothing is left."""


def change_limits(leaf: Leaf, request: CgroupRequest) -> None:
    """From the limits of a leaf to others, or back."""
    before = leaf.request
    try:
        leaf.put_limits(request, before)
    except BaseException:
        with contextlib.suppress(SetupError):  # what was in force can be again
            leaf.put_limits(before, request)
        raise
    leaf.request = request


def without(request: CgroupRequest, names: Iterable[str]) -> CgroupRequest:
    """The request without some of its limits."""
    nothing = CgroupRequest()
    fields = {name: getattr(nothing, name) for name in names}
    return replace(request, **fields)


def make_directory(path: str) -> None:
    """Make a cgroup; a failure names it."""
    try:
        os.mkdir(path, 0o755)
    except OSError as error:
        raise SetupError(error.errno or 0, layer=LAYER, step="mkdir", arguments={"path": path}) from None


def write_knob(path: str, value: str) -> None:
    """Write a limit; a failure names the file and the value."""
    # Bare calls here and below: a file object costs as much as the kernel's part, and this is done for each run.
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        arguments = {"path": path, "value": value}
        raise SetupError(error.errno or 0, layer=LAYER, step="write", arguments=arguments) from None


def read_text(path: str) -> str | None:
    """A counter's text, or None where this kernel has no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            pieces = []
            while piece := os.read(fd, 1 << 16):
                pieces.append(piece)
        finally:
            os.close(fd)
    except OSError:
        return None
    return b"".join(pieces).decode("ascii", "replace")


def read_number(path: str) -> int | None:
    """A counter that is one number."""
    text = read_text(path)
    return int(text) if text is not None and text.strip().isdigit() else None


def read_keyed(path: str, key: str) -> int | None:
    """One number of a file of "key number" lines."""
    for line in (read_text(path) or "").splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.strip().isdigit():
            return int(value)
    return None


def huge_pages_are_possible() -> bool:
    """Whether anybody could have huge pages of hugetlbfs, which no memory limit counts."""
    root = "/sys/kernel/mm/hugepages"
    try:
        sizes = os.listdir(root)
    except OSError:
        return False
    names = ("nr_hugepages", "nr_overcommit_hugepages")
    return any(read_number(f"{root}/{size}/{name}") for size in sizes for name in names)


def remove_directory(path: str) -> None:
    """Remove a cgroup, its children first; a dying member may keep it busy for a moment (EBUSY)."""
    for attempt in range(200):
        try:
            os.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            try:
                with os.scandir(path) as found:
                    children = [entry.path for entry in found if entry.is_dir(follow_symlinks=False)]
            except FileNotFoundError:
                return
            for child in children:
                remove_directory(child)
            time.sleep(0.0002 * min(attempt, 50))
    os.rmdir(path)
