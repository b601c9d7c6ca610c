"""Fixtures of the tests that start boxes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import pysandbox


@pytest.fixture
def without_seccomp() -> Iterator[None]:
    """For tests of what other layers keep: a filter of system calls would keep it too."""
    with pysandbox.Seccomp("off"):
        yield


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder of the host that anybody may write to, with a file in it."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "known").write_text("of the host\n")
    (folder / "known").chmod(0o666)
    return folder


APPLETS = ("sh", "cat", "chmod", "cp", "id", "ln", "ls", "mkdir", "mkfifo", "mv", "pwd", "rm", "sleep", "stat", "touch")


@pytest.fixture
def busybox(tmp_path: Path) -> Path:
    """A small root file system of the caller's own, with a shell that needs nothing."""
    root = tmp_path / "busybox"
    for name in ("bin", "dev", "etc", "opt/a/b", "proc", "tmp", "usr/share"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin" / "busybox")
    for name in APPLETS:
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc" / "hello").write_text("hello\n")
    (root / "etc" / "other").write_text("other\n")
    (root / "opt" / "a" / "b" / "f").write_text("deep\n")
    try:
        with pysandbox.Sandbox(pysandbox.ChrootJail(root, overlay=True)):
            pass
    except pysandbox.UnsupportedError as error:
        pytest.skip(f"the temporary folder's file system has no ID-mapped mounts: {error.need}")
    return root
