"""Fixtures for all tests: nothing may be left behind, whatever a test does."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pysandbox
from pysandbox import box as box_module
from pysandbox import cgroups, features
from pysandbox.box import _init_image

if os.environ.get("PYSANDBOX_TEST_VACATE"):
    pysandbox.vacate_cgroup()

IS_ROOT = features.is_privileged()
HAS_CGROUP = cgroups.own_group() is not None


def children() -> set[int]:
    """The living children of this process, zombies included."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found |= {int(pid) for pid in (task / "children").read_text().split()}
        except OSError:
            continue
    return found


def open_fds() -> dict[int, str]:
    """The open descriptors of this process and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    return found


def own_cgroups() -> set[str]:
    """The cgroups that this process's boxes have made and not removed."""
    group = cgroups.own_group()
    folders = [] if group is None else group.folders()
    marked = (f"{folder}/{name}" for folder in folders for name in os.listdir(folder) if f"-{os.getpid()}-" in name)
    return {path for path in marked if os.path.basename(path).startswith("pysandbox-") and "-app-" not in path}


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No process, descriptor, mount, cgroup, thread or changed process state outlives a test."""
    _init_image()  # kept for the life of the process, once
    before = (children(), open_fds(), Path("/proc/self/mountinfo").read_text(), threading.active_count())
    dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
    cwd, umask, boxes = os.getcwd(), _umask(), box_module.boxes_made
    yield
    if box_module.boxes_made != boxes:
        gc.collect()  # a box that is forgotten is ended by its finaliser
    deadline = time.monotonic() + 2
    while True:
        after = (children(), open_fds(), Path("/proc/self/mountinfo").read_text(), threading.active_count())
        if (after[0] <= before[0] and after[1].keys() <= before[1].keys()) or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    assert after[0] <= before[0], "processes were left behind"
    assert after[1].keys() <= before[1].keys(), {fd: after[1][fd] for fd in after[1].keys() - before[1].keys()}
    assert after[2] == before[2], "mounts of the test process changed"
    assert after[3] <= before[3], "threads were left behind"
    assert own_cgroups() == set(), "cgroups were left behind"
    assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == dumpable, "the process's dumpable flag changed"
    assert (os.getcwd(), _umask()) == (cwd, umask)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


@pytest.fixture
def box() -> Iterator[pysandbox.Sandbox]:
    """A default box."""
    with pysandbox.Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def python() -> str:
    """The running interpreter, which is inside the default box too."""
    return sys.executable


@pytest.fixture
def in_fresh_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run code in a new interpreter outside any box, as an application of its own."""

    def run(code: str, *args: str, timeout: float = 60, **options: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", code, *args]
        return subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False, **options)  # type: ignore[call-overload, no-any-return]

    return run


_group = cgroups.own_group()
LACKS = {} if _group is None else _group.lacks(pysandbox.CgroupLimits(cpuset=(0,)).request())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say why a test is not run: it needs a root caller."""
    for item in items:
        if item.get_closest_marker("root") and not IS_ROOT:
            item.add_marker(pytest.mark.skip(reason="needs a root caller; this one is not"))
        if item.get_closest_marker("cpuset") and "cpuset" in LACKS:
            item.add_marker(pytest.mark.skip(reason="needs the cpuset controller, which systemd does not delegate"))
        if item.get_closest_marker("cgroup") and not HAS_CGROUP:
            item.add_marker(pytest.mark.skip(reason=f"needs a cgroup of one's own: {cgroups.why_not()}"))
