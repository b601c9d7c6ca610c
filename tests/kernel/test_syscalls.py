"""`Seccomp` in force: what a program gets to hear from the kernel, and what becomes of one that asks for too much."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from typing import Any

import pytest
from inside import answer

import pysandbox
from pysandbox import PIPE, Capabilities, Popen, Sandbox, Seccomp, Verdict
from pysandbox.result import Level
from pysandbox.seccomp import bpf, libseccomp
from pysandbox.seccomp.policy import Arg

CALL = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(*[ctypes.c_long(value) for value in (number, *arguments)])
    return errno.errorcode[ctypes.get_errno()] if result == -1 else "allowed"
"""
#: calls with arguments that the kernel itself finds fault with, or that do nothing, by what they are answered without a filter
HARMLESS = {
    "unshare": ((0,), (0x10000000,)),
    "bpf": ((99, 0, 0),),
    "perf_event_open": ((0, 0, -1, -1, 0),),
    "userfaultfd": ((0,),),
    "keyctl": ((0, -3, 0),),  # KEYCTL_GET_KEYRING_ID
    "io_uring_setup": ((0, 0),),
    "ptrace": ((0x4206, -1, 0, 0),),
    "process_vm_readv": ((-1, 0, 0, 0, 0, 0),),
    "mount": ((0, 0, 0, 0, 0),),
    "fsopen": ((0, 0),),
    "open_by_handle_at": ((-1, 0, 0),),
    "setns": ((-1, 0),),
    "clone3": ((0, 0),),
    "kexec_load": ((0, 0, 0, 0),),
    "finit_module": ((-1, 0, 0),),
    "personality": ((0xFFFFFFFF,), (0x0040000,)),
}


def answers(*layers: Any) -> dict[str, list[str]]:
    numbers = {name: libseccomp.number(name) for name in HARMLESS}
    code = CALL + f"calls, numbers = {HARMLESS!r}, {numbers!r}\n"
    code += "answer = {name: [call(numbers[name], *args) for args in calls[name]] for name in calls}"
    found: dict[str, list[str]] = answer(code, *layers)
    return found


@pytest.mark.parametrize("preset", ["default", "build", "python"])
def test_the_kernel_answers_as_the_policy_says(preset: str) -> None:
    policy = Seccomp(preset).policy
    for name, found in answers(Seccomp(preset)).items():
        for arguments, answered in zip(HARMLESS[name], found, strict=True):
            expected = policy.evaluate(name, *arguments)
            if expected.startswith("errno"):
                assert (name, answered) == (name, errno.errorcode[int(expected.split()[1])])


def test_without_it_the_kernel_finds_other_faults_or_none() -> None:
    without = answers(Seccomp("off"))
    assert without["ptrace"] == ["ESRCH"]
    assert without["userfaultfd"] == ["allowed"] or without["userfaultfd"] == ["EPERM"]  # vm.unprivileged_userfaultfd
    assert without["keyctl"] == ["allowed"]
    assert without["io_uring_setup"] in (["EFAULT"], ["EINVAL"])
    assert without["clone3"] == ["EINVAL"]
    assert without["process_vm_readv"] != ["EPERM"]


def test_a_program_of_the_box_is_filtered_and_so_are_its_children() -> None:
    code = """
    import subprocess
    own = [line.split()[1] for line in open('/proc/self/status') if line.startswith('Seccomp:')]
    answer = own + [subprocess.run(['grep', 'Seccomp:', '/proc/self/status'], capture_output=True, text=True).stdout.split()[1]]
    """
    assert answer(code) == ["2", "2"]
    assert answer(code, Seccomp("off")) == ["0", "0"]


def test_the_power_to_do_it_does_not_help() -> None:
    code = CALL + f"answer = call({libseccomp.number('unshare')}, 0x04000000)"
    power = Capabilities(keep=("sys_admin",))
    assert answer(code, power) == "EPERM"
    assert answer(code, power, Seccomp("off")) == "allowed"


def test_threads_and_processes_are_started_as_ever() -> None:
    code = """
    import threading, subprocess, multiprocessing, socket
    done = []
    threads = [threading.Thread(target=done.append, args=(1,)) for _ in range(5)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    worker = multiprocessing.get_context("fork").Process(target=int)
    worker.start(); worker.join()
    answer = [len(done), worker.exitcode, subprocess.run(["true"]).returncode]
    answer += [sorted({info[4][0] for info in socket.getaddrinfo("localhost", 80)})[0] in ("127.0.0.1", "::1")]
    """
    assert answer(code) == [5, 0, 0, True]


def test_sockets_of_other_families_are_not_there() -> None:
    code = """
    import socket
    def error(*arguments):
        try:
            socket.socket(*arguments).close()
        except OSError as error_:
            return errno.errorcode[error_.errno]
        return "allowed"
    answer = [error(*which) for which in ((40, 1), (38, 5), (17, 3), (16, 3, 15), (16, 3, 0), (2, 1), (10, 1), (1, 1))]
    """
    assert answer(code) == ["EAFNOSUPPORT"] * 3 + ["EPROTONOSUPPORT"] + ["allowed"] * 4
    without = answer(code, Seccomp("off"))
    assert without[3] == "allowed"


@pytest.mark.parametrize("upper", [0, 1 << 32])
def test_nothing_is_typed_for_the_user(upper: int) -> None:
    request = 0x5412 | upper
    code = f"""
    import ctypes, pty
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
    ours, theirs = pty.openpty()
    import fcntl, termios
    fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
    result = libc.ioctl(theirs, {request}, ctypes.c_char_p(b"x"))
    answer = errno.errorcode[ctypes.get_errno()] if result else "allowed"
    """
    assert answer(code) == "EPERM"
    assert answer(code, Seccomp("off")) in ("allowed", "EIO")  # dev.tty.legacy_tiocsti


# --- calls that end a run -------------------------------------------------------------------------------------------

PTRACE = "import ctypes; ctypes.CDLL(None).ptrace(16, 1, 0, 0); print('went on')"


def test_a_call_that_ends_the_run_is_named_with_its_arguments() -> None:
    result = pysandbox.run([sys.executable, "-S", "-c", PTRACE], Seccomp().kill("ptrace"), timeout=20)
    assert result.verdict is Verdict.FORBIDDEN_SYSCALL
    assert result.stdout == b""
    assert result.returncode == -signal.SIGKILL
    assert "ptrace(0x10, 0x1, 0x0, 0x0" in str(result.evidence["ledger"])
    assert not result


def test_the_same_call_of_a_descendant_ends_the_whole_run() -> None:
    code = f"""
import os, sys, time
if os.fork() == 0:
    os.setsid()
    {PTRACE}
time.sleep(100)
"""
    result = pysandbox.run([sys.executable, "-S", "-c", code], Seccomp("judge"), timeout=20)
    assert result.verdict is Verdict.FORBIDDEN_SYSCALL
    assert result.usage.wall_time < 15


def test_arguments_decide_where_they_are_compared() -> None:
    policy = Seccomp().kill("socket", when=Arg(0, "==", socket.AF_INET6))
    code = "import socket; socket.socket(socket.{}).close(); print('made')"
    six = pysandbox.run([sys.executable, "-c", code.format("AF_INET6")], policy, timeout=20)
    four = pysandbox.run([sys.executable, "-c", code.format("AF_INET")], policy, timeout=20)
    assert (six.verdict, four.verdict) == (Verdict.FORBIDDEN_SYSCALL, Verdict.OK)
    assert f"socket({socket.AF_INET6:#x}, " in str(six.evidence["ledger"])


def test_runs_of_one_box_are_heard_of_apart() -> None:
    with Sandbox(Seccomp().kill("ptrace")) as box:
        with box.popen(["sleep", "100"]) as other:
            assert box.run([sys.executable, "-S", "-c", PTRACE], timeout=20).verdict is Verdict.FORBIDDEN_SYSCALL
            assert other.poll() is None
        assert box.run(["true"], timeout=20).verdict is Verdict.OK


def test_a_started_program_is_ended_when_somebody_waits_for_it() -> None:
    process: Popen[bytes]
    with pysandbox.popen([sys.executable, "-S", "-c", PTRACE], Seccomp().kill("ptrace"), stdout=PIPE) as process:
        assert process.wait(20) == -signal.SIGKILL
        assert process.result.verdict is Verdict.FORBIDDEN_SYSCALL


@pytest.mark.parametrize("name", ["sendmsg", "close", "seccomp"])
def test_calls_that_set_up_needs_itself_can_be_forbidden_too(name: str) -> None:
    code = f"{CALL}\nimport errno\ncall({libseccomp.number(name)}, -1, 0, 0)\nprint('went on')"
    result = pysandbox.run([sys.executable, "-S", "-c", code], Seccomp().kill(name), timeout=20)
    assert result.verdict is Verdict.FORBIDDEN_SYSCALL
    assert result.stdout == b""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="needs x86-64, which has such others")
def test_calls_of_other_machines_end_the_run() -> None:
    code = f"{CALL}\nimport errno\ncall(0x40000000 + 39)\nprint('went on')"  # x32's getpid
    result = pysandbox.run([sys.executable, "-S", "-c", code], timeout=20)
    assert (result.verdict, result.returncode) == (Verdict.FORBIDDEN_SYSCALL, -signal.SIGSYS)
    assert "SIGSYS" in str(result.evidence["syscall"])
    assert pysandbox.run([sys.executable, "-S", "-c", code], Seccomp("off"), timeout=20).stdout == b"went on\n"


def test_a_box_in_a_box_that_listens_kills_by_itself(in_fresh_python: Any) -> None:
    """A process has one listener (seccomp(2), EBUSY)."""
    import struct

    assert bpf.USER_NOTIF == 0x7FC00000
    listening = struct.pack("=HBBI", 6, 0, 0, bpf.ALLOW)
    code = f"""
import ctypes, os, sys
import pysandbox
from pysandbox import Seccomp, Verdict
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
filter_ = ctypes.create_string_buffer({listening!r}, 8)
program = Program(1, ctypes.addressof(filter_))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.syscall({libseccomp.number("seccomp")}, 1, 8, ctypes.byref(program)) >= 0, os.strerror(ctypes.get_errno())
result = pysandbox.run([sys.executable, "-S", "-c", {PTRACE!r}], Seccomp().kill("ptrace"), timeout=20)
assert result.verdict is Verdict.FORBIDDEN_SYSCALL, result
assert result.returncode == -31
"""
    done = in_fresh_python(code)
    assert done.returncode == 0, done.stderr


def test_what_is_switched_off_is_told() -> None:
    with Sandbox(Seccomp("off")) as box:
        assert box.enforcement["Seccomp"].level is Level.NONE
    with Sandbox() as box:
        assert box.enforcement["Seccomp"].level is Level.FULL


def test_it_works_alone() -> None:
    result = pysandbox.run(["unshare", "--user", "true"], Seccomp().kill("unshare"), base=None, timeout=20)
    assert result.verdict is Verdict.FORBIDDEN_SYSCALL
