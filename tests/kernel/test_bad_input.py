"""Wrong input is a clear error each, before anything exists where that is possible; conftest sees that nothing is left."""

from __future__ import annotations

import errno
import io
import os
import resource
import sys
from typing import Any

import pytest

import pysandbox
from pysandbox import (
    Bind,
    CgroupLimits,
    ChrootJail,
    CommandNotExecutableError,
    CommandNotFoundError,
    ConfigError,
    ExecError,
    Namespaces,
    Rlimits,
    Sandbox,
    SetupError,
    Tmpfs,
    box,
)


class NoDescriptor(io.BytesIO):
    """A file without a descriptor, and with a repr that is the same in every process."""

    def __repr__(self) -> str:
        return "NO_DESCRIPTOR"


NO_DESCRIPTOR = NoDescriptor()


@pytest.fixture
def no_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if anything at all is created."""

    def refuse(*_: object) -> None:
        raise AssertionError("something was created for input that is wrong")

    monkeypatch.setattr(box.Box, "_spawn", refuse)


@pytest.mark.usefixtures("no_box")
@pytest.mark.parametrize(
    "arguments",
    [
        "ls -l",
        b"ls",
        [],
        (),
        None,
        42,
        [""],
        ["a\0b"],
        ["true", "\0"],
        ["true", 5],
        ["true", None],
        {"true"},
        [["true"]],
    ],
)
def test_commands_that_are_none_are_refused(arguments: Any) -> None:
    with pytest.raises(ConfigError):
        pysandbox.run(arguments)


@pytest.mark.usefixtures("no_box")
@pytest.mark.parametrize(
    "options",
    [
        {"timeout": -1},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"timeout": "2"},
        {"timeout": True},
        {"cpu_time": 0},
        {"cpu_time": "1s"},
        {"grace": -0.1},
        {"max_output": -1},
        {"max_output": "12 parsecs"},
        {"max_output": 1.5},
        {"truncate_output": 1},
        {"check": "yes"},
        {"text": 1},
        {"encoding": "no-such-encoding"},
        {"input": "text without an encoding"},
        {"input": 5},
        {"input": b"x", "stdin": 0},
        {"input": b"x", "text": True, "stdin": 0},
        {"stdin": "file"},
        {"stdout": NO_DESCRIPTOR},
        {"stdout": -7},
        {"stderr": 99999},
        {"stdout": True},
        {"stdin": pysandbox.STDOUT},
        {"cwd": 5},
        {"cwd": ""},
        {"cwd": "a\0b"},
        {"env": {"A": 1}},
        {"env": {"A=B": "1"}},
        {"env": {"": "1"}},
        {"env": {"A": "\0"}},
        {"env": "A=1"},
        {"env": 5},
        {"pass_fds": [0]},
        {"pass_fds": [99999]},
        {"pass_fds": ["3"]},
        {"limits": "256M"},
        {"limits": {"memory": "256M"}},
        {"degrade": "yes"},
        {"base": "nothing"},
        {"base": [5]},
    ],
    ids=str,
)
def test_options_that_are_wrong_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        pysandbox.run(["/bin/true"], **options)


@pytest.mark.usefixtures("no_box")
def test_an_unknown_option_is_a_type_error_as_everywhere() -> None:
    with pytest.raises(TypeError):
        pysandbox.run(["/bin/true"], shell=True)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("layer", "keywords"),
    [
        (CgroupLimits, {"memory": "12 parsecs"}),
        (CgroupLimits, {"memory": -5}),
        (CgroupLimits, {"memory": "10K"}),
        (CgroupLimits, {"memory": "900T"}),
        (CgroupLimits, {"pids": 0}),
        (CgroupLimits, {"pids": 2.5}),
        (CgroupLimits, {"cpus": 0}),
        (CgroupLimits, {"cpus": 100000}),
        (CgroupLimits, {"cpus": float("nan")}),
        (CgroupLimits, {"swap": "1G"}),
        (Rlimits, {"nofile": 2}),
        (Rlimits, {"nofile": -1}),
        (Rlimits, {"fsize": "many"}),
        (Rlimits, {"cpu": 0}),
        (Namespaces, {"uid": -1}),
        (Namespaces, {"uid": 1 << 32}),
        (Namespaces, {"pid": "yes"}),
        (Namespaces, {"hostname": "a b"}),
        (Namespaces, {"hostname": ""}),
        (ChrootJail, {"workdir": "relative"}),
        (ChrootJail, {"workdir": "/"}),
        (ChrootJail, {"size": 0}),
        (ChrootJail, {"hide": "/etc"}),
        (ChrootJail, {"files": {"relative": b""}}),
        (ChrootJail, {"files": {"/a/../b": b""}}),
        (ChrootJail, {"files": {"/a": 5}}),
        (ChrootJail, {"binds": ("/usr",)}),
        (ChrootJail, {"proc": "maybe"}),
        (Bind, {"source": "relative"}),
        (Bind, {"source": "/a/../b"}),
        (Tmpfs, {"target": "/x", "size": "huge"}),
    ],
    ids=str,
)
def test_layers_refuse_impossible_values(layer: Any, keywords: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        layer(**keywords)


@pytest.mark.usefixtures("no_box")
@pytest.mark.parametrize(
    "layers",
    [
        (ChrootJail("/no/such/root"),),
        (ChrootJail(), ChrootJail()),
        (ChrootJail(binds=(Bind("/usr", "/x"), Bind("/etc", "/x"))),),
        (ChrootJail(binds=(Bind("/usr/share", "/usr/no/such/mount/point"),)),),
        (ChrootJail(files={"/usr/new": b""}),),
        (ChrootJail(), Namespaces(mount=False)),
        (Namespaces,),
        ("Namespaces",),
    ],
    ids=str,
)
def test_layers_that_contradict_are_refused_when_the_sandbox_is_made(layers: tuple[object, ...]) -> None:
    with pytest.raises(ConfigError):
        Sandbox(*layers)


@pytest.mark.usefixtures("no_box")
def test_a_conflict_names_both_sides() -> None:
    with pytest.raises(ConfigError) as caught:
        Sandbox(ChrootJail(), Namespaces(mount=False))
    assert caught.value.layers == ("ChrootJail", "Namespaces")
    with pytest.raises(ConfigError, match=r"/x.*'/usr'.*'/etc'"):
        Sandbox(ChrootJail(binds=(Bind("/usr", "/x"), Bind("/etc", "/x"))))


@pytest.mark.parametrize(
    ("program", "kind", "number"),
    [
        ("no-such-program", CommandNotFoundError, errno.ENOENT),
        ("/no/such/program", CommandNotFoundError, errno.ENOENT),
        ("/etc/passwd/x", CommandNotFoundError, None),
        ("./missing-interpreter", CommandNotFoundError, errno.ENOENT),
        ("./not-executable", CommandNotExecutableError, errno.EACCES),
        ("/usr", CommandNotExecutableError, errno.EACCES),
        ("./no-shebang", CommandNotExecutableError, errno.ENOEXEC),
        ("./empty", CommandNotExecutableError, errno.ENOEXEC),
        ("./loop", ExecError, errno.ELOOP),
    ],
)
def test_programs_that_cannot_be_started_say_why(
    box: Sandbox, program: str, kind: type[ExecError], number: int | None
) -> None:
    box.write_file("missing-interpreter", "#!/no/such/interpreter\n", mode=0o755)
    box.write_file("not-executable", "#!/bin/sh\n")
    box.write_file("no-shebang", "echo hello\n", mode=0o755)
    box.write_file("empty", "", mode=0o755)
    box.run(["ln", "-s", "loop", "loop"]).check_returncode()
    with pytest.raises(ExecError) as caught:
        box.run([program, "argument"])
    assert type(caught.value) is kind
    assert number is None or caught.value.errno == number
    assert caught.value.step == "exec"
    assert caught.value.arguments["program"] == program
    assert box.run(["/bin/true"])


def test_builtin_exceptions_catch_them_too(box: Sandbox) -> None:
    with pytest.raises(FileNotFoundError):
        box.run(["no-such-program"])
    with pytest.raises(PermissionError):
        box.run(["/usr"])


@pytest.mark.parametrize("cwd", ["missing", "/no/such", "file", "/etc/passwd"])
def test_a_missing_working_directory_is_a_setup_error(box: Sandbox, cwd: str) -> None:
    box.write_file("file", "")
    with pytest.raises(SetupError) as caught:
        box.run(["/bin/true"], cwd=cwd)
    assert caught.value.step == "chdir"
    assert caught.value.errno in (errno.ENOENT, errno.ENOTDIR)


def test_a_limit_that_cannot_be_raised_is_a_setup_error() -> None:
    with pytest.raises(SetupError) as caught:
        pysandbox.run(["/bin/true"], Rlimits(nofile=1 << 31))
    assert (caught.value.layer, caught.value.step, caught.value.errno) == ("Rlimits", "setrlimit", errno.EPERM)
    assert "hard limit" in caught.value.hint


def test_arguments_too_large_for_the_memory_limit_are_refused() -> None:
    with pytest.raises(ConfigError, match="memory limit"):
        pysandbox.run(["true", "x" * 100_000] + ["y" * 100_000] * 10, CgroupLimits(memory="2M"), degrade=True)


def test_arguments_too_large_for_the_kernel_are_an_exec_error() -> None:
    with pytest.raises(ExecError) as caught:
        pysandbox.run(["true", "x" * (1 << 20)])
    assert caught.value.errno == errno.E2BIG


def test_an_unknown_keyword_is_a_type_error_that_names_it(box: Sandbox) -> None:
    for action in (pysandbox.run, pysandbox.popen, box.run, box.popen):
        with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
            action(["true"], colour="red")  # type: ignore[call-overload, operator]


def test_arguments_larger_than_any_program_takes_are_refused(box: Sandbox) -> None:
    with pytest.raises(SetupError) as caught:
        box.run(["true", *["x" * 100_000] * 400])
    assert caught.value.errno == errno.E2BIG
    assert box.run(["true"]).returncode == 0


def test_the_highest_number_a_descriptor_can_have_is_passed_too() -> None:
    highest = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1
    read, write = os.pipe()
    os.dup2(write, highest)
    try:
        result = pysandbox.run(
            [sys.executable, "-S", "-c", f"import os; os.write({highest}, b'hello')"], pass_fds=[highest], timeout=20
        )
        assert result.returncode == 0, result.stderr
        assert os.read(read, 10) == b"hello"
    finally:
        for fd in (read, write, highest):
            os.close(fd)


def test_an_error_handler_that_is_none_is_refused_before_anything_runs(box: Sandbox) -> None:
    for options in ({"errors": "bogus"}, {"errors": 5}, {"bufsize": "x"}, {"pass_fds": 5}, {"pass_fds": [2**31]}):
        with pytest.raises(ConfigError):
            box.run(["true"], text=True, **options)  # type: ignore[call-overload]
    with pytest.raises(ConfigError):
        box.run(["true"], stdout=2**40)


def test_an_encoding_that_cannot_read_the_output_leaves_a_handle_that_has_ended(box: Sandbox) -> None:
    process = box.popen(["printf", "\\377"], stdout=pysandbox.PIPE, encoding="idna")
    with pytest.raises(UnicodeError):
        process.communicate()
    assert process.returncode == 0
    with pytest.raises(UnicodeError):
        process.wait(timeout=5)


@pytest.mark.parametrize("options", [{"timeout": 3e6}, {"cpu_time": 9e8}, {"timeout": 0.2, "grace": 9e8}], ids=str)
def test_times_of_years_are_no_trouble(options: dict[str, float]) -> None:
    result = pysandbox.run(["sh", "-c", "sleep 0.4; exit 0"], **options)  # type: ignore[arg-type]
    assert result.verdict in (pysandbox.Verdict.OK, pysandbox.Verdict.WALL_TIME_EXCEEDED)


@pytest.mark.parametrize(
    "options",
    [
        {"binds": (Bind("/usr/bin", "/proc"),)},
        {"tmpfs": (Tmpfs("/proc"),)},
        {"files": {"/proc/x": ""}},
        {"binds": (Bind("/usr/bin/env", "/proc/version"),)},
        {"symlinks": {"/dev/fd": "elsewhere"}},
        {"files": {"/dev/null": ""}},
        {"files": {"/box": ""}},
        {"workdir": "/usr"},
    ],
    ids=str,
)
def test_what_contradicts_the_boxs_own_is_refused_and_names_both(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        Sandbox(ChrootJail(**options))
    assert caught.value.layers == ("ChrootJail", "ChrootJail")


def test_arguments_too_large_for_a_one_shot_run_are_named_as_that() -> None:
    with pytest.raises(SetupError) as caught:
        pysandbox.run(["echo", "x" * (40 << 20)])
    assert caught.value.errno == errno.E2BIG


def test_data_with_gaps_is_written_whole(box: Sandbox) -> None:
    box.write_file("a", memoryview(b"abcd")[::2])  # type: ignore[arg-type]
    assert box.read_file("a") == b"ac"


@pytest.mark.root
@pytest.mark.parametrize("host_id", [1, 65533, 65534])
def test_a_host_id_that_somebody_has_is_refused(host_id: int) -> None:
    with pytest.raises(ConfigError, match="taken"):
        Sandbox(Namespaces(host_id=host_id))
