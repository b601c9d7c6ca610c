"""What this host can enforce, what is missing, and the exact fix: the text of `pysandbox doctor`.

Looks, and tries the default box for real; changes nothing.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass

from . import cgroups, features
from .errors import SandboxError
from .layers import CgroupLimits, ChrootJail, Namespaces, Seccomp
from .oneshot import run
from .result import Level
from .sandbox import Sandbox

#: feature of `Namespaces` → the file in /proc/self/ns that shows that the kernel has it
_NAMESPACE_FILES = {
    "user": "user",
    "pid": "pid",
    "mount": "mnt",
    "net": "net",
    "ipc": "ipc",
    "uts": "uts",
    "cgroup": "cgroup",
    "time": "time",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: how it stands, and what would mend it."""

    name: str
    level: Level
    detail: str
    fix: str = ""


def _host() -> Finding:
    who = "root-like" if features.is_privileged() else f"uid {os.geteuid()}, unprivileged"
    return Finding("host", Level.FULL, f"Linux {platform.release()}, {platform.machine()}, {who}")


def _namespaces() -> Finding:
    missing = [name for name, file in _NAMESPACE_FILES.items() if not os.path.exists(f"/proc/self/ns/{file}")]
    if missing:
        fix = "a kernel with these configured (CONFIG_NAMESPACES and its options)"
        return Finding("namespaces", Level.PARTIAL, f"the kernel lacks: {', '.join(missing)}", fix)
    try:
        run(["/bin/true"], base=(Namespaces(),)).check_returncode()
    except SandboxError as error:
        return Finding("namespaces", Level.NONE, str(error), features.userns_remedy() or getattr(error, "hint", ""))
    return Finding("namespaces", Level.FULL, "all eight can be made: user, pid, mount, net, ipc, uts, cgroup, time")


def _root() -> Finding:
    try:
        run(["/bin/true"], base=(Namespaces(), ChrootJail())).check_returncode()
    except SandboxError as error:
        return Finding("root file system", Level.NONE, str(error), getattr(error, "hint", ""))
    return Finding("root file system", Level.FULL, "pivot_root into a private root, with a /proc of its own")


def _limits() -> Finding:
    group = cgroups.own_group()
    if group is None:
        return Finding(
            "limits",
            Level.PARTIAL,
            f"no cgroup: {cgroups.why_not()}; the default's bounds are kept by watching and rlimits",
            "run as root, or in a delegated scope: systemd-run --user --scope -p Delegate=yes COMMAND; "
            "with cgroup v2 call pysandbox.vacate_cgroup() at the program's start",
        )
    try:
        limits = CgroupLimits(memory="64M", pids=16)
        run(["/bin/true"], limits, base=(Namespaces(),)).check_returncode()
    except SandboxError as error:
        return Finding("limits", Level.PARTIAL, str(error), getattr(error, "remedy", "") or getattr(error, "hint", ""))
    return Finding("limits", Level.FULL, f"{group.kind}: memory and processes of each run as a whole")


def _filters() -> Finding:
    try:
        run(["/bin/true"], Seccomp(), base=()).check_returncode()
    except SandboxError as error:
        fix = getattr(error, "remedy", "") or getattr(error, "hint", "")
        return Finding("system calls", Level.NONE, str(error), fix)
    return Finding("system calls", Level.FULL, "seccomp filters, compiled by libseccomp")


def _default_box() -> Finding:
    try:
        with Sandbox() as box:
            box.run(["/bin/true"]).check_returncode()
            weak = [name for name, row in box.enforcement.items() if row.level is not Level.FULL]
    except SandboxError as error:
        return Finding("Sandbox()", Level.NONE, str(error), getattr(error, "hint", ""))
    if weak:
        return Finding("Sandbox()", Level.PARTIAL, f"works; not in full: {', '.join(sorted(weak))}")
    return Finding("Sandbox()", Level.FULL, "works, every layer in full")


def clean(parents: Sequence[str] = ()) -> list[str]:
    """Remove the cgroups that dead applications have left below the own cgroup and below `parents`; returns them."""
    return cgroups.sweep(parents)


def examine() -> list[Finding]:
    """Look at everything."""
    return [_host(), _namespaces(), _root(), _limits(), _filters(), _default_box()]
