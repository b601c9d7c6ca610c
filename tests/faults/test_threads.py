"""Threads, forks and signals at once: nothing hangs, nothing leaks, every error is the right one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pysandbox import PIPE, Sandbox, SandboxError, SandboxTimeout, Verdict

Fresh = Callable[..., "subprocess.CompletedProcess[str]"]

FORKS_BESIDE_RUNS = """
import os, signal, threading, pysandbox
from pysandbox import Sandbox, SandboxError
stop = False
with Sandbox() as box:
    def work():
        while not stop:
            box.run(["/bin/true"])
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads: thread.start()
    failed = 0
    for _ in range(40):
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            try:
                box.run(["/bin/true"])
                os._exit(1)
            except SandboxError:
                pass
            with Sandbox() as own:
                os._exit(0 if own.run(["/bin/true"]) else 2)
        failed += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0
    stop = True
    for thread in threads: thread.join()
print(failed)
"""


@pytest.mark.slow
def test_a_fork_beside_running_threads_has_a_working_library(in_fresh_python: Fresh) -> None:
    done = in_fresh_python("import warnings; warnings.simplefilter('ignore')\n" + FORKS_BESIDE_RUNS, timeout=110)
    assert done.stdout == "0\n", done.stderr


INTERRUPTED_BESIDE_A_THREAD = """
import gc, os, random, signal, subprocess, sys, threading, time, warnings
import pysandbox
from pysandbox import PIPE, Sandbox, cgroups
warnings.simplefilter("ignore")
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()

def children():
    return [pid for task in os.listdir("/proc/self/task") for pid in open(f"/proc/self/task/{task}/children").read().split()]

def leaves():
    group = cgroups.own_group()
    return [name for folder in (group.folders() if group else []) for name in os.listdir(folder)
            if f"-{os.getpid()}-" in name and "-app-" not in name]

def live():
    with Sandbox() as box:
        box.write_file("file", b"x")
        box.run(["true"])
        with box.popen(["cat"], stdin=PIPE, stdout=PIPE) as process:
            process.poll()

for work in (live, lambda: pysandbox.run(["true"])):
    work()
before = set(os.listdir("/proc/self/fd"))
armed = False

def interrupt(*_):
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt

signal.signal(signal.SIGINT, interrupt)
# Another process sends the signals, so that the kernel may give them to any thread.
code = "import os, random, sys, time\\nwhile True: time.sleep(random.uniform(.001, .012)); os.kill(int(sys.argv[1]), 2)"
nowhere = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
sender = subprocess.Popen([sys.executable, "-S", "-c", code, str(os.getpid())], **nowhere)
interrupts = 0
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    try:
        armed = True
        live() if interrupts % 2 else pysandbox.run(["true"])
        armed = False
    except KeyboardInterrupt:
        interrupts += 1
sender.kill(); sender.wait()
gc.collect()
left = (set(os.listdir("/proc/self/fd")) - before, children(), leaves(), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
assert not any(left), left
assert pysandbox.run(["true"])
print(interrupts)
"""


@pytest.mark.slow
def test_an_interrupt_beside_another_thread_leaves_nothing_behind(in_fresh_python: Fresh) -> None:
    done = in_fresh_python(INTERRUPTED_BESIDE_A_THREAD, "6")
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 50


def test_handlers_of_the_application_are_in_place_outside_the_library(in_fresh_python: Fresh) -> None:
    code = """
import signal, threading, time, pysandbox
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append("mine"))
pysandbox.run(["true"])
signal.raise_signal(signal.SIGUSR1)
print(seen, signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""
    assert in_fresh_python(code).stdout == "['mine'] set()\n"


def test_a_timeout_is_kept_while_another_thread_waits(box: Sandbox) -> None:
    with box.popen(["sleep", "30"]) as process:
        waiter = threading.Thread(target=process.wait)
        waiter.start()
        time.sleep(0.2)
        begin = time.monotonic()
        assert process.poll() is None
        with pytest.raises(SandboxTimeout):
            process.wait(timeout=0.3)
        assert time.monotonic() - begin < 10
        process.kill()
        waiter.join(20)
        assert not waiter.is_alive()


HOLD_AND_NEVER_READ = """
import array, socket, sys
end = socket.socket(socket.AF_UNIX)
end.connect("/box/socket")
if sys.argv[1] == "give":
    end.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))])
    import time; time.sleep(100)
"""
KEEP = """
import array, socket, time
server = socket.socket(socket.AF_UNIX)
server.bind("/box/socket")
server.listen()
print("up", flush=True)
end, _ = server.accept()
kept = end.recvmsg(1, 100)
print("kept", flush=True)
time.sleep(100)
"""


def test_closing_a_handle_whose_input_nobody_reads_does_not_block(box: Sandbox) -> None:
    python = [sys.executable, "-S", "-c"]
    with box.popen([*python, KEEP], stdout=PIPE) as keeper:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"up\n"
        process = box.popen([*python, HOLD_AND_NEVER_READ, "give"], stdin=PIPE)
        assert keeper.stdout.readline() == b"kept\n"
        assert process.stdin is not None
        process.stdin.write(b"x" * 65536)
        process.stdin.flush()
        process.stdin.write(b"y" * 3000)
        begin = time.monotonic()
        process.close()
        assert time.monotonic() - begin < 20
        assert keeper.poll() is None


def test_reset_beside_runs_and_files_disturbs_none_of_them() -> None:
    errors: list[BaseException] = []
    stop = threading.Event()

    def until_stopped(action: Callable[[], object]) -> None:
        while not stop.is_set():
            try:
                action()
            except BaseException as error:
                errors.append(error)
                return

    with Sandbox() as box:

        def run() -> None:
            assert box.run(["/bin/true"]).verdict in (Verdict.OK, Verdict.KILLED)

        actions: list[Callable[[], object]] = [run, run, lambda: box.write_file("a", b"x"), box.reset, box.reset]
        threads = [threading.Thread(target=until_stopped, args=(action,)) for action in actions]
        for thread in threads:
            thread.start()
        time.sleep(3)
        stop.set()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
    assert not errors, errors


def test_a_box_closed_by_another_thread_kills_its_runs() -> None:
    with Sandbox() as box:
        results = []
        process = box.popen(["sleep", "100"])
        waiter = threading.Thread(target=lambda: results.append(process.wait()))
        waiter.start()
        box.close()
        waiter.join(20)
        assert process.result.verdict is Verdict.KILLED
        with pytest.raises(SandboxError):
            box.run(["true"])


def test_a_default_sigterm_still_ends_the_application_at_once(in_fresh_python: Fresh, tmp_path: Path) -> None:
    code = "import pysandbox\nwith pysandbox.Sandbox() as box:\n while True: box.run(['true'])"
    with subprocess.Popen([sys.executable, "-c", code]) as application:
        time.sleep(1)
        application.send_signal(signal.SIGTERM)
        assert application.wait(20) == -signal.SIGTERM
    assert os.getpid()
