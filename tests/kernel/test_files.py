"""`write_file` and `read_file`: the caller's way in and out, which a payload must not be able to bend."""

from __future__ import annotations

import errno
import os
import sys
import uuid
from pathlib import Path

import pytest

from pysandbox import PIPE, Bind, ChrootJail, ConfigError, Namespaces, Sandbox, SandboxError


def sh(box: Sandbox, script: str) -> bytes:
    result = box.run(["sh", "-c", script], timeout=20)
    assert result.returncode == 0, result.stderr
    assert result.stdout is not None
    return result.stdout


# --- round trips -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"bytes \x00\xff", b"x" * 5_000_000], ids=["empty", "bytes", "large"])
def test_bytes_come_back_as_they_were_written(box: Sandbox, data: bytes) -> None:
    box.write_file("file", data)
    assert box.read_file("file") == data


def test_text_is_written_as_utf_8(box: Sandbox) -> None:
    box.write_file("file", "schön\r\n")
    assert box.read_file("file") == "schön\r\n".encode()


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_other_bytes_are_taken_too(box: Sandbox, kind: type) -> None:
    box.write_file("file", kind(b"data"))
    assert box.read_file("file") == b"data"


def test_the_payload_sees_what_was_written(box: Sandbox) -> None:
    box.write_file("file", "hello\n")
    assert sh(box, "cat file") == b"hello\n"


def test_what_the_payload_wrote_is_read(box: Sandbox) -> None:
    sh(box, "echo hello > file")
    assert box.read_file("file") == b"hello\n"


def test_overwriting_truncates(box: Sandbox) -> None:
    box.write_file("file", "a long text")
    box.write_file("file", "short")
    assert box.read_file("file") == b"short"


@pytest.mark.parametrize("mode", [0o644, 0o600, 0o755, 0o666, 0o400, 0o777])
def test_a_file_has_the_mode_it_was_given(box: Sandbox, mode: int) -> None:
    box.write_file("file", "", mode=mode)
    assert int(sh(box, "stat -c %a file"), 8) == mode


def test_a_file_that_is_there_gets_the_mode_too(box: Sandbox) -> None:
    box.write_file("file", "", mode=0o644)
    box.write_file("file", "", mode=0o755)
    assert int(sh(box, "stat -c %a file"), 8) == 0o755


def test_a_program_that_was_written_can_be_run(box: Sandbox) -> None:
    box.write_file("tool", "#!/bin/sh\necho ran\n", mode=0o755)
    assert box.run(["./tool"], timeout=20).stdout == b"ran\n"


@pytest.mark.parametrize(("uid", "gid"), [(1000, 1000), (0, 0), (5, 5)])
def test_a_file_belongs_to_the_payload(uid: int, gid: int) -> None:
    with Sandbox(Namespaces(uid=uid, gid=gid)) as box:
        box.write_file("file", "")
        assert sh(box, "stat -c %u:%g file") == f"{uid}:{gid}\n".encode()


def test_the_payload_may_change_and_remove_what_was_written(box: Sandbox) -> None:
    box.write_file("file", "")
    sh(box, "echo more >> file && mv file other && rm other")


# --- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["file", "./file", "/box/file", "../box/file", "sub/../file", "//box//file"])
def test_names_count_from_the_working_directory(box: Sandbox, name: str) -> None:
    sh(box, "mkdir sub")
    box.write_file(name, "here")
    assert sh(box, "cat /box/file") == b"here"
    assert box.read_file(name) == b"here"


def test_an_absolute_name_counts_from_the_root_of_the_box(box: Sandbox) -> None:
    name = f"/tmp/{uuid.uuid4()}"
    box.write_file(name, "here")
    assert box.read_file(name) == b"here"
    assert not os.path.exists(name)


def test_a_path_object_is_a_name(box: Sandbox) -> None:
    box.write_file(Path("file"), "here")
    assert box.read_file(Path("/box/file")) == b"here"


def test_another_working_directory_counts() -> None:
    with Sandbox(ChrootJail(workdir="/home/me")) as box:
        box.write_file("file", "here")
        assert box.read_file("/home/me/file") == b"here"


@pytest.mark.parametrize("name", ["with space", "new\nline", "-dash", "ünï", "\udcff\udcfe", "x" * 255])
def test_a_strange_name_works(box: Sandbox, name: str) -> None:
    box.write_file(name, "here")
    assert box.read_file(name) == b"here"
    assert sh(box, "ls -A | wc -c").strip() == str(len(os.fsencode(name)) + 1).encode()


def test_a_missing_file_is_not_found(box: Sandbox) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        box.read_file("missing")
    assert caught.value.filename == "/box/missing"


def test_a_file_in_a_missing_folder_is_not_found_and_nothing_is_made(box: Sandbox) -> None:
    with pytest.raises(FileNotFoundError):
        box.write_file("missing/folder/file", "")
    assert sh(box, "ls -A") == b""


def test_a_name_below_a_file_is_no_folder(box: Sandbox) -> None:
    box.write_file("file", "")
    with pytest.raises(NotADirectoryError):
        box.read_file("file/below")


def test_a_name_that_is_too_long_is_an_os_error(box: Sandbox) -> None:
    with pytest.raises(OSError) as caught:
        box.write_file("x" * 256, "")
    assert caught.value.errno == errno.ENAMETOOLONG


@pytest.mark.parametrize("name", ["/etc/passwd", "/usr/new", "../../../../../../etc/passwd", "/new"])
def test_a_read_only_place_takes_no_file(box: Sandbox, name: str) -> None:
    with pytest.raises(OSError) as caught:
        box.write_file(name, "")
    assert caught.value.errno in (errno.EROFS, errno.EACCES)


def test_a_name_of_the_host_is_not_found(box: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of the host")
    with pytest.raises(FileNotFoundError):
        box.read_file(tmp_path / "file")


@pytest.mark.parametrize("name", ["nul\0inside", "", 5, None])
def test_what_is_no_name_is_a_config_error(box: Sandbox, name: object) -> None:
    with pytest.raises(ConfigError):
        box.read_file(name)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        box.write_file(name, "")  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [5, None, ["a"]])
def test_what_is_no_data_is_a_config_error_and_changes_nothing(box: Sandbox, data: object) -> None:
    box.write_file("file", "before")
    with pytest.raises(ConfigError):
        box.write_file("file", data)  # type: ignore[arg-type]
    assert box.read_file("file") == b"before"


@pytest.mark.parametrize("mode", [-1, 0o1000, 0o4755, "644"])
def test_what_is_no_mode_is_a_config_error(box: Sandbox, mode: object) -> None:
    with pytest.raises(ConfigError):
        box.write_file("file", "", mode=mode)  # type: ignore[arg-type]
    assert sh(box, "ls -A") == b""


# --- sizes -------------------------------------------------------------------------------------------------------


def test_a_file_of_max_size_is_read(box: Sandbox) -> None:
    box.write_file("file", b"x" * 1000)
    assert len(box.read_file("file", max_size=1000)) == 1000


@pytest.mark.parametrize("most", [999, "0B", 0])
def test_a_file_above_max_size_is_refused(box: Sandbox, most: int | str) -> None:
    box.write_file("file", b"x" * 1000)
    with pytest.raises(OSError) as caught:
        box.read_file("file", max_size=most)
    assert caught.value.errno == errno.EFBIG


def test_an_empty_file_is_read_where_nothing_may_be(box: Sandbox) -> None:
    box.write_file("file", "")
    assert box.read_file("file", max_size=0) == b""


def test_a_full_disk_is_an_os_error() -> None:
    with Sandbox(ChrootJail(size="1M")) as box:
        with pytest.raises(OSError) as caught:
            box.write_file("file", b"x" * 2_000_000)
        assert caught.value.errno == errno.ENOSPC


def test_a_sparse_file_of_a_terabyte_is_refused(box: Sandbox) -> None:
    sh(box, "truncate -s 1T file")
    with pytest.raises(OSError) as caught:
        box.read_file("file", max_size="1M")
    assert caught.value.errno == errno.EFBIG


def test_a_sparse_file_of_a_terabyte_can_be_overwritten(box: Sandbox) -> None:
    sh(box, "truncate -s 1T file")
    box.write_file("file", "small")
    assert box.read_file("file") == b"small"


def test_a_file_that_grows_meanwhile_is_read_or_refused(box: Sandbox) -> None:
    grow = "import time\nwith open('file', 'ab', 0) as f:\n    print(flush=True)\n    while True: f.write(bytes(1 << 16)); time.sleep(0.001)"
    outcomes = set()
    with box.popen([sys.executable, "-S", "-c", grow], stdout=PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(200):
            try:
                assert len(box.read_file("file", max_size="1M")) <= 1 << 20
            except OSError as error:
                outcomes.add(error.errno)
                break
    assert outcomes <= {errno.EFBIG}


# --- what a payload may leave ------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/etc/passwd", "/proc/1/environ", "/box/other", "/dev/zero", "missing", "left"])
def test_a_symlink_is_neither_read_nor_written_through(box: Sandbox, target: str) -> None:
    sh(box, f"echo kept > other; ln -s {target} left")
    with pytest.raises(OSError) as caught:
        box.read_file("left")
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(OSError) as caught:
        box.write_file("left", "changed")
    assert caught.value.errno == errno.ELOOP
    assert sh(box, "cat other") == b"kept\n"


@pytest.mark.parametrize("target", ["/etc", "/", "/proc/self/root", "/tmp"])
def test_a_symlink_on_the_way_is_not_followed(box: Sandbox, target: str) -> None:
    sh(box, f"ln -s {target} left")
    for name in ("left/passwd", "left/new"):
        with pytest.raises(OSError) as caught:
            box.read_file(name)
        assert caught.value.errno == errno.ELOOP
        with pytest.raises(OSError) as caught:
            box.write_file(name, "changed")
        assert caught.value.errno == errno.ELOOP


def test_a_magic_link_of_proc_is_not_followed(box: Sandbox) -> None:
    with pytest.raises(OSError) as caught:
        box.read_file("/proc/self/environ")
    assert caught.value.errno == errno.ELOOP


def test_a_fifo_is_refused_without_waiting(box: Sandbox) -> None:
    sh(box, "mkfifo left")
    with pytest.raises(OSError) as caught:
        box.read_file("left")
    assert caught.value.errno == errno.ENXIO
    with pytest.raises(OSError) as caught:
        box.write_file("left", "changed")
    assert caught.value.errno == errno.ENXIO


def test_a_fifo_with_somebody_at_the_other_end_is_refused_too(box: Sandbox) -> None:
    sh(box, "mkfifo left")
    with box.popen(["sh", "-c", "exec 3<>left; echo ready; sleep 100"], stdout=PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with pytest.raises(OSError) as caught:
            box.read_file("left")
        assert caught.value.errno == errno.ENXIO
        with pytest.raises(OSError) as caught:
            box.write_file("left", "changed")
        assert caught.value.errno == errno.ENXIO


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "/dev/urandom", "/dev/full", "/dev/tty", "/dev/pts/ptmx"])
def test_a_device_is_refused(box: Sandbox, name: str) -> None:
    with pytest.raises(OSError):
        box.read_file(name)
    with pytest.raises(OSError):
        box.write_file(name, "x")


def test_a_folder_is_refused(box: Sandbox) -> None:
    sh(box, "mkdir left")
    for name in ("left", ".", "/"):
        with pytest.raises(IsADirectoryError):
            box.read_file(name)
        with pytest.raises(IsADirectoryError):
            box.write_file(name, "")


def test_a_socket_is_refused(box: Sandbox) -> None:
    code = "import socket; socket.socket(socket.AF_UNIX).bind('left')"
    box.run([sys.executable, "-c", code], timeout=20).check_returncode()
    with pytest.raises(OSError) as caught:
        box.read_file("left")
    assert caught.value.errno == errno.ENXIO


def test_a_hard_link_is_a_file_like_another(box: Sandbox) -> None:
    sh(box, "echo hello > file; ln file left")
    assert box.read_file("left") == b"hello\n"


def test_a_hard_link_to_a_file_of_the_host_cannot_be_left(box: Sandbox) -> None:
    assert not box.run(["ln", "/usr/bin/env", "left"], timeout=20)


def test_a_file_that_the_payload_closed_to_itself_is_read(box: Sandbox) -> None:
    sh(box, "echo hello > file; chmod 0 file")
    assert box.read_file("file") == b"hello\n"


def test_a_lease_of_the_payloads_does_not_make_the_caller_wait(box: Sandbox) -> None:
    code = """
import fcntl, os, signal, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
fd = os.open("file", os.O_RDWR | os.O_CREAT)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("ready", flush=True)
time.sleep(1000)
"""
    with box.popen([sys.executable, "-S", "-c", code], stdout=PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with pytest.raises(BlockingIOError):
            box.read_file("file")
        with pytest.raises(BlockingIOError):
            box.write_file("file", "x")


def test_a_name_that_changes_meanwhile_never_leads_elsewhere(box: Sandbox) -> None:
    swap = """
import os, time
open("own", "w").write("own")
os.symlink("/etc/passwd", "link")
os.mkfifo("fifo")
os.mkdir("folder")
print("ready", flush=True)
while True:
    for name in ("own", "link", "fifo", "folder"):
        os.rename(name, "file")
        time.sleep(0.0003)
        os.rename("file", name)
"""
    outcomes: set[bytes] = set()
    with box.popen([sys.executable, "-S", "-c", swap], stdout=PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for attempt in range(20_000):
            if attempt > 500 and len(outcomes) > 3:
                break
            try:
                outcomes.add(box.read_file("file"))
            except OSError as error:
                outcomes.add(errno.errorcode[error.errno or 0].encode())
    assert outcomes <= {b"own", b"ENOENT", b"ELOOP", b"ENXIO", b"EISDIR"}
    assert len(outcomes) > 1


def test_a_file_in_a_writable_bind_is_the_hosts(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "link").symlink_to(tmp_path)
    (tmp_path / "outside").write_text("of the host")
    with Sandbox(ChrootJail(binds=(Bind(folder, "/given", writable=True),))) as box:
        box.write_file("/given/file", "from the caller")
        assert (folder / "file").read_text() == "from the caller"
        with pytest.raises(OSError) as caught:
            box.read_file("/given/link/outside")
        assert caught.value.errno == errno.ELOOP


# --- when --------------------------------------------------------------------------------------------------------


def test_a_box_that_is_not_entered_has_no_files() -> None:
    sandbox = Sandbox()
    with pytest.raises(SandboxError, match="with"):
        sandbox.write_file("file", "")
    with pytest.raises(SandboxError, match="with"):
        sandbox.read_file("file")


def test_a_box_that_has_been_left_has_no_files() -> None:
    with Sandbox() as box:
        box.write_file("file", "")
    with pytest.raises(SandboxError, match="with"):
        box.read_file("file")


def test_a_box_entered_again_has_none_of_its_former_files() -> None:
    sandbox = Sandbox()
    with sandbox as box:
        box.write_file("file", "")
    with sandbox as box, pytest.raises(FileNotFoundError):
        box.read_file("file")


def test_a_reset_box_has_none_of_its_former_files(box: Sandbox) -> None:
    box.write_file("file", "")
    box.reset()
    with pytest.raises(FileNotFoundError):
        box.read_file("file")


def test_files_can_be_read_and_written_while_a_program_runs(box: Sandbox) -> None:
    with box.popen(["sh", "-c", "cat; cat in > out"], stdin=PIPE, stdout=PIPE) as process:
        box.write_file("in", "hello")
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=20) == 0
        assert box.read_file("out") == b"hello"
