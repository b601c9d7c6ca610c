"""cgroups that a killed application left are removed at the next start, and those of the living are not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pysandbox
from pysandbox import CgroupLimits, Sandbox, cgroups
from pysandbox.cgroups import find

APPLICATION = """
import pysandbox, time
with pysandbox.Sandbox(pysandbox.CgroupLimits(pids=8)) as box:
    with box.popen(["sleep", "1000"]) as process:
        print("up", flush=True)
        time.sleep(1000)
"""


def leaves_of(pid: int) -> set[str]:
    group = cgroups.own_group()
    assert group is not None
    return {name for folder in group.folders() for name in os.listdir(folder) if f"-{pid}-" in name}


@pytest.mark.cgroup
def test_a_dead_applications_cgroups_are_swept_at_the_next_start(
    in_fresh_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    with subprocess.Popen([sys.executable, "-c", APPLICATION], stdout=subprocess.PIPE) as application:
        assert application.stdout is not None
        assert application.stdout.readline() == b"up\n"
        assert leaves_of(application.pid)
        in_fresh_python("import pysandbox; pysandbox.run(['true'])").check_returncode()
        assert leaves_of(application.pid), "it is alive"
        application.kill()
    deadline = time.monotonic() + 10
    while leaves_of(application.pid) and time.monotonic() < deadline:
        in_fresh_python("import pysandbox; pysandbox.run(['true'])").check_returncode()
    assert not leaves_of(application.pid)


@pytest.mark.cgroup
def test_other_peoples_cgroups_are_left_alone() -> None:
    group = cgroups.own_group()
    assert group is not None
    folder = Path(group.folders()[0])
    foreign = [folder / "pysandbox-1-2-3-x", folder / "pysandbox-1-99999999-3-4", folder / "another"]
    for path in foreign:
        path.mkdir()
    try:
        assert not set(find._sweep([str(folder)])) & set(map(str, foreign))
        assert all(path.is_dir() for path in foreign)
    finally:
        for path in foreign:
            path.rmdir()


EXECS_ITSELF = """
import os, sys, pysandbox
from pysandbox import CgroupLimits, Sandbox
box = Sandbox(CgroupLimits(memory="64M"))
box.__enter__()
processes = [box.popen(["sleep", "50"]) for _ in range(3)]
print(os.getpid(), flush=True)
if len(sys.argv) == 1:
    os.execv(sys.executable, [sys.executable, __file__, "again"])
for process in processes:
    process.close()
box.__exit__(None, None, None)
print("done", flush=True)
"""


@pytest.mark.cgroup
def test_an_application_that_execs_itself_removes_what_it_left_and_goes_on(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(EXECS_ITSELF)
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60, check=False)
    first, second, last = done.stdout.split()
    assert (first, last) == (second, "done"), done.stderr
    assert not leaves_of(int(first))


@pytest.mark.cgroup
def test_without_limits_no_cgroup_is_made() -> None:
    with Sandbox(base=None) as box, box.popen(["sleep", "100"]):
        assert not leaves_of(os.getpid())
    with Sandbox(CgroupLimits(pids=5)) as box, box.popen(["sleep", "100"]):
        assert leaves_of(os.getpid())


def test_vacating_helps_or_says_why_not() -> None:
    if cgroups.own_group() is not None:
        pysandbox.vacate_cgroup()  # nothing to do
        assert cgroups.own_group() is not None
    else:
        with pytest.raises(pysandbox.UnsupportedError):
            pysandbox.vacate_cgroup()
