"""What kind of image a path is, and what is in it: an OCI layout, a `docker save` archive, a plain root file system.

See the OCI image specification (image-layout.md, manifest.md, config.md) and Docker's image/spec/v1.2.md.  All that
is read here comes from whoever made the image: JSON is bounded and its types are checked, blobs are named by digest
only, and the digests are compared with what was read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, Any, Protocol

from ..errors import ConfigError
from .readers import CHUNK, Member, Refused, again, decompressed

_LARGEST_JSON = 4 << 20
_MOST_MEMBERS = 100_000  # of an archive that holds an image: three a layer, and a few
_MOST_LAYERS = 500
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
#: how archives of images begin; no root file system does
_IMAGE_MEMBER = re.compile(
    r"(\./)?(blobs|oci-layout|index\.json|manifest\.json|repositories|[0-9a-f]{64}(\.json|\.tar)?)(/|\Z)"
)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True)
class Config:
    """What an image says of how its program is to be run."""

    env: tuple[tuple[str, str], ...] = ()
    workdir: str = ""
    user: str = ""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layer:
    """A layer: how to open its archive, and the digests that it must have, as it is and decompressed."""

    open: Callable[[], AbstractContextManager[IO[bytes]]]
    blob: str | None
    diff_id: str | None


@dataclass(frozen=True)
class Contents:
    """An image that has been looked at but not unpacked."""

    digest: str  #: of its configuration, which names the layers' digests
    config: Config
    layers: tuple[Layer, ...]
    size: int  #: bytes of the layers as they are, for a progress bar


class Store(Protocol):
    """Named files of an image, in a folder or in an archive."""

    def names(self) -> frozenset[str]:
        """Those at the top, by which kinds of images are told apart."""

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Open one for reading; `Refused` where it is not there."""

    def size(self, name: str) -> int:
        """Its length in bytes."""


class FolderStore:
    """An OCI layout as it lies on disk; nothing in it is followed out of it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def names(self) -> frozenset[str]:
        return frozenset(os.listdir(self._path))

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        with open(self._descriptor(name), "rb", buffering=0) as file:
            yield file

    def size(self, name: str) -> int:
        fd = self._descriptor(name)
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    def _descriptor(self, name: str) -> int:
        *above, last = name.split("/")
        if not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise Refused(f"{name[:200]!r} leads out of it")
        folder = os.open(self._path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in above:
                inner = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                os.close(folder)
                folder = inner
            if not stat.S_ISREG(os.stat(last, dir_fd=folder, follow_symlinks=False).st_mode):
                raise Refused(f"{name[:200]!r} is no regular file")
            fd = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except OSError as error:
            raise Refused(f"no {name!r} in it: {error.strerror}") from None
        finally:
            os.close(folder)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise Refused(f"{name!r} is no regular file")
        return fd


class ArchiveStore:
    """The members of an archive that is not compressed, wherever they are in it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._members: dict[str, tarfile.TarInfo] = {}
        careful = _Careful(file)
        with tarfile.open(fileobj=careful, mode="r:", tarinfo=Member) as archive:
            empty = archive.firstmember is None  # type: ignore[attr-defined]  # Python 3.10 would look again
            while not empty and (member := archive.next()) is not None:
                careful.headers = 0
                archive.pax_headers.clear()  # type: ignore[attr-defined]  # of all members to come: none that matters
                archive.members.clear()  # type: ignore[attr-defined]  # or it keeps them all
                name = os.path.normpath(member.name)
                if name in self._members and not member.isdir():
                    raise Refused(f"{name[:200]!r} is there twice")
                self._members[name] = member
                if len(self._members) > _MOST_MEMBERS:
                    raise Refused(f"more than {_MOST_MEMBERS} members")

    def names(self) -> frozenset[str]:
        return frozenset(name.split("/")[0] for name in self._members)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        member = self._member(name)
        yield _Slice(self._file, member.offset_data, member.size)  # type: ignore[misc]  # all that is used of IO

    def size(self, name: str) -> int:
        return self._member(name).size

    def _member(self, name: str) -> tarfile.TarInfo:
        for _ in range(8):  # docker save has links from layers to others that are the same
            member = self._members.get(os.path.normpath(name))
            if member is None:
                raise Refused(f"no {name[:200]!r} in it")
            if member.isreg() and not member.issparse():
                return member
            if not (member.issym() or member.islnk()):
                break
            name = os.path.join(os.path.dirname(name) if member.issym() else "", member.linkname)
        raise Refused(f"{name[:200]!r} is no regular file")


class _Careful(io.RawIOBase):
    """A file for `tarfile`, which reads headers into memory whose length the archive says."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self.headers = 0  #: bytes of headers since the last member

    def read(self, size: int | None = -1) -> bytes:
        """As `io.RawIOBase.read`, but no more than a header may have."""
        if size is None or size < 0 or self.headers + size > CHUNK:
            raise Refused(f"a header of {size} bytes more, where {CHUNK} are the most")
        self.headers += size
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As `io.IOBase.seek`, forward only."""
        if offset < self._file.tell():
            raise Refused("a member that points back in its archive")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As `io.IOBase.tell`."""
        return self._file.tell()


class _Slice(io.RawIOBase):
    """A part of a file."""

    def __init__(self, file: IO[bytes], at: int, size: int) -> None:
        super().__init__()
        self._fd, self._at, self._left = file.fileno(), at, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = os.pread(self._fd, min(len(buffer), self._left), self._at)
        buffer[: len(piece)] = piece
        self._at += len(piece)
        self._left -= len(piece)
        return len(piece)


def is_image_archive(file: IO[bytes]) -> bool:
    """Whether an archive, compressed or not, holds an image and not a root file system, by its first member."""
    with again(file) as raw, decompressed(raw) as stream:
        head = stream.read(tarfile.BLOCKSIZE)
    try:
        first = tarfile.TarInfo.frombuf(head, tarfile.ENCODING, "surrogateescape")
    except tarfile.TarError as error:
        raise Refused(f"no tar archive: {error}") from None
    return _IMAGE_MEMBER.match(first.name) is not None


def contents(store: Store, name: str | None) -> Contents:
    """What is in an OCI layout or a `docker save` archive; `name` says which, where there are several."""
    names = store.names()
    if "index.json" in names:
        return _oci(store, name)
    if "manifest.json" in names:
        return _docker(store, name)
    raise Refused("neither an OCI layout (index.json) nor what docker save writes (manifest.json)")


def _oci(store: Store, name: str | None) -> Contents:
    with store.open("index.json") as file:
        index = _json(file, None)
    manifest = _manifest(store, index, name)
    config_blob = _descriptor(manifest.get("config"), "the image's configuration")
    layers = [_descriptor(layer, "a layer") for layer in _list(manifest, "layers")]
    with store.open(_blob_path(config_blob)) as file:
        return _contents(store, file, [(_blob_path(digest), digest) for digest in layers])


def _manifest(store: Store, index: Mapping[str, Any], name: str | None) -> Mapping[str, Any]:
    """The manifest of this machine's architecture, and of this name, by way of nested indexes."""
    for _ in range(4):
        entries = [entry for entry in _list(index, "manifests") if isinstance(entry, dict)]
        chosen = [entry for entry in entries if _fits(entry, name)]
        if len(chosen) != 1:
            there = [_named(entry) for entry in entries]
            what = "no image" if not chosen else "more than one image"
            wanted = f" of the name {name!r}" if name else " for this machine" if not chosen else ""
            raise Refused(f"{what}{wanted} in it, but {', '.join(there) or 'nothing'}; say which as 'path:name'")
        name = None
        digest = _descriptor(chosen[0], "a manifest")
        with store.open(_blob_path(digest)) as file:
            index = _json(file, digest)
        if "manifests" not in index:
            return index
    raise Refused("indexes in indexes in indexes")


def _fits(entry: Mapping[str, Any], name: str | None) -> bool:
    platform = entry.get("platform")
    if isinstance(platform, dict):
        machine = os.uname().machine
        if platform.get("os") != "linux" or platform.get("architecture") != _ARCHITECTURES.get(machine, machine):
            return False
    return name is None or name in (_annotation(entry), entry.get("digest"))


def _annotation(entry: Mapping[str, Any]) -> str:
    annotations = entry.get("annotations")
    return str(annotations.get(_REF_NAME, "")) if isinstance(annotations, dict) else ""


def _named(entry: Mapping[str, Any]) -> str:
    platform = entry.get("platform")
    kind = f" ({platform.get('os')}/{platform.get('architecture')})" if isinstance(platform, dict) else ""
    return f"{(_annotation(entry) or str(entry.get('digest')))[:100]!r}{kind[:60]}"


def _docker(store: Store, name: str | None) -> Contents:
    with store.open("manifest.json") as file:
        images = _json(file, None, list)
    chosen = [image for image in images if isinstance(image, dict) and (name is None or name in _tags(image))]
    if len(chosen) != 1:
        tags = [str(tag)[:100] for image in images if isinstance(image, dict) for tag in _tags(image)]
        raise Refused(f"{len(chosen)} images of {name!r} in it, but {tags}; say which as 'path:name'")
    layers: list[tuple[str, str | None]] = [
        (path, None) for path in _list(chosen[0], "Layers") if isinstance(path, str)
    ]
    config = chosen[0].get("Config")
    if not isinstance(config, str):
        raise Refused("manifest.json names no configuration")
    with store.open(config) as file:
        return _contents(store, file, layers)


def _tags(image: Mapping[str, Any]) -> list[Any]:
    tags = image.get("RepoTags")
    return tags if isinstance(tags, list) else []


def _contents(store: Store, config_file: IO[bytes], layers: list[tuple[str, str | None]]) -> Contents:
    raw = config_file.read(_LARGEST_JSON + 1)
    digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    config = _json(io.BytesIO(raw), None)
    machine = os.uname().machine
    if config.get("architecture") not in (None, "", _ARCHITECTURES.get(machine, machine)):
        raise Refused(f"it is for {str(config['architecture'])[:50]!r}, and this machine is {machine}")
    rootfs = config.get("rootfs")
    diff_ids = _list(rootfs if isinstance(rootfs, dict) else {}, "diff_ids")
    if len(diff_ids) != len(layers) or len(layers) > _MOST_LAYERS:
        raise Refused(f"{len(layers)} layers, and {len(diff_ids)} digests of layers; {_MOST_LAYERS} are the most")
    for diff_id in diff_ids:
        if not isinstance(diff_id, str) or not _DIGEST.match(diff_id):
            raise Refused(f"no digest of a layer: {str(diff_id)[:100]!r}")
    made = tuple(
        Layer(lambda path=path: store.open(path), blob, diff_id)  # type: ignore[misc]  # the default is inferred
        for (path, blob), diff_id in zip(layers, diff_ids, strict=True)
    )
    return Contents(digest, _config(config.get("config")), made, sum(store.size(path) for path, _ in layers))


def _config(given: Any) -> Config:
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise Refused("the configuration's 'config' is no object")
    env = tuple(tuple(word.split("=", 1)) for word in _words(given, "Env") if word.find("=") > 0)
    workdir, user = given.get("WorkingDir") or "", given.get("User") or ""
    if not _is_word(workdir) or not _is_word(user):
        raise Refused("WorkingDir and User must be strings")
    return Config(env, workdir, user, _words(given, "Entrypoint"), _words(given, "Cmd"))  # type: ignore[arg-type]  # pairs


def _words(given: Mapping[str, Any], key: str) -> tuple[str, ...]:
    words = given.get(key) or []
    if not isinstance(words, list) or not all(map(_is_word, words)):
        raise Refused(f"{key} must be a list of strings")
    return tuple(words)


def _is_word(word: object) -> bool:
    """Whether it is text that a program can be given."""
    return isinstance(word, str) and "\0" not in word and not any("\ud800" <= letter <= "\udfff" for letter in word)


def _list(given: Any, key: str) -> list[Any]:
    found = given.get(key) if isinstance(given, dict) else None
    if not isinstance(found, list):
        raise Refused(f"no list of {key!r} in it")
    return found


def _descriptor(given: Any, what: str) -> str:
    digest = given.get("digest") if isinstance(given, dict) else None
    if not isinstance(digest, str) or not _DIGEST.match(digest):
        raise Refused(f"{what} is named by {str(digest)[:100]!r}, which is no sha256 digest")
    return digest


def _blob_path(digest: str) -> str:
    return f"blobs/sha256/{digest.partition(':')[2]}"


def _json(file: IO[bytes], digest: str | None, kind: type[Any] = dict) -> Any:
    raw = file.read(_LARGEST_JSON + 1)
    if len(raw) > _LARGEST_JSON:
        raise Refused(f"more than {_LARGEST_JSON} bytes of JSON")
    if digest is not None and digest != f"sha256:{hashlib.sha256(raw).hexdigest()}":
        raise Refused(f"{digest} is not the digest of what it names")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Refused(f"JSON that is none: {error}") from None
    if not isinstance(found, kind):
        raise Refused(f"JSON that is no {kind.__name__}")
    return found


def check_path(path: str) -> None:
    """Refuse what is neither a file nor a folder before anything is opened, which might wait (a FIFO)."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ConfigError(f"ChrootJail(image=): neither a file nor a folder: {path!r}", layers=("ChrootJail",))
