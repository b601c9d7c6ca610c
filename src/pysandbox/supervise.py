"""The state machine of one run: what was seen goes in, orders come out.  No I/O, no clock, no kernel.

It owns the ledger of our own kills, the bounds, and the verdict.  `Popen` (and the event loop's mirror of it) feeds it
and carries out what it says.
"""

from __future__ import annotations

import enum
import os
import signal
from dataclasses import dataclass, field

from .cgroups import Readings
from .result import Usage, Verdict

_CPUS = os.cpu_count() or 1
PATIENCE = 10.0  # seconds that a killed tree may take to be gone
_TICK = 0.02  # the kernel checks RLIMIT_CPU at its timer ticks only
_SHORTEST_LOOK = 0.001  # seconds between two readings of a CPU counter


class Order(enum.Enum):
    """What is to be done to the run now."""

    TERMINATE = "terminate"  #: SIGTERM to the program's process group; KILL follows
    KILL = "kill"  #: SIGKILL to the whole tree
    END_BOX = "end the box"  #: the tree would not die: end the box, and everything in it, at once


@dataclass(frozen=True)
class Bounds:
    """What a run may use, as far as this side watches over it."""

    wall: float | None = None
    cpu: float | None = None
    grace: float = 0.0
    output: int = 1 << 24
    truncate: bool = False
    memory: int | None = None  #: watched, where no cgroup limits it
    look_interval: float = 0.02  #: between two looks at a tree that no cgroup counts
    rlimit_cpu: int | None = None  #: seconds of each process, at which the kernel sends SIGXCPU
    rlimit_fsize: int | None = None  #: bytes of each file, at which the kernel sends SIGXFSZ


@dataclass(frozen=True)
class OwnKill:
    """An entry of the ledger: why we stopped the run, and when."""

    verdict: Verdict
    at: float
    detail: str


@dataclass(frozen=True)
class Ending:
    """How the program ended, as init (and so the kernel) reported it; `status` is a wait status."""

    status: int
    killed: int
    user: float
    system: float
    max_rss: int
    lost: bool = False  #: the box went away before init could say


@dataclass
class Supervisor:
    """One run, from its start to its verdict.  Times are of one monotonic clock."""

    bounds: Bounds
    started: float
    counted: bool  #: a cgroup counts CPU time (cheap to read)
    watched: bool = False  #: the tree is looked at from outside (dear)
    ledger: OwnKill | None = None
    ending: Ending | None = None
    ended_at: float = 0.0
    truncated: bool = False
    output: dict[str, int] = field(default_factory=dict)
    memory_seen: int = 0
    cpu_seen: float = 0.0
    processes_seen: int = 0
    _stopping: bool = False
    _kill_at: float | None = None
    _killed_at: float | None = None
    _gave_up: bool = False
    _next_cpu_look: float | None = None

    @property
    def watches(self) -> bool:
        """Whether there is a clock or a counter to look at, besides waiting for events."""
        bounds = self.bounds
        bounded = bounds.wall is not None or bounds.cpu is not None or bounds.memory is not None
        return bounded or self._stopping

    def next_look(self, now: float) -> float | None:
        """Seconds until `look` must be called again, or None if only events matter."""
        times = []
        if not self._stopping:
            if self.bounds.wall is not None:
                times.append(self.started + self.bounds.wall)
            if self.bounds.cpu is not None or self.bounds.memory is not None:
                times.append(self._next_cpu_look if self._next_cpu_look is not None else now)
        elif self._killed_at is not None:
            times.append(self._killed_at + PATIENCE)
        elif self._kill_at is not None:
            times.append(self._kill_at)
        if self._gave_up or not times:
            return None
        return max(0.0, min(times) - now)

    def wants_counters(self, now: float) -> bool:
        """Whether `look` should be given fresh counters."""
        if self._stopping or (self.bounds.cpu is None and self.bounds.memory is None):
            return False
        return self._next_cpu_look is None or now >= self._next_cpu_look

    def look(self, now: float, cpu: float | None = None, memory: int | None = None) -> Order | None:
        """Check the bounds against the clock and what the counters say."""
        if self.ending is not None:
            return None
        if self._stopping:
            if self._killed_at is not None:
                if now >= self._killed_at + PATIENCE and not self._gave_up:
                    self._gave_up = True
                    return Order.END_BOX
            elif self._kill_at is not None and now >= self._kill_at:
                self._killed_at = now
                return Order.KILL
            return None
        if cpu is not None:
            self.cpu_seen = max(self.cpu_seen, cpu)
        if memory is not None:
            self.memory_seen = max(self.memory_seen, memory)
        bounds = self.bounds
        if bounds.memory is not None and memory is not None and memory > bounds.memory:
            return self.stop(now, Verdict.MEMORY_EXCEEDED, f"{memory} bytes seen, limit {bounds.memory}")
        if bounds.cpu is not None and cpu is not None and cpu >= bounds.cpu:
            return self.stop(now, Verdict.CPU_TIME_EXCEEDED, f"{cpu:.4f} s of CPU time, limit {bounds.cpu} s")
        if bounds.wall is not None and now >= self.started + bounds.wall:
            passed = now - self.started
            return self.stop(now, Verdict.WALL_TIME_EXCEEDED, f"{passed:.4f} s passed, limit {bounds.wall} s")
        if cpu is not None or memory is not None or self.wants_counters(now):
            self._next_cpu_look = now + self._pause(cpu)
        return None

    def _pause(self, cpu: float | None) -> float:
        """How long no bound can be crossed: with all CPUs busy, the rest of the CPU time lasts at least this long."""
        pause = 3600.0
        if self.bounds.cpu is not None and cpu is None:
            pause = self.bounds.look_interval  # the counter could not be read; it may be the next time
        elif self.bounds.cpu is not None and cpu is not None:
            pause = max(_SHORTEST_LOOK, (self.bounds.cpu - cpu) / _CPUS)
        if not self.counted:
            pause = max(pause, self.bounds.look_interval)
        if self.bounds.memory is not None:
            pause = min(pause, self.bounds.look_interval)
        return pause

    def add_output(self, stream: str, count: int, now: float) -> tuple[int, Order | None]:
        """Note `count` bytes of a stream; returns how many of them to keep, and what to do."""
        before = self.output.get(stream, 0)
        self.output[stream] = before + count
        keep = max(0, min(count, self.bounds.output - before))
        if keep == count:
            return keep, None
        self.truncated = True
        if self.bounds.truncate or self._stopping:
            return keep, None
        return keep, self.stop(
            now, Verdict.OUTPUT_EXCEEDED, f"more than {self.bounds.output} bytes on {stream}", at_once=True
        )

    def stop(self, now: float, verdict: Verdict, detail: str, *, at_once: bool = False) -> Order | None:
        """Enter a kill of ours in the ledger, unless one is there; returns the order."""
        if self.ending is not None:
            return None
        self.note(now, verdict, detail)
        if self._stopping and not at_once:
            return None  # the order was given, and the grace period does not begin anew
        self._stopping = True
        if self.bounds.grace > 0 and not at_once:
            self._kill_at = now + self.bounds.grace
            return Order.TERMINATE
        if self._killed_at is None:
            self._killed_at = now
        return Order.KILL

    def note(self, now: float, verdict: Verdict, detail: str) -> None:
        """Enter in the ledger what the caller did to the run; only the first entry counts."""
        if self.ledger is None and self.ending is None:
            self.ledger = OwnKill(verdict, now - self.started, detail)

    def end(self, ending: Ending, now: float) -> None:
        """Note the end of the program and of all its processes."""
        if self.ending is None:
            self.ending = ending
            self.ended_at = now

    # --- what it comes to ----------------------------------------------------------------------------------------

    @property
    def returncode(self) -> int:
        """Exit status, or minus the signal."""
        assert self.ending is not None
        return os.waitstatus_to_exitcode(self.ending.status)

    def verdict(self, readings: Readings) -> tuple[Verdict, frozenset[str], dict[str, object]]:
        """The verdict, the limits that were hit, and the evidence for both."""
        assert self.ending is not None
        returncode = self.returncode
        hit: set[str] = set()
        evidence: dict[str, object] = {}
        if readings.oom_kills:
            hit.add("memory")
            evidence["oom_kills"] = f"{readings.oom_kills} ({readings.sources.get('oom_kills', '')})"
        if readings.pids_refused:
            hit.add("pids")
            evidence["pids_refused"] = f"{readings.pids_refused} ({readings.sources.get('pids_refused', '')})"
        if self.truncated:
            hit.add("output")
        if self.ending.killed:
            evidence["left_behind"] = f"{self.ending.killed} processes outlived the program and were killed"
        cpu = self.cpu_time(readings)
        over_cpu = self.bounds.cpu is not None and cpu is not None and cpu >= self.bounds.cpu
        if returncode == -signal.SIGXCPU and self.bounds.rlimit_cpu is not None and cpu is not None:
            over_cpu |= cpu >= self.bounds.rlimit_cpu - _TICK  # else the program sent it to itself
        if over_cpu:
            hit.add("cpu_time")
        verdict = self._cause(readings, returncode, over_cpu, evidence)
        named = {
            Verdict.CPU_TIME_EXCEEDED: "cpu_time",
            Verdict.WALL_TIME_EXCEEDED: "wall_time",
            Verdict.MEMORY_EXCEEDED: "memory",
            Verdict.OUTPUT_EXCEEDED: "output",
        }
        if verdict in named:
            hit.add("file_size" if "file_size" in evidence else named[verdict])
        return verdict, frozenset(hit), evidence

    def _cause(self, readings: Readings, returncode: int, over_cpu: bool, evidence: dict[str, object]) -> Verdict:
        assert self.ending is not None
        if self.ledger is not None:  # what we did ourselves is certain, and comes first
            evidence["ledger"] = f"{self.ledger.verdict.name} at {self.ledger.at:.4f} s: {self.ledger.detail}"
            if self._gave_up:
                evidence["box"] = f"ended with the run, whose processes were not gone {PATIENCE} s after SIGKILL"
            return self.ledger.verdict
        if self.ending.lost:
            evidence["box"] = (
                "init, or the run's keeper, was gone before the run had ended; the box has been ended with it"
            )
            return Verdict.SIGNALED
        if readings.oom_kills:  # the kernel counted it
            return Verdict.MEMORY_EXCEEDED
        if over_cpu:
            by_rlimit = returncode == -signal.SIGXCPU
            limit = f"SIGXCPU, RLIMIT_CPU {self.bounds.rlimit_cpu} s" if by_rlimit else f"{self.bounds.cpu} s"
            evidence["cpu_time_limit"] = limit
            return Verdict.CPU_TIME_EXCEEDED
        if self.truncated and not self.bounds.truncate:
            evidence["output"] = f"more than {self.bounds.output} bytes"
            return Verdict.OUTPUT_EXCEEDED
        if returncode == -signal.SIGXFSZ and self.bounds.rlimit_fsize is not None:
            # The kernel's own SIGXFSZ looks like one that the program sends itself: siginfo says SI_USER for both.
            limit = f"RLIMIT_FSIZE {self.bounds.rlimit_fsize} bytes"
            evidence["file_size"] = f"SIGXFSZ, which the kernel sends at {limit} (or the program to itself)"
            return Verdict.OUTPUT_EXCEEDED
        if returncode < 0:
            evidence["signal"] = f"wait status {self.ending.status:#x}; sent by no limit and not by us"
            return Verdict.SIGNALED
        evidence["exit"] = f"wait status {self.ending.status:#x}"
        return Verdict.OK if returncode == 0 else Verdict.NONZERO_EXIT

    def cpu_time(self, readings: Readings) -> float | None:
        """CPU seconds of the run: the cgroup's, else what was reaped."""
        if readings.cpu_time is not None:
            return readings.cpu_time
        assert self.ending is not None
        return max(self.ending.user + self.ending.system, self.cpu_seen)

    def usage(self, readings: Readings, setup_time: float, evidence: dict[str, object]) -> Usage:
        """The figures; adds each one's source to the evidence."""
        assert self.ending is not None
        user, system = readings.cpu_user, readings.cpu_system
        sources = dict(readings.sources)
        if readings.cpu_time is None:
            sources["cpu_time"] = "rusage of the processes reaped"
        if user is None or system is None:
            user, system = self.ending.user, self.ending.system
            sources["cpu_user"] = sources["cpu_system"] = "rusage of the processes reaped"
        peak = readings.memory_peak
        if peak is None:
            peak = max(self.ending.max_rss, self.memory_seen)
            sources["memory_peak"] = "the largest of: ru_maxrss of one process, the watched sum"
        processes = readings.processes_peak
        if processes is None and self.processes_seen:
            processes = self.processes_seen
            sources["processes_peak"] = "the watch"
        figures = {"cpu_time": self.cpu_time(readings), "cpu_user": user, "cpu_system": system}
        figures |= {"memory_peak": peak, "processes_peak": processes}
        for name, figure in figures.items():
            if figure is not None and name in sources:
                evidence[name] = sources[name]
        evidence["wall_time"] = "CLOCK_MONOTONIC"
        return Usage(
            wall_time=max(0.0, self.ended_at - self.started),
            cpu_time=self.cpu_time(readings),
            cpu_user=user,
            cpu_system=system,
            memory_peak=peak,
            processes_peak=processes,
            setup_time=setup_time,
        )
