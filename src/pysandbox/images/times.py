"""Modes and times that folders are to have when nothing more is made in them."""

from __future__ import annotations

from collections.abc import Iterator

Parts = tuple[str, ...]
Times = tuple[int, float]


class _Node:
    """A folder, and those in it of which something is known."""

    __slots__ = ("inner", "times")

    def __init__(self) -> None:
        self.inner: dict[str, _Node] = {}
        self.times: Times | None = None


class FolderTimes:
    """A mode and a time for folders by their paths; a folder is forgotten at once, whatever is in it."""

    def __init__(self) -> None:
        self._root = _Node()

    def put(self, parts: Parts, times: Times) -> None:
        """Remember them for a folder, in the place of others."""
        node = self._root
        for part in parts:
            inner = node.inner.get(part)
            if inner is None:
                inner = node.inner[part] = _Node()
            node = inner
        node.times = times

    def forget(self, parts: Parts) -> None:
        """Forget those of a folder, and not of what is in it."""
        node = self._find(parts)
        if node is not None:
            node.times = None

    def forget_tree(self, parts: Parts) -> None:
        """Forget those of a folder and of all that is in it."""
        above = self._find(parts[:-1])
        if above is not None:
            above.inner.pop(parts[-1], None)

    def inside_first(self) -> Iterator[tuple[Parts, Times]]:
        """All of them, a folder after those that are in it."""
        pending: list[tuple[Parts, _Node, bool]] = [((), self._root, False)]
        while pending:
            parts, node, left = pending.pop()
            if not left:
                pending.append((parts, node, True))
                pending += [((*parts, name), inner, False) for name, inner in node.inner.items()]
            elif node.times is not None:
                yield parts, node.times

    def _find(self, parts: Parts) -> _Node | None:
        node: _Node | None = self._root
        for part in parts:
            if node is None:
                return None
            node = node.inner.get(part)
        return node
