"""Images as others make them: file systems in files, and what umoci and skopeo write."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest

import pysandbox
from pysandbox import ChrootJail, Sandbox, SetupError, UnsupportedError, images

LOOK = ["sh", "-c", "cat /etc/hello; ls /; echo more >> /etc/hello && cat /etc/hello"]

MAKERS = {
    "squashfs": ("mksquashfs", lambda root, path: ["mksquashfs", root, path, "-quiet", "-no-progress"]),
    "erofs": ("mkfs.erofs", lambda root, path: ["mkfs.erofs", path, root]),
    "ext4": ("mke2fs", lambda root, path: ["mke2fs", "-q", "-t", "ext4", "-d", root, path, "8M"]),
}


def run(*words: object) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def needs(program: str) -> str:
    """The program's path; reported as skipped where it is not installed."""
    folders = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    path = shutil.which(program, path=folders)
    if path is None:
        pytest.skip(f"needs {program}")
    return path


@pytest.fixture(params=MAKERS)
def file_system(request: pytest.FixtureRequest, busybox: Path, tmp_path: Path) -> Path:
    program, words = MAKERS[request.param]
    path = tmp_path / f"image.{request.param}"
    run(needs(program), *words(busybox, path)[1:])
    return path


@pytest.mark.root
def test_a_file_system_in_a_file_is_a_root(file_system: Path) -> None:
    before = file_system.read_bytes()
    with Sandbox(ChrootJail(image=file_system, overlay=True)) as box:
        result = box.run(LOOK, text=True, timeout=20)
        assert (result.stdout or "").startswith("hello\nbin\nbox\n"), result.stderr
        assert (result.stdout or "").endswith("hello\nmore\n"), result.stderr
        assert [(change.kind, change.path) for change in box.changes()] == [("modified", "/etc/hello")]
        assert "+more" in box.diff("/etc/hello")
        point = box.savepoint()
        box.reset()
        assert box.run(["cat", "/etc/hello"], text=True, timeout=20).stdout == "hello\n"
        box.rollback(point)
        assert box.run(["cat", "/etc/hello"], text=True, timeout=20).stdout == "hello\nmore\n"
    assert file_system.read_bytes() == before
    assert str(file_system) not in attached()


def attached() -> set[str]:
    """The files that loop devices are over."""
    found = Path("/sys/block").glob("loop*/loop/backing_file")
    return {path.read_text().strip() for path in found}


@pytest.mark.root
def test_a_file_system_in_a_file_is_read_only_without_an_overlay(file_system: Path) -> None:
    result = pysandbox.run(LOOK, ChrootJail(image=file_system), text=True, timeout=20)
    assert "Read-only" in (result.stderr or "")


@pytest.mark.root
def test_a_file_system_that_is_damaged_is_a_set_up_error(file_system: Path) -> None:
    data = bytearray(file_system.read_bytes())
    start, end = {".squashfs": (8, 96), ".erofs": (1028, 1152), ".ext4": (1024, 1080)}[file_system.suffix]
    data[start:end] = b"\xff" * (end - start)
    file_system.write_bytes(data)
    with pytest.raises(SetupError) as caught:
        pysandbox.run(LOOK, ChrootJail(image=file_system))
    assert caught.value.layer == "ChrootJail"
    assert str(file_system) not in attached()


def test_others_than_root_are_told_what_to_do(busybox: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("needs an ordinary caller; this one is root")
    program, words = MAKERS["squashfs"]
    path = tmp_path / "image"
    run(needs(program), *words(busybox, path)[1:])
    with pytest.raises(UnsupportedError, match="unsquashfs"):
        pysandbox.run(LOOK, ChrootJail(image=path))


def test_boxes_on_an_image_are_entered_beside_those_who_prune(
    busybox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    archive = tmp_path / "root.tar"
    with tarfile.open(archive, "w") as file:
        file.add(busybox, "./")
    stop = threading.Event()
    errors: list[BaseException] = []

    def prune() -> None:
        try:
            while not stop.is_set():
                images.prune()
        except BaseException as error:
            errors.append(error)

    pruners = [threading.Thread(target=prune) for _ in range(2)]
    for thread in pruners:
        thread.start()
    try:
        for _ in range(15):
            with contextlib.suppress(FileNotFoundError):  # as if it was long ago that it was asked for
                os.utime(images.load(str(archive)).path, (1, 1))
            with Sandbox(ChrootJail(image=archive)) as box:
                assert box.run(["cat", "/etc/hello"], text=True, timeout=20).stdout == "hello\n"
    finally:
        stop.set()
        for thread in pruners:
            thread.join()
    assert errors == []


# --- what other tools write -----------------------------------------------------------------------------------------


@pytest.fixture
def layout(busybox: Path, tmp_path: Path) -> Path:
    """An image in two layers that umoci has made, under the name "small"."""
    umoci = needs("umoci")
    path = tmp_path / "layout"
    extra = tmp_path / "extra"
    extra.write_text("of the second layer\n")
    run(umoci, "init", "--layout", path)
    run(umoci, "new", "--image", f"{path}:small")
    mode = [] if os.geteuid() == 0 else ["--rootless"]
    run(umoci, "insert", *mode, "--image", f"{path}:small", busybox, "/")
    run(umoci, "insert", *mode, "--image", f"{path}:small", extra, "/etc/extra")
    run(umoci, "insert", *mode, "--whiteout", "--image", f"{path}:small", "/etc/other")
    run(umoci, "config", "--image", f"{path}:small", "--config.env", "A=1", "--config.workingdir", "/opt/a")
    return path


@pytest.mark.parametrize("form", ["oci", "oci-archive", "docker-archive"])
def test_an_image_of_umoci_and_skopeo_is_a_root(
    layout: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image = f"{layout}:small"
    if form != "oci":
        image = str(tmp_path / "archive.tar")
        policy = tmp_path / "policy.json"
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        temporary = ("--tmpdir", tmp_path)
        run(
            needs("skopeo"),
            "--policy",
            policy,
            *temporary,
            "copy",
            f"oci:{layout}:small",
            f"{form}:{image}:small:latest",
        )
    script = "pwd; echo $A; cat /etc/hello /etc/extra; ls /etc; echo x > /opt/new"
    with Sandbox(ChrootJail(image=image, overlay=True)) as box:
        result = box.run(["sh", "-c", script], text=True, timeout=20)
    assert result.stdout == "/opt/a\n1\nhello\nof the second layer\nextra\nhello\n", result.stderr
