"""What a box stands on: folders that it holds, and mounts of them in which the owner's ids are the payload's.

A root caller makes those mounts; see mount_setattr(2), "ID-mapped mounts".  An ordinary caller needs none: its box has
its own id.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from . import features, loop
from ._native import ffi, lib
from .errors import ConfigError, SetupError, UnsupportedError
from .plan import GivenTree

_STEPS = ("openat2", "open_tree", "mount_setattr", "fsopen", "fsconfig", "fsmount")

#: starts a process with a user namespace of its own, and nothing else: returns its pid, and ends it
Spawn = Callable[[], contextlib.AbstractContextManager[int]]


@contextlib.contextmanager
def given(trees: Sequence[GivenTree], ids: tuple[int, int], spawn: Spawn) -> Iterator[list[int]]:
    """The descriptors of the mounts; `ids` are those of the payload on the host.

    Errors: `UnsupportedError` where a file system has no mounts with mapped ids, `SetupError`.
    """
    fds: list[int] = []
    namespaces: dict[tuple[int, int], int] = {}
    try:
        for tree in trees:
            owner = _owner(tree)
            if owner not in namespaces:
                namespaces[owner] = _user_namespace(owner, ids, spawn)
            fds.append(_mapped(tree, namespaces[owner]))
        yield fds
    finally:
        for fd in [*fds, *namespaces.values()]:
            os.close(fd)


@contextlib.contextmanager
def given_unmapped(trees: Sequence[GivenTree]) -> Iterator[list[int]]:
    """The same where ids cannot be mapped: what is not open to everybody is closed to the payload."""
    with contextlib.ExitStack() as stack:
        fds = []
        for tree in trees:
            fd = _mapped(tree, -1)
            stack.callback(os.close, fd)
            fds.append(fd)
        yield fds


class _Acting:
    """How many threads act as somebody else, and the dumpable flag that the process had before, which they spoil."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.threads = 0
        self.dumpable = 0


_acting = _Acting()


def _after_fork() -> None:
    global _acting
    _acting = _Acting()


os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def acting_as(ids: tuple[int, int]) -> Iterator[None]:
    """For this thread alone, files are made as those of other ids, and with no more rights (setfsuid(2))."""
    own = (os.geteuid(), os.getegid())
    if ids == own:
        yield
        return
    with _acting.lock:
        if not _acting.threads:
            _acting.dumpable = lib.pb_dumpable(-1)
        _acting.threads += 1
        error = lib.pb_set_file_ids(*ids)
    try:
        if error:
            raise SetupError(-error, layer="ChrootJail", step="setfsuid", arguments={"uid": ids[0], "gid": ids[1]})
        yield
    finally:
        with _acting.lock:
            lib.pb_set_file_ids(*own)
            _acting.threads -= 1
            if not _acting.threads and _acting.dumpable == 1:  # 2 cannot be set
                lib.pb_dumpable(1)


def hold(image: str | None, kept: str | None, held: list[int]) -> None:
    """Open and lock what a box stands on: its image is not removed meanwhile, and what it writes to is nobody else's.

    The descriptors go to `held`.  Errors: `ConfigError` (a `kept` folder that is open to others), `SetupError`.
    """
    for folder, mode in ((image, fcntl.LOCK_SH), (kept, fcntl.LOCK_EX)):
        if folder is None:
            continue
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            held.append(fd)
            _lock(fd, mode)
            if folder == kept and os.fstat(fd).st_mode & 0o077:
                raise ConfigError(
                    f"ChrootJail(upper=): {folder!r} must be closed to others (chmod 700): programs that a payload "
                    "leaves there are the caller's, and may be set-user-ID",
                    layers=("ChrootJail",),
                )
            for name in ("upper", "work") if folder == kept else ():
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=fd)
        except OSError as error:
            step = "flock" if error.errno == errno.EWOULDBLOCK else "open"
            arguments = {"folder": folder}
            raise features.setup_error(error.errno or errno.EIO, "ChrootJail", step, arguments) from None


def _lock(fd: int, mode: int) -> None:
    """flock(2); whoever removes an image from the cache holds it for a moment to see whether it is used."""
    for _ in range(20 if mode == fcntl.LOCK_SH else 1):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, mode | fcntl.LOCK_NB)
            return
        time.sleep(0.05)
    raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))


def _owner(tree: GivenTree) -> tuple[int, int]:
    try:
        found = os.stat(tree.folder)
        if tree.type is not None:  # in an image they are root's, as in every other
            return 0, 0
    except OSError as error:
        raise _error(error.errno or errno.EIO, "stat", tree) from None
    return found.st_uid, found.st_gid


def _user_namespace(inside: tuple[int, int], outside: tuple[int, int], spawn: Spawn) -> int:
    """A user namespace in which one uid and one gid are others."""
    with spawn() as pid:
        for name, own, other in zip(("uid_map", "gid_map"), inside, outside, strict=True):
            try:
                with open(f"/proc/{pid}/{name}", "wb", buffering=0) as file:
                    file.write(f"{own} {other} 1\n".encode())
            except OSError as error:
                arguments = {"map": f"{own} {other} 1"}
                raise SetupError(error.errno or errno.EIO, layer="ChrootJail", step=name, arguments=arguments) from None
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def _mapped(tree: GivenTree, namespace: int) -> int:
    step = ffi.new("int *")
    if tree.type is None:
        fd = lib.pb_mapped_tree(os.fsencode(tree.folder), namespace, tree.attributes, step)
    else:
        device, name = loop.attach(tree.folder)
        try:
            words = (name.encode(), tree.type.encode(), loop.option_of(tree.type).encode())
            fd = lib.pb_mounted_device(*words, namespace, tree.attributes, step)
        finally:
            os.close(device)
    if fd == -errno.EINVAL and _STEPS[step[0]] == "mount_setattr":
        raise UnsupportedError(
            f"an overlay over {tree.folder!r} whose files are the payload's",
            need="a file system with ID-mapped mounts (ext4, XFS, btrfs; tmpfs since Linux 6.3)",
            have="another",
            remedy="copy the folder to such a file system, or run as an ordinary user who owns it; degrade=True goes "
            "without: what is not open to everybody is closed to the payload",
        )
    if fd < 0:
        raise _error(-fd, _STEPS[step[0]], tree)
    return fd


def _error(number: int, step: str, tree: GivenTree) -> SetupError:
    arguments = {"folder": tree.folder, "attributes": hex(tree.attributes)}
    return features.setup_error(number, "ChrootJail", step, arguments)
