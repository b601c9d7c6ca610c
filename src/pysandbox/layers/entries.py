"""What a box's root is made of: `Bind`s and `Tmpfs`, and what `ChrootJail` puts beside them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import units
from ..errors import ConfigError


@dataclass(frozen=True)
class Bind:
    """Show a folder or file of the host inside the box, at the same path unless `target` says otherwise.

    Read-only unless `writable`; always nosuid and nodev; with everything mounted below it.  No symlink on the way to
    `source` is followed, as a payload of an earlier run may have put it there (pass `os.path.realpath(...)` of a path
    you trust).  `optional`: leave it out when the source does not exist.
    """

    source: units.StrPath
    target: units.StrPath | None = None
    writable: bool = field(default=False, kw_only=True)
    optional: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        source = units.path(self.source, "Bind(source)")
        if not source.startswith("/") or ".." in source.split("/"):
            raise ConfigError(f"Bind(source) must be absolute and without '..': {source!r}")
        object.__setattr__(self, "source", os.path.normpath(source))
        target = source if self.target is None else self.target
        object.__setattr__(self, "target", units.inside_path(target, "Bind(target)"))
        units.flag(self.writable, "Bind(writable=)")
        units.flag(self.optional, "Bind(optional=)")


@dataclass(frozen=True)
class Tmpfs:
    """An empty writable folder in memory, private to the box, of at most `size` bytes and `inodes` files."""

    target: units.StrPath
    size: int | str = field(default="64M", kw_only=True)
    inodes: int = field(default=16384, kw_only=True)
    mode: int = field(default=0o755, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", units.inside_path(self.target, "Tmpfs(target)"))
        object.__setattr__(self, "size", units.size(self.size, "Tmpfs(size=)", least=4096))
        units.count(self.inodes, "Tmpfs(inodes=)", least=2)
        units.count(self.mode, "Tmpfs(mode=)", least=0, most=0o7777)


@dataclass(frozen=True)
class File:
    """A read-only file with this content."""

    content: bytes


@dataclass(frozen=True)
class Link:
    """A symlink with this text."""

    destination: str


@dataclass(frozen=True)
class Scratch:
    """A writable folder of the root's own file system, whose size and inodes it shares with the others."""

    mode: int = 0o755


@dataclass(frozen=True)
class Devices:
    """A minimal /dev: a folder of the root, which ends up read-only, with devices of the host mounted in it."""


_MOST_STEPS = 1000  # names and symlinks on a path

Entry = Bind | Tmpfs | File | Link | Scratch | Devices


def with_parents(paths: Iterable[str]) -> set[str]:
    """The paths, and every folder above one of them."""
    found: set[str] = set()
    for path in paths:
        while path not in found:
            found.add(path)
            path = os.path.dirname(path)
    return found


def holder(path: str, entries: dict[str, Entry]) -> tuple[str, Entry | None]:
    """The nearest entry above `path`, with its own path; None where that is the root itself."""
    parent = os.path.dirname(path)
    while parent != "/" and parent not in entries:
        parent = os.path.dirname(parent)
    return parent, entries.get(parent)


def resolved(root: str, path: str) -> str:
    """A path inside a root file system without the symlinks that are on it, which lead nowhere but inside."""
    waiting, found = path.strip("/").split("/")[::-1], ""
    for _ in range(_MOST_STEPS):
        if not waiting:
            return found or "/"
        name = waiting.pop()
        if name == "..":
            found = os.path.dirname(found).rstrip("/")
        elif name not in ("", "."):
            try:
                link = os.readlink(f"{root}{found}/{name}")
            except OSError:  # no symlink, or nothing yet
                found = f"{found}/{name}"
                continue
            found = "" if link.startswith("/") else found
            waiting += link.split("/")[::-1]
    raise ConfigError(f"ChrootJail(workdir): too many symlinks on {path!r}", layers=("ChrootJail",))


def tuple_of(value: object, kind: type[Any], what: str) -> tuple[Any, ...]:
    """One or several objects of a type as a tuple; `ConfigError` for anything else."""
    items = value if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else (value,)
    items = tuple(items)
    for item in items:
        if not isinstance(item, kind):
            raise ConfigError(f"ChrootJail({what}=) takes {kind.__name__} objects, not {item!r}")
    return items


def by_path(value: object, what: str) -> list[tuple[str, Any]]:
    """A mapping from paths inside as pairs, its paths normalised; two spellings of one path contradict each other."""
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, tuple) and all(isinstance(item, tuple) and len(item) == 2 for item in value):
        pairs = list(value)
    else:
        raise ConfigError(f"ChrootJail({what}=) must be a mapping from paths inside: {value!r}")
    normal = [(units.inside_path(path, f"a path of {what}"), content) for path, content in pairs]
    seen: set[str] = set()
    for path, _ in normal:
        if path in seen:
            raise ConfigError(f"ChrootJail({what}=): two entries for {path}", layers=("ChrootJail", "ChrootJail"))
        seen.add(path)
    return normal
