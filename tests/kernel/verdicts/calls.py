"""Rows about system calls that a policy does not let a program make."""

from __future__ import annotations

import signal
from typing import Any

from pysandbox import Seccomp, Verdict
from pysandbox.seccomp import libseccomp

from .rows import Row, python

_SECCOMP = libseccomp.number("seccomp")
TRACE = "import ctypes; ctypes.CDLL(None).ptrace(16, 1, 0, 0)"


def forbidden(id: str, does: str, code: str, layer: Seccomp, **more: Any) -> Row:
    """A row about a run that ends in a call."""
    known: dict[str, Any] = {"evidence": "ledger", "returncode": -signal.SIGKILL} | more
    return Row(id=id, does=does, argv=python(code), verdict=Verdict.FORBIDDEN_SYSCALL, layers=(layer,), **known)


SIGSYS = "import os, signal; os.kill(os.getpid(), signal.SIGSYS)"

CALLS = [
    forbidden("forbidden-call", "traces init, which kills by `Seccomp().kill`", TRACE, Seccomp().kill("ptrace")),
    forbidden("forbidden-to-a-judge", "traces init", TRACE, Seccomp("judge")),
    forbidden(
        "forbidden-to-a-child",
        "has a child that traces init",
        f"import os, time\nif os.fork() == 0:\n    {TRACE}\ntime.sleep(100)",
        Seccomp("judge"),
        left_behind=None,
    ),
    forbidden(
        "forbidden-to-set-up-too",
        "calls seccomp(2), which kills without a listener",
        f"import ctypes; ctypes.CDLL(None).syscall({_SECCOMP}, 9, 0, 0)",
        Seccomp().kill("seccomp"),
        evidence="syscall",
        returncode=-signal.SIGSYS,
    ),
    forbidden(
        "sigsys-to-itself",
        "sends itself SIGSYS, which nobody can tell from seccomp's own",
        SIGSYS,
        Seccomp(),
        evidence="syscall",
        returncode=-signal.SIGSYS,
    ),
    Row(
        id="sigsys-without-a-filter",
        does="sends itself SIGSYS, with `Seccomp('off')`",
        argv=python(SIGSYS),
        verdict=Verdict.SIGNALED,
        evidence="signal",
        returncode=-signal.SIGSYS,
        layers=(Seccomp("off"),),
    ),
    Row(
        id="refused-call",
        does="traces init, which fails with EPERM, and exits 3",
        argv=python(f"{TRACE}; raise SystemExit(3)"),
        verdict=Verdict.NONZERO_EXIT,
        evidence="exit",
        returncode=3,
    ),
]
