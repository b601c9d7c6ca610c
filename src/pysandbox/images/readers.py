"""Reading archives from files: hashed on the way, forward only, and bounded."""

from __future__ import annotations

import contextlib
import hashlib
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, NoReturn

from ..errors import ConfigError, SandboxError, SetupError

CHUNK = 1 << 20
#: what `tarfile` may read of headers for one member: they say how long they are, and are read into memory
_LONGEST_HEADER = 1 << 20
#: what may follow an archive's end: tar(1) fills its last record, which is of 10 KiB, and on tapes of a few MiB
_LONGEST_PADDING = 16 << 20

#: what an archive that is damaged or made up can make the readers raise
_DAMAGED = (
    *(tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error, ValueError, OverflowError),
    *(RecursionError, MemoryError),  # headers of headers of headers
)


class Refused(Exception):
    """What an archive asks for and does not get, by name; its reader says of which archive."""


def shortened(name: str) -> str:
    """A text that nobody trusts, for an error: the beginning of it."""
    return name if len(name) <= 200 else f"{name[:200]}..."


class Member(tarfile.TarInfo):
    """A member that is not sparse: the map of one that is would be read into memory, however long it is."""

    def _refuse(self, *_: object) -> NoReturn:
        raise Refused(f"{self.name[:200]!r} is sparse")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse


class Hashed(io.RawIOBase):
    """A file whose bytes are hashed as they are read, each once."""

    def __init__(self, raw: Any, progress: Callable[[int], None] | None = None) -> None:
        super().__init__()
        self._raw = raw
        self._sha256 = hashlib.sha256()
        self._progress = progress

    def readable(self) -> bool:
        """As `io.IOBase.readable`."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As `io.RawIOBase.readinto`."""
        view = memoryview(buffer)
        count: int = self._raw.readinto(view)
        self._sha256.update(view[:count])
        if self._progress is not None:
            self._progress(count)
        return count

    def digest(self) -> str:
        """The hash of all that there is, the rest included, as OCI writes it."""
        rest = bytearray(CHUNK)
        while self.readinto(rest):
            pass
        return f"sha256:{self._sha256.hexdigest()}"


class Forward(io.RawIOBase):
    """A stream that `tarfile` may read and skip forward in: never back, never much at once, never past `most` bytes."""

    def __init__(self, raw: Any, most: int) -> None:
        super().__init__()
        self._raw = raw
        self._at = 0
        self._most = most
        self._headers = 0  # bytes of headers since the last member
        self.at_end = False  #: whether what was read last was a block of zeros, as an archive ends, or nothing at all
        self._missing = 0  #: of the last member's padding, which some (umoci) leave out

    def readable(self) -> bool:
        """As `io.IOBase.readable`."""
        return True

    def seekable(self) -> bool:
        """As `io.IOBase.seekable`: forward only."""
        return True

    def tell(self) -> int:
        """As `io.IOBase.tell`."""
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Exactly `size` bytes of headers, or what is left."""
        if size is None or size < 0 or self._headers + size > _LONGEST_HEADER:
            raise Refused(f"a header of {size} bytes more, where {_LONGEST_HEADER} are the most")
        self._headers += size
        if self._missing:
            data, self._missing = bytes(min(size, self._missing)), 0
        else:
            data = self._raw.read(size)
        self._advance(len(data))
        self.at_end = size == tarfile.BLOCKSIZE and data in (b"", bytes(tarfile.BLOCKSIZE))
        return data

    def read_data(self, size: int) -> bytes:
        """Bytes of a member, at most so many."""
        data: bytes = self._raw.read(size)
        self._advance(len(data))
        return data

    def next_member(self) -> None:
        """Count headers anew."""
        self._headers = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As `io.IOBase.seek`, forward only."""
        if whence != os.SEEK_SET or offset < self._at:
            raise Refused("a member that points back in its archive")
        while self._at < offset:
            data = self._raw.read(min(CHUNK, offset - self._at))
            if not data and offset - self._at < tarfile.BLOCKSIZE:
                self._missing = tarfile.BLOCKSIZE - self._at % tarfile.BLOCKSIZE - (offset - self._at)
                self._at = offset
            if not data:
                break
            self._advance(len(data))
        return self._at

    def finish(self) -> None:
        """Read what follows the archive's end, by which alone a decompressor knows that nothing is missing."""
        self._most = min(self._most, self._at + _LONGEST_PADDING)
        while data := self._raw.read(CHUNK):
            self._advance(len(data))

    def _advance(self, count: int) -> None:
        self._at += count
        if self._at > self._most:
            raise Refused(f"more than {self._most} bytes when decompressed")


def again(file: IO[bytes]) -> IO[bytes]:
    """A file from its beginning, to be closed for itself; where one reads on, the other does."""
    file.seek(0)
    return open(os.dup(file.fileno()), "rb", buffering=0)


def members(file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The members of an archive that is not compressed, without keeping them."""
    with tarfile.open(fileobj=file, mode="r:", errorlevel=2, tarinfo=Member) as archive:
        empty = archive.firstmember is None  # type: ignore[attr-defined]  # Python 3.10 would look again
        while not empty and (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # or it keeps them all
            archive.pax_headers.clear()  # type: ignore[attr-defined]  # of all members to come: none that matters
            yield member


@contextlib.contextmanager
def telling(what: str) -> Iterator[None]:
    """Say of which archive it was, whatever it made its reader raise."""
    try:
        yield
    except Refused as error:
        raise ConfigError(f"{what}: {error}", layers=("ChrootJail",)) from None
    except SandboxError:
        raise
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:  # decompressors raise it without a number
            arguments = {"path": shortened(str(error.filename))} if error.filename is not None else {}
            raise SetupError(error.errno, layer="ChrootJail", step="unpack", arguments=arguments) from None
        raise ConfigError(f"{what}: damaged or not what it says: {error}", layers=("ChrootJail",)) from None
