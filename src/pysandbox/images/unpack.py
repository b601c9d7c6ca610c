"""Unpacking archives that nobody trusts, one layer over the other, into a folder of our own.

`tarfile` reads the headers; what they ask for is done here, by descriptors: each folder on the way is opened from the
one above it without following a symlink, so nothing is written outside whatever the names say.  An archive that asks
for what no honest one does is refused as a whole, by the name of the member.  Owners are not kept (all belongs to the
caller), nor are set-user-ID bits and extended attributes: a box gives them no meaning, and on the host they are a risk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tarfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..walking import DEEPEST, remove_tree
from .readers import CHUNK, Forward, Refused, members, shortened
from .times import FolderTimes

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
OPAQUE = "PYSANDBOX.opaque"  # as changes.py writes it
_LONGEST_PART = 255  # NAME_MAX
_LONGEST_LINK = 4095  # PATH_MAX
_KEPT_FOLDERS = 32  # descriptors of folders that were used last
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Bounds:
    """What an image may be at most, over all of its layers."""

    entries: int = 500_000
    size: int = 32 << 30  #: bytes of files, unpacked
    depth: int = DEEPEST  #: folders in a name, as many as a box's own layers have
    name: int = 4095  #: bytes of a name: PATH_MAX

    @property
    def room(self) -> int:
        """Bytes of an archive that keeps within the others: files, headers and padding."""
        return self.size + 2048 * self.entries


class Unpacker:
    """Puts the layers of an image one over the other below a folder, which is open as `root`."""

    def __init__(self, root: int, bounds: Bounds, *, covered: frozenset[str] | None = None) -> None:
        """`covered`: what is written are savepoints of ours, into a box where these paths are something else's."""
        self._root = root
        self._bounds = bounds
        self._covered = None if covered is None else {tuple(path.strip("/").split("/")) for path in covered}
        self._entries = 0
        self.size = 0  #: bytes of the files so far
        self._folders: OrderedDict[tuple[str, ...], int] = OrderedDict()
        self._made: dict[tuple[str, ...], bytes] = {}  # by the layer: its members, and the types that they have
        self._above: set[tuple[str, ...]] = set()  # the folders that those are in
        self._emptied: set[tuple[str, ...]] = set()  # folders in which nothing is left but what the layer has put there
        self._times = FolderTimes()

    def close(self) -> None:
        """Close the folders that are open."""
        while self._folders:
            os.close(self._folders.popitem()[1])

    def finish(self) -> None:
        """Give the folders the modes and times that they are to have, now that nothing more is made in them."""
        for parts, (mode, mtime) in self._times.inside_first():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), self._opened(parts) as folder:
                os.utime(folder, (mtime, mtime))
                # Its owner, which we are, must be able to read it, and to remove it again.
                os.fchmod(folder, mode & 0o1777 | 0o700)
        self.close()

    def layer(self, stream: Any) -> None:
        """Unpack a tar archive, which is not compressed any more, over what is there."""
        self._made, self._above, self._emptied = {}, set(), set()
        data = Forward(stream, self._bounds.room)
        for member in members(data):  # type: ignore[arg-type]  # all that is used of IO
            data.next_member()
            self._member(member, data)
        if not data.at_end:  # tarfile takes a header that is damaged for the end
            raise EOFError("a member that is none")
        data.finish()

    # --- one member -----------------------------------------------------------------------------------------

    def _member(self, member: tarfile.TarInfo, data: Forward) -> None:
        self._count()
        parts = self._parts(member.name, is_folder=member.isdir())
        name = parts[-1] if parts else ""
        if self._covered is not None:
            self._own_member(member, parts, data)
        elif name == _OPAQUE:
            self._remember(member, parts)
            self._empty(parts[:-1])
        elif name.startswith(_WHITEOUT):
            self._remove(parts, name[len(_WHITEOUT) :])
        elif member.isdir():
            self._folder(member, parts)
        elif not parts:
            raise Refused("a root that is no folder")
        else:
            self._other(member, parts, data)

    def _count(self) -> None:
        """Count a member, or a folder that was left out."""
        self._entries += 1
        if self._entries > self._bounds.entries:
            raise Refused(f"more than {self._bounds.entries} entries")

    def _own_member(self, member: tarfile.TarInfo, parts: tuple[str, ...], data: Forward) -> None:
        """A member of a savepoint, in which no name means anything: what is gone is a device, as in an overlay."""
        if member.ischr():
            self._remove(parts, parts[-1])
        elif member.isdir():
            self._folder(member, parts)
            if OPAQUE in member.pax_headers:
                self._empty(parts)
        else:
            self._other(member, parts, data)

    def _other(self, member: tarfile.TarInfo, parts: tuple[str, ...], data: Forward) -> None:
        """Anything but a folder."""
        shown = _shown(member.name)
        if member.ischr() or member.isblk():
            if parts[0] == "dev":  # a box has devices of its own there
                return
            raise Refused(f"{shown} is a device")
        if member.isfifo():
            raise Refused(f"{shown} is a FIFO")
        if member.issparse():
            raise Refused(f"{shown} is sparse")
        if not (member.isreg() or member.islnk() or member.issym()):
            raise Refused(f"{shown} is of a kind that no file system has: {member.type!r}")
        self._remember(member, parts)
        make = self._symlink if member.issym() else self._hard_link if member.islnk() else self._file
        with self._parent(parts, shown) as folder:
            try:
                make(member, folder, parts[-1], data)
            except FileExistsError:
                if parts in self._above:
                    raise Refused(f"{shown} is a folder, too") from None
                self._replace(folder, parts)
                make(member, folder, parts[-1], data)

    def _remember(self, member: tarfile.TarInfo, parts: tuple[str, ...]) -> None:
        before = self._made.get(parts)
        if before is not None and not (before == tarfile.DIRTYPE and member.isdir()):
            raise Refused(f"{_shown(member.name)} is there twice")
        self._made[parts] = member.type
        above = parts[:-1]
        while above not in self._above:
            self._above.add(above)
            above = above[:-1]

    def _parts(self, name: str, *, is_folder: bool = False) -> tuple[str, ...]:
        shown = _shown(name)
        if name.startswith("/"):
            raise Refused(f"{shown} is absolute")
        if len(os.fsencode(name)) > self._bounds.name:
            raise Refused(f"{shown} is a name of more than {self._bounds.name} bytes")
        if "\0" in name:
            raise Refused(f"{shown} has a NUL in its name")
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if ".." in parts:
            raise Refused(f"{shown} leads upwards")
        if len(parts) - (not is_folder) > self._bounds.depth:
            raise Refused(f"{shown} is more than {self._bounds.depth} folders deep")
        if len(name) > _LONGEST_PART // 4 and any(len(os.fsencode(part)) > _LONGEST_PART for part in parts):
            raise Refused(f"{shown} has more than {_LONGEST_PART} bytes between two slashes")
        if self._covered is None and _WHITEOUT in name and any(part.startswith(_WHITEOUT) for part in parts[:-1]):
            raise Refused(f"{shown} lies in a whiteout")
        return parts

    def _folder(self, member: tarfile.TarInfo, parts: tuple[str, ...]) -> None:
        self._remember(member, parts)
        if parts:
            with self._parent(parts, _shown(member.name)) as folder:
                self._make_folder(folder, parts)
        self._times.put(parts, (member.mode, _mtime(member)))

    def _make_folder(self, folder: int, parts: tuple[str, ...]) -> None:
        try:
            os.mkdir(parts[-1], 0o700, dir_fd=folder)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(parts[-1], dir_fd=folder).st_mode):
                self._replace(folder, parts)
                os.mkdir(parts[-1], 0o700, dir_fd=folder)
            else:  # one that is closed to us is opened; what it is to have in the end comes with the end
                with contextlib.suppress(PermissionError), self._opened(parts) as inner:
                    os.fchmod(inner, 0o700)

    def _file(self, member: tarfile.TarInfo, folder: int, name: str, data: Forward) -> None:
        if member.size < 0:
            raise Refused(f"{_shown(member.name)} is of {member.size} bytes")
        file = os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
        try:
            self.size += member.size
            if self.size > self._bounds.size:
                raise Refused(f"more than {self._bounds.size} bytes, at {_shown(member.name)}")
            left = member.size
            while left:
                piece = data.read_data(min(CHUNK, left))
                if not piece:
                    raise EOFError(f"{_shown(member.name)} is cut off")
                left -= len(piece)
                view = memoryview(piece)
                while view:
                    view = view[os.write(file, view) :]
            os.fchmod(file, member.mode & 0o777)
            mtime = _mtime(member)
            os.utime(file, (mtime, mtime))
        finally:
            os.close(file)

    def _symlink(self, member: tarfile.TarInfo, folder: int, name: str, _: Forward) -> None:
        # Whatever it says: it is never followed here, and in the box it is followed inside the box.
        if not member.linkname or "\0" in member.linkname:
            raise Refused(f"{_shown(member.name)} links to nothing")
        if len(os.fsencode(member.linkname)) > _LONGEST_LINK:
            raise Refused(f"{_shown(member.name)} links to more than {_LONGEST_LINK} bytes: {_shown(member.linkname)}")
        os.symlink(member.linkname, name, dir_fd=folder)

    def _hard_link(self, member: tarfile.TarInfo, folder: int, name: str, _: Forward) -> None:
        shown = f"{_shown(member.name)}, a link to {_shown(member.linkname)}:"
        try:
            target = self._parts(member.linkname)
        except Refused as error:
            raise Refused(f"{shown} {error}") from None
        if not target:
            raise Refused(f"{shown} a folder")
        try:
            with self._opened(target[:-1]) as there:
                os.link(target[-1], name, src_dir_fd=there, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError as error:  # to a folder, through a symlink, to what is not there
            raise Refused(f"{shown} {error.strerror}") from None

    # --- folders --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _parent(self, parts: tuple[str, ...], shown: str) -> Iterator[int]:
        """The folder that holds a member, made where the archive left it out."""
        try:
            folder = os.dup(self._open(parts[:-1], make=True))
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise Refused(f"{shown} lies inside what is no folder") from None
            raise
        try:
            yield folder
        finally:
            os.close(folder)

    def _open(self, parts: tuple[str, ...], *, make: bool = False) -> int:
        """A folder, open as long as it is among those that were used last: until the next call, and no longer."""
        if not parts:
            return self._root
        folder = self._folders.get(parts)
        if folder is not None:
            self._folders.move_to_end(parts)
            return folder
        above = self._open(parts[:-1], make=make)
        try:
            folder = os.open(parts[-1], _FOLDER, dir_fd=above)
        except FileNotFoundError:
            if not make:
                raise
            self._count()
            os.mkdir(parts[-1], 0o755, dir_fd=above)
            folder = os.open(parts[-1], _FOLDER, dir_fd=above)
        self._folders[parts] = folder
        while len(self._folders) > max(_KEPT_FOLDERS, len(parts)):  # never one on the way to this one
            os.close(self._folders.popitem(last=False)[1])
        return folder

    @contextlib.contextmanager
    def _opened(self, parts: tuple[str, ...]) -> Iterator[int]:
        """A folder with a descriptor of its own."""
        folder = os.dup(self._open(parts))
        try:
            yield folder
        finally:
            os.close(folder)

    # --- what a layer takes away ----------------------------------------------------------------------------

    def _replace(self, folder: int, parts: tuple[str, ...]) -> None:
        """Make room for a member where an earlier layer has something else."""
        try:
            os.unlink(parts[-1], dir_fd=folder)
        except FileNotFoundError:
            pass
        except (IsADirectoryError, PermissionError):
            self._remove_tree(folder, parts)

    def _remove(self, parts: tuple[str, ...], name: str) -> None:
        """Take away what earlier layers have of this name, whether this layer has it already or not yet."""
        if name in ("", ".", ".."):
            raise Refused(f"a whiteout of {name!r}")
        target = (*parts[:-1], name)
        if self._is_folder_of_layer(target):
            self._empty(target)
            self._forget(target)
        elif target not in self._made:
            with self._below("/".join(parts), "lies inside what is no folder"), self._opened(parts[:-1]) as folder:
                self._replace(folder, target)

    def _empty(self, parts: tuple[str, ...]) -> None:
        """Take all out of a folder that earlier layers have put there: once a layer, as there is no more of it then."""
        pending = [parts]
        while pending:
            path = pending.pop()
            if path in self._emptied:
                continue
            self._emptied.add(path)
            with self._below("/".join(path), "is made empty, and no folder"), self._opened(path) as folder:
                pending += self._empty_folder(folder, path)

    def _empty_folder(self, folder: int, parts: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Take all out of one that is of earlier layers; returns the folders that stay, to be made empty in turn."""
        stay = []
        for name in os.listdir(folder):
            path = (*parts, name)
            if self._covered and path in self._covered:
                continue
            if self._covered and any(covered[: len(path)] == path for covered in self._covered):
                stay.append(path)
            elif self._is_folder_of_layer(path):
                self._forget(path)
                stay.append(path)
            elif path not in self._made:
                self._replace(folder, path)
        return stay

    def _is_folder_of_layer(self, parts: tuple[str, ...]) -> bool:
        """Whether this layer has a folder there, itself or by what it has in it."""
        return parts in self._above or self._made.get(parts) == tarfile.DIRTYPE

    def _forget(self, parts: tuple[str, ...]) -> None:
        """Make a folder that was taken away what it is where it is made anew, if the layer does not say what."""
        if self._covered is None and parts not in self._made:
            self._times.forget(parts)
            with self._below("/".join(parts), "is no folder"), self._opened(parts) as folder:
                os.fchmod(folder, 0o755)

    @contextlib.contextmanager
    def _below(self, name: str, what: str) -> Iterator[None]:
        """Where something is to be taken away: if the folder is not there it is nothing, and else it is to be one."""
        try:
            yield
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise Refused(f"{_shown(name)} {what}") from None

    def _remove_tree(self, folder: int, parts: tuple[str, ...]) -> None:
        for known in [known for known in self._folders if known[: len(parts)] == parts]:
            os.close(self._folders.pop(known))
        self._times.forget_tree(parts)
        remove_tree(parts[-1], folder)


def _mtime(member: tarfile.TarInfo) -> float:
    return min(max(0.0, float(member.mtime)), 2.0**33)


def _shown(name: str) -> str:
    """A name that nobody trusts, for an error."""
    return repr(shortened(name))
