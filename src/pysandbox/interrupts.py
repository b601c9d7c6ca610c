"""Holding signals back while something is half done.

A signal handler of the application's may raise between any two calls, as KeyboardInterrupt does: also between a system
call that gave a descriptor or a process and the assignment that would have remembered it.  Where we take or give back
such things the thread's signals wait; where we wait for the box they do not.

native/signals.c says how.  Whatever is done with signals held back must come to an end soon by itself.
"""

from __future__ import annotations

import threading
from types import TracebackType

from ._native import ffi, lib


class _Hold(threading.local):
    """How deep this thread is in places that must not be interrupted, and its signal mask outside of them."""

    def __init__(self) -> None:
        self.depth = 0
        self.mask = ffi.new("struct pb_held *")


_hold = _Hold()


class _Uninterrupted:
    """For a block in which no signal handler runs.  May be nested."""

    def __enter__(self) -> None:
        hold = _hold
        if not hold.mask.held:  # at the outermost, or while waiting inside of one
            try:
                lib.pb_hold_signals(hold.mask)
            except BaseException:  # a handler that was due already
                if hold.depth == 0:
                    lib.pb_release_signals(hold.mask)
                raise
        hold.depth += 1

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        hold = _hold
        hold.depth -= 1
        if hold.depth == 0:
            lib.pb_release_signals(hold.mask)


class _Interruptible:
    """For a block inside such a one in which handlers do run: it waits, and nothing is half done."""

    def __enter__(self) -> None:
        if _hold.depth:
            try:
                lib.pb_release_signals(_hold.mask)
            except BaseException:
                lib.pb_hold_signals(_hold.mask)
                raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if _hold.depth:
            lib.pb_hold_signals(_hold.mask)


UNINTERRUPTED = _Uninterrupted()
INTERRUPTIBLE = _Interruptible()
