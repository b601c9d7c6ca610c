"""Many may use a box at once; whoever ends it or exchanges it waits until none does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from .errors import SandboxError
from .interrupts import INTERRUPTIBLE, UNINTERRUPTED

_PATIENCE = 60.0  # seconds; longer than anything takes that is done inside
_SLICE = 0.05


class Gate:
    """A lock that many hold shared or one holds alone.  Signals are held back while it is held."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside = 0
        self._alone = False
        self.shared = _Side(self._enter, self._leave)
        self.alone = _Side(self._enter_alone, self._leave_alone)

    def is_free_within(self, seconds: float) -> bool:
        """Wait until nobody is inside; False if somebody still is."""
        deadline = time.monotonic() + seconds
        with UNINTERRUPTED, self._condition:
            while self._inside and time.monotonic() < deadline:
                self._wait()
            return self._inside == 0

    def _wait(self) -> None:
        with INTERRUPTIBLE:
            self._condition.wait(_SLICE)

    def _wait_while_taken(self, *, alone: bool) -> None:
        deadline = time.monotonic() + _PATIENCE
        while self._alone or (alone and self._inside):
            if time.monotonic() > deadline:
                raise SandboxError("the box is in use by another thread, which does not come to an end")
            self._wait()

    def _enter(self) -> None:
        with self._condition:
            self._wait_while_taken(alone=False)
            self._inside += 1

    def _leave(self) -> None:
        with self._condition:
            self._inside -= 1
            self._condition.notify_all()

    def _enter_alone(self) -> None:
        with self._condition:
            self._wait_while_taken(alone=True)
            self._alone = True

    def _leave_alone(self) -> None:
        with self._condition:
            self._alone = False
            self._condition.notify_all()


class _Side:
    """One way to hold the gate, for `with`."""

    def __init__(self, enter: Callable[[], None], leave: Callable[[], None]) -> None:
        self._enter, self._leave = enter, leave

    def __enter__(self) -> None:
        UNINTERRUPTED.__enter__()
        try:
            self._enter()
        except BaseException:
            UNINTERRUPTED.__exit__(None, None, None)
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._leave()
        finally:
            UNINTERRUPTED.__exit__(None, None, None)
