"""Many may use a box at once; whoever ends it or exchanges it waits until none does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from .errors import SandboxError
from .interrupts import INTERRUPTIBLE

_PATIENCE = 60.0  # seconds; longer than anything takes that is done inside
_HURRY = 5.0  # as long as the start of a run may take at least
_MOMENT = 0.001


class Gate:
    """A lock that many hold shared or one holds alone.  To be entered and left with signals held back.

    Nobody waits long, nor often, so waiting is looking again a moment later: entering and leaving cost next to nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # of the three below; held for a few instructions
        self._inside = 0
        self._alone = False
        self._wanting = 0  # those who want to be alone: nobody comes in before them
        self.shared = _Side(self._enter, self._leave)

    def alone(self, hurry: Callable[[], None] = lambda: None) -> _Side:
        """For `with`.  `hurry` is called once those inside have been waited for in vain for a while."""
        return _Side(lambda: self._enter_alone(hurry), self._leave_alone)

    def _enter(self) -> None:
        deadline = None
        while True:
            with self._lock:
                if not self._alone and not self._wanting:
                    self._inside += 1
                    return
            deadline = deadline or time.monotonic() + _PATIENCE
            _wait_until(deadline)

    def _enter_alone(self, hurry: Callable[[], None]) -> None:
        begin = time.monotonic()
        with self._lock:
            self._wanting += 1
        try:
            hurried = False
            while True:
                with self._lock:
                    if not self._alone and not self._inside:
                        self._alone = True
                        return
                if not hurried and time.monotonic() > begin + _HURRY:
                    hurried = True
                    hurry()
                _wait_until(begin + _PATIENCE)
        finally:
            with self._lock:
                self._wanting -= 1

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1

    def _leave_alone(self) -> None:
        with self._lock:
            self._alone = False


def _wait_until(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise SandboxError("the box is in use by another thread, which does not come to an end")
    with INTERRUPTIBLE:
        time.sleep(_MOMENT)


class _Side:
    """One way to hold the gate."""

    def __init__(self, enter: Callable[[], None], leave: Callable[[], None]) -> None:
        self._enter, self._leave = enter, leave

    def __enter__(self) -> None:
        self._enter()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()
