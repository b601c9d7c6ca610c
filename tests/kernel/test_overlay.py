"""`ChrootJail(overlay=)`: all of a root is writable, the host's folder stays as it is, and what was changed is known."""

from __future__ import annotations

import errno
import io
import os
import resource
import subprocess
import sys
import tarfile
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

import pysandbox
from pysandbox import (
    Bind,
    CgroupLimits,
    Change,
    ChrootJail,
    ConfigError,
    Namespaces,
    Sandbox,
    SandboxError,
    SetupError,
    Tmpfs,
    UnsupportedError,
    Verdict,
    features,
    images,
)

sys.path.insert(0, str(Path(__file__).parents[1]))

from archives import Layout, member, tar

CHANGE_ALL = """
cd /
echo new > etc/new; echo more >> etc/hello; mv etc/other etc/moved; rm -r opt/a; mkdir opt/a; echo x > opt/a/x
chmod 700 bin/busybox; rm bin/pwd; ln -s nowhere link; mkdir -p deep/er; echo y > deep/er/y; echo out > /box/out
cat etc/hello > usr/copy; touch etc/hello
"""


def tree(folder: Path) -> dict[str, tuple[int, bytes | str | None]]:
    """Every name below a folder, with its mode and what is in it."""
    found: dict[str, tuple[int, bytes | str | None]] = {}
    for path in folder.rglob("*"):
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = (path.lstat().st_mode, content)
    return found


def sh(box: Sandbox, script: str) -> str:
    result = box.run(["sh", "-c", script], text=True, timeout=20)
    assert result.returncode == 0, result.stderr
    assert result.stdout is not None
    return result.stdout


def named(changes: list[Change]) -> set[tuple[str, str]]:
    return {(change.kind, change.path) for change in changes}


@pytest.fixture
def removes_folders() -> None:
    """For tests in which folders of the root are removed."""
    if not features.tmpfs_keeps_attributes():
        pytest.skip("needs user attributes in tmpfs, which Linux 6.6 has")


@pytest.fixture
def linked(busybox: Path) -> Path:
    """A root in which much is somewhere else, by symlinks."""
    (busybox / "opt" / "app").mkdir()
    (busybox / "opt" / "app" / "program").write_text("of the root")
    (busybox / "app").symlink_to("/opt/app")
    (busybox / "work").symlink_to("../../app")
    (busybox / "tmp").rmdir()
    (busybox / "tmp").symlink_to("var/tmp")
    (busybox / "etc" / "hosts").write_text("of the root")
    return busybox


# --- what is written ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("removes_folders")
def test_all_of_the_root_is_writable_and_the_hosts_folder_stays_as_it_is(busybox: Path) -> None:
    before = tree(busybox)
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        sh(box, CHANGE_ALL)
        assert sh(box, "cat /etc/hello /opt/a/* /etc/moved; ls /opt/a") == "hello\nmore\nx\nother\nx\n"
    assert tree(busybox) == before
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        assert sh(box, "cat /etc/hello; ls /opt/a") == "hello\nb\n", "what was written has vanished with its box"


def test_without_an_overlay_the_same_is_refused(busybox: Path) -> None:
    with Sandbox(ChrootJail(busybox)) as box:
        for script in ("echo new > /etc/new", "echo more >> /etc/hello", "rm /etc/other", "mkdir /x"):
            assert box.run(["sh", "-c", script], timeout=20).returncode != 0


def test_the_files_of_the_root_are_the_payloads_inside_and_the_callers_outside(busybox: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir(0o700)
    with Sandbox(ChrootJail(busybox, overlay=True, upper=kept)) as box:
        assert sh(box, "echo x > /new; stat -c '%u %g' /etc/hello /new /") == "1000 1000\n" * 3
    for path in (busybox / "etc" / "hello", kept / "upper" / "new"):
        assert (path.stat().st_uid, path.stat().st_gid) == (os.geteuid(), os.getegid())


@pytest.mark.parametrize("ids", [(0, 0), (5, 6)])
def test_other_ids_inside_own_them_as_well(busybox: Path, ids: tuple[int, int]) -> None:
    layers = (ChrootJail(busybox, overlay=True), Namespaces(uid=ids[0], gid=ids[1]))
    with Sandbox(*layers) as box:
        assert sh(box, "echo x >> /etc/hello; stat -c '%u %g' /etc/hello") == f"{ids[0]} {ids[1]}\n"


@pytest.mark.root
def test_a_root_caller_without_a_user_namespace_has_one_too(busybox: Path) -> None:
    with Sandbox(ChrootJail(busybox, overlay=True), Namespaces(user=False)) as box:
        assert sh(box, "echo x >> /etc/hello; cat /etc/hello") == "hello\nx\n"
    assert (busybox / "etc" / "hello").read_text() == "hello\n"


def test_where_folders_cannot_be_removed_it_is_said(busybox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for keeps in (True, False):
        monkeypatch.setattr(features, "tmpfs_keeps_attributes", lambda keeps=keeps: keeps)
        with Sandbox(ChrootJail(busybox, overlay=True)) as box:
            assert ("cannot be removed" in str(box.enforcement["ChrootJail"])) is not keeps


def test_what_is_kept_is_there_for_the_next_box(busybox: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir(0o700)
    jail = ChrootJail(busybox, overlay=True, upper=kept)
    for expected in ("", "1\n", "1\n1\n"):
        with Sandbox(jail) as box:
            assert (
                sh(box, "cat /state 2>&1 || :; echo 1 >> /state")
                .replace("cat: can't open '/state'", "")
                .startswith(expected or ": No such file")
            )
    assert (kept / "upper" / "state").read_text() == "1\n1\n1\n"


def test_what_is_kept_is_one_boxs_at_a_time(busybox: Path, tmp_path: Path) -> None:
    jail = ChrootJail(busybox, overlay=True, upper=tmp_path)
    with Sandbox(jail) as box, pytest.raises(SetupError, match="one box at a time") as caught:
        box.run(["ls"], timeout=20)
        Sandbox(jail).__enter__()
    assert caught.value.step == "flock"
    with Sandbox(jail):
        pass


@pytest.mark.parametrize("name", ["upper", "work"])
def test_a_link_in_the_place_of_what_is_kept_is_not_followed(busybox: Path, tmp_path: Path, name: str) -> None:
    kept, canary = tmp_path / "kept", tmp_path / "canary"
    kept.mkdir(0o700)
    canary.mkdir()
    (kept / name).symlink_to(canary)
    with pytest.raises(SetupError), Sandbox(ChrootJail(busybox, overlay=True, upper=kept)) as box:
        box.run(["sh", "-c", "echo x > /x"], timeout=20)
    assert os.listdir(canary) == []


def test_a_sized_overlay_holds_no_more(busybox: Path) -> None:
    with Sandbox(ChrootJail(busybox, overlay="1M")) as box:
        result = box.run(["sh", "-c", "cat /dev/zero > /large"], timeout=20)
        assert b"No space" in (result.stderr or b"")
        assert box.run(["sh", "-c", "rm /large; echo x > /small"], timeout=20)


@pytest.mark.cgroup
def test_what_is_written_counts_as_memory(busybox: Path) -> None:
    jail = ChrootJail(busybox, overlay="256M")
    result = pysandbox.run(["sh", "-c", "cat /dev/zero > /large"], jail, CgroupLimits(memory="32M"), timeout=20)
    assert result.verdict is Verdict.MEMORY_EXCEEDED


def test_the_rest_of_the_jail_is_as_ever(busybox: Path, tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "x").write_text("shown\n")
    jail = ChrootJail(
        busybox,
        overlay=True,
        binds=[Bind(tmp_path / "shown", "/data/shown")],
        tmpfs=[Tmpfs("/scratch", size="1M")],
        files={"/etc/given": "given\n"},
        symlinks={"/etc/linked": "given"},
        hide=["/etc/other"],
        workdir="/job",
    )
    with Sandbox(jail) as box:
        assert sh(
            box, "pwd; cat /data/shown/x /etc/linked /etc/other; echo y > /scratch/y; echo z > z; ls /dev/shm"
        ) == ("/job\nshown\ngiven\n")
        assert box.run(["sh", "-c", "echo y > /data/shown/y"], timeout=20).returncode != 0
        assert box.run(["sh", "-c", "echo y > /dev/y"], timeout=20).returncode != 0
        assert named(box.changes()) == {("added", "/job/z")}


def test_setuid_bits_and_devices_mean_nothing_in_an_overlay(busybox: Path) -> None:
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        assert "nosuid,nodev" in sh(
            box, "cat /proc/mounts | while read l; do case \"$l\" in *' / '*) echo $l;; esac; done"
        )


def test_there_is_no_way_to_the_folders_of_the_overlay(busybox: Path) -> None:
    marker = f"marker-{uuid.uuid4().hex}"
    (busybox.parent / marker).write_text("x")
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        assert (
            sh(box, f"ls -a / /.. /proc/1/root/ /proc/self/root/.. 2>/dev/null | cat; cat /*/{marker} || :") is not None
        )
        assert marker not in sh(box, "ls -aR / 2>/dev/null || :")
        mounts = sh(box, "cat /proc/self/mountinfo")
    assert str(busybox) not in mounts
    assert "/lower" not in [line.split()[4] for line in mounts.splitlines()]


def test_overlays_over_one_folder_are_each_a_boxs_own(busybox: Path) -> None:
    jail = ChrootJail(busybox, overlay=True)
    with Sandbox(jail) as one, Sandbox(jail) as other:
        sh(one, "echo one > /etc/hello")
        assert sh(other, "cat /etc/hello") == "hello\n"


@pytest.mark.usefixtures("removes_folders")
def test_a_reset_brings_the_root_back(busybox: Path) -> None:
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        sh(box, CHANGE_ALL)
        box.reset()
        assert sh(box, "cat /etc/hello; ls /opt/a /box") == "hello\n/box:\n\n/opt/a:\nb\n"
        assert box.changes() == []


@pytest.mark.parametrize("name", ["dev", "proc", "tmp", "etc", "box", "opt"])
@pytest.mark.parametrize("kind", ["link", "file", "fifo"])
def test_a_hostile_root_leads_nowhere(busybox: Path, tmp_path: Path, name: str, kind: str) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    canary.chmod(0o777)
    target = busybox / name
    if target.exists():
        target.rename(tmp_path / "moved")
    if kind == "link":
        target.symlink_to(canary)
    elif kind == "file":
        target.write_text("x")
    else:
        os.mkfifo(target)
    try:
        with Sandbox(ChrootJail(busybox, overlay=True, files={"/etc/given": "x"}, tmpfs=[Tmpfs("/opt/t")])) as box:
            box.run(["sh", "-c", f"echo x > /{name}/x; echo x > /tmp/x; echo x > x"], timeout=20)
    except SetupError:
        pass
    assert os.listdir(canary) == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"overlay": True}, ConfigError),
        ({"root": "/srv", "overlay": "none"}, ConfigError),
        ({"root": "/srv", "overlay": 0}, ConfigError),
        ({"root": "/srv", "overlay": None}, ConfigError),
        ({"root": "/srv", "overlay": True, "writable": True}, ConfigError),
        ({"root": "/srv", "upper": "/tmp"}, ConfigError),
        ({"root": "/srv", "overlay": "1M", "upper": "/tmp"}, ConfigError),
        ({"root": "/srv", "overlay": True, "upper": "/nonexistent"}, ConfigError),
        ({"root": "/nonexistent", "overlay": True}, ConfigError),
        ({"root": "/srv", "image": "/x"}, ConfigError),
        ({"image": "/nonexistent"}, ConfigError),
        ({"image": 5}, ConfigError),
        ({"image": "/x", "entrypoint": "sh"}, ConfigError),
    ],
)
def test_what_contradicts_itself_is_refused_before_anything_is_made(
    options: dict[str, Any], error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(error):
        Sandbox(ChrootJail(**options))


@pytest.mark.root
def test_a_file_system_without_mapped_ids_is_named_or_done_without(tmp_path: Path, busybox: Path) -> None:
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        assert sh(box, "ls /etc") == "hello\nother\n"
    with pytest.raises(UnsupportedError, match="ID-mapped"), Sandbox(ChrootJail("/proc/sys", overlay=True)):
        pass
    with Sandbox(ChrootJail(busybox, overlay=True), degrade=True) as box:
        assert str(box.enforcement["ChrootJail"]).startswith("full")


def test_a_working_directory_is_where_its_links_lead_in_the_root(linked: Path) -> None:
    with Sandbox(ChrootJail(linked, overlay=True, workdir="/work")) as box:
        assert sh(box, "pwd; cat program") == "/opt/app\nof the root"
        box.write_file("new", "x")
        assert named(box.changes()) == {("added", "/opt/app/new")}


def test_a_root_whose_links_go_round_has_no_working_directory(linked: Path) -> None:
    (linked / "round").symlink_to("round")
    with pytest.raises(ConfigError, match="too many symlinks"):
        Sandbox(ChrootJail(linked, overlay=True, workdir="/round/x")).__enter__()


@pytest.mark.parametrize("kind", ["link", "file", "fifo"])
@pytest.mark.parametrize("name", ["tmp", "proc", "dev"])
def test_what_a_root_has_in_the_place_of_the_boxs_own_gives_way(busybox: Path, name: str, kind: str) -> None:
    there = busybox / name
    if there.exists():
        there.rmdir()
    if kind == "link":
        there.symlink_to("/etc/passwd" if name == "tmp" else "nowhere")
    elif kind == "file":
        there.write_text("a file")
    else:
        os.mkfifo(there)
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        assert sh(box, f"test -d /{name} -a ! -L /{name} && ls -d /proc/self /dev/null /tmp && echo x > /tmp/y && pwd")
    assert not there.is_dir() or there.is_symlink()  # the host's is as it was


def test_a_file_in_the_place_of_the_working_directory_is_an_error_that_says_so(busybox: Path) -> None:
    (busybox / "box").write_text("a file")
    with pytest.raises(SetupError, match="a symlink or a file there"):
        pysandbox.run(["true"], ChrootJail(busybox, overlay=True))


def test_what_is_kept_gives_way_to_nothing(linked: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir(0o700)
    with pytest.raises(ConfigError, match="would keep files"):
        ChrootJail(linked, overlay=True, upper=kept, files={"/etc/hosts": "given"})
    (linked / "tmp").unlink()
    (linked / "tmp").mkdir()
    source = Path(os.path.realpath(tmp_path))
    with pytest.raises(SetupError, match="a symlink or a file there"):
        pysandbox.run(["true"], ChrootJail(linked, overlay=True, upper=kept, binds=[Bind(source, "/app")]))
    with Sandbox(ChrootJail(linked, overlay=True, upper=kept)) as box:
        assert box.changes() == []
        assert sh(box, "cat /app/program /etc/hosts") == "of the rootof the root"


def test_what_is_given_replaces_what_the_root_has(linked: Path) -> None:
    jail = ChrootJail(linked, overlay=True, files={"/etc/hosts": "given"}, symlinks={"/etc/hello": "hosts"})
    with Sandbox(jail) as box:
        assert sh(box, "cat /etc/hosts /etc/hello") == "givengiven"
        assert box.changes() == []
    assert (linked / "etc" / "hosts").read_text() == "of the root"


def test_a_link_on_the_way_to_a_mount_point_is_named_with_what_helps(linked: Path, tmp_path: Path) -> None:
    jail = ChrootJail(linked, overlay=True, binds=[Bind(os.path.realpath(tmp_path), "/app/data")])
    with pytest.raises(SetupError, match="name the path that it leads to") as caught:
        pysandbox.run(["true"], jail)
    assert caught.value.errno == errno.ELOOP


# --- what was changed -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("removes_folders")
def test_changes_are_those_that_were_made(busybox: Path) -> None:
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        assert box.changes() == []
        sh(box, CHANGE_ALL)
        changes = box.changes()
    assert named(changes) == {
        ("added", "/etc/new"),
        ("modified", "/etc/hello"),
        ("renamed", "/etc/moved"),
        ("deleted", "/opt/a/b"),
        ("deleted", "/opt/a/b/f"),
        ("added", "/opt/a/x"),
        ("modified", "/bin/busybox"),
        ("deleted", "/bin/pwd"),
        ("added", "/link"),
        ("added", "/deep"),
        ("added", "/deep/er"),
        ("added", "/deep/er/y"),
        ("added", "/box/out"),
        ("added", "/usr/copy"),
    }
    by_path = {change.path: change for change in changes}
    assert by_path["/etc/moved"].source == "/etc/other"
    assert by_path["/etc/hello"].size == len("hello\nmore\n")


def test_what_is_only_opened_or_touched_is_no_change(busybox: Path) -> None:
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        sh(box, ": >> /etc/hello; touch /etc/other; chmod 600 /etc/other; chmod 644 /etc/other")
        assert box.changes() == []


def test_a_diff_shows_what_was_written(busybox: Path) -> None:
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        sh(box, "echo more >> /etc/hello; rm /etc/other; echo new > /box/new; cat /bin/busybox /etc/hello > /bin/cat2")
        sh(box, "cat /bin/cat2 > /opt/binary; chmod 600 /opt/a/b/f; mkfifo /fifo")
        assert box.diff("/etc/hello") == "--- a/etc/hello\n+++ b/etc/hello\n@@ -1 +1,2 @@\n hello\n+more\n"
        assert "-other" in box.diff("/etc/other")
        assert "+++ b/box/new" in box.diff("new")
        assert box.diff("/opt/a/b/f") == ""
        with pytest.raises(FileNotFoundError):
            box.diff("/nothing")
        with pytest.raises(OSError, match="Not a regular file"):
            box.diff("/fifo")
        with pytest.raises(OSError, match="max_size"):
            box.diff("/opt/binary")
        sh(box, "printf '\\377\\0' > /etc/hello")
        assert box.diff("/etc/hello") == "Binary files /etc/hello differ\n"


@pytest.mark.usefixtures("removes_folders")
def test_changes_can_be_made_to_another_folder(busybox: Path, tmp_path: Path) -> None:
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        sh(box, CHANGE_ALL)
        copy = tmp_path / "copy"
        os.system(f"cp -a {busybox} {copy}")
        box.commit(copy)
        empty = tmp_path / "empty"
        empty.mkdir()
        box.commit(empty)
    found = tree(copy)
    assert found["etc/hello"][1] == b"hello\nmore\n"
    assert found["etc/moved"][1] == b"other\n"
    assert found["bin/busybox"][0] & 0o777 == 0o700
    assert found["link"][1] == "nowhere"
    assert not {"etc/other", "bin/pwd", "opt/a/b"} & found.keys()
    assert {"bin/sh", "usr/share", "opt/a/x"} <= found.keys()
    assert set(tree(empty)) >= {"etc/hello", "etc/new", "deep/er/y", "box/out"}
    assert "bin/sh" not in tree(empty)


def test_a_commit_follows_no_link_of_its_destination(busybox: Path, tmp_path: Path) -> None:
    canary, into = tmp_path / "canary", tmp_path / "into"
    canary.mkdir()
    into.mkdir()
    (into / "etc").symlink_to(canary)
    (canary / "hello").write_text("canary")
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        sh(box, "echo x >> /etc/hello; rm /etc/other")
        box.commit(into)
    assert {path.name: path.read_text() for path in canary.iterdir()} == {"hello": "canary"}
    assert (into / "etc" / "hello").read_text() == "hello\nx\n"


@pytest.mark.usefixtures("removes_folders")
def test_changes_are_a_layer_that_makes_the_same_root(
    busybox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    base = io.BytesIO()
    with tarfile.open(fileobj=base, mode="w") as archive:
        archive.add(busybox, ".")
    layer = io.BytesIO()
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        sh(box, CHANGE_ALL)
        box.commit(layer)
        box.commit(tmp_path / "layer.tar")
        listed = sh(box, "ls -aR /bin /etc /opt /usr /deep")
    assert (tmp_path / "layer.tar").read_bytes() == layer.getvalue()
    path = Layout([base.getvalue(), layer.getvalue()]).write(tmp_path / "image")
    with Sandbox(ChrootJail(image=path), Namespaces()) as box:
        assert sh(box, "ls -aR /bin /etc /opt /usr /deep") == listed
        assert sh(box, "cat /etc/hello") == "hello\nmore\n"


def test_what_the_payload_leaves_cannot_lead_the_reader_astray(busybox: Path, tmp_path: Path) -> None:
    script = """
    mkfifo /fifo; ln -s /etc /link; ln -s link/passwd /chain; mkdir /closed; echo x > /closed/x; chmod 0 /closed
    cd /; i=0; while [ $i -lt 300 ]; do mkdir d && cd d; i=$((i+1)); done
    """
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        sh(box, script)
        with pytest.raises(OSError) as caught:
            box.changes()
        assert caught.value.errno in (errno.ELOOP, errno.EACCES)
        sh(box, "rm -r /d; chmod 700 /closed")
        assert ("added", "/fifo") in named(box.changes())
        with pytest.raises(OSError, match="max_files"):
            box.changes(max_files=3)
        box.commit(io.BytesIO())


@pytest.mark.usefixtures("removes_folders")
def test_what_was_in_folders_that_are_gone_is_told(busybox: Path) -> None:
    for name in ("d", "e", "g"):
        (busybox / name).mkdir()
        (busybox / name / "x").write_text("x\n")
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        sh(box, "cd /; rm -r d e g; mkdir e; ln -s etc g; chmod 700 opt")
        assert named(box.changes()) == {
            *(("deleted", "/d"), ("deleted", "/d/x"), ("deleted", "/e/x"), ("modified", "/g"), ("deleted", "/g/x")),
            ("modified", "/opt"),
        }
        for name in ("d", "e", "g"):
            assert "-x" in box.diff(f"/{name}/x")


def test_changes_take_no_longer_than_there_are_files(busybox: Path) -> None:
    (busybox / "old").mkdir()
    for number in range(200):
        (busybox / "old" / f"{number}").write_text(f"{number % 10}")
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        sh(box, "cd /old; rm *; mkdir /new; i=0; while [ $i -lt 2000 ]; do echo > /new/$i; i=$((i + 1)); done")
        begun = time.monotonic()
        changes = box.changes()
        assert time.monotonic() - begun < 60
        assert {change.kind for change in changes} == {"added", "deleted"}
        with pytest.raises(OSError, match="max_size"):
            box.changes(max_size=10)


def test_a_diff_of_anything_comes_to_its_end(busybox: Path) -> None:
    (busybox / "old").write_text("".join(f"{number % 120}\n" for number in range(20_000)))
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        box.write_file("/old", "".join(f"{number % 119}\n" for number in range(20_000)))
        assert box.diff("/old") == "Files /old differ\n"


def test_many_folders_are_committed_with_few_descriptors(
    busybox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    into = tmp_path / "into"
    into.mkdir()
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        sh(box, "i=0; while [ $i -lt 150 ]; do mkdir -p /made/$i/x; i=$((i + 1)); done")
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, before[1]))
        try:
            box.commit(into)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(list((into / "made").iterdir())) == 150


def test_what_is_kept_must_be_closed_to_others(busybox: Path, tmp_path: Path) -> None:
    """A payload may leave set-user-ID programs there."""
    kept = tmp_path / "kept"
    kept.mkdir()
    kept.chmod(0o755)
    with pytest.raises(ConfigError, match="chmod 700"), Sandbox(ChrootJail(busybox, overlay=True, upper=kept)):
        pass
    assert os.listdir(kept) == []


@pytest.mark.usefixtures("removes_folders")
def test_folders_that_were_made_anew_hold_what_they_hold_wherever_it_is_written(busybox: Path, tmp_path: Path) -> None:
    (busybox / "opt" / "sub").mkdir()
    (busybox / "opt" / "f").write_text("same\n")
    (busybox / "opt" / "sub" / "keep").write_text("k\n")
    (busybox / "opt" / "sub" / "lost").write_text("l\n")
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        sh(box, "cd /; rm -rf opt; mkdir -p opt/sub; echo same > opt/f; echo k > opt/sub/keep")
        assert ("deleted", "/opt/sub/lost") in named(box.changes())
        layer = io.BytesIO()
        box.commit(layer)
        point = box.savepoint()
        sh(box, "rm -r /opt")
        box.rollback(point)
        assert sh(box, "cd /opt; find . -type f | sort; cat f sub/keep") == "./f\n./sub/keep\nsame\nk\n"
    with tarfile.open(fileobj=io.BytesIO(layer.getvalue())) as archive:
        assert {"opt/f", "opt/sub/keep", "opt/.wh..wh..opq"} <= set(archive.getnames())


def test_lines_end_where_an_editor_ends_them(busybox: Path) -> None:
    (busybox / "etc" / "odd").write_bytes(b"a\x0cb\rx\nc\n")
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        sh(box, r"printf 'a\fb\rx\nC\n' > /etc/odd")
        assert box.diff("/etc/odd").split("\n")[3:] == [" a\x0cb\rx", "-c", "+C", ""]


def test_a_commit_that_fails_leaves_the_archive_that_was_there(busybox: Path, tmp_path: Path) -> None:
    archive = tmp_path / "kept.tar"
    archive.write_bytes(b"an earlier one")
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        sh(box, "echo x > /etc/.wh.name")
        with pytest.raises(OSError, match="means something else"):
            box.commit(archive)
    assert archive.read_bytes() == b"an earlier one"
    assert os.listdir(tmp_path / "..") and [name for name in os.listdir(tmp_path) if "pysandbox" in name] == []


def test_folders_have_their_modes_when_they_are_committed(busybox: Path, tmp_path: Path) -> None:
    into = tmp_path / "into"
    into.mkdir()
    with Sandbox(ChrootJail(busybox, overlay=True)) as box:
        sh(box, "cd /etc; mkdir -m 550 tight; mkdir -m 0 none; chmod 750 tight; echo x > tight/x; chmod 550 tight")
        box.commit(into)
    assert [(into / "etc" / name).stat().st_mode & 0o777 for name in ("tight", "none")] == [0o550, 0]
    (into / "etc" / "none").chmod(0o700)
    (into / "etc" / "tight").chmod(0o700)


def test_what_is_mounted_in_a_root_is_not_compared_with(busybox: Path, tmp_path: Path) -> None:
    """The overlay shows what lies below it."""
    code = f"""
import os, subprocess, sys
import pysandbox
from pysandbox import ChrootJail, Sandbox
subprocess.run(["mount", "-t", "tmpfs", "none", {str(busybox / "opt")!r}], check=True)
open({str(busybox / "opt" / "covering")!r}, "w").write("x")
with Sandbox(ChrootJail({str(busybox)!r}, overlay=True)) as box:
    box.run(["sh", "-c", "ls /opt > /box/seen; echo y > /opt/covering"])
    print(box.read_file("seen"), [(change.kind, change.path) for change in box.changes()])
"""
    options = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *options, "--mount", "--propagation", "private", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if os.geteuid() and "highest ids" not in done.stderr and done.returncode:
        pytest.skip(f"no boxes in a user namespace here: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    assert "covering" not in done.stdout.split("]")[0].split("b'")[1].split("'")[0]
    assert "('added', '/opt/covering')" in done.stdout


def test_without_an_overlay_there_are_no_changes_to_tell() -> None:
    with Sandbox() as box, pytest.raises(SandboxError, match="overlay=True"):
        box.changes()


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def image(busybox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image of the small root, in two layers, with a configuration."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    base = io.BytesIO()
    with tarfile.open(fileobj=base, mode="w") as archive:
        archive.add(busybox, ".")
    top = tar(
        [
            member("etc/passwd", b"root:x:0:0::/:\njudge:x:77:78::/:\n"),
            member("srv/app/main", b"app\n"),
            member("etc/.wh.other"),
        ]
    )
    config = {
        "Env": ["GREETING=hi", "PATH=/bin"],
        "WorkingDir": "/srv/app",
        "User": "judge",
        "Entrypoint": ["sh", "-c"],
    }
    return Layout([base.getvalue(), top], config).write(tmp_path / "image")


def test_an_image_is_the_root_and_its_configuration_holds(image: Path) -> None:
    result = pysandbox.run(["id -u; id -g; pwd; echo $GREETING; cat main; ls /etc"], ChrootJail(image=image), text=True)
    assert result.stdout == "77\n78\n/srv/app\nhi\napp\nhello\npasswd\n", result.stderr


def test_an_image_through_an_overlay_is_writable(image: Path) -> None:
    with Sandbox(ChrootJail(image=image, overlay=True, entrypoint=())) as box:
        assert sh(box, "cat main; echo x >> main; echo y > /etc/new; cat main") == "app\napp\nx\n"
        assert named(box.changes()) == {("modified", "/srv/app/main"), ("added", "/etc/new")}
    assert Path(images.load(str(image)).root, "srv/app/main").read_text() == "app\n"


def test_what_the_caller_says_wins_over_the_image(image: Path) -> None:
    layers = (
        ChrootJail(image=image, workdir="/job", entrypoint=()),
        Namespaces(uid=5, gid=6),
        pysandbox.Environment(set={"GREETING": "ho"}),
    )
    result = pysandbox.run(["sh", "-c", "id -u; id -g; pwd; echo $GREETING"], *layers, text=True, timeout=20)
    assert result.stdout == "5\n6\n/job\nho\n", result.stderr


def test_an_image_is_not_removed_while_a_box_stands_on_it(image: Path) -> None:
    with Sandbox(ChrootJail(image=image)), pytest.raises(ConfigError, match="in use"):
        images.remove(images.load(str(image)))
    images.remove(images.load(str(image)))


def test_what_an_image_does_not_show_to_others_is_shown_to_its_own_payload(image: Path) -> None:
    """A file of mode 0600 is the payload's, as the cache is of the caller's own files."""
    Path(images.load(str(image)).root, "etc/hello").chmod(0o600)
    jail = ChrootJail(image=image, entrypoint=(), overlay=True)
    assert pysandbox.run(["cat", "/etc/hello"], jail, timeout=20).stdout == b"hello\n"


def test_an_image_is_read_only_but_for_its_working_directory(image: Path) -> None:
    with Sandbox(ChrootJail(image=image, entrypoint=())) as box:
        assert sh(box, "echo x >> main; echo y > new; echo z > /tmp/z; cat main new") == "app\nx\ny\n"
        for path in ("/etc/hello", "/etc/new", "/new", "/dev/new", "/srv/new"):
            assert b"Read-only" in (box.run(["sh", "-c", f"echo x > {path}"], timeout=20).stderr or b"")
        assert named(box.changes()) == {("modified", "/srv/app/main"), ("added", "/srv/app/new")}
        box.write_file("written", "w")
        assert sh(box, "stat -c '%u' written main") == "77\n77\n"
