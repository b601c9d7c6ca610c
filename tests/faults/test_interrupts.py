"""A signal handler that raises at any moment leaves nothing behind: no process, descriptor or cgroup."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable

import pytest

import pysandbox
from pysandbox import ConfigError, Sandbox, SandboxError
from pysandbox.interrupts import INTERRUPTIBLE, UNINTERRUPTED

Fresh = Callable[..., "subprocess.CompletedProcess[str]"]

INTERRUPTED_RUNS = """
import gc, os, random, signal, sys, warnings
import pysandbox
from pysandbox import PIPE, Sandbox, cgroups
warnings.simplefilter("ignore")

def interrupt(*_):
    raise KeyboardInterrupt

def children():
    return open(f"/proc/self/task/{os.getpid()}/children").read().split()

def leaves():
    group = cgroups.own_group()
    return [name for folder in (group.folders() if group else []) for name in os.listdir(folder)
            if f"-{os.getpid()}-" in name and "-app-" not in name]

def one_shot():
    pysandbox.run(["true"])

def live():
    with Sandbox() as box:
        box.write_file("file", b"x")
        box.run(["true"], limits=pysandbox.CgroupLimits(memory="64M") if leaves_work else None)
        with box.popen(["cat"], stdin=PIPE, stdout=PIPE) as process:
            process.poll()
        box.read_file("file")

def handle():
    pysandbox.popen(["sleep", "9"], stdout=PIPE).close()

leaves_work = cgroups.own_group() is not None
signal.signal(signal.SIGALRM, interrupt)
for work in (one_shot, live, handle):
    work()
before = set(os.listdir("/proc/self/fd"))
chance = random.Random(sys.argv[1])
interrupts = 0
for number in range(int(sys.argv[2])):
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.00005, 0.008))
        try:
            chance.choice((one_shot, live, handle))()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupts += 1
    gc.collect()
    left = (set(os.listdir("/proc/self/fd")) - before, children(), leaves())
    assert not any(left), (number, left)
print(interrupts)
"""


@pytest.mark.slow
def test_an_exception_out_of_a_signal_handler_at_any_moment_leaves_nothing_behind(in_fresh_python: Fresh) -> None:
    done = in_fresh_python(INTERRUPTED_RUNS, str(os.getpid()), "400")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_waiting_for_a_run_can_be_interrupted(in_fresh_python: Fresh) -> None:
    code = """
import signal, time, pysandbox
def interrupt(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.5)
begin = time.monotonic()
try:
    pysandbox.run(["sleep", "60"])
except KeyboardInterrupt:
    print(time.monotonic() - begin < 30, signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""
    done = in_fresh_python(code)
    assert done.stdout == "True set()\n", done.stderr


def test_a_block_that_holds_signals_back_lets_them_in_afterwards_and_while_it_waits() -> None:
    seen: list[str] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append("handled"))
    try:
        with UNINTERRUPTED:
            signal.raise_signal(signal.SIGUSR1)
            with UNINTERRUPTED:
                seen.append("inside")
            seen.append("still")
            with INTERRUPTIBLE:
                seen.append("waiting")
            signal.raise_signal(signal.SIGUSR1)
            seen.append("end")
        seen.append("after")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == ["inside", "still", "handled", "waiting", "end", "handled", "after"]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def test_a_forked_copy_of_the_application_cannot_touch_the_run(box: Sandbox) -> None:
    process = box.popen(["sleep", "100"])
    pid = os.fork()
    if pid == 0:
        refused = 0
        for action in (process.kill, process.terminate, process.poll, process.wait, process.communicate):
            try:
                action()
            except SandboxError as error:
                refused += not isinstance(error, ConfigError)
        process.close()
        process.__del__()
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    assert process.poll() is None
    process.close()
    assert process.result.verdict is pysandbox.Verdict.KILLED
