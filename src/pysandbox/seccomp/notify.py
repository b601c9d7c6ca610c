"""Hearing of the calls that end a run: seccomp_unotify(2).  The call waits meanwhile, and is never let through."""

from __future__ import annotations

import errno
import fcntl
import struct

from . import libseccomp

_NOTIFICATION = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
_RECEIVE = 0xC0502100  # SECCOMP_IOCTL_NOTIF_RECV


def receive(listener: int) -> str | None:
    """The call that a process of the run has made, with its arguments; None where it has died of something else."""
    data = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, data, True)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    _, _, _, number, _, _, *arguments = _NOTIFICATION.unpack(data)
    return f"{libseccomp.name_of(number)}({', '.join(map(hex, arguments))})"
