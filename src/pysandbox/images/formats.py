"""What kind of image a path is, and what is in it: an OCI layout, a `docker save` archive, a plain root file system.

See the OCI image specification (image-layout.md, manifest.md, config.md) and Docker's image/spec/v1.2.md.  All that
is read here comes from whoever made the image: JSON is bounded and its types are checked, blobs are named by digest
only, and the digests are compared with what was read.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, Any

from ..errors import ConfigError
from . import references
from .readers import Refused
from .stores import Store

_LARGEST_JSON = 4 << 20
_MOST_LAYERS = 500
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})\Z")
#: how those who write archives as Docker does call the configuration's file: by its digest, each in its own way
_NAMED_BY_DIGEST = re.compile(r"(?:blobs/sha256/|sha256:)?([0-9a-f]{64})(?:\.json)?\Z")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


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
    is_root: bool = False  #: whether it is a root file system, and no image of layers


def contents(store: Store, name: str | None) -> Contents:
    """What is in an OCI layout or a `docker save` archive; `name` says which, where there are several."""
    names = store.names()
    if "index.json" in names:
        return _oci(store, name)
    if "manifest.json" in names:
        return _docker_contents(store, _docker_images(store), name)
    raise Refused("neither an OCI layout (index.json) nor what docker save writes (manifest.json)")


def _oci(store: Store, name: str | None) -> Contents:
    with store.open("index.json") as file:
        index = _json(file, None)
    if name is not None and not references.matching(_entries(index), name):
        images = _docker_images(store)
        if references.tagged(images, name):  # Docker writes both files, and tags only into one
            return _docker_contents(store, images, name)
    manifest = _manifest(store, index, name)
    config = _descriptor(manifest.get("config"), "the image's configuration")
    layers = [_descriptor(layer, "a layer") for layer in _list(manifest, "layers")]
    return _contents(store, _blob_path(config), config, [(_blob_path(digest), digest) for digest in layers])


def _manifest(store: Store, index: Mapping[str, Any], name: str | None) -> Mapping[str, Any]:
    """The manifest of this machine's architecture, and of this name, by way of nested indexes."""
    for _ in range(4):
        entries = _entries(index)
        named = entries if name is None else references.matching(entries, name)
        chosen = {str(entry.get("digest")): entry for entry in named if _is_for_this_machine(entry)}
        if len(chosen) != 1:
            there = dict.fromkeys(references.labels(entries) + references.tag_labels(_docker_images(store)))
            what = "no image" if not chosen else "more than one image"
            wanted = f" of the name {name!r}" if name else " for this machine" if not chosen else ""
            raise Refused(f"{what}{wanted} in it, but {', '.join(there) or 'nothing'}; say which as 'path:name'")
        name = None
        digest = _descriptor(next(iter(chosen.values())), "a manifest")
        with store.open(_blob_path(digest)) as file:
            index = _json(file, digest)
        if "manifests" not in index:
            return index
    raise Refused("indexes in indexes in indexes")


def _entries(index: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in _list(index, "manifests") if isinstance(entry, dict)]


def _is_for_this_machine(entry: Mapping[str, Any]) -> bool:
    platform = entry.get("platform")
    if not isinstance(platform, dict):
        return True
    machine = os.uname().machine
    return platform.get("os") == "linux" and platform.get("architecture") == _ARCHITECTURES.get(machine, machine)


def _docker_images(store: Store) -> list[Mapping[str, Any]]:
    """What manifest.json tells of; nothing where it is not there."""
    if "manifest.json" not in store.names():
        return []
    with store.open("manifest.json") as file:
        return [image for image in _json(file, None, list) if isinstance(image, dict)]


def _docker_contents(store: Store, images: list[Mapping[str, Any]], name: str | None) -> Contents:
    chosen = images if name is None else references.tagged(images, name)
    if len(chosen) != 1:
        there = ", ".join(references.tag_labels(images)) or "nothing"
        wanted = f" of the name {name!r}" if name else ""
        raise Refused(f"{len(chosen)} images{wanted} in it, but {there}; say which as 'path:name'")
    config = references.config_of(chosen[0])
    if not config:
        raise Refused("manifest.json names no configuration")
    paths = [path for path in _list(chosen[0], "Layers") if isinstance(path, str)]
    return _contents(store, config, _digest_in(config), [(path, _digest_in(path, _BLOB)) for path in paths])


def _digest_in(path: str, pattern: re.Pattern[str] = _NAMED_BY_DIGEST) -> str | None:
    """The digest that a file is named by; None where it is named otherwise."""
    found = pattern.match(path)
    return f"sha256:{found[1]}" if found else None


def _contents(store: Store, path: str, digest: str | None, layers: list[tuple[str, str | None]]) -> Contents:
    """By the file that has the configuration, its digest, and the same of the layers."""
    with store.open(path) as file:
        raw = file.read(_LARGEST_JSON + 1)
    config = _json(io.BytesIO(raw), digest)
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
    size = sum(store.size(path) for path, _ in layers)
    return Contents(f"sha256:{hashlib.sha256(raw).hexdigest()}", _config(config.get("config")), made, size)


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
