"""What a payload is: its capabilities, its environment, its keys."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from inside import answer, status

import pysandbox
from pysandbox import (
    Capabilities,
    Environment,
    Namespaces,
    Sandbox,
)
from pysandbox.result import Level

Fresh = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.usefixtures("without_seccomp")

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
BIND = """
import socket
with socket.socket() as s:
    answer = error_of(s.bind, ("127.0.0.1", 80))
"""


# --- capabilities, no_new_privs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_a_capability_set_is_empty(name: str) -> None:
    assert int(status()[name], 16) == 0


@pytest.mark.parametrize("name", SETS)
def test_a_capability_set_is_empty_for_user_0_inside_too(name: str) -> None:
    assert int(status(Namespaces(uid=0, gid=0))[name], 16) == 0


@pytest.mark.root
@pytest.mark.parametrize("name", SETS)
def test_a_capability_set_is_empty_without_a_user_namespace_too(name: str) -> None:
    assert int(status(Namespaces(user=False))[name], 16) == 0


@pytest.mark.root
def test_without_any_layer_root_keeps_its_capabilities() -> None:
    assert int(status(base=None)["CapEff"], 16) != 0


@pytest.mark.parametrize("name", SETS)
def test_a_kept_capability_is_the_only_one(name: str) -> None:
    assert int(status(Capabilities(keep=("net_bind_service",)))[name], 16) == 1 << 10


def test_a_kept_capability_works() -> None:
    assert answer(BIND, Capabilities(keep=("net_bind_service",))) == "allowed"


def test_without_it_that_is_refused() -> None:
    assert answer(BIND) == "EACCES"


def test_keeping_a_capability_is_told(box: Sandbox) -> None:
    assert box.enforcement["Capabilities"].level is Level.FULL
    kept = Sandbox(Capabilities(keep=("net_raw",))).enforcement["Capabilities"]
    assert kept.level is Level.PARTIAL
    assert "net_raw" in kept.reason


def test_a_kept_capability_is_gone_for_the_next_box() -> None:
    status(Capabilities(keep=("net_raw",)))
    assert int(status()["CapEff"], 16) == 0


@pytest.mark.parametrize("base", ["default", "none"])
def test_no_new_privileges_can_be_gained(base: str) -> None:
    options: dict[str, Any] = {} if base == "default" else {"base": None}
    assert status(**options)["NoNewPrivs"] == "1"


def test_a_setuid_program_gains_nothing() -> None:
    code = """
    import shutil, subprocess
    shutil.copy("/bin/cat", "/box/cat")
    os.chmod("/box/cat", 0o6755)
    lines = subprocess.run(["/box/cat", "/proc/self/status"], capture_output=True, text=True).stdout.splitlines()
    answer = [line.split()[1:] for line in lines if line.startswith(("Uid", "CapEff"))]
    """
    ids, effective = answer(code)
    assert ids == ["1000"] * 4
    assert int(effective[0], 16) == 0


@pytest.mark.root
def test_supplementary_groups_of_root_are_gone(in_fresh_python: Fresh) -> None:
    code = """
import os, pysandbox
os.setgroups([4, 24, 27])
print(pysandbox.run(["id", "-G"], text=True).stdout.strip())
print(pysandbox.run(["id", "-G"], pysandbox.Namespaces(user=False), text=True).stdout.strip().count(" "))
"""
    done = in_fresh_python(code)
    assert done.stdout == "1000\n0\n", done.stderr


# --- environment -----------------------------------------------------------------------------------------------------

ENVIRON = "answer = dict(os.environ)"


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    """The value of a variable of the caller's."""
    value = uuid.uuid4().hex
    monkeypatch.setenv("PYSANDBOX_TEST_SECRET", value)
    return value


def test_the_environment_is_clean(secret: str) -> None:
    seen = answer(ENVIRON)
    assert seen.keys() == {"PATH", "HOME", "LANG"}
    assert seen["HOME"] == "/box"
    assert os.path.dirname(sys.executable) in seen["PATH"].split(":")


def test_the_environment_is_empty_without_the_usual_few() -> None:
    assert pysandbox.run(["/usr/bin/env"], Environment(clean=False), timeout=20).stdout == b""


def test_the_environment_is_empty_where_nothing_gives_one(secret: str) -> None:
    assert pysandbox.run(["/usr/bin/env"], base=None, timeout=20).stdout == b""


def test_an_allowed_variable_is_passed_on(secret: str) -> None:
    assert answer(ENVIRON, Environment(allow=("PYSANDBOX_TEST_SECRET",)))["PYSANDBOX_TEST_SECRET"] == secret


def test_an_allowed_variable_that_is_not_set_is_left_out() -> None:
    assert answer(ENVIRON, Environment(allow=("PYSANDBOX_NOT_SET",))).keys() == {"PATH", "HOME", "LANG"}


def test_an_allowed_variable_has_the_value_of_the_time_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Environment(allow=("PYSANDBOX_TEST",))
    for value in ("one", "two"):
        monkeypatch.setenv("PYSANDBOX_TEST", value)
        assert answer(ENVIRON, layer)["PYSANDBOX_TEST"] == value


def test_a_set_variable_wins_over_all_others(secret: str) -> None:
    layer = Environment(allow=("PYSANDBOX_TEST_SECRET",), set={"PYSANDBOX_TEST_SECRET": "mine", "HOME": "/tmp"})
    seen = answer(ENVIRON, layer)
    assert (seen["PYSANDBOX_TEST_SECRET"], seen["HOME"]) == ("mine", "/tmp")


def test_an_env_replaces_all_of_it() -> None:
    result = pysandbox.run(["/usr/bin/env"], Environment(set={"A": "1"}), env={"B": "2 =\n"}, timeout=20)
    assert result.stdout == b"B=2 =\n\n"


def test_an_empty_env_is_empty() -> None:
    assert pysandbox.run(["/usr/bin/env"], env={}, timeout=20).stdout == b""


def test_a_variable_that_is_no_text_is_carried_over() -> None:
    value = os.fsdecode(b"\xff\xfe")
    assert pysandbox.run(["/usr/bin/env"], env={"B": value}, timeout=20).stdout == b"B=\xff\xfe\n"


def test_no_process_of_the_box_holds_a_secret_of_the_caller(secret: str) -> None:
    code = """
    found = []
    for name in os.listdir("/proc"):
        for file in ("environ", "cmdline") if name.isdigit() else ():
            try:
                found.append(open(f"/proc/{name}/{file}").read())
            except OSError:
                pass
    answer = found
    """
    texts = answer(code)
    assert len(texts) >= 3
    assert secret not in "".join(texts)


# --- keyrings --------------------------------------------------------------------------------------------------------

KEYS = """
import ctypes, errno, platform
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
add_key, keyctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[platform.machine()]
join, search, read, session = 1, 10, 11, -3
def outcome(result):
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "allowed"
"""
USE_KEY = (
    KEYS
    + """
import sys
buffer = ctypes.create_string_buffer(100)
found = outcome(libc.syscall(keyctl, search, session, b"user", b"pysandbox-test", 0))
got = outcome(libc.syscall(keyctl, read, int(sys.argv[1]), buffer, 100, 0))
print(found, got, buffer.value.decode())
"""
)
OWN_KEY = (
    KEYS
    + """
import sys, pysandbox
libc.syscall(keyctl, join, None, 0, 0, 0)  # a keyring of this process alone
key = libc.syscall(add_key, b"user", b"pysandbox-test", b"secret", 6, session)
words = [sys.executable, "-S", "-c", sys.argv[1], str(key)]
options = {"base": None} if sys.argv[2:] else {}
print(pysandbox.run(words, text=True, timeout=20, **options).stdout, end="")
"""
)


def test_keys_of_the_callers_session_are_out_of_reach(in_fresh_python: Fresh) -> None:
    done = in_fresh_python(OWN_KEY, USE_KEY)
    found, got, *value = done.stdout.split()
    assert "allowed" not in (found, got), done.stdout
    assert value == []


def test_without_any_layer_those_keys_are_reached(in_fresh_python: Fresh) -> None:
    assert in_fresh_python(OWN_KEY, USE_KEY, "no layers").stdout == "allowed allowed secret\n"


def test_a_key_of_one_box_is_not_found_in_another(in_fresh_python: Fresh) -> None:
    add = KEYS + 'libc.syscall(add_key, b"user", b"pysandbox-test", b"secret", 6, session)'
    find = KEYS + 'print(outcome(libc.syscall(keyctl, search, session, b"user", b"pysandbox-test", 0)))'
    code = (
        KEYS
        + """
import sys, pysandbox
libc.syscall(keyctl, join, None, 0, 0, 0)
with pysandbox.Sandbox() as one, pysandbox.Sandbox() as other:
    one.run([sys.executable, "-S", "-c", sys.argv[1]], timeout=20)
    print(other.run([sys.executable, "-S", "-c", sys.argv[2]], text=True, timeout=20).stdout, end="")
"""
    )
    done = in_fresh_python(code, add, find)
    assert done.stdout.strip() in ("ENOKEY", "EACCES", "ENOSYS", "EPERM"), done.stderr
