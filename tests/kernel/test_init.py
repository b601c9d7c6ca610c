"""What init keeps from a payload that would harm it, or live on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inside import answer, processes

from pysandbox import (
    PIPE,
    Namespaces,
    Sandbox,
)

pytestmark = pytest.mark.usefixtures("without_seccomp")

Fresh = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize("ids", [{}, {"uid": 0, "gid": 0}], ids=str)
@pytest.mark.parametrize("name", ["exe", "mem", "environ", "maps", "auxv", "fd/0", "fd/3", "root/box", "cwd/box"])
def test_a_file_of_inits_in_proc_is_closed_to_the_payload(name: str, ids: dict[str, Any]) -> None:
    code = f"""
    answer = [error_of(os.open, "/proc/1/{name}", flags) for flags in (os.O_RDONLY, os.O_WRONLY, os.O_PATH)]
    """
    reading, writing, naming = answer(code, Namespaces(**ids))
    assert reading in ("EACCES", "EPERM", "ENOENT")
    assert writing in ("EACCES", "EPERM", "ENOENT", "EROFS", "ETXTBSY")
    through_a_link = name.split("/")[0] in ("exe", "fd", "root", "cwd")
    assert naming in (("EACCES", "ENOENT") if through_a_link else ("allowed", "EACCES", "ENOENT"))


@pytest.mark.parametrize("name", ["mem", "environ", "maps", "root", "cwd"])
def test_the_same_file_of_the_payloads_own_is_open_to_it(name: str) -> None:
    assert answer(f"answer = error_of(os.open, '/proc/self/{name}', os.O_RDONLY)") == "allowed"


def test_the_payload_cannot_write_to_its_own_program() -> None:
    assert answer("answer = error_of(os.open, '/proc/self/exe', os.O_WRONLY)") in ("EROFS", "ETXTBSY", "EACCES")


CALLS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long] * 4
def outcome(result):
    return errno.errorcode[ctypes.get_errno()] if result == -1 else "allowed"
def attach(pid):
    return outcome(libc.ptrace(16, pid, 0, 0))
def seize(pid):
    return outcome(libc.ptrace(0x4206, pid, 0, 0))
def read_memory(pid):
    class Part(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
    buffer = ctypes.create_string_buffer(8)
    local = Part(ctypes.addressof(buffer), 8)
    return outcome(libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(local), 1, 0))
def get_fd(pid):
    return outcome(libc.syscall(438, os.pidfd_open(pid), 1, 0))
"""


@pytest.mark.parametrize("ids", [{}, {"uid": 0, "gid": 0}], ids=str)
@pytest.mark.parametrize("call", ["attach", "seize", "read_memory", "get_fd"])
def test_init_cannot_be_debugged(call: str, ids: dict[str, Any]) -> None:
    assert answer(CALLS + f"answer = {call}(1)", Namespaces(**ids)) == "EPERM"


@pytest.mark.parametrize("call", ["attach", "seize", "read_memory", "get_fd"])
def test_a_child_of_the_payloads_own_can_be_debugged(call: str) -> None:
    code = (
        CALLS
        + f"""
child = os.fork()
if child == 0:
    import time
    time.sleep(1000)
answer = {call}(child)
"""
    )
    assert answer(code) == "allowed"


def test_what_becomes_another_run_cannot_be_looked_into_meanwhile(box: Sandbox) -> None:
    # Until exec it shares init's memory and may have the payload's ids already.
    spy = """
import os
print("ready", flush=True)
caught = 0
while not os.path.exists("/box/stop"):
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            caught += "pysandbox-init" in os.readlink(f"/proc/{name}/exe")
        except OSError:
            pass
print(caught)
"""
    with box.popen([sys.executable, "-S", "-c", spy], stdout=PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for _ in range(40):
            box.run(["true"], timeout=20)
        box.write_file("stop", "")
        assert process.stdout.read() == b"0\n"


@pytest.mark.parametrize("number", [1, 2, 9, 15, 19, 10])
def test_init_does_not_mind_signals_of_the_payload(box: Sandbox, number: int) -> None:
    box.run(["sh", "-c", f"kill -{number} 1"], timeout=20)
    assert box.run(["echo", "alive"], timeout=20).stdout == b"alive\n"


def test_killing_everybody_reaches_nobody_outside(box: Sandbox) -> None:
    with subprocess.Popen(["sleep", "1000"]) as bystander:
        try:
            result = box.run([sys.executable, "-c", "import os; os.kill(-1, 9)"], timeout=20)
            assert result.returncode in (0, 1)
            assert bystander.poll() is None
        finally:
            bystander.kill()
    assert box.run(["echo", "alive"], timeout=20).stdout == b"alive\n"


def test_the_callers_process_cannot_be_signalled() -> None:
    code = f"answer = error_of(os.kill, {os.getpid()}, 0)"
    assert answer(code) == "ESRCH"


@pytest.mark.root
def test_limits_of_init_cannot_be_changed() -> None:
    code = "import resource; answer = error_of(resource.prlimit, 1, resource.RLIMIT_NOFILE, (10, 10))"
    assert answer(code) == "EPERM"


SPOIL = """
import os, resource, time
for number in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_AS, resource.RLIMIT_STACK):
    try:
        resource.prlimit(1, number, (0, 0))
    except OSError:
        pass
"""


# An orphan falls to init, which wakes up to take it in.
WAKE_INIT = """
if os.fork() == 0:
    if os.fork() == 0:
        os._exit(0)
    os._exit(0)
os.wait()
time.sleep(0.2)
"""


def end_init(pid: int) -> None:
    """End an init that may not listen any more, and its box with it."""
    with contextlib.suppress(OSError):
        if Path(f"/proc/{pid}/comm").read_text() == "pysandbox-init\n":
            os.kill(pid, 9)


def end_with_init(marker: str) -> None:
    """End what a test started, by its marker."""
    for pid in processes(marker):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/status").read_text()
            end_init(next(int(line.split()[1]) for line in text.splitlines() if line.startswith("PPid:")))


def test_spoiling_inits_limits_does_not_make_the_next_run_hang(in_fresh_python: Fresh, tmp_path: Path) -> None:
    code = """
import pathlib, sys, pysandbox
with pysandbox.Sandbox() as box:
    pathlib.Path(sys.argv[2]).write_text(str(box._box.pid))
    print(box.run([sys.executable, "-c", sys.argv[1]], timeout=10).verdict.name)
    try:
        print(box.run(["true"], timeout=10).verdict.name)
    except pysandbox.SandboxError:
        print("OK")  # the box has ended, and that is said
"""
    try:
        done = in_fresh_python(code, SPOIL, str(tmp_path / "pid"), timeout=15)
    finally:
        end_init(int((tmp_path / "pid").read_text()))
    assert done.stdout == "OK\nOK\n", done.stderr


def test_spoiling_inits_limits_does_not_outlast_the_timeout(in_fresh_python: Fresh) -> None:
    code = """
import sys, pysandbox
print(pysandbox.run([sys.executable, "-c", *sys.argv[1:]], timeout=1).verdict.name)
"""
    marker = f"marker-{uuid.uuid4()}"
    try:
        done = in_fresh_python(code, SPOIL + WAKE_INIT + "\ntime.sleep(1000)", marker, timeout=15)
    finally:
        end_with_init(marker)
    assert done.stdout.strip() in ("WALL_TIME_EXCEEDED", "SIGNALED", "OK"), done.stderr


def test_spoiling_inits_limits_does_not_make_a_box_outlive_its_application(in_fresh_python: Fresh) -> None:
    code = """
import os, signal, sys, pysandbox
with pysandbox.Sandbox() as box:
    process = box.popen([sys.executable, "-c", *sys.argv[1:]], stdout=pysandbox.PIPE, stderr=pysandbox.DEVNULL)
    process.stdout.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    marker = f"marker-{uuid.uuid4()}"
    try:
        program = SPOIL + WAKE_INIT + "\nprint(flush=True)\ntime.sleep(1000)"
        assert in_fresh_python(code, program, marker, timeout=15).returncode == -9
        deadline = time.monotonic() + 5
        while (left := list(processes(marker))) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        end_with_init(marker)
    assert left == []
