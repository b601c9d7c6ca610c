"""Keeping our own descriptors away from 0, 1 and 2.

A caller may have closed its standard descriptors.  Were one of ours to take such a number, a program that inherits the
caller's stdout would be given, say, the control socket.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager

STANDARD = (0, 1, 2)


def closed_ones() -> tuple[int, ...]:
    """Those of 0, 1 and 2 that this process does not have."""
    try:
        for fd in STANDARD:
            os.fstat(fd)
    except OSError:
        return tuple(fd for fd in STANDARD if not _is_open(fd))
    return ()


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def reserved(closed: tuple[int, ...]) -> AbstractContextManager[None]:
    """Keep the `closed` ones of 0, 1 and 2 taken, so that what is opened meanwhile goes above them."""
    return _fillers() if closed else _NOTHING


_NOTHING = contextlib.nullcontext()


@contextlib.contextmanager
def _fillers() -> Iterator[None]:
    fillers = []
    try:
        while closed_ones():
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
