"""What a program needs in order to start: its interpreter and its libraries, as the dynamic loader finds them.

Read from the files alone (elf(5), ld.so(8)), as running the loader to ask it would run what it is asked about.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<qQ")
_LOAD, _DYNAMIC_SEGMENT, _INTERPRETER = 1, 2, 3
_NEEDED, _STRINGS, _RPATH, _RUNPATH = 1, 5, 15, 29
_LARGEST = 1 << 30  # bytes of a file
_MOST = 1 << 20  # bytes of a table or a name
_DEEPEST = 8  # interpreters of interpreters


@dataclass
class Program:
    """What a file says that it needs."""

    interpreter: str = ""
    needed: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)  #: where to look first


def read(path: str) -> Program | None:
    """What an ELF file of 64 bits, or a script, needs; None for what is neither."""
    try:
        with _opened(path) as file:
            head = file.read(_HEADER.size)
            if head[:2] == b"#!":
                line = (head + file.read(256)).split(b"\n")[0][2:].split()
                return Program(interpreter=os.fsdecode(line[0])) if line else None
            if head[:6] != b"\x7fELF\x02\x01" or len(head) < _HEADER.size:
                return None
            file.seek(0)
            return _read_elf(_Image(path, file.read(_LARGEST)), head)
    except (OSError, struct.error, ValueError, OverflowError):  # none that the loader would take, either
        return None


def _opened(path: str) -> IO[bytes]:
    """A regular file; anything else (a FIFO, which would wait) is an OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.ENXIO, "Not a regular file", path)
    return open(fd, "rb")


class _Image:
    """An ELF file in memory, and where its parts would be."""

    def __init__(self, path: str, data: bytes) -> None:
        self.path = path
        self.data = data
        self.segments: list[tuple[int, int, int, int]] = []  # kind, offset, address, size

    def offset(self, address: int) -> int:
        """Where in the file an address is."""
        for kind, offset, start, size in self.segments:
            if kind == _LOAD and start <= address < start + size:
                return address - start + offset
        raise ValueError("an address outside of the file")

    def text(self, offset: int) -> str:
        end = self.data.index(b"\0", offset, offset + _MOST)
        return os.fsdecode(self.data[offset:end])


def _read_elf(image: _Image, head: bytes) -> Program:
    fields = _HEADER.unpack(head)
    start, size, count = fields[5], fields[9], fields[10]
    for index in range(count):
        kind, _, offset, address, _, length, _, _ = _SEGMENT.unpack_from(image.data, start + index * size)
        image.segments.append((kind, offset, address, length))
    program = Program()
    for kind, offset, _, length in image.segments:
        if kind == _INTERPRETER:
            program.interpreter = image.text(offset)
        elif kind == _DYNAMIC_SEGMENT:
            _read_dynamic(image, program, offset, min(length, _MOST))
    return program


def _read_dynamic(image: _Image, program: Program, offset: int, length: int) -> None:
    entries = [_DYNAMIC.unpack_from(image.data, offset + at) for at in range(0, length - 15, 16)]
    strings = next((image.offset(value) for tag, value in entries if tag == _STRINGS), None)
    if strings is None:
        return
    origin = os.path.dirname(os.path.realpath(image.path))
    for tag, value in entries:
        if tag == _NEEDED:
            program.needed.append(image.text(strings + value))
        elif tag in (_RPATH, _RUNPATH):
            for folder in image.text(strings + value).split(":"):
                program.folders.append(folder.replace("${ORIGIN}", origin).replace("$ORIGIN", origin))


def files_of(path: str, folders: list[str]) -> Iterator[str]:
    """The program, and every file that it needs to start, by the paths that they are looked for under.

    `folders` are those of the loader's configuration; it looks there after the program's own.
    """
    seen: set[str] = set()
    libraries: set[str] = set()  # of which the kernel asks for no interpreter
    waiting = [(path, 0)]
    usual = [*folders, "/lib64", "/usr/lib64", "/lib", "/usr/lib"]
    while waiting:
        found, depth = waiting.pop()
        if found in seen or depth > _DEEPEST:
            continue
        seen.add(found)
        yield found
        program = read(found)
        if program is None:
            continue
        interpreter = program.interpreter
        if interpreter and found not in libraries and os.path.isfile(interpreter) and os.access(interpreter, os.X_OK):
            waiting.append((interpreter, depth + 1))
        for name in program.needed:
            candidates = [name] if "/" in name else [os.path.join(at, name) for at in (*program.folders, *usual)]
            there = next((candidate for candidate in candidates if _fits(candidate)), None)
            if there is not None:
                libraries.add(os.path.normpath(there))
                waiting.append((os.path.normpath(there), depth))


def _fits(path: str) -> bool:
    """Whether a library is there, for this kind of machine: ld.so passes over those of 32 bits."""
    try:
        with _opened(path) as file:
            return file.read(5) == b"\x7fELF\x02"
    except OSError:
        return False
