"""Programs that take time, and programs that write too much."""

from __future__ import annotations

from pysandbox import PIPE, ChrootJail, Rlimits, Verdict

from .callers import wait
from .payloads import DAEMON, DEADLOCK, IGNORE_ALL, ONE_BY_ONE
from .rows import (
    FEW,
    FILE_SIZE,
    GENEROUS,
    OUTPUT,
    SPIN,
    WALL,
    Row,
    out_of_cpu,
    out_of_time,
    own_end,
    python,
    sh,
    too_much_output,
)

CPU_TIME: list[Row] = [
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
        python(ONE_BY_ONE.format(before="", child="burn() if os.fork() == 0 else os._exit(0)", after="os.wait()")),
        options={"cpu_time": 0.15, "timeout": 6},
        left_behind=None,
    ),
    out_of_cpu(
        "cpu-in-children-not-waited-for",
        "ignores SIGCHLD and starts child after child, each of which works for 20 ms",
        python(ONE_BY_ONE.format(before="signal.signal(signal.SIGCHLD, signal.SIG_IGN)", child="burn()", after="")),
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
]

WALL_TIME: list[Row] = [
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
]

OUTPUTS: list[Row] = [
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
]
