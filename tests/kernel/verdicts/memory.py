"""Memory, in every form that a program can take it."""

from __future__ import annotations

from pysandbox import CgroupLimits, Rlimits, Verdict

from .payloads import DAEMON, PIPES, TOUCH
from .rows import GENEROUS, HOG, MEGABYTES, MEMORY, SMALL, WALL, Row, out_of_memory, own_end, python, sh

ROWS: list[Row] = [
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
]
