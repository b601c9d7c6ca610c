"""`Rlimits`: what a payload is bound by without a cgroup."""

from __future__ import annotations

import errno
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from inside import PRELUDE, answer

import pysandbox
from pysandbox import (
    Environment,
    Namespaces,
    Rlimits,
    Sandbox,
    Verdict,
)

Fresh = Callable[..., "subprocess.CompletedProcess[str]"]

LIMITS: dict[str, tuple[Any, int]] = {
    "as_": ("1G", 1 << 30),
    "cpu": (100, 100),
    "data": ("512M", 512 << 20),
    "fsize": ("1M", 1 << 20),
    "memlock": (4096, 4096),
    "msgqueue": (4096, 4096),
    "nice": (0, 0),
    "nofile": (64, 64),
    "nproc": (50, 50),
    "rss": ("1G", 1 << 30),
    "rtprio": (0, 0),
    "sigpending": (100, 100),
    "stack": ("4M", 4 << 20),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_in_force_soft_and_hard(name: str) -> None:
    given, wanted = LIMITS[name]
    number = getattr(resource, f"RLIMIT_{name.rstrip('_').upper()}")
    code = f"import resource; answer = resource.getrlimit({number})"
    # One second apart for CPU time: at the hard limit the kernel says SIGKILL, at the soft one SIGXCPU.
    assert answer(code, Rlimits(**{name: given})) == [wanted, wanted + (name == "cpu")]


def test_limits_that_are_not_given_are_the_callers() -> None:
    numbers = [getattr(resource, f"RLIMIT_{name.rstrip('_').upper()}") for name in LIMITS if name != "nproc"]
    code = f"import resource; answer = [resource.getrlimit(n) for n in {numbers}]"
    with Sandbox(base=[Namespaces(), pysandbox.ChrootJail(), Environment(), Rlimits()]) as box:
        program = PRELUDE + code + "\nprint(json.dumps(answer))"
        seen = json.loads(box.run([sys.executable, "-S", "-c", program], timeout=20).stdout or b"")
    assert seen == [list(resource.getrlimit(number)) for number in numbers]


@pytest.mark.parametrize("layer", [Rlimits(), Rlimits(core=0), Rlimits(nofile=64)], ids=str)
def test_a_crash_writes_no_core_and_feeds_no_pipe(layer: Rlimits) -> None:
    # At 0 a core_pattern that is a pipe would be started all the same; at 1 the kernel refuses that too (core(5)).
    assert answer("import resource; answer = resource.getrlimit(resource.RLIMIT_CORE)", layer) == [1, 1]


def test_a_crash_leaves_no_file(box: Sandbox) -> None:
    assert box.run(["sh", "-c", "kill -SEGV $$"], timeout=20).returncode == -11
    assert box.run(["ls", "-A"], timeout=20).stdout == b""


def test_open_files_are_limited() -> None:
    code = "answer = error_of(lambda: [os.dup(0) for _ in range(100)])"
    assert answer(code, Rlimits(nofile=30)) == "EMFILE"


def test_without_that_limit_as_many_can_be_opened() -> None:
    assert answer("answer = error_of(lambda: [os.dup(0) for _ in range(100)])") == "allowed"


def test_file_size_is_limited(box: Sandbox) -> None:
    with Sandbox(Rlimits(fsize="64K")) as box:
        result = box.run(["dd", "if=/dev/zero", "of=file", "bs=1K", "count=100"], timeout=20)
        assert result.verdict is Verdict.OUTPUT_EXCEEDED
        assert len(box.read_file("file")) == 64 << 10


FORK = """
import time
def fork():
    for _ in range(20):
        if os.fork() == 0:
            time.sleep(1000)
answer = error_of(fork)
"""


def test_processes_are_limited() -> None:
    assert answer(FORK, Rlimits(nproc=10)) == "EAGAIN"


def test_without_that_limit_as_many_can_be_started() -> None:
    assert answer(FORK) == "allowed"


def test_memory_of_each_process_is_limited() -> None:
    code = """
    try:
        bytes(400 << 20)
        answer = "allowed"
    except MemoryError:
        answer = "refused"
    """
    assert answer(code, Rlimits(as_="300M")) == "refused"
    assert answer(code) == "allowed"


def test_a_limit_cannot_be_raised_inside() -> None:
    code = """
    import resource
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
        answer = "allowed"
    except (OSError, ValueError):
        answer = "refused"
    """
    assert answer(code, Rlimits(nofile=64)) == "refused"


@pytest.mark.root
def test_a_limit_cannot_be_raised_inside_a_box_without_a_user_namespace() -> None:
    code = """
    import resource
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
        answer = "allowed"
    except (OSError, ValueError):
        answer = "refused"
    """
    assert answer(code, Namespaces(user=False), Rlimits(nofile=64)) == "refused"


def test_a_limit_above_the_callers_is_an_error_of_its_step(in_fresh_python: Fresh) -> None:
    code = """
import pysandbox, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
try:
    pysandbox.run(["true"], pysandbox.Rlimits(nofile=200), timeout=20)
except pysandbox.SetupError as error:
    print(error.layer, error.step, error.errno, "hard limit" in error.hint)
"""
    done = in_fresh_python(code)
    assert done.stdout == f"Rlimits setrlimit {errno.EPERM} True\n", done.stderr


def test_setting_limits_leaves_the_callers_alone() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    answer("answer = 0", Rlimits(nofile=64))
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
