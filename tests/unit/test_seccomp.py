"""Policies of system calls: what their filters answer, found without the kernel."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import socket
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysandbox import ConfigError, Seccomp, UnsupportedError
from pysandbox.seccomp import bpf, libseccomp
from pysandbox.seccomp.groups import GROUPS
from pysandbox.seccomp.policy import Arg, Policy, Rule

MACHINE = os.uname().machine
NEW = {"NEWNS": 1 << 17, "NEWCGROUP": 1 << 25, "NEWUTS": 1 << 26, "NEWIPC": 1 << 27, "NEWUSER": 1 << 28}
NEW |= {"NEWPID": 1 << 29, "NEWNET": 1 << 30}

#: what the issue wants off, with what is answered
OFF = [
    *(
        (name, (), "errno 1")
        for name in ("io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd", "bpf")
    ),
    *((name, (), "errno 1") for name in ("perf_event_open", "keyctl", "add_key", "request_key", "ptrace")),
    *((name, (), "errno 1") for name in ("process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp")),
    *(
        (name, (), "errno 1")
        for name in ("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load")
    ),
    *(
        (name, (), "errno 1")
        for name in ("mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen")
    ),
    *(
        (name, (), "errno 1")
        for name in ("fsconfig", "fsmount", "fspick", "mount_setattr", "setns", "open_by_handle_at")
    ),
    *((name, (), "errno 1") for name in ("settimeofday", "clock_settime", "sethostname", "swapon", "reboot", "acct")),
    ("clone3", (), f"errno {errno.ENOSYS}"),
    *(("clone", (flag | 17,), "errno 1") for flag in NEW.values()),
    *(("unshare", (flag,), "errno 1") for flag in (*NEW.values(), 1 << 7)),
    *(("ioctl", (0, request), "errno 1") for request in (0x5412, 0x541C, 0x5423)),
    *(("ioctl", (0, request | 1 << 32), "errno 1") for request in (0x5412, 0x541C)),
    *(("socket", (family, 1, 0), f"errno {errno.EAFNOSUPPORT}") for family in (17, 38, 40, 0, 3, 9, 15, 31, 44)),
    *(("socket", (16, 3, protocol), f"errno {errno.EPROTONOSUPPORT}") for protocol in (1, 9, 15)),
]

#: what ordinary programs do
ON = [
    *(
        (name, ())
        for name in ("read", "write", "openat", "mmap", "execve", "futex", "wait4", "getrandom", "statx", "rseq")
    ),
    *((name, ()) for name in ("epoll_wait", "eventfd2", "memfd_create", "pipe2", "setuid", "flock", "inotify_init1")),
    *(
        (name, ())
        for name in ("shmget", "mq_open", "seccomp", "landlock_create_ruleset", "sched_setaffinity", "io_setup")
    ),
    ("clone", (0x3D0F00,)),  # a thread
    ("clone", (17,)),
    ("unshare", (0x400,)),
    ("ioctl", (0, 0x5401)),
    *(("socket", (family, 1, 0)) for family in (1, 2, 10)),
    ("socket", (16, 3, 0)),
    ("personality", (0xFFFFFFFF,)),
]


@pytest.mark.parametrize(("name", "arguments", "answer"), OFF)
def test_the_default_refuses(name: str, arguments: tuple[int, ...], answer: str) -> None:
    if libseccomp.number(name) is None:
        pytest.skip(f"{name} is no call of this machine's")
    assert Seccomp().policy.evaluate(name, *arguments) == answer


@pytest.mark.parametrize(("name", "arguments"), ON)
def test_the_default_lets_ordinary_programs_work(name: str, arguments: tuple[int, ...]) -> None:
    if libseccomp.number(name) is None:
        pytest.skip(f"{name} is no call of this machine's")
    assert Seccomp().policy.evaluate(name, *arguments) == "allow"


@pytest.mark.parametrize("preset", ["default", "strict", "judge", "python", "build"])
def test_calls_that_nobody_knows_yet_are_not_there(preset: str) -> None:
    policy = Seccomp(preset).policy
    assert {policy.evaluate_number(number) for number in range(470, 700)} == {f"errno {errno.ENOSYS}"}


@pytest.mark.skipif(MACHINE != "x86_64", reason="needs x86-64, which has such others")
@pytest.mark.parametrize("preset", ["default", "strict", "judge", "python", "build"])
def test_calls_of_other_machines_kill(preset: str) -> None:
    policy = Seccomp(preset).policy
    assert policy.evaluate("read", architecture="i386") == "kill"
    assert {policy.evaluate_number(0x40000000 + number) for number in range(0, 600, 7)} == {"kill"}


def test_strict_reads_and_computes_and_does_no_more() -> None:
    policy = Seccomp("strict").policy
    for name, arguments in (("read", ()), ("mmap", ()), ("openat", (0, 0, os.O_RDONLY | os.O_CLOEXEC)), ("execve", ())):
        assert policy.evaluate(name, *arguments) == "allow"
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_APPEND, os.O_TMPFILE):
        assert policy.evaluate("openat", 0, 0, flags) == f"errno {errno.EACCES}"
    for name in ("clone", "fork", "socket", "unlinkat", "kill", "setuid", "shmget", "openat2"):
        if libseccomp.number(name) is not None:
            assert policy.evaluate(name, 17).startswith("errno ")


def test_judge_kills_what_is_dangerous_and_has_no_ways_to_talk() -> None:
    policy = Seccomp("judge").policy
    for name in ("ptrace", "mount", "bpf", "keyctl", "io_uring_setup", "process_vm_readv"):
        assert policy.evaluate(name) == "kill"
    for name in ("socket", "flock", "shmget", "mq_open", "inotify_init1"):
        assert policy.evaluate(name, 1).startswith("errno ")
    assert policy.evaluate("fcntl", 3, 6) == "errno 1"
    assert policy.evaluate("fcntl", 3, 1) == "allow"
    assert policy.evaluate("socketpair", 1) == "allow"


def test_every_name_of_a_group_is_one_that_libseccomp_knows_or_is_too_young_for() -> None:
    young = {"map_shadow_stack", "mseal", "cachestat", "fchmodat2", "futex_wait", "futex_wake", "futex_requeue"}
    young |= {"statmount", "listmount", "open_tree_attr", "quotactl_fd", "set_mempolicy_home_node", "memfd_secret"}
    unknown = {name for names in GROUPS.values() for name in names if not libseccomp.is_known(name)}
    assert unknown <= young


# --- the builder ----------------------------------------------------------------------------------------------------


def test_the_last_rule_in_all_cases_counts() -> None:
    assert Seccomp().deny("read").policy.evaluate("read") == "errno 1"
    assert Seccomp().deny("read").allow("read").policy.evaluate("read") == "allow"
    assert Seccomp().kill("@sockets").allow("socket").policy.evaluate("socket", 2) == "allow"
    assert Seccomp().kill("@sockets").allow("socket").policy.evaluate("bind") == "kill"
    assert Seccomp().log("read").policy.evaluate("read") == "log"


def test_comparisons_count_where_they_hold() -> None:
    policy = Seccomp().errno("EACCES", "socket", when=Arg(0, "==", socket.AF_INET6)).policy
    assert policy.evaluate("socket", socket.AF_INET6) == f"errno {errno.EACCES}"
    assert policy.evaluate("socket", socket.AF_INET6 | 1 << 32) != "allow"  # an int, whatever is above
    assert policy.evaluate("socket", socket.AF_INET) == "allow"
    both = Seccomp().kill("kill", when=(Arg(0, "==", 1), Arg(1, "==", 9))).policy
    assert [both.evaluate("kill", *arguments) for arguments in ((1, 9), (1, 8), (2, 9))] == ["kill", "allow", "allow"]
    large = Seccomp().deny("read", when=Arg(2, ">", 1 << 33, bits=64)).policy
    assert [large.evaluate("read", 0, 0, count) for count in (1 << 33, 1 << 34)] == ["allow", "errno 1"]
    some = Seccomp("strict").allow("clone", when=Arg(0, "&", 0xFF, 17)).policy
    assert [some.evaluate("clone", flags) for flags in (17, 0x100 | 17, 16)] == ["allow", "allow", "errno 38"]


def test_filters_of_the_callers_own_count_besides() -> None:
    refuse = struct.pack("=HBBI", 6, 0, 0, bpf.ERRNO | errno.EDOM)  # return errno, to everything
    policy = Seccomp(programs=(refuse,)).policy
    assert policy.evaluate("read") == f"errno {errno.EDOM}"
    with pytest.raises(ConfigError, match="no program start"):
        composed(Seccomp(programs=(refuse,)))


def composed(layer: Seccomp) -> Any:
    """What entering a Sandbox does first."""
    from pysandbox.compose import DEFAULT, compose

    return compose((layer,), DEFAULT, False)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Seccomp("defualt"),
        lambda: Seccomp(None),  # type: ignore[arg-type]  # the mistake
        lambda: Seccomp(["default"]),  # type: ignore[arg-type]  # the mistake
        lambda: Seccomp().allow("raed"),
        lambda: Seccomp().allow("@nothing"),
        lambda: Seccomp().allow(),
        lambda: Seccomp().allow(5),  # type: ignore[arg-type]  # the mistake
        lambda: Seccomp().allow("read\0"),
        lambda: Seccomp().errno(0, "read"),
        lambda: Seccomp().errno(4096, "read"),
        lambda: Seccomp().errno("ENONSENSE", "read"),
        lambda: Seccomp().errno("errorcode", "read"),
        lambda: Seccomp().kill("read", when="fd == 0"),  # type: ignore[arg-type]  # the mistake
        lambda: Seccomp().kill("read", when=(Arg(0, "==", 1), Arg(0, "==", 2))),
        lambda: Seccomp(rules=("allow",)),  # type: ignore[arg-type]  # the mistake
        lambda: Seccomp(programs=b"12345678"),  # type: ignore[arg-type]  # the mistake
        lambda: Seccomp(programs=(b"1234567",)),
        lambda: Seccomp(programs=(b"",)),
        lambda: Seccomp("off").allow("read"),
        lambda: Arg(6, "==", 0),
        lambda: Arg(0, "~", 0),
        lambda: Arg(0, "<", 5),
        lambda: Arg(0, "&", 5),
        lambda: Arg(0, "==", 5, 6),
        lambda: Arg(0, "==", 1 << 32),
        lambda: Arg(0, "==", 0, bits=16),
        lambda: Rule("trap", ("read",)),
    ],
)
def test_mistakes_are_refused(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()


def test_a_policy_is_data() -> None:
    policy = Seccomp("strict").allow("@sockets", when=Arg(0, "==", 1)).kill("ptrace")
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert hash(policy) == hash(Seccomp("strict").allow("@sockets", when=Arg(0, "==", 1)).kill("ptrace"))
    assert "kill: ptrace" in str(policy.policy)
    assert "everything else" in str(policy.policy)


def test_a_policy_is_compiled_once() -> None:
    first = Policy(Seccomp().policy.rules).filters()
    assert all(one is other for one, other in zip(first, Seccomp().policy.filters(), strict=True))


def test_without_libseccomp_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libseccomp, "_LIBRARY", "libnothing.so.9")
    libseccomp._library.cache_clear()
    try:
        with pytest.raises(UnsupportedError, match="apt-get install libseccomp2"):
            libseccomp._library()
    finally:
        libseccomp._library.cache_clear()


# --- running filters ------------------------------------------------------------------------------------------------


@settings(deadline=None, database=None)
@given(st.binary(max_size=400), st.integers(0, (1 << 31) - 1), st.lists(st.integers(0, (1 << 64) - 1), max_size=6))
def test_no_bytes_break_the_reading_of_a_filter(data: bytes, number: int, arguments: list[int]) -> None:
    for act in (lambda: bpf.evaluate(data, bpf.Call(number, tuple(arguments))), lambda: bpf.disassemble(data)):
        with contextlib.suppress(ValueError, IndexError):
            act()


def test_a_filter_can_be_read() -> None:
    text = bpf.disassemble(Seccomp().policy.filters()[-1])
    assert "a = architecture" in text
    assert "return kill" in text
    assert "return errno 38" in text


@pytest.mark.parametrize("name", ["read", "socket", "ioctl"])
def test_two_filters_in_one_answer_as_the_first_and_then_the_second(name: str) -> None:
    call = libseccomp.number(name)
    assert call is not None
    refusing = Seccomp().errno("EDOM", "socket", when=Arg(0, "==", 1)).policy.filters()[-1]
    listing = Seccomp("strict").deny("ioctl").policy.filters()[-1]
    both = bpf.chained(refusing, listing)
    for arguments in ((1, 1, 0), (2, 1, 0), (0, 0x5412)):
        first, second = (bpf.evaluate(one, bpf.Call(call, arguments)) for one in (refusing, listing))
        assert bpf.evaluate(both, bpf.Call(call, arguments)) == (second if first == bpf.ALLOW else first)


def test_the_strictest_of_several_answers_counts() -> None:
    assert bpf.strictest([bpf.ALLOW, bpf.ERRNO | 5, bpf.LOG]) == bpf.ERRNO | 5
    assert bpf.strictest([bpf.ERRNO | 5, bpf.ERRNO | 6]) == bpf.ERRNO | 5  # of the newest
    assert bpf.strictest([bpf.KILL_THREAD, bpf.KILL_PROCESS, bpf.ERRNO]) == bpf.KILL_PROCESS
    assert bpf.strictest([bpf.ALLOW, bpf.USER_NOTIF]) == bpf.USER_NOTIF
