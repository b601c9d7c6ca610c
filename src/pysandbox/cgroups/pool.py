"""The leaves of a box: a leaf that a run left clean serves the next, which saves making and removing folders."""

from __future__ import annotations

import threading

from ..plan import CgroupRequest
from .base import Group, Leaf
from .find import fresh_name


class Leaves:
    """Leaves by their limits; each belongs to one run at a time, and all are removed with the box."""

    _MOST = 8  # kept, for runs side by side

    def __init__(self) -> None:
        self._free: list[Leaf] = []
        self._closed = False
        self._lock = threading.Lock()

    def take(self, group: Group, request: CgroupRequest) -> Leaf:
        """A leaf with these limits, its counters at nothing."""
        with self._lock:
            for index, leaf in enumerate(self._free):
                if leaf.request is request or leaf.request == request:
                    return self._free.pop(index)
        return group.create(fresh_name(), request)

    def make_ahead(self, group: Group, request: CgroupRequest) -> None:
        """Make a leaf that the first run with these limits will take."""
        leaf = group.create(fresh_name(), request)
        with self._lock:
            self._free.append(leaf)

    def give_back(self, leaf: Leaf, *, keep: bool = True) -> None:
        """Take a leaf whose run has ended; it is kept only if nothing of the run shows in it."""
        if keep and leaf.reset():
            with self._lock:
                if len(self._free) < self._MOST and not self._closed:
                    self._free.append(leaf)
                    return
        leaf.remove()

    def close(self) -> None:
        """Remove every leaf."""
        with self._lock:
            leaves, self._free, self._closed = self._free, [], True
        for leaf in leaves:
            leaf.remove()
