"""Images that have been unpacked, by their digests, in the user's cache folder ($XDG_CACHE_HOME/pysandbox/images).

An image is unpacked beside the others and then renamed, so it is there as a whole or not at all, whoever else is at
it; what a process that died has left is removed by the next one, told by the lock that the living hold (flock(2)).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import IO, Any

from ..errors import ConfigError
from ..walking import remove_tree
from .formats import ArchiveStore, Config, Contents, FolderStore, Layer, check_path, contents, is_image_archive
from .readers import CHUNK, Hashed, Refused, again, decompressed, telling
from .unpack import Bounds, Unpacker

Progress = Callable[[int, int], None]  #: bytes of the source that were read, and all of them

_KEY = re.compile(r"[0-9a-f]{64}\Z")
_UNFINISHED = ".unpacking-"


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


def load(source: str, progress: Progress | None = None, *, bounds: Bounds | None = None, name: str = "") -> Image:
    """The image that a path or the name of an imported one means, unpacked if it has not been.

    Errors: `ConfigError` (no such image, damaged, hostile), `UnsupportedError` (zstd without a library for it).
    """
    path, wanted = _split(source)
    if path is None:
        return named(source)
    check_path(path)
    with contextlib.ExitStack() as stack, telling(f"image {source!r}"):
        identity = (os.path.realpath(path), wanted, *_identity(os.stat(path)), *_identity_of_index(path))
        image = _read(_keys[identity]) if identity in _keys else None
        if image is None:
            key, found = _look_into(path, wanted, stack, progress)
            image = _read(key) or _unpack(key, found, progress, bounds or Bounds())
            _keys[identity] = key
    return _take_name(image, name) if name and name not in image.names else image


def _take_name(image: Image, name: str) -> Image:
    """Give an image a name, which no other has any more then."""
    with _locked(fcntl.LOCK_EX):
        for other in list_images():
            if name in other.names:
                _write_about(other.path, other, tuple(kept for kept in other.names if kept != name))
        return _write_about(image.path, image, (*image.names, name))


@contextlib.contextmanager
def _locked(how: int) -> Iterator[None]:
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
    found = [image for key in os.listdir(folder()) if _KEY.match(key) and (image := _read(key)) is not None]
    return sorted(found, key=lambda image: -image.imported)


def remove(image: Image) -> None:
    """Remove an image from the cache; `ConfigError` while a box stands on it."""
    fd = os.open(image.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        base = os.path.dirname(image.path)
        aside = f"{_UNFINISHED}{secrets.token_hex(8)}"
        os.rename(image.path, os.path.join(base, aside))
        _remove_folder(base, aside)
    except BlockingIOError:
        raise ConfigError(f"image {image.digest} is in use by a box") from None
    finally:
        os.close(fd)


def sweep() -> int:
    """Remove what processes that died while they unpacked have left; returns how many of them."""
    base = folder()
    removed = 0
    with _locked(fcntl.LOCK_EX):  # nobody has made a folder and not locked it yet
        return _sweep(base, removed)


def _sweep(base: str, removed: int) -> int:
    for entry in os.listdir(base):
        if not entry.startswith(_UNFINISHED):
            continue
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            fd = os.open(os.path.join(base, entry), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_folder(base, entry)
                removed += 1
            finally:
                os.close(fd)
    return removed


# --- from a source to the cache --------------------------------------------------------------------------------


def _split(source: str) -> tuple[str | None, str | None]:
    """A path, and the name of the image in it where one is given as 'path:name'; no path: an imported image's name."""
    if os.path.exists(source):
        return source, None
    path, colon, name = source.partition(":")
    while colon:
        if os.path.exists(path):
            return path, name
        more, colon, name = name.partition(":")
        path = f"{path}:{more}"
    return None, None


def _look_into(
    path: str, wanted: str | None, stack: contextlib.ExitStack, progress: Progress | None
) -> tuple[str, Contents]:
    """What the source holds, and the key that it has in the cache."""
    if os.path.isdir(path):
        found = contents(FolderStore(path), wanted)
        return found.digest.partition(":")[2], found
    file = stack.enter_context(open(path, "rb", buffering=0))  # noqa: SIM115  # the caller's stack closes it
    if is_image_archive(file):
        found = contents(ArchiveStore(_seekable(file, stack)), wanted)
        return found.digest.partition(":")[2], found
    if wanted is not None:
        raise Refused(f"a root file system has no {wanted!r} in it")
    with again(file) as raw:
        digest = Hashed(raw).digest()
    layer = Layer(lambda: again(file), digest, None)
    return digest.partition(":")[2], Contents(digest, Config(), (layer,), os.fstat(file.fileno()).st_size)


#: keys of the images that this process has looked into, by all that changes when they do
_keys: dict[tuple[object, ...], str] = {}


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _identity_of_index(path: str) -> tuple[int, ...]:
    """Of a layout, whose folder stays the same when another image is put into it."""
    try:
        return _identity(os.stat(os.path.join(path, "index.json")))
    except OSError:
        return ()


def _seekable(file: IO[bytes], stack: contextlib.ExitStack) -> IO[bytes]:
    """The archive, decompressed into a nameless file of the cache's folder if it is compressed."""
    with again(file) as raw, decompressed(raw) as stream:
        head = stream.read(512)
    file.seek(0)
    if head == file.read(512):
        file.seek(0)
        return file
    copy = stack.enter_context(tempfile.TemporaryFile(dir=folder()))  # noqa: SIM115  # as above
    most = Bounds().size
    with again(file) as raw, decompressed(raw) as stream:
        while piece := stream.read(CHUNK):
            copy.write(piece)
            if copy.tell() > most:
                raise Refused(f"more than {most} bytes when decompressed")
    copy.seek(0)
    return copy


def _unpack(key: str, found: Contents, progress: Progress | None, bounds: Bounds) -> Image:
    base = folder()
    sweep()
    name = f"{_UNFINISHED}{secrets.token_hex(8)}"
    path = os.path.join(base, name)
    with _locked(fcntl.LOCK_SH):
        os.mkdir(path, 0o700)
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        os.mkdir(os.path.join(path, "rootfs"), 0o755)
        root = os.open(os.path.join(path, "rootfs"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            size = _unpack_layers(root, found, progress, bounds)
        finally:
            os.close(root)
        image = Image(f"sha256:{key}", os.path.join(base, key), found.config, (), size, time.time())
        _write_about(path, image, ())
        try:
            os.rename(path, image.path)
        except OSError:  # somebody else was first, or left it without a word about it (a power failure)
            if (theirs := _read(key)) is not None:
                return theirs
            aside = f"{_UNFINISHED}{secrets.token_hex(8)}"
            os.rename(image.path, os.path.join(base, aside))
            os.rename(path, image.path)
        return image
    finally:
        os.close(lock)
        with contextlib.suppress(FileNotFoundError):
            _remove_folder(base, name)


def _unpack_layers(root: int, found: Contents, progress: Progress | None, bounds: Bounds) -> int:
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, found.size)

    unpacker = Unpacker(root, bounds)
    try:
        for number, layer in enumerate(found.layers, start=1):
            try:
                with layer.open() as raw:
                    blob = Hashed(raw, tell)
                    with decompressed(blob) as stream:
                        diff = Hashed(stream)
                        unpacker.layer(diff)
                        _compare(layer.diff_id, diff)
                        _compare(layer.blob, blob)
            except Refused as error:
                raise Refused(f"layer {number}: {error}" if len(found.layers) > 1 else str(error)) from None
        unpacker.finish()
    finally:
        unpacker.close()
    return unpacker.size


def _compare(wanted: str | None, read: Hashed) -> None:
    if wanted is not None and (got := read.digest()) != wanted:
        raise Refused(f"its digest is {got}, and not {wanted}")


def _write_about(path: str, image: Image, names: tuple[str, ...]) -> Image:
    about = {"config": asdict(image.config), "names": names, "size": image.size, "imported": image.imported}
    temporary = os.path.join(path, f".image-{secrets.token_hex(8)}")
    with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(about, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, os.path.join(path, "image.json"))
    return Image(image.digest, image.path, image.config, names, image.size, image.imported)


def _read(key: str) -> Image | None:
    path = os.path.join(folder(), key)
    try:
        with open(os.path.join(path, "image.json"), encoding="utf-8", errors="surrogateescape") as file:
            about = json.load(file)
        return _image_from(key, path, about)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
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


def _remove_folder(base: str, name: str) -> None:
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(name, fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def kept(image: Image) -> Iterator[None]:
    """Keep an image from being removed."""
    fd = os.open(image.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)
