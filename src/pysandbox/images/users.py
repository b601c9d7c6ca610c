"""Whom an image wants its programs to be: a number, or a name in the image's own files."""

from __future__ import annotations

import os
import re

from ..errors import ConfigError
from .cache import Image

_LARGEST = 1 << 20
_LARGEST_ID = (1 << 32) - 2
_DIGITS = re.compile(r"[0-9]{1,10}\Z")


def ids_of(image: Image) -> tuple[int, int]:
    """The uid and gid of a configuration's User: "uid", "user", "uid:gid", "user:group"; root where it says nothing."""
    user, _, group = image.config.user.partition(":")
    uid, gid = 0, 0
    if user:
        line = _line(image, "etc/passwd", user)
        uid = _number(user, line[2] if len(line) > 2 else "", image)
        if len(line) > 3:
            gid = _number(line[3], "", image)
    if group:
        line = _line(image, "etc/group", group)
        gid = _number(group, line[2] if len(line) > 2 else "", image)
    return uid, gid


def _number(word: str, found: str, image: Image) -> int:
    number = word if _DIGITS.match(word) else found
    if not _DIGITS.match(number) or int(number) > _LARGEST_ID:
        raise ConfigError(f"image {image.digest}: no user or group {word!r} in it", layers=("ChrootJail",))
    return int(number)


def _line(image: Image, path: str, name: str) -> list[str]:
    """The line of a file of the image that has a name or a number; nothing in the image is followed out of it."""
    folder, _, file = path.partition("/")
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        above = os.open(os.path.join(image.root, folder), flags | os.O_RDONLY | os.O_DIRECTORY)
        try:
            with open(os.open(file, flags | os.O_RDONLY, dir_fd=above), "rb") as opened:
                text = opened.read(_LARGEST).decode("utf-8", "surrogateescape")
        finally:
            os.close(above)
    except OSError:
        return []
    for line in text.splitlines():
        fields = line.split(":")
        if fields[0] == name or (len(fields) > 2 and fields[2] == name):
            return fields
    return []
