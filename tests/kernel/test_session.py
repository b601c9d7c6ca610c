"""What a payload is started with: signals, umask, a session of its own, descriptors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from inside import PRELUDE, answer

import pysandbox
from pysandbox import (
    Sandbox,
)

Fresh = Callable[..., "subprocess.CompletedProcess[str]"]

# --- signals, umask, session -----------------------------------------------------------------------------------------

pytestmark = pytest.mark.usefixtures("without_seccomp")

DISTURBED = """
import os, signal, sys, pysandbox
for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM, signal.SIGCHLD, signal.SIGRTMIN})
os.umask(0o077)
"""


def test_signals_are_default_whatever_the_callers(in_fresh_python: Fresh) -> None:
    code = DISTURBED + "print(pysandbox.run(['grep', '^Sig[BI]', '/proc/self/status'], text=True, timeout=20).stdout)"
    done = in_fresh_python(code)
    assert {line.split()[0]: int(line.split()[1], 16) for line in done.stdout.splitlines() if line} == {
        "SigBlk:": 0,
        "SigIgn:": 0,
    }, done.stderr


def test_signals_of_runs_beside_each_other_are_default_too(in_fresh_python: Fresh) -> None:
    code = DISTURBED + (
        "with pysandbox.Sandbox() as box, box.popen(['sleep', '100']):\n"
        "    print(box.run(['grep', '^Sig[BI]', '/proc/self/status'], text=True, timeout=20).stdout)"
    )
    done = in_fresh_python(code)
    assert {int(line.split()[1], 16) for line in done.stdout.splitlines() if line} == {0}, done.stderr


def test_the_callers_own_signals_stay_as_they_are(in_fresh_python: Fresh) -> None:
    code = DISTURBED + (
        # SigQ counts the queued signals of all processes of this user: other tests run beside this one.
        "names = ('SigPnd', 'SigBlk', 'SigIgn', 'SigCgt')\n"
        "before = [line for line in open('/proc/self/status') if line.startswith(names)]\n"
        "pysandbox.run(['true'], timeout=20)\n"
        "print(before == [line for line in open('/proc/self/status') if line.startswith(names)])"
    )
    done = in_fresh_python(code)
    assert done.stdout == "True\n", done.stderr


def test_the_umask_is_022_whatever_the_callers(in_fresh_python: Fresh) -> None:
    done = in_fresh_python(DISTURBED + "print(pysandbox.run(['sh', '-c', 'umask'], text=True, timeout=20).stdout)")
    assert int(done.stdout, 8) == 0o022, done.stderr


def test_the_payload_leads_a_session_of_its_own() -> None:
    sid, pgid, pid = answer("answer = [os.getsid(0), os.getpgid(0), os.getpid()]")
    assert sid == pgid == pid


IN_A_TERMINAL = """
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    try:
        import pysandbox
        open("/dev/tty").close()  # there is one
        code = sys.argv[1]
        result = pysandbox.run([sys.executable, "-c", code], stdin=0, text=True, timeout=20)
        print("<", result.stdout.strip(), ">", result.stderr)
    finally:
        sys.stdout.flush()
        os._exit(0)
text = b""
while True:
    try:
        piece = os.read(terminal, 1000)
    except OSError:
        break
    if not piece:
        break
    text += piece
os.waitpid(pid, 0)
print(text.decode())
"""


def test_the_callers_terminal_is_not_the_payloads(in_fresh_python: Fresh) -> None:
    done = in_fresh_python(IN_A_TERMINAL, PRELUDE + "print(error_of(open, '/dev/tty'), os.isatty(0))")
    assert "< ENXIO True >" in done.stdout, done.stdout + done.stderr


def test_the_callers_terminal_cannot_be_made_the_payloads(in_fresh_python: Fresh) -> None:
    code = PRELUDE + "import fcntl, termios\nprint(error_of(fcntl.ioctl, 0, termios.TIOCSCTTY, 1))"
    done = in_fresh_python(IN_A_TERMINAL, code)
    assert "< EPERM >" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("request_number", ["termios.TIOCSTI", "termios.TIOCSTI | 1 << 32"])
def test_nothing_can_be_typed_into_the_callers_terminal(in_fresh_python: Fresh, request_number: str) -> None:
    code = PRELUDE + textwrap.dedent(f"""
    import ctypes, termios
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.ioctl(0, ctypes.c_ulong({request_number}), b"x")
    print(errno.errorcode[ctypes.get_errno()] if failed else "allowed")
    """)
    done = in_fresh_python(IN_A_TERMINAL, code)
    assert any(f"< {name} >" in done.stdout for name in ("EPERM", "EIO", "ENOTTY")), done.stdout + done.stderr


# --- descriptors -----------------------------------------------------------------------------------------------------

OPEN = "answer = sorted(n for n in map(int, os.listdir('/proc/self/fd')) if error_of(os.fstat, n) == 'allowed')"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe whose ends a careless exec would hand on."""
    ends = os.pipe()
    for fd in ends:
        os.set_inheritable(fd, True)
    yield ends
    for fd in ends:
        os.close(fd)


def test_only_the_standard_descriptors_are_open(pipe: tuple[int, int]) -> None:
    assert answer(OPEN) == [0, 1, 2]


def test_only_the_standard_descriptors_are_open_beside_another_run(box: Sandbox, pipe: tuple[int, int]) -> None:
    program = PRELUDE + OPEN + "\nprint(json.dumps(answer))"
    with box.popen(["sleep", "100"], pass_fds=pipe):
        assert box.run([sys.executable, "-S", "-c", program], timeout=20).stdout == b"[0, 1, 2]\n"


def test_a_passed_descriptor_keeps_its_number_and_works(pipe: tuple[int, int]) -> None:
    read, write = pipe
    code = f"os.write({write}, b'from inside'); " + OPEN
    assert answer(code, pass_fds=[write]) == [0, 1, 2, write]
    assert os.read(read, 100) == b"from inside"


@pytest.mark.parametrize("numbers", [[3], [4], [3, 4], [4, 3, 5], list(range(3, 10)), [9, 700], [900]], ids=str)
def test_passed_descriptors_keep_any_number(in_fresh_python: Fresh, numbers: list[int]) -> None:
    inside = PRELUDE + OPEN + "\nprint(answer)\nfor n in answer[3:]: os.write(n, str(n).encode() + b' ')"
    code = f"""
import os, pysandbox, sys
numbers, inside = {numbers!r}, {inside!r}
pysandbox.run(["true"], timeout=20)  # its own descriptors are there now
files = {{n: os.memfd_create(str(n)) for n in numbers}}
high = {{n: os.dup2(fd, 600 + i) for i, (n, fd) in enumerate(files.items())}}
taken = [int(n) for n in os.listdir("/proc/self/fd")]
for n in numbers:
    os.dup2(high[n], n)
print(pysandbox.run([sys.executable, "-S", "-c", inside], pass_fds=numbers, text=True, timeout=20).stdout, end="")
for n in numbers:
    print(os.pread(high[n], 100, 0).decode())
"""
    # What the numbers held before may have been the library's: put the init image out of the way first.
    done = in_fresh_python(code.replace('pysandbox.run(["true"], timeout=20)', "pass"))
    lines = done.stdout.splitlines()
    assert lines, done.stderr
    assert json.loads(lines[0]) == [0, 1, 2, *sorted(numbers)]
    assert [line.strip() for line in lines[1:]] == [str(n) for n in numbers]


def test_a_passed_descriptor_is_not_closed_in_the_caller(pipe: tuple[int, int]) -> None:
    pysandbox.run(["true"], pass_fds=pipe, timeout=20)
    os.fstat(pipe[0])
    os.fstat(pipe[1])


def test_the_callers_standard_descriptors_may_be_closed(in_fresh_python: Fresh, tmp_path: Path) -> None:
    code = """
import os, sys, pysandbox
out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
for fd in (0, 1, 2):
    os.close(fd)
result = pysandbox.run([sys.executable, "-c", sys.argv[2]], text=True, timeout=20)
os.write(out, (result.stdout + result.stderr).encode())
"""
    in_fresh_python(code, str(tmp_path / "out"), PRELUDE + OPEN + "\nprint(answer)")
    assert (tmp_path / "out").read_text() == "[0, 1, 2]\n"


@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 1], [1, 2], [0, 1, 2]], ids=str)
def test_a_closed_standard_stream_hands_on_nothing_of_the_librarys(in_fresh_python: Fresh, closed: list[int]) -> None:
    # The lowest free number goes to the library's next descriptor: its socket to init must not become the payload's.
    code = """
import os, sys, pysandbox
report = os.dup2(1, 50)
for fd in map(int, sys.argv[2].split()):
    os.close(fd)
report_inside = os.dup2(report, 51)
streams = {"stdin": None, "stdout": None, "stderr": None}
with pysandbox.popen([sys.executable, "-S", "-c", sys.argv[1]], pass_fds=[51], **streams) as process:
    process.wait(timeout=10)
"""
    inside = "import os\nfor n in (0, 1, 2): os.write(51, os.readlink(f'/proc/self/fd/{n}').encode() + b' ')"
    done = in_fresh_python(code, inside, " ".join(map(str, closed)), timeout=20)
    seen = done.stdout.split()
    assert len(seen) == 3, done.stderr
    assert [seen[number] for number in closed] == ["/dev/null"] * len(closed)


def test_standard_input_is_empty_by_default() -> None:
    assert pysandbox.run(["cat"], timeout=20).stdout == b""
