"""Images that have been unpacked, by their digests, in the user's cache folder ($XDG_CACHE_HOME/pysandbox/images).

An image is there as a whole or not at all, whoever else is at it.  Two locks see to that (flock(2)): the cache's folder
is locked by whoever changes what is in it, for a moment, and the folder of an image by those who stand on it, unpack it
or remove it; what a process that died has left has no lock any more, and is removed by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ConfigError
from ..walking import remove_tree
from .formats import Config

UNFINISHED = ".unpacking-"  #: how the names of folders begin that are no images yet, or no more
_KEY = re.compile(r"[0-9a-f]{64}\Z")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_IN_USE = 10.0  # seconds that an image is taken for in use after it was asked for


@dataclass(frozen=True)
class Image:
    """An image in the cache."""

    digest: str
    path: str  #: its folder in the cache
    config: Config
    names: tuple[str, ...]  #: what it was imported as
    size: int  #: bytes of its files
    imported: float  #: seconds since the epoch

    @property
    def root(self) -> str:
        """Its root file system."""
        return os.path.join(self.path, "rootfs")


def folder() -> str:
    """The cache's folder, made if it is not there; others have no part in it."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    path = os.path.join(base, "pysandbox", "images")
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        found = os.stat(path)
    except OSError as error:
        raise ConfigError(
            f"no folder for images can be had: {path!r}: {error.strerror}; set XDG_CACHE_HOME to one that is yours",
            layers=("ChrootJail",),
        ) from None
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ConfigError(f"the folder for images is not yours alone: {path!r}", layers=("ChrootJail",))
    return path


@contextlib.contextmanager
def locked(how: int) -> Iterator[None]:
    """The cache's folder, locked against others that change what is in it (flock(2))."""
    fd = os.open(folder(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)


def named(name: str) -> Image:
    """An imported image by its name, its digest or the beginning of it (eight digits at least)."""
    digits = name.removeprefix("sha256:")
    images = list_images()
    found = [image for image in images if name in image.names]
    if not found and len(digits) >= 8:
        found = [image for image in images if image.digest.removeprefix("sha256:").startswith(digits)]
    if len(found) != 1:
        what = "no such file, and no imported image of that name" if not found else "more than one image begins so"
        raise ConfigError(f"ChrootJail(image=): {what}: {name!r}", layers=("ChrootJail",))
    return found[0]


def list_images() -> list[Image]:
    """All images in the cache, the newest first."""
    found = [image for key in os.listdir(folder()) if _KEY.match(key) and (image := read(key)) is not None]
    return sorted(found, key=lambda image: -image.imported)


def use(image: Image, name: str = "") -> Image | None:
    """Say that an image is used, which `prune` heeds, and give it a name, which no other has any more then.

    None: it was removed meanwhile.
    """
    with locked(fcntl.LOCK_EX if name else fcntl.LOCK_SH):
        there = read(os.path.basename(image.path))
        if there is None:
            return None
        with contextlib.suppress(OSError):  # a cache that is read-only is not pruned either
            os.utime(there.path)
        if not name or name in there.names:
            return there
        for other in list_images():
            if name in other.names:
                write_about(other.path, other, tuple(kept for kept in other.names if kept != name))
        return write_about(there.path, there, (*there.names, name))


def remove(image: Image) -> None:
    """Remove an image from the cache; `ConfigError` while a box stands on it, and if it is not there any more.

    A box that is being entered at this moment finds no image (`SetupError`); `prune` is for removing beside others.
    """
    if not _remove(image, lambda: True):
        raise ConfigError(f"image {image.digest} is not there any more")


def prune() -> list[Image]:
    """Remove the images without a name, and what was left half unpacked; returns the images.

    Those that a box stands on are left alone, and those that `load` has returned in the last ten seconds: whoever
    has asked for an image has so long to enter a box on it.
    """
    sweep()
    removed = []
    for image in list_images():
        with contextlib.suppress(ConfigError):  # a box stands on it
            if not image.names and _remove(image, functools.partial(_is_idle, image.path)):
                removed.append(image)
    return removed


def _is_idle(path: str) -> bool:
    there = read(os.path.basename(path))
    return there is not None and not there.names and abs(time.time() - os.stat(path).st_mtime) > _IN_USE


def _remove(image: Image, allowed: Callable[[], bool]) -> bool:
    """Remove an image if that is allowed, asked while nobody else can do anything to it; False: not, or it is gone."""
    base, key = os.path.split(image.path)
    aside = f"{UNFINISHED}{secrets.token_hex(8)}"
    with contextlib.ExitStack() as stack:
        with locked(fcntl.LOCK_EX):
            try:
                fd = os.open(image.path, _FOLDER)
            except FileNotFoundError:
                return False
            stack.callback(os.close, fd)
            if not allowed():
                return False
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # kept till it is gone: `sweep` leaves it to us
            except BlockingIOError:
                raise ConfigError(f"image {image.digest} is in use by a box") from None
            os.rename(os.path.join(base, key), os.path.join(base, aside))
        remove_folder(base, aside)
    return True


def sweep() -> int:
    """Remove what processes that died while they unpacked have left; returns how many of them."""
    base = folder()
    with contextlib.ExitStack() as stack:
        with locked(fcntl.LOCK_EX):  # nobody has made a folder and not locked it yet
            left = [entry for entry in os.listdir(base) if entry.startswith(UNFINISHED) and _taken(base, entry, stack)]
        for entry in left:
            with contextlib.suppress(FileNotFoundError):
                remove_folder(base, entry)
    return len(left)


def _taken(base: str, entry: str, stack: contextlib.ExitStack) -> bool:
    """Whether a folder was nobody's, and is ours now until the stack is left."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, BlockingIOError), contextlib.ExitStack() as mine:
        fd = os.open(os.path.join(base, entry), _FOLDER)
        mine.callback(os.close, fd)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        stack.push(mine.pop_all())
        return True
    return False


@contextlib.contextmanager
def kept(image: Image) -> Iterator[None]:
    """Keep an image from being removed; `ConfigError` if it was before."""
    try:
        with locked(fcntl.LOCK_SH):
            fd = os.open(image.path, _FOLDER)
            fcntl.flock(fd, fcntl.LOCK_SH)
    except FileNotFoundError:
        raise ConfigError(f"image {image.digest} is not there any more") from None
    try:
        yield
    finally:
        os.close(fd)


def write_about(path: str, image: Image, names: tuple[str, ...]) -> Image:
    """Write what is known of an image into its folder, with these names."""
    about = {"config": asdict(image.config), "names": names, "size": image.size, "imported": image.imported}
    temporary = os.path.join(path, f".image-{secrets.token_hex(8)}")
    with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(about, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, os.path.join(path, "image.json"))
    return Image(image.digest, image.path, image.config, names, image.size, image.imported)


def read(key: str) -> Image | None:
    """The image of this key; None where there is none, or nothing is known of it."""
    path = os.path.join(folder(), key)
    try:
        with open(os.path.join(path, "image.json"), encoding="utf-8", errors="surrogateescape") as file:
            about = json.load(file)
        return _image_from(key, path, about)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def _image_from(key: str, path: str, about: Any) -> Image:
    config = about["config"]
    config = Config(
        env=tuple((name, value) for name, value in config["env"]),
        workdir=config["workdir"],
        user=config["user"],
        entrypoint=tuple(config["entrypoint"]),
        command=tuple(config["command"]),
    )
    return Image(f"sha256:{key}", path, config, tuple(about["names"]), about["size"], about["imported"])


def remove_folder(base: str, name: str) -> None:
    """Remove a folder of the cache, whatever is in it."""
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(name, fd)
    finally:
        os.close(fd)
