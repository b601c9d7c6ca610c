"""The pipes of a run as the caller's file objects, and back; text as `subprocess` decodes it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from typing import Any


class Reader(io.FileIO):
    """A pipe below a stream of the caller's; once others have read the rest of it, that is what it gives.

    So what the stream has read ahead, a character or a line's end by halves, is put together with what follows.
    """

    rest: bytes | None = None

    def readinto(self, buffer: Any) -> int | None:
        """As `io.RawIOBase.readinto`."""
        if self.rest is None:
            return super().readinto(buffer)
        count = min(len(buffer), len(self.rest))
        buffer[:count], self.rest = self.rest[:count], self.rest[count:]
        return count

    def readall(self) -> bytes | None:  # type: ignore[override]  # None, as a pipe gives
        """As `io.RawIOBase.readall`: None where a pipe that does not block has nothing."""
        if self.rest is None:
            return super().readall()
        rest, self.rest = self.rest, b""
        return rest

    def read(self, size: int | None = -1) -> bytes | None:  # type: ignore[override]  # None, as a pipe gives
        """As `io.RawIOBase.read`."""
        if self.rest is None or size is None or size < 0:
            return self.readall() if size is None or size < 0 else super().read(size)
        piece, self.rest = self.rest[:size], self.rest[size:]
        return piece


def opened(pipe: Reader | int, encoding: str | None, errors: str, bufsize: int) -> Any:
    """A file object over a pipe: to read from a `Reader`, to write to a descriptor; text where there is an encoding."""
    by_line = encoding is not None and bufsize == 1
    stream: Any
    if isinstance(pipe, int):
        stream = open(pipe, "wb", -1 if by_line else bufsize)  # noqa: SIM115  # its user closes it
    else:
        stream = pipe
        if bufsize != 0:
            stream = io.BufferedReader(pipe, bufsize if bufsize > 1 else io.DEFAULT_BUFFER_SIZE)
    if encoding is not None:
        through = isinstance(pipe, int) and not by_line
        stream = io.TextIOWrapper(stream, encoding, errors, line_buffering=by_line, write_through=through)
    return stream


def taken_back(stream: Any, reader: Reader | None) -> int:
    """A descriptor of the stream's pipe, one that never blocks; a stream to write to is closed with that."""
    fd = os.dup(stream.fileno())
    os.set_blocking(fd, False)
    if reader is not None:
        reader.rest = b""
    else:
        with contextlib.suppress(OSError):
            stream.close()
    return fd


def read_on(stream: Any, reader: Reader, raw: bytes) -> Any:
    """What the stream still gives when `raw` is the rest of its pipe; it is closed then."""
    reader.rest = raw
    try:
        return stream.read()
    finally:
        stream.close()


def decoded(raw: bytes, encoding: str | None, errors: str) -> bytes | str:
    """The whole of an output, as text where there is an encoding."""
    if encoding is None:
        return raw
    return raw.decode(encoding, errors).replace("\r\n", "\n").replace("\r", "\n")


def write_to_pipe(fd: int, data: memoryview) -> int:
    """write(2), without a SIGPIPE for an application that does not ignore it as Python does."""
    if signal.getsignal(signal.SIGPIPE) is not signal.SIG_DFL:
        return os.write(fd, data)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        return os.write(fd, data)
    except BrokenPipeError:
        signal.sigtimedwait({signal.SIGPIPE}, 0)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
