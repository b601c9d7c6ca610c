"""What images are called where several lie in one place: by tags, by the names of registries, by digests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

_REF_NAME = "org.opencontainers.image.ref.name"  # often no more than a tag
_FULL_NAME = "io.containerd.image.name"  # as Docker writes from version 25 on
_LONGEST = 100  # of a name in an error


def full(name: str) -> str:
    """A name as registries have it: "a" is docker.io/library/a:latest."""
    first, slash, rest = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif "." not in first and ":" not in first and first != "localhost":
        name = f"docker.io/{name}"
    elif first == "docker.io" and "/" not in rest:
        name = f"docker.io/library/{rest}"
    return name if ":" in name.rpartition("/")[2] or "@" in name else f"{name}:latest"


def matching(entries: Iterable[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """The entries of an index that a name means: as it is written there, or else in its full form."""
    entries = list(entries)
    exact = [entry for entry in entries if name in _names(entry) or name in _digests(entry)]
    return exact or [entry for entry in entries if any(full(name) == full(other) for other in _names(entry))]


def labels(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """For an error, what each entry of an index can be told from the others by."""
    entries = list(entries)
    names = [next(iter(_names(entry)), "") for entry in entries]
    often = Counter(names)
    return [_label(entry, name if often[name] == 1 else "") for entry, name in zip(entries, names, strict=True)]


def _names(entry: Mapping[str, Any]) -> list[str]:
    annotations = entry.get("annotations")
    if not isinstance(annotations, dict):
        return []
    found = [annotations.get(key) for key in (_FULL_NAME, _REF_NAME)]
    return [name for name in found if isinstance(name, str) and name]


def _digests(entry: Mapping[str, Any]) -> tuple[str, ...]:
    digest = entry.get("digest")
    return (digest, digest.partition(":")[2]) if isinstance(digest, str) else ()


def _label(entry: Mapping[str, Any], name: str) -> str:
    platform = entry.get("platform")
    kind = f" ({platform.get('os')}/{platform.get('architecture')})" if isinstance(platform, dict) else ""
    return f"{(name or str(entry.get('digest')))[:_LONGEST]!r}{kind[:60]}"


# --- in manifest.json ------------------------------------------------------------------------------------------


def tags(image: Mapping[str, Any]) -> list[str]:
    """The tags of an image in manifest.json."""
    found = image.get("RepoTags")
    return [tag for tag in found if isinstance(tag, str)] if isinstance(found, list) else []


def tagged(images: Iterable[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """The images of manifest.json that a name means: a tag, or the digest of the configuration."""
    images = list(images)
    digits = name.removeprefix("sha256:")
    exact = [image for image in images if name in tags(image) or (len(digits) == 64 and digits in config_of(image))]
    return exact or [image for image in images if any(full(name) == full(tag) for tag in tags(image))]


def config_of(image: Mapping[str, Any]) -> str:
    """The name of the file that has an image's configuration; '' where it has none."""
    config = image.get("Config")
    return config if isinstance(config, str) else ""


def tag_labels(images: Iterable[Mapping[str, Any]]) -> list[str]:
    """For an error, what the images of manifest.json can be told from each other by."""
    return [repr(label[:_LONGEST]) for image in images for label in tags(image) or [config_of(image)]]
