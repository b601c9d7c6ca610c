"""Each behaviour of a program has one right verdict, one right cause in the evidence, and the right limits hit.

The rows are the data of docs/verdicts.md too, which this file writes: python tests/kernel/test_verdicts.py > docs/verdicts.md
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from pysandbox import PIPE, CgroupLimits, ChrootJail, Popen, Result, Rlimits, Sandbox, Verdict
from pysandbox.box import ENDED, REPLY, STARTED

PAGE = Path(__file__).parents[2] / "docs" / "verdicts.md"
ROUNDS = int(os.environ.get("PYSANDBOX_VERDICT_ROUNDS", "2"))
GENEROUS = 20.0  # seconds: how long a row may take on a busy machine, where its timeout is not what it is about

#: what the evidence has about the cause of an end; any other key is a figure's source, or tells of something besides
CAUSES = frozenset(
    {
        "ledger",
        "box",
        "oom_kills",
        "cpu_time_limit",
        "wall_time_limit",
        "memory_limit",
        "output",
        "file_size",
        "signal",
        "exit",
    }
)

Caller = Callable[["Popen[bytes]"], object]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One behaviour, and all that is to be said about its end."""

    id: str
    does: str
    argv: tuple[str, ...]
    verdict: Verdict
    evidence: str | tuple[str, ...]  #: the key of the cause; several where a race that nobody can see decides
    besides: frozenset[str] = frozenset()  #: keys of further causes
    returncode: int | None = None  #: None: not the same on every host, or nobody's business
    hit: frozenset[str] = frozenset()
    left_behind: bool | None = False  #: whether processes outlive the program and are killed; None: a race
    truncated: bool = False
    stdout: bytes | None = None  #: what it must have written, where that proves how far it came
    layers: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    degrade: bool = False
    caller: Caller | None = None  #: what the caller does to the running program; it is started by popen then
    caller_does: str = ""
    file: int | None = None  #: stdin is a file on a disk of so many bytes, which the program may write to
    cgroup: bool = False  #: only a cgroup can tell
    long: bool = False  #: takes seconds, and so has half the rounds


def python(code: str) -> tuple[str, ...]:
    """A small Python program that starts fast: no site, no environment."""
    return (sys.executable, "-S", "-E", "-c", code.strip())


def sh(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script.strip())


MEGABYTES = 1 << 20
SMALL = (CgroupLimits(memory="32M", pids=32),)
FEW = (CgroupLimits(memory="256M", pids=16),)
HOG = "x = []\nwhile True: x.append(bytearray(1 << 20))"
SPIN = "while True: pass"
UP_AND_SLEEP = sh("echo up; exec sleep 100")

NO_HIT: frozenset[str] = frozenset()
MEMORY, CPU, WALL, OUTPUT = (frozenset({name}) for name in ("memory", "cpu_time", "wall_time", "output"))
PIDS, FILE_SIZE = frozenset({"pids"}), frozenset({"file_size"})


# --- what kinds of rows have in common ---------------------------------------------------------------------------


def own_end(id: str, does: str, argv: tuple[str, ...], code: int, **more: Any) -> Row:
    """The program ends by itself, with an exit status or by a signal that is nobody's limit."""
    if code < 0:
        verdict, evidence = Verdict.SIGNALED, "signal"
    else:
        verdict, evidence = (Verdict.OK if code == 0 else Verdict.NONZERO_EXIT), "exit"
    return Row(id=id, does=does, argv=argv, verdict=verdict, evidence=evidence, returncode=code, **more)


def out_of_memory(id: str, does: str, argv: tuple[str, ...], code: int | None = -9, **more: Any) -> Row:
    more = {"layers": SMALL, "cgroup": True, "hit": MEMORY, **more}
    verdict = Verdict.MEMORY_EXCEEDED
    return Row(id=id, does=does, argv=argv, verdict=verdict, evidence="oom_kills", returncode=code, **more)


def out_of_cpu(id: str, does: str, argv: tuple[str, ...], **more: Any) -> Row:
    more = {"options": {"cpu_time": 0.15}, "evidence": "ledger", "hit": CPU, "returncode": -9, **more}
    return Row(id=id, does=does, argv=argv, verdict=Verdict.CPU_TIME_EXCEEDED, **more)


def out_of_time(id: str, does: str, argv: tuple[str, ...], timeout: float = 0.3, **more: Any) -> Row:
    options = {"timeout": timeout, **more.pop("options", {})}
    more = {"hit": WALL, "returncode": -9, **more}
    verdict = Verdict.WALL_TIME_EXCEEDED
    return Row(id=id, does=does, argv=argv, verdict=verdict, evidence="ledger", options=options, **more)


def too_much_output(id: str, does: str, argv: tuple[str, ...], **more: Any) -> Row:
    more = {"options": {"max_output": "64K"}, "evidence": "ledger", "returncode": -9, "truncated": True, **more}
    return Row(id=id, does=does, argv=argv, verdict=Verdict.OUTPUT_EXCEEDED, hit=OUTPUT, **more)


def by_the_caller(id: str, does: str, caller_does: str, caller: Caller, argv: tuple[str, ...], **more: Any) -> Row:
    more = {"verdict": Verdict.KILLED, "evidence": "ledger", "returncode": -9, **more}
    options = {"stdout": PIPE, **more.pop("options", {})}
    return Row(id=id, does=does, argv=argv, caller=caller, caller_does=caller_does, options=options, **more)


def signal_itself(name: str, **more: Any) -> Row:
    number = int(getattr(signal, name))
    # Python ignores SIGPIPE and SIGXFSZ, so the default action is put back first.
    code = f"import os, signal\nif {number} not in (9, 19): signal.signal({number}, signal.SIG_DFL)"
    code += f"\nos.kill(os.getpid(), {number})"
    more = {"id": f"{name.lower()}-to-itself", "does": f"sends {name} to itself", **more}
    return own_end(argv=python(code), code=-number, **more)


# --- what callers do -------------------------------------------------------------------------------------------------


def up(process: Popen[bytes]) -> None:
    """Wait until the program says that it is there."""
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"


def kill(process: Popen[bytes]) -> None:
    up(process)
    process.kill()
    process.wait(GENEROUS)


def terminate(process: Popen[bytes]) -> None:
    up(process)
    process.terminate()
    process.wait(GENEROUS)


def terminate_and_kill(process: Popen[bytes]) -> None:
    up(process)
    process.terminate()
    process.kill()  # at once: it may come when the first has ended the program
    process.wait(GENEROUS)


def send_sigkill(process: Popen[bytes]) -> None:
    up(process)
    process.send_signal(signal.SIGKILL)
    process.wait(GENEROUS)


def send_sigusr1(process: Popen[bytes]) -> None:
    up(process)
    process.send_signal(signal.SIGUSR1)
    process.wait(GENEROUS)


def kill_what_has_ended(process: Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.read() == b"up\n"  # to its end: the program has closed it by ending
    time.sleep(0.3)  # init has told by now; were it later still, the row would be wrong for the machine's sake
    process.kill()
    process.wait(GENEROUS)


def close_stdout(process: Popen[bytes]) -> None:
    up(process)
    assert process.stdout is not None
    process.stdout.close()
    process.wait(GENEROUS)


def wait(process: Popen[bytes]) -> None:
    process.wait(GENEROUS)


# --- payloads that are longer than a line ----------------------------------------------------------------------------

DAEMON = """
import os, time
def daemon(work):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            work()
        os._exit(0)
    os.wait()
"""

TOUCH = """
for at in range(0, len(m), 4096):
    m[at] = 1
"""

PIPES = """
import fcntl, os
for _ in range(48):
    _, end = os.pipe()
    fcntl.fcntl(end, 1031, 1 << 20)  # F_SETPIPE_SZ
    os.set_blocking(end, False)
    try:
        while True:
            os.write(end, bytes(1 << 16))
    except BlockingIOError:
        pass
"""

IGNORE_ALL = """
import signal
for number in signal.valid_signals():
    try:
        signal.signal(number, signal.SIG_IGN)
    except OSError:
        pass
"""

#: burns CPU time in processes of which each has ended before the next starts; {born} is how one comes to be
ONE_BY_ONE = """
import os, signal, time
def burn():
    end = time.process_time() + 0.02
    while time.process_time() < end:
        pass
    os._exit(0)
{before}
while True:
    ours, theirs = os.pipe()
    if os.fork() == 0:
        {child}
    os.close(theirs)
    os.read(ours, 1)  # until the last holder of the other end is gone
    os.close(ours)
    {after}
"""

DEADLOCK = """
import threading
one, other, both = threading.Lock(), threading.Lock(), threading.Barrier(2)
def work(first, second):
    with first:
        both.wait()
        with second:
            pass
threads = [threading.Thread(target=work, args=locks) for locks in ((one, other), (other, one))]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""

FORK_BOMB = """
import os, time
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.02)
"""

FORK_UNTIL_REFUSED = """
import os, time
while True:
    if os.fork() == 0:
        time.sleep(100)
        os._exit(0)
"""

THREADS_UNTIL_REFUSED = """
import threading, time
while True:
    threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
"""

#: what init tells the application at a run's end: here that all is well, and that it has been killed
FORGED = [REPLY.pack(kind, 0, 0, status, 1, 7, *[0] * 10) for kind in (ENDED, STARTED) for status in (0, 9)]
FORGE = f"""
import glob, os
forged = {FORGED!r}
def send(fd):
    for message in forged:
        try: os.write(fd, message)
        except OSError: pass
for fd in range(256):
    send(fd)
for path in glob.glob("/proc/[0-9]*/fd/*") + glob.glob("/proc/[0-9]*/task/*/fd/*") + glob.glob("/dev/*"):
    try: fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError: continue
    send(fd)
    os.close(fd)
os._exit(3)
"""

KILLED_BY_ITS_CHILD = """
import os, time
parent = os.getpid()
if os.fork() == 0:
    os.kill(parent, 9)
    os._exit(0)
time.sleep(100)
"""

KILL_ALL = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        time.sleep(100)
try:
    os.kill(-1, 9)  # all but itself and init: kill(2)
except OSError:
    pass
print(sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(4)))
"""

KILLED_WITH_ALL = """
import os, time
if os.fork() == 0:
    os.kill(-1, 9)
    os._exit(0)
time.sleep(100)
"""

HEADINGS: list[tuple[str, list[Row]]] = [
    (
        "Memory",
        [
            out_of_memory("oom", "allocates without end", python(HOG)),
            out_of_memory(
                "oom-in-a-child",
                "a child allocates without end; the program goes on and exits 0",
                python(f"import os\nif os.fork() == 0:\n exec({HOG!r})\nos.wait()"),
                None,  # the rest of the run is killed with it, but may be quicker
                left_behind=None,
            ),
            out_of_memory(
                "oom-in-a-child-then-failure",
                "a child allocates without end; the program then exits 3",
                python(f"import os, sys\nif os.fork() == 0:\n exec({HOG!r})\nos.wait()\nsys.exit(3)"),
                None,
                left_behind=None,
            ),
            out_of_memory(
                "oom-in-a-daemon",
                "a daemon allocates without end; the program waits for its end and exits 0",
                python(
                    f"{DAEMON}\nours, theirs = os.pipe()\ndaemon(lambda: exec({HOG!r}))\nos.close(theirs)\nos.read(ours, 1)"
                ),
                None,
                left_behind=None,  # dying, it may be seen beside the end of the program, which waits for it no longer
            ),
            out_of_memory("oom-by-tmpfs", "fills /tmp", sh("exec head -c 64M /dev/zero > /tmp/file")),
            out_of_memory("oom-by-the-workdir", "fills its working directory", sh("exec head -c 64M /dev/zero > file")),
            out_of_memory(
                "oom-by-dev-shm",
                "maps a file of /dev/shm and touches all of it",
                python(
                    "import mmap\nf = open('/dev/shm/file', 'wb+')\nf.truncate(64 << 20)\n"
                    f"m = mmap.mmap(f.fileno(), 64 << 20)\n{TOUCH}"
                ),
            ),
            out_of_memory(
                "oom-by-memfd",
                "writes to a memfd without end",
                python("import os\nfd = os.memfd_create('file')\nwhile True: os.write(fd, bytes(1 << 20))"),
            ),
            out_of_memory(
                "oom-by-shared-memory",
                "touches a large anonymous mapping that it shares with a child",
                python(
                    "import mmap, os, time\n"
                    f"m = mmap.mmap(-1, 64 << 20)\nif os.fork() == 0:\n time.sleep(100)\n os._exit(0)\n{TOUCH}"
                ),
                left_behind=None,  # which of the two is killed is the kernel's choice
                code=None,
            ),
            out_of_memory("oom-by-pipes", "fills 48 pipes of 1 MiB that nobody reads", python(PIPES)),
            own_end(
                "page-cache-read",
                "reads a file of four times its memory limit",
                python("import os\nwhile os.read(0, 1 << 20): pass"),
                0,
                layers=SMALL,
                file=128 * MEGABYTES,
                cgroup=True,
            ),
            own_end(
                "page-cache-written",
                "writes a file of twice its memory limit to a disk",
                python("import os\nfor _ in range(64): os.write(0, bytes(1 << 20))"),
                0,
                layers=SMALL,
                file=0,
                cgroup=True,
            ),
            own_end(
                "memory-below-the-limit",
                "allocates 16 MiB of its 32",
                python("x = bytearray(16 << 20)"),
                0,
                layers=SMALL,
                cgroup=True,
            ),
            Row(
                id="memory-watched",
                does="allocates three times its limit and sleeps, in a cgroup or watched where there is none",
                argv=python("x = [bytearray(1 << 20) for _ in range(96)]\nimport time\ntime.sleep(100)"),
                layers=(CgroupLimits(memory="32M"),),
                degrade=True,
                verdict=Verdict.MEMORY_EXCEEDED,
                hit=MEMORY,
                evidence=("oom_kills", "ledger"),
                returncode=-9,
            ),
            own_end(
                "rlimit-as",
                "allocates without end below RLIMIT_AS, and dies of its own MemoryError",
                python(HOG),
                1,
                layers=(Rlimits(as_="256M"),),
            ),
            Row(
                id="oom-after-the-timeout",
                does="sleeps, and at the timeout's SIGTERM allocates without end",
                argv=python(
                    f"import signal, time\nsignal.signal(15, lambda *_: exec({HOG!r}, {{}}))\nwhile True: time.sleep(100)"
                ),
                layers=SMALL,
                options={"timeout": 1.0, "grace": GENEROUS},
                verdict=Verdict.WALL_TIME_EXCEEDED,
                evidence="ledger",
                besides=frozenset({"oom_kills"}),
                hit=WALL | MEMORY,
                returncode=-9,
                cgroup=True,
                long=True,
            ),
        ],
    ),
    (
        "Signals that are no limit",
        [
            *(signal_itself(name) for name in ("SIGKILL", "SIGSEGV", "SIGFPE", "SIGABRT", "SIGBUS", "SIGILL")),
            *(signal_itself(name) for name in ("SIGTERM", "SIGXCPU", "SIGXFSZ", "SIGSYS", "SIGRTMAX")),
            signal_itself(
                "SIGKILL",
                id="sigkill-to-itself-with-limits",
                does="sends SIGKILL to itself, with limits of memory, processes and CPU time",
                layers=SMALL,
                options={"cpu_time": 10},
                cgroup=True,
            ),
            signal_itself(
                "SIGXCPU",
                id="sigxcpu-to-itself-with-limits",
                does="sends SIGXCPU to itself, with CPU time left",
                layers=(Rlimits(cpu=5),),
                options={"cpu_time": 4},
            ),
            own_end("null-pointer", "reads address 0", python("import faulthandler\nfaulthandler._read_null()"), -11),
            own_end(
                "stack-overflow",
                "recurses until its stack has no room",
                sh("f() { f; }; f"),
                -11,
                layers=(Rlimits(stack="256K"),),
            ),
            own_end("division-by-zero", "divides by zero", python("import faulthandler\nfaulthandler._sigfpe()"), -8),
            own_end("abort", "calls abort(3)", python("import os\nos.abort()"), -6),
            own_end(
                "truncated-mapping",
                "reads a mapping of a file that it has cut off",
                python(
                    "import mmap, os\nf = open('file', 'wb+')\nf.truncate(8192)\n"
                    "m = mmap.mmap(f.fileno(), 8192)\nf.truncate(0)\nm[0]"
                ),
                -7,
            ),
            own_end(
                "own-alarm",
                "is ended by an alarm that it has set",
                python("import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.05)\nsignal.pause()"),
                -14,
            ),
            own_end(
                "own-cpu-timer",
                "is ended by a CPU timer that it has set",
                python(f"import signal\nsignal.setitimer(signal.ITIMER_PROF, 0.05)\n{SPIN}"),
                -27,
                options={"cpu_time": 10},
            ),
            own_end(
                "own-file-size-limit",
                "writes past a file size limit that it has set",
                sh("ulimit -f 1; exec head -c 64K /dev/zero > file"),
                -25,
            ),
            own_end("killed-by-its-child", "is killed by its child", python(KILLED_BY_ITS_CHILD), -9, left_behind=None),
            own_end(
                "killed-by-kill-all",
                "is killed by its child's kill(-1, SIGKILL)",
                python(KILLED_WITH_ALL),
                -9,
                left_behind=None,
            ),
        ],
    ),
    (
        "CPU time",
        [
            out_of_cpu("cpu-one-thread", "spins", python(SPIN)),
            out_of_cpu(
                "cpu-four-threads",
                "spins in four threads",
                python(
                    "import hashlib, threading\ndata = bytes(1 << 20)\ndef work():\n while True: hashlib.sha256(data)\n"
                    "for _ in range(4): threading.Thread(target=work).start()"
                ),
            ),
            out_of_cpu(
                "cpu-in-children",
                "waits for three children that spin",
                sh("for i in 1 2 3; do (while :; do :; done) & done; wait"),
                left_behind=True,
            ),
            out_of_cpu(
                "cpu-in-grandchildren",
                "waits for a child that waits for two that spin",
                sh("(for i in 1 2; do (while :; do :; done) & done; wait) & wait"),
                left_behind=True,
            ),
            out_of_cpu("cpu-ignoring-signals", "ignores every signal and spins", python(f"{IGNORE_ALL}\n{SPIN}")),
            out_of_cpu(
                "cpu-in-a-daemon",
                "sleeps while a daemon of its own spins",
                python(f"{DAEMON}\ndef spin():\n {SPIN}\ndaemon(spin)\ntime.sleep(100)"),
                left_behind=None,  # RLIMIT_CPU may be quicker, on a slow machine
            ),
            out_of_cpu(
                "cpu-in-the-kernel",
                "lets the kernel work",
                python("import os\nfd = os.open('/dev/zero', 0)\nwhile True: os.read(fd, 1 << 20)"),
            ),
            out_of_cpu(
                "cpu-in-short-children",
                "starts child after child, each of which works for 20 ms and is waited for",
                python(ONE_BY_ONE.format(before="", child="burn()", after="os.wait()")),
                left_behind=None,
            ),
            out_of_cpu(
                "cpu-in-short-orphans",
                "starts grandchild after grandchild, each of which works for 20 ms as an orphan",
                python(
                    ONE_BY_ONE.format(before="", child="burn() if os.fork() == 0 else os._exit(0)", after="os.wait()")
                ),
                options={"cpu_time": 0.15, "timeout": 6},
                left_behind=None,
            ),
            out_of_cpu(
                "cpu-in-children-not-waited-for",
                "ignores SIGCHLD and starts child after child, each of which works for 20 ms",
                python(
                    ONE_BY_ONE.format(before="signal.signal(signal.SIGCHLD, signal.SIG_IGN)", child="burn()", after="")
                ),
                layers=FEW,
                left_behind=None,
                cgroup=True,  # nothing else counts such children
            ),
            own_end(
                "cpu-below-the-limit",
                "works for 50 ms of its 10 s",
                python("import time\nwhile time.process_time() < 0.05: pass"),
                0,
                options={"cpu_time": 10},
            ),
            own_end(
                "sleeping-is-no-cpu-time",
                "sleeps for longer than its CPU limit",
                sh("sleep 0.5"),
                0,
                options={"cpu_time": 0.3},
            ),
            out_of_cpu(
                "rlimit-cpu",
                "spins until RLIMIT_CPU",
                python(SPIN),
                layers=(Rlimits(cpu=1),),
                options={},
                evidence="cpu_time_limit",
                returncode=-24,
                long=True,
            ),
            out_of_cpu(
                "rlimit-cpu-ignoring-signals",
                "ignores every signal and spins until RLIMIT_CPU's hard limit",
                python(f"{IGNORE_ALL}\n{SPIN}"),
                layers=(Rlimits(cpu=1),),
                options={},
                evidence="cpu_time_limit",
                long=True,
            ),
        ],
    ),
    (
        "Wall time",
        [
            out_of_time("sleeper", "sleeps", sh("exec sleep 100")),
            out_of_time("deadlock", "takes two locks in two threads, each in another order", python(DEADLOCK)),
            out_of_time("stopped", "sends SIGSTOP to itself", python("import os\nos.kill(os.getpid(), 19)")),
            out_of_time(
                "stopped-with-grace",
                "sends SIGSTOP to itself; whether SIGTERM ends a stopped process is the kernel's business",
                python("import os\nos.kill(os.getpid(), 19)"),
                options={"grace": 0.2},
                returncode=None,
            ),
            out_of_time(
                "sleeper-with-a-tree",
                "sleeps, as do a child and a daemon that ignores SIGTERM",
                sh("(trap '' TERM; setsid sleep 100 &); sleep 100 & exec sleep 100"),
                timeout=0.5,
                left_behind=True,
            ),
            out_of_time(
                "ignores-all", "ignores every signal and sleeps", python(f"{IGNORE_ALL}\nimport time\ntime.sleep(100)")
            ),
            out_of_time(
                "obeys-term",
                "exits 7 at the timeout's SIGTERM",
                sh("trap 'exit 7' TERM; while :; do sleep 0.05; done"),
                timeout=1.0,
                options={"grace": GENEROUS},
                returncode=7,
                left_behind=None,
                long=True,
            ),
            out_of_time(
                "ignores-term",
                "ignores SIGTERM, and is killed after the grace period",
                sh("trap '' TERM; while :; do sleep 0.05; done"),
                timeout=0.5,
                options={"grace": 0.2},
                left_behind=None,
            ),
            out_of_time(
                "waits-for-input",
                "reads an input that does not end",
                sh("exec cat"),
                caller=wait,
                caller_does="keeps stdin open",
                options={"stdin": PIPE},
            ),
            out_of_time(
                "waits-for-a-reader",
                "writes more than the caller reads",
                sh("exec head -c 1M /dev/zero"),
                caller=wait,
                caller_does="does not read stdout",
                options={"stdout": PIPE},
            ),
            out_of_time(
                "floods-what-is-dropped",
                "writes without end, of which the first 64 KiB are kept",
                sh("exec yes"),
                timeout=1.0,  # time to start in, on a busy machine
                options={"max_output": "64K", "truncate_output": True},
                hit=WALL | OUTPUT,
                truncated=True,
            ),
        ],
    ),
    (
        "Output",
        [
            too_much_output("floods-stdout", "writes to stdout without end", sh("exec yes")),
            too_much_output("floods-stderr", "writes to stderr without end", sh("exec yes >&2")),
            too_much_output(
                "floods-from-a-child", "waits for a child that writes without end", sh("yes & wait"), left_behind=True
            ),
            too_much_output(
                "floods-and-ignores-signals",
                "ignores every signal, SIGPIPE too, and writes without end",
                python(f"{IGNORE_ALL}\nimport os\nwhile True: os.write(1, bytes(4096))"),
            ),
            too_much_output(
                "too-much-and-then-the-end",
                "writes 2 KiB of 1 and exits 0 at once",
                sh("exec head -c 2K /dev/zero"),
                options={"max_output": "1K"},
                evidence=("ledger", "output"),  # it may have ended when the first byte is read
                returncode=None,
            ),
            own_end(
                "exactly-the-bound",
                "writes as much as it may",
                sh("exec head -c 64K /dev/zero"),
                0,
                options={"max_output": "64K"},
                stdout=bytes(1 << 16),
            ),
            own_end(
                "truncated",
                "writes more than it may, of which the rest is dropped",
                sh("head -c 1M /dev/zero; exit 0"),
                0,
                options={"max_output": "64K", "truncate_output": True},
                hit=OUTPUT,
                truncated=True,
                stdout=bytes(1 << 16),
            ),
            Row(
                id="rlimit-fsize",
                does="writes a file past RLIMIT_FSIZE",
                argv=sh("exec head -c 64K /dev/zero > file"),
                layers=(Rlimits(fsize="4K"),),
                verdict=Verdict.OUTPUT_EXCEEDED,
                evidence="file_size",
                returncode=-25,
                hit=FILE_SIZE,
            ),
            own_end(
                "rlimit-fsize-ignoring-the-signal",
                "ignores SIGXFSZ, and dies of its own EFBIG past RLIMIT_FSIZE",
                python("f = open('file', 'wb', 0)\nwhile True: f.write(bytes(1024))"),
                1,
                layers=(Rlimits(fsize="4K"),),
            ),
            own_end(
                "full-tmpfs",
                "writes more than its folders hold, and dies of its own ENOSPC",
                sh("exec head -c 64M /dev/zero > file"),
                1,
                layers=(ChrootJail(size="1M"),),
            ),
        ],
    ),
    (
        "Processes",
        [
            out_of_time(
                "fork-bomb",
                "forks in every process of its own, without end",
                python(FORK_BOMB),
                timeout=1.0,
                layers=FEW,
                hit=WALL | PIDS,
                left_behind=True,
                cgroup=True,
                long=True,
            ),
            out_of_time(
                "fork-bomb-in-a-default-box",
                "the same without limits that were asked for",
                python(FORK_BOMB),
                timeout=0.5,
                left_behind=True,
            ),
            own_end(
                "fork-refused",
                "forks until it is refused, and dies of its own exception",
                python(FORK_UNTIL_REFUSED),
                1,
                layers=FEW,
                hit=PIDS,
                left_behind=True,
                cgroup=True,
            ),
            own_end(
                "thread-refused",
                "starts threads until it is refused, and dies of its own exception",
                python(THREADS_UNTIL_REFUSED),
                1,
                layers=FEW,
                hit=PIDS,
                cgroup=True,
            ),
            own_end(
                "living-children",
                "exits 0 while its children live",
                sh("sleep 100 & sleep 100 & exit 0"),
                0,
                left_behind=True,
            ),
            own_end(
                "living-daemon",
                "exits 0 and leaves a daemon behind (setsid, forked twice)",
                python(f"{DAEMON}\ndaemon(lambda: time.sleep(100))"),
                0,
                left_behind=True,
            ),
            own_end(
                "living-daemon-that-spins",
                "exits 4 and leaves a daemon behind that ignores every signal and spins",
                python(
                    f"{DAEMON}\n{IGNORE_ALL}\nsignal.signal(signal.SIGCHLD, signal.SIG_DFL)\n"
                    f"def spin():\n {SPIN}\ndaemon(spin)\nos._exit(4)"
                ),
                4,
                left_behind=True,
                options={"cpu_time": 10},
            ),
            own_end(
                "living-stopped-child",
                "exits 0 while its child is stopped",
                python(
                    "import os\npid = os.fork()\nif pid == 0: os.kill(os.getpid(), 19)\n"
                    "else: os.waitpid(pid, os.WUNTRACED)"
                ),
                0,
                left_behind=True,
            ),
            own_end(
                "living-thread",
                "exits 0 while its thread spins",
                python(
                    f"import os, threading\ndef work():\n {SPIN}\nthreading.Thread(target=work).start()\nos._exit(0)"
                ),
                0,
                options={"cpu_time": 10},
            ),
            own_end(
                "dead-children",
                "exits 0 and has not waited for children that have ended",
                python("import os, time\nfor _ in range(8):\n if os.fork() == 0: os._exit(9)\ntime.sleep(0.2)"),
                0,
                left_behind=None,  # on a busy machine one may be alive yet
            ),
            own_end(
                "kills-all-it-can",
                "kills all it can by kill(-1, SIGKILL): four children, and not init",
                python(KILL_ALL),
                0,
                stdout=b"[-9, -9, -9, -9]\n",
            ),
        ],
    ),
    (
        "Ordinary and odd ends",
        [
            own_end("exit-0", "exits 0", sh("exit 0"), 0),
            own_end("exit-1", "exits 1", sh("exit 1"), 1),
            own_end("exit-137", "exits 137, as shells do of what SIGKILL ended", sh("exit 137"), 137),
            own_end(
                "a-child-is-killed",
                "its child is killed by SIGKILL; it exits 137 for that",
                sh("sh -c 'kill -9 $$'"),
                137,
            ),
            own_end("exit-255", "exits 255", sh("exit 255"), 255),
            own_end("exception", "dies of a Python exception", python("raise ValueError('no')"), 1),
            own_end("exec", "executes another program, which exits 5", sh("exec sh -c 'exit 5'"), 5),
            own_end(
                "exec-in-a-thread",
                "executes another program from its second thread, which exits 5",
                python(
                    "import os, threading, time\n"
                    "threading.Thread(target=os.execv, args=('/bin/sh', ['sh', '-c', 'exit 5'])).start()\ntime.sleep(100)"
                ),
                5,
            ),
            own_end(
                "closed-streams",
                "closes stdin, stdout and stderr, works on and exits 6",
                python("import os, time\nos.closerange(0, 3)\ntime.sleep(0.1)\nos._exit(6)"),
                6,
            ),
            out_of_time(
                "closed-streams-and-sleeps",
                "closes every descriptor and sleeps",
                python("import os, time\nos.closerange(0, 4096)\ntime.sleep(100)"),
            ),
            own_end(
                "reads-to-the-end",
                "reads stdin to its end and writes it out",
                sh("exec cat"),
                0,
                options={"input": b"x" * 300_000},
                stdout=b"x" * 300_000,
            ),
            own_end("reads-nothing", "does not read its input", sh("exit 0"), 0, options={"input": bytes(1 << 20)}),
            own_end(
                "forged-messages",
                "writes forged messages of init's to every descriptor it has or can open, and exits 3",
                python(FORGE),
                3,
            ),
        ],
    ),
    (
        "The caller's doing",
        [
            by_the_caller("kill", "sleeps", "kill()", kill, UP_AND_SLEEP),
            by_the_caller("terminate", "sleeps", "terminate()", terminate, UP_AND_SLEEP, returncode=-15),
            by_the_caller(
                "terminate-obeyed",
                "exits 9 at SIGTERM",
                "terminate()",
                terminate,
                sh("trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done"),
                returncode=9,
                left_behind=None,
            ),
            by_the_caller(
                "terminate-and-kill",
                "sleeps",
                "terminate() and kill() at once",
                terminate_and_kill,
                UP_AND_SLEEP,
                returncode=None,
            ),
            by_the_caller("left-block", "sleeps", "leaves the block of popen()", up, UP_AND_SLEEP),
            by_the_caller(
                "killed-with-a-tree",
                "sleeps, as does a daemon of its own",
                "kill()",
                kill,
                python(f"{DAEMON}\ndaemon(lambda: time.sleep(100))\nprint('up', flush=True)\ntime.sleep(100)"),
                left_behind=True,
            ),
            by_the_caller("sent-sigkill", "sleeps", "send_signal(SIGKILL)", send_sigkill, UP_AND_SLEEP),
            by_the_caller(
                "sent-a-signal-it-handles",
                "exits 0 at SIGUSR1",
                "send_signal(SIGUSR1)",
                send_sigusr1,
                sh("trap 'exit 0' USR1; echo up; while :; do sleep 0.05; done"),
                verdict=Verdict.OK,
                evidence="exit",
                returncode=0,
                left_behind=None,
            ),
            by_the_caller(
                "killed-too-late",
                "exits 0",
                "kill(), once it has ended",
                kill_what_has_ended,
                sh("echo up; exit 0"),
                verdict=Verdict.OK,
                evidence="exit",
                returncode=0,
            ),
            by_the_caller(
                "closed-pipe",
                "writes without end",
                "closes stdout",
                close_stdout,
                sh("echo up; exec yes"),
                verdict=Verdict.SIGNALED,
                evidence="signal",
                returncode=-13,
            ),
        ],
    ),
]
ROWS = [row for _, rows in HEADINGS for row in rows]


# --- the table ---------------------------------------------------------------------------------------------------


def _value(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1024 and value % 1024 == 0:
        return f"{value >> 20}M" if value % MEGABYTES == 0 else f"{value >> 10}K"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return "PIPE" if value == PIPE else f"{value}"


def _layer(layer: Any) -> str:
    """A layer by what differs from its defaults."""
    own = [field for field in dataclasses.fields(layer) if getattr(layer, field.name) != field.default]
    return f"{type(layer).__name__}({', '.join(f'{f.name}={_value(getattr(layer, f.name))}' for f in own)})"


def _under(row: Row) -> str:
    """What the row is run with."""
    words = [_layer(layer) for layer in row.layers]
    words += [f"{name}={_value(value)}" for name, value in row.options.items() if value != PIPE]
    words += ["degrade=True"] * row.degrade
    words += [] if row.file is None else ["a file on a disk as stdin"]
    return ", ".join([f"`{word}`" if "=" in word else word for word in words] + [row.caller_does] * bool(row.caller))


def _code(words: Any) -> str:
    return ", ".join(f"`{word}`" for word in sorted(words))


def _line(row: Row) -> str:
    causes = [row.evidence] if isinstance(row.evidence, str) else list(row.evidence)
    evidence = " or ".join(f"`{cause}`" for cause in causes)
    extra = [*row.besides, *(["pids_refused"] if "pids" in row.hit else []), *(["left_behind"] * bool(row.left_behind))]
    evidence += "".join(f", `{key}`" for key in extra)
    code = "" if row.returncode is None else str(row.returncode)
    cells = [f"`{row.id}`", row.does, _under(row), f"`{row.verdict.name}`", _code(row.hit), code, evidence]
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def render() -> str:
    """docs/verdicts.md."""
    lines = [
        "# Verdicts",
        "",
        "What a run of a program that behaves so gets: its verdict, the limits that it hit, its return code (exit status or minus",
        "the signal; left out where hosts differ) and the keys of the evidence. Each row is a test; this page is written by",
        "`python tests/kernel/test_verdicts.py > docs/verdicts.md`, and a test compares the two.",
        "",
        f"Unless something else is said: `timeout={GENEROUS:.0f}`, the default layers. A program that exits with any status from 1 to",
        "255 is `NONZERO_EXIT`, whatever the status says to shells.",
    ]
    for heading, rows in HEADINGS:
        lines += ["", f"## {heading}", "", "| row | the program | run with | verdict | limits hit | code | evidence |"]
        lines += ["|---|---|---|---|---|---|---|", *map(_line, rows)]
    return "\n".join(lines) + "\n"


# --- running a row -----------------------------------------------------------------------------------------------


def _on_disk(folder: str) -> bool:
    """Whether files there are cached in memory, rather than being there alone."""
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    path = Path(os.path.realpath(folder))
    kind = next((mounts[str(at)] for at in (path, *path.parents) if str(at) in mounts), "")
    in_memory = {"tmpfs", "ramfs", ""} | (
        {"overlay"} if os.environ.get("VMTEST") else set()
    )  # a test VM's disk is none
    return kind not in in_memory


def run(row: Row, box: Sandbox) -> Result[bytes]:
    with ExitStack() as stack:
        options = {"timeout": GENEROUS, **row.options}
        if row.file is not None:
            folder = tempfile.gettempdir()
            if not _on_disk(folder):
                pytest.skip(f"{folder} is not on a disk, so its files are no page cache")
            file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            file.truncate(row.file)  # a hole: it is read as zeros, and cached like anything else
            options["stdin"] = file
        if row.caller is None:
            return box.run(row.argv, **options)
        with box.popen(row.argv, **options) as process:
            row.caller(process)
        return process.result


def box_for(row: Row) -> Sandbox:
    return Sandbox(*row.layers, degrade=row.degrade)


def wrong(row: Row, result: Result[bytes]) -> list[str]:
    """What is not as the row says."""
    found = result.evidence.keys()
    named = {row.evidence} if isinstance(row.evidence, str) else set(row.evidence)
    causes = (CAUSES & found) - row.besides
    checks = {
        f"verdict {result.verdict.name}": result.verdict is row.verdict,
        f"limits_hit {sorted(result.limits_hit)}": result.limits_hit == row.hit,
        f"returncode {result.returncode}": row.returncode in (None, result.returncode),
        f"causes {sorted(CAUSES & found)}": len(causes) == 1 and causes <= named and row.besides <= found,
        f"left_behind {result.evidence.get('left_behind')}": row.left_behind in (None, "left_behind" in found),
        f"pids_refused {result.evidence.get('pids_refused')}": ("pids" in row.hit) == ("pids_refused" in found),
        f"truncated {result.truncated}": result.truncated == row.truncated,
        f"stdout {(result.stdout or b'')[:100]!r}": row.stdout in (None, result.stdout),
    }
    problems = [what for what, right in checks.items() if not right]
    if problems:
        problems.append(f"{row.id}: {result.evidence} {result.usage} {(result.stderr or b'')[-300:]!r}")
    return problems


def parameters(*marks: pytest.MarkDecorator) -> list[Any]:
    return [pytest.param(row, id=row.id, marks=[*marks, *([pytest.mark.cgroup] * row.cgroup)]) for row in ROWS]


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Processes that spin meanwhile; they are in a box, so that they end with us whatever happens."""
    with Sandbox() as box, ExitStack() as stack:
        for _ in range(processes):
            stack.enter_context(box.popen(["sh", "-c", "while :; do :; done"]))
        yield


# --- tests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", parameters())
def test_a_behaviour_gets_its_one_right_verdict(row: Row) -> None:
    with box_for(row) as box:
        assert wrong(row, run(row, box)) == []
        assert box.run(["true"], timeout=GENEROUS), "the box is of use after that"


@pytest.mark.slow
@pytest.mark.timeout(120 + 10 * ROUNDS)
@pytest.mark.parametrize("row", parameters())
def test_a_verdict_is_the_same_under_load_and_each_time(row: Row) -> None:
    """In one box, so that nothing of a run (its cgroup's counters, its files, its orphans) is seen in the next."""
    rounds = max(1, ROUNDS // 2) if row.long else ROUNDS
    beside = max(1, 2 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))  # two over all of xdist's workers
    with busy(beside), box_for(row) as box:
        problems = [problem for _ in range(rounds) if (problem := wrong(row, run(row, box)))]
    assert problems == [], f"{len(problems)} of {rounds} rounds"


def test_every_exit_status_is_the_programs_own() -> None:
    with Sandbox() as box:
        results = [box.run(["sh", "-c", f"exit {status}"], timeout=GENEROUS) for status in range(256)]
    assert [result.returncode for result in results] == list(range(256))
    assert [result.verdict for result in results] == [Verdict.OK] + [Verdict.NONZERO_EXIT] * 255
    assert all(CAUSES & result.evidence.keys() == {"exit"} and not result.limits_hit for result in results)


def test_an_order_that_comes_when_the_program_has_just_ended_spares_its_box_and_the_runs_beside_it() -> None:
    """The kill for too much output often crosses init's report of the end: neither may get lost."""
    with Sandbox() as box, box.popen(["cat"], stdin=PIPE) as beside:
        for _ in range(50):
            result = box.run(["head", "-c", "2K", "/dev/zero"], max_output="1K", timeout=GENEROUS)
            assert (result.verdict, result.stdout) == (Verdict.OUTPUT_EXCEEDED, bytes(1024))
        assert beside.poll() is None
        beside.communicate(timeout=GENEROUS)
    assert beside.result.verdict is Verdict.OK


def test_each_row_has_a_name_of_its_own() -> None:
    assert len(ROWS) >= 48
    assert len({row.id for row in ROWS}) == len(ROWS)
    assert {row.verdict for row in ROWS} == set(Verdict) - {Verdict.FORBIDDEN_SYSCALL}


def test_the_page_says_what_the_rows_say() -> None:
    assert PAGE.read_text() == render(), "write it anew: python tests/kernel/test_verdicts.py > docs/verdicts.md"


if __name__ == "__main__":
    sys.stdout.write(render())
