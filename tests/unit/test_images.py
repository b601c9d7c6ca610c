"""Images: what is unpacked of honest ones, and that hostile ones are refused by name and write nothing outside."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))

from archives import Layout, Member, digest, docker_save, folder, hard_link, link, member, tar

from pysandbox import ConfigError, UnsupportedError, images
from pysandbox.images import Bounds, cache, loading


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[..., Path]:
    """Unpack an archive of these members; returns the root."""

    def unpack(*members: Member, data: bytes | None = None, bounds: Bounds | None = None) -> Path:
        archive = tmp_path / "root.tar"
        archive.write_bytes(tar(members) if data is None else data)
        return Path(images.load(str(archive), bounds=bounds).root)

    return unpack


def tree(root: Path) -> dict[str, Any]:
    """All that is below a folder: content of files, text of links, None for folders."""
    found: dict[str, Any] = {}
    for above, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(above, name)
            shown = str(path.relative_to(root))
            found[shown] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


def left_in_cache() -> list[str]:
    return os.listdir(cache.folder())


# --- what is unpacked ----------------------------------------------------------------------------------------------


def test_files_folders_and_links_are_as_in_the_archive(unpack: Callable[..., Path]) -> None:
    root = unpack(
        folder("./"),
        folder("./etc", mode=0o750, mtime=1_000_000),
        member("./etc/hello", b"hello", mode=0o640, mtime=1_234_567),
        link("./etc/link", "../../../etc/passwd"),
        hard_link("./etc/same", "./etc/hello"),
        member("no/folder/was/named", b"x"),
    )
    assert tree(root) == {
        "etc": None,
        "etc/hello": b"hello",
        "etc/link": "../../../etc/passwd",
        "etc/same": b"hello",
        "no": None,
        "no/folder": None,
        "no/folder/was": None,
        "no/folder/was/named": b"x",
    }
    hello = (root / "etc/hello").stat()
    assert (stat.S_IMODE(hello.st_mode), hello.st_mtime, hello.st_nlink) == (0o640, 1_234_567, 2)
    assert stat.S_IMODE((root / "etc").stat().st_mode) == 0o750
    assert (root / "etc").stat().st_mtime == 1_000_000


def test_set_user_id_is_not_kept(unpack: Callable[..., Path]) -> None:
    root = unpack(member("su", b"x", mode=0o6755), folder("t", mode=0o3777))
    assert stat.S_IMODE((root / "su").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "t").stat().st_mode) == 0o1777


def test_owners_are_the_callers(unpack: Callable[..., Path]) -> None:
    root = unpack(member("of-another", b"x", uid=12345, gid=12345))
    found = (root / "of-another").stat()
    assert (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid())


@pytest.mark.parametrize(
    "compress", [gzip.compress, bz2.compress, lzma.compress, bytes], ids=["gz", "bz2", "xz", "tar"]
)
def test_a_root_file_system_may_be_compressed(unpack: Callable[..., Path], compress: Callable[[bytes], bytes]) -> None:
    assert tree(unpack(data=compress(tar([member("a", b"1" * 100_000)])))) == {"a": b"1" * 100_000}


def test_zstd_is_read_or_refused_with_what_to_install(unpack: Callable[..., Path]) -> None:
    frame = b"\x28\xb5\x2f\xfd\x24\x00\x01\x00\x00\x99\xe9\xd8\x51"  # nothing, compressed
    with pytest.raises((UnsupportedError, ConfigError), match=r"zstandard|no tar archive"):
        unpack(data=frame)


def test_devices_of_dev_are_left_to_the_box(unpack: Callable[..., Path]) -> None:
    assert tree(unpack(folder("dev"), member("dev/sda", kind=tarfile.BLKTYPE))) == {"dev": None}


# --- layers --------------------------------------------------------------------------------------------------------

BASE = [
    folder("etc"),
    member("etc/keep", b"keep"),
    member("etc/gone", b"gone"),
    member("etc/new", b"old"),
    folder("opt"),
    folder("opt/a"),
    member("opt/a/b", b"b"),
    member("was-file", b"x"),
    folder("was-folder"),
    member("was-folder/x", b"x"),
    link("was-link", "etc"),
]
TOP = [
    member("etc/.wh.gone"),
    member("etc/new", b"new"),
    folder("opt"),
    member("opt/own", b"own"),
    member("opt/.wh..wh..opq"),
    folder("was-file"),
    member("was-file/y", b"y"),
    member("was-folder", b"f"),
    folder("was-link"),
    member("was-link/z", b"z"),
]
BOTH = {
    "etc": None,
    "etc/keep": b"keep",
    "etc/new": b"new",
    "opt": None,
    "opt/own": b"own",
    "was-file": None,
    "was-file/y": b"y",
    "was-folder": b"f",
    "was-link": None,
    "was-link/z": b"z",
}


@pytest.mark.parametrize(
    "top",
    [
        [member(".wh.d"), member("d/new", b"n")],
        [member("d/new", b"n"), member(".wh.d")],
        [folder("d"), member("d/new", b"n"), member(".wh.d")],
        [member("d/.wh..wh..opq"), member("d/new", b"n")],
        [member("d/new", b"n"), member("d/.wh..wh..opq")],
        [member("d/new", b"n"), member(".wh.d"), member("d/.wh..wh..opq"), member(".wh.d")],
    ],
    ids=lambda top: " ".join(info.name for info, _ in top),
)
def test_a_whiteout_takes_away_what_lower_layers_have_wherever_it_stands(tmp_path: Path, top: list[Member]) -> None:
    base = [folder("d", mode=0o700, mtime=5), member("d/old", b"o"), folder("d/sub"), member("d/sub/old", b"o")]
    path = Layout([tar(base), tar(top)]).write(tmp_path / "image")
    assert tree(Path(images.load(str(path)).root)) == {"d": None, "d/new": b"n"}


def test_a_folder_under_a_whiteout_is_the_same_whether_the_whiteout_comes_first_or_last(tmp_path: Path) -> None:
    base = [folder("d", mode=0o700, mtime=5), folder("d/sub", mode=0o700, mtime=5), member("d/sub/old", b"o")]
    found = []
    for number, top in enumerate(([".wh.d", "d/sub/new"], ["d/sub/new", ".wh.d"])):
        layers = [tar(base), tar([member(name) for name in top])]
        root = Path(images.load(str(Layout(layers).write(tmp_path / f"image{number}"))).root)
        found.append([stat.S_IMODE((root / name).stat().st_mode) for name in ("d", "d/sub")])
        assert (root / "d/sub").stat().st_mtime > 5
        assert list(tree(root)) == ["d", "d/sub", "d/sub/new"]
    assert found == [[0o755, 0o755]] * 2


def test_a_whiteout_of_what_its_layer_empties_is_no_error(tmp_path: Path) -> None:
    top = [member(".wh.d"), member("d/.wh..wh..opq"), member(".wh.d"), member("e/.wh..wh..opq"), member(".wh.e")]
    path = Layout([tar([member("d/old")]), tar(top)]).write(tmp_path / "image")
    assert tree(Path(images.load(str(path)).root)) == {}


def test_whiteouts_of_many_folders_take_time_by_their_number(tmp_path: Path) -> None:
    """A hundred folders by whiteouts, beside ever more that stay: what is done for each does not grow with them."""
    steps = {}
    for count in (200, 2000):
        layers = [
            tar([folder(f"d{number}") for number in range(count)]),
            tar([member(f".wh.d{number}") for number in range(100)]),
        ]
        path = str(Layout(layers).write(tmp_path / f"image{count}"))
        steps[count] = 0

        def count_lines(frame: Any, event: str, _: object, count: int = count) -> Any:
            names = [frame.f_code.co_name, frame.f_back.f_code.co_name if frame.f_back else ""]
            if "_remove_tree" not in names:  # a comprehension is a function of its own before Python 3.12
                return count_lines if event == "call" and frame.f_code.co_name == "_remove_tree" else None
            steps[count] += event == "line"
            return count_lines

        before = sys.gettrace()
        sys.settrace(count_lines)
        try:
            root = images.load(path).root
        finally:
            sys.settrace(before)
        assert len(os.listdir(root)) == count - 100
    assert steps[2000] < 2 * steps[200]


@pytest.mark.parametrize("kind", ["oci folder", "oci tar", "oci tar.gz", "docker save", "docker save.gz"])
def test_layers_lie_one_over_the_other(tmp_path: Path, kind: str) -> None:
    layers = [tar(BASE), tar(TOP)]
    path = tmp_path / "image"
    if kind == "oci folder":
        Layout(layers).write(path)
    else:
        data = docker_save(layers) if "docker" in kind else Layout(layers).tar()
        path.write_bytes(gzip.compress(data, 1) if kind.endswith("gz") else data)
    assert tree(Path(images.load(str(path)).root)) == BOTH


def test_one_image_in_two_forms_is_unpacked_once(tmp_path: Path) -> None:
    layers = [tar(BASE)]
    (tmp_path / "docker.tar").write_bytes(docker_save(layers))
    Layout(layers).write(tmp_path / "oci")
    one, other = images.load(str(tmp_path / "docker.tar")), images.load(str(tmp_path / "oci"))
    assert one.path == other.path
    assert images.list_images() == [one]


def test_the_configuration_is_the_images(tmp_path: Path) -> None:
    config = {
        "Env": ["A=1", "B=x=y", "=odd", "odd"],
        "WorkingDir": "/srv",
        "User": "judge:games",
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["true"],
    }
    etc = [member("etc/passwd", b"root:x:0:0::/:\njudge:x:7:8::/:\n"), member("etc/group", b"games:x:60:\n")]
    image = images.load(str(Layout([tar(etc)], config).write(tmp_path / "image")))
    assert image.config.env == (("A", "1"), ("B", "x=y"))
    assert (image.config.workdir, image.config.entrypoint, image.config.command) == (
        "/srv",
        ("/bin/sh", "-c"),
        ("true",),
    )
    assert images.ids_of(image) == (7, 60)


@pytest.mark.parametrize(
    ("user", "ids"), [("", (0, 0)), ("5", (5, 0)), ("5:6", (5, 6)), ("judge", (7, 8)), ("7", (7, 8)), ("nobody", None)]
)
def test_users_are_looked_up_in_the_image(tmp_path: Path, user: str, ids: tuple[int, int] | None) -> None:
    layout = Layout([tar([member("etc/passwd", b"judge:x:7:8::/:\n")])], {"User": user})
    image = images.load(str(layout.write(tmp_path / "image")))
    if ids is None:
        with pytest.raises(ConfigError, match="nobody"):
            images.ids_of(image)
    else:
        assert images.ids_of(image) == ids


def test_users_of_an_image_are_not_looked_up_outside(tmp_path: Path) -> None:
    image = images.load(str(Layout([tar([link("etc", "/etc")])], {"User": "root:adm"}).write(tmp_path / "image")))
    with pytest.raises(ConfigError):
        images.ids_of(image)


def test_of_several_images_one_is_named(tmp_path: Path) -> None:
    one, other = Layout([tar([member("one", b"1")])]), Layout([tar([member("other", b"2")])])
    ref = "org.opencontainers.image.ref.name"
    one.files |= other.files
    one.entries = [
        {**one.entries[0], "annotations": {ref: "one"}},
        {**other.entries[0], "annotations": {ref: "other"}},
    ]
    path = one.write(tmp_path / "image")
    with pytest.raises(ConfigError, match="'one', 'other'"):
        images.load(str(path))
    assert tree(Path(images.load(f"{path}:other").root)) == {"other": b"2"}


def several(tmp_path: Path, *, full: bool = True, extra: tuple[str, ...] = ()) -> Path:
    """Two images in what Docker writes from version 25 on: both of the tag "latest"."""
    one, other = Layout([tar([member("a", b"1")])]), Layout([tar([member("b", b"2")])])
    about = [one.by_docker("a:latest", *extra, full=full), other.by_docker("b:latest", full=full)]
    one.files |= {**other.files, "manifest.json": json.dumps(about).encode()}
    one.entries += other.entries
    return one.write(tmp_path / "image")


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("name", ["b:latest", "b", "docker.io/library/b:latest", "docker.io/b", "sha256:", ""])
def test_an_image_of_docker_is_named_by_tag_full_name_or_digest(tmp_path: Path, name: str, full: bool) -> None:
    path = several(tmp_path, full=full)
    if name in ("sha256:", ""):
        name += json.loads((path / "index.json").read_text())["manifests"][1]["digest"].partition(":")[2]
    assert tree(Path(images.load(f"{path}:{name}").root)) == {"b": b"2"}


@pytest.mark.parametrize("name", ["", ":latest", ":c"])
def test_several_images_are_told_apart_in_the_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"'docker.io/library/a:latest', 'docker.io/library/b:latest'"):
        images.load(f"{several(tmp_path)}{name}")


def test_names_that_are_the_same_are_shown_as_digests(tmp_path: Path) -> None:
    path = several(tmp_path, full=False)
    with pytest.raises(ConfigError, match=r"'sha256:\w{64}', 'sha256:\w{64}', 'a:latest', 'b:latest'"):
        images.load(f"{path}:latest")


def test_an_image_with_two_tags_is_one(tmp_path: Path) -> None:
    layout = Layout([tar([member("a", b"1")])])
    layout.by_docker("a:1", "a:2")
    path = layout.write(tmp_path / "image")
    assert images.load(str(path)) == images.load(f"{path}:a:2")


@pytest.mark.parametrize("name", ["b:1", "b:latest", "b", "docker.io/library/b:1"])
def test_an_image_of_docker_save_is_named_by_its_tag(tmp_path: Path, name: str) -> None:
    (tmp_path / "image").write_bytes(docker_save([tar([member("a", b"1")])], tags=("b:1", "b:latest")))
    assert tree(Path(images.load(f"{tmp_path / 'image'}:{name}").root)) == {"a": b"1"}
    with pytest.raises(ConfigError, match="'b:1', 'b:latest'"):
        images.load(f"{tmp_path / 'image'}:c")


def archived(path: Path, how: str) -> bytes:
    """A folder as tar(1) and tarfile archive it, from inside."""
    file = io.BytesIO()
    format_ = tarfile.GNU_FORMAT if how == "dot" else tarfile.PAX_FORMAT
    more = {"pax_headers": {"comment": "of all"}} if how == "global" else {}
    with tarfile.open(fileobj=file, mode="w", format=format_, **more) as archive:  # type: ignore[call-overload]
        if how == "dot":
            archive.add(path, "./")
        for name in sorted(os.listdir(path)) if how != "dot" else ():
            archive.add(path / name, name)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_zeros_after_what_is_compressed_are_bounded(tmp_path: Path, kind: str) -> None:
    compress = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[kind]
    archive = tmp_path / f"image.tar.{kind}"
    archive.write_bytes(compress(tar(BASE)) + bytes(1 << 20))
    assert tree(Path(images.load(str(archive)).root))
    os.truncate(archive, 64 << 20)
    with pytest.raises(ConfigError, match="zeros after"):
        images.load(str(archive))
    assert len(left_in_cache()) == 1  # the first


@pytest.mark.parametrize("how", ["dot", "pax", "global"])
@pytest.mark.parametrize("kind", ["oci", "docker"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_an_archive_of_an_image_is_known_whatever_it_begins_with(
    tmp_path: Path, how: str, kind: str, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "layout"
    if kind == "oci":
        Layout([tar(BASE), tar(TOP)]).write(path)
    else:
        with tarfile.open(fileobj=io.BytesIO(docker_save([tar(BASE), tar(TOP)]))) as archive:
            archive.extractall(path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    for file in [path, *path.rglob("*")]:
        os.utime(file, (1.5, 1.5))  # which PAX writes into a header of its own
    (tmp_path / "image.tar").write_bytes(compress(archived(path, how)))
    assert tree(Path(images.load(str(tmp_path / "image.tar")).root)) == BOTH


@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_an_image_beside_other_files_is_refused_as_ambiguous(tmp_path: Path, kind: str) -> None:
    data = Layout([tar(BASE)]).tar() if kind == "oci" else docker_save([tar(BASE)])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = [member(info.name, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]
    (tmp_path / "image.tar").write_bytes(tar([folder("./"), member("./README"), *files]))
    with pytest.raises(ConfigError, match=r"ambiguous.*'README'"):
        images.load(str(tmp_path / "image.tar"))
    assert left_in_cache() == []


def test_a_root_may_have_names_that_images_have(unpack: Callable[..., Path]) -> None:
    assert tree(unpack(folder("./"), member("./blobs/x", b"1"), member("./etc/y", b"2"), member("index.json"))) == {
        "blobs": None,
        "blobs/x": b"1",
        "etc": None,
        "etc/y": b"2",
        "index.json": b"",
    }


def test_of_several_architectures_the_machines_is_taken(tmp_path: Path) -> None:
    layout = Layout([tar([member("a", b"1")])])
    ours = {**layout.entries[0], "platform": {"os": "linux", "architecture": layout.config["architecture"]}}
    theirs = {"digest": digest(b"not here"), "platform": {"os": "linux", "architecture": "pdp11"}}
    layout.entries = [theirs, ours]
    assert images.load(str(layout.write(tmp_path / "image"))).size == 1
    layout.entries = [theirs]
    with pytest.raises(ConfigError, match="pdp11"):
        images.load(str(layout.write(tmp_path / "image")))


# --- what is refused -----------------------------------------------------------------------------------------------

OUTSIDE = "../" * 20 + "tmp/pysandbox-test-outside"

HOSTILE: dict[str, tuple[list[Member], str]] = {
    "absolute": ([member("/etc/evil", b"x")], "'/etc/evil' is absolute"),
    "upwards": ([member(OUTSIDE, b"x")], "leads upwards"),
    "upwards inside": ([folder("a"), member("a/../b", b"x")], "leads upwards"),
    "through a symlink": ([link("a", "/tmp"), member("a/evil", b"x")], "'a/evil' lies inside what is no folder"),
    "through a relative symlink": ([link("a", ".."), member("a/evil", b"x")], "'a/evil' lies inside"),
    "through a chain": ([link("a", "b"), link("b", "/tmp"), member("a/x/evil", b"x")], "lies inside what is no folder"),
    "folder through a symlink": ([link("a", "/tmp"), folder("a/evil")], "'a/evil' lies inside"),
    "through a file": ([member("a", b"x"), member("a/b", b"x")], "'a/b' lies inside"),
    "file over a symlink": ([link("a", "/tmp/evil"), member("a", b"x")], "'a' is there twice"),
    "hard link out": ([hard_link("a", "/etc/passwd")], "'a', a link to '/etc/passwd': '/etc/passwd' is absolute"),
    "hard link upwards": ([hard_link("a", "../../etc/passwd")], "leads upwards"),
    "hard link through": ([link("a", "/etc"), hard_link("b", "a/passwd")], "'b', a link to 'a/passwd'"),
    "hard link to nothing": ([hard_link("a", "b")], "No such file"),
    "hard link to a folder": ([folder("a"), hard_link("b", "a")], "'b', a link to 'a'"),
    "hard link to the root": ([hard_link("a", ".")], "a folder"),
    "a block device": ([member("sda", kind=tarfile.BLKTYPE)], "'sda' is a device"),
    "a character device": ([member("etc/null", kind=tarfile.CHRTYPE)], "'etc/null' is a device"),
    "a FIFO": ([member("pipe", kind=tarfile.FIFOTYPE)], "'pipe' is a FIFO"),
    "an unknown kind": ([member("odd", kind=b"Z")], "'odd' is of a kind"),
    "a file twice": ([member("a", b"1"), member("a", b"2")], "'a' is there twice"),
    "twice by other names": ([member("a/b", b"1"), member("./a//b", b"2")], "'./a//b' is there twice"),
    "a file and a folder": ([member("a", b"1"), folder("a")], "'a' is there twice"),
    "a folder and a file": ([folder("a"), member("a/b", b"1"), member("a", b"2")], "'a' is"),
    "an implied folder and a file": ([member("a/b", b"1"), member("a", b"2")], "'a' is a folder, too"),
    "a root that is a link": ([link("./", "/etc")], "a root that is no folder"),
    "a whiteout of the parent": ([member("a/.wh...")], "a whiteout of '..'"),
    "a whiteout of itself": ([member("a/.wh..")], "a whiteout of '.'"),
    "a whiteout of nothing": ([member("a/.wh.")], "a whiteout of ''"),
    "a whiteout through a symlink": ([link("a", "/tmp"), member("a/.wh.x")], "lies inside what is no folder"),
    "opaque through a symlink": ([link("a", "/tmp"), member("a/.wh..wh..opq")], "no folder"),
    "deep": ([folder("/".join("d" * 257))], "folders deep"),
    "a file that lies deep": ([member("/".join("d" * 258))], "folders deep"),
    "a long name": ([member("/".join(["x" * 200] * 21), b"")], "bytes"),
    "a long part of a name": ([member("a/" + "x" * 256, b"")], "more than 255 bytes between two slashes"),
    "a long part of folders": ([member("\u00e9" * 128 + "/x", b"")], "more than 255 bytes between two slashes"),
    "a long link": ([link("a", "y" * 5000)], "'a' links to more than 4095 bytes"),
    "inside a whiteout": ([member(".wh.d/x", b"x")], "'.wh.d/x' lies in a whiteout"),
    "a folder in a whiteout": ([folder("a/.wh.d/x")], "'a/.wh.d/x' lies in a whiteout"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_by_name(unpack: Callable[..., Path], case: str) -> None:
    members, why = HOSTILE[case]
    with pytest.raises(ConfigError) as caught:
        unpack(member("honest", b"x"), *members)
    assert why in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert left_in_cache() == []
    assert not os.path.lexists("/tmp/pysandbox-test-outside")


@pytest.mark.parametrize("case", ["through a symlink", "a file twice"])
def test_what_is_refused_in_one_layer_is_refused_in_the_second(tmp_path: Path, case: str) -> None:
    members, why = HOSTILE[case]
    path = Layout([tar([member("honest", b"x")]), tar(members)]).write(tmp_path / "image")
    with pytest.raises(ConfigError) as caught:
        images.load(str(path))
    assert why in str(caught.value)
    assert "layer 2" in str(caught.value)
    assert left_in_cache() == []


def test_a_layer_does_not_write_through_a_link_of_the_layer_below(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    layers = [tar([link("a", str(outside))]), tar([member("a/evil", b"x")])]
    with pytest.raises(ConfigError, match="'a/evil' lies inside"):
        images.load(str(Layout(layers).write(tmp_path / "image")))
    assert os.listdir(outside) == []


def test_a_bomb_is_refused_before_it_fills_the_disk(unpack: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="more than 1000000 bytes, at 'big'"):
        unpack(data=gzip.compress(tar([member("big", bytes(5_000_000))]), 9), bounds=Bounds(size=1_000_000))
    assert left_in_cache() == []


@pytest.mark.parametrize("bounds", [Bounds(entries=100, size=4 << 20), None])
@pytest.mark.parametrize("form", ["layer", "root"])
def test_what_follows_an_archives_end_is_bounded(tmp_path: Path, bounds: Bounds | None, form: str) -> None:
    layer = tar([member("a", b"1")]) + bytes(17 << 20)
    packed = bz2.compress(layer)
    path = tmp_path / "image"
    if form == "root":
        path.write_bytes(packed)
    else:
        layout = Layout([layer], compress=False)
        layout.manifest["layers"][0]["digest"] = layout.add(packed)
        layout.entries = [{"digest": layout.add(json.dumps(layout.manifest).encode())}]
        layout.write(path)
    with pytest.raises(ConfigError, match=r"more than \d+ bytes when decompressed"):
        images.load(str(path), bounds=bounds)
    assert left_in_cache() == []


def test_an_archive_may_be_padded(unpack: Callable[..., Path]) -> None:
    assert tree(unpack(data=gzip.compress(tar([member("a", b"1")]) + bytes(2 << 20)))) == {"a": b"1"}


def test_an_archive_of_an_image_is_decompressed_within_the_bounds(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(gzip.compress(Layout([tar([member("a", os.urandom(2 << 20))])]).tar(), 1))
    with pytest.raises(ConfigError, match=r"'.*image': more than 1069056 bytes when decompressed"):
        images.load(str(tmp_path / "image"), bounds=Bounds(entries=10, size=1 << 20))


def test_too_many_entries_are_refused(unpack: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="more than 50 entries"):
        unpack(*[folder(f"d{number}") for number in range(60)], bounds=Bounds(entries=50))
    assert left_in_cache() == []


def test_a_million_entries_are_refused_by_default(unpack: Callable[..., Path]) -> None:
    """At the twentieth part of the bound: 500,000 headers take ten seconds to read, with files forty to be made."""
    assert Bounds().entries == 500_000
    header = member("dev/null", kind=tarfile.CHRTYPE)[0].tobuf()
    with pytest.raises(ConfigError, match="more than 25000 entries"):
        unpack(data=gzip.compress(header * 1_000_000, 1), bounds=Bounds(entries=25_000))
    assert left_in_cache() == []


def test_folders_may_be_as_deep_as_in_layers_that_a_box_writes(unpack: Callable[..., Path]) -> None:
    deep = "/".join("d" * 256)
    root = unpack(member(f"{deep}/f", b"1"), folder(deep))
    assert (root / deep / "f").read_bytes() == b"1"
    images.remove(images.list_images()[0])
    assert left_in_cache() == []


def test_folders_that_were_left_out_count_as_entries(unpack: Callable[..., Path]) -> None:
    members = [member("/".join([f"{number}", *"d" * 50, "f"])) for number in range(5)]
    with pytest.raises(ConfigError, match="more than 100 entries"):
        unpack(*members, bounds=Bounds(entries=100))


def test_links_between_many_folders_land_where_they_belong(unpack: Callable[..., Path]) -> None:
    """More folders than are kept open at once: none is taken for another that has its descriptor's number now."""
    deep = "/".join(f"d{number}" for number in range(60))
    members = [member(f"{deep}/f", b"deep"), folder("b")]
    members += [hard_link(f"b/link{number}", f"{deep}/f") for number in range(3)]
    members += [member(f"x{number}/y/z", b"") for number in range(40)]
    root = unpack(*members, hard_link("last", f"{deep}/f"))
    assert sorted(os.listdir(root / "b")) == ["link0", "link1", "link2"]
    assert (root / "last").read_bytes() == b"deep"
    assert os.listdir(root / deep) == ["f"]


def headers(kind: str) -> bytes:
    """Archives whose headers are what is hostile."""
    file = io.BytesIO()
    if kind == "a long sparse map":
        content = b"100000\n" + b"0\n1\n" * 100_000
        pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x", "GNU.sparse.realsize": "1"}
        return tar([member("x", content.ljust(-len(content) % 512 + len(content), b"\0"), pax_headers=pax)])
    if kind == "an old sparse file":
        info = member("x", kind=tarfile.GNUTYPE_SPARSE)[0]
        return info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    if kind == "headers of headers":
        return tar([member("x" * 90, kind=b"x", size=0)] * 3000)
    if kind == "long names of long names":
        return tar([member("x", b"y" * 400, kind=tarfile.GNUTYPE_LONGNAME)] * 4000)
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(20):
            archive.addfile(
                member("g", f"200000 k{number}=".encode().ljust(199_999, b"v") + b"\n", kind=b"g")[0],
                io.BytesIO(f"200000 k{number}=".encode().ljust(199_999, b"v") + b"\n"),
            )
    return file.getvalue()


@pytest.mark.parametrize(
    "kind",
    ["a long sparse map", "an old sparse file", "headers of headers", "long names of long names", "global headers"],
)
def test_headers_that_are_the_bomb_are_refused(unpack: Callable[..., Path], kind: str) -> None:
    with pytest.raises(ConfigError):
        unpack(data=headers(kind))
    assert left_in_cache() == []


def test_xz_that_wants_gigabytes_to_decompress_is_refused(unpack: Callable[..., Path]) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
    data = lzma.compress(tar([member("a", b"x" * 1000)]), filters=filters)
    with pytest.raises(ConfigError, match=r"[Mm]emory"):
        unpack(data=data)


def test_xz_may_have_several_streams_and_zeros_between(unpack: Callable[..., Path]) -> None:
    whole = tar([member("a", b"x" * 3_000_000)])
    data = lzma.compress(whole[:2000]) + bytes(8) + lzma.compress(whole[2000:]) + bytes(4)
    assert tree(unpack(data=data)) == {"a": b"x" * 3_000_000}
    with pytest.raises(ConfigError):
        unpack(data=lzma.compress(os.urandom(100_000))[:50_000])


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "blobs/../../outside", "./manifest.json"])
def test_a_folder_of_docker_save_does_not_name_what_is_outside(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_bytes(tar([member("stolen", b"x")]))
    layout = tmp_path / "image"
    layout.mkdir()
    config = {"rootfs": {"diff_ids": [digest((tmp_path / "outside").read_bytes())]}}
    (layout / "config.json").write_text(json.dumps(config))
    (layout / "manifest.json").write_text(json.dumps([{"Config": "config.json", "Layers": [name]}]))
    with pytest.raises(ConfigError, match="leads out of it"):
        images.load(str(layout))


@pytest.mark.parametrize(
    "config",
    [
        {"User": "²"},
        {"User": "9" * 5000},
        {"User": "0:²"},
        {"Env": ["A=\ud800"]},
        {"WorkingDir": "\udfff"},
        {"Entrypoint": 5},
    ],
)
def test_a_configuration_that_no_program_could_have_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    path = Layout([tar([member("a", b"1")])], config).write(tmp_path / "image")
    with pytest.raises(ConfigError):
        images.ids_of(images.load(str(path)))


def test_tags_that_are_no_list_name_nothing(tmp_path: Path) -> None:
    data = docker_save([tar([member("a", b"1")])])
    (tmp_path / "image").write_bytes(data.replace(b'["a:latest"]', b"5           "))
    with pytest.raises(ConfigError):
        images.load(f"{tmp_path / 'image'}:a:latest")
    assert images.load(str(tmp_path / "image")).size == 1


def test_a_header_that_says_it_is_huge_is_not_read_into_memory(unpack: Callable[..., Path]) -> None:
    header = bytearray(tar([member("x", b"")])[:512])
    header[156:157] = tarfile.XHDTYPE
    header[124:136] = b"%011o\0" % (4 << 30)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(ConfigError, match="header of"):
        unpack(data=bytes(header) + bytes(4096))


@pytest.mark.parametrize("cut", [100, 512, 600, 1024, 2000])
def test_an_archive_that_is_cut_off_is_refused(unpack: Callable[..., Path], cut: int) -> None:
    whole = tar([member("a", b"1" * 600), member("b", b"2" * 600)])
    with pytest.raises(ConfigError):
        unpack(data=whole[:cut])
    with pytest.raises(ConfigError):
        packed = gzip.compress(whole)
        unpack(data=packed[: cut * len(packed) // len(whole)])
    assert left_in_cache() == []


def by_zstd(data: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    return bytes(zstandard.ZstdCompressor(write_checksum=True).compress(data))


COMPRESSORS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": by_zstd}


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_a_compressed_archive_is_refused_wherever_it_is_cut_off(unpack: Callable[..., Path], kind: str) -> None:
    packed = COMPRESSORS[kind](tar([member("a", b"1" * 600), member("b", os.urandom(300_000)), member("c", b"3")]))
    ends = [*range(1, 40), *range(40, 400, 19)]
    for cut in [len(packed) - end for end in ends] + list(range(1, len(packed), len(packed) // 20)):
        with pytest.raises(ConfigError):
            unpack(data=packed[:cut])
    assert left_in_cache() == []


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_bytes_after_a_compressed_archive_are_refused(unpack: Callable[..., Path], kind: str) -> None:
    packed = COMPRESSORS[kind](tar([member("a", b"1" * 600)]))
    for more in (b"x", b"xyz", b"trailing bytes", packed[:3], packed[:20]):
        with pytest.raises(ConfigError):
            unpack(data=packed + more)
    assert left_in_cache() == []


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_any_byte_that_is_wrong_is_a_typed_error(unpack: Callable[..., Path], kind: str) -> None:
    packed = COMPRESSORS[kind](tar([member("a", os.urandom(2000))]))
    for at in [*range(4, len(packed), 97), *range(len(packed) - 12, len(packed))]:
        changed = bytearray(packed)
        changed[at] ^= 0x55
        try:
            root = unpack(data=bytes(changed))
        except ConfigError:
            continue
        assert list(tree(root)) == ["a"]  # where no checksum covers it


def test_a_checksum_of_zstd_is_checked(unpack: Callable[..., Path]) -> None:
    packed = bytearray(by_zstd(tar([member("a", b"1" * 600)])))
    packed[-1] ^= 1
    with pytest.raises(ConfigError, match="zstd"):
        unpack(data=bytes(packed))


def test_zstd_may_have_several_frames_and_what_is_to_be_skipped(unpack: Callable[..., Path]) -> None:
    whole = tar([member("a", b"x" * 3_000_000), member("b", os.urandom(300_000))])
    skipped = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
    data = by_zstd(whole[:2000]) + skipped + by_zstd(whole[2000:]) + skipped
    assert (unpack(data=data) / "a").read_bytes() == b"x" * 3_000_000
    with pytest.raises(ConfigError):
        unpack(data=data[:-1])


def test_an_archive_may_end_with_its_last_byte(unpack: Callable[..., Path]) -> None:
    """umoci writes neither the last member's padding nor the blocks of zeros."""
    whole = tar([member("a", b"1" * 600), member("b", b"2" * 600)])
    for end in (1536 + 512 + 600, 1536 + 512 + 1024, 1536 + 512 + 1000, 1536 + 512 + 1024 + 512):
        assert tree(unpack(data=whole[:end])) == {"a": b"1" * 600, "b": b"2" * 600}


def test_a_header_that_is_damaged_is_not_taken_for_the_end(unpack: Callable[..., Path]) -> None:
    whole = bytearray(tar([member("a", b"1"), member("b", b"2")]))
    whole[1024 + 10] ^= 0xFF
    with pytest.raises(ConfigError):
        unpack(data=bytes(whole))


def damaged(layout: Layout, change: str) -> None:
    """Make an image wrong in one respect."""
    layer = layout.manifest["layers"][-1]["digest"].partition(":")[2]
    path = f"blobs/sha256/{layer}"
    if change == "the configuration":
        name = layout.manifest["config"]["digest"].partition(":")[2]
        layout.files[f"blobs/sha256/{name}"] = json.dumps({**layout.config, "config": {"User": "1"}}).encode()
    elif change == "a blob":
        layout.files[path] = gzip.compress(tar([member("evil", b"x")]))
    elif change == "a byte at the end":
        layout.files[path] += b"x"
    elif change == "no blob":
        del layout.files[path]
    elif change == "the manifest":
        name = layout.entries[0]["digest"].partition(":")[2]
        layout.files[f"blobs/sha256/{name}"] += b" "
    elif change == "a digest that is a path":
        layout.entries = [{"digest": "sha256:../../../../etc/passwd"}]
    elif change == "no JSON":
        layout.entries = [{"digest": layout.add(b"{")}]
    elif change == "deep JSON":
        layout.entries = [{"digest": layout.add(b"[" * 100_000)}]
    elif change == "an index of itself":
        index = layout.add(json.dumps({"manifests": layout.entries}).encode())
        for _ in range(6):
            index = layout.add(json.dumps({"manifests": [{"digest": index}]}).encode())
        layout.entries = [{"digest": index}]


@pytest.mark.parametrize(
    "change",
    [
        "the configuration",
        "a blob",
        "a byte at the end",
        "no blob",
        "the manifest",
        "a digest that is a path",
        "no JSON",
        "deep JSON",
        "an index of itself",
    ],
)
@pytest.mark.parametrize("form", ["folder", "tar"])
def test_an_image_that_is_not_what_its_digests_say_is_refused(tmp_path: Path, change: str, form: str) -> None:
    layout = Layout([tar([member("a", b"1")]), tar([member("b", b"1")])])
    damaged(layout, change)
    path = tmp_path / "image"
    if form == "folder":
        layout.write(path)
    else:
        path.write_bytes(layout.tar())
    with pytest.raises(ConfigError):
        images.load(str(path))
    assert left_in_cache() == []


@pytest.mark.parametrize("form", ["", "sha256:", "blobs/sha256/"])
def test_a_configuration_that_is_not_what_its_name_says_is_refused(tmp_path: Path, form: str) -> None:
    layer = tar([member("a", b"1")])
    raw = json.dumps({"config": {"User": "good"}, "rootfs": {"diff_ids": [digest(layer)]}}).encode()
    name = f"{form}{digest(raw).partition(':')[2]}{'' if form else '.json'}"
    manifest = json.dumps([{"Config": name, "RepoTags": None, "Layers": ["layer.tar"]}]).encode()
    path = tmp_path / "image"
    path.mkdir()
    files = {"manifest.json": manifest, name: raw, "layer.tar": layer}
    for file, content in files.items():
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        (path / file).write_bytes(content)
    assert images.load(str(path)).config.user == "good"
    (path / name).write_bytes(raw.replace(b"good", b"evil"))
    (path / "manifest.json").write_bytes(manifest + b" ")
    with pytest.raises(ConfigError, match="is not the digest of what it names"):
        images.load(str(path))


@pytest.mark.parametrize("where", ["blob", "folder", "index"])
def test_a_layout_on_disk_is_not_followed_out_of_it(tmp_path: Path, where: str) -> None:
    path = Layout([tar([member("a", b"1")])]).write(tmp_path / "image")
    target = {"blob": next((path / "blobs/sha256").iterdir()), "folder": path / "blobs", "index": path / "index.json"}
    moved = tmp_path / "moved"
    target[where].rename(moved)
    target[where].symlink_to(moved)
    with pytest.raises(ConfigError):
        for _ in range(3):  # whichever blob it is
            images.load(str(path))
        raise AssertionError


def test_a_fifo_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="neither a file nor a folder"):
        images.load(str(tmp_path / "fifo"))
    layout = Layout([tar([])]).write(tmp_path / "image")
    (layout / "index.json").unlink()
    os.mkfifo(layout / "index.json")
    with pytest.raises(ConfigError, match="no regular file"):
        images.load(str(layout))


@pytest.mark.parametrize("data", [b"", b"no archive at all", bytes(2000), b"\x1f\x8b\x08" + bytes(20), b"PK\3\4" * 200])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ConfigError):
        images.load(str(tmp_path / "file"))
    assert left_in_cache() == []


@given(data=st.data())
@settings(max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_does_more_than_to_be_refused(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(Layout([tar(BASE), tar(TOP)], compress=False).tar())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    del whole[data.draw(st.integers(len(whole) // 2, len(whole))) :]
    path = tmp_path / "image.tar"
    path.write_bytes(whole)
    try:
        image = images.load(str(path))
    except ConfigError:
        return
    assert tree(Path(image.root)) == BOTH


# --- the cache -----------------------------------------------------------------------------------------------------


def test_processes_that_unpack_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = str(Layout([tar(BASE), tar(TOP)]).write(tmp_path / "image"))
    code = "import sys; from pysandbox import images; print(images.load(sys.argv[1]).root, end='')"
    command = [sys.executable, "-c", code, path]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    roots = {process.communicate(timeout=60)[0] for process in processes}
    assert [tree(Path(root)) for root in roots] == [BOTH]
    assert len(left_in_cache()) == 1


def test_what_a_dead_process_has_left_is_removed(unpack: Callable[..., Path]) -> None:
    left = Path(cache.folder(), ".unpacking-0123")
    (left / "rootfs" / "locked").mkdir(parents=True)
    (left / "rootfs" / "locked").chmod(0)
    unpack(member("a", b"1"))
    assert not left.exists()


def test_an_image_is_removed_by_name_or_digest(tmp_path: Path) -> None:
    path = tmp_path / "root.tar"
    path.write_bytes(tar([member("a", b"1")]))
    image = images.load(str(path), name="mine")
    assert images.named("mine") == images.named(image.digest[7:17]) == images.load("mine") == image
    with images.kept(image), pytest.raises(ConfigError, match="in use"):
        images.remove(image)
    images.remove(image)
    assert images.list_images() == []
    with pytest.raises(ConfigError, match="no imported image"):
        images.load("mine")


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_an_image_that_is_known_is_not_read_again(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image"
    if form == "folder":
        Layout([tar([member("a", b"1")])]).write(path)
    else:
        path.write_bytes(tar([member("a", b"1")]))
    image = images.load(str(path))
    look_into = loading._look_into
    monkeypatch.setattr(loading, "_look_into", None)
    assert images.load(str(path)) == image
    monkeypatch.setattr(loading, "_look_into", look_into)
    images.remove(image)
    assert images.load(str(path)).digest == image.digest


def test_another_image_in_the_same_layout_is_seen(tmp_path: Path) -> None:
    path = Layout([tar([member("a", b"1")])]).write(tmp_path / "image")
    assert tree(Path(images.load(str(path)).root)) == {"a": b"1"}
    Layout([tar([member("b", b"2")])]).write(path)
    assert tree(Path(images.load(str(path)).root)) == {"b": b"2"}


def test_a_name_is_one_images_at_a_time(tmp_path: Path) -> None:
    loaded = []
    for content in (b"1", b"2"):
        (tmp_path / "root.tar").write_bytes(tar([member("a", content)]))
        loaded.append(images.load(str(tmp_path / "root.tar"), name="mine"))
    assert images.named("mine").digest == loaded[1].digest
    assert [image.names for image in images.list_images()] == [("mine",), ()]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"config": 5}'])
def test_an_image_of_which_nothing_is_known_is_unpacked_again(tmp_path: Path, content: str) -> None:
    (tmp_path / "root.tar").write_bytes(tar([member("a", b"1")]))
    image = images.load(str(tmp_path / "root.tar"))
    Path(image.path, "image.json").write_text(content)
    assert images.list_images() == []
    assert images.load(str(tmp_path / "root.tar")).digest == image.digest
    images.sweep()
    assert len(left_in_cache()) == 1


def test_unpacking_and_sweeping_at_once_disturb_nobody(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for round_ in range(20):
                path = tmp_path / f"{number}-{round_}.tar"
                path.write_bytes(tar([member("a", f"{number} {round_}".encode())]))
                images.load(str(path))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(images.list_images()) == 80


def unused(image: images.Image) -> None:
    """Let it be long ago that it was asked for."""
    os.utime(image.path, (1, 1))


def test_names_that_are_given_at_once_are_all_kept(tmp_path: Path) -> None:
    path = str(Layout([tar(BASE)]).write(tmp_path / "image"))
    image = images.load(path)
    errors: list[BaseException] = []

    def give(number: int) -> None:
        try:
            assert cache.use(image, f"n{number}") is not None  # which all of them have read without a name
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=give, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(images.named(image.digest).names) == [f"n{number}" for number in range(8)]


def test_processes_that_import_at_once_keep_all_names(tmp_path: Path) -> None:
    path = str(Layout([tar(BASE)]).write(tmp_path / "image"))
    command = [sys.executable, "-m", "pysandbox", "image", "import", path, "--name"]
    processes = [subprocess.Popen([*command, f"n{number}"], stdout=subprocess.PIPE) for number in range(5)]
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0] * 5
    assert sorted(images.list_images()[0].names) == [f"n{number}" for number in range(5)]


def test_an_imported_image_may_get_another_name(tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(tar([member("a")]))
    images.load(str(tmp_path / "root.tar"), name="one")
    assert images.load("one", name="other").names == ("one", "other")


def test_an_image_that_is_removed_while_it_gets_a_name_is_unpacked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "root.tar").write_bytes(tar([member("a", b"1")]))
    use, times = loading.use, iter(range(3))

    def removed_before(image: images.Image, name: str) -> images.Image | None:
        if next(times) < 2:
            images.remove(image)
        return use(image, name)

    monkeypatch.setattr(loading, "use", removed_before)
    image = images.load(str(tmp_path / "root.tar"), name="mine")
    assert images.list_images() == [image]
    assert tree(Path(image.root)) == {"a": b"1"}
    monkeypatch.setattr(loading, "use", lambda *_: None)
    with pytest.raises(ConfigError, match="again and again"):
        images.load(str(tmp_path / "root.tar"), name="mine")


def test_an_image_that_is_gone_is_neither_removed_nor_kept(tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(tar([member("a")]))
    image = images.load(str(tmp_path / "root.tar"))
    images.remove(image)
    with pytest.raises(ConfigError, match="not there any more"):
        images.remove(image)
    with pytest.raises(ConfigError, match="not there any more"), images.kept(image):
        raise AssertionError


def test_pruning_leaves_alone_what_has_a_name_is_in_use_or_was_asked_for_just_now(tmp_path: Path) -> None:
    found = []
    for content in (b"1", b"2", b"3", b"4"):
        (tmp_path / "root.tar").write_bytes(tar([member("a", content)]))
        found.append(images.load(str(tmp_path / "root.tar")))
    named, kept, asked_for, idle = found
    for image in found:
        unused(image)
    assert images.load(named.digest, name="mine").names == ("mine",)
    unused(named)
    images.load(asked_for.digest)
    with images.kept(kept):
        assert images.prune() == [idle]
    assert images.prune() == [kept]
    assert {image.digest for image in images.list_images()} == {named.digest, asked_for.digest}


def test_pruning_looks_again_before_it_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "root.tar").write_bytes(tar([member("a")]))
    image = images.load(str(tmp_path / "root.tar"))
    unused(image)
    stale = images.list_images()
    images.load(image.digest, name="mine")
    unused(image)
    monkeypatch.setattr(cache, "list_images", lambda: stale)
    assert images.prune() == []


def test_pruning_removing_and_loading_at_once_disturb_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_IN_USE", -1.0)  # all are removed at once
    errors: list[BaseException] = []
    loading_still = threading.Event()
    loading_still.set()

    def prune() -> None:
        while loading_still.is_set():
            images.prune()
            for image in images.list_images():
                with contextlib.suppress(ConfigError):
                    images.remove(image)

    def load(number: int) -> None:
        path = tmp_path / f"{number}.tar"
        path.write_bytes(tar([member("a", b"%d" % number)]))
        for round_ in range(25):
            with contextlib.suppress(ConfigError):  # "removed again and again", which is so
                images.load(str(path), name=f"{number}" if round_ % 2 else "")

    def noting(work: Callable[..., None], *arguments: int) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            errors.append(error)

    loaders = [threading.Thread(target=noting, args=(load, number)) for number in range(3)]
    pruners = [threading.Thread(target=noting, args=(prune,)) for _ in range(2)]
    for thread in loaders + pruners:
        thread.start()
    for thread in loaders:
        thread.join()
    loading_still.clear()
    for thread in pruners:
        thread.join()
    assert errors == []


def test_a_changed_archive_is_unpacked_anew(unpack: Callable[..., Path]) -> None:
    assert tree(unpack(member("a", b"1"))) == {"a": b"1"}
    assert tree(unpack(member("a", b"2"))) == {"a": b"2"}


def test_a_cache_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "pysandbox" / "images"
    path.mkdir(parents=True)
    path.chmod(0o777)
    with pytest.raises(ConfigError, match="not yours alone"):
        images.list_images()


def test_without_a_folder_for_the_cache_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    with pytest.raises(ConfigError, match="XDG_CACHE_HOME"):
        images.list_images()


def test_progress_comes_to_its_end(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path = str(Layout([os.urandom(0) or tar([member("a", os.urandom(3_000_000))])]).write(tmp_path / "image"))
    images.load(path, lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_stream_is_decompressed_from_where_it_is() -> None:
    from pysandbox.images.decompression import decompressed

    assert decompressed(io.BytesIO(gzip.compress(b"abc"))).read() == b"abc"
