"""Finding where this process may make cgroups, and saying why it may not.  Looks, and touches nothing."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
import time
from collections.abc import Iterable

from ..errors import ConfigError, UnsupportedError
from ..plan import CgroupRequest
from . import v1, v2
from .base import Group, read_text, remove_directory, write_knob

_lock = threading.Lock()
_found: dict[int, tuple[Group | None, str]] = {}  # this process's pid → its group, or why it has none
_numbers = itertools.count(time.monotonic_ns() // 1000)  # also a process that execs itself never names two leaves alike
_swept: set[str] = set()  # folders that callers have named, once each
_began_as = (
    -1
)  # the pid as which `_find` has looked first: before that, nothing here is ours but what we were before an exec


def _after_fork() -> None:
    """In the child: another thread of the parent may have held the lock, and it is not there to let go."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)

#: the cgroup into which `vacate_cgroup` moves a process, with its pid behind
_VACATED = "pysandbox-app-"

CONTROLLERS = ("memory", "pids", "cpu", "cpuacct", "cpuset", "blkio", "freezer", "hugetlb")


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot: with the pid it names the process for good (proc(5))."""
    text = read_text(f"/proc/{pid}/stat") or ""
    return int(text.rpartition(")")[2].split()[19]) if text else 0


@functools.cache
def _owner(pid: int) -> str:
    """A name for this process that no other will ever have: its PID namespace, pid and start time."""
    return f"pysandbox-{os.stat('/proc/self/ns/pid').st_ino}-{pid}-{start_time(pid)}"


def _dead_leaves(folder: str, own: bool) -> list[str]:
    """The leaves that dead processes of this PID namespace left here, and (`own`) those that this process has."""
    found: list[str] = []
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name.startswith("pysandbox-")]
    except OSError:
        return found
    for name in names:
        fields = name.split("-")
        if len(fields) != 5 or not all(field.isdigit() for field in fields[1:]):
            continue
        namespace, pid, started, _ = map(int, fields[1:])
        is_dead = start_time(pid) != started or (own and pid == os.getpid())
        if is_dead and namespace == os.stat("/proc/self/ns/pid").st_ino:
            found.append(f"{folder}/{name}")
    return found


def _sweep(folders: Iterable[str], *, own: bool = False) -> list[str]:
    """Remove the leaves that dead processes left in these folders; those of the living are kept."""
    dead = [leaf for folder in folders for leaf in _dead_leaves(folder, own)]
    for leaf in dead:
        if os.path.exists(f"{leaf}/freezer.state"):
            # Its owner was killed while the run was paused: what is frozen on v1 could not even die.
            with contextlib.suppress(OSError):
                write_knob(f"{leaf}/freezer.state", "THAWED")
    removed: list[str] = []
    for leaf in dead:
        with contextlib.suppress(OSError):  # busy, or another process sweeps too
            remove_directory(leaf)
            removed.append(leaf)
    return removed


def fresh_name() -> str:
    """A leaf's name: it says whose it is, so that what a dead process left can be recognised."""
    return f"{_owner(os.getpid())}-{next(_numbers)}"


def _mounts() -> tuple[dict[str, tuple[str, str]], tuple[str, str] | None]:
    """The mounted hierarchies: v1 controller → (mount point, root of it), and the same for v2."""
    controllers: dict[str, tuple[str, str]] = {}
    unified: tuple[str, str] | None = None
    for line in (read_text("/proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        root, point = fields[3], fields[4]
        if kind and kind[0] == "cgroup2" and unified is None:
            unified = (point, root)
        elif kind and kind[0] == "cgroup":
            for option in kind[-1].split(","):
                if option in CONTROLLERS:
                    controllers.setdefault(option, (point, root))
    return controllers, unified


def _own_paths() -> tuple[dict[str, str], str | None]:
    """This process's cgroups, from /proc/self/cgroup."""
    controllers: dict[str, str] = {}
    unified = None
    for line in (read_text("/proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            unified = path
        for name in names.split(","):
            controllers[name] = path
    return controllers, unified


def _folder(mount: tuple[str, str], path: str) -> str | None:
    """The own cgroup as a folder, where the mount shows it."""
    point, root = mount
    if root != "/":
        if path != root and not path.startswith(root + "/"):
            return None
        path = path[len(root) :]
    folder = (point + path).rstrip("/") or "/"
    return folder if os.path.isdir(folder) else None


def _look() -> tuple[Group | None, str]:
    mounts, unified_mount = _mounts()
    own, own_unified = _own_paths()
    hierarchies = {}
    for controller, mount in mounts.items():
        folder = _folder(mount, own.get(controller, "/"))
        if folder and os.access(folder, os.W_OK | os.X_OK):
            hierarchies[controller] = folder
    if mounts:
        if "memory" in hierarchies or "pids" in hierarchies:
            return v1.Group(hierarchies, {name: point for name, (point, _) in mounts.items()}), ""
        return None, "the cgroup v1 controllers' own cgroups are not writable for this user"
    if unified_mount is None:
        return None, "no cgroup file system is mounted"
    folder = _folder(unified_mount, own_unified or "/")
    if folder is not None and os.path.basename(folder).startswith(_VACATED):
        folder = os.path.dirname(folder)  # we, or the process that forked us, moved there to make room
    if folder is None or not os.access(folder, os.W_OK | os.X_OK):
        return None, f"the own cgroup ({own_unified}) is not writable for this user"
    controllers = v2.controllers_of(folder)
    if not controllers & {"memory", "pids"}:
        reason = f"the own cgroup ({own_unified}) hands no memory or pids controller down"
        if (read_text(folder + "/cgroup.controllers") or "").split() and (
            read_text(folder + "/cgroup.procs") or ""
        ).split():
            reason += ", and cannot while it holds processes itself (cgroups(7), no internal processes)"
        return None, reason
    return v2.Group(folder, controllers, unified_mount[0]), ""


def _find() -> tuple[Group | None, str]:
    """What `_look` has found, once, and again after a fork."""
    global _began_as
    pid = os.getpid()
    with _lock:
        if pid not in _found:
            _found.clear()
            _found[pid] = found = _look()
            if found[0] is not None:
                _sweep(found[0].folders(), own=pid != _began_as)
            _began_as = pid
        return _found[pid]


def own_group() -> Group | None:
    """Where this process's leaves go, or None where it may make none."""
    return _find()[0]


def group_for(request: CgroupRequest) -> Group | None:
    """Where the leaf of a request goes: below the own cgroup, or below the one that it names."""
    group = own_group()
    if request.parent is None:
        return group
    if group is None:
        group = _anywhere()
    if group is None:
        return None
    below = group.below(request.parent)
    for own in group.folders():
        if any(own != folder.rstrip("/") and own.startswith(folder.rstrip("/") + "/") for folder in below.folders()):
            raise ConfigError(
                f"CgroupLimits(parent={request.parent!r}) is above the own cgroup, whose limits would be left behind",
                layers=("CgroupLimits",),
            )
    fresh = set(below.folders()) - _swept
    _sweep(fresh)
    _swept.update(fresh)
    return below


def _anywhere() -> Group | None:
    """For a process whose own cgroup is of no use, the hierarchies as such."""
    mounts, unified = _mounts()
    if mounts:
        return v1.Group({}, {name: point for name, (point, _) in mounts.items()})
    return None if unified is None else v2.Group(unified[0], frozenset(), unified[0])


def sweep(parents: Iterable[str] = ()) -> list[str]:
    """Remove the leaves that dead processes left below the own cgroup, and below `parents`; returns their folders."""
    group = _look()[0]
    folders = [] if group is None else group.folders()
    for parent in parents:
        somewhere = group or _anywhere()
        folders += [] if somewhere is None else somewhere.below(parent).folders()
    return _sweep(folders)


def vacate_cgroup() -> None:
    """Move this process out of its cgroup (v2) into a child of it, so that the cgroup may hand controllers down.

    cgroup v2 lets a cgroup limit its children only while it holds no process itself (cgroups(7), "no internal
    processes").  A service, a container or a delegated scope that wants `CgroupLimits` calls this once, at its start.
    Nothing above the own cgroup is touched, no other process is moved.  Does nothing where limits can be had already.

    Raises `UnsupportedError` where it does not help: other processes are in the cgroup too, or it is not writable.
    """
    if own_group() is not None:
        return
    _, mount = _mounts()
    folder = None if mount is None else _folder(mount, _own_paths()[1] or "/")
    if folder is None:
        raise UnsupportedError("CgroupLimits", need="a cgroup v2 of one's own", have=why_not())
    child = f"{folder}/{_VACATED}{os.getpid()}"
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(child)
        write_knob(child + "/cgroup.procs", str(os.getpid()))
        others = (read_text(folder + "/cgroup.procs") or "").split()
    except OSError as error:
        raise UnsupportedError("CgroupLimits", need="a writable cgroup", have=f"{folder}: {error}") from None
    if others:
        raise UnsupportedError(
            "CgroupLimits",
            need="a cgroup without other processes",
            have=f"{len(others)} others in {folder}",
            remedy="start this program in a scope of its own: systemd-run --user --scope -p Delegate=yes COMMAND",
        )
    with _lock:
        _found.clear()
    if own_group() is None:
        raise UnsupportedError("CgroupLimits", need="the memory and pids controllers", have=why_not())


def why_not() -> str:
    """Why `own_group` is None, in words; empty where it is not."""
    return _find()[1]
