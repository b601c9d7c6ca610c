"""`Namespaces`: a clean machine with only the box in it.  See namespaces(7)."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from .. import features, units
from ..errors import ConfigError
from ..plan import Blueprint, IdRequest, Phase, Verb
from ..result import Enforcement, Level
from .base import Layer, Requirements

#: field → clone(2) flag, from <linux/sched.h>; the time namespace has none that clone(2) takes, init unshares it
CLONE_FLAGS = {
    "user": 0x10000000,
    "pid": 0x20000000,
    "mount": 0x00020000,
    "net": 0x40000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
}

_PROC_ATTRIBUTES = 2 | 4 | 8  # nosuid, nodev, noexec, of mount_setattr(2)

_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?")
_LARGEST_ID = (1 << 32) - 2  # -1 means "leave it" to the kernel


@dataclass(frozen=True, kw_only=True, slots=True)
class Namespaces(Layer):
    """Hide the rest of the world: processes, network, users, mounts, host name, IPC, cgroups, clocks.

    Each namespace is on unless switched off.  The payload sees only its own processes, a loopback device and
    nothing else of the network, no System V or POSIX IPC of others, its own host name, and runs as `uid` and `gid`
    inside.  A root caller's box is mapped to two unprivileged host ids of its own (from `host_id`, or from a high
    range that nobody uses); any other caller's to the caller's own id.  User namespaces cannot be nested inside.

    :param user, pid, mount, net, ipc, uts, cgroup, time: whether the box has one of its own.
    :param hostname: the host name inside (needs `uts`).
    :param uid, gid: the payload's ids inside.
    :param host_id: the first of the two host ids a privileged caller's box is mapped to; by default from
        1,879,048,192 up, by the process id of the box's init, so that no two boxes of a host share one.
    :param subordinate: map the caller's ranges of /etc/subuid and /etc/subgid too, by newuidmap(1), so that the
        payload may own files as other ids.
    :param monotonic_offset, boottime_offset: seconds added to those clocks inside (need `time`).

    Linux 5.10; an unprivileged caller needs user namespaces allowed.  Errors: `UnsupportedError`, `SetupError`.
    See namespaces(7), user_namespaces(7), time_namespaces(7).
    """

    user: bool = True
    pid: bool = True
    mount: bool = True
    net: bool = True
    ipc: bool = True
    uts: bool = True
    cgroup: bool = True
    time: bool = True
    hostname: str = "sandbox"
    uid: int = 1000
    gid: int = 1000
    host_id: int | None = None
    subordinate: bool = False
    monotonic_offset: float = 0.0
    boottime_offset: float = 0.0

    def __post_init__(self) -> None:
        for name in (*CLONE_FLAGS, "time", "subordinate"):
            units.flag(getattr(self, name), f"Namespaces({name}=)")
        if not isinstance(self.hostname, str) or not _HOSTNAME.fullmatch(self.hostname):
            raise ConfigError(
                f"Namespaces(hostname=) must be letters, digits, '.' and '-', 64 at most: {self.hostname!r}"
            )
        for name in ("uid", "gid"):
            units.count(getattr(self, name), f"Namespaces({name}=)", least=0, most=_LARGEST_ID)
        if self.host_id is not None:
            units.count(self.host_id, "Namespaces(host_id=)", least=1, most=_LARGEST_ID - 1)
        for name in ("monotonic_offset", "boottime_offset"):
            offset = getattr(self, name)
            if isinstance(offset, bool) or not isinstance(offset, (int, float)) or not abs(offset) < 1e9:
                raise ConfigError(f"Namespaces({name}=) must be seconds, below 1e9: {offset!r}")
            if offset and not self.time:
                raise ConfigError(f"Namespaces({name}=) needs time=True", layers=("Namespaces",))
        if self.subordinate and not self.user:
            raise ConfigError("Namespaces(subordinate=True) needs user=True", layers=("Namespaces",))

    @property
    def wanted(self) -> frozenset[str]:
        """The names of the namespaces that are on."""
        return frozenset(name for name in (*CLONE_FLAGS, "time") if getattr(self, name))

    def requirements(self) -> Requirements:
        return Requirements(
            namespaces=self.wanted, choices={"uid": self.uid, "gid": self.gid, "subordinate": self.subordinate}
        )

    def contribute(self, blueprint: Blueprint) -> None:
        facts = blueprint.facts
        inside = facts.namespaces
        add = blueprint.add
        add(
            self.name, Phase.INIT_IDS, Verb.SESSION_KEYRING
        )  # not namespaced, but as visible as if it were (keyrings(7))
        if "user" in inside:
            for host_id in () if self.host_id is None else (self.host_id, self.host_id + 1):
                if facts.privileged and (owner := features.owner_of(host_id)):
                    raise ConfigError(
                        f"Namespaces(host_id={self.host_id}): id {host_id} is taken: {owner}", layers=(self.name,)
                    )
            blueprint.ids = IdRequest(self.uid, self.gid, self.host_id, self.subordinate)
            if facts.privileged or self.subordinate:
                add(self.name, Phase.INIT_IDS, Verb.INIT_IDS, facts.init_uid, facts.init_gid)
                add(self.name, Phase.IDENTITY, Verb.SETGROUPS)
                add(self.name, Phase.IDENTITY, Verb.SETRESGID, self.gid)
                add(self.name, Phase.IDENTITY, Verb.SETRESUID, self.uid)
            # Nobody inside can make user namespaces, and so reach the kernel code behind them (user_namespaces(7)).
            add(self.name, Phase.SYSTEM, Verb.SYSCTL, "sys/user/max_user_namespaces", "0")
        elif facts.privileged:
            add(self.name, Phase.IDENTITY, Verb.SETGROUPS)
            add(self.name, Phase.IDENTITY, Verb.SETRESGID, facts.gid)
            add(self.name, Phase.IDENTITY, Verb.SETRESUID, facts.uid)
        if "mount" in inside:
            add(self.name, Phase.SOURCES, Verb.MOUNT_PRIVATE)
        if "pid" in inside and "mount" in inside and not facts.has_root:
            add(self.name, Phase.MOUNTS, Verb.MOUNT_PROC, "/proc", "", _PROC_ATTRIBUTES)  # the box's processes only
        if "uts" in inside:
            add(self.name, Phase.MACHINE, Verb.SETHOSTNAME, self.hostname)
        if "ipc" in inside:
            add(self.name, Phase.SYSTEM, Verb.OWN_IPC)  # System V objects do not outlive their run
        if "net" in inside:
            add(self.name, Phase.MACHINE, Verb.LOOPBACK_UP)
        if "time" in inside:
            add(self.name, Phase.MACHINE, Verb.TIME_OFFSETS, self._offsets())
        off = [field.name for field in fields(self) if field.type == "bool" and not getattr(self, field.name)]
        off = [name for name in off if name != "subordinate"]
        on = ", ".join(name for name in (*CLONE_FLAGS, "time") if name in inside)
        blueprint.enforcement[self.name] = Enforcement(
            Level.PARTIAL if off else Level.FULL,
            f"namespaces: {on or 'none'}",
            _why_partial(off, same_id=not facts.privileged),
        )

    def _offsets(self) -> str:
        lines = []
        for clock, offset in (("monotonic", self.monotonic_offset), ("boottime", self.boottime_offset)):
            if offset:
                whole, nanoseconds = divmod(round(offset * 10**9), 10**9)
                lines.append(f"{clock} {whole} {nanoseconds}\n")
        return "".join(lines)


def _why_partial(off: list[str], *, same_id: bool) -> str:
    if not off:
        return ""
    reason = f"off: {', '.join(off)}"
    if "pid" in off and same_id:
        reason += "; so the payload, which has init's id, can kill init and outlive the box"
    return reason
