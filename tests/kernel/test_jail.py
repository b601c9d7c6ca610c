"""`ChrootJail` without a prepared root: what a payload sees of the file system."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from inside import answer, prefixes

import pysandbox
from pysandbox import Bind, CgroupLimits, ChrootJail, ConfigError, Namespaces, Sandbox, Tmpfs

pytestmark = pytest.mark.usefixtures("without_seccomp")

# --- what is visible -------------------------------------------------------------------------------------------------


def test_the_root_holds_nothing_but_what_was_granted() -> None:
    system = {"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "dev", "proc", "tmp", "box"}
    python = {Path(prefix).parts[1] for prefix in prefixes()}
    assert set(answer("answer = os.listdir('/')")) <= system | python


def test_etc_holds_nothing_that_names_users_hosts_or_secrets_of_the_machine() -> None:
    seen = set(answer("answer = [os.path.join(at, name) for at, _, names in os.walk('/etc') for name in names]"))
    for secret in ("/etc/shadow", "/etc/gshadow", "/etc/hostname", "/etc/fstab"):
        assert secret not in seen
    assert not {name for name in seen if name.startswith(("/etc/ssl/private", "/etc/ssh", "/etc/sudoers"))}


def test_users_of_the_host_are_unknown_inside() -> None:
    names = answer("answer = [line.split(':')[0] for line in open('/etc/passwd')]")
    assert set(names) == {"root", "sandbox", "nobody"}


def test_a_file_of_the_host_is_invisible(shared: Path) -> None:
    path = str(shared / "known")
    assert answer(f"answer = error_of(os.stat, {path!r})") == "ENOENT"


def test_without_a_jail_that_file_is_visible(shared: Path) -> None:
    path = str(shared / "known")
    assert answer(f"answer = error_of(os.stat, {path!r})", base=None) == "allowed"


def test_home_shows_nothing_but_the_running_python() -> None:
    homes = {os.path.expanduser("~"), "/root", "/home"}
    code = "answer = {home: os.listdir(home) for home in HOMES if os.path.isdir(home)}"
    for home, names in answer(code.replace("HOMES", repr(sorted(homes)))).items():
        depth = len(Path(home).parts)
        on_the_way = {Path(p).parts[depth] for p in prefixes() if p.startswith(home + "/")}
        own = any(home == p or home.startswith(p + "/") for p in prefixes())
        assert own or set(names) <= on_the_way


def test_sys_of_the_host_is_not_there() -> None:
    assert answer("answer = os.path.exists('/sys')") is False


# --- what is writable ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["/", "/usr", "/usr/bin", "/etc", "/etc/ssl/certs", "/dev", "/proc", sys.prefix])
def test_a_granted_folder_is_read_only(folder: str) -> None:
    code = f"""
    folder = {folder!r}
    flags = os.statvfs(folder).f_flag if os.path.isdir(folder) else os.ST_RDONLY
    answer = [flags & os.ST_RDONLY, error_of(write, os.path.join(folder, "new"))]
    """
    flag, error = answer(code)
    assert flag == os.ST_RDONLY
    assert error in ("EROFS", "EACCES", "ENOENT")


def test_a_file_of_the_jails_own_cannot_be_changed() -> None:
    assert answer("answer = error_of(write, '/etc/passwd')") in ("EROFS", "EACCES")


@pytest.mark.parametrize(
    "name", ["sys/kernel/hostname", "sys/kernel/core_pattern", "sysrq-trigger", "self/oom_score_adj"]
)
def test_proc_takes_no_settings(name: str) -> None:
    assert answer(f"answer = error_of(write, '/proc/{name}')") in ("EROFS", "EACCES", "ENOENT")


@pytest.mark.parametrize("folder", ["/box", "/tmp", "/dev/shm", "/box/new/deeper"])
def test_a_folder_of_the_boxs_own_is_writable(folder: str) -> None:
    code = f"""
    os.makedirs({folder!r}, exist_ok=True)
    write({folder + "/file"!r}, "kept")
    answer = open({folder + "/file"!r}).read()
    """
    assert answer(code) == "kept"


@pytest.mark.parametrize("folder", ["/box", "/tmp", "/dev/shm"])
def test_what_is_written_shows_neither_in_another_box_nor_on_the_host(folder: str) -> None:
    path = f"{folder}/{uuid.uuid4()}"
    with Sandbox() as one, Sandbox() as other:
        one.run(["touch", path], timeout=20).check_returncode()
        assert one.run(["test", "-e", path], timeout=20)
        assert not other.run(["test", "-e", path], timeout=20)
        assert not os.path.exists(path)


def test_a_folder_of_the_host_that_is_shared_by_bind_does_show(shared: Path) -> None:
    answer("write('/given/new'); answer = 0", ChrootJail(binds=(Bind(shared, "/given", writable=True),)))
    assert (shared / "new").read_text() == "x"


def test_every_mount_is_read_only_but_the_boxs_own_few() -> None:
    writable = {path for path, flags in answer("answer = mounts()").items() if "rw" in flags}
    nodes = {f"/dev/{name}" for name in ("null", "zero", "full", "urandom", "tty")}
    assert writable == {"/box", "/tmp", "/dev/shm", "/dev/pts"} | nodes


def test_every_mount_is_nosuid() -> None:
    assert [path for path, flags in answer("answer = mounts()").items() if "nosuid" not in flags] == []


def test_every_mount_outside_dev_is_nodev() -> None:
    without = {path for path, flags in answer("answer = mounts()").items() if "nodev" not in flags}
    nodes = {f"/dev/{name}" for name in ("null", "zero", "full", "urandom", "tty")}
    assert without == {"/dev/pts"} | nodes


def test_no_mount_is_there_beyond_those_granted() -> None:
    system = ("/usr", "/etc/", "/bin", "/sbin", "/lib", "/dev", "/proc")
    for path in answer("answer = list(mounts())"):
        assert path in {"/", "/box", "/tmp"} | prefixes() or path.startswith(system), path


def test_granted_mounts_are_nosuid_and_nodev_too(shared: Path) -> None:
    jail = ChrootJail(binds=(Bind(shared, "/ro"), Bind(shared, "/rw", writable=True)), tmpfs=(Tmpfs("/scratch"),))
    flags = answer("answer = {path: sorted(mounts()[path]) for path in ('/ro', '/rw', '/scratch')}", jail)
    for path in flags:
        assert {"nosuid", "nodev"} <= set(flags[path])
    assert "ro" in flags["/ro"]
    assert "rw" in flags["/rw"]


# --- the running Python, TLS -----------------------------------------------------------------------------------------


def test_sys_executable_is_the_same_python_inside() -> None:
    code = "import sys; print(sys.prefix, sys.base_prefix, sys.version)"
    result = pysandbox.run([sys.executable, "-c", code], text=True, timeout=20)
    assert result.stdout == f"{sys.prefix} {sys.base_prefix} {sys.version}\n"


def test_installed_packages_can_be_imported_inside() -> None:
    result = pysandbox.run([sys.executable, "-c", "import pytest; print(pytest.__version__)"], timeout=20)
    assert result.stdout == f"{pytest.__version__}\n".encode()


def test_without_the_python_it_is_not_there() -> None:
    jail = ChrootJail(with_python=False, binds=())
    outside = [prefix for prefix in prefixes() if not prefix.startswith("/usr")]
    for prefix in outside:
        assert not pysandbox.run(["test", "-e", prefix], jail, timeout=20)


def test_tls_finds_the_certificates_that_it_finds_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    code = """
    import ssl
    paths = ssl.get_default_verify_paths()
    found = len(os.listdir(paths.capath)) if paths.capath else 0
    answer = [ssl.create_default_context().cert_store_stats(), found]
    """
    paths = ssl.get_default_verify_paths()
    found = len(os.listdir(paths.capath)) if paths.capath else 0
    assert answer(code) == [ssl.create_default_context().cert_store_stats(), found]


# --- /proc -----------------------------------------------------------------------------------------------------------


def test_proc_can_be_left_out() -> None:
    assert answer("answer = os.path.exists('/proc/self')", ChrootJail(proc="none")) is False


def test_runs_without_proc_are_still_killed_whole() -> None:
    with Sandbox(ChrootJail(proc="none")) as box:
        box.run(["sh", "-c", "setsid sleep 1000 & exit 0"], timeout=20).check_returncode()


def test_hidepid_hides_init() -> None:
    assert "1" not in answer("answer = os.listdir('/proc')", ChrootJail(proc_options="hidepid=2"))


def test_without_hidepid_init_shows() -> None:
    assert "1" in answer("answer = os.listdir('/proc')")


def test_subset_pid_leaves_only_processes() -> None:
    names = answer("answer = os.listdir('/proc')", ChrootJail(proc_options="subset=pid"))
    assert {name for name in names if not name.isdigit()} == {"self", "thread-self"}


def test_subset_pid_weakens_no_other_layer() -> None:
    code = """
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    answer = libc.unshare(0x10000000)
    """
    assert answer(code, ChrootJail(proc_options="subset=pid")) == -1


@pytest.mark.parametrize("name", ["kcore", "keys", "timer_list", "interrupts", "sched_debug", "latency_stats"])
def test_a_masked_file_of_proc_gives_nothing(name: str) -> None:
    code = f"answer = os.path.exists('/proc/{name}') and open('/proc/{name}', 'rb').read(100).hex()"
    assert not answer(code)


@pytest.mark.parametrize("name", ["acpi", "scsi", "asound"])
def test_a_masked_folder_of_proc_gives_nothing(name: str) -> None:
    assert not answer(f"answer = os.path.exists('/proc/{name}') and os.listdir('/proc/{name}')")


def test_without_a_jail_a_masked_file_gives_something() -> None:
    result = pysandbox.run(["head", "-c", "100", "/proc/interrupts"], Namespaces(), base=None, timeout=20)
    assert result.stdout


# --- /dev ------------------------------------------------------------------------------------------------------------


def test_dev_holds_the_usual_few_and_nothing_of_the_host() -> None:
    usual = {
        "null",
        "zero",
        "full",
        "random",
        "urandom",
        "tty",
        "fd",
        "stdin",
        "stdout",
        "stderr",
        "ptmx",
        "pts",
        "shm",
    }
    assert set(answer("answer = os.listdir('/dev')")) == usual


def test_null_zero_full_and_urandom_work() -> None:
    code = """
    def fill():
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")
    write("/dev/null")
    answer = [
        open("/dev/null", "rb").read().hex(),
        open("/dev/zero", "rb").read(4).hex(),
        len(open("/dev/urandom", "rb").read(16)),
        len(open("/dev/random", "rb").read(1)),
        error_of(fill),
    ]
    """
    assert answer(code) == ["", "00000000", 16, 1, "ENOSPC"]


def test_a_device_node_cannot_be_made() -> None:
    code = "import stat; answer = error_of(os.mknod, '/box/disk', stat.S_IFBLK | 0o600, os.makedev(8, 0))"
    assert answer(code) == "EPERM"


def test_a_pseudo_terminal_can_be_had_and_is_the_boxs_first() -> None:
    code = """
    import pty
    ours, theirs = pty.openpty()
    os.write(ours, b"line\\n")
    answer = [os.ttyname(theirs), os.read(theirs, 10).decode(), sorted(os.listdir("/dev/pts"))]
    """
    assert answer(code) == ["/dev/pts/0", "line\n", ["0", "ptmx"]]


def test_shared_memory_and_named_semaphores_work() -> None:
    code = """
    import multiprocessing
    from multiprocessing import shared_memory
    with multiprocessing.Lock():
        memory = shared_memory.SharedMemory(create=True, size=10)
    memory.close()
    memory.unlink()
    answer = "fine"
    """
    assert answer(code) == "fine"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_standard_stream_can_be_opened_by_name_for_writing(stream: str) -> None:
    result = pysandbox.run(["sh", "-c", f"echo hello > /dev/{stream}"], timeout=20)
    assert (result.stderr if stream == "stderr" else result.stdout) == b"hello\n"


def test_standard_input_can_be_opened_by_name() -> None:
    assert pysandbox.run(["cat", "/dev/stdin"], input=b"hello", timeout=20).stdout == b"hello"


LIMITED = """
answer = [open("/proc/meminfo").readline().split()[1], open("/proc/cpuinfo").read().count("processor\\t")]
answer += [error_of(write, "/proc/meminfo")]
"""


@pytest.mark.cgroup
def test_proc_can_show_the_limits_for_the_machine() -> None:
    limits = CgroupLimits(memory="96M", cpus=0.5)
    assert answer(LIMITED, ChrootJail(proc_limits=True), limits)[:2] == [str(96 << 10), 1]
    assert answer(LIMITED, ChrootJail(proc_limits=True), limits)[2] in ("EROFS", "EACCES")
    assert answer(LIMITED, limits)[:2] == [
        Path("/proc/meminfo").read_text().split()[1],
        Path("/proc/cpuinfo").read_text().count("processor\t"),
    ]


@pytest.mark.cgroup
def test_proc_shows_the_processors_that_are_allowed_and_the_swap() -> None:
    numbers = sorted(os.sched_getaffinity(0))[-1:]
    code = "answer = [[line.split(':')[1].strip() for line in open('/proc/cpuinfo') if line.startswith('processor')]]"
    code += "\nanswer += [dict(line.split()[:2] for line in open('/proc/meminfo'))]"
    limits = CgroupLimits(memory="64M", swap="32M", cpuset=numbers)
    processors, memory = answer(code, ChrootJail(proc_limits=True), limits)
    assert processors == [str(number) for number in numbers]
    assert memory["SwapTotal:"] == str(32 << 10)
    assert {"Buffers:", "Cached:", "Active:", "Inactive:", "Shmem:"} <= set(memory)


@pytest.mark.cgroup
def test_proc_that_shows_limits_leaves_nothing_in_the_root() -> None:
    code = "answer = [os.listdir('/'), [line.split()[4] for line in open('/proc/self/mountinfo')]]"
    plain, _ = answer(code)
    shown, mounts = answer(code, ChrootJail(proc_limits=True), CgroupLimits(memory="64M", cpus=1))
    assert sorted(shown) == sorted(plain)
    assert "/proc/cpuinfo" in mounts


@pytest.mark.parametrize(
    "options",
    [
        "hidepid=9",
        "foo",
        "ro=1",
        "subset=all",
        "gid=x",
        "gid=99999999999",
        "gid=٣",
        ",",
        "hidepid=2,",
        "a=b=c",
        "hidepid=2,nonsense",
        "hidepid=1,hidepid=2",
    ],
)
def test_options_that_proc_has_not_got_are_refused_before_anything_is_made(options: str) -> None:
    with pytest.raises(ConfigError, match="proc_options"):
        ChrootJail(proc_options=options)


def test_options_without_a_new_proc_are_refused() -> None:
    with pytest.raises(ConfigError, match="no /proc"):
        ChrootJail(proc="none", proc_options="hidepid=2")
    with pytest.raises(ConfigError, match="PID namespace"):
        pysandbox.run(["true"], ChrootJail(proc_options="hidepid=2"), Namespaces(pid=False))


COVERED = """
import os, subprocess, sys
import pysandbox
from pysandbox import ChrootJail, Sandbox, SetupError
from pysandbox._native import lib
if {read_only}:
    subprocess.run(["mount", "--bind", "/proc/sys", "/proc/sys"], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", "/proc/sys"], check=True)
if sys.argv[1:] == ["user"]:
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
    lib.pb_dumpable(1)  # as a program that the user has started
try:
    pysandbox.run(["true"], ChrootJail(with_python=False))
except SetupError as error:
    assert "proc='none'" in error.hint, error
    print("refused")
with Sandbox(ChrootJail(proc="none", with_python=False)) as box:
    print(box.run(["echo", "runs"]).stdout.decode(), box.run(["ls", "/proc"]).stdout)
    print(box.enforcement["Namespaces"])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a root caller, who can cover /proc in a mount namespace")
@pytest.mark.parametrize("caller", ["root", "user"])
@pytest.mark.parametrize("read_only", [False, True])
def test_where_a_containers_proc_is_covered_a_box_without_one_starts(caller: str, read_only: bool) -> None:
    cover = "mount -t tmpfs -o ro none /proc/acpi 2>/dev/null || mount -t tmpfs -o ro none /proc/irq; exec "
    python = [sys.executable, "-c", COVERED.format(read_only=read_only), caller]
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", cover + '"$@"', "sh", *python]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused\nruns\n b''\n")
    assert ("user namespaces can be made inside" in done.stdout) == read_only
