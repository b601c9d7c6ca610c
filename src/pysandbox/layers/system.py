"""What a box shows of this system: what ordinary programs need of the host's files, and the running Python."""

from __future__ import annotations

import functools
import glob
import os
import sys
from pathlib import Path

_LIBRARY_NAMES = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# Of /etc, nothing that names users, hosts or secrets of this machine.
_ETC = (
    "alternatives",
    "ld.so.cache",
    "localtime",
    "pki/tls",
    "ssl/certs",
)

Pairs = tuple[tuple[str, str], ...]


def _is_link_into_usr(path: str) -> bool:
    return os.path.islink(path) and os.path.realpath(path).startswith("/usr/")


@functools.cache  # as everything here: what a system is made of is looked at once per process
def links() -> Pairs:
    """Symlinks at the top of the host that the box has too (/bin → usr/bin, on a merged /usr), and in /etc."""
    top = [(f"/{name}", os.readlink(f"/{name}")) for name in _LIBRARY_NAMES if _is_link_into_usr(f"/{name}")]
    etc = [(path, os.path.realpath(path)) for name in _ETC if _is_link_into_usr(path := f"/etc/{name}")]
    return (*top, *etc)


@functools.cache
def folders() -> Pairs:
    """Folders and files of the host to bind read-only, as (source without symlinks, path inside)."""
    found = [(os.path.realpath("/usr"), "/usr")]
    paths = (*(f"/{name}" for name in _LIBRARY_NAMES), *(f"/etc/{name}" for name in _ETC))
    there = (path for path in paths if os.path.exists(path) and not _is_link_into_usr(path))
    return (*found, *((os.path.realpath(path), path) for path in there))


@functools.cache
def linker_folders() -> bytes:
    """/etc/ld.so.conf with what it includes, as one file: the compiler's linker reads it too (ld(1), -rpath-link)."""
    folders = []
    for path in ("/etc/ld.so.conf", *sorted(glob.glob("/etc/ld.so.conf.d/*.conf"))):
        try:
            lines = Path(path).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        except OSError:
            continue
        folders += [line for line in lines if line.startswith("/")]
    return "".join(f"{folder}\n" for folder in folders).encode("utf-8", "surrogateescape")


def _copy_of(path: str) -> list[tuple[str, bytes]]:
    """A small file of the host, copied: cheaper than a mount; none where it is not there or not readable."""
    try:
        content = Path(path).read_bytes()
    except OSError:
        return []
    return [(path, content)] if len(content) <= 1 << 16 else []


@functools.cache
def own_files(uid: int, home: str) -> tuple[tuple[str, bytes], ...]:
    """Files of the box's own in place of the host's."""
    user = "" if uid == 0 else f"sandbox:x:{uid}:{uid}:sandbox:{home}:/bin/sh\n"
    group = "" if uid == 0 else f"sandbox:x:{uid}:\n"
    nobody = "" if uid == 65534 else "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    nogroup = "" if uid == 65534 else "nogroup:x:65534:\n"
    return (
        ("/etc/passwd", f"root:x:0:0:root:{home}:/bin/sh\n{user}{nobody}".encode()),
        ("/etc/group", f"root:x:0:\n{group}{nogroup}".encode()),
        ("/etc/ld.so.conf", linker_folders()),
        *_copy_of("/etc/ssl/openssl.cnf"),
        ("/etc/hosts", b"127.0.0.1 localhost sandbox\n::1 localhost\n"),
        ("/etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n"),
        ("/etc/resolv.conf", b"# no name servers\n"),
        ("/etc/machine-id", b"73616e64626f782d6e6f742d612d6d61\n"),  # nobody's
    )


def _prefixes() -> list[str]:
    """The folders of the running Python that /usr does not hold, without symlinks, outermost only."""
    found = {os.path.realpath(p) for p in (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)}
    outside = sorted(p for p in found if p not in ("/", "/usr") and not p.startswith("/usr/"))
    return [p for p in outside if not any(p.startswith(q + "/") for q in outside)]


@functools.cache
def python_folders() -> Pairs:
    """The running Python's prefix, base prefix and venv as (source, path inside); both spellings where links are."""
    real = _prefixes()
    found = [(prefix, prefix) for prefix in real]
    for prefix in (sys.prefix, sys.base_prefix):
        given = os.path.normpath(prefix)
        resolved = os.path.realpath(given)
        if given != resolved and resolved in real:
            found.append((resolved, given))
    return tuple(found)


@functools.cache
def python_links() -> Pairs:
    """The symlinks by which `sys.executable` reaches its file, where they lie outside the folders above."""
    found = []
    bound = [*_prefixes(), "/usr", *(os.path.normpath(p) for p in (sys.prefix, sys.base_prefix))]
    path = os.path.normpath(sys.executable) if sys.executable else ""
    for _ in range(40):  # as many as the kernel follows
        if not path or not os.path.islink(path):
            break
        if not any(path.startswith(folder + "/") for folder in bound):
            found.append((os.path.normpath(path), os.readlink(path)))
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    return tuple(found)
