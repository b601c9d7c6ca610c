"""`Capabilities`: root's powers, one by one.  See capabilities(7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import units
from ..errors import ConfigError
from ..plan import Blueprint, Phase, Verb
from ..result import Enforcement, Level
from .base import Layer

#: <linux/capability.h>, in order
NAMES = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
]


#: what init's own steps need in the box's user namespace
_INIT_NEEDS = (
    "chown",  # folders that the payload is to own
    "dac_override",  # files of the payload's, in write_file and read_file
    "fowner",
    "kill",  # processes of other ids
    "net_admin",  # loopback up
    "setgid",
    "setpcap",  # drops from the bounding set
    "setuid",
    "sys_admin",  # mounts, host name, namespaces
    "sys_chroot",
    "sys_resource",  # sysctls of user namespaces
    "sys_time",  # clock offsets
)


def _mask(names: Sequence[str]) -> int:
    return sum(1 << NAMES.index(name) for name in names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities(Layer):
    """Leave the payload no capability but those in `keep`: all five sets are emptied of the rest.

    Names are the kernel's in lower case without "cap_": `Capabilities(keep=("net_bind_service",))`.  In a box with
    a user namespace they count for the box's own namespaces only.  See capabilities(7).
    """

    keep: Sequence[str] = ()

    def __post_init__(self) -> None:
        given = units.names(self.keep, "Capabilities(keep=)")
        names = []
        for name in given:
            plain = name.lower().removeprefix("cap_") if isinstance(name, str) else name
            if plain not in NAMES:
                raise ConfigError(f"Capabilities(keep=): {name!r} is no capability; see capabilities(7)")
            names.append(plain)
        object.__setattr__(self, "keep", tuple(sorted(set(names))))

    @property
    def mask(self) -> int:
        """The kept capabilities as the kernel's bits."""
        return _mask(self.keep)

    def contribute(self, blueprint: Blueprint) -> None:
        facts = blueprint.facts
        blueprint.init_capabilities = _mask(_INIT_NEEDS) | self.mask
        reasons = [f"kept: {', '.join(self.keep)}"] if self.keep else []
        if facts.privileged or "user" in facts.namespaces:
            blueprint.add(self.name, Phase.PRIVILEGES, Verb.CAPBSET, self.mask)
        else:
            reasons.append("the bounding set stays as it is: only a privileged process may drop from it")
        blueprint.add(self.name, Phase.CAPABILITIES, Verb.CAPSET, self.mask)
        blueprint.enforcement[self.name] = Enforcement(
            Level.PARTIAL if reasons else Level.FULL,
            "capset: all five sets empty" if not reasons else "capset",
            "; ".join(reasons),
        )
