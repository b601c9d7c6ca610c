"""The box ends with the application, whatever that does; and the application's own state neither disturbs nor leaks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pysandbox
from pysandbox import PIPE, Popen, Sandbox, SandboxError, Verdict

FreshPython = Callable[..., "subprocess.CompletedProcess[str]"]


def processes_with(marker: str) -> set[int]:
    """Pids of living processes that have `marker` as an argument of their own."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if marker.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.add(int(entry.name))
            except OSError:
                continue
    return found - {os.getpid()}


def wait_until_there(marker: str, seconds: float = 5) -> set[int]:
    """execve(2) lets go of the vfork-style parent a moment before the new command line shows in /proc."""
    deadline = time.monotonic() + seconds
    while not (found := processes_with(marker)) and time.monotonic() < deadline:
        time.sleep(0.001)
    return found


def wait_until_gone(marker: str, seconds: float = 5) -> set[int]:
    deadline = time.monotonic() + seconds
    while (left := processes_with(marker)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


APPLICATION = """
import signal, sys, threading, time, pysandbox
marker, how = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
box = pysandbox.Sandbox(degrade=True).__enter__()
script = "(setsid sh -c 'trap : TERM INT HUP; while :; do sleep 1; done' " + marker + " &) ; echo up; exec sleep 1000"
proc = box.popen(["sh", "-c", script, marker], stdout=pysandbox.PIPE)
assert proc.stdout.readline() == b"up\\n"
print("ready", flush=True)
if how == "exit": sys.exit(0)
if how == "raise": raise SystemError
time.sleep(1000)
"""


@pytest.mark.parametrize("how", ["exit", "raise", "SIGKILL", "SIGTERM", "SIGINT", "SIGSEGV"])
def test_nothing_outlives_the_application(how: str) -> None:
    marker = f"marker-{os.getpid()}-{how}"
    words = [sys.executable, "-c", APPLICATION, marker, how]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as application:
        assert application.stdout is not None
        assert application.stdout.readline() == b"ready\n"
        if how.startswith("SIG"):
            assert processes_with(marker), "the payload runs before the application is killed"
            os.kill(application.pid, getattr(signal, how))
        application.wait(20)
        left = wait_until_gone(marker) - {application.pid}
    assert not left


def test_a_kill_at_any_instant_leaves_no_process() -> None:
    code = "import pysandbox, sys\nwhile True: pysandbox.run(['sh', '-c', 'sleep 1000; :', sys.argv[1]], timeout=0.01, degrade=True)"
    marker = f"marker-{os.getpid()}-instant"
    for attempt in range(12):
        with subprocess.Popen([sys.executable, "-c", code, marker], stderr=subprocess.DEVNULL) as application:
            time.sleep(0.25 + attempt * 0.0137)
            application.kill()
        assert not wait_until_gone(marker)


def test_the_box_ends_when_its_block_is_left_by_an_exception() -> None:
    marker = f"marker-{os.getpid()}-exception"

    class Oops(Exception):
        pass

    with pytest.raises(Oops), Sandbox() as box:
        box.popen(["sh", "-c", "sleep 1000; :", marker], stdout=PIPE)
        assert wait_until_there(marker)
        raise Oops
    assert not wait_until_gone(marker)


def test_a_box_that_is_forgotten_warns_and_ends() -> None:
    box = Sandbox().__enter__()
    assert box._box is not None
    pid = box._box.pid
    with pytest.warns(ResourceWarning, match="unclosed box"):
        del box
        __import__("gc").collect()
    assert not Path(f"/proc/{pid}").exists()


def test_a_sandbox_can_be_entered_again_but_not_twice_at_once() -> None:
    sandbox = Sandbox()
    for _ in range(2):
        with sandbox:
            assert sandbox.run(["/bin/true"])
            with pytest.raises(SandboxError):
                sandbox.__enter__()
    with pytest.raises(SandboxError):
        sandbox.run(["/bin/true"])


def test_the_death_of_init_ends_the_run_and_is_told(box: Sandbox) -> None:
    with box.popen(["sleep", "1000"]) as process:
        assert box._box is not None
        box._box.kill()
        process.wait(20)
    assert process.result.verdict is Verdict.SIGNALED
    assert "box" in process.result.evidence
    with pytest.raises(SandboxError):
        box.run(["/bin/true"])
    box.reset()
    assert box.run(["/bin/true"])


CLOSED = """
import os, sys
report, *closed = map(int, sys.argv[1:])
for fd in closed: os.close(fd)
import pysandbox
result = pysandbox.run(["sh", "-c", "cat; echo out; echo err >&2; ls /proc/self/fd"], degrade=True)
status = "ok" if result and result.stdout == b"out\\n0\\n1\\n2\\n3\\n" and result.stderr == b"err\\n" else repr(result)
with pysandbox.popen(["sh", "-c", "cat; ls /proc/self/fd"], stdin=None, degrade=True) as process: process.wait()
os.write(report, (status + " " + process.result.verdict.name).encode())
"""


@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1", "1 2", "0 1 2"])
def test_the_caller_may_have_closed_its_standard_descriptors(closed: str) -> None:
    read, write = os.pipe()
    words = [sys.executable, "-c", CLOSED, str(write), *closed.split()]
    process = subprocess.Popen(words, pass_fds=[write], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    os.close(write)
    process.wait(60)
    with os.fdopen(read, "rb") as report:
        assert report.read() == b"ok OK"


SIGNALS = """
import ctypes, signal, sys, pysandbox
how = sys.argv[1]
if how == "chld-ignored": signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if how == "pipe-default": signal.signal(signal.SIGPIPE, signal.SIG_DFL)
if how == "all-ignored":
    for s in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
        ctypes.CDLL(None).signal(int(s), ctypes.c_void_p(1))
if how == "all-blocked": signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
if how == "storm":
    signal.signal(signal.SIGALRM, lambda *a: None); signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
with pysandbox.Sandbox(degrade=True) as box:
    for _ in range(30 if how == "storm" else 3):
        result = box.run(["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"])
        assert result, result
        assert set(line.split()[1] for line in result.stdout.decode().splitlines()) == {"0" * 16}, result.stdout
    assert box.run(["true"], input=b"x" * 1000000)  # closes its stdin with input left
assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
print("fine")
"""


@pytest.mark.parametrize("how", ["plain", "chld-ignored", "pipe-default", "all-ignored", "all-blocked", "storm"])
def test_the_callers_signals_neither_disturb_nor_reach_the_payload(how: str, in_fresh_python: FreshPython) -> None:
    done = in_fresh_python(SIGNALS, how)
    assert done.stdout == "fine\n", done.stderr


def test_a_waitpid_loop_of_the_application_does_not_disturb(in_fresh_python: FreshPython) -> None:
    code = """
    import os, threading, pysandbox
    stop = False
    def reap():
        while not stop:
            try: os.waitpid(-1, os.WNOHANG)
            except ChildProcessError: pass
    thread = threading.Thread(target=reap); thread.start()
    for _ in range(20): pysandbox.run(["/bin/true"], degrade=True).check_returncode()
    stop = True; thread.join(); print("fine")
    """
    done = in_fresh_python(textwrap.dedent(code))
    assert done.stdout == "fine\n", done.stderr


def test_runs_from_several_threads_at_once_do_not_mix() -> None:
    results: list[bytes] = []
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(5):
                result = box.run(["sh", "-c", f"echo {number}; sleep 0.0{number}"], timeout=20)
                assert result.stdout == f"{number}\n".encode()
                results.append(result.stdout)
                assert pysandbox.run(["echo", str(number)], timeout=20).stdout == f"{number}\n".encode()
        except BaseException as error:  # shown by the main thread
            errors.append(error)

    with Sandbox() as box:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    assert len(results) == 30


def test_a_program_outlives_the_thread_that_started_it(box: Sandbox) -> None:
    started: list[Popen[bytes]] = []
    thread = threading.Thread(
        target=lambda: started.append(box.popen(["sh", "-c", "sleep 0.3; echo still"], stdout=PIPE))
    )
    thread.start()
    thread.join()
    time.sleep(0.05)
    output, _ = started[0].communicate(timeout=20)
    started[0].close()
    assert output == b"still\n"


def test_a_forked_child_makes_boxes_of_its_own_and_cannot_hurt_its_parents(in_fresh_python: FreshPython) -> None:
    code = """
    import os, pysandbox
    with pysandbox.Sandbox(degrade=True) as box:
        box.write_file("f", "1")
        pid = os.fork()
        if pid == 0:
            try:
                box.run(["true"])
            except pysandbox.SandboxError:
                pass
            else:
                os._exit(1)
            ok = pysandbox.run(["true"], degrade=True)
            box.close()
            os._exit(0 if ok else 2)
        assert os.waitpid(pid, 0)[1] == 0
        assert box.read_file("f") == b"1" and box.run(["true"])
    print("fine")
    """
    done = in_fresh_python(textwrap.dedent(code))
    assert done.stdout == "fine\n", done.stderr


def test_the_box_ends_at_once_also_when_a_forked_child_holds_its_socket(in_fresh_python: FreshPython) -> None:
    code = """
    import os, pysandbox, time
    with pysandbox.Sandbox(degrade=True) as box:
        pid = os.fork()
        if pid == 0:
            time.sleep(60); os._exit(0)
        begin = time.monotonic()
    print(time.monotonic() - begin < 4)
    os.kill(pid, 9); os.waitpid(pid, 0)
    """
    done = in_fresh_python(textwrap.dedent(code))
    assert done.stdout == "True\n", done.stderr


def test_many_boxes_leak_no_descriptor_and_no_memory_map() -> None:
    def maps() -> int:
        return len(Path("/proc/self/maps").read_text().splitlines())

    for _ in range(5):
        pysandbox.run(["/bin/true"])
    fds, before = len(os.listdir("/proc/self/fd")), maps()
    for _ in range(40):
        pysandbox.run(["/bin/true"])
        with pytest.raises(SandboxError):
            pysandbox.run(["/nonexistent"])
    assert len(os.listdir("/proc/self/fd")) == fds
    assert maps() <= before + 4
