"""What a program needs in order to start: its interpreter and its libraries, as the dynamic loader finds them.

Read from the files alone (elf(5), ld.so(8)), as running the loader to ask it would run what it is asked about.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections import deque
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
_USUAL = ("/lib64", "/usr/lib64", "/lib", "/usr/lib")


@dataclass
class Program:
    """What a file says that it needs."""

    interpreter: str = ""
    needed: list[str] = field(default_factory=list)
    inherited: list[str] = field(default_factory=list)  #: where to look first, also for what it loads (DT_RPATH)
    folders: list[str] = field(default_factory=list)  #: where to look in place of those (DT_RUNPATH)


def read(path: str, origin: str) -> Program | None:
    """What an ELF file of 64 bits, or a script, needs; None for what is neither.  `origin`: what $ORIGIN says."""
    try:
        with _opened(path) as file:
            head = file.read(_HEADER.size)
            if head[:2] == b"#!":
                line = (head + file.read(256)).split(b"\n")[0][2:].split()
                return Program(interpreter=os.fsdecode(line[0])) if line else None
            if head[:6] != b"\x7fELF\x02\x01" or len(head) < _HEADER.size:
                return None
            file.seek(0)
            return _read_elf(_Image(origin, file.read(_LARGEST)), head)
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

    def __init__(self, origin: str, data: bytes) -> None:
        self.origin = origin
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

    def path(self, offset: int) -> str:
        """A text in which the file's own folder may stand."""
        return self.text(offset).replace("${ORIGIN}", self.origin).replace("$ORIGIN", self.origin)


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
    for tag, value in entries:
        if tag == _NEEDED:
            program.needed.append(image.path(strings + value))
        elif tag == _RPATH:
            program.inherited += image.path(strings + value).split(":")
        elif tag == _RUNPATH:
            program.folders += image.path(strings + value).split(":")
    if program.folders:
        program.inherited = []  # ld.so(8): DT_RPATH is ignored if there is DT_RUNPATH


@dataclass(frozen=True)
class _Wanted:
    """A file to look into, found under a path."""

    path: str
    is_library: bool = False  #: the kernel asks for no interpreter of it
    inherited: tuple[str, ...] = ()  #: DT_RPATH of what loads it, and of what loads that
    depth: int = 0

    @property
    def origin(self) -> str:
        # The loader knows a program by what the kernel says of it, a library by the path it was found under.
        return os.path.dirname(self.path if self.is_library else os.path.realpath(self.path))


def files_of(path: str, folders: list[str]) -> Iterator[str]:
    """The program, and every file that it needs to start, by the paths that they are looked for under.

    `folders` are those of the loader's configuration; it looks there after the program's own.
    """
    found: set[str] = set()
    seen: set[tuple[str, bool]] = set()  # by their real paths: as the loader, which loads none twice
    waiting = deque([_Wanted(path)])  # the loader goes breadth first
    while waiting:
        wanted = waiting.popleft()
        if wanted.path not in found:
            found.add(wanted.path)
            yield wanted.path
        key = (os.path.realpath(wanted.path), wanted.is_library)
        if key in seen:
            continue
        seen.add(key)
        program = read(wanted.path, wanted.origin)
        if program is not None:
            waiting += _needs_of(program, wanted, folders)


def _needs_of(program: Program, wanted: _Wanted, folders: list[str]) -> Iterator[_Wanted]:
    interpreter = program.interpreter
    is_asked_for = interpreter.startswith("/") and not wanted.is_library and wanted.depth < _DEEPEST
    if is_asked_for and os.path.isfile(interpreter) and os.access(interpreter, os.X_OK):
        yield _Wanted(interpreter, depth=wanted.depth + 1)
    inherited = (*program.inherited, *wanted.inherited)
    own = program.folders or inherited
    for name in program.needed:
        paths = [name] if "/" in name else [f"{folder}/{name}" for folder in (*own, *folders, *_USUAL) if folder]
        there = next((path for path in paths if path.startswith("/") and _fits(path)), None)
        if there is not None:
            yield _Wanted(there, is_library=True, inherited=inherited, depth=wanted.depth)


def _fits(path: str) -> bool:
    """Whether a library is there, for this kind of machine: ld.so passes over those of 32 bits."""
    try:
        with _opened(path) as file:
            return file.read(5) == b"\x7fELF\x02"
    except OSError:
        return False
