"""Archives and images as the tests need them: honest ones, and what nobody would make by accident."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Member = tuple[tarfile.TarInfo, bytes]

MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
MACHINE = MACHINES.get(os.uname().machine, os.uname().machine)


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: Any) -> Member:
    """A member of an archive; `more` are attributes of its TarInfo."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, len(content), 0o755 if kind == tarfile.DIRTYPE else 0o644
    for attribute, value in more.items():
        setattr(info, attribute, value)
    return info, content


def folder(name: str, **more: Any) -> Member:
    return member(name, kind=tarfile.DIRTYPE, **more)


def link(name: str, target: str, **more: Any) -> Member:
    return member(name, kind=tarfile.SYMTYPE, linkname=target, **more)


def hard_link(name: str, target: str) -> Member:
    return member(name, kind=tarfile.LNKTYPE, linkname=target)


def tar(members: Iterable[Member]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Layout:
    """The blobs of an OCI layout, and the index that names one image by its layers."""

    def __init__(self, layers: Iterable[bytes], config: dict[str, Any] | None = None, *, compress: bool = True) -> None:
        self.files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
        plain = list(layers)
        blobs = [gzip.compress(layer, 1) for layer in plain] if compress else plain
        self.config = {
            "architecture": MACHINE,
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in plain]},
        }
        self.manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "config": {"digest": self.add(json.dumps(self.config).encode())},
            "layers": [{"digest": self.add(blob), "size": len(blob)} for blob in blobs],
        }
        self.entries: list[dict[str, Any]] = [{"digest": self.add(json.dumps(self.manifest).encode())}]

    def add(self, blob: bytes) -> str:
        name = digest(blob)
        self.files[f"blobs/sha256/{name.partition(':')[2]}"] = blob
        return name

    def all_files(self) -> dict[str, bytes]:
        return {**self.files, "index.json": json.dumps({"schemaVersion": 2, "manifests": self.entries}).encode()}

    def write(self, path: Path) -> Path:
        """As a folder."""
        for name, content in self.all_files().items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        return path

    def tar(self) -> bytes:
        """As an archive."""
        return tar(member(name, content) for name, content in self.all_files().items())

    def by_docker(self, *tags: str, full: bool = True) -> dict[str, Any]:
        """Name the image as Docker does from version 25 on; returns what it tells of it in manifest.json."""
        (entry,) = self.entries
        self.entries = []
        for tag in tags:
            names = {"org.opencontainers.image.ref.name": tag.rpartition(":")[2]}
            if full:
                names["io.containerd.image.name"] = f"docker.io/library/{tag}"
            self.entries.append({**entry, "annotations": names})
        paths = [f"blobs/sha256/{blob.partition(':')[2]}" for blob in self._blobs()]
        return {"Config": paths[0], "RepoTags": list(tags), "Layers": paths[1:]}

    def _blobs(self) -> list[str]:
        return [self.manifest["config"]["digest"], *(layer["digest"] for layer in self.manifest["layers"])]


def docker_save(
    layers: list[bytes], config: dict[str, Any] | None = None, tags: tuple[str, ...] = ("a:latest",)
) -> bytes:
    """What `docker save` writes: folders by layer, a configuration, and manifest.json at the end."""
    about = {
        "architecture": MACHINE,
        "os": "linux",
        "config": config or {},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
    }
    raw = json.dumps(about).encode()
    name = f"{hashlib.sha256(raw).hexdigest()}.json"
    members = [member(f"{hashlib.sha256(layer).hexdigest()}/layer.tar", layer) for layer in layers]
    paths = [info.name for info, _ in members]
    manifest = [{"Config": name, "RepoTags": list(tags), "Layers": paths}]
    return tar([*members, member(name, raw), member("manifest.json", json.dumps(manifest).encode())])
