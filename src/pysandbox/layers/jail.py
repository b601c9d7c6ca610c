"""`ChrootJail`: limit where a process can walk.  See pivot_root(2), mount_namespaces(7), and layers/system.py."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import units
from ..errors import ConfigError
from ..plan import Blueprint, Phase, Verb
from ..result import Enforcement, Level
from . import system
from .base import Layer, Requirements

# mount_setattr(2)
RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
# native/steps.h
TREE_OPTIONAL, TREE_NO_SYMLINKS, TREE_DEVICE, MASK_OPTIONAL = 1, 2, 4, 1

_DEVICE_NUMBERS = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "urandom": (1, 9), "tty": (5, 0)}
_DEVICE_LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
    "/dev/ptmx": "pts/ptmx",
    "/dev/random": "urandom",  # the same generator since Linux 5.6
}
#: what container runtimes cover in /proc (the rest of it is read-only as a whole)
_PROC_MASKS = ("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list")
#: top-level names of a prepared root that the box has its own of
_OWN_NAMES = frozenset({"dev", "proc", "tmp"})
_MOST_TOP_LEVEL = 200
_PAGE = os.sysconf("SC_PAGE_SIZE")
_DEVICE_INODES = len(_DEVICE_NUMBERS) + len(_DEVICE_LINKS) + 4  # with /proc, /dev/pts, and what covers others


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
class _File:
    content: bytes


@dataclass(frozen=True)
class _Link:
    destination: str


@dataclass(frozen=True)
class _Scratch:
    """A writable folder of the root's own file system, whose size and inodes it shares with the others."""

    mode: int = 0o755


@dataclass(frozen=True)
class _Devices:
    """A minimal /dev: a folder of the root, which ends up read-only, with devices of the host mounted in it."""


_Entry = Bind | Tmpfs | _File | _Link | _Scratch | _Devices


@dataclass(frozen=True, kw_only=True)
class ChrootJail(Layer):
    """Give the box a root file system made of exactly what is granted; the host's is detached (pivot_root(2)).

    Without `root`, it is built from the system's read-only folders (/usr, /lib*, /bin, /sbin, what programs and TLS
    need of /etc) and the running Python, so that `sys.executable` works inside.  With `root`, from what a prepared
    folder holds: read-only, unless `writable`.  In both there are a private /tmp, /dev, /dev/shm and /proc, and the
    working directory, private and writable.  Nothing is created on the host, and no path that a root file system
    controls is followed out of it.

    :param root: a prepared root file system; the only argument that may be positional.
    :param writable: let the payload write to what `root` holds.
    :param binds: `Bind`s, more of the host's folders and files.
    :param tmpfs: `Tmpfs`, more private writable folders.
    :param files: path inside → content (bytes or str) of read-only files.
    :param symlinks: path inside → what the link says.
    :param hide: paths inside that are covered: a folder by an empty one, a file by an empty one.
    :param workdir: where runs start and `write_file` writes; by default "/box".
    :param size: what the working directory, /tmp and /dev/shm may hold together; memory, and counted as such.
    :param inodes: how many files they may hold together.
    :param python: bring the running Python along (without `root` only).
    :param proc: "new", or "none" for a box without /proc.
    :param proc_options: of the new /proc, such as "hidepid=2" or "subset=pid" (proc(5)).
    :param pivot: False uses chroot(2) where pivot_root cannot work (a root on the initial ramfs); `enforcement` then
        says partial.

    Linux 5.12 (mount_setattr(2)).  Errors: `ConfigError` (missing root, two entries for one path), `SetupError`.
    """

    root: units.StrPath | None = field(default=None, kw_only=False)
    writable: bool = False
    binds: Sequence[Bind] = ()
    tmpfs: Sequence[Tmpfs] = ()
    files: Any = ()
    symlinks: Any = ()
    hide: Sequence[str] = ()
    workdir: str = "/box"
    size: int | str = "256M"
    inodes: int = 65536
    python: bool = True
    proc: str = "new"
    proc_options: str = ""
    pivot: bool = True

    def __post_init__(self) -> None:
        put = object.__setattr__
        if self.root is not None:
            put(self, "root", units.path(self.root, "ChrootJail(root)"))
        put(self, "binds", _tuple_of(self.binds, Bind, "binds"))
        put(self, "tmpfs", _tuple_of(self.tmpfs, Tmpfs, "tmpfs"))
        files = {}
        for path, content in _by_path(self.files, "files"):
            if not isinstance(content, (bytes, str)):
                raise ConfigError(f"ChrootJail(files=): content must be bytes or str: {content!r}")
            files[path] = content.encode() if isinstance(content, str) else content
        put(self, "files", tuple(sorted(files.items())))
        links = {path: units.path(to, "a symlink's text") for path, to in _by_path(self.symlinks, "symlinks")}
        put(self, "symlinks", tuple(sorted(links.items())))
        if isinstance(self.hide, str):
            raise ConfigError("ChrootJail(hide=) must be a sequence of paths, not one")
        hidden = units.names(self.hide, "ChrootJail(hide=)")
        put(self, "hide", tuple(units.inside_path(path, "a path of hide") for path in hidden))
        put(self, "workdir", units.inside_path(self.workdir, "ChrootJail(workdir=)"))
        put(self, "size", units.size(self.size, "ChrootJail(size=)", least=4096))
        units.count(self.inodes, "ChrootJail(inodes=)", least=2)
        for name in ("writable", "python", "pivot"):
            units.flag(getattr(self, name), f"ChrootJail({name}=)")
        if self.writable and self.root is None:
            raise ConfigError("ChrootJail(writable=True) needs a root of your own")
        if self.proc not in ("new", "none"):
            raise ConfigError(f"ChrootJail(proc=) must be 'new' or 'none': {self.proc!r}")
        units.text(self.proc_options, "ChrootJail(proc_options=)")

    @property
    def looks_at_host(self) -> bool:
        return self.root is not None or bool(self.binds)

    def requirements(self) -> Requirements:
        return Requirements(namespaces=frozenset({"mount"}), choices={"has_root": True, "workdir": self.workdir})

    # --- what the root is made of ---------------------------------------------------------------------------

    def _base(self, facts_uid: int) -> dict[str, _Entry]:
        if self.root is not None:
            return self._prepared()
        entries: dict[str, _Entry] = {}
        for path, destination in system.links():
            entries[path] = _Link(destination)
        for source, target in system.folders():
            entries[target] = Bind(source, target, optional=target.startswith("/etc/"))
        for path, content in system.own_files(facts_uid, self.workdir):
            entries[path] = _File(content)
        if self.python:
            for source, target in system.python_folders():
                entries.setdefault(target, Bind(source, target))
            for path, destination in system.python_links():
                entries.setdefault(path, _Link(destination))
        return entries

    def _prepared(self) -> dict[str, _Entry]:
        root = os.path.realpath(os.fspath(self.root or "/"))
        if not os.path.isdir(root):
            raise ConfigError(f"ChrootJail(root): no such folder: {os.fspath(self.root or '')!r}", layers=(self.name,))
        own = _OWN_NAMES | ({self.workdir[1:]} if self.workdir.count("/") == 1 else set())
        entries: dict[str, _Entry] = {}
        with os.scandir(root) as found:
            for entry in found:
                if entry.name in own:
                    continue
                try:
                    mode = entry.stat(follow_symlinks=False).st_mode
                    if stat.S_ISLNK(mode):
                        entries["/" + entry.name] = _Link(os.readlink(entry.path))
                except OSError as error:
                    message = f"ChrootJail(root): {entry.path!r} changed while it was looked at: {error.strerror}"
                    raise ConfigError(message, layers=(self.name,)) from None
                if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
                    entries["/" + entry.name] = Bind(entry.path, "/" + entry.name, writable=self.writable)
                if len(entries) > _MOST_TOP_LEVEL:
                    raise ConfigError(f"ChrootJail(root): more than {_MOST_TOP_LEVEL} entries in {root!r}")
        return entries

    def _wanted(self) -> dict[str, _Entry]:
        """What the caller granted, by path inside; two entries for one path contradict each other."""
        wanted: dict[str, _Entry] = {}
        everything: list[tuple[str, _Entry]] = [(str(bind.target), bind) for bind in self.binds]
        everything += [(str(tmpfs.target), tmpfs) for tmpfs in self.tmpfs]
        everything += [(path, _File(content)) for path, content in self.files]
        everything += [(path, _Link(to)) for path, to in self.symlinks]
        for path, entry in everything:
            if path in wanted:
                raise ConfigError(
                    f"ChrootJail: two entries for {path}: {wanted[path]} and {entry}", layers=(self.name, self.name)
                )
            wanted[path] = entry
        return wanted

    def entries(self, uid: int) -> dict[str, _Entry]:
        """Everything in the root by path inside, the caller's wishes over the defaults."""
        entries = self._base(uid)
        entries |= {
            "/tmp": _Scratch(0o1777),
            "/dev": _Devices(),
            "/dev/shm": _Scratch(0o1777),
            self.workdir: _Scratch(),
        }
        wanted = self._wanted()
        self._check_own(entries, wanted)
        for path in wanted:  # a default inside something the caller put there gives way
            for default in [name for name in entries if name == path or name.startswith(path + "/")]:
                del entries[default]
        entries |= wanted
        for path, entry in entries.items():
            self._check_parent(path, entry, entries)
        return entries

    def _check_own(self, defaults: dict[str, _Entry], wanted: dict[str, _Entry]) -> None:
        """What the box has of its own cannot be had in another way: /proc, the devices, the working directory."""
        own = {f"/dev/{name}" for name in (*_DEVICE_NUMBERS, "pts")} | set(_DEVICE_LINKS)
        names = (self.name, self.name)
        for path, entry in wanted.items():
            if self.proc == "new" and (path == "/proc" or path.startswith("/proc/")):
                raise ConfigError(
                    f"ChrootJail: {entry} would be covered by the new /proc (proc='none' has none)", layers=names
                )
            if "/dev" not in wanted and path in own:
                raise ConfigError(f"ChrootJail: {entry} is in the place of the box's own {path}", layers=names)
            if path == self.workdir and isinstance(entry, (_File, _Link)):
                raise ConfigError(f"ChrootJail: workdir={path!r} cannot be {entry}", layers=names)
        taken = self._base(0).get(self.workdir)
        if taken is not None and self.workdir not in wanted:
            raise ConfigError(f"ChrootJail: workdir={self.workdir!r} is in the place of {taken}", layers=names)

    def _check_parent(self, path: str, entry: _Entry, entries: dict[str, _Entry]) -> None:
        """A mount point inside a folder of the host must be there already: nothing is created on the host."""
        parent, holder = _holder(path, entries)
        if isinstance(holder, Bind):
            there = os.fspath(holder.source) + path[len(parent) :]
            if isinstance(entry, (_File, _Link)) or not os.path.lexists(there):
                raise ConfigError(
                    f"ChrootJail: {path} lies inside {holder}, where nothing is created; "
                    f"make it in {os.fspath(holder.source)!r} first, or put it elsewhere",
                    layers=(self.name, self.name),
                )
        elif isinstance(holder, (_File, _Link)):
            raise ConfigError(
                f"ChrootJail: {path} lies inside {parent}, which is {holder}", layers=(self.name, self.name)
            )

    # --- steps ----------------------------------------------------------------------------------------------

    def contribute(self, blueprint: Blueprint) -> None:
        facts = blueprint.facts
        add = blueprint.add
        entries = self.entries(facts.uid)
        # The box's own files and folders come on top of what was asked for.
        content = sum(len(entry.content) + _PAGE for entry in entries.values() if isinstance(entry, _File))
        links = _PAGE * sum(isinstance(entry, _Link) for entry in entries.values())
        names = _DEVICE_INODES + len(_with_parents(entries))
        size = content + links + units.size(self.size, "size")
        add(self.name, Phase.ROOT, Verb.NEW_ROOT, size, names + self.inodes)
        for path in sorted(entries, key=lambda path: (path.count("/"), path)):
            entry = entries[path]
            if isinstance(entry, _Scratch) and isinstance(_holder(path, entries)[1], Bind):
                entry = Tmpfs(path, size=self.size, inodes=self.inodes, mode=entry.mode)  # nothing is ours there
            self._add_entry(blueprint, path, entry)
        self._add_proc(blueprint)
        for path in self.hide:
            add(self.name, Phase.MASKS, Verb.MASK, path, 0)
        add(self.name, Phase.SEAL, Verb.READ_ONLY, "/")
        add(self.name, Phase.ENTER, Verb.PIVOT_ROOT if self.pivot else Verb.CHROOT)
        blueprint.enforcement[self.name] = Enforcement(
            Level.FULL if self.pivot else Level.PARTIAL,
            "pivot_root into a private root" if self.pivot else "chroot into a private root",
            "" if self.pivot else "chroot(2) leaves the host's mounts attached in the box's mount namespace",
        )

    def _add_entry(self, blueprint: Blueprint, path: str, entry: _Entry) -> None:
        add = blueprint.add
        facts = blueprint.facts
        if isinstance(entry, Bind):
            attributes = NOSUID | NODEV | (0 if entry.writable else RDONLY)
            flags = TREE_NO_SYMLINKS | (TREE_OPTIONAL if entry.optional else 0)
            slot = blueprint.tree()
            add(self.name, Phase.SOURCES, Verb.OPEN_TREE, slot, os.fspath(entry.source), flags, 0)
            add(self.name, Phase.MOUNTS, Verb.ATTACH_TREE, slot, path, attributes)
        elif isinstance(entry, Tmpfs):
            size = units.size(entry.size, "size")
            attributes = NOSUID | NODEV
            owner = facts.uid | facts.gid << 32
            add(self.name, Phase.MOUNTS, Verb.MOUNT_TMPFS, path, size, entry.inodes, entry.mode, attributes, owner)
        elif isinstance(entry, _Scratch):
            owner = facts.uid | facts.gid << 32
            add(self.name, Phase.MOUNTS, Verb.MOUNT_WRITABLE, path, entry.mode, owner)
        elif isinstance(entry, _File):
            add(self.name, Phase.MOUNTS, Verb.WRITE_FILE, path, entry.content, 0o444)
        elif isinstance(entry, _Link):
            add(self.name, Phase.MOUNTS, Verb.SYMLINK, entry.destination, path)
        else:
            self._add_devices(blueprint)

    def _add_devices(self, blueprint: Blueprint) -> None:
        add = blueprint.add
        for name, (major, minor) in _DEVICE_NUMBERS.items():
            slot = blueprint.tree()
            device = os.makedev(major, minor)
            add(self.name, Phase.SOURCES, Verb.OPEN_TREE, slot, f"/dev/{name}", TREE_DEVICE, device)
            add(self.name, Phase.MOUNTS, Verb.ATTACH_TREE, slot, f"/dev/{name}", NOSUID | NOEXEC)
        add(self.name, Phase.MOUNTS, Verb.MOUNT_DEVPTS, "/dev/pts", NOSUID | NOEXEC)
        for path, destination in _DEVICE_LINKS.items():
            add(self.name, Phase.MOUNTS, Verb.SYMLINK, destination, path)

    def _add_proc(self, blueprint: Blueprint) -> None:
        add = blueprint.add
        flags = NOSUID | NODEV | NOEXEC
        if "pid" in blueprint.facts.namespaces:
            # Also when it is not shown: init counts its children there.
            shown = "/proc" if self.proc == "new" else ""
            add(self.name, Phase.MOUNTS, Verb.MOUNT_PROC, shown, self.proc_options, flags)
        elif self.proc == "new":  # a /proc of the host's processes, as they are not hidden
            slot = blueprint.tree()
            add(self.name, Phase.SOURCES, Verb.OPEN_TREE, slot, "/proc", TREE_NO_SYMLINKS, 0)
            add(self.name, Phase.MOUNTS, Verb.ATTACH_TREE, slot, "/proc", flags)
        if self.proc == "new":
            for name in filter(_is_in_proc, _PROC_MASKS):
                add(self.name, Phase.MASKS, Verb.MASK, f"/proc/{name}", MASK_OPTIONAL)
            add(self.name, Phase.SEAL, Verb.READ_ONLY, "/proc")


def _with_parents(paths: Iterable[str]) -> set[str]:
    """The paths, and every folder above one of them."""
    found: set[str] = set()
    for path in paths:
        while path not in found:
            found.add(path)
            path = os.path.dirname(path)
    return found


def _holder(path: str, entries: dict[str, _Entry]) -> tuple[str, _Entry | None]:
    """The nearest entry above `path`, with its own path; None where that is the root itself."""
    parent = os.path.dirname(path)
    while parent != "/" and parent not in entries:
        parent = os.path.dirname(parent)
    return parent, entries.get(parent)


@functools.cache
def _is_in_proc(name: str) -> bool:
    return os.path.exists(f"/proc/{name}")


def _tuple_of(value: object, kind: type[Any], what: str) -> tuple[Any, ...]:
    items = value if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else (value,)
    items = tuple(items)
    for item in items:
        if not isinstance(item, kind):
            raise ConfigError(f"ChrootJail({what}=) takes {kind.__name__} objects, not {item!r}")
    return items


def _by_path(value: object, what: str) -> list[tuple[str, Any]]:
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
