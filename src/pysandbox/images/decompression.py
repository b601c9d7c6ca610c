"""Decompressing what an archive begins with: in bounded memory, and to an end that was meant to be one.

gzip, bzip2 and xz are the standard library's; zstd is `compression.zstd` (Python 3.14) or the package zstandard.
"""

from __future__ import annotations

import bz2
import importlib
import io
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Any

from ..errors import UnsupportedError
from .readers import CHUNK, Refused

_XZ_MEMORY = 256 << 20  # xz(1) -9 wants 65 MiB
_MOST_PADDING = 16 << 20  # zeros between compressed streams, and after the last
_ZSTD_WINDOW = 27  # 128 MiB, as zstd(1) takes without being asked for more
_ZSTD_PIECE = 2 << 10  # becomes 64 MiB at most: four bytes of zstd are up to 128 KiB
_MAGIC = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))


def decompressed(raw: Any) -> IO[bytes]:
    """The stream as it is, or decompressed; `raw` is any that has `readinto`, and need not be seekable."""
    stream = io.BufferedReader(raw, CHUNK)
    head = stream.peek(8)[:8]
    kind = next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)
    try:
        if kind is not None:
            return _Decompressed(_Streams(stream, _DECOMPRESSORS[kind]()), stream)
    except BaseException:
        stream.close()
        raise
    return stream


class _Decompressed(io.BufferedReader):
    """A decompressor's output; closing it closes what it reads from, which no decompressor does."""

    def __init__(self, output: Any, below: IO[bytes]) -> None:
        super().__init__(output, CHUNK)
        self._below = below

    def close(self) -> None:
        """As `io.IOBase.close`."""
        super().close()
        self._below.close()


class _Streams(io.RawIOBase):
    """Compressed streams, one after the other: each has to come to its end, and nothing but zeros lies between."""

    def __init__(self, below: IO[bytes], make: Callable[[], Any]) -> None:
        super().__init__()
        self._below = below
        self._make = make  # a decompressor as the standard library's
        self._decompressor: Any = None
        self._padding = 0

    def readable(self) -> bool:
        """As `io.IOBase.readable`."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As `io.RawIOBase.readinto`."""
        while True:
            if self._decompressor is None or self._decompressor.eof:
                given = self._decompressor.unused_data if self._decompressor is not None else b""
                while not given.strip(b"\0"):
                    self._padding += len(given)
                    if self._padding > _MOST_PADDING:
                        raise Refused(f"more than {_MOST_PADDING} zeros after what is compressed")
                    given = self._below.read(CHUNK >> 4)
                    if not given:
                        return 0
                self._decompressor = self._make()
                given = given.lstrip(b"\0")
            else:
                given = self._below.read(CHUNK >> 4) if self._decompressor.needs_input else b""
                if not given and self._decompressor.needs_input:
                    raise EOFError("it is cut off")
            piece = self._decompressor.decompress(given, len(buffer))
            if piece:
                buffer[: len(piece)] = piece
                return len(piece)


class _Gzip:
    """A member of gzip, whose checksum and length zlib compares."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)  # with gzip's header
        self._is_full = False  # what came last was as much as was wanted, so there may be more

    @property
    def eof(self) -> bool:
        """As `lzma.LZMADecompressor.eof`."""
        return self._member.eof

    @property
    def needs_input(self) -> bool:
        """As `lzma.LZMADecompressor.needs_input`."""
        return not (self._member.unconsumed_tail or self._is_full or self._member.eof)

    @property
    def unused_data(self) -> bytes:
        """As `lzma.LZMADecompressor.unused_data`."""
        return self._member.unused_data

    def decompress(self, data: bytes, most: int) -> bytes:
        """As `lzma.LZMADecompressor.decompress`."""
        found = self._member.decompress(self._member.unconsumed_tail + data, most)
        self._is_full = len(found) == most
        return found


class _Zstd:
    """A frame of zstd by the package zstandard, which would decompress all that it is given at once."""

    def __init__(self, module: Any) -> None:
        self._frame = module.ZstdDecompressor(max_window_size=1 << _ZSTD_WINDOW).decompressobj()
        self._error = module.ZstdError
        self._given = b""
        self._taken = memoryview(b"")

    @property
    def eof(self) -> bool:
        """As `lzma.LZMADecompressor.eof`."""
        return bool(self._frame.eof and not self._taken)

    @property
    def needs_input(self) -> bool:
        """As `lzma.LZMADecompressor.needs_input`."""
        return not (self._given or self._taken or self._frame.eof)

    @property
    def unused_data(self) -> bytes:
        """As `lzma.LZMADecompressor.unused_data`."""
        return bytes(self._frame.unused_data) + self._given

    def decompress(self, data: bytes, most: int) -> memoryview:
        """As `lzma.LZMADecompressor.decompress`."""
        self._given += data
        while not (self._taken or self._frame.eof) and self._given:
            piece, self._given = self._given[:_ZSTD_PIECE], self._given[_ZSTD_PIECE:]
            try:
                self._taken = memoryview(self._frame.decompress(piece))
            except self._error as error:
                raise ValueError(f"zstd: {error}") from None
        found, self._taken = self._taken[:most], self._taken[most:]
        return found


class _Zstd314:
    """A frame of zstd by the standard library, whose errors are no others."""

    def __init__(self, module: Any) -> None:
        options = {module.DecompressionParameter.window_log_max: _ZSTD_WINDOW}
        self._frame = module.ZstdDecompressor(options=options)
        self._error = module.ZstdError

    def __getattr__(self, name: str) -> Any:
        return getattr(self._frame, name)

    def decompress(self, data: bytes, most: int) -> bytes:
        """As `lzma.LZMADecompressor.decompress`."""
        try:
            return bytes(self._frame.decompress(data, most))
        except self._error as error:
            raise ValueError(f"zstd: {error}") from None


def _zstd() -> Callable[[], Any]:
    for name, kind in (("compression.zstd", _Zstd314), ("zstandard", _Zstd)):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        return lambda kind=kind, module=module: kind(module)  # type: ignore[misc]  # the defaults are inferred
    raise UnsupportedError(
        "an image compressed with zstd",
        need="Python 3.14 or the package zstandard",
        have="neither",
        remedy="pip install 'pysandbox[zstd]'",
    )


_DECOMPRESSORS: dict[str, Callable[[], Callable[[], Any]]] = {
    "gzip": lambda: _Gzip,
    "bzip2": lambda: bz2.BZ2Decompressor,
    "xz": lambda: lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY),
    "zstd": _zstd,
}
