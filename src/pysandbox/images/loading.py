"""From a source to the cache: what a path holds, and unpacking it beside the images that are there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from typing import IO

from ..errors import ConfigError
from .cache import UNFINISHED, Image, folder, locked, named, read, remove_folder, sweep, use, write_about
from .decompression import decompressed
from .formats import Config, Contents, Layer, check_path, contents
from .readers import CHUNK, Hashed, Refused, again, telling
from .stores import ArchiveStore, FolderStore, check_root, is_image_archive
from .unpack import Bounds, Unpacker

Progress = Callable[[int, int], None]  #: bytes of the source that were read, and all of them

_TRIES = 10  # against those who remove what was loaded before it can be given a name


def load(source: str, progress: Progress | None = None, *, bounds: Bounds | None = None, name: str = "") -> Image:
    """The image that a path or the name of an imported one means, unpacked if it has not been.

    Errors: `ConfigError` (no such image, damaged, hostile), `UnsupportedError` (zstd without a library for it).
    """
    path, wanted = _split(source)
    if path is not None:
        check_path(path)
    for _ in range(_TRIES):
        image = named(source) if path is None else _from_path(path, wanted, source, progress, bounds or Bounds())
        used = use(image, name)
        if used is not None:
            return used
    raise ConfigError(f"image {source!r}: others remove it again and again", layers=("ChrootJail",))


def _from_path(path: str, wanted: str | None, source: str, progress: Progress | None, bounds: Bounds) -> Image:
    with contextlib.ExitStack() as stack, telling(f"image {source!r}"):
        identity = (os.path.realpath(path), wanted, *_identity(os.stat(path)), *_identity_in(path))
        image = read(_keys[identity]) if identity in _keys else None
        if image is None:
            key, found = _look_into(path, wanted, stack, bounds)
            image = read(key) or _unpack(key, found, progress, bounds)
            _keys[identity] = key
    return image


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


def _look_into(path: str, wanted: str | None, stack: contextlib.ExitStack, bounds: Bounds) -> tuple[str, Contents]:
    """What the source holds, and the key that it has in the cache."""
    if os.path.isdir(path):
        found = contents(FolderStore(path), wanted)
        return found.digest.partition(":")[2], found
    file = stack.enter_context(open(path, "rb", buffering=0))  # noqa: SIM115  # the caller's stack closes it
    if is_image_archive(file):
        found = contents(ArchiveStore(_seekable(file, stack, bounds.room)), wanted)
        return found.digest.partition(":")[2], found
    if wanted is not None:
        raise Refused(f"a root file system has no {wanted!r} in it")
    with again(file) as raw:
        digest = Hashed(raw).digest()
    layer = Layer(lambda: again(file), digest, None)
    size = os.fstat(file.fileno()).st_size
    return digest.partition(":")[2], Contents(digest, Config(), (layer,), size, is_root=True)


#: keys of the images that this process has looked into, by all that changes when they do
_keys: dict[tuple[object, ...], str] = {}


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _identity_in(path: str) -> tuple[int, ...]:
    """Of what a layout is known by, whose folder stays the same when another image is put into it."""
    found: tuple[int, ...] = ()
    for name in ("index.json", "manifest.json"):
        with contextlib.suppress(OSError):
            found += _identity(os.stat(os.path.join(path, name)))
    return found


def _seekable(file: IO[bytes], stack: contextlib.ExitStack, most: int) -> IO[bytes]:
    """The archive, decompressed into a nameless file of the cache's folder if it is compressed."""
    with again(file) as raw, decompressed(raw) as stream:
        head = stream.read(512)
    file.seek(0)
    if head == file.read(512):
        file.seek(0)
        return file
    copy = stack.enter_context(tempfile.TemporaryFile(dir=folder()))  # noqa: SIM115  # as above
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
    name = f"{UNFINISHED}{secrets.token_hex(8)}"
    path = os.path.join(base, name)
    with locked(fcntl.LOCK_SH):
        os.mkdir(path, 0o700)
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        os.mkdir(os.path.join(path, "rootfs"), 0o755)
        root = os.open(os.path.join(path, "rootfs"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            size = _unpack_layers(root, found, progress, bounds)
            if found.is_root:
                check_root(os.listdir(root))
        finally:
            os.close(root)
        image = Image(f"sha256:{key}", os.path.join(base, key), found.config, (), size, time.time())
        write_about(path, image, ())
        with locked(fcntl.LOCK_EX):
            fcntl.flock(lock, fcntl.LOCK_SH)  # a box may stand on it as soon as it has its name
            return _publish(path, image)
    finally:
        os.close(lock)
        with contextlib.suppress(FileNotFoundError):
            remove_folder(base, name)


def _publish(path: str, image: Image) -> Image:
    """Give an image that is unpacked its place, unless somebody else was first."""
    base, key = os.path.split(image.path)
    if (theirs := read(key)) is not None:
        return theirs
    if os.path.lexists(image.path):  # nothing is known of it (a power failure)
        os.rename(image.path, os.path.join(base, f"{UNFINISHED}{secrets.token_hex(8)}"))
    os.rename(path, image.path)
    return image


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
