"""What was written through an overlay, written elsewhere: to a layer of an image, or to a folder of the host."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tarfile
from typing import IO

from . import placing, walking
from .changes import Entry, Upper
from .walking import Budget

OPAQUE = "PYSANDBOX.opaque"  # of a folder in a savepoint: there is nothing in it but what is in the savepoint


def write_layer(upper: Upper, file: IO[bytes]) -> None:
    """Write all of it as a layer of an OCI image (image-layer.md): whiteouts for what was deleted."""
    with new_layer(file) as archive:
        add_to_layer(upper, archive)


def add_to_layer(upper: Upper, archive: tarfile.TarFile, *, own: bool = False) -> None:
    """Write all of it to a layer, among others; `own`: to a savepoint, where no name has a meaning."""
    for entry in upper.entries():
        if not own and entry.name.startswith(".wh."):
            raise OSError(errno.EINVAL, "A name that means something else in a layer of an image", entry.path)
        kind = stat.S_IFMT(entry.now.st_mode)
        if kind == stat.S_IFDIR:
            _add_folder(archive, entry, own)
        elif kind == stat.S_IFLNK:
            link = _member(entry.path, entry.now, tarfile.SYMTYPE)
            link.linkname = os.readlink(entry.name, dir_fd=entry.folder)
            archive.addfile(link)
        elif kind == stat.S_IFREG:
            if entry.before is None or entry.hidden or upper.differs(entry):
                _add_file(archive, entry, upper.budget)
        elif entry.before is not None:  # deleted, or replaced by what is not carried
            folder, name = os.path.split(entry.path)
            if own:
                archive.addfile(_member(entry.path, entry.now, tarfile.CHRTYPE))
            else:
                archive.addfile(_member(os.path.join(folder, f".wh.{name}"), entry.now, tarfile.REGTYPE))


def _add_folder(archive: tarfile.TarFile, entry: Entry, own: bool) -> None:
    member = _member(entry.path, entry.now, tarfile.DIRTYPE)
    opaque = entry.opaque and entry.before is not None
    if opaque and own:
        member.pax_headers = {OPAQUE: "y"}
    archive.addfile(member)
    if opaque and not own:
        archive.addfile(_member(os.path.join(entry.path, ".wh..wh..opq"), entry.now, tarfile.REGTYPE))


def _add_file(archive: tarfile.TarFile, entry: Entry, budget: Budget) -> None:
    fd = walking.open_file(entry.name, entry.folder, entry.path)
    try:
        member = _member(entry.path, entry.now, tarfile.REGTYPE)
        member.size = os.fstat(fd).st_size
        budget.take(member.size, entry.path)
        archive.addfile(member, _Exactly(fd))  # type: ignore[arg-type]  # it reads, no more
    finally:
        os.close(fd)


def apply(upper: Upper, into: int) -> None:
    """Do to a folder what was done in the box: write what is new, remove what was deleted; nothing is followed."""
    destination = _Destination(into)
    try:
        for entry in upper.entries():
            destination.take(entry, upper.budget)
        destination.leave("/")
    finally:
        destination.close()


class _Destination:
    """A folder of the host that is made as the root is, and those in it that are open: the way to where we are."""

    def __init__(self, into: int) -> None:
        self._folders: dict[str, tuple[int, int | None]] = {"/": (os.dup(into), None)}  # with the mode to end up with

    def take(self, entry: Entry, budget: Budget) -> None:
        """Do what an entry says; they come folder by folder."""
        self.leave(entry.path)
        above = self._folder_of(entry.path)
        is_folder = stat.S_ISDIR(entry.now.st_mode)
        there = walking.look(entry.name, above)
        if there is not None and not (is_folder and stat.S_ISDIR(there.st_mode)):
            _remove(entry.name, above)
        if is_folder:
            self._enter(entry.path, above, entry.now.st_mode & 0o1777)
            if entry.opaque:
                inner, _ = self._folders[entry.path]
                for name in os.listdir(inner):
                    _remove(name, inner)
        elif stat.S_ISLNK(entry.now.st_mode):
            os.symlink(os.readlink(entry.name, dir_fd=entry.folder), entry.name, dir_fd=above)
        elif stat.S_ISREG(entry.now.st_mode):
            _copy(entry, above, budget)

    def leave(self, path: str) -> None:
        """Close the folders that a path is not in; they get their modes when all that is in them is there."""
        for folder in [folder for folder in self._folders if folder != "/" and not path.startswith(f"{folder}/")]:
            fd, mode = self._folders.pop(folder)
            try:
                if mode is not None:
                    os.fchmod(fd, mode)
            finally:
                os.close(fd)

    def close(self) -> None:
        for fd, _ in self._folders.values():
            os.close(fd)

    def _folder_of(self, path: str) -> int:
        """The folder that an entry goes into; those that the box made in its root are made here."""
        folder = os.path.dirname(path)
        if folder not in self._folders:
            self._enter(folder, self._folder_of(folder), None)
        return self._folders[folder][0]

    def _enter(self, path: str, above: int, mode: int | None) -> None:
        name = os.path.basename(path)
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=above)
        with walking.opened_folder(name, above) as inner:
            if mode is not None:
                os.fchmod(inner, 0o700)
            self._folders[path] = (os.dup(inner), mode)


def _copy(entry: Entry, above: int, budget: Budget) -> None:
    source = walking.open_file(entry.name, entry.folder, entry.path)
    try:
        with placing.placed(entry.name, above, 0o600, entry.path) as target:
            for piece in walking.pieces(source, budget, entry.path):
                view = memoryview(piece)
                while view:
                    view = view[os.write(target, view) :]
            os.fchmod(target, entry.now.st_mode & 0o777)
    finally:
        os.close(source)


def new_layer(file: IO[bytes]) -> tarfile.TarFile:
    """An archive to write a layer to."""
    return tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT)


class _Exactly:
    """A file that has as many bytes as are read from it, whatever becomes of it meanwhile."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int) -> bytes:
        """So many bytes; zeros where there are no more."""
        found = b""
        while len(found) < size and (piece := os.read(self._fd, size - len(found))):
            found += piece
        return found.ljust(size, b"\0")


def _remove(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError):
        walking.remove_tree(name, folder)


def _member(path: str, found: os.stat_result, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path.lstrip("/"))
    member.type = kind
    member.mode = found.st_mode & 0o1777
    member.mtime = int(found.st_mtime)
    return member
