"""Files of the host that come into being whole, in the place of what was there, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator

from . import walking

_WRITE = os.O_WRONLY | os.O_CLOEXEC


@contextlib.contextmanager
def placed(name: str, folder: int, mode: int, shown: str) -> Iterator[int]:
    """A descriptor to write a new file by, which has its name in a folder once the block has ended well.

    It replaces a regular file, whose mode and other names stay out of it; in the place of anything else it is an
    OSError (ELOOP of a symlink, which is not followed; ENXIO).  `mode` is subject to the umask.
    """
    there = walking.look(name, folder)
    if there is not None and not stat.S_ISREG(there.st_mode):
        number = errno.ELOOP if stat.S_ISLNK(there.st_mode) else errno.ENXIO
        raise OSError(number, "The destination has something of that name that is no regular file", shown)
    temporary = f".pysandbox-{secrets.token_hex(8)}"
    has_name = False
    try:  # without a name it is gone by itself, whatever becomes of us
        fd = os.open(".", _WRITE | os.O_TMPFILE, mode, dir_fd=folder)
    except OSError:  # a file system that has no such files
        fd = os.open(temporary, _WRITE | os.O_CREAT | os.O_EXCL, mode, dir_fd=folder)
        has_name = True
    try:
        yield fd
        if not has_name:
            os.link(f"/proc/self/fd/{fd}", temporary, dst_dir_fd=folder, follow_symlinks=True)
            has_name = True
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        has_name = False
    finally:
        os.close(fd)
        if has_name:
            os.unlink(temporary, dir_fd=folder)
