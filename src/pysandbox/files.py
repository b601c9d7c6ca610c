"""`BoxFiles`: the caller's way to the files of a box, which a payload can bend to nothing but an error."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import io
import os
import stat
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO

from . import placing, units, walking
from .changes import Change, Upper
from .errors import ConfigError
from .plan import PrivatePaths
from .walking import Budget

_LARGEST_READ = 64 << 20
_MOST_FILES = 10_000
_NOT_FILES = ("dev", "proc", "sys")  # what is there are no files that anybody made

Data = bytes | bytearray | memoryview | str | IO[bytes]


class BoxFiles:
    """The part of `Sandbox` that is about files.

    Names are relative to the working directory of the box.  Only regular files and folders are touched, and no symlink
    is followed: anything else that a payload left there is an OSError, at once.
    """

    @abstractmethod
    def _open(self, path: str, flags: int, mode: int) -> io.FileIO:
        """Open a regular file inside."""

    @abstractmethod
    def _open_folder(self, path: str, mode: int | None = None) -> int:
        """Open a folder inside; with a mode, make its last name if it is missing."""

    @abstractmethod
    def _open_overlay(self) -> tuple[int, int, PrivatePaths]:
        """Where the overlay keeps what is written, and what it lies over, as descriptors of folders."""

    @abstractmethod
    def _inside(self, name: units.StrPath) -> str:
        """The absolute path inside of a name."""

    # --- single files ---------------------------------------------------------------------------------------

    def write_file(self, name: units.StrPath, data: Data, *, mode: int = 0o644) -> None:
        """Write a file in the box, the payload's own, from bytes, a str or a binary file object."""
        path = self._inside(name)
        units.count(mode, "mode", least=0, most=0o777)
        self._write(path, _pieces_of(data), mode)

    def _write(self, path: str, pieces: Iterable[bytes | memoryview], mode: int = 0o644) -> None:
        waiting = iter(pieces)
        piece: bytes | memoryview | None = next(waiting, b"")  # what is refused at once leaves the file as it is
        with self._open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode) as file:
            while piece is not None:
                _write_all(file.fileno(), piece)
                piece = next(waiting, None)

    def read_file(self, name: units.StrPath, *, max_size: int | str = _LARGEST_READ) -> bytes:
        """Read a file of the box, at most `max_size` bytes (64 MiB unless given; EFBIG for a larger one)."""
        path = self._inside(name)
        most = units.size(max_size, "max_size", least=0)
        with self._open(path, os.O_RDONLY, 0) as file:
            return b"".join(walking.pieces(file.fileno(), Budget(1, most), path))

    def listdir(self, name: units.StrPath = ".", *, max_files: int = _MOST_FILES) -> list[str]:
        """The names in a folder of the box, sorted; E2BIG where there are more than `max_files`."""
        path = self._inside(name)
        units.count(max_files, "max_files", least=1)
        folder = self._open_folder(path)
        try:
            return walking.names(folder, Budget(max_files, 0), path)
        finally:
            os.close(folder)

    # --- what was changed -----------------------------------------------------------------------------------

    def changes(self, *, max_files: int = 100_000, max_size: int | str = "4G") -> list[Change]:
        """What is not as it was when the box was entered, by path: added, modified, deleted or renamed.

        Needs `ChrootJail(..., overlay=True)`; what is in /tmp, /dev/shm, binds and other mounts is not part of it.  A
        file that was moved is one change where it has some content, which tells so.  The bounds are on what is looked
        at.  While a run changes files, one that is gone before it is looked at is an OSError, here as in `commit` and
        `copy_out`.
        """
        with self._upper(max_files, max_size) as upper:
            return upper.changes()

    def diff(self, path: units.StrPath) -> str:
        """A unified diff of a file of the box, as it was and as it is; "" where nothing has changed."""
        with self._upper(1, 0) as upper:
            return upper.diff(os.path.normpath(self._inside(path)))

    def commit(
        self, destination: units.StrPath | IO[bytes], *, max_files: int = 100_000, max_size: int | str = "4G"
    ) -> None:
        """Write the changes to a folder, or as a layer of an OCI image to a file named *.tar or a binary file object.

        In a folder, which must exist, the same is done as was done in the box: files are written and removed, as far as
        the first error.  An archive is there as a whole, or what was there before is.
        """
        from . import committing  # and tarfile, which most boxes never need

        with self._upper(max_files, max_size) as upper:
            if not isinstance(destination, (str, os.PathLike)):
                if not hasattr(destination, "write"):
                    raise ConfigError("commit takes a folder, a name that ends in .tar, or a binary file object")
                committing.write_layer(upper, destination)
                return
            path = units.path(destination, "destination")
            if path.endswith(".tar"):
                _write_archive(upper, path)
                return
            into = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                committing.apply(upper, into)
            finally:
                os.close(into)

    @contextlib.contextmanager
    def _upper(self, max_files: int, max_size: int | str) -> Iterator[Upper]:
        budget = Budget(units.count(max_files, "max_files", least=1), units.size(max_size, "max_size", least=0))
        upper, lower, paths = self._open_overlay()
        try:
            yield Upper(upper, lower, paths, budget)
        finally:
            os.close(upper)
            os.close(lower)

    # --- many -----------------------------------------------------------------------------------------------

    def copy_in(
        self,
        source: units.StrPath | IO[bytes],
        name: units.StrPath | None = None,
        *,
        max_size: int | str = "1G",
        max_files: int = _MOST_FILES,
    ) -> None:
        """Copy a file, a folder with all that is in it, or what a binary file object gives, into the box.

        `name` is what it is called there (by default as outside); one that ends in "/" is the folder that it goes into.
        Folders on the way to it are made.  Symlinks of the source are followed, as it is the caller's; modes are kept
        but for set-user-ID and the like.
        """
        budget = Budget(units.count(max_files, "max_files", least=1), units.size(max_size, "max_size", least=0))
        if not isinstance(source, (str, os.PathLike)):
            if name is None or not hasattr(source, "read"):
                raise ConfigError("copy_in takes a path, or a binary file object and a name")
            path = self._place(name, "")
            self._make_folders(os.path.dirname(path))
            self._write(path, _bounded(source, budget, path))
            return
        outside = units.path(source, "source")
        own = os.path.basename(os.path.normpath(outside))
        path = self._place(own or "/" if name is None else name, own)
        self._make_folders(os.path.dirname(path))
        self._copy_in(outside, path, budget, 0)

    def _place(self, name: units.StrPath, own: str) -> str:
        """The path inside of what comes in as `name`, or under its own name in the folder of that name."""
        path = self._inside(name)
        if path.endswith("/"):
            path += own
        if path.endswith("/"):
            raise ConfigError(f"copy_in needs the name of a file or a folder, not {os.fspath(name)!r}")
        return "/" + os.path.normpath(path).lstrip("/")

    def _copy_in(self, source: str, path: str, budget: Budget, depth: int) -> None:
        budget.take_entry(source)
        if depth > walking.DEEPEST:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), source)
        mode = os.stat(source).st_mode
        if stat.S_ISDIR(mode):
            os.close(self._open_folder(path, mode & 0o777 | 0o700))
            for entry in sorted(os.listdir(source)):
                self._copy_in(os.path.join(source, entry), f"{path}/{entry}", budget, depth + 1)
        elif stat.S_ISREG(mode):
            with open(source, "rb", buffering=0) as file:
                self._write(path, walking.pieces(file.fileno(), budget, source), mode & 0o777)
        else:
            raise OSError(errno.ENXIO, "Not a regular file", source)

    def _make_folders(self, path: str) -> None:
        for at, letter in enumerate(path):
            if letter == "/" and at:
                os.close(self._open_folder(path[:at], 0o755))
        if path != "/":
            os.close(self._open_folder(path, 0o755))

    def copy_out(
        self,
        pattern: units.StrPath,
        destination: units.StrPath,
        *,
        max_size: int | str = _LARGEST_READ,
        max_files: int = _MOST_FILES,
    ) -> list[str]:
        """Copy files of the box to a folder of the host; returns their names, relative to both.

        `pattern` is a name, or one with `*`, `?` and `[...]` in it, and `**` for any number of folders; a folder that
        it matches is copied with all that is in it.  As cp(1) does, folders before the first of those signs are left
        out of the names.  `destination` is made if it is missing.  At most `max_size` bytes and `max_files` files and
        folders are looked at (EFBIG, E2BIG); what is no regular file is an error (ENXIO).
        The files are the caller's then, readable and writable, and executable where they were.  Each replaces a file of
        its name once it is there as a whole.
        """
        given = units.path(pattern, "pattern")
        path = os.path.normpath(self._inside(pattern))
        start = os.path.normpath(self._inside("."))
        if not path.startswith(start + "/"):
            start = "/"
        words = [word for word in path[len(start) :].split("/") if word]
        if not words or (start == "/" and words[0] in _NOT_FILES):
            raise ConfigError(f"copy_out copies files, which {given!r} is not about")
        budget = Budget(units.count(max_files, "max_files", least=1), units.size(max_size, "max_size", least=0))
        outside = units.path(destination, "destination")
        is_pattern = any(map(_is_pattern, words))
        with contextlib.ExitStack() as stack:
            folder = self._open_folder(start)
            stack.callback(os.close, folder)
            while words[:-1] and not _is_pattern(words[0]):
                start = os.path.join(start, words[0])
                folder = stack.enter_context(walking.opened_folder(words.pop(0), folder))
            os.makedirs(outside, exist_ok=True)
            into = os.open(outside, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, into)
            copying = _Copying(into, budget)
            copying.matching(folder, words, whole=start == "/")
        if not copying.files and not copying.has_folders and not is_pattern:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), given)
        return sorted(set(copying.files))


@dataclass
class _Copying:
    """What is copied out of a box: into which folder, how much may be looked at, and what has been copied."""

    into: int
    budget: Budget
    files: list[str] = field(default_factory=list)
    has_folders: bool = False

    def matching(self, folder: int, words: list[str], prefix: str = "", depth: int = 0, *, whole: bool = False) -> None:
        """Copy what matches the words in a folder of the box; `prefix` is where we are, below the destination too.

        `whole`: the folder is the root of the box, of which some folders hold no files that anybody made.
        """
        if depth > walking.DEEPEST:
            raise OSError(errno.ELOOP, "Folders too deep", prefix)
        word, rest = words[0], words[1:]
        if word == "**" and rest:  # for no folder; and for any, below
            self.matching(folder, rest, prefix, depth, whole=whole)
        for name in walking.names(folder, self.budget, prefix):
            shown = os.path.join(prefix, name)
            found = walking.look(name, folder)
            if found is None or (not prefix and whole and name in _NOT_FILES):
                continue
            if stat.S_ISDIR(found.st_mode):
                further = words if word == "**" else (rest or ["**"]) if fnmatch.fnmatchcase(name, word) else []
                if further:
                    self._folder(folder, name, further, shown, depth)
            elif not rest and (word == "**" or fnmatch.fnmatchcase(name, word)):
                self._file(folder, name, shown)

    def _folder(self, folder: int, name: str, words: list[str], shown: str, depth: int) -> None:
        if words == ["**"]:  # all that is in it, if anything is
            self.has_folders = True
            with _host_folder(self.into, shown):
                pass
        with walking.opened_folder(name, folder) as inner:
            self.matching(inner, words, shown, depth + 1)

    def _file(self, folder: int, name: str, shown: str) -> None:
        source = walking.open_file(name, folder, shown)
        try:
            mode = 0o755 if os.fstat(source).st_mode & 0o111 else 0o644
            with (
                _host_folder(self.into, os.path.dirname(shown)) as above,
                placing.placed(name, above, mode, shown) as target,
            ):
                for piece in walking.pieces(source, self.budget, shown):
                    _write_all(target, piece)
        finally:
            os.close(source)
        self.files.append(shown)


@contextlib.contextmanager
def _host_folder(into: int, path: str) -> Iterator[int]:
    """A folder below the destination, made where it is missing; no symlink is followed."""
    fd = os.dup(into)
    try:
        for name in path.split("/") if path else ():
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=fd)
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def _write_archive(upper: Upper, path: str) -> None:
    from . import committing

    above = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with placing.placed(os.path.basename(path), above, 0o666, path) as fd, open(fd, "wb", closefd=False) as file:
            committing.write_layer(upper, file)
    finally:
        os.close(above)


def _is_pattern(word: str) -> bool:
    return any(letter in word for letter in "*?[")


def _pieces_of(data: Data) -> Iterable[bytes | memoryview]:
    if isinstance(data, str):
        try:
            return [data.encode()]
        except UnicodeEncodeError:
            raise ConfigError(f"data has what UTF-8 cannot encode: {data!r}") from None
    if isinstance(data, (bytes, bytearray)):
        return [memoryview(data)]
    if isinstance(data, memoryview):
        return [data.tobytes()]
    if hasattr(data, "read"):
        return _read_all(data)
    raise ConfigError(f"data must be bytes, str or a binary file object, not {type(data).__name__}")


def _read_all(file: IO[bytes]) -> Iterator[bytes]:
    while True:
        piece = file.read(1 << 20)
        if not isinstance(piece, bytes):
            raise ConfigError("a file object must be a binary one")
        if not piece:
            return
        yield piece


def _bounded(file: IO[bytes], budget: Budget, shown: str) -> Iterator[bytes]:
    for piece in _read_all(file):
        budget.take(len(piece), shown)
        yield piece


def _write_all(fd: int, data: bytes | memoryview) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
