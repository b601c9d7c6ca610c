"""How programs end, what they leave behind, and what is done to them."""

from __future__ import annotations

from pysandbox import Rlimits, Verdict

from .callers import (
    close_stdout,
    kill,
    kill_what_has_ended,
    send_sigkill,
    send_sigusr1,
    terminate,
    terminate_and_kill,
    up,
)
from .payloads import (
    DAEMON,
    FORGE,
    FORK_BOMB,
    FORK_UNTIL_REFUSED,
    IGNORE_ALL,
    KILL_ALL,
    KILLED_BY_ITS_CHILD,
    KILLED_WITH_ALL,
    THREADS_UNTIL_REFUSED,
)
from .rows import (
    FEW,
    PIDS,
    SMALL,
    SPIN,
    UP_AND_SLEEP,
    WALL,
    Row,
    by_the_caller,
    out_of_time,
    own_end,
    python,
    sh,
    signal_itself,
)

SIGNALS: list[Row] = [
    *(signal_itself(name) for name in ("SIGKILL", "SIGSEGV", "SIGFPE", "SIGABRT", "SIGBUS", "SIGILL")),
    *(signal_itself(name) for name in ("SIGTERM", "SIGXCPU", "SIGXFSZ", "SIGRTMAX")),
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
]

PROCESSES: list[Row] = [
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
            "import os\npid = os.fork()\nif pid == 0: os.kill(os.getpid(), 19)\nelse: os.waitpid(pid, os.WUNTRACED)"
        ),
        0,
        left_behind=True,
    ),
    own_end(
        "living-thread",
        "exits 0 while its thread spins",
        python(f"import os, threading\ndef work():\n {SPIN}\nthreading.Thread(target=work).start()\nos._exit(0)"),
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
]

ENDS: list[Row] = [
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
]

BY_THE_CALLER: list[Row] = [
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
]
