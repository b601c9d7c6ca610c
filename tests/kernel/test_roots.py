"""Ready-made roots: `ChrootJail.minimal`, `for_program`, `python`, `host_readonly`."""

from __future__ import annotations

import os
import sys
import textwrap
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


def test_what_a_hidden_link_leads_to_is_hidden_too(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    jail = ChrootJail.host_readonly(hide=[str(tmp_path / "link")])
    assert os.path.realpath(tmp_path / "real") in jail.hide


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


def test_what_contradicts_itself_is_refused(tmp_path: Path) -> None:
    for options in ({"venv": tmp_path}, {"packages": ["no-such-package"]}, {"packages": [5]}):
        with pytest.raises(ConfigError):
            ChrootJail.python(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        ChrootJail.python(venv=tmp_path, packages=[])


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
