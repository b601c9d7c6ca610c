"""Watching runs while they go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from typing_extensions import Self

from .result import Stats

_SUMMED = ("processes", "memory", "cpu_time", "io_read", "io_written", "throttled")


def total(readings: Iterable[Stats]) -> Stats:
    """Several runs' readings as one; a figure that one of them lacks is None."""
    readings = list(readings)
    sums: dict[str, Any] = {}  # ints and floats, by the field
    for name in _SUMMED:
        values = [getattr(reading, name) for reading in readings]
        sums[name] = None if None in values else sum(values)
    return Stats(time=time.monotonic(), **sums)


class Watch:
    """Readings at an interval, until there is no run any more.  Made by `Sandbox.watch`."""

    def __init__(self, look: Callable[[], Stats | None], interval: float) -> None:
        self._look = look
        self._interval = interval
        self._next = time.monotonic()

    def _pause(self) -> float:
        """Seconds until the next reading; those that nobody asked for in time are left out."""
        now = time.monotonic()
        pause = max(0.0, self._next - now)
        self._next = max(now, self._next) + self._interval
        return pause

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Stats:
        time.sleep(self._pause())
        stats = self._look()
        if stats is None:
            raise StopIteration
        return stats

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Stats:
        import asyncio  # 25 ms that an application without it is spared

        await asyncio.sleep(self._pause())
        stats = self._look()
        if stats is None:
            raise StopAsyncIteration
        return stats
