"""Folders that a payload may have filled with anything, looked at by descriptors: nothing is followed, nothing waits.

Every folder is opened from the one above it, and a file only once it is known to be a regular one; a FIFO, a device or
a socket is an error at once.  What there is may change at any moment, so nothing is believed that a descriptor has not
shown, and all is bounded.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_PIECE = 1 << 20
DEEPEST = 256  # folders in folders that are gone into


@dataclass
class Budget:
    """What may still be looked at: files and folders, and bytes of them."""

    entries: int
    size: int

    def take_entry(self, path: str) -> None:
        """Count a file or a folder; EMFILE's like where there are too many."""
        self.entries -= 1
        if self.entries < 0:
            raise OSError(errno.E2BIG, "More files than max_files allows", path)

    def take(self, count: int, path: str) -> None:
        """Count bytes."""
        self.size -= count
        if self.size < 0:
            raise OSError(errno.EFBIG, "More bytes than max_size allows", path)


@contextlib.contextmanager
def _opened_up(name: str, above: int) -> Iterator[str]:
    """A way to a file or folder that is closed to its own owner, who we are where we are an ordinary user."""
    there = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        mode = os.fstat(there).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        path = f"/proc/self/fd/{there}"  # by way of which nothing else can be meant
        os.chmod(path, stat.S_IMODE(mode) | (0o700 if stat.S_ISDIR(mode) else 0o400))
        try:
            yield path
        finally:
            os.chmod(path, stat.S_IMODE(mode))
    finally:
        os.close(there)


@contextlib.contextmanager
def opened_folder(name: str, above: int) -> Iterator[int]:
    """A folder, by its name in another; what is in it can be looked at until it is left."""
    with contextlib.ExitStack() as stack:
        try:
            fd = os.open(name, _FOLDER, dir_fd=above)
            stack.callback(os.close, fd)
            found = os.fstat(fd)
            closed = found.st_uid == os.geteuid() != 0 and not found.st_mode & 0o100
        except PermissionError:
            closed = True
        if closed:
            fd = os.open(stack.enter_context(_opened_up(name, above)), _FOLDER & ~os.O_NOFOLLOW)
            stack.callback(os.close, fd)
        yield fd


def open_file(name: str, above: int, shown: str) -> int:
    """A regular file, by its name in a folder; anything else is an OSError (ENXIO)."""
    # Looked at first, as opening may have an effect on what is no file: it lets a FIFO's writer go on.
    if not stat.S_ISREG(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
        raise OSError(errno.ENXIO, "Not a regular file", shown)
    try:
        fd = os.open(name, _FILE, dir_fd=above)
    except PermissionError:
        with _opened_up(name, above) as path:
            fd = os.open(path, _FILE & ~os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.ENXIO, "Not a regular file", shown)
    return fd


def pieces(fd: int, budget: Budget, shown: str) -> Iterator[bytes]:
    """The bytes of a file, as long as the budget lasts, which what the file claims to have may end at once."""
    if os.fstat(fd).st_size > budget.size:
        budget.take(budget.size + 1, shown)
    while piece := os.read(fd, min(_PIECE, budget.size + 1)):
        budget.take(len(piece), shown)
        yield piece


def names(folder: int, budget: Budget, shown: str) -> list[str]:
    """The names in a folder, sorted."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            budget.take_entry(os.path.join(shown, entry.name))
            found.append(entry.name)
    return sorted(found)


def mount_of(folder: int) -> int:
    """The number of the mount that a folder was reached by (proc(5), /proc/pid/fdinfo)."""
    with open(f"/proc/self/fdinfo/{folder}", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))


def look(name: str, above: int) -> os.stat_result | None:
    """What is there of that name, not followed; None for nothing."""
    try:
        return os.stat(name, dir_fd=above, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def remove_tree(name: str, folder: int) -> None:
    """Remove a folder with all that is in it, whatever modes they have; nothing is followed."""
    try:
        inner = os.open(name, _FOLDER, dir_fd=folder)
    except PermissionError:
        _open_up(name, folder)
        inner = os.open(name, _FOLDER, dir_fd=folder)
    try:
        if os.fstat(inner).st_dev != os.fstat(folder).st_dev:  # something is mounted there
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
        os.fchmod(inner, 0o700)
        for entry in os.listdir(inner):
            try:
                os.unlink(entry, dir_fd=inner)
            except (IsADirectoryError, PermissionError):
                remove_tree(entry, inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=folder)


def _open_up(name: str, folder: int) -> None:
    """Let its owner into a folder; by way of /proc, as chmod(2) would follow a symlink and fchmod(2) needs it open."""
    there = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.chmod(f"/proc/self/fd/{there}", 0o700)
    finally:
        os.close(there)
