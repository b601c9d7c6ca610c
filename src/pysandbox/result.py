"""What is said about a run: `Result`, `Verdict`, `Usage`, `Enforcement`.  Data only."""

from __future__ import annotations

import enum
import os
import signal as signals
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import AnyStr, Generic

from .errors import ProcessError

__all__ = ["Enforcement", "Level", "Result", "Usage", "Verdict"]


class Verdict(enum.Enum):
    """Why a run ended.  Each is proved: see `Result.evidence`."""

    OK = "OK"  #: exit status 0
    NONZERO_EXIT = "NONZERO_EXIT"  #: another exit status
    SIGNALED = "SIGNALED"  #: a signal that neither pysandbox nor a limit sent
    CPU_TIME_EXCEEDED = "CPU_TIME_EXCEEDED"  #: `cpu_time`, over all processes of the run
    WALL_TIME_EXCEEDED = "WALL_TIME_EXCEEDED"  #: `timeout`
    MEMORY_EXCEEDED = "MEMORY_EXCEEDED"  #: the kernel (or the watch) killed for memory
    OUTPUT_EXCEEDED = "OUTPUT_EXCEEDED"  #: `max_output` on a captured stream, or the file size limit
    FORBIDDEN_SYSCALL = "FORBIDDEN_SYSCALL"  #: killed by the seccomp policy
    KILLED = "KILLED"  #: by the caller: `kill()`, `terminate()`, leaving the block


class Level(str, enum.Enum):
    """How much of a layer is in force."""

    FULL = "full"
    PARTIAL = "partial"
    NONE = "none"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Enforcement:
    """What is in force of one layer: `level`, by which `mechanism`, and `reason` where it is not full."""

    level: Level
    mechanism: str
    reason: str = ""

    def __str__(self) -> str:
        text = f"{self.level}: {self.mechanism}"
        return f"{text} ({self.reason})" if self.reason else text


@dataclass(frozen=True, kw_only=True)
class Stats:
    """One reading of what runs use while they go on; None where nothing counts it."""

    time: float  #: of time.monotonic()
    processes: int | None = None  #: processes and threads (without a cgroup: processes)
    memory: int | None = None  #: bytes now
    cpu_time: float | None = None  #: CPU seconds so far
    io_read: int | None = None  #: bytes so far
    io_written: int | None = None
    throttled: float | None = None  #: seconds in which a CPU quota held it back


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a run used: seconds and bytes, over all its processes; None where nothing measured it.

    The counter behind each figure is named in `Result.evidence` under the figure's name.
    """

    wall_time: float  #: from the program's start to its end
    cpu_time: float | None = None
    cpu_user: float | None = None
    cpu_system: float | None = None
    memory_peak: int | None = None
    io_read: int | None = None
    io_written: int | None = None
    processes_peak: int | None = None
    setup_time: float | None = None  #: from the call to the program's start
    voluntary_switches: int | None = None  #: context switches of the processes that were waited for
    involuntary_switches: int | None = None


@dataclass(frozen=True, kw_only=True)
class Result(Generic[AnyStr]):
    """The outcome of a run.  Has all that `subprocess.CompletedProcess` has; true when the verdict is OK."""

    args: tuple[str, ...]
    returncode: int  #: exit status, or minus the signal
    stdout: AnyStr | None
    stderr: AnyStr | None
    verdict: Verdict
    usage: Usage
    limits_hit: frozenset[str] = (
        frozenset()
    )  #: of "memory", "pids", "cpu_time", "wall_time", "idle_time", "output", "file_size"
    evidence: Mapping[str, object] = field(default_factory=dict)
    #: Share of wall time in which the run could have run and did not, as the CPUs were taken; None: not measured (no
    #: limits were asked for).  On v2 of the whole run, some of it; on v1 of the program's first thread only.
    starved: float | None = None
    limits: Mapping[str, float] = field(
        default_factory=dict
    )  #: those in force at the end, by name: bytes, seconds, CPUs
    samples: tuple[Stats, ...] = ()  #: readings taken on the way, with `sample_interval`
    truncated: bool = False  #: output past `max_output` was dropped
    enforcement: Mapping[str, Enforcement] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.verdict is Verdict.OK

    @property
    def signal(self) -> signals.Signals | int | None:
        """The signal that ended the program, or None."""
        if self.returncode >= 0:
            return None
        try:
            return signals.Signals(-self.returncode)
        except ValueError:  # a real-time signal between SIGRTMIN and SIGRTMAX has no name
            return -self.returncode

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw CPU and memory over time, with the limits as lines, into an SVG, PNG or PDF file.

        Needs readings (`sample_interval=`) and matplotlib (`pip install 'pysandbox[plot]'`).  Errors: `ConfigError`,
        `UnsupportedError`.
        """
        from .plotting import plot  # matplotlib takes a second to import

        plot(self, path)

    def check_returncode(self) -> None:
        """Raise `ProcessError` unless the verdict is OK."""
        if not self:
            raise ProcessError(self)
