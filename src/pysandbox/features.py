"""What this host can do, why not, and what helps; the hints of errors too.  Looks without changing anything."""

from __future__ import annotations

import errno
import functools
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import SetupError, UnsupportedError

LEAST_KERNEL = (5, 12)  # mount_setattr(2); the newest call without which no box can be built

_FULL_MAP = (0, 0, 4294967295)


def check_platform() -> None:
    """Raise `UnsupportedError` unless this is Linux, new enough, on a machine that the C code knows."""
    if sys.platform != "linux":
        raise UnsupportedError("pysandbox", need="Linux", have=sys.platform, remedy="run it in a Linux virtual machine")
    if platform.machine() not in ("x86_64", "aarch64"):
        raise UnsupportedError("pysandbox", need="x86-64 or aarch64", have=platform.machine())
    if kernel_version() < LEAST_KERNEL:
        need = ".".join(map(str, LEAST_KERNEL))
        raise UnsupportedError("pysandbox", need=f"Linux {need} or later", have=f"Linux {platform.release()}")


def counts_processes(namespaces: frozenset[str]) -> bool:
    """Whether RLIMIT_NPROC counts a box's processes alone: in its user namespace, since Linux 5.14 (getrlimit(2))."""
    return "user" in namespaces and kernel_version() >= (5, 14)


def kernel_version() -> tuple[int, int]:
    """The running kernel's first two numbers."""
    major, _, rest = platform.release().partition(".")
    minor = ""
    for letter in rest:
        if not letter.isdigit():
            break
        minor += letter
    return (int(major) if major.isdigit() else 0, int(minor or 0))


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _status_field(name: str) -> str:
    for line in _read("/proc/self/status").splitlines():
        if line.startswith(name + ":"):
            return line.partition(":")[2].strip()
    return ""


@dataclass(frozen=True)
class IdRange:
    """A run of ids that this process's user namespace has."""

    inside: int
    outside: int
    length: int


def _id_ranges(kind: str) -> list[IdRange]:
    return [IdRange(*map(int, line.split())) for line in _read(f"/proc/self/{kind}_map").splitlines() if line.split()]


@functools.lru_cache(maxsize=8)
def _may_map_any(euid: int, pid: int) -> bool:
    del euid, pid  # the answer is one for each: a process may change its id or fork
    effective = int(_status_field("CapEff") or "0", 16)
    setuid_and_setgid = 1 << 7 | 1 << 6
    return effective & setuid_and_setgid == setuid_and_setgid and (1 << 21) & effective != 0


def is_privileged() -> bool:
    """Whether the caller is root-like: may make namespaces and map any ids into them."""
    return _may_map_any(os.geteuid(), os.getpid())


@functools.lru_cache(maxsize=1)
def highest_ids() -> tuple[int, int]:
    """The first and the last id of the highest range that this process's user namespace maps for users and groups."""
    users, groups = _id_ranges("uid"), _id_ranges("gid")
    if not users or not groups:
        return (0, 0)
    user, group = max(users, key=lambda r: r.inside), max(groups, key=lambda r: r.inside)
    first = max(user.inside, group.inside)
    last = min(user.inside + user.length, group.inside + group.length) - 1
    return (first, last)


def userns_remedy() -> str:
    """What keeps an ordinary user from making user namespaces here, and the fix; empty where nothing does."""
    if _read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").strip() == "1":
        return (
            "AppArmor restricts user namespaces here (Ubuntu 24.04): "
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0, "
            "or an AppArmor profile with 'userns,' for this Python"
        )
    if _read("/proc/sys/kernel/unprivileged_userns_clone").strip() == "0":
        return "user namespaces are switched off for users: sysctl kernel.unprivileged_userns_clone=1"
    if _read("/proc/sys/user/max_user_namespaces").strip() == "0":
        return "no user namespace is allowed: sysctl user.max_user_namespaces=15000"
    if os.geteuid() != 0 and _read("/sys/module/apparmor/parameters/enabled").strip() == "Y":
        return (
            "if AppArmor is what keeps capabilities from user namespaces here, as on Ubuntu 24.04: "
            "an AppArmor profile with 'userns,' for this Python"
        )
    return ""


def covered_proc() -> list[str]:
    """Paths of the host's /proc that are covered, which is why a container's kernel lets no new /proc be mounted."""
    points = []
    for line in _read("/proc/self/mountinfo").splitlines():
        fields = line.split()
        if len(fields) > 4 and fields[4].startswith("/proc/"):
            points.append(fields[4])
    return points


def has_read_only_sysctls() -> bool:
    """Whether the host's /proc/sys is mounted read-only, as container runtimes do."""
    try:
        return bool(os.statvfs("/proc/sys/user").f_flag & os.ST_RDONLY)
    except OSError:
        return True  # none to write to


@functools.lru_cache(maxsize=1)
def tmpfs_keeps_attributes() -> bool:
    """Whether files in memory may have user attributes (Linux 6.6), by which an overlay marks folders (xattr(7))."""
    fd = os.memfd_create("pysandbox-attributes", os.MFD_CLOEXEC)
    try:
        os.setxattr(fd, "user.pysandbox", b"")
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def hint(step: str, error: int, arguments: Mapping[str, object]) -> str:
    """What usually helps against a failed step; empty where nothing sensible can be said."""
    refused = error in (errno.EPERM, errno.EACCES)
    if step == "clone":
        if refused or error in (errno.ENOSPC, errno.EUSERS):
            return userns_remedy() or (
                "this host or container forbids new namespaces; allow user namespaces, or run with fewer of them"
            )
        if error == errno.EINVAL:
            return "this kernel lacks one of the namespaces"
    if step in ("setgroups", "uid_map", "gid_map") and error == errno.EROFS:
        return "the host's /proc is read-only, as in some containers: nobody can map ids there; mount it writable"
    if step in ("uid_map", "gid_map") and refused:
        return userns_remedy() or "the ids may not be mapped by this user"
    if step == "mount_proc" and refused and covered_proc():
        covered = ", ".join(covered_proc()[:4])
        return (
            f"the host's /proc is covered at {covered}, as in a container, and so the kernel allows no new one "
            "(mount too revealing); ChrootJail(proc='none') goes without, or a container with unmasked /proc"
        )
    if str(arguments.get("target", "")).startswith("/") and error in (errno.ELOOP, errno.ENOTDIR, errno.EINVAL):
        return "the root file system has a symlink or a file there or on the way; name the path that it leads to"
    if step in ("open_tree", "attach_tree"):
        if error == errno.ELOOP:
            return "a symlink is on the way; give the path without links, os.path.realpath(...), if you trust it"
        if error == errno.ENOENT:
            return "the source or its mount point does not exist; Bind(..., optional=True) leaves a missing source out"
        if refused:
            return "the caller may not read it"
    if step == "overlay":
        return (
            "the folder's file system may not lie below an overlay (another overlay in depth, NFS, FAT), nor may a "
            "folder in which something is mounted, for an ordinary user (as / is); or it may not keep one "
            "(upper= needs user attributes and d_type: ext4, XFS, btrfs); copy it to another.  Its `upper` and `work` "
            "must be folders"
        )
    if step == "flock":
        return "a folder that keeps what is written through an overlay is for one box at a time"
    if step == "start" and error == errno.ETIMEDOUT:
        return (
            "another run of this box may be stopping every process that it can reach (kill(-1, SIGSTOP)); "
            "the box has been ended: give each untrusted program a box of its own"
        )
    if step == "fork" and error == errno.ENOSYS:
        return "a box without a /proc of its own has one run at a time; give it a mount namespace too"
    if step == "chdir":
        return "the working directory must exist inside the box"
    if step == "setrlimit" and error == errno.EPERM:
        return "a limit cannot be raised above the caller's hard limit"
    if step == "exec":
        if error == errno.ENOENT:
            return "not inside the box; or the interpreter in its #! line, or its dynamic loader, is not"
        if error == errno.ENOEXEC:
            return "neither a binary for this machine nor a script with a #! line"
        if refused:
            return "a folder, a file without execute permission, or a noexec mount"
    if step in ("mkdir", "write") and "cgroup" in str(arguments.get("path", "")) and error == errno.EBUSY:
        return "the own cgroup holds processes (cgroups(7), no internal processes)"
    return ""


def setup_error(number: int, layer: str, step: str, arguments: Mapping[str, object]) -> SetupError:
    """The exception for a step that failed, with what usually helps."""
    return SetupError(number, layer=layer, step=step, arguments=arguments, hint=hint(step, number, arguments))


#: ids that no distribution, no container tool and no default of useradd(8) hands out (systemd's "UIDs and GIDs" page
#: calls 1879048192 to 2147352575 unused)
_FIRST_FREE_ID = 1879048192
PIDS = 1 << 22  # the kernel's highest pid_max


@functools.lru_cache(maxsize=1)
def _claimed_ids() -> list[tuple[int, int]]:
    """Ranges of high ids that this host's files give to somebody."""
    claimed = []
    for path in ("/etc/passwd", "/etc/group"):
        for line in _read(path).splitlines():
            fields = line.split(":")
            if len(fields) > 2 and fields[2].isdigit():
                claimed.append((int(fields[2]), int(fields[2])))
    for path in ("/etc/subuid", "/etc/subgid"):
        for line in _read(path).splitlines():
            fields = line.split(":")
            if len(fields) == 3 and fields[1].isdigit() and fields[2].isdigit():
                claimed.append((int(fields[1]), int(fields[1]) + int(fields[2]) - 1))
    return [(first, last) for first, last in claimed if last >= 65536]


def owner_of(host_id: int) -> str:
    """Who has an id of the host already: an account, a group, or a range of subordinate ids; empty for nobody."""
    if host_id < 65536:
        for path in ("/etc/passwd", "/etc/group"):
            for line in _read(path).splitlines():
                fields = line.split(":")
                if len(fields) > 2 and fields[2] == str(host_id):
                    return f"{fields[0]} in {path}"
    return "a range or an account of this host" if any(low <= host_id <= high for low, high in _claimed_ids()) else ""


def free_host_ids(pid: int) -> int:
    """The first of two host ids for the box of process `pid`: high, nobody's, and no other living box's."""
    lowest, highest = highest_ids()
    if highest < 3:
        raise UnsupportedError(
            "an unprivileged id for the box",
            need="at least four ids in this user namespace",
            have=f"ids {lowest} to {highest}",
            remedy="run as an ordinary user, or in a user namespace with more ids",
        )
    start = _FIRST_FREE_ID if highest >= _FIRST_FREE_ID + 2 * PIDS else max(lowest, highest - 2 * PIDS, 1)
    spread = (highest - start - 1) // 2
    for attempt in range(64):
        first = start + 2 * ((pid + attempt * 65537) % spread)
        if not any(low <= first + 1 and first <= high for low, high in _claimed_ids()):
            return first
    raise UnsupportedError("an unprivileged id for the box", have="every id claimed", remedy="Namespaces(host_id=...)")
