"""Many may use a box at once; whoever ends it or exchanges it waits until none does."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from .errors import SandboxError
from .interrupts import INTERRUPTIBLE, UNINTERRUPTED

_PATIENCE = 60.0  # seconds; longer than anything takes that is done inside
_MOMENT = 0.001


class Gate:
    """A lock that many hold shared or one holds alone.  Signals are held back while it is held.

    Nobody waits long, nor often, so waiting is looking again a moment later: entering and leaving cost next to nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # of the two below; held for a few instructions
        self._inside = 0
        self._alone = False
        self.shared = _Shared(self)
        self.alone = _Alone(self)

    def enter(self, *, alone: bool) -> None:
        """Come in, once that is possible."""
        deadline = time.monotonic() + _PATIENCE
        while not self._try(alone=alone):
            if time.monotonic() > deadline:
                raise SandboxError("the box is in use by another thread, which does not come to an end")
            _wait()

    def _try(self, *, alone: bool) -> bool:
        with self._lock:
            if self._alone or (alone and self._inside):
                return False
            if alone:
                self._alone = True
            else:
                self._inside += 1
            return True

    def leave(self, *, alone: bool) -> None:
        """Go out."""
        with self._lock:
            if alone:
                self._alone = False
            else:
                self._inside -= 1

    def is_free_within(self, seconds: float) -> bool:
        """Wait until nobody is inside; False if somebody still is."""
        deadline = time.monotonic() + seconds
        while self._inside:
            if time.monotonic() > deadline:
                return False
            _wait()
        return True


def _wait() -> None:
    with INTERRUPTIBLE:
        time.sleep(_MOMENT)


class _Shared:
    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def __enter__(self) -> None:
        with UNINTERRUPTED:
            self._gate.enter(alone=False)
            UNINTERRUPTED.__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._gate.leave(alone=False)
        UNINTERRUPTED.__exit__(exc_type, exc, traceback)


class _Alone:
    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def __enter__(self) -> None:
        with UNINTERRUPTED:
            self._gate.enter(alone=True)
            UNINTERRUPTED.__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._gate.leave(alone=True)
        UNINTERRUPTED.__exit__(exc_type, exc, traceback)
