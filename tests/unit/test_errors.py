from __future__ import annotations

import copy
import errno
import pickle
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

import pysandbox
from pysandbox import (
    CallError,
    CommandNotExecutableError,
    CommandNotFoundError,
    ConfigError,
    ExecError,
    ProcessError,
    ProtocolError,
    RemoteError,
    Result,
    ResultEncodingError,
    SandboxError,
    SandboxTimeout,
    SetupError,
    UnsupportedError,
    Usage,
    Verdict,
    WorkerDied,
    errors,
)

RESULT: Result[bytes] = Result(
    args=("prog", "-x"),
    returncode=-9,
    stdout=b"out",
    stderr=b"err",
    verdict=Verdict.MEMORY_EXCEEDED,
    usage=Usage(wall_time=1.5, memory_peak=1 << 20),
    limits_hit=frozenset({"memory"}),
    evidence={"oom_kills": "1 (memory.events)"},
)

SETUP: dict[str, Any] = {
    "layer": "ChrootJail",
    "step": "open_tree",
    "arguments": {"source": "/srv/x", "flags": 2},
    "hint": "look there",
}

EXAMPLES: dict[str, SandboxError] = {
    "SandboxError": SandboxError("the box has ended"),
    "ConfigError": ConfigError("two of them", layers=("Namespaces", "ChrootJail")),
    "UnsupportedError": UnsupportedError("CgroupLimits", need="a cgroup", have="none", remedy="run as root"),
    "SetupError": SetupError(errno.EPERM, **SETUP),
    "ExecError": ExecError(errno.EIO, **SETUP),
    "CommandNotFoundError": CommandNotFoundError(errno.ENOENT, **SETUP),
    "CommandNotExecutableError": CommandNotExecutableError(errno.EACCES, **SETUP),
    "ProcessError": ProcessError(RESULT),
    "SandboxTimeout": SandboxTimeout(["prog"], 1.5, b"out", b"err"),
    "CallError": CallError("no result"),
    "WorkerDied": WorkerDied(RESULT),
    "RemoteError": RemoteError("mod.Weird", "it broke"),
    "ResultEncodingError": ResultEncodingError("a lock"),
    "ProtocolError": ProtocolError("not an answer"),
}

ATTRIBUTES = {
    "SandboxError": (),
    "ConfigError": ("layers",),
    "UnsupportedError": ("feature", "need", "have", "remedy"),
    "SetupError": ("layer", "step", "arguments", "errno", "strerror", "hint"),
    "ExecError": ("layer", "step", "arguments", "errno", "strerror", "hint"),
    "CommandNotFoundError": ("layer", "step", "arguments", "errno", "strerror", "hint"),
    "CommandNotExecutableError": ("layer", "step", "arguments", "errno", "strerror", "hint"),
    "ProcessError": ("result", "returncode", "cmd", "output", "stdout", "stderr"),
    "SandboxTimeout": ("cmd", "timeout", "output", "stdout", "stderr"),
    "CallError": (),
    "WorkerDied": ("result",),
    "RemoteError": ("type_name", "message"),
    "ResultEncodingError": (),
    "ProtocolError": (),
}

# --- the tree ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "parents"),
    [
        (SandboxError, {Exception}),
        (ConfigError, {SandboxError, ValueError}),
        (UnsupportedError, {SandboxError}),
        (SetupError, {SandboxError, OSError}),
        (ExecError, {SetupError}),
        (CommandNotFoundError, {ExecError, FileNotFoundError}),
        (CommandNotExecutableError, {ExecError, PermissionError}),
        (ProcessError, {SandboxError, subprocess.CalledProcessError}),
        (SandboxTimeout, {SandboxError, subprocess.TimeoutExpired}),
        (CallError, {SandboxError}),
        (WorkerDied, {CallError}),
        (RemoteError, {CallError}),
        (ResultEncodingError, {CallError}),
        (ProtocolError, {CallError}),
    ],
)
def test_each_error_has_exactly_the_parents_of_the_tree(
    kind: type[SandboxError], parents: set[type[BaseException]]
) -> None:
    assert set(kind.__bases__) == parents


def test_the_tree_holds_every_error_there_is() -> None:
    def below(kind: type[BaseException]) -> set[str]:
        return {kind.__name__}.union(*(below(child) for child in kind.__subclasses__()))

    own = {name for name in below(SandboxError) if hasattr(errors, name)}
    assert own == set(errors.__all__) == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_error_is_public_and_has_a_line_in_the_drawing(name: str) -> None:
    assert getattr(pysandbox, name) is getattr(errors, name)
    assert errors.__doc__ is not None
    assert name in errors.__doc__


@pytest.mark.parametrize(
    ("kind", "unrelated"),
    [
        (ConfigError, OSError),
        (UnsupportedError, OSError),
        (ProcessError, OSError),
        (SandboxTimeout, OSError),
        (SandboxTimeout, subprocess.CalledProcessError),
        (CommandNotFoundError, PermissionError),
        (CommandNotExecutableError, FileNotFoundError),
        (CallError, subprocess.SubprocessError),
    ],
)
def test_kinds_of_failure_are_never_mixed(kind: type[SandboxError], unrelated: type[BaseException]) -> None:
    assert not issubclass(kind, unrelated)


# --- messages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part", ["ChrootJail", "open_tree", "source='/srv/x'", "flags=2", "Operation not permitted", "EPERM", "look there"]
)
def test_setup_error_says_what_failed(part: str) -> None:
    assert part in str(EXAMPLES["SetupError"])


def test_setup_error_without_hint_or_arguments_says_so_by_silence() -> None:
    error = SetupError(errno.EINVAL, layer="Namespaces", step="clone")
    assert str(error) == "Namespaces: clone() failed: Invalid argument [EINVAL]"
    assert (error.arguments, error.hint) == ({}, "")


def test_setup_error_of_an_errno_without_name_shows_its_number() -> None:
    assert "[9999]" in str(SetupError(9999, layer="init", step="clone"))


def test_setup_error_keeps_a_copy_of_its_arguments() -> None:
    given = {"path": "/a"}
    error = SetupError(errno.EPERM, layer="x", step="y", arguments=given)
    given["path"] = "/b"
    assert error.arguments == {"path": "/a"}


def test_setup_error_is_caught_as_os_error_with_its_errno() -> None:
    with pytest.raises(OSError) as caught:
        raise EXAMPLES["SetupError"]
    assert caught.value.errno == errno.EPERM
    assert caught.value.strerror == "Operation not permitted"


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EPIPE, errno.EEXIST])
def test_setup_error_is_of_its_own_type_whatever_the_errno(number: int) -> None:
    assert type(SetupError(number, layer="x", step="y")) is SetupError


def test_command_not_found_is_file_not_found_with_errno() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        raise EXAMPLES["CommandNotFoundError"]
    assert caught.value.errno == errno.ENOENT


def test_command_not_executable_is_permission_error_with_errno() -> None:
    with pytest.raises(PermissionError) as caught:
        raise EXAMPLES["CommandNotExecutableError"]
    assert caught.value.errno == errno.EACCES


@pytest.mark.parametrize("part", ["CgroupLimits", "a cgroup", "none", "run as root"])
def test_unsupported_error_says_feature_need_have_and_remedy(part: str) -> None:
    assert part in str(EXAMPLES["UnsupportedError"])


def test_unsupported_error_leaves_out_what_is_not_known() -> None:
    assert str(UnsupportedError("seccomp")) == "seccomp cannot be enforced here"


@pytest.mark.parametrize("part", ["prog", "-x", "MEMORY_EXCEEDED", "-9"])
def test_process_error_says_command_verdict_and_returncode(part: str) -> None:
    assert part in str(EXAMPLES["ProcessError"])


def test_process_error_has_what_called_process_error_has() -> None:
    error = ProcessError(RESULT)
    assert (error.returncode, error.cmd, error.stdout, error.stderr) == (-9, ["prog", "-x"], b"out", b"err")


def test_worker_died_says_the_verdict() -> None:
    assert "MEMORY_EXCEEDED" in str(EXAMPLES["WorkerDied"])


def test_sandbox_timeout_says_command_and_seconds() -> None:
    assert "prog" in str(EXAMPLES["SandboxTimeout"])
    assert "1.5" in str(EXAMPLES["SandboxTimeout"])


def test_remote_error_says_type_and_message() -> None:
    assert str(EXAMPLES["RemoteError"]) == "mod.Weird: it broke"


def test_config_error_names_no_layers_unless_told() -> None:
    assert ConfigError("wrong").layers == ()


# --- pickling and copying ------------------------------------------------------------------------------------

_COPIES: list[Callable[[Any], Any]] = [
    *(lambda error, p=p: pickle.loads(pickle.dumps(error, p)) for p in range(2, pickle.HIGHEST_PROTOCOL + 1)),
    copy.copy,
    copy.deepcopy,
]


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_error_survives_pickling_and_copying(name: str) -> None:
    error = EXAMPLES[name]
    for again in _COPIES:
        twin = again(error)
        assert twin is not error
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert twin.args == error.args
        for attribute in ATTRIBUTES[name]:
            assert getattr(twin, attribute) == getattr(error, attribute), attribute


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_error_survives_pickling_twice(name: str) -> None:
    once = pickle.loads(pickle.dumps(EXAMPLES[name]))
    assert pickle.dumps(pickle.loads(pickle.dumps(once))) == pickle.dumps(once)


@pytest.mark.parametrize("name", EXAMPLES)
def test_notes_survive_pickling_as_those_of_builtin_exceptions_do(name: str) -> None:
    error: Any = copy.copy(EXAMPLES[name])
    error.__notes__ = ["the remote traceback"]  # what add_note of Python 3.11 does
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["the remote traceback"]


def test_a_result_inside_an_error_survives_pickling_whole() -> None:
    twin: WorkerDied = pickle.loads(pickle.dumps(WorkerDied(RESULT)))
    assert twin.result == RESULT
    assert twin.result.usage.memory_peak == 1 << 20
