"""Where the files of an image are: in a folder or in an archive, both made by somebody whom nobody trusts."""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import tarfile
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from typing import IO, Any, Protocol

from .decompression import decompressed
from .readers import CHUNK, Forward, Refused, again, members, shortened

_MOST_MEMBERS = 100_000  # of an archive that holds an image: three a layer, and a few
#: how far an archive is looked into for what it is; what all of these say, the others will not unsay
_FIRST_MEMBERS, _FIRST_BYTES = 64, 64 << 20
#: what lies at the top of archives of images; at the top of no root file system there is nothing else
_AT_TOP = re.compile(r"(blobs|oci-layout|index\.json|manifest\.json|repositories|[0-9a-f]{64}(\.json|\.tar)?)\Z")


class Store(Protocol):
    """Named files of an image, in a folder or in an archive."""

    def names(self) -> frozenset[str]:
        """Those at the top, by which kinds of images are told apart."""

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Open one for reading; `Refused` where it is not there."""

    def size(self, name: str) -> int:
        """Its length in bytes."""


class FolderStore:
    """An OCI layout as it lies on disk; nothing in it is followed out of it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def names(self) -> frozenset[str]:
        """As `Store.names`."""
        return frozenset(os.listdir(self._path))

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """As `Store.open`."""
        with open(self._descriptor(name), "rb", buffering=0) as file:
            yield file

    def size(self, name: str) -> int:
        """As `Store.size`."""
        fd = self._descriptor(name)
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    def _descriptor(self, name: str) -> int:
        *above, last = name.split("/")
        if not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise Refused(f"{name[:200]!r} leads out of it")
        folder = os.open(self._path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in above:
                inner = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                os.close(folder)
                folder = inner
            if not stat.S_ISREG(os.stat(last, dir_fd=folder, follow_symlinks=False).st_mode):
                raise Refused(f"{name[:200]!r} is no regular file")
            fd = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except OSError as error:
            raise Refused(f"no {name!r} in it: {error.strerror}") from None
        finally:
            os.close(folder)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise Refused(f"{name!r} is no regular file")
        return fd


class ArchiveStore:
    """The members of an archive that is not compressed, wherever they are in it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._members: dict[str, tarfile.TarInfo] = {}
        careful = _Careful(file)
        for member in members(careful):  # type: ignore[arg-type]  # all that is used of IO
            careful.headers = 0
            name = os.path.normpath(member.name)
            if name in self._members and not member.isdir():
                raise Refused(f"{name[:200]!r} is there twice")
            self._members[name] = member
            if len(self._members) > _MOST_MEMBERS:
                raise Refused(f"more than {_MOST_MEMBERS} members")

    def names(self) -> frozenset[str]:
        """As `Store.names`."""
        return frozenset(name.split("/")[0] for name in self._members)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """As `Store.open`."""
        member = self._member(name)
        yield _Slice(self._file, member.offset_data, member.size)  # type: ignore[misc]  # all that is used of IO

    def size(self, name: str) -> int:
        """As `Store.size`."""
        return self._member(name).size

    def _member(self, name: str) -> tarfile.TarInfo:
        for _ in range(8):  # docker save has links from layers to others that are the same
            member = self._members.get(os.path.normpath(name))
            if member is None:
                raise Refused(f"no {name[:200]!r} in it")
            if member.isreg() and not member.issparse():
                return member
            if not (member.issym() or member.islnk()):
                break
            name = os.path.join(os.path.dirname(name) if member.issym() else "", member.linkname)
        raise Refused(f"{name[:200]!r} is no regular file")


class _Careful(io.RawIOBase):
    """A file for `tarfile`, which reads headers into memory whose length the archive says."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self.headers = 0  #: bytes of headers since the last member

    def read(self, size: int | None = -1) -> bytes:
        """As `io.RawIOBase.read`, but no more than a header may have."""
        if size is None or size < 0 or self.headers + size > CHUNK:
            raise Refused(f"a header of {size} bytes more, where {CHUNK} are the most")
        self.headers += size
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As `io.IOBase.seek`, forward only."""
        if offset < self._file.tell():
            raise Refused("a member that points back in its archive")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As `io.IOBase.tell`."""
        return self._file.tell()


class _Slice(io.RawIOBase):
    """A part of a file."""

    def __init__(self, file: IO[bytes], at: int, size: int) -> None:
        super().__init__()
        self._fd, self._at, self._left = file.fileno(), at, size

    def readable(self) -> bool:
        """As `io.IOBase.readable`."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As `io.RawIOBase.readinto`."""
        piece = os.pread(self._fd, min(len(buffer), self._left), self._at)
        buffer[: len(piece)] = piece
        self._at += len(piece)
        self._left -= len(piece)
        return len(piece)


def is_image_archive(file: IO[bytes]) -> bool:
    """Whether an archive, compressed or not, holds an image and not a root file system, by what lies at its top."""
    tops = set()
    with again(file) as raw, decompressed(raw) as stream:
        start = Forward(stream, 2 * _FIRST_BYTES)
        try:
            for number, member in enumerate(members(start)):  # type: ignore[arg-type]  # all that is used of IO
                start.next_member()
                top = next((part for part in member.name.split("/") if part not in ("", ".")), "")
                if top and not _AT_TOP.match(top):
                    return False
                tops.add(top)
                if number >= _FIRST_MEMBERS or member.offset_data + member.size > _FIRST_BYTES:
                    break
        except tarfile.TarError as error:
            raise Refused(f"no tar archive: {error}") from None
    if not tops:
        raise Refused("no tar archive: there is nothing in it")
    return tops != {""}


def check_root(names: Collection[str]) -> None:
    """Refuse a root file system that has an image at its top, beside other files: it might be meant as either."""
    as_oci = {"oci-layout", "index.json"}.issubset(names)
    as_docker = "manifest.json" in names and any(_AT_TOP.match(name) for name in set(names) - {"manifest.json"})
    if as_oci or as_docker:
        others = sorted(name for name in names if not _AT_TOP.match(name))[:3]
        shown = ", ".join(repr(shortened(name)) for name in others)
        raise Refused(
            f"ambiguous: an image lies at the top of it beside other files ({shown}); archive it without them"
        )
