"""Ready-made roots: `ChrootJail.minimal`, `for_program`, `python`, `host_readonly`."""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import pytest

import pysandbox
from pysandbox import Bind, ChrootJail, ConfigError, Environment, Sandbox


def text(result: pysandbox.Result[str]) -> str:
    assert result.returncode == 0, result.stderr
    assert result.stdout is not None
    return result.stdout


# --- nothing, and one program ---------------------------------------------------------------------------------------


def test_the_minimal_root_runs_a_static_program_and_has_nothing_of_the_host() -> None:
    with Sandbox(ChrootJail.minimal()) as box:
        box.copy_in("/bin/busybox", "busybox")
        listed = text(box.run(["/box/busybox", "ls", "/", "/etc"], text=True, timeout=20))
        assert set(listed.split()) == {
            *("/:", "box", "dev", "etc", "proc", "tmp"),
            *("/etc:", "group", "hosts", "ld.so.conf", "machine-id", "nsswitch.conf", "passwd", "resolv.conf", "ssl"),
        }
        assert "1000" in text(box.run(["/box/busybox", "cat", "/etc/passwd"], text=True, timeout=20))


def test_a_program_has_its_libraries_and_no_other_is_there() -> None:
    jail = ChrootJail.for_program("cat", "sh")
    result = pysandbox.run(["sh", "-c", "cat /etc/nsswitch.conf; ls /; echo $?"], jail, text=True, timeout=20)
    assert text(result).endswith("127\n")
    assert (
        not os.path.exists("/usr/lib/os-release")
        or pysandbox.run(["cat", "/usr/lib/os-release"], jail, timeout=20).returncode
    )


def test_a_script_brings_its_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho from a script\n")
    script.chmod(0o755)
    tmp_path.chmod(0o755)
    jail = ChrootJail.for_program(script)
    assert text(pysandbox.run([str(script)], jail, text=True, timeout=20)) == "from a script\n"


def test_a_compiler_starts_with_what_its_file_names() -> None:
    jail = ChrootJail.for_program("g++")
    assert "g++" in text(pysandbox.run(["g++", "--version"], jail, text=True, timeout=20))


def test_more_can_be_shown_beside(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("shown")
    tmp_path.chmod(0o755)
    jail = ChrootJail.for_program("cat", binds=[Bind(tmp_path, "/data")], workdir="/job")
    assert text(pysandbox.run(["cat", "/data/data"], jail, text=True, timeout=20)) == "shown"


@pytest.mark.parametrize("programs", [(), ("no-such-program",), (5,), ("",), ("/usr",)])
def test_what_is_no_program_is_refused(programs: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError):
        ChrootJail.for_program(*programs)


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + b"\xff" * 200, b"#!", b"#!/no/such"])
def test_a_file_that_is_no_program_brings_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd").write_bytes(content)
    (tmp_path / "odd").chmod(0o755)
    jail = ChrootJail.for_program(tmp_path / "odd")
    assert str(tmp_path / "odd") in [bind.target for bind in jail.binds]


@pytest.mark.parametrize("target", ["a FIFO", "a folder", "a file that is no program"])
def test_an_interpreter_that_is_no_program_is_not_shown(tmp_path: Path, target: str) -> None:
    other = tmp_path / "other"
    if target == "a FIFO":
        os.mkfifo(other, 0o755)
    elif target == "a folder":
        other.mkdir()
    else:
        other.write_text("secret")
    script = tmp_path / "script"
    script.write_text(f"#!{other}\n")
    script.chmod(0o755)
    assert str(other) not in [bind.target for bind in ChrootJail.for_program(script).binds]


def compiled(tmp_path: Path, name: str, code: str, *options: str) -> Path:
    """What the C compiler makes of it."""
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tmp_path / "source.c"
    source.write_text(code)
    subprocess.run(["gcc", "-o", path, source, *options], check=True)
    return path


@pytest.fixture
def application(tmp_path: Path) -> Path:
    """A program that finds a library by its own place, which needs another that only DT_RPATH of the program leads to."""
    if shutil.which("gcc") is None:
        pytest.skip("needs a C compiler")
    tmp_path.chmod(0o755)
    compiled(tmp_path, "app/more/libsecond.so", "int second(void) { return 7; }", "-shared", "-fPIC")
    first = "int second(void); int first(void) { return second(); }"
    at = ("-L", str(tmp_path / "app/more"), "-L", str(tmp_path / "app/lib"))
    compiled(tmp_path, "app/lib/libfirst.so", first, "-shared", "-fPIC", *at, "-lsecond")
    main = '#include <stdio.h>\nint first(void); int main(void) { printf("%d\\n", first()); return 0; }'
    path = "-Wl,--disable-new-dtags,-rpath,$ORIGIN/../lib:$ORIGIN/../more,--allow-shlib-undefined"
    return compiled(tmp_path, "app/bin/main", main, *at, "-lfirst", path)


def test_libraries_of_libraries_are_found_by_the_path_that_the_program_hands_down(application: Path) -> None:
    jail = ChrootJail.for_program(application)
    assert text(pysandbox.run([str(application)], jail, text=True, timeout=20)) == "7\n"


def test_a_program_behind_symlinks_finds_libraries_from_its_own_place(application: Path, tmp_path: Path) -> None:
    (tmp_path / "command").symlink_to("app/bin/main")
    (tmp_path / "again").symlink_to(tmp_path / "command")
    jail = ChrootJail.for_program(tmp_path / "again")
    assert text(pysandbox.run([str(tmp_path / "again")], jail, text=True, timeout=20)) == "7\n"


def test_a_compiler_with_what_it_starts_and_reads_makes_a_program_that_runs() -> None:
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    jail = ChrootJail.for_program("g++", "as", "ld", binds=[Bind("/usr/lib"), Bind("/usr/include")])
    with Sandbox(jail) as box:
        box.write_file("main.cpp", '#include <iostream>\nint main() { std::cout << "compiled" << std::endl; }\n')
        text(box.run(["g++", "-o", "main", "main.cpp"], text=True, timeout=60))
        assert text(box.run(["./main"], text=True, timeout=20)) == "compiled\n"


def test_what_the_caller_links_or_binds_is_in_the_place_of_what_was_found(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "data").write_text("shown")
    jail = ChrootJail.for_program("cat", binds=[Bind(tmp_path, "/sbin")], symlinks={"/bin": "/usr/bin", "/to": "/sbin"})
    assert text(pysandbox.run(["/bin/cat", "/to/data"], jail, text=True, timeout=20)) == "shown"


def test_the_default_root_knows_no_name_servers_and_no_id_of_the_machine() -> None:
    for jail in (ChrootJail(), ChrootJail.for_program("cat")):
        files = ["/etc/resolv.conf", "/etc/machine-id"]
        shown = text(pysandbox.run(["cat", *files], jail, text=True, timeout=20))
        assert shown == "# no name servers\n73616e64626f782d6e6f742d612d6d61\n"


# --- Python ---------------------------------------------------------------------------------------------------------

USUAL = """
import concurrent.futures, json, multiprocessing, os, sqlite3, ssl, subprocess, sys, tempfile, threading, venv, zoneinfo
def double(n): return 2 * n
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool: assert pool.map(double, [1, 2]) == [2, 4]
    queue = multiprocessing.get_context("spawn").Queue(); queue.put(1); assert queue.get() == 1
    with concurrent.futures.ThreadPoolExecutor() as threads: assert list(threads.map(double, [3])) == [6]
    assert ssl.create_default_context().cert_store_stats()["x509_ca"] > 0
    with tempfile.NamedTemporaryFile() as file: file.write(b"x")
    assert subprocess.run([sys.executable, "-c", "print(5)"], capture_output=True).stdout == b"5\\n"
    data = sqlite3.connect("data.db"); data.execute("create table t (n)"); data.commit()
    venv.create("made", symlinks=True)
    assert subprocess.run(["made/bin/python", "-c", "print(6)"], capture_output=True).stdout == b"6\\n"
    assert str(zoneinfo.ZoneInfo("Europe/Berlin"))
    print("all well", os.listdir("/"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["the default", "python"])
def test_what_programs_use_of_the_standard_library_works(kind: str) -> None:
    jail = ChrootJail() if kind == "the default" else ChrootJail.python()
    with Sandbox(jail) as box:
        box.write_file("main.py", USUAL)
        result = box.run([sys.executable, "main.py"], text=True, timeout=60)
    assert text(result).startswith("all well")


def test_a_python_root_has_no_other_program() -> None:
    code = "import shutil; print([name for name in ('sh', 'ls', 'gcc', 'perl', 'bash') if shutil.which(name)])"
    assert text(pysandbox.run([sys.executable, "-c", code], ChrootJail.python(), text=True, timeout=20)) == "[]\n"


def test_only_the_packages_that_were_named_can_be_imported() -> None:
    code = """
    import importlib
    for name in ("cffi", "pycparser", "pytest", "psutil"):
        try:
            importlib.import_module(name)
            print(name)
        except ImportError:
            pass
    """
    jail = ChrootJail.python(packages=["cffi"])
    run = [sys.executable, "-c", textwrap.dedent(code)]
    assert text(pysandbox.run(run, jail, text=True, timeout=20)) == "cffi\npycparser\n"
    assert text(pysandbox.run(run, ChrootJail.python(), text=True, timeout=20)).split() == [
        *("cffi", "pycparser", "pytest", "psutil")
    ]


def test_a_virtual_environment_is_a_root(tmp_path: Path) -> None:
    import venv

    tmp_path.chmod(0o755)
    folder = tmp_path / "env"
    venv.create(folder, symlinks=True, with_pip=False)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "only_there.py").write_text("VALUE = 'of the venv'\n")
    code = "import only_there, sys; print(only_there.VALUE, sys.prefix)"
    jail = ChrootJail.python(venv=folder)
    result = pysandbox.run([str(folder / "bin" / "python"), "-c", code], jail, text=True, timeout=20)
    assert text(result) == f"of the venv {folder}\n"


@pytest.mark.skipif(not glob.glob("/usr/share/python-wheels/pip*"), reason="needs Debian's wheels of ensurepip")
def test_a_python_of_debian_has_the_wheels_for_new_environments(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = str(tmp_path / "env" / "bin" / "python")
    jail = ChrootJail.python(venv=tmp_path / "env")
    run = [python, "-c", "import ensurepip; print(ensurepip._get_packages()['pip'].wheel_path)"]
    assert "python-wheels" in text(pysandbox.run(run, jail, text=True, timeout=20))


def test_a_virtual_environment_without_its_interpreter_is_named(tmp_path: Path) -> None:
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\n")
    with pytest.raises(ConfigError, match=r"venv=.*bin/python' is missing"):
        ChrootJail.python(venv=tmp_path)


IMPORTS = "import in_folder, in_zip; print(in_folder.VALUE, in_zip.VALUE)"


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """A folder and a zip file to import from."""
    tmp_path.chmod(0o755)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "in_folder.py").write_text("VALUE = 'folder'\n")
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("in_zip.py", "VALUE = 'zip'\n")
    return tmp_path


def test_what_pythonpath_names_can_be_imported(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(places)
    monkeypatch.setenv("PYTHONPATH", f"folder::{places}/some.zip:/no/such")
    result = pysandbox.run([sys.executable, "-c", IMPORTS], ChrootJail.python(), text=True, timeout=20)
    assert text(result) == "folder zip\n"


def test_the_callers_pythonpath_is_looked_at_first(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (places / "own").mkdir()
    (places / "own" / "in_folder.py").write_text("VALUE = 'own'\n")
    monkeypatch.setenv("PYTHONPATH", f"{places}/folder:{places}/some.zip")
    jail = ChrootJail.python(binds=[Bind(places / "own")], env={"PYTHONPATH": str(places / "own")})
    assert text(pysandbox.run([sys.executable, "-c", IMPORTS], jail, text=True, timeout=20)) == "own zip\n"
    jail = ChrootJail.python(packages=["cffi"], binds=[Bind(places / "own")], env={"PYTHONPATH": str(places / "own")})
    run = [sys.executable, "-c", "import in_folder, cffi; print(in_folder.VALUE)"]
    assert text(pysandbox.run(run, jail, text=True, timeout=20)) == "own\n"


def test_every_place_of_the_path_is_shown_also_behind_symlinks(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (places / "link").symlink_to("folder")
    monkeypatch.setattr(sys, "path", [*sys.path, f"{places}/link", f"{places}/some.zip", "relative", "/", "/tmp"])
    run = [sys.executable, "-c", f"import sys; sys.path += ['{places}/link', '{places}/some.zip']; {IMPORTS}"]
    assert text(pysandbox.run(run, ChrootJail.python(), text=True, timeout=20)) == "folder zip\n"


def test_folders_of_the_application_are_not_shown(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (places / "script").mkdir()
    monkeypatch.chdir(places / "folder")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", f"{places}/script/main.py", raising=False)
    others = [path for path in sys.path if not str(places).startswith(f"{path}/")]  # as that of `python -m pytest`
    monkeypatch.setattr(sys, "path", ["", f"{places}/script", f"{places}/folder", f"{places}/some.zip", *others])
    shown = [str(bind.target) for bind in ChrootJail.python().binds if str(bind.target).startswith(str(places))]
    assert shown == [f"{places}/some.zip"]


def install(folder: Path, name: str, **files: str) -> None:
    """Let a package of this name be installed in a folder."""
    made = folder / f"{name.replace('-', '_')}-1.dist-info"
    made.mkdir()
    (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    for file, content in files.items():
        (made / file.replace("__", ".")).write_text(content)


def test_a_project_that_is_installed_for_development_is_shown(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (places / "a project").mkdir()
    origin = {"url": (places / "a project").as_uri(), "dir_info": {"editable": True}}
    install(places / "folder", "developed", direct_url__json=json.dumps(origin), RECORD="")
    install(places / "folder", "odd", direct_url__json="[5]", RECORD="")
    monkeypatch.syspath_prepend(places / "folder")
    assert str(places / "a project") in [str(bind.target) for bind in ChrootJail.python().binds]
    with pytest.raises(ConfigError, match="'developed' is an editable install"):
        ChrootJail.python(packages=["developed"])


def test_a_package_without_a_record_of_its_files_is_refused(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(places / "folder", "unrecorded")
    monkeypatch.syspath_prepend(places / "folder")
    with pytest.raises(ConfigError, match="'unrecorded' has no record of its files"):
        ChrootJail.python(packages=["unrecorded"])


@pytest.mark.parametrize(
    "options",
    [
        {"packages": ["no-such-package"]},
        {"packages": [5]},
        {"packages": [""]},
        {"packages": ["../x"]},
        {"packages": 5},
        {"packages": [], "venv": "/usr"},
        {"venv": "/usr"},
        {"env": 5},
        {"packages": [], "env": 5},
        {"env": {"A": 5}},
        {"hide": 5},
        {"hide": "/etc"},
        {"hide": [5]},
        {"symlinks": 5},
        {"binds": 5},
    ],
)
def test_what_is_no_python_root_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ChrootJail.python(**options)


def test_variables_of_a_root_give_way_to_the_callers() -> None:
    jail = ChrootJail(env={"A": "root", "B": "root"})
    result = pysandbox.run(["sh", "-c", "echo $A $B"], jail, Environment(set={"B": "own"}), text=True, timeout=20)
    assert text(result) == "root own\n"


# --- the host -------------------------------------------------------------------------------------------------------


def test_the_whole_host_is_shown_read_only_but_for_what_is_hidden(tmp_path: Path) -> None:
    script = "ls /run /home /root; test -e /usr/bin/env && echo seen; echo x > /etc/x; echo x > /tmp/x && echo private"
    with Sandbox(ChrootJail.host_readonly(hide=["/etc/hostname"])) as box:
        result = box.run(["sh", "-c", script], text=True, timeout=20)
        assert (result.stdout or "").splitlines() == ["/home:", "", "/root:", "", "/run:", "seen", "private"]
        assert "Read-only" in (result.stderr or "")
        assert box.read_file("/etc/hostname") == b""
    assert not os.path.exists("/etc/x")


@pytest.mark.parametrize(
    "path",
    ["etc", "/etc/../etc/passwd", "/etc/pass*", "/no/such", "", "/etc\0", "/", 5, None, b"/etc", "/proc/none"],
)
def test_what_cannot_be_hidden_of_the_host_is_refused(path: Any) -> None:
    with pytest.raises(ConfigError):
        ChrootJail.host_readonly(hide=[path])


def test_a_link_that_leads_nowhere_is_refused_as_it_might_lead_somewhere_later(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nothing")
    with pytest.raises(ConfigError):
        ChrootJail.host_readonly(hide=[tmp_path / "link"])


@pytest.mark.parametrize("name", ["link", "real", "parent/secret", "outer"])
def test_what_is_hidden_of_the_host_is_hidden_by_all_of_its_names(tmp_path: Path, name: str) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "secret").write_text("secret")
    (tmp_path / "parent").symlink_to("folder")
    (tmp_path / "real").symlink_to(tmp_path / "parent" / "secret")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "outer").symlink_to("folder")
    jail = ChrootJail.host_readonly(hide=[tmp_path / name], binds=[Bind(tmp_path)])
    run = ["sh", "-c", 'cd "$0" && cat folder/secret parent/secret real link outer/secret; echo end', str(tmp_path)]
    assert pysandbox.run(run, jail, text=True, timeout=20).stdout == "end\n"


def test_where_the_box_has_its_own_there_is_nothing_to_hide(tmp_path: Path) -> None:
    hide = [path for path in ("/tmp", tmp_path, "/dev/null", "/proc/cpuinfo", "/etc/mtab") if os.path.exists(path)]
    jail = ChrootJail.host_readonly(hide=hide)
    assert text(pysandbox.run(["sh", "-c", "head -c1 /proc/cpuinfo; echo > /dev/null"], jail, text=True, timeout=20))


def test_the_host_is_not_known_by_the_id_of_the_machine() -> None:
    if not os.path.exists("/etc/machine-id"):
        pytest.skip("this machine has none")
    with Sandbox(ChrootJail.host_readonly()) as box:
        assert box.read_file("/etc/machine-id") == b""
