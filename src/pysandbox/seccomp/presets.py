"""Ready-made policies.  What they let through is data here; layers/seccomp.py builds on them."""

from __future__ import annotations

import errno

from .policy import Arg, Rule

#: CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET (clone(2)); and TIME, which in clone(2) is part of the exit signal
_NEW_NAMESPACES = tuple(1 << bit for bit in (17, 25, 26, 27, 28, 29, 30))
_NEW_TIME = 1 << 7
_TIOCSTI, _TIOCLINUX, _TIOCSETD = 0x5412, 0x541C, 0x5423
_UNIX, _INET, _INET6, _NETLINK, _HIGHEST_FAMILY = 1, 2, 10, 16, 16
#: PER_LINUX, PER_LINUX32, UNAME26, and asking for it (personality(2))
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
#: openat(2): O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND and the part of O_TMPFILE that is not O_DIRECTORY
_WRITE_FLAGS = (0o1, 0o2, 0o100, 0o1000, 0o2000, 0o20000000)
_SET_LOCKS = (5, 6, 7, 36, 37, 38, 1024)  # fcntl(2): F_GETLK to F_SETLKW, the same of open files, F_SETLEASE

_COMPUTING = ("@memory", "@time", "@signals", "@threads", "@self", "@reading", "@output", "@polling", "@pipes")


def _allow(*names: str, when: tuple[Arg, ...] = ()) -> Rule:
    return Rule("allow", names, when=when)


def _refuse(number: int, *names: str, when: tuple[Arg, ...] = ()) -> Rule:
    return Rule("errno", names, number, when)


def _namespaces() -> list[Rule]:
    """No way to new namespaces: clone3(2) has its flags in memory, where no filter looks, so it is not there."""
    rules = [_refuse(errno.EPERM, "clone", when=(Arg(0, "&", flag, flag),)) for flag in _NEW_NAMESPACES]
    rules += [_allow("unshare")]
    rules += [
        _refuse(errno.EPERM, "unshare", when=(Arg(0, "&", flag, flag),)) for flag in (*_NEW_NAMESPACES, _NEW_TIME)
    ]
    return [*rules, _refuse(errno.EPERM, "setns"), _refuse(errno.ENOSYS, "clone3")]


def _terminals() -> list[Rule]:
    """Nothing is typed for the user (CVE-2017-5226; the low 32 bits: CVE-2019-10063), no line discipline is loaded."""
    return [
        _allow("ioctl"),
        *(
            _refuse(errno.EPERM, "ioctl", when=(Arg(1, "==", request),))
            for request in (_TIOCSTI, _TIOCLINUX, _TIOCSETD)
        ),
    ]


def _families() -> list[Rule]:
    """Sockets of ordinary programs, and of netlink what getaddrinfo(3) asks for the interfaces."""
    others = [family for family in range(_HIGHEST_FAMILY) if family not in (_UNIX, _INET, _INET6)]
    return [
        _allow("@sockets"),
        *(_refuse(errno.EAFNOSUPPORT, "socket", when=(Arg(0, "==", family),)) for family in others),
        _refuse(errno.EAFNOSUPPORT, "socket", when=(Arg(0, ">", _HIGHEST_FAMILY, bits=64),)),
        _refuse(errno.EPROTONOSUPPORT, "socket", when=(Arg(0, "==", _NETLINK), Arg(2, ">", 0, bits=64))),
    ]


_DANGEROUS = _refuse(
    errno.EPERM,
    *("@mounts", "@tracing", "@keys", "@kernel", "@clocks", "@machine", "@io_uring", "@handles"),
)

DEFAULT: tuple[Rule, ...] = (
    _DANGEROUS,
    _allow(*_COMPUTING, "@ids", "@processes", "@scheduling", "@opening", "@writing", "@locks", "@watching", "@aio"),
    _allow("@sysv_ipc", "@message_queues", "@confinement"),
    *(_allow("personality", when=(Arg(0, "==", value),)) for value in _PERSONALITIES),
    *_namespaces(),
    *_terminals(),
    *_families(),
)

STRICT: tuple[Rule, ...] = (
    _DANGEROUS,
    _refuse(errno.EPERM, "@ids", "@processes", "@scheduling", "@writing", "@sockets", "@sysv_ipc", "@message_queues"),
    _allow(*_COMPUTING, "execve", "wait4", "waitid"),
    _allow("open", "openat"),
    *(_refuse(errno.EACCES, "open", when=(Arg(1, "&", flag, flag),)) for flag in _WRITE_FLAGS),
    *(_refuse(errno.EACCES, "openat", when=(Arg(2, "&", flag, flag),)) for flag in _WRITE_FLAGS),
    *_terminals(),
)

JUDGE: tuple[Rule, ...] = (
    *DEFAULT,
    Rule("kill", ("@mounts", "@tracing", "@keys", "@kernel", "@clocks", "@machine", "@io_uring", "@handles")),
    # What two submissions on one machine could talk by: locks on files that both see.
    _refuse(errno.EPERM, "flock"),
    *(_refuse(errno.EPERM, "fcntl", when=(Arg(1, "==", command),)) for command in _SET_LOCKS),
    _refuse(errno.EACCES, "socket"),
    _refuse(errno.ENOSYS, "@sysv_ipc", "@message_queues", "@watching", "@confinement", "@aio"),
)

#: with debuggers, of processes of the box, and what they ask for: no randomised addresses
BUILD: tuple[Rule, ...] = (
    *DEFAULT,
    _allow("@tracing"),
    *(_allow("personality", when=(Arg(0, "==", value),)) for value in (0x40000, 0x40008)),
)

PRESETS: dict[str, tuple[Rule, ...] | None] = {
    "off": None,
    "default": DEFAULT,
    "strict": STRICT,
    "judge": JUDGE,
    "python": DEFAULT,
    "build": BUILD,
}
