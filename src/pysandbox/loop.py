"""A file system in a file, as a block device: loop(4), read-only, gone when nothing has it mounted any more."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from .errors import ConfigError, SetupError, UnsupportedError

_GET_FREE, _CONFIGURE = 0x4C82, 0x4C0A  # linux/loop.h
_READ_ONLY, _AUTOCLEAR = 1, 4
_CONFIG = struct.Struct("=II232s64x")
_FLAGS_AT = 52  # of lo_flags in struct loop_info64
_ATTEMPTS = 20  # others may take the number that was free

#: type → where its magic number is, what it is, and an option without which nothing is read-only
_TYPES: dict[str, tuple[int, bytes, str]] = {
    "squashfs": (0, b"hsqs", ""),
    "erofs": (1024, b"\xe2\xe1\xf5\xe0", ""),
    "ext4": (1080, b"\x53\xef", "noload"),  # its journal is not replayed
}


def type_of(path: str) -> str | None:
    """The file system that a file holds: squashfs, erofs or ext4; None for another, and for what is no file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        for name, (offset, magic, _) in _TYPES.items():
            if os.pread(fd, len(magic), offset) == magic:
                return name
        return None
    finally:
        os.close(fd)


def option_of(name: str) -> str:
    """What a file system is mounted with besides "ro"."""
    return _TYPES[name][2]


def attach(path: str) -> tuple[int, str]:
    """A loop device over a file: its descriptor, which keeps it until it is mounted, and its path.

    Errors: `UnsupportedError` (no loop devices, or no rights), `SetupError`.
    """
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise UnsupportedError(
            "ChrootJail(image=) of a file system",
            need="a root caller and loop devices",
            have=f"/dev/loop-control: {error.strerror}",
            remedy="unpack it (unsquashfs, fsck.erofs --extract, debugfs), and use the folder as root=",
        ) from None
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _configure(control, file, path)
        finally:
            os.close(file)
    except OSError as error:
        if isinstance(error, SetupError):
            raise
        raise SetupError(error.errno or errno.EIO, layer="ChrootJail", step="loop", arguments={"image": path}) from None
    finally:
        os.close(control)


def _configure(control: int, file: int, path: str) -> tuple[int, str]:
    info = bytearray(232)
    struct.pack_into("=I", info, _FLAGS_AT, _READ_ONLY | _AUTOCLEAR)
    for _ in range(_ATTEMPTS):
        device = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
        loop = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(loop, _CONFIGURE, _CONFIG.pack(file, 0, bytes(info)))
            return loop, device
        except OSError as error:
            os.close(loop)
            if error.errno != errno.EBUSY:
                raise
    raise ConfigError(f"no free loop device for {path!r}")
