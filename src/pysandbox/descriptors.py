"""Keeping our own descriptors away from 0, 1 and 2.

A caller may have closed its standard descriptors.  Were one of ours to take such a number, a program that inherits the
caller's stdout would be given, say, the control socket.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

STANDARD = (0, 1, 2)


def is_open(fd: int) -> bool:
    """Whether this process has the descriptor."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def reserved() -> Iterator[None]:
    """Keep the closed ones of 0, 1 and 2 taken, so that what is opened meanwhile goes above them."""
    fillers = []
    try:
        while not all(map(is_open, STANDARD)):
            fillers.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        yield
    finally:
        for filler in fillers:
            os.close(filler)


def open_above(path: str, flags: int) -> int:
    """open(2), close-on-exec, never on 0, 1 or 2."""
    fd = os.open(path, flags | os.O_CLOEXEC)
    if fd > 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)
