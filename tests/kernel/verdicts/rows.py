"""A row of the table of verdicts, and what kinds of rows have in common."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pysandbox import PIPE, CgroupLimits, Popen, Verdict

GENEROUS = 20.0  # seconds: how long a row may take on a busy machine, where its timeout is not what it is about
Caller = Callable[["Popen[bytes]"], object]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One behaviour, and all that is to be said about its end."""

    id: str
    does: str
    argv: tuple[str, ...]
    verdict: Verdict
    evidence: str | tuple[str, ...]  #: the key of the cause; several where a race that nobody can see decides
    besides: frozenset[str] = frozenset()  #: keys of further causes
    returncode: int | None = None  #: None: not the same on every host, or nobody's business
    hit: frozenset[str] = frozenset()
    left_behind: bool | None = False  #: whether processes outlive the program and are killed; None: a race
    truncated: bool = False
    stdout: bytes | None = None  #: what it must have written, where that proves how far it came
    layers: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    degrade: bool = False
    caller: Caller | None = None  #: what the caller does to the running program; it is started by popen then
    caller_does: str = ""
    file: int | None = None  #: stdin is a file on a disk of so many bytes, which the program may write to
    cgroup: bool = False  #: only a cgroup can tell
    long: bool = False  #: takes seconds, and so has half the rounds


def python(code: str) -> tuple[str, ...]:
    """A small Python program that starts fast: no site, no environment."""
    return (sys.executable, "-S", "-E", "-c", code.strip())


def sh(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script.strip())


MEGABYTES = 1 << 20
SMALL = (CgroupLimits(memory="32M", pids=32),)
FEW = (CgroupLimits(memory="256M", pids=16),)
HOG = "x = []\nwhile True: x.append(bytearray(1 << 20))"
SPIN = "while True: pass"
UP_AND_SLEEP = sh("echo up; exec sleep 100")

NO_HIT: frozenset[str] = frozenset()
MEMORY, CPU, WALL, OUTPUT = (frozenset({name}) for name in ("memory", "cpu_time", "wall_time", "output"))
PIDS, FILE_SIZE = frozenset({"pids"}), frozenset({"file_size"})


# --- what kinds of rows have in common ---------------------------------------------------------------------------


def own_end(id: str, does: str, argv: tuple[str, ...], code: int, **more: Any) -> Row:
    """The program ends by itself, with an exit status or by a signal that is nobody's limit."""
    if code < 0:
        verdict, evidence = Verdict.SIGNALED, "signal"
    else:
        verdict, evidence = (Verdict.OK if code == 0 else Verdict.NONZERO_EXIT), "exit"
    return Row(id=id, does=does, argv=argv, verdict=verdict, evidence=evidence, returncode=code, **more)


def out_of_memory(id: str, does: str, argv: tuple[str, ...], code: int | None = -9, **more: Any) -> Row:
    more = {"layers": SMALL, "cgroup": True, "hit": MEMORY, **more}
    verdict = Verdict.MEMORY_EXCEEDED
    return Row(id=id, does=does, argv=argv, verdict=verdict, evidence="oom_kills", returncode=code, **more)


def out_of_cpu(id: str, does: str, argv: tuple[str, ...], **more: Any) -> Row:
    more = {"options": {"cpu_time": 0.15}, "evidence": "ledger", "hit": CPU, "returncode": -9, **more}
    return Row(id=id, does=does, argv=argv, verdict=Verdict.CPU_TIME_EXCEEDED, **more)


def out_of_time(id: str, does: str, argv: tuple[str, ...], timeout: float = 0.3, **more: Any) -> Row:
    options = {"timeout": timeout, **more.pop("options", {})}
    more = {"hit": WALL, "returncode": -9, **more}
    verdict = Verdict.WALL_TIME_EXCEEDED
    return Row(id=id, does=does, argv=argv, verdict=verdict, evidence="ledger", options=options, **more)


def too_much_output(id: str, does: str, argv: tuple[str, ...], **more: Any) -> Row:
    more = {"options": {"max_output": "64K"}, "evidence": "ledger", "returncode": -9, "truncated": True, **more}
    return Row(id=id, does=does, argv=argv, verdict=Verdict.OUTPUT_EXCEEDED, hit=OUTPUT, **more)


def by_the_caller(id: str, does: str, caller_does: str, caller: Caller, argv: tuple[str, ...], **more: Any) -> Row:
    more = {"verdict": Verdict.KILLED, "evidence": "ledger", "returncode": -9, **more}
    options = {"stdout": PIPE, **more.pop("options", {})}
    return Row(id=id, does=does, argv=argv, caller=caller, caller_does=caller_does, options=options, **more)


def signal_itself(name: str, **more: Any) -> Row:
    number = int(getattr(signal, name))
    # Python ignores SIGPIPE and SIGXFSZ, so the default action is put back first.
    code = f"import os, signal\nif {number} not in (9, 19): signal.signal({number}, signal.SIG_DFL)"
    code += f"\nos.kill(os.getpid(), {number})"
    more = {"id": f"{name.lower()}-to-itself", "does": f"sends {name} to itself", **more}
    return own_end(argv=python(code), code=-number, **more)
