"""What a box shows of this system: the folders and files of the host that ordinary programs need, and the running Python."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

_LIBRARY_NAMES = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
#: of /etc: nothing that names users, hosts or secrets of this machine
_ETC = (
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "host.conf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "perl",
    "pki/tls",
    "protocols",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "timezone",
)


def links() -> Iterator[tuple[str, str]]:
    """Symlinks at the top of the host that the box has too (/bin → usr/bin, on a merged /usr), and in /etc."""
    for name in _LIBRARY_NAMES:
        if os.path.islink(f"/{name}") and os.path.realpath(f"/{name}").startswith("/usr/"):
            yield f"/{name}", os.readlink(f"/{name}")
    for name in _ETC:
        path = f"/etc/{name}"
        if os.path.islink(path) and os.path.realpath(path).startswith("/usr/"):
            yield path, os.path.realpath(path)


def folders() -> Iterator[tuple[str, str]]:
    """Folders and files of the host to bind read-only, as (source without symlinks, path inside)."""
    yield os.path.realpath("/usr"), "/usr"
    for name in _LIBRARY_NAMES:
        real = os.path.realpath(f"/{name}")
        if os.path.isdir(real) and not (os.path.islink(f"/{name}") and real.startswith("/usr/")):
            yield real, f"/{name}"
    for name in _ETC:
        real = os.path.realpath(f"/etc/{name}")
        if os.path.exists(real) and not (os.path.islink(f"/etc/{name}") and real.startswith("/usr/")):
            yield real, f"/etc/{name}"


def files(uid: int, home: str) -> Iterator[tuple[str, bytes]]:
    """Files of the box's own in place of the host's."""
    user = "" if uid == 0 else f"sandbox:x:{uid}:{uid}:sandbox:{home}:/bin/sh\n"
    group = "" if uid == 0 else f"sandbox:x:{uid}:\n"
    nobody = "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n" if uid != 65534 else ""
    yield "/etc/passwd", f"root:x:0:0:root:{home}:/bin/sh\n{user}{nobody}".encode()
    yield "/etc/group", f"root:x:0:\n{group}{'nogroup:x:65534:' if uid != 65534 else ''}\n".encode()
    yield "/etc/hosts", b"127.0.0.1 localhost sandbox\n::1 localhost\n"
    yield "/etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n"


def _prefixes() -> list[str]:
    """The folders of the running Python that /usr does not hold, without symlinks, outermost only."""
    found = {os.path.realpath(p) for p in (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)}
    outside = sorted(p for p in found if p not in ("/", "/usr") and not p.startswith("/usr/"))
    return [p for p in outside if not any(p.startswith(q + "/") for q in outside)]


def python_folders() -> Iterator[tuple[str, str]]:
    """The running Python's prefix, base prefix and venv, as (source, path inside); both spellings of a path with links."""
    real = _prefixes()
    for prefix in real:
        yield prefix, prefix
    for prefix in (sys.prefix, sys.base_prefix):
        given = os.path.normpath(prefix)
        resolved = os.path.realpath(given)
        if given != resolved and resolved in real:
            yield resolved, given


def python_links() -> Iterator[tuple[str, str]]:
    """The symlinks by which `sys.executable` reaches its file, where they lie outside the folders above."""
    bound = [*_prefixes(), "/usr", *(os.path.normpath(p) for p in (sys.prefix, sys.base_prefix))]
    path = sys.executable or ""
    for _ in range(40):  # as many as the kernel follows
        if not path or not os.path.islink(path):
            return
        if not any(path.startswith(folder + "/") for folder in bound):
            yield os.path.normpath(path), os.readlink(path)
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
