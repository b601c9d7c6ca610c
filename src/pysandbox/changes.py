"""What was written through an overlay: read from its upper folder, compared with the lower one.

See the kernel's Documentation/filesystems/overlayfs.rst: what was deleted is a character device 0:0 in the upper
folder, and a folder that replaces another has the attribute "opaque".  The upper folder is the payload's to fill, so it
is read as in walking.py; what a payload claims by such marks can hide nothing but what it has deleted itself.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from . import walking
from .plan import PrivatePaths
from .walking import Budget

Kind = Literal["added", "modified", "deleted", "renamed"]

_OPAQUE = "user.overlay.opaque"
_MOST_PAIRS = 4_000_000
_LARGEST_DIFF = 1 << 20  # bytes of a file that `diff` looks at


@dataclass(frozen=True)
class Change:
    """A path inside that is not as it was when the box was entered."""

    kind: Kind
    path: str
    size: int = 0  #: bytes that the file has now; 0 of what was deleted, and of what is no regular file
    source: str = ""  #: of a renamed file, what it was called


@dataclass(frozen=True)
class Entry:
    """What is in the upper folder: where it is, what it is, and what it lies over."""

    path: str
    name: str
    folder: int  #: open while the entry is looked at
    now: os.stat_result
    before: os.stat_result | None
    below: int | None  #: the lower folder it is in, if that is there
    opaque: bool = False  #: a folder that has replaced the lower one
    hidden: bool = False  #: whether it is in such a folder, so that nothing of the lower one shows

    @property
    def is_deleted(self) -> bool:
        """Whether it stands for something that is not there any more."""
        return stat.S_ISCHR(self.now.st_mode) and self.now.st_rdev == 0


class Upper:
    """The two folders of an overlay, and the paths that the box itself has made there.

    Or one folder, which is at `path` inside, without one below it: then all that is in it has been added.
    """

    def __init__(self, upper: int, lower: int | None, plan: PrivatePaths, budget: Budget, path: str = "/") -> None:
        self._upper, self._lower = upper, lower
        self._plan = plan
        self.budget = budget
        self._path = path

    def changes(self) -> list[Change]:
        """All that is different, by path; a file that was moved is one change where its content says so."""
        found = []
        for entry in self.entries():
            if entry.is_deleted:
                if entry.before is not None:
                    found += self._deleted(entry)
            elif stat.S_ISDIR(entry.now.st_mode):
                if entry.before is None or not stat.S_ISDIR(entry.before.st_mode):
                    found.append(Change("modified" if entry.before else "added", entry.path))
                    continue
                if entry.now.st_mode != entry.before.st_mode:
                    found.append(Change("modified", entry.path))
                if entry.opaque or entry.hidden:
                    found += self._covered(entry)
            elif entry.before is None:
                found.append(Change("added", entry.path, _size(entry.now)))
            elif self.differs(entry):
                found.append(Change("modified", entry.path, _size(entry.now)))
                if stat.S_ISDIR(entry.before.st_mode):
                    found += self._deleted(entry)[1:]  # what was in it
        return sorted(self._with_renames(found), key=lambda change: change.path)

    def entries(self) -> Iterator[Entry]:
        """Everything in the upper folder but what is the box's own, a folder before what is in it."""
        yield from self._walk(self._upper, self._lower, self._path, 0, hidden=False)

    def _walk(self, folder: int, below: int | None, path: str, depth: int, *, hidden: bool) -> Iterator[Entry]:
        if depth > walking.DEEPEST:
            raise OSError(errno.ELOOP, "Folders too deep", path)
        for name in walking.names(folder, self.budget, path):
            inside = os.path.join(path, name)
            now = walking.look(name, folder)
            if now is None or inside in self._plan.covered:
                continue
            before = None if below is None else walking.look(name, below)
            entry = Entry(inside, name, folder, now, before, below, hidden=hidden)
            if not stat.S_ISDIR(now.st_mode):
                yield entry
                continue
            with contextlib.ExitStack() as stack:
                inner = stack.enter_context(walking.opened_folder(name, folder))
                entry = replace(entry, opaque=_is_opaque(inner))
                if before is not None or inside not in self._plan.made:  # on the way to something of the box's own
                    yield entry
                lower = None
                if before is not None and below is not None and stat.S_ISDIR(before.st_mode):
                    lower = stack.enter_context(walking.opened_folder(name, below))
                    if walking.mount_of(lower) != walking.mount_of(below):
                        lower = None  # of what is mounted there the overlay shows nothing
                yield from self._walk(inner, lower, inside, depth + 1, hidden=hidden or entry.opaque)

    # --- what has become of something -----------------------------------------------------------------------

    def _deleted(self, entry: Entry) -> list[Change]:
        """The deletion of a file, or of a folder with each file in it."""
        assert entry.before is not None
        assert entry.below is not None
        found = [Change("deleted", entry.path)]
        if stat.S_ISDIR(entry.before.st_mode):
            with walking.opened_folder(entry.name, entry.below) as folder:
                found += self._all_deleted(folder, entry.path, 0)
        return found

    def _all_deleted(self, folder: int, path: str, depth: int) -> list[Change]:
        found: list[Change] = []
        for name in walking.names(folder, self.budget, path) if depth < walking.DEEPEST else ():
            inside = os.path.join(path, name)
            found.append(Change("deleted", inside))
            there = walking.look(name, folder)
            if there is not None and stat.S_ISDIR(there.st_mode):
                with walking.opened_folder(name, folder) as inner:
                    found += self._all_deleted(inner, inside, depth + 1)
        return found

    def _covered(self, entry: Entry) -> list[Change]:
        """What an opaque folder hides of the one below it: all that it has not got itself."""
        assert entry.below is not None
        found: list[Change] = []
        with (
            walking.opened_folder(entry.name, entry.folder) as upper,
            walking.opened_folder(entry.name, entry.below) as lower,
        ):
            for name in walking.names(lower, self.budget, entry.path):
                if walking.look(name, upper) is None:
                    path = os.path.join(entry.path, name)
                    found.append(Change("deleted", path))
                    there = walking.look(name, lower)
                    if there is not None and stat.S_ISDIR(there.st_mode):
                        with walking.opened_folder(name, lower) as inner:
                            found += self._all_deleted(inner, path, 0)
        return found

    def differs(self, entry: Entry) -> bool:
        """Whether a file is another than before; one that was only opened for writing is not."""
        now, before = entry.now, entry.before
        assert before is not None
        assert entry.below is not None
        if now.st_mode != before.st_mode or _size(now) != _size(before):
            return True  # another kind, too
        if stat.S_ISLNK(now.st_mode):
            return os.readlink(entry.name, dir_fd=entry.folder) != os.readlink(entry.name, dir_fd=entry.below)
        if not stat.S_ISREG(now.st_mode):
            return now.st_rdev != before.st_rdev
        return self._hash(entry.name, entry.folder) != self._hash(entry.name, entry.below)

    def _hash(self, name: str, folder: int) -> bytes:
        fd = walking.open_file(name, folder, name)
        try:
            found = hashlib.sha256()
            for piece in walking.pieces(fd, self.budget, name):
                found.update(piece)
            return found.digest()
        finally:
            os.close(fd)

    def _with_renames(self, found: list[Change]) -> list[Change]:
        """Files that were added and are what one that was deleted has been."""
        sizes = {change.size for change in found if change.kind == "added" and change.size}
        gone: dict[tuple[int, bytes], list[Change]] = {}
        for change in found:
            if change.kind != "deleted":
                continue
            assert self._lower is not None  # something was deleted
            was = self._at(self._lower, change.path)
            if was is not None and stat.S_ISREG(was.st_mode) and _size(was) in sizes:
                content = self._hash_at(self._lower, change.path)
                if content is not None:
                    gone.setdefault((_size(was), content), []).append(change)
        moved: set[Change] = set()
        renamed: dict[Change, Change] = {}
        left = {size for size, _ in gone}
        for change in found:
            if change.kind == "added" and change.size in left:
                content = self._hash_at(self._upper, change.path)
                sources = gone.get((change.size, content), []) if content is not None else []
                if sources:
                    source = sources.pop(0)
                    moved.add(source)
                    renamed[change] = replace(change, kind="renamed", source=source.path)
        return [renamed.get(change, change) for change in found if change not in moved]

    def _at(self, root: int, path: str) -> os.stat_result | None:
        with self._parent(root, path) as folder:
            return None if folder is None else walking.look(os.path.basename(path), folder)

    def _hash_at(self, root: int, path: str) -> bytes | None:
        with self._parent(root, path) as folder:
            try:
                return None if folder is None else self._hash(os.path.basename(path), folder)
            except FileNotFoundError:  # gone by now
                return None

    @contextlib.contextmanager
    def _parent(self, root: int, path: str) -> Iterator[int | None]:
        with contextlib.ExitStack() as stack:
            folder: int | None = root
            for name in path.split("/")[1:-1]:
                assert folder is not None
                try:
                    folder = stack.enter_context(walking.opened_folder(name, folder))
                except OSError:
                    folder = None
                    break
            yield folder

    # --- one file -------------------------------------------------------------------------------

    def diff(self, path: str) -> str:
        """A unified diff of one file, before and now; of others than text whether they differ."""
        before = None if self._lower is None else self._content(self._lower, path)
        now = self._content(self._upper, path)
        if now is None and not self._is_gone(path):
            if (found := self._at(self._upper, path)) is None:  # not in the upper folder: as it was, or never there
                if before is None:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
                return ""
            if not (stat.S_ISCHR(found.st_mode) and found.st_rdev == 0):
                raise OSError(errno.ENXIO, "Not a regular file", path)
        if before == now:
            return ""
        try:
            old, new = ((part or b"").decode() for part in (before, now))
        except UnicodeDecodeError:
            return f"Binary files {path} differ\n"
        was, is_now = (list(io.StringIO(part, newline="\n")) for part in (old, new))  # no other sign ends a line
        if len(was) * len(is_now) > _MOST_PAIRS:  # difflib takes as long as there are pairs of lines
            return f"Files {path} differ\n"
        import difflib

        names = ("/dev/null" if before is None else f"a{path}", "/dev/null" if now is None else f"b{path}")
        lines = difflib.unified_diff(was, is_now, *names)
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)

    def _is_gone(self, path: str) -> bool:
        """Whether a folder on the way to a path has been removed or replaced, and with it what was there."""
        parts = path.strip("/").split("/")
        for count in range(1, len(parts)):
            above = "/" + "/".join(parts[:count])
            found = self._at(self._upper, above)
            if found is None:
                return False  # as it was, with all that is in it
            if not stat.S_ISDIR(found.st_mode):
                return True
            with self._parent(self._upper, f"{above}/x") as folder:
                if folder is not None and _is_opaque(folder):
                    return True
        return False

    def _content(self, root: int, path: str) -> bytes | None:
        with self._parent(root, path) as folder:
            found = None if folder is None else walking.look(os.path.basename(path), folder)
            if folder is None or found is None or not stat.S_ISREG(found.st_mode):
                return None
            fd = walking.open_file(os.path.basename(path), folder, path)
            try:
                return b"".join(walking.pieces(fd, Budget(1, _LARGEST_DIFF), path))
            finally:
                os.close(fd)


def _size(found: os.stat_result) -> int:
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _is_opaque(folder: int) -> bool:
    try:
        return os.getxattr(folder, _OPAQUE) == b"y"
    except OSError:
        return False
