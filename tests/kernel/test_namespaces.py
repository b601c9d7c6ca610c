"""`Namespaces`: a machine with only the box in it, seen from inside and from outside."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import socket
import sys
import textwrap
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pysandbox
from pysandbox import PIPE, ChrootJail, ConfigError, Environment, Layer, Namespaces, Sandbox, SetupError
from pysandbox.result import Level

pytestmark = pytest.mark.usefixtures("without_seccomp")

FIELDS = ("user", "pid", "mount", "net", "ipc", "uts", "cgroup", "time")
LOWEST_OF_OURS = 1879048192
NEW_USER = 0x10000000


def answer(code: str, *layers: Layer, **options: Any) -> Any:
    """What the code leaves in `answer` when it is run in a box."""
    program = "import errno, json, os, sys\n" + textwrap.dedent(code) + "\nprint(json.dumps(answer))"
    options.setdefault("timeout", 20)
    result = pysandbox.run([sys.executable, "-S", "-c", program], *layers, **options)
    assert result.stdout is not None
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def without(name: str) -> Namespaces:
    """Every namespace but one."""
    return Namespaces(**{name: False})  # type: ignore[arg-type]


def link(name: str) -> str:
    return f"/proc/self/ns/{'mnt' if name == 'mount' else name}"


def seen(path: str, *layers: Layer, **options: Any) -> str:
    """What a link says inside."""
    return (pysandbox.run(["readlink", path], *layers, text=True, timeout=20, **options).stdout or "").strip()


# --- one of each -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIELDS)
def test_a_box_has_a_namespace_of_its_own(name: str) -> None:
    inside = seen(link(name))
    assert inside.startswith(f"{'mnt' if name == 'mount' else name}:[")
    assert inside != os.readlink(link(name))


@pytest.mark.parametrize("name", FIELDS)
def test_two_boxes_have_different_namespaces(name: str) -> None:
    with Sandbox() as one, Sandbox() as other:
        # Both alive at once: the number of a namespace that is gone may be given out again.
        with one.popen(["sh", "-c", f"readlink {link(name)}; sleep 100"], stdout=pysandbox.PIPE) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first != other.run(["readlink", link(name)], timeout=20).stdout


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "cgroup"])  # a run has a cgroup of its own
def test_two_runs_of_one_box_share_its_namespaces(box: Sandbox, name: str) -> None:
    command = ["readlink", link(name)]
    assert box.run(command, timeout=20).stdout == box.run(command, timeout=20).stdout


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in ("user", "mount")])
def test_a_namespace_that_is_switched_off_is_the_callers(name: str) -> None:
    assert seen(link(name), without(name)) == os.readlink(link(name))


def test_the_mount_namespace_can_be_switched_off_where_there_is_no_jail() -> None:
    assert seen(link("mount"), without("mount"), base=None) == os.readlink(link("mount"))


def test_a_jail_without_a_mount_namespace_contradicts_itself() -> None:
    with pytest.raises(ConfigError, match="mount") as caught:
        Sandbox(without("mount"))
    assert caught.value.layers == ("ChrootJail", "Namespaces")


@pytest.mark.root
def test_root_can_switch_the_user_namespace_off() -> None:
    assert seen(link("user"), without("user")) == os.readlink(link("user"))


def test_only_root_can_switch_the_user_namespace_off() -> None:
    if os.geteuid() == 0:
        assert Sandbox(without("user")).enforcement["Namespaces"].level is Level.PARTIAL
    else:
        with pytest.raises(ConfigError, match="root"):
            Sandbox(without("user"))


@pytest.mark.parametrize("name", ["pid", "net", "ipc", "uts", "cgroup", "time"])
def test_what_is_switched_off_is_told(name: str) -> None:
    row = Sandbox(without(name)).enforcement["Namespaces"]
    assert row.level is Level.PARTIAL
    assert name in row.reason


def test_all_namespaces_are_enforced_in_full(box: Sandbox) -> None:
    assert box.enforcement["Namespaces"].level is Level.FULL


def test_every_run_of_a_box_is_in_its_time_namespace(box: Sandbox) -> None:
    # The first is started by init, a second one beside it by a copy of init.
    with box.popen(["sleep", "100"]):
        beside = box.run(["readlink", link("time")], timeout=20).stdout
    assert beside == box.run(["readlink", link("time")], timeout=20).stdout
    assert beside not in (b"", os.readlink(link("time")).encode() + b"\n")


# --- processes ---------------------------------------------------------------------------------------------------


def test_only_the_boxs_own_processes_are_visible() -> None:
    assert answer("answer = [[n for n in os.listdir('/proc') if n.isdigit()], os.getpid()]") == [["1", "2"], 2]


def test_without_a_pid_namespace_the_hosts_processes_are_visible() -> None:
    code = f"answer = os.path.exists('/proc/{os.getpid()}')"
    assert answer(code, without("pid")) is True


def test_the_callers_process_is_not_visible_by_its_pid() -> None:
    code = f"answer = os.path.exists('/proc/{os.getpid()}')"
    assert os.getpid() > 100
    assert answer(code) is False


def test_a_box_without_a_pid_namespace_leaves_no_process_behind() -> None:
    marker = f"marker-{uuid.uuid4()}"
    script = f"(setsid sh -c 'sleep 1000; : {marker}' &) ; sleep 0.1"
    pysandbox.run(["sh", "-c", script], without("pid"), timeout=20)
    assert list(processes(marker)) == []


# --- network -----------------------------------------------------------------------------------------------------


def test_the_loopback_is_the_only_device_that_is_up() -> None:
    code = """
    import fcntl, socket, struct
    def is_up(name):
        with socket.socket() as s:
            request = fcntl.ioctl(s, 0x8913, struct.pack("16s16x", name.encode()) + bytes(8))  # SIOCGIFFLAGS
        return bool(struct.unpack_from("H", request, 16)[0] & 1)
    answer = [name for _, name in socket.if_nameindex() if is_up(name)]
    """
    assert answer(code) == ["lo"]


def test_the_loopback_works_inside() -> None:
    code = """
    import socket
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            client.sendall(b"hello")
            with server.accept()[0] as served:
                answer = served.recv(10).decode()
    """
    assert answer(code) == "hello"


CONNECT = """
import socket
s = socket.socket(FAMILY)
s.settimeout(10)
try:
    s.connect(ADDRESS)
except OSError as error:
    answer = errno.errorcode[error.errno]
else:
    answer = "connected"
"""


def connect(family: str, address: object) -> str:
    return CONNECT.replace("FAMILY", f"socket.{family}").replace("ADDRESS", repr(address))


def test_a_listener_on_the_hosts_loopback_is_out_of_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert answer(connect("AF_INET", server.getsockname())) == "ECONNREFUSED"


def test_without_a_network_namespace_that_listener_is_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert answer(connect("AF_INET", server.getsockname()), without("net")) == "connected"


def test_no_other_address_can_be_reached() -> None:
    assert answer(connect("AF_INET", ("192.0.2.1", 80))) == "ENETUNREACH"


def test_an_abstract_socket_of_the_host_is_out_of_reach() -> None:
    name = f"\0pysandbox-test-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        assert answer(connect("AF_UNIX", name)) == "ECONNREFUSED"


def test_without_a_network_namespace_that_abstract_socket_is_reached() -> None:
    name = f"\0pysandbox-test-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        assert answer(connect("AF_UNIX", name), without("net")) == "connected"


def test_a_path_socket_of_the_host_is_out_of_reach(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        assert answer(connect("AF_UNIX", str(tmp_path / "s"))) == "ENOENT"


def test_two_boxes_do_not_reach_each_other() -> None:
    serve = """
    import socket, sys
    server = socket.create_server(("127.0.0.1", 5555))
    print("ready", flush=True)
    server.accept()
    """
    program = "import errno, json\n" + connect("AF_INET", ("127.0.0.1", 5555)) + "\nprint(answer)"
    listening = [sys.executable, "-c", textwrap.dedent(serve)]
    with Sandbox() as one, Sandbox() as other, one.popen(listening, stdout=PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        for box, outcome in ((other, b"ECONNREFUSED\n"), (one, b"connected\n")):
            assert box.run([sys.executable, "-c", program], timeout=20).stdout == outcome


# --- host name, IPC, clocks, cgroup ------------------------------------------------------------------------------


def test_the_host_name_is_the_boxs_own() -> None:
    assert answer("answer = os.uname().nodename") == "sandbox"


def test_the_host_name_can_be_chosen() -> None:
    name = f"box-{uuid.uuid4().hex[:8]}.example"
    before = socket.gethostname()
    assert answer("answer = os.uname().nodename", Namespaces(hostname=name)) == name
    assert socket.gethostname() == before


def test_without_a_uts_namespace_the_host_name_is_the_hosts() -> None:
    assert answer("answer = os.uname().nodename", without("uts")) == socket.gethostname()


def test_the_host_name_cannot_be_changed_inside() -> None:
    code = """
    import socket
    try:
        socket.sethostname("mine")
    except OSError as error:
        answer = errno.errorcode[error.errno]
    """
    assert answer(code) == "EPERM"


@pytest.fixture
def shared_memory() -> Iterator[int]:
    """A System V shared memory segment of the host that anybody may read."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    segment = libc.shmget(0, 4096, 0o1666)
    assert segment >= 0, os.strerror(ctypes.get_errno())
    try:
        address = libc.shmat(segment, None, 0)
        ctypes.memmove(address, b"secret\0", 7)
        libc.shmdt(ctypes.c_void_p(address))
        yield segment
    finally:
        libc.shmctl(segment, 0, None)  # IPC_RMID


SHMAT = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
address = libc.shmat(SEGMENT, None, 0o10000)  # SHM_RDONLY
failed = address == ctypes.c_void_p(-1).value
answer = errno.errorcode[ctypes.get_errno()] if failed else ctypes.string_at(address).decode()
"""


def test_shared_memory_of_the_host_is_out_of_reach(shared_memory: int) -> None:
    assert answer(SHMAT.replace("SEGMENT", str(shared_memory))) in ("EINVAL", "EIDRM")


def test_without_an_ipc_namespace_that_shared_memory_is_reached(shared_memory: int) -> None:
    assert answer(SHMAT.replace("SEGMENT", str(shared_memory)), without("ipc")) == "secret"


def test_shared_memory_of_a_box_does_not_show_on_the_host() -> None:
    key = int(uuid.uuid4()) % (1 << 30) + 1
    code = f"import ctypes; answer = ctypes.CDLL(None).shmget({key}, 4096, 0o1666)"
    assert answer(code) >= 0
    assert ctypes.CDLL(None).shmget(key, 0, 0) == -1


@pytest.mark.parametrize("offset", [86400.0, 0.25, -0.5])
@pytest.mark.parametrize("clock", ["monotonic", "boottime"])
def test_a_clock_is_moved_by_its_offset(clock: str, offset: float) -> None:
    number = getattr(time, f"CLOCK_{clock.upper()}")
    layer = Namespaces(**{f"{clock}_offset": offset})  # type: ignore[arg-type]
    before = time.clock_gettime(number)
    inside = answer(f"import time; answer = time.clock_gettime({number})", layer)
    after = time.clock_gettime(number)
    assert before + offset - 1e-6 <= inside <= after + offset + 1e-6


def test_the_other_clock_is_not_moved() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    code = f"import time; answer = time.clock_gettime({time.CLOCK_BOOTTIME})"
    inside = answer(code, Namespaces(monotonic_offset=1e6))
    assert before <= inside <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_clocks_are_the_hosts_by_default() -> None:
    before = time.monotonic()
    assert before <= answer("import time; answer = time.monotonic()") <= time.monotonic()


def test_a_clock_before_the_machines_start_is_an_error_of_its_step() -> None:
    with pytest.raises(SetupError) as caught, Sandbox(Namespaces(monotonic_offset=-9e8)):
        pass
    assert (caught.value.layer, caught.value.step) == ("Namespaces", "time_offsets")


def test_the_own_cgroup_is_the_top_of_what_is_seen() -> None:
    lines = answer("answer = open('/proc/self/cgroup').read().split()")
    assert lines
    assert {line.rpartition(":")[2] for line in lines} == {"/"}


def test_the_cgroup_tells_nothing_of_the_host() -> None:
    text = answer("answer = open('/proc/self/cgroup').read() + open('/proc/1/cgroup').read()")
    assert str(os.getpid()) not in re.findall(r"\d+", text)


# --- nested user namespaces --------------------------------------------------------------------------------------

UNSHARE = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
answer = errno.errorcode[ctypes.get_errno()] if libc.unshare({NEW_USER}) else "allowed"
"""


@pytest.mark.parametrize("ids", [{}, {"uid": 0, "gid": 0}], ids=str)
def test_a_nested_user_namespace_is_refused(ids: dict[str, Any]) -> None:
    assert answer(UNSHARE, Namespaces(**ids)) in ("ENOSPC", "EPERM", "EUSERS")


def test_a_nested_user_namespace_is_refused_to_clone_too() -> None:
    code = f"""
    import ctypes, platform
    libc = ctypes.CDLL(None, use_errno=True)
    number = {{"x86_64": 56, "aarch64": 220}}[platform.machine()]
    pid = libc.syscall(number, {NEW_USER} | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    answer = errno.errorcode[ctypes.get_errno()] if pid < 0 else "allowed"
    """
    assert answer(code) in ("ENOSPC", "EPERM", "EUSERS")


def test_the_unshare_program_is_refused() -> None:
    assert not pysandbox.run(["unshare", "--user", "--map-root-user", "true"], timeout=20)


def test_outside_of_a_user_namespace_of_ours_it_is_allowed() -> None:
    assert answer(UNSHARE, base=None) == "allowed"


def test_the_number_of_user_namespaces_cannot_be_raised_inside() -> None:
    code = """
    try:
        open("/proc/sys/user/max_user_namespaces", "w").write("100")
        answer = "allowed"
    except OSError as error:
        answer = errno.errorcode[error.errno]
    """
    assert answer(code, Namespaces(uid=0, gid=0)) in ("EROFS", "EACCES", "EPERM")


@pytest.mark.parametrize("kind", ["mount", "pid", "net", "ipc", "uts", "cgroup", "time"])
def test_no_other_namespace_can_be_made_inside(kind: str) -> None:
    flags = {"mount": 0x20000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x8000000, "uts": 0x4000000}
    flag = flags.get(kind) or {"cgroup": 0x2000000, "time": 0x80}[kind]
    code = f"""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    answer = errno.errorcode[ctypes.get_errno()] if libc.unshare({flag}) else "allowed"
    """
    assert answer(code) == "EPERM"


@pytest.mark.parametrize("name", ["user", "mnt", "net", "pid"])
def test_inits_namespaces_cannot_be_joined(name: str) -> None:
    code = f"""
    try:
        os.open("/proc/1/ns/{name}", os.O_RDONLY)
        answer = "allowed"
    except OSError as error:
        answer = errno.errorcode[error.errno]
    """
    assert answer(code) == "EACCES"


# --- ids ---------------------------------------------------------------------------------------------------------

IDS = "answer = [*os.getresuid(), *os.getresgid()]"


def processes(marker: str) -> Iterator[int]:
    """The pids, outside, of the processes with a word in their command line."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if marker.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                    yield int(name)


def ids_outside(box: Sandbox) -> tuple[set[int], set[int]]:
    """The user and group ids that a payload of the box has for the host."""
    marker = f"marker-{uuid.uuid4()}"
    with box.popen(["sh", "-c", "echo ready; read line", marker], stdin=PIPE, stdout=PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        (pid,) = processes(marker)
        text = Path(f"/proc/{pid}/status").read_text()
    found = {name: {int(n) for n in ids.split()} for name, ids in re.findall(r"^(Uid|Gid):\s+(.*)$", text, re.M)}
    return found["Uid"], found["Gid"]


def test_the_payload_is_user_1000_inside() -> None:
    assert answer(IDS) == [1000] * 6


@pytest.mark.parametrize(
    ("uid", "gid"), [(0, 0), (1, 1), (5, 7), (0, 5), (5, 0), (65534, 65534), (4294967294, 4294967294)]
)
def test_the_ids_inside_can_be_chosen(uid: int, gid: int) -> None:
    assert answer(IDS, Namespaces(uid=uid, gid=gid)) == [uid] * 3 + [gid] * 3


@pytest.mark.parametrize(("uid", "gid"), [(0, 0), (5, 7)])
def test_the_working_directory_belongs_to_the_payload(uid: int, gid: int) -> None:
    code = "s = os.stat('/box'); answer = [s.st_uid, s.st_gid]"
    assert answer(code, Namespaces(uid=uid, gid=gid)) == [uid, gid]


def test_another_id_cannot_be_taken() -> None:
    code = """
    answer = []
    for call in (os.setuid, os.setgid):
        try:
            call(0)
            answer.append("allowed")
        except OSError as error:
            answer.append(errno.errorcode[error.errno])
    """
    assert set(answer(code)) <= {"EPERM", "EINVAL"}


@pytest.mark.root
@pytest.mark.parametrize("ids", [{}, {"uid": 0, "gid": 0}, {"uid": 5, "gid": 5}], ids=str)
def test_for_the_host_a_root_callers_payload_is_nobody(ids: dict[str, Any]) -> None:
    with Sandbox(Namespaces(**ids)) as box:
        users, groups = ids_outside(box)
    assert min(users) >= LOWEST_OF_OURS
    assert min(groups) >= LOWEST_OF_OURS


@pytest.mark.root
def test_for_the_host_a_root_callers_payload_is_nobody_without_a_user_namespace_too() -> None:
    with Sandbox(without("user")) as box:
        users, groups = ids_outside(box)
    assert min(users) >= LOWEST_OF_OURS
    assert min(groups) >= LOWEST_OF_OURS


@pytest.mark.root
def test_for_the_host_init_of_a_root_callers_box_is_nobody() -> None:
    with Sandbox() as box:
        assert box._box is not None
        text = Path(f"/proc/{box._box.pid}/status").read_text()
    (ids,) = re.findall(r"^Uid:\s+(.*)$", text, re.M)
    assert min(int(number) for number in ids.split()) >= LOWEST_OF_OURS


@pytest.mark.root
@pytest.mark.parametrize("user", [True, False])
def test_two_boxes_of_root_have_different_ids(user: bool) -> None:
    layer = Namespaces(user=user)
    with Sandbox(layer) as one, Sandbox(layer) as other:
        assert ids_outside(one)[0].isdisjoint(ids_outside(other)[0])


@pytest.mark.root
def test_root_can_choose_the_host_id() -> None:
    with Sandbox(Namespaces(host_id=2_000_000_000)) as box:
        assert ids_outside(box) == ({2_000_000_001}, {2_000_000_001})


@pytest.mark.root
@pytest.mark.parametrize("host_id", [0, -1, 1 << 32])
def test_a_host_id_of_root_or_none_is_refused(host_id: int) -> None:
    with pytest.raises(ConfigError, match="host_id"):
        Namespaces(host_id=host_id)


def test_an_ordinary_callers_payload_is_the_caller_for_the_host() -> None:
    if os.geteuid() != 0:
        with Sandbox() as box:
            assert ids_outside(box) == ({os.geteuid()}, {os.getegid()})
    else:
        with Sandbox() as box:
            assert 0 not in ids_outside(box)[0]


def test_without_any_layer_the_payload_is_the_caller() -> None:
    assert answer(IDS, base=None) == [*os.getresuid(), *os.getresgid()]


def test_a_user_namespace_alone_gives_the_payload_no_capability() -> None:
    only = Namespaces(pid=False, mount=False, net=False, ipc=False, uts=False, cgroup=False, time=False)
    result = pysandbox.run(["grep", "^Cap", "/proc/self/status"], only, Environment(), base=None, text=True, timeout=20)
    assert {int(line.split()[1], 16) for line in (result.stdout or "").splitlines()} == {0}


def test_a_jail_alone_brings_the_namespaces_that_it_needs() -> None:
    assert seen(link("mount"), ChrootJail(), base=None) not in ("", os.readlink(link("mount")))
