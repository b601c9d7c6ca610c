"""`ChrootJail(root)`: prepared root file systems, and hostile ones, which try to lead the set-up astray."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import pysandbox
from pysandbox import Bind, ChrootJail, ConfigError, Sandbox, SetupError, Tmpfs

SECRET = "the canary sings\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root file system with a shell and what that needs, and a folder that anybody may write to."""
    folder = tmp_path / "root"
    listed = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=True).stdout.split()
    for path in {"/bin/sh", *(word for word in listed if word.startswith("/"))}:
        to = folder / path.lstrip("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(path), to)
    for name in ("data", "empty"):
        (folder / name).mkdir()
        (folder / name).chmod(0o777)
    (folder / "data" / "known").write_text("prepared\n")
    (folder / "data" / "known").chmod(0o666)
    folder.chmod(0o755)
    return folder


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A folder outside the root that no box may read from or write to."""
    folder = tmp_path / "canary"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "secret").write_text(SECRET)
    (folder / "secret").chmod(0o666)
    return folder


def assert_untouched(canary: Path) -> None:
    assert os.listdir(canary) == ["secret"]
    assert (canary / "secret").read_text() == SECRET


def shell(script: str, jail: ChrootJail) -> pysandbox.Result[str]:
    return pysandbox.run(["/bin/sh", "-c", script], jail, text=True, timeout=20)


def text(result: pysandbox.Result[str]) -> str:
    """What a run printed."""
    assert result.stdout is not None
    return result.stdout


def tree(folder: Path) -> list[tuple[str, int, int]]:
    """Every name below a folder, with its mode and the time of its last change."""
    found = [folder, *folder.rglob("*")]
    return sorted((str(path), (status := path.lstat()).st_mode, status.st_mtime_ns) for path in found)


# --- prepared ----------------------------------------------------------------------------------------------------


def test_a_working_directory_inside_a_prepared_root_is_writable_and_bounded(root: Path) -> None:
    (root / "data" / "work").mkdir()
    with Sandbox(ChrootJail(root, workdir="/data/work", size="1M")) as box:
        assert box.run(["/bin/sh", "-c", "echo hello > file"], timeout=20).returncode == 0
        assert box.read_file("file") == b"hello\n"
        with pytest.raises(OSError, match="No space"):
            box.write_file("large", b"x" * 2_000_000)
    assert list((root / "data" / "work").iterdir()) == []


def test_a_prepared_root_is_what_the_payload_sees(root: Path) -> None:
    result = shell("cd /; echo *; read line < /data/known; echo $line", ChrootJail(root))
    names, line = text(result).splitlines()
    assert line == "prepared"
    assert set(names.split()) == {path.name for path in root.iterdir()} | {"box", "dev", "proc", "tmp"}


def test_the_hosts_folders_are_not_in_a_prepared_root(root: Path) -> None:
    assert shell("test ! -e /usr/bin/env && test ! -e /etc/passwd", ChrootJail(root))


def test_a_prepared_root_is_read_only(root: Path) -> None:
    result = shell("echo no > /data/known; echo no > /data/new; echo no > /new", ChrootJail(root))
    assert (result.stderr or "").count("Read-only file system") == 3
    assert (root / "data" / "known").read_text() == "prepared\n"
    assert os.listdir(root / "data") == ["known"]


def test_a_writable_prepared_root_takes_those_writes(root: Path) -> None:
    assert shell("echo yes > /data/known; echo yes > /data/new", ChrootJail(root, writable=True))
    assert (root / "data" / "known").read_text() == "yes\n"
    assert (root / "data" / "new").read_text() == "yes\n"


@pytest.mark.parametrize("writable", [False, True])
def test_building_a_box_changes_nothing_in_a_prepared_root(root: Path, writable: bool) -> None:
    before = tree(root)
    assert shell("echo x > /tmp/file; echo x > /box/file; echo x > /dev/shm/file", ChrootJail(root, writable=writable))
    assert tree(root) == before


def test_a_prepared_root_has_a_private_tmp_and_working_directory(root: Path) -> None:
    for name in ("tmp", "box"):
        (root / name).mkdir()
        (root / name / "of-the-root").touch()
    assert shell("echo $(pwd); echo /tmp/* /box/*", ChrootJail(root)).stdout == "/box\n/tmp/* /box/*\n"


def test_a_prepared_root_has_devices_and_proc(root: Path) -> None:
    assert shell("test -c /dev/null && test -e /proc/self/status && echo x > /dev/null", ChrootJail(root))


def test_a_bind_onto_an_existing_folder_of_a_prepared_root_works(root: Path, canary: Path) -> None:
    jail = ChrootJail(root, binds=(Bind(canary, "/empty"),))
    assert shell("read line < /empty/secret; echo $line", jail).stdout == SECRET
    assert os.listdir(root / "empty") == []


def test_a_tmpfs_over_a_folder_of_a_prepared_root_is_private(root: Path) -> None:
    jail = ChrootJail(root, tmpfs=(Tmpfs("/empty", mode=0o777),))
    assert shell("echo x > /empty/new", jail)
    assert os.listdir(root / "empty") == []


def test_a_folder_of_a_prepared_root_can_be_hidden(root: Path) -> None:
    assert shell("echo /data/*", ChrootJail(root, hide=("/data",))).stdout == "/data/*\n"
    assert (root / "data" / "known").read_text() == "prepared\n"


def test_a_mount_point_that_is_not_there_is_refused_and_not_made(root: Path, canary: Path) -> None:
    before = tree(root)
    with pytest.raises(ConfigError, match="/data/missing"):
        shell("true", ChrootJail(root, writable=True, binds=(Bind(canary, "/data/missing"),)))
    assert tree(root) == before


def test_a_working_directory_inside_a_folder_of_the_root_leaves_the_rest_of_that_folder(root: Path) -> None:
    (root / "data" / "work").mkdir()
    result = shell(
        "echo x > file; echo $(pwd); read line < /data/known; echo $line", ChrootJail(root, workdir="/data/work")
    )
    assert text(result) == "/data/work\nprepared\n"
    assert os.listdir(root / "data" / "work") == []


def test_a_root_that_is_a_symlink_is_the_callers_choice(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert shell("read line < /data/known; echo $line", ChrootJail(tmp_path / "link")).stdout == "prepared\n"


def test_a_relative_root_counts_from_the_callers_directory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    assert shell("read line < /data/known; echo $line", ChrootJail("root")).stdout == "prepared\n"


def test_a_root_entered_again_shows_what_it_holds_by_then(root: Path) -> None:
    sandbox = Sandbox(ChrootJail(root))
    with sandbox as box:
        assert not box.run(["/bin/sh", "-c", "test -e /later"], timeout=20)
    (root / "later").mkdir()
    with sandbox as box:
        assert box.run(["/bin/sh", "-c", "test -e /later"], timeout=20)


def test_a_missing_root_is_an_error_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing"):
        Sandbox(ChrootJail(tmp_path / "missing"))


def test_a_root_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file"):
        Sandbox(ChrootJail(tmp_path / "file"))


@pytest.mark.parametrize("name", [b"with space", b"new\nline", b"\xff\xfe not utf-8", b"back\\slash", b"-dash", b"..."])
def test_a_strange_name_at_the_top_is_carried_over(root: Path, name: bytes) -> None:
    folder = os.fsencode(root) + b"/" + name
    os.mkdir(folder, 0o755)
    with open(folder + b"/file", "w") as file:
        file.write("here\n")
    result = pysandbox.run(
        ["/bin/sh", "-c", 'echo "$1"/*', "sh", os.fsdecode(b"/" + name)], ChrootJail(root), timeout=20
    )
    assert result.stdout == b"/" + name + b"/file\n"


def test_a_box_with_strange_names_can_be_explained(root: Path) -> None:
    os.mkdir(os.fsencode(root) + b"/\xff\n")
    assert "attach_tree" in Sandbox(ChrootJail(root)).explain()


# --- hostile -----------------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[Path, Path], object]] = {
    "link to a folder of the host": lambda path, canary: path.symlink_to(canary),
    "relative link out of the root": lambda path, canary: path.symlink_to(f"../{canary.name}"),
    "link through proc": lambda path, canary: path.symlink_to(f"/proc/1/root{canary}"),
    "link to a file of the host": lambda path, canary: path.symlink_to(canary / "secret"),
    "dangling link": lambda path, canary: path.symlink_to(canary / "new"),
    "loop": lambda path, canary: path.symlink_to(path.name),
    "file": lambda path, canary: path.write_text("a file\n"),
    "FIFO": lambda path, canary: os.mkfifo(path, 0o666),
}

ATTACK = """
for name in dev proc tmp box etc usr sys data empty; do
    read line < /$name/secret && echo $line
    [ -p /$name ] || { read line < /$name && echo $line; }
    echo x > /$name/secret
    echo x > /$name/new
done
exit 0
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["dev", "proc", "tmp", "box", "etc", "usr", "sys"])
def test_a_hostile_entry_leads_neither_set_up_nor_payload_out(root: Path, canary: Path, name: str, kind: str) -> None:
    KINDS[kind](root / name, canary)
    before = [line[:2] for line in tree(root) if line[0] == str(root / name)]
    try:
        result = shell(ATTACK, ChrootJail(root, writable=True))
    except (SetupError, ConfigError):
        pass  # refused
    else:
        assert SECRET not in text(result)
    assert_untouched(canary)
    assert [line[:2] for line in tree(root) if line[0] == str(root / name)] == before


def test_the_attack_does_reach_a_canary_that_was_granted(root: Path, canary: Path) -> None:
    result = shell(ATTACK, ChrootJail(root, binds=(Bind(canary, "/data", writable=True),)))
    assert SECRET in text(result)
    assert sorted(os.listdir(canary)) == ["new", "secret"]


@pytest.mark.parametrize("name", ["dev", "proc", "tmp", "box"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_entry_where_the_box_has_its_own_does_no_harm(root: Path, canary: Path, name: str, kind: str) -> None:
    KINDS[kind](root / name, canary)
    assert shell("test -c /dev/null && test -d /proc/self && echo x > /tmp/x && echo x > /box/x", ChrootJail(root))
    assert_untouched(canary)


@pytest.mark.parametrize(
    "grant",
    [
        {"binds": Bind("/usr", "/data/link/secret")},
        {"binds": Bind("/usr", "/data/link")},
        {"tmpfs": Tmpfs("/data/link")},
        {"tmpfs": Tmpfs("/data/link/secret")},
        {"hide": ("/data/link/secret",)},
        {"hide": ("/data/link",)},
        {"workdir": "/data/link/work"},
        {"files": {"/data/link/file": "x"}},
        {"symlinks": {"/data/link/file": "x"}},
    ],
    ids=str,
)
def test_no_grant_follows_a_symlink_of_the_root(root: Path, canary: Path, grant: dict[str, object]) -> None:
    (root / "data" / "link").symlink_to(canary)
    before = tree(root)
    try:
        result = shell(ATTACK, ChrootJail(root, **grant))  # type: ignore[arg-type]
    except (SetupError, ConfigError):
        pass  # refused
    else:
        assert SECRET not in text(result)
    assert_untouched(canary)
    assert tree(root) == before


def test_a_mount_point_behind_a_symlink_is_refused_by_name(root: Path, canary: Path) -> None:
    (root / "data" / "link").symlink_to(canary)
    with pytest.raises(SetupError) as caught:
        shell("true", ChrootJail(root, tmpfs=(Tmpfs("/data/link/secret"),)))
    assert (caught.value.step, caught.value.errno) == ("mount_tmpfs", errno.ELOOP)


def test_the_same_mount_point_without_a_symlink_is_taken(root: Path) -> None:
    (root / "data" / "link" / "secret").mkdir(parents=True)
    assert shell("test -d /data/link/secret", ChrootJail(root, tmpfs=(Tmpfs("/data/link/secret"),)))


def test_a_hostile_program_name_leads_nowhere(root: Path, canary: Path) -> None:
    (root / "bin" / "tool").symlink_to(canary / "secret")
    with pytest.raises(pysandbox.CommandNotFoundError):
        pysandbox.run(["/bin/tool"], ChrootJail(root), timeout=20)


@pytest.mark.parametrize("name", ["link", "link/secret", "../data/link/secret"])
def test_files_are_not_read_through_a_symlink_of_the_root(root: Path, canary: Path, name: str) -> None:
    (root / "data" / "link").symlink_to(canary)
    with Sandbox(ChrootJail(root)) as box, pytest.raises(OSError) as caught:
        box.read_file(f"/data/{name}")
    assert caught.value.errno == errno.ELOOP


def _exchange(one: Path, other: Path) -> None:
    """Swap two names atomically (renameat2(2))."""
    at_cwd, exchange = -100, 2
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange):
        raise OSError(ctypes.get_errno(), "renameat2")


def assert_no_secret_while_swapped(one: Path, link: Path, script: str, jail: ChrootJail, *, rounds: int) -> None:
    """Build boxes while a thread swaps a folder with a link: some are refused, and none shows what the link leads to."""
    stop, swaps, built = threading.Event(), 0, 0

    def swap() -> None:
        nonlocal swaps
        while not stop.is_set():
            _exchange(one, link)
            swaps += 1

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(rounds):
            try:
                result = shell(script, jail)
            except (SetupError, ConfigError):
                continue
            built += 1
            assert SECRET not in text(result)
    finally:
        stop.set()
        swapper.join()
    assert swaps > 100
    assert built > 0


@pytest.mark.parametrize("where", ["top", "target"])
def test_a_folder_swapped_with_a_symlink_meanwhile_leads_nowhere(root: Path, canary: Path, where: str) -> None:
    folder = root / "data" if where == "top" else root / "data" / "inner"
    folder.mkdir(exist_ok=True)
    link = folder.with_name(f".{folder.name}-other")
    link.symlink_to(canary)
    jail = ChrootJail(root) if where == "top" else ChrootJail(root, hide=("/data/inner",))
    script = (
        "read line < /data/secret && echo $line; read line < /data/inner/secret && echo $line; echo x > /data/new; :"
    )
    assert_no_secret_while_swapped(folder, link, script, jail, rounds=50)
    assert_untouched(canary)


@pytest.mark.parametrize("name", ["tmp", "dev", "proc", "etc", "work", "given", "data"])
def test_what_an_overlay_stands_on_swapped_with_a_symlink_meanwhile_leads_nowhere(
    root: Path, canary: Path, tmp_path: Path, name: str
) -> None:
    for folder in ("tmp", "dev", "proc", "etc", "work", "given"):
        (root / folder).mkdir(exist_ok=True)
    granted = tmp_path / "granted"
    granted.mkdir()
    link = root / ".other"
    link.symlink_to(canary)
    jail = ChrootJail(
        root, overlay=True, workdir="/work", binds=(Bind(granted, "/given"),), files={"/etc/made": "x"}, hide=("/data",)
    )
    script = f"read line < /{name}/secret && echo $line; echo x > /{name}/secret; echo x > /{name}/new; :"
    assert_no_secret_while_swapped(root / name, link, script, jail, rounds=30)
    assert_untouched(canary)


def test_a_source_swapped_with_a_symlink_meanwhile_leads_nowhere(root: Path, canary: Path, tmp_path: Path) -> None:
    source, link = tmp_path / "source", tmp_path / "link"
    source.mkdir()
    link.symlink_to(canary)
    stop, outcomes = threading.Event(), set()

    def swap() -> None:
        while not stop.is_set():
            _exchange(source, link)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(50):
            try:
                jail = ChrootJail(root, binds=(Bind(source, "/data", writable=True),))
                result = shell("read line < /data/secret && echo $line; echo x > /data/secret; :", jail)
            except SetupError as error:
                assert error.errno == errno.ELOOP  # noqa: PT017
                outcomes.add("refused")
            else:
                assert SECRET not in text(result)
                outcomes.add("built")
    finally:
        stop.set()
        swapper.join()
    assert outcomes <= {"refused", "built"}
    assert_untouched(canary)


def test_too_many_entries_at_the_top_are_refused(root: Path) -> None:
    for number in range(1000):
        (root / f"entry-{number}").mkdir()
    with pytest.raises(ConfigError, match="entries"):
        Sandbox(ChrootJail(root))


def test_as_many_files_at_the_top_are_refused_too(root: Path) -> None:
    for number in range(1000):
        (root / f"entry-{number}").touch()
    with pytest.raises(ConfigError, match="entries"):
        Sandbox(ChrootJail(root))


def test_a_hundred_entries_at_the_top_are_taken(root: Path) -> None:
    for number in range(100):
        (root / f"entry-{number}").mkdir()
    assert shell("cd /entry-99", ChrootJail(root))
