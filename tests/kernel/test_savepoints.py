"""`savepoint`, `rollback`, `reset`: the files of a box as they were, and nothing else that a payload has left."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from pysandbox import Bind, ChrootJail, ConfigError, Namespaces, Sandbox, SandboxError, Tmpfs, features
from pysandbox.layers import Layer


def sh(box: Sandbox, script: str) -> str:
    result = box.run(["sh", "-c", script], text=True, timeout=20)
    assert result.returncode == 0, result.stderr
    assert result.stdout is not None
    return result.stdout


WRITE = "mkdir -p d/e; echo 1 > a; echo 2 > d/e/b; ln -s a link; chmod 700 a; echo 3 > /tmp/c; echo 4 > /dev/shm/d"
SPOIL = "echo x > a; rm -r d; rm link; mkdir link; echo y > new; rm /tmp/c; echo z > /dev/shm/d; echo z > /dev/shm/e"
LOOK = "cat a d/e/b link /tmp/c /dev/shm/d; stat -c '%a %u' a; ls -d * /tmp/* /dev/shm/*"
SEEN = "1\n2\n1\n3\n4\n700 1000\n/dev/shm/d\n/tmp/c\na\nd\nlink\n"


@pytest.fixture(params=["the default", "an overlay", "other ids", "no user namespace"])
def layers(request: pytest.FixtureRequest, busybox: Path) -> tuple[Layer, ...]:
    if request.param == "the default":
        return (ChrootJail(with_python=False),)
    if request.param == "an overlay":
        return (ChrootJail(busybox, overlay=True),)
    if request.param == "other ids":
        return (ChrootJail(with_python=False), Namespaces(uid=1000, gid=77))
    if os.geteuid():
        pytest.skip("needs a root caller; this one is not")
    return (ChrootJail(with_python=False), Namespaces(user=False))


def test_files_are_brought_back_as_often_as_one_likes(layers: tuple[Layer, ...]) -> None:
    own = "no user namespace" if any(isinstance(layer, Namespaces) and not layer.user for layer in layers) else ""
    seen = SEEN
    with Sandbox(*layers) as box:
        sh(box, WRITE)
        if own:
            seen = SEEN.replace("1000", sh(box, "stat -c %u a").strip())
        point = box.savepoint()
        assert sh(box, LOOK) == seen
        for _ in range(2):
            sh(box, SPOIL)
            box.rollback(point)
            if own:  # of the new box
                seen = SEEN.replace("1000", sh(box, "stat -c %u a").strip())
            assert sh(box, LOOK) == seen
            sh(box, "echo more >> a; echo more > d/e/f")


def test_later_savepoints_do_not_disturb_earlier_ones() -> None:
    with Sandbox() as box:
        points = []
        for number in range(3):
            box.write_file("file", f"{number}")
            points.append(box.savepoint())
        for number in (1, 2, 0):
            box.rollback(points[number])
            assert box.read_file("file") == f"{number}".encode()


def test_what_was_deleted_from_an_overlay_is_deleted_again(busybox: Path) -> None:
    if not features.tmpfs_keeps_attributes():
        pytest.skip("needs user attributes in tmpfs, which Linux 6.6 has")
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        sh(box, "rm /etc/other; rm -r /opt/a; mkdir /opt/a; echo x > /opt/a/x; echo more >> /etc/hello; rm -r /usr")
        before = {(change.kind, change.path) for change in box.changes()}
        point = box.savepoint()
        sh(box, "echo y > /etc/other; rm /etc/hello; mkdir -p /usr/share/new; rm -r /opt")
        box.rollback(point)
        assert sh(box, "ls /etc /opt/a; cat /etc/hello") == "/etc:\nhello\n\n/opt/a:\nx\nhello\nmore\n"
        assert {(change.kind, change.path) for change in box.changes()} == before
    assert (busybox / "etc" / "other").read_text() == "other\n"


def test_a_tmpfs_of_the_callers_is_part_of_it_and_what_was_given_is_not() -> None:
    jail = ChrootJail(tmpfs=[Tmpfs("/scratch")], files={"/scratch/given": "given"})
    with Sandbox(jail) as box:
        sh(box, "echo 1 > /scratch/own")
        point = box.savepoint()
        sh(box, "echo 2 > /scratch/own")
        box.rollback(point)
        assert sh(box, "cat /scratch/own /scratch/given") == "1\ngiven"


def test_folders_on_the_way_to_a_bind_are_the_boxs(tmp_path: Path) -> None:
    jail = ChrootJail(binds=[Bind("/usr/share/doc", "/tmp/deep/er/doc")], files={"/box/in/given": "given"})
    with Sandbox(jail) as box:
        sh(box, "echo 1 > /tmp/own; echo 2 > /box/own")
        point = box.savepoint()
        sh(box, "rm /tmp/own /box/own")
        box.rollback(point)
        assert sh(box, "cat /tmp/own own in/given; ls /tmp/deep/er") == "1\n2\ngivendoc\n"


def test_a_savepoint_is_bounded_and_of_its_box_alone() -> None:
    with Sandbox() as box, Sandbox() as other:
        sh(box, "head -c 100000 /dev/zero > a; : > b")
        with pytest.raises(OSError, match="max_size"):
            box.savepoint(max_size="10K")
        with pytest.raises(OSError, match="max_files"):
            box.savepoint(max_files=1)
        point = box.savepoint()
        for wrong in (point, None, 5):
            with pytest.raises(ConfigError):
                other.rollback(wrong)  # type: ignore[arg-type]
        point.close()
        with pytest.raises(ConfigError):
            box.rollback(point)
        with box.popen(["sleep", "100"]), pytest.raises(SandboxError, match="going on"):
            box.savepoint()


def test_what_is_no_file_is_not_remembered() -> None:
    with Sandbox() as box:
        sh(box, "mkfifo fifo; echo 1 > file")
        point = box.savepoint()
        box.rollback(point)
        assert box.listdir() == ["file"]


def test_a_box_that_keeps_its_files_has_no_savepoints(busybox: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir(0o700)
    with (
        Sandbox(ChrootJail(busybox, overlay=True, upper=kept)) as box,
        pytest.raises(ConfigError, match="has no savepoints"),
    ):
        box.savepoint()


def test_names_that_mean_something_in_layers_are_files_like_others(busybox: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "kept").write_text("of the host")
    jail = ChrootJail(busybox, overlay=True, binds=[Bind(shared, "/shared", writable=True)])
    with Sandbox(jail) as box:
        sh(box, "cd /; echo 1 > .wh..wh..opq; echo 2 > .wh.etc; echo 3 > /box/.wh.; echo 4 > /tmp/.wh..wh..opq")
        point = box.savepoint()
        with pytest.raises(OSError, match="means something else"):
            box.commit(tmp_path / "layer.tar")
        assert not (tmp_path / "layer.tar").exists()
        box.rollback(point)
        assert sh(box, "cd /; cat .wh..wh..opq .wh.etc box/.wh. tmp/.wh..wh..opq etc/hello") == "1\n2\n3\n4\nhello\n"
    assert (shared / "kept").read_text() == "of the host"


def test_legal_trees_of_any_kind_come_back(busybox: Path) -> None:
    if not features.tmpfs_keeps_attributes():
        pytest.skip("needs user attributes in tmpfs, which Linux 6.6 has")
    (busybox / "closed").mkdir(0o555)
    script = """
    chmod 755 /closed; echo n > /closed/n; chmod 555 /closed; rm /etc/other; mkfifo /etc/other
    mkdir /hidden; echo h > /hidden/h; chmod 0 /hidden
    cd /tmp; i=0; while [ $i -lt 150 ]; do mkdir d; cd d; i=$((i + 1)); done; echo deep > f
    """
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        sh(box, script)
        found = {(change.kind, change.path) for change in box.changes()}
        assert {("added", "/closed/n"), ("added", "/hidden/h"), ("modified", "/etc/other")} <= found
        point = box.savepoint()
        box.rollback(point)
        assert sh(box, "cat /closed/n; ls /etc; chmod 700 /hidden; cat /hidden/h") == "n\nhello\nh\n"
        assert "deep" in sh(box, "cd /tmp; while cd d 2>/dev/null; do :; done; cat f")


def test_a_rollback_ends_what_is_running() -> None:
    with Sandbox() as box:
        box.write_file("file", "1")
        point = box.savepoint()
        process = box.popen(["sleep", "100"])
        box.rollback(point)
        assert process.poll() == -9
        assert box.read_file("file") == b"1"


LEAVE = """
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
key = libc.syscall(248, b"user", b"left", b"secret", 6, -4)  # add_key(2), into the user's keyring
libc.msgget(0x1234, 0o1600), libc.semget(0x1234, 1, 0o1600), libc.shmget(0x1234, 4096, 0o1600)
os.mkdir("/dev/shm/left"), open("/tmp/left", "w").close(), open("left", "w").close()
if os.fork() == 0:
    os.setsid()
    keep = socket.socket(socket.AF_UNIX)
    keep.bind("\\0left")
    os.write(1, b"left\\n")
    import time
    time.sleep(1000)
import time
time.sleep(1000)
"""

FIND = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
left = [name for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, os.getpid())]
left += [libc.syscall(250, 10, -4, b"user", b"left", 0) > 0]  # keyctl(KEYCTL_SEARCH)
left += [len(open(f"/proc/sysvipc/{kind}").readlines()) - 1 for kind in ("msg", "sem", "shm")]
left += [line for line in open("/proc/net/unix") if "left" in line]
left += [path for path in ("/dev/shm/left", "/tmp/left", "left") if os.path.exists(path)]
print(len(open("/proc/self/mountinfo").readlines()), left)
"""


@pytest.mark.parametrize("bring_back", ["reset", "rollback"])
def test_nothing_else_survives(bring_back: str) -> None:
    """No file, mount, IPC object, key, socket or process."""
    find = [sys.executable, "-S", "-E", "-c", FIND]
    with Sandbox() as box:
        point = box.savepoint()
        clean = box.run(find, timeout=20).stdout
        process = box.popen([sys.executable, "-S", "-E", "-c", LEAVE], stdout=-1)
        assert process.stdout is not None
        assert process.stdout.readline() == b"left\n"
        beside = box.run(find, timeout=20).stdout
        assert b"/tmp/left" in (beside or b""), "it is there to be found"
        if bring_back == "reset":
            box.reset()
        else:
            box.rollback(point)
        assert box.run(find, timeout=20).stdout == clean


def test_an_error_on_the_way_back_leaves_a_clean_box(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox() as box:
        box.write_file("file", "1")
        point = box.savepoint()

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("pysandbox.images.unpack.Unpacker.finish", fail)
        with pytest.raises(OSError):
            box.rollback(point)
        assert box.listdir() == []


def test_file_ids_are_the_callers_again(in_fresh_python: Callable[..., object]) -> None:
    code = """
    import os, tempfile, pysandbox
    with pysandbox.Sandbox() as box:
        box.write_file("a", "1")
        box.rollback(box.savepoint())
    with tempfile.NamedTemporaryFile() as file:
        print(os.fstat(file.fileno()).st_uid == os.geteuid())
    """
    done = in_fresh_python(textwrap.dedent(code))
    assert getattr(done, "stdout", "") == "True\n", done
