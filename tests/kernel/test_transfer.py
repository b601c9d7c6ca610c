"""`copy_in`, `copy_out`, `listdir`: whole folders in and out, bounded, and bent by nothing that a payload leaves."""

from __future__ import annotations

import errno
import io
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pysandbox import Bind, ChrootJail, ConfigError, Sandbox


def sh(box: Sandbox, script: str) -> bytes:
    result = box.run(["bash", "-c", script], timeout=100)
    assert result.returncode == 0, result.stderr
    assert result.stdout is not None
    return result.stdout


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of the caller's."""
    folder = tmp_path / "source"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "a").write_bytes(b"a")
    (folder / "sub" / "run").write_text("#!/bin/sh\necho ran\n")
    (folder / "sub" / "run").chmod(0o755)
    (folder / "sub" / "deep" / "b").write_bytes(b"b" * 3_000_000)
    (folder / "link").symlink_to("a")
    return folder


# --- in -----------------------------------------------------------------------------------------------------------


def test_a_folder_comes_in_with_all_that_is_in_it(box: Sandbox, source: Path) -> None:
    box.copy_in(source, "some/where")
    assert sh(box, "cd some/where; find . -type f | sort; sub/run; cat link; stat -c %u sub/deep/b") == (
        b"./a\n./link\n./sub/deep/b\n./sub/run\nran\na1000\n"
    )
    sh(box, "rm -r some; mkdir some")


def test_a_file_comes_in_under_its_own_name_or_another(box: Sandbox, source: Path) -> None:
    box.copy_in(source / "sub" / "run")
    box.copy_in(source / "a", "x/y/z")
    box.copy_in(io.BytesIO(b"from a file object"), "object")
    assert sh(box, "./run; cat x/y/z object") == b"ran\nafrom a file object"


def test_write_file_takes_a_file_object(box: Sandbox, source: Path) -> None:
    with open(source / "sub" / "deep" / "b", "rb") as file:
        box.write_file("b", file)
    assert box.read_file("b") == b"b" * 3_000_000


def test_what_comes_in_is_bounded(box: Sandbox, source: Path) -> None:
    with pytest.raises(OSError, match="max_size") as caught:
        box.copy_in(source, max_size="1M")
    assert caught.value.errno == errno.EFBIG
    with pytest.raises(OSError, match="max_files") as caught:
        box.copy_in(source, max_files=3)
    assert caught.value.errno == errno.E2BIG
    with pytest.raises(OSError, match="max_size"):
        box.copy_in(io.BytesIO(bytes(2000)), "name", max_size=1000)


def test_what_is_refused_at_once_leaves_the_file_as_it_is(box: Sandbox, source: Path) -> None:
    box.write_file("there", "as it was")
    with pytest.raises(ConfigError, match="binary"):
        box.write_file("there", io.StringIO("text"))  # type: ignore[arg-type]  # the mistake
    with pytest.raises(ConfigError, match="binary"):
        box.write_file("there", io.StringIO(""))  # type: ignore[arg-type]  # the mistake
    with pytest.raises(ConfigError, match="UTF-8"):
        box.write_file("there", "\udcff")
    with pytest.raises(OSError, match="max_size"):
        box.copy_in(source / "sub" / "deep" / "b", "there", max_size=5)
    assert box.read_file("there") == b"as it was"


def test_a_name_that_ends_in_a_slash_is_the_folder_it_goes_into(box: Sandbox, source: Path) -> None:
    box.copy_in(source / "a", "into/")
    box.copy_in(source / "sub", "into/")
    assert sh(box, "cd into; find . -type f | sort; rm -r /box/into") == b"./a\n./sub/deep/b\n./sub/run\n"
    with pytest.raises(ConfigError, match="name of a file"):
        box.copy_in(io.BytesIO(b"x"), "into/")
    with pytest.raises(ConfigError, match="name of a file"):
        box.copy_in("/", "into/")
    box.copy_in(source / "a", "two//slashes//")
    box.copy_in(source / "a", "//tmp/a")
    assert sh(box, "cat /box/two/slashes/a /tmp/a") == b"aa"
    sh(box, "rm -r /box/two /tmp/a")


def test_a_loop_of_links_comes_to_an_end(box: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(".")
    with pytest.raises(OSError):
        box.copy_in(tmp_path, "loop", max_files=100_000)


def test_what_is_no_file_does_not_come_in(box: Sandbox, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="Not a regular file"):
        box.copy_in(tmp_path)
    with pytest.raises(FileNotFoundError):
        box.copy_in(tmp_path / "nothing")
    for wrong in (5, None, io.BytesIO(b"")):
        with pytest.raises(ConfigError):
            box.copy_in(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        box.copy_in(io.StringIO("text"), "name")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["link/x", "x/y", "link", "fifo", "../../proc/self/fd/1"])
def test_nothing_that_the_payload_left_is_followed_on_the_way_in(box: Sandbox, source: Path, name: str) -> None:
    sh(box, "ln -s /dev/shm link; ln -s /etc x; mkfifo fifo")
    with pytest.raises(OSError):
        box.copy_in(source / "a", name)
    assert sh(box, "ls /dev/shm") == b""


# --- out ----------------------------------------------------------------------------------------------------------

MADE = """
mkdir -p out/sub/deep empty; echo 1 > out/a.txt; echo 2 > out/sub/b.txt; echo 3 > out/sub/deep/c.txt; echo 4 > out/sub/d.log
echo 5 > top.txt; chmod 755 out/a.txt; chmod 600 top.txt; echo 6 > /tmp/elsewhere; echo 7 > .hidden
"""


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("top.txt", ["top.txt"]),
        ("out", ["out/a.txt", "out/sub/b.txt", "out/sub/d.log", "out/sub/deep/c.txt"]),
        ("*.txt", ["top.txt"]),
        ("out/*.txt", ["a.txt"]),
        ("out/*", ["a.txt", "sub/b.txt", "sub/d.log", "sub/deep/c.txt"]),
        ("**/*.txt", ["out/a.txt", "out/sub/b.txt", "out/sub/deep/c.txt", "top.txt"]),
        ("out/**/*.txt", ["a.txt", "sub/b.txt", "sub/deep/c.txt"]),
        ("**/sub/*.log", ["out/sub/d.log"]),
        ("**/deep", ["out/sub/deep/c.txt"]),
        ("**/deep/**", ["out/sub/deep/c.txt"]),
        ("o?t/[ab].txt", ["out/a.txt"]),
        ("/tmp/else*", ["elsewhere"]),
        ("/tmp/elsewhere", ["elsewhere"]),
        ("./out/../top.txt", ["top.txt"]),
        ("*.none", []),
        ("empty/*", []),
    ],
)
def test_what_a_pattern_matches_comes_out(box: Sandbox, tmp_path: Path, pattern: str, names: list[str]) -> None:
    sh(box, MADE)
    into = tmp_path / "into" / "new"
    assert box.copy_out(pattern, into) == names
    assert sorted(name for name, content in tree(into).items() if content is not None) == names


def test_what_came_out_is_the_callers(box: Sandbox, tmp_path: Path) -> None:
    sh(box, MADE)
    box.copy_out("**", tmp_path)
    for name, mode in (("out/a.txt", 0o755), ("top.txt", 0o644)):
        found = (tmp_path / name).stat()
        assert (found.st_uid, found.st_mode & 0o777) == (os.geteuid(), mode)


def test_empty_folders_come_out_too(box: Sandbox, tmp_path: Path) -> None:
    sh(box, "mkdir -p full/e empty; echo x > full/x")
    assert box.copy_out("full", tmp_path) == ["full/x"]
    assert box.copy_out("empty", tmp_path) == []
    assert (tmp_path / "full" / "e").is_dir()
    assert (tmp_path / "empty").is_dir()
    sh(box, "rm -r full empty")


def test_what_comes_out_replaces_a_file_and_does_not_write_into_it(box: Sandbox, tmp_path: Path) -> None:
    there, other = tmp_path / "tool", tmp_path / "other name"
    there.write_text("the caller's")
    os.link(there, other)
    there.chmod(0o6711)
    box.write_file("tool", "of the payload", mode=0o755)
    box.copy_out("tool", tmp_path)
    assert there.read_text() == "of the payload"
    assert there.stat().st_mode & 0o7700 == 0o700
    assert other.read_text() == "the caller's"


@pytest.mark.parametrize("has_unnamed_files", [True, False])
def test_a_copy_that_fails_leaves_the_file_that_was_there(
    box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_unnamed_files: bool
) -> None:
    if not has_unnamed_files:  # as on file systems without O_TMPFILE
        monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY | os.O_CREAT | os.O_EXCL)
    (tmp_path / "big").write_text("as it was")
    sh(box, "head -c 3M /dev/zero > big; echo y > small")
    with pytest.raises(OSError, match="max_size"):
        box.copy_out("big", tmp_path, max_size="1M")
    assert (tmp_path / "big").read_text() == "as it was"
    box.copy_out("small", tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["big", "small"]
    assert (tmp_path / "small").read_text() == "y\n"


def test_folders_that_are_closed_on_the_way_are_gone_through(box: Sandbox, tmp_path: Path) -> None:
    sh(box, "mkdir -p closed/in; echo x > closed/in/f; chmod 0 closed/in closed")
    assert box.copy_out("closed/in/f", tmp_path) == ["f"]
    sh(box, "chmod 700 closed; chmod 700 closed/in; rm -r closed")


def test_a_name_that_is_not_there_is_not_found(box: Sandbox, tmp_path: Path) -> None:
    for name in ("nothing", "nothing/here", "nothing/*"):
        with pytest.raises(FileNotFoundError):
            box.copy_out(name, tmp_path)


@pytest.mark.parametrize(
    "pattern", ["/proc/1/environ", "/proc/*", "/dev/null", "/sys/*", "/", "", "../proc/1/environ", "x\0"]
)
def test_what_is_no_file_of_anybodys_is_not_copied(box: Sandbox, tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ConfigError):
        box.copy_out(pattern, tmp_path)


@pytest.mark.parametrize("pattern", ["/pro*/kmsg", "/**/hostname", "/*/sys/kernel/hostname", "/[p]roc/*", "/d*/null"])
def test_no_pattern_matches_what_is_no_file_of_anybodys(box: Sandbox, tmp_path: Path, pattern: str) -> None:
    try:
        copied = box.copy_out(pattern, tmp_path / "into")
    except OSError:
        copied = []
    assert [name for name in copied if name.split("/")[0] in ("proc", "dev", "sys")] == []


LEFT: dict[str, tuple[str, int | None]] = {
    "a FIFO": ("mkfifo x", errno.ENXIO),
    "a socket": ("python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"x\")'", errno.ENXIO),
    "a link to a file of the host": ("ln -s /etc/hostname x", errno.ENXIO),
    "a link to a folder": ("ln -s /etc x", errno.ENXIO),
    "a link to proc": ("ln -s /proc/self/root/etc/passwd x", errno.ENXIO),
    "a chain of links": ("ln -s y x; ln -s z y; ln -s /etc/passwd z", errno.ENXIO),
    "a sparse giant": ("truncate -s 1T x", errno.EFBIG),
    "many files": ("mkdir x; cd x; for ((i = 0; i < 300; i++)); do : > $i; done", errno.E2BIG),
    "deep folders": ("for ((i = 0; i < 300; i++)); do mkdir x; cd x; done; echo 1 > file", errno.ELOOP),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_a_payload_left_gives_an_error_at_once(box: Sandbox, tmp_path: Path, case: str) -> None:
    script, error = LEFT[case]
    sh(box, script)
    begun = time.monotonic()
    with pytest.raises(OSError) as caught:
        box.copy_out("x", tmp_path / "into", max_files=290 if case == "many files" else 10_000)
    assert caught.value.errno == error
    assert time.monotonic() - begun < 5
    assert not any(content for content in tree(tmp_path).values()), "nothing of the host's was read"


def test_a_link_between_files_is_an_error_also_for_a_pattern(box: Sandbox, tmp_path: Path) -> None:
    sh(box, "ln -s /etc/passwd link; echo 1 > file")
    with pytest.raises(OSError, match="Not a regular file"):
        box.copy_out("*", tmp_path)
    assert box.copy_out("f*", tmp_path) == ["file"]


def test_what_comes_out_is_bounded(box: Sandbox, tmp_path: Path) -> None:
    sh(box, "head -c 3000 /dev/zero > a; head -c 3000 /dev/zero > b")
    with pytest.raises(OSError, match="max_size"):
        box.copy_out("*", tmp_path, max_size=5000)
    assert box.copy_out("*", tmp_path, max_size=6000) == ["a", "b"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_no_link_of_the_destination_is_followed(box: Sandbox, tmp_path: Path, kind: str) -> None:
    canary, into = tmp_path / "canary", tmp_path / "into"
    canary.mkdir()
    into.mkdir()
    (canary / "a.txt").write_text("canary")
    (into / "out").symlink_to(canary) if kind == "folder" else None
    if kind == "file":
        (into / "out").mkdir()
        (into / "out" / "a.txt").symlink_to(canary / "a.txt")
    sh(box, MADE)
    with pytest.raises(OSError):
        box.copy_out("out", into)
    assert tree(canary) == {"a.txt": b"canary"}


def test_names_of_any_bytes_come_out_as_they_are(box: Sandbox, tmp_path: Path) -> None:
    names = [b"a\nb", b"\xff\xfe", b"-rf", b"*", b"sp ace", "ü".encode(), b"\x1b[31m"]
    for name in names:
        box.write_file(os.fsdecode(name), name)
    box.copy_out("**", tmp_path)
    assert sorted(os.listdir(os.fsencode(tmp_path))) == sorted(names)


def test_names_that_change_meanwhile_never_lead_elsewhere(tmp_path: Path) -> None:
    swap = "while :; do ln -sfn /etc x/y; rm -f x/y; mkdir -p x/y; echo inside > x/y/passwd; rm -rf x/y; done"
    with Sandbox() as box:
        sh(box, "mkdir x")
        with box.popen(["bash", "-c", swap]):
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                try:
                    box.copy_out("x", tmp_path / "into")
                except OSError:
                    continue
    for content in tree(tmp_path).values():
        assert content in (None, b"", b"inside\n")


def test_a_writable_bind_is_read_in_the_same_way(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (tmp_path / "secret").write_text("canary")
    with Sandbox(ChrootJail(binds=[Bind(shared, "/shared", writable=True)])) as box:
        sh(box, f"echo 1 > /shared/file; ln -s {tmp_path}/secret /shared/link")
        assert box.copy_out("/shared/f*", tmp_path / "into") == ["file"]
        with pytest.raises(OSError, match="Not a regular file"):
            box.copy_out("/shared/link", tmp_path / "into")


# --- lists --------------------------------------------------------------------------------------------------------


def test_a_folder_is_listed(box: Sandbox) -> None:
    sh(box, "mkdir a b; : > c; ln -s /etc a/link")
    assert box.listdir() == ["a", "b", "c"]
    assert box.listdir("a") == ["link"]
    assert "passwd" in box.listdir("/etc")


@pytest.mark.parametrize(
    ("name", "error"), [("link", OSError), ("file", NotADirectoryError), ("none", FileNotFoundError), (5, ConfigError)]
)
def test_what_is_no_folder_is_not_listed(box: Sandbox, name: Any, error: type[Exception]) -> None:
    sh(box, "ln -s /etc link; : > file")
    with pytest.raises(error):
        box.listdir(name)


def test_a_long_list_is_refused(box: Sandbox) -> None:
    sh(box, "for ((i = 0; i < 50; i++)); do : > $i; done")
    with pytest.raises(OSError, match="max_files"):
        box.listdir(max_files=40)
    assert len(box.listdir(max_files=50)) == 50


@pytest.mark.parametrize(
    "options", [{"max_files": 0}, {"max_files": "9"}, {"max_size": "12 parsecs"}, {"max_size": -1}]
)
def test_bounds_that_are_none_are_refused(box: Sandbox, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        box.copy_out("x", tmp_path, **options)
    with pytest.raises(ConfigError):
        box.copy_in(tmp_path, **options)


def test_several_threads_copy_at_once(box: Sandbox, source: Path, tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            box.copy_in(source, f"in{number}")
            box.copy_out(f"in{number}", tmp_path / "out")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {(tmp_path / "out" / f"in{number}" / "a").read_bytes() for number in range(6)} == {b"a"}
