"""What a payload is and has: capabilities, limits, environment, descriptors, session; and what init keeps from it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pysandbox
from pysandbox import (
    PIPE,
    Capabilities,
    Environment,
    Layer,
    Namespaces,
    Rlimits,
    Sandbox,
    Verdict,
)
from pysandbox.result import Level

Fresh = Callable[..., "subprocess.CompletedProcess[str]"]

PRELUDE = """
import errno, json, os, sys
def error_of(action, *args):
    try:
        action(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "allowed"
"""


def answer(code: str, *layers: Layer, **options: Any) -> Any:
    """What the code leaves in `answer` when it is run in a box."""
    program = PRELUDE + textwrap.dedent(code) + "\nprint(json.dumps(answer))"
    options.setdefault("timeout", 20)
    result = pysandbox.run([sys.executable, "-S", "-c", program], *layers, **options)
    assert result.stdout is not None
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def processes(marker: str) -> Iterator[int]:
    """The pids, outside, of the processes with a word in their command line."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if marker.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                    yield int(name)


def status(*layers: Layer, **options: Any) -> dict[str, str]:
    """/proc/self/status of a payload that changes nothing itself."""
    result = pysandbox.run(["cat", "/proc/self/status"], *layers, text=True, timeout=20, **options)
    assert result.stdout is not None
    return {name: value.strip() for name, _, value in (line.partition(":") for line in result.stdout.splitlines())}


SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
BIND = """
import socket
with socket.socket() as s:
    answer = error_of(s.bind, ("127.0.0.1", 80))
"""


# --- capabilities, no_new_privs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_a_capability_set_is_empty(name: str) -> None:
    assert int(status()[name], 16) == 0


@pytest.mark.parametrize("name", SETS)
def test_a_capability_set_is_empty_for_user_0_inside_too(name: str) -> None:
    assert int(status(Namespaces(uid=0, gid=0))[name], 16) == 0


@pytest.mark.root
@pytest.mark.parametrize("name", SETS)
def test_a_capability_set_is_empty_without_a_user_namespace_too(name: str) -> None:
    assert int(status(Namespaces(user=False))[name], 16) == 0


@pytest.mark.root
def test_without_any_layer_root_keeps_its_capabilities() -> None:
    assert int(status(base=None)["CapEff"], 16) != 0


@pytest.mark.parametrize("name", SETS)
def test_a_kept_capability_is_the_only_one(name: str) -> None:
    assert int(status(Capabilities(keep=("net_bind_service",)))[name], 16) == 1 << 10


def test_a_kept_capability_works() -> None:
    assert answer(BIND, Capabilities(keep=("net_bind_service",))) == "allowed"


def test_without_it_that_is_refused() -> None:
    assert answer(BIND) == "EACCES"


def test_keeping_a_capability_is_told(box: Sandbox) -> None:
    assert box.enforcement["Capabilities"].level is Level.FULL
    kept = Sandbox(Capabilities(keep=("net_raw",))).enforcement["Capabilities"]
    assert kept.level is Level.PARTIAL
    assert "net_raw" in kept.reason


def test_a_kept_capability_is_gone_for_the_next_box() -> None:
    status(Capabilities(keep=("net_raw",)))
    assert int(status()["CapEff"], 16) == 0


@pytest.mark.parametrize("base", ["default", "none"])
def test_no_new_privileges_can_be_gained(base: str) -> None:
    options: dict[str, Any] = {} if base == "default" else {"base": None}
    assert status(**options)["NoNewPrivs"] == "1"


def test_a_setuid_program_gains_nothing() -> None:
    code = """
    import shutil, subprocess
    shutil.copy("/bin/cat", "/box/cat")
    os.chmod("/box/cat", 0o6755)
    lines = subprocess.run(["/box/cat", "/proc/self/status"], capture_output=True, text=True).stdout.splitlines()
    answer = [line.split()[1:] for line in lines if line.startswith(("Uid", "CapEff"))]
    """
    ids, effective = answer(code)
    assert ids == ["1000"] * 4
    assert int(effective[0], 16) == 0


@pytest.mark.root
def test_supplementary_groups_of_root_are_gone(in_fresh_python: Fresh) -> None:
    code = """
import os, pysandbox
os.setgroups([4, 24, 27])
print(pysandbox.run(["id", "-G"], text=True).stdout.strip())
print(pysandbox.run(["id", "-G"], pysandbox.Namespaces(user=False), text=True).stdout.strip().count(" "))
"""
    done = in_fresh_python(code)
    assert done.stdout == "1000\n0\n", done.stderr


# --- signals, umask, session -------------------------------------------------------------------------------------

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


# --- descriptors -------------------------------------------------------------------------------------------------

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


# --- environment -------------------------------------------------------------------------------------------------

ENVIRON = "answer = dict(os.environ)"


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    """The value of a variable of the caller's."""
    value = uuid.uuid4().hex
    monkeypatch.setenv("PYSANDBOX_TEST_SECRET", value)
    return value


def test_the_environment_is_clean(secret: str) -> None:
    seen = answer(ENVIRON)
    assert seen.keys() == {"PATH", "HOME", "LANG"}
    assert seen["HOME"] == "/box"
    assert os.path.dirname(sys.executable) in seen["PATH"].split(":")


def test_the_environment_is_empty_without_the_usual_few() -> None:
    assert pysandbox.run(["/usr/bin/env"], Environment(clean=False), timeout=20).stdout == b""


def test_the_environment_is_empty_where_nothing_gives_one(secret: str) -> None:
    assert pysandbox.run(["/usr/bin/env"], base=None, timeout=20).stdout == b""


def test_an_allowed_variable_is_passed_on(secret: str) -> None:
    assert answer(ENVIRON, Environment(allow=("PYSANDBOX_TEST_SECRET",)))["PYSANDBOX_TEST_SECRET"] == secret


def test_an_allowed_variable_that_is_not_set_is_left_out() -> None:
    assert answer(ENVIRON, Environment(allow=("PYSANDBOX_NOT_SET",))).keys() == {"PATH", "HOME", "LANG"}


def test_an_allowed_variable_has_the_value_of_the_time_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Environment(allow=("PYSANDBOX_TEST",))
    for value in ("one", "two"):
        monkeypatch.setenv("PYSANDBOX_TEST", value)
        assert answer(ENVIRON, layer)["PYSANDBOX_TEST"] == value


def test_a_set_variable_wins_over_all_others(secret: str) -> None:
    layer = Environment(allow=("PYSANDBOX_TEST_SECRET",), set={"PYSANDBOX_TEST_SECRET": "mine", "HOME": "/tmp"})
    seen = answer(ENVIRON, layer)
    assert (seen["PYSANDBOX_TEST_SECRET"], seen["HOME"]) == ("mine", "/tmp")


def test_an_env_replaces_all_of_it() -> None:
    result = pysandbox.run(["/usr/bin/env"], Environment(set={"A": "1"}), env={"B": "2 =\n"}, timeout=20)
    assert result.stdout == b"B=2 =\n\n"


def test_an_empty_env_is_empty() -> None:
    assert pysandbox.run(["/usr/bin/env"], env={}, timeout=20).stdout == b""


def test_a_variable_that_is_no_text_is_carried_over() -> None:
    value = os.fsdecode(b"\xff\xfe")
    assert pysandbox.run(["/usr/bin/env"], env={"B": value}, timeout=20).stdout == b"B=\xff\xfe\n"


def test_no_process_of_the_box_holds_a_secret_of_the_caller(secret: str) -> None:
    code = """
    found = []
    for name in os.listdir("/proc"):
        for file in ("environ", "cmdline") if name.isdigit() else ():
            try:
                found.append(open(f"/proc/{name}/{file}").read())
            except OSError:
                pass
    answer = found
    """
    texts = answer(code)
    assert len(texts) >= 3
    assert secret not in "".join(texts)


# --- keyrings ----------------------------------------------------------------------------------------------------

KEYS = """
import ctypes, errno, platform
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
add_key, keyctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[platform.machine()]
join, search, read, session = 1, 10, 11, -3
def outcome(result):
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "allowed"
"""
USE_KEY = (
    KEYS
    + """
import sys
buffer = ctypes.create_string_buffer(100)
found = outcome(libc.syscall(keyctl, search, session, b"user", b"pysandbox-test", 0))
got = outcome(libc.syscall(keyctl, read, int(sys.argv[1]), buffer, 100, 0))
print(found, got, buffer.value.decode())
"""
)
OWN_KEY = (
    KEYS
    + """
import sys, pysandbox
libc.syscall(keyctl, join, None, 0, 0, 0)  # a keyring of this process alone
key = libc.syscall(add_key, b"user", b"pysandbox-test", b"secret", 6, session)
words = [sys.executable, "-S", "-c", sys.argv[1], str(key)]
options = {"base": None} if sys.argv[2:] else {}
print(pysandbox.run(words, text=True, timeout=20, **options).stdout, end="")
"""
)


def test_keys_of_the_callers_session_are_out_of_reach(in_fresh_python: Fresh) -> None:
    done = in_fresh_python(OWN_KEY, USE_KEY)
    found, got, *value = done.stdout.split()
    assert "allowed" not in (found, got), done.stdout
    assert value == []


def test_without_any_layer_those_keys_are_reached(in_fresh_python: Fresh) -> None:
    assert in_fresh_python(OWN_KEY, USE_KEY, "no layers").stdout == "allowed allowed secret\n"


def test_a_key_of_one_box_is_not_found_in_another(in_fresh_python: Fresh) -> None:
    add = KEYS + 'libc.syscall(add_key, b"user", b"pysandbox-test", b"secret", 6, session)'
    find = KEYS + 'print(outcome(libc.syscall(keyctl, search, session, b"user", b"pysandbox-test", 0)))'
    code = (
        KEYS
        + """
import sys, pysandbox
libc.syscall(keyctl, join, None, 0, 0, 0)
with pysandbox.Sandbox() as one, pysandbox.Sandbox() as other:
    one.run([sys.executable, "-S", "-c", sys.argv[1]], timeout=20)
    print(other.run([sys.executable, "-S", "-c", sys.argv[2]], text=True, timeout=20).stdout, end="")
"""
    )
    done = in_fresh_python(code, add, find)
    assert done.stdout.strip() in ("ENOKEY", "EACCES", "ENOSYS", "EPERM"), done.stderr


# --- rlimits -----------------------------------------------------------------------------------------------------

LIMITS: dict[str, tuple[Any, int]] = {
    "as_": ("1G", 1 << 30),
    "cpu": (100, 100),
    "data": ("512M", 512 << 20),
    "fsize": ("1M", 1 << 20),
    "memlock": (4096, 4096),
    "msgqueue": (4096, 4096),
    "nice": (0, 0),
    "nofile": (64, 64),
    "nproc": (50, 50),
    "rss": ("1G", 1 << 30),
    "rtprio": (0, 0),
    "sigpending": (100, 100),
    "stack": ("4M", 4 << 20),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_in_force_soft_and_hard(name: str) -> None:
    given, wanted = LIMITS[name]
    number = getattr(resource, f"RLIMIT_{name.rstrip('_').upper()}")
    code = f"import resource; answer = resource.getrlimit({number})"
    # One second apart for CPU time: at the hard limit the kernel says SIGKILL, at the soft one SIGXCPU.
    assert answer(code, Rlimits(**{name: given})) == [wanted, wanted + (name == "cpu")]


def test_limits_that_are_not_given_are_the_callers() -> None:
    numbers = [getattr(resource, f"RLIMIT_{name.rstrip('_').upper()}") for name in LIMITS if name != "nproc"]
    code = f"import resource; answer = [resource.getrlimit(n) for n in {numbers}]"
    with Sandbox(base=[Namespaces(), pysandbox.ChrootJail(), Environment(), Rlimits()]) as box:
        program = PRELUDE + code + "\nprint(json.dumps(answer))"
        seen = json.loads(box.run([sys.executable, "-S", "-c", program], timeout=20).stdout or b"")
    assert seen == [list(resource.getrlimit(number)) for number in numbers]


@pytest.mark.parametrize("layer", [Rlimits(), Rlimits(core=0), Rlimits(nofile=64)], ids=str)
def test_a_crash_writes_no_core_and_feeds_no_pipe(layer: Rlimits) -> None:
    # At 0 a core_pattern that is a pipe would be started all the same; at 1 the kernel refuses that too (core(5)).
    assert answer("import resource; answer = resource.getrlimit(resource.RLIMIT_CORE)", layer) == [1, 1]


def test_a_crash_leaves_no_file(box: Sandbox) -> None:
    assert box.run(["sh", "-c", "kill -SEGV $$"], timeout=20).returncode == -11
    assert box.run(["ls", "-A"], timeout=20).stdout == b""


def test_open_files_are_limited() -> None:
    code = "answer = error_of(lambda: [os.dup(0) for _ in range(100)])"
    assert answer(code, Rlimits(nofile=30)) == "EMFILE"


def test_without_that_limit_as_many_can_be_opened() -> None:
    assert answer("answer = error_of(lambda: [os.dup(0) for _ in range(100)])") == "allowed"


def test_file_size_is_limited(box: Sandbox) -> None:
    with Sandbox(Rlimits(fsize="64K")) as box:
        result = box.run(["dd", "if=/dev/zero", "of=file", "bs=1K", "count=100"], timeout=20)
        assert result.verdict is Verdict.OUTPUT_EXCEEDED
        assert len(box.read_file("file")) == 64 << 10


FORK = """
import time
def fork():
    for _ in range(20):
        if os.fork() == 0:
            time.sleep(1000)
answer = error_of(fork)
"""


def test_processes_are_limited() -> None:
    assert answer(FORK, Rlimits(nproc=10)) == "EAGAIN"


def test_without_that_limit_as_many_can_be_started() -> None:
    assert answer(FORK) == "allowed"


def test_memory_of_each_process_is_limited() -> None:
    code = """
    try:
        bytes(400 << 20)
        answer = "allowed"
    except MemoryError:
        answer = "refused"
    """
    assert answer(code, Rlimits(as_="300M")) == "refused"
    assert answer(code) == "allowed"


def test_a_limit_cannot_be_raised_inside() -> None:
    code = """
    import resource
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
        answer = "allowed"
    except (OSError, ValueError):
        answer = "refused"
    """
    assert answer(code, Rlimits(nofile=64)) == "refused"


@pytest.mark.root
def test_a_limit_cannot_be_raised_inside_a_box_without_a_user_namespace() -> None:
    code = """
    import resource
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
        answer = "allowed"
    except (OSError, ValueError):
        answer = "refused"
    """
    assert answer(code, Namespaces(user=False), Rlimits(nofile=64)) == "refused"


def test_a_limit_above_the_callers_is_an_error_of_its_step(in_fresh_python: Fresh) -> None:
    code = """
import pysandbox, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
try:
    pysandbox.run(["true"], pysandbox.Rlimits(nofile=200), timeout=20)
except pysandbox.SetupError as error:
    print(error.layer, error.step, error.errno, "hard limit" in error.hint)
"""
    done = in_fresh_python(code)
    assert done.stdout == f"Rlimits setrlimit {errno.EPERM} True\n", done.stderr


def test_setting_limits_leaves_the_callers_alone() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    answer("answer = 0", Rlimits(nofile=64))
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


# --- init --------------------------------------------------------------------------------------------------------


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
