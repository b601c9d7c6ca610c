"""`ChrootJail`: binds, tmpfs, given files, symlinks, hidden paths; and that there is no way back to the old root."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from inside import PRELUDE, answer

import pysandbox
from pysandbox import Bind, Capabilities, ChrootJail, ConfigError, Namespaces, Sandbox, SetupError, Tmpfs
from pysandbox.result import Level

pytestmark = pytest.mark.usefixtures("without_seccomp")

# --- binds -----------------------------------------------------------------------------------------------------------


def test_a_bind_shows_the_hosts_folder_at_its_own_path(shared: Path) -> None:
    code = f"answer = open({str(shared / 'known')!r}).read()"
    assert answer(code, ChrootJail(binds=(Bind(shared),))) == "of the host\n"


def test_a_bind_shows_the_hosts_folder_at_another_path(shared: Path) -> None:
    assert (
        answer("answer = open('/a/b/c/known').read()", ChrootJail(binds=(Bind(shared, "/a/b/c"),))) == "of the host\n"
    )


def test_a_bind_of_a_file_shows_that_file_alone(shared: Path) -> None:
    jail = ChrootJail(binds=(Bind(shared / "known", "/given/file"),))
    assert answer("answer = [os.listdir('/given'), open('/given/file').read()]", jail) == [["file"], "of the host\n"]


def test_a_bind_is_read_only(shared: Path) -> None:
    code = (
        "answer = [error_of(write, '/given/known'), error_of(write, '/given/new'), error_of(os.unlink, '/given/known')]"
    )
    assert answer(code, ChrootJail(binds=(Bind(shared, "/given"),))) == ["EROFS"] * 3
    assert (shared / "known").read_text() == "of the host\n"
    assert not (shared / "new").exists()


def test_a_writable_bind_of_the_same_folder_takes_those_writes(shared: Path) -> None:
    code = (
        "answer = [error_of(write, '/given/known'), error_of(write, '/given/new'), error_of(os.unlink, '/given/known')]"
    )
    assert answer(code, ChrootJail(binds=(Bind(shared, "/given", writable=True),))) == ["allowed"] * 3
    assert os.listdir(shared) == ["new"]


def test_read_only_holds_for_what_is_mounted_below_a_bind() -> None:
    code = "answer = [os.statvfs('/given' + name).f_flag for name in ('', '/shm', '/pts')]"
    for flags in answer(code, ChrootJail(binds=(Bind("/dev", "/given"),))):
        assert flags & os.ST_RDONLY
        assert flags & os.ST_NOSUID
        assert flags & getattr(os, "ST_NODEV", 4)


def test_a_writable_bind_leaves_what_is_mounted_below_it_writable() -> None:
    code = "answer = os.statvfs('/given/shm').f_flag & os.ST_RDONLY"
    assert answer(code, ChrootJail(binds=(Bind("/dev", "/given", writable=True),))) == 0


def test_a_device_below_a_bind_cannot_be_used() -> None:
    assert answer("answer = error_of(open, '/given/null')", ChrootJail(binds=(Bind("/dev", "/given"),))) == "EACCES"


def test_a_bind_into_the_working_directory_works(shared: Path) -> None:
    assert (
        answer("answer = open('data/known').read()", ChrootJail(binds=(Bind(shared, "/box/data"),))) == "of the host\n"
    )


def test_a_bind_over_a_default_takes_its_place(shared: Path) -> None:
    result = pysandbox.run(["ls", "/tmp"], ChrootJail(binds=(Bind(shared, "/tmp"),)), timeout=20)
    assert result.stdout == b"known\n"


def test_a_missing_source_names_the_step_and_what_helps(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(SetupError) as caught:
        pysandbox.run(["true"], ChrootJail(binds=(Bind(missing, "/given"),)), timeout=20)
    assert (caught.value.layer, caught.value.step, caught.value.errno) == ("ChrootJail", "open_tree", errno.ENOENT)
    assert caught.value.arguments["source"] == str(missing)
    assert "optional" in caught.value.hint


def test_an_optional_missing_source_is_left_out(tmp_path: Path) -> None:
    jail = ChrootJail(binds=(Bind(tmp_path / "missing", "/given", optional=True),))
    assert answer("answer = os.path.exists('/given')", jail) is False


def test_an_optional_source_that_exists_is_there(shared: Path) -> None:
    jail = ChrootJail(binds=(Bind(shared, "/given", optional=True),))
    assert answer("answer = os.listdir('/given')", jail) == ["known"]


@pytest.mark.parametrize("optional", [False, True])
def test_a_source_that_is_a_symlink_is_refused(shared: Path, tmp_path: Path, optional: bool) -> None:
    (tmp_path / "link").symlink_to(shared)
    with pytest.raises(SetupError) as caught:
        pysandbox.run(["true"], ChrootJail(binds=(Bind(tmp_path / "link", "/given", optional=optional),)), timeout=20)
    assert (caught.value.step, caught.value.errno) == ("open_tree", errno.ELOOP)
    assert "realpath" in caught.value.hint


def test_a_source_with_a_symlink_on_the_way_is_refused(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(SetupError) as caught:
        pysandbox.run(["true"], ChrootJail(binds=(Bind(tmp_path / "link" / "shared", "/given"),)), timeout=20)
    assert caught.value.errno == errno.ELOOP


def test_a_folder_that_an_earlier_payload_replaced_by_a_symlink_is_refused(shared: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (shared / "sub").mkdir()
    code = f"os.rmdir('/given/sub'); os.symlink({str(canary)!r}, '/given/sub'); answer = 0"
    answer(code, ChrootJail(binds=(Bind(shared, "/given", writable=True),)))
    assert (shared / "sub").is_symlink()
    with pytest.raises(SetupError) as caught:
        pysandbox.run(["true"], ChrootJail(binds=(Bind(shared / "sub", "/given", writable=True),)), timeout=20)
    assert caught.value.errno == errno.ELOOP


@pytest.mark.parametrize("writable", [False, True])
def test_nothing_is_created_on_the_host_for_a_mount_point(shared: Path, writable: bool) -> None:
    binds = (Bind(shared, "/given", writable=writable), Bind("/usr", "/given/missing/usr"))
    with pytest.raises(ConfigError, match="/given/missing/usr"):
        pysandbox.run(["true"], ChrootJail(binds=binds), timeout=20)
    assert os.listdir(shared) == ["known"]


@pytest.mark.parametrize("granted", [{"files": {"/given/new": "x"}}, {"symlinks": {"/given/new": "known"}}])
def test_neither_file_nor_link_is_created_in_a_folder_of_the_host(shared: Path, granted: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="/given/new"):
        pysandbox.run(["true"], ChrootJail(binds=(Bind(shared, "/given", writable=True),), **granted), timeout=20)
    assert os.listdir(shared) == ["known"]


def test_two_entries_for_one_path_are_refused(shared: Path) -> None:
    with pytest.raises(ConfigError, match="/given"):
        pysandbox.run(["true"], ChrootJail(binds=(Bind(shared, "/given"),), tmpfs=(Tmpfs("/given"),)), timeout=20)


# --- tmpfs, files, symlinks, hide ------------------------------------------------------------------------------------


def test_a_tmpfs_takes_its_size_and_no_more() -> None:
    code = """
    write("/scratch/half", "x" * 500_000)
    answer = error_of(write, "/scratch/rest", "x" * 1_000_000)
    """
    assert answer(code, ChrootJail(tmpfs=(Tmpfs("/scratch", size="1M"),))) == "ENOSPC"


def test_a_larger_tmpfs_takes_the_same_files() -> None:
    code = """
    write("/scratch/half", "x" * 500_000)
    answer = error_of(write, "/scratch/rest", "x" * 1_000_000)
    """
    assert answer(code, ChrootJail(tmpfs=(Tmpfs("/scratch", size="4M"),))) == "allowed"


def test_a_tmpfs_takes_its_number_of_files_and_no_more() -> None:
    code = "answer = [error_of(write, f'/scratch/{n}', '') for n in range(20)]"
    outcomes = answer(code, ChrootJail(tmpfs=(Tmpfs("/scratch", inodes=10),)))
    assert outcomes == sorted(outcomes, reverse=False, key=lambda outcome: outcome == "ENOSPC")
    assert 5 <= outcomes.count("allowed") < 10
    assert set(outcomes) == {"allowed", "ENOSPC"}


@pytest.mark.parametrize("folder", ["/box", "/tmp", "/dev/shm"])
def test_size_bounds_the_boxs_own_folders(folder: str) -> None:
    code = f"answer = error_of(write, '{folder}/file', 'x' * 2_000_000)"
    assert answer(code, ChrootJail(size="1M")) == "ENOSPC"


def test_the_boxs_own_folders_share_their_size_and_give_it_back() -> None:
    code = """
    write("/tmp/half", "x" * 600_000)
    full = error_of(write, "/box/rest", "x" * 600_000), os.unlink("/box/rest")
    os.unlink("/tmp/half")
    answer = [full[0], error_of(write, "/dev/shm/rest", "x" * 600_000)]
    """
    assert answer(code, ChrootJail(size="1M")) == ["ENOSPC", "allowed"]


def test_a_larger_size_takes_the_same_files() -> None:
    code = """
    write("/tmp/half", "x" * 600_000)
    answer = error_of(write, "/box/rest", "x" * 600_000)
    """
    assert answer(code, ChrootJail(size="2M")) == "allowed"


def test_inodes_bounds_the_boxs_own_folders() -> None:
    code = "answer = [error_of(write, f'/tmp/{n}', '') for n in range(30)]"
    outcomes = answer(code, ChrootJail(inodes=10))
    assert 10 <= outcomes.count("allowed") < 20
    assert set(outcomes) == {"allowed", "ENOSPC"}


@pytest.mark.parametrize("name", ["/file", "/etc/file", "/dev/file", "/etc/passwd", "/tmp/../file", "/box/../etc/file"])
def test_nothing_but_the_boxs_own_folders_can_be_written_to(name: str) -> None:
    assert answer(f"answer = error_of(write, {name!r}, 'x')") in ("EROFS", "EACCES", "ENOTDIR")
    assert answer("answer = error_of(write, '/tmp/file', 'x')") == "allowed"


def test_no_link_or_rename_leads_from_a_writable_folder_into_the_root() -> None:
    code = """
    write("/tmp/file", "x")
    answer = [error_of(os.link, "/tmp/file", "/etc/file"), error_of(os.link, "/etc/passwd", "/tmp/passwd"),
              error_of(os.rename, "/tmp/file", "/file")]
    """
    assert answer(code) == ["EROFS", "EXDEV", "EXDEV"]


def test_a_tmpfs_has_the_mode_it_was_given() -> None:
    code = "answer = os.stat('/scratch').st_mode & 0o7777"
    assert answer(code, ChrootJail(tmpfs=(Tmpfs("/scratch", mode=0o1770),))) == 0o1770


@pytest.mark.parametrize("content", ["text\n", b"\x00\xff bytes", ""])
def test_a_file_has_the_content_it_was_given(content: str | bytes) -> None:
    wanted = content.encode() if isinstance(content, str) else content
    jail = ChrootJail(files={"/new/folder/file": content})
    assert answer("answer = open('/new/folder/file', 'rb').read().hex()", jail) == wanted.hex()


def test_a_given_file_is_read_only() -> None:
    assert answer("answer = error_of(write, '/new/file')", ChrootJail(files={"/new/file": "x"})) in ("EROFS", "EACCES")


def test_a_given_file_takes_the_place_of_a_default_one() -> None:
    jail = ChrootJail(files={"/etc/hosts": "127.0.0.1 me\n"})
    assert answer("answer = open('/etc/hosts').read()", jail) == "127.0.0.1 me\n"


def test_a_symlink_says_what_it_was_given() -> None:
    jail = ChrootJail(symlinks={"/new/link": "/etc/passwd"})
    code = "answer = [os.readlink('/new/link'), open('/new/link').read() == open('/etc/passwd').read()]"
    assert answer(code, jail) == ["/etc/passwd", True]


def test_a_hidden_folder_is_empty_and_stays_so() -> None:
    code = "answer = [os.listdir('/usr/share'), error_of(write, '/usr/share/new')]"
    listed, writing = answer(code, ChrootJail(hide=("/usr/share",)))
    assert listed == []
    assert writing in ("EROFS", "ENOENT")  # what covers it is a folder that has been removed


def test_that_folder_is_not_empty_unless_hidden() -> None:
    assert answer("answer = os.listdir('/usr/share')") != []


def test_a_hidden_file_is_empty_and_stays_so() -> None:
    code = "answer = [open('/etc/passwd').read(), error_of(write, '/etc/passwd')]"
    content, error = answer(code, ChrootJail(hide=("/etc/passwd",)))
    assert content == ""
    assert error in ("EROFS", "EACCES")


def test_hiding_inside_a_writable_bind_leaves_the_host_alone(shared: Path) -> None:
    jail = ChrootJail(binds=(Bind(shared, "/given", writable=True),), hide=("/given/known",))
    code = (
        "answer = [open('/given/known').read(), error_of(write, '/given/known'), error_of(os.unlink, '/given/known')]"
    )
    content, writing, removing = answer(code, jail)
    assert (content, removing) == ("", "EBUSY")
    assert writing in ("EROFS", "EACCES")
    assert (shared / "known").read_text() == "of the host\n"
    assert os.listdir(shared) == ["known"]


def test_what_is_hidden_cannot_be_uncovered() -> None:
    code = """
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.umount2(b"/usr/share", 2)
    answer = [result, errno.errorcode[ctypes.get_errno()]]
    """
    assert answer(code, ChrootJail(hide=("/usr/share",))) == [-1, "EPERM"]


def test_hiding_what_is_not_there_is_an_error() -> None:
    with pytest.raises(SetupError) as caught:
        pysandbox.run(["true"], ChrootJail(hide=("/usr/not-there",)), timeout=20)
    assert (caught.value.step, caught.value.errno) == ("mask", errno.ENOENT)


def test_another_working_directory_is_where_runs_start() -> None:
    code = "write('file'); answer = [os.getcwd(), os.environ['HOME'], os.listdir('.'), os.path.exists('/box')]"
    assert answer(code, ChrootJail(workdir="/home/me")) == ["/home/me", "/home/me", ["file"], False]


# --- the old root ----------------------------------------------------------------------------------------------------

ESCAPE = """
os.chdir(START)
answer = error_of(os.chroot, INNER)  # ... and the current directory is outside of it
for _ in range(64):
    os.chdir("..")
error_of(os.chroot, ".")
answer = [answer, sorted(os.listdir("/"))]
"""


def test_dot_dot_stays_inside() -> None:
    code = "answer = [sorted(os.listdir('/')), sorted(os.listdir('../' * 64))]"
    plain, climbed = answer(code)
    assert plain == climbed


def test_the_root_of_init_is_out_of_reach() -> None:
    assert answer("answer = error_of(os.listdir, '/proc/1/root/')") == "EACCES"


def test_the_current_directory_of_init_is_out_of_reach() -> None:
    assert answer("answer = error_of(os.listdir, '/proc/1/cwd/')") == "EACCES"


def test_chroot_is_not_permitted() -> None:
    assert answer("answer = error_of(os.chroot, '/box')") == "EPERM"


@pytest.mark.parametrize("pivot", [True, False])
def test_a_double_chroot_with_the_power_to_do_it_leads_nowhere(pivot: bool) -> None:
    code = "os.mkdir('/box/inner')" + ESCAPE.replace("START", "'/box'").replace("INNER", "'/box/inner'")
    inside = sorted(answer("answer = os.listdir('/')"))
    assert answer(code, ChrootJail(pivot=pivot), Capabilities(keep=("sys_chroot",))) == ["allowed", inside]


def test_a_double_chroot_does_lead_out_of_a_mere_chroot() -> None:
    code = ESCAPE.replace("START", "'/usr'").replace("INNER", "'/usr/lib'")
    python = [str(Path("/usr/bin/python3"))]
    program = PRELUDE + code + "\nprint(json.dumps(answer))"
    layers = (Namespaces(), Capabilities(keep=("sys_chroot",)))
    if os.path.exists(python[0]):  # the running one may lie where the box's own id may not go
        result = pysandbox.run([*python, "-c", program], *layers, base=None, timeout=20)
        assert json.loads(result.stdout or b"") == ["allowed", sorted(os.listdir("/"))]
    else:
        assert answer(code, *layers, base=None) == ["allowed", sorted(os.listdir("/"))]


def test_mounting_is_not_permitted() -> None:
    code = """
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    results = []
    for call in (
        lambda: libc.mount(b"none", b"/box", b"tmpfs", 0, None),
        lambda: libc.mount(None, b"/usr", None, 32 | 4096, None),
        lambda: libc.umount2(b"/usr", 2),
        lambda: libc.unshare(0x00020000),
    ):
        results.append(errno.errorcode[ctypes.get_errno()] if call() else "allowed")
    answer = results
    """
    assert answer(code) == ["EPERM"] * 4


def test_a_remount_does_not_make_a_read_only_mount_writable_even_with_the_power_to_do_it() -> None:
    code = """
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount(None, b"/usr", None, 32 | 4096, None)  # MS_REMOUNT | MS_BIND, without MS_RDONLY
    answer = os.statvfs("/usr").f_flag & os.ST_RDONLY
    """
    assert answer(code) == os.ST_RDONLY


def test_chroot_in_place_of_pivot_root_works_and_says_that_it_is_less() -> None:
    with Sandbox(ChrootJail(pivot=False)) as box:
        assert box.run(["sh", "-c", "echo $(pwd); test ! -e /sys"], timeout=20).stdout == b"/box\n"
        assert box.enforcement["ChrootJail"].level is Level.PARTIAL
        assert "chroot" in box.enforcement["ChrootJail"].mechanism


def test_pivot_root_is_enforced_in_full(box: Sandbox) -> None:
    assert box.enforcement["ChrootJail"].level is Level.FULL
