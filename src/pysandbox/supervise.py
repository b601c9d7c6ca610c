"""The state machine of one run: what was seen goes in, orders come out.  No I/O, no clock, no kernel.

It owns the ledger of our own kills, the bounds, and the verdict.  `Popen` (and the event loop's mirror of it) feeds it
and carries out what it says.
"""

from __future__ import annotations

import enum
import os
import signal
from dataclasses import dataclass, field
from typing import NamedTuple

from .cgroups import Readings
from .result import Usage, Verdict

_CPUS = os.cpu_count() or 1
PATIENCE = 10.0  # seconds that a killed tree may take to be gone
_SHORTEST_LOOK = 0.001  # seconds between two readings of a CPU counter
_PROGRESS = 0.001  # seconds of CPU time that count as having done something
_REAPED = "rusage of the processes reaped"
_LIMIT_OF = {
    Verdict.CPU_TIME_EXCEEDED: "cpu_time",
    Verdict.WALL_TIME_EXCEEDED: "wall_time",
    Verdict.MEMORY_EXCEEDED: "memory",
    Verdict.OUTPUT_EXCEEDED: "output",
}


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
    idle: float | None = None  #: seconds without a millisecond of CPU time
    is_filtered: bool = False  #: by seccomp, which kills with SIGSYS
    extra: float = 0.0  #: seconds past a time limit before the run is stopped; the verdict stands


@dataclass(frozen=True)
class OwnKill:
    """An entry of the ledger: why we stopped the run, and when."""

    verdict: Verdict
    at: float
    detail: str
    limit: str = ""  #: the name in `limits_hit`, where it is not the verdict's own


class Ending(NamedTuple):
    """How the program ended, as init (and so the kernel) reported it; `status` is a wait status."""

    status: int
    killed: int
    user: float
    system: float
    max_rss: int
    voluntary: int | None = None
    involuntary: int | None = None
    io_read: int | None = None
    io_written: int | None = None
    wall: float | None = None  #: seconds from the program's start to the end of the last process
    delay: float | None = None  #: seconds in which the program's first thread could have run and did not
    sampled: float | None = None  #: the program's CPU seconds by the clock that RLIMIT_CPU goes by
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
    sent: set[int] = field(default_factory=set)  #: signals that the caller has sent to the program
    _stopping: bool = False
    _kill_at: float | None = None
    _killed_at: float | None = None
    _gave_up: bool = False
    _next_cpu_look: float | None = None
    _progress: tuple[float, float] | None = None  #: when CPU time was last seen to grow, and to what
    _paused_at: float | None = None
    paused: float = 0.0

    def __post_init__(self) -> None:
        """Nothing can have been crossed before the first pause is over: most runs end without a look."""
        if self._wants_a_counter:
            self._progress = (self.started, 0.0)
            self._next_cpu_look = self.started + self._pause(0.0)

    @property
    def watches(self) -> bool:
        """Whether there is a clock or a counter to look at, besides waiting for events."""
        bounds = self.bounds
        return bounds.wall is not None or self._wants_a_counter or self._stopping

    @property
    def _wants_a_counter(self) -> bool:
        bounds = self.bounds
        return bounds.cpu is not None or bounds.memory is not None or bounds.idle is not None

    @property
    def _extra(self) -> float:
        """The extra time there is; none for a program that its owner has asked to end."""
        return 0.0 if self.ledger is not None and self.ledger.verdict is Verdict.KILLED else self.bounds.extra

    def pause(self, now: float) -> None:
        """The run has been stopped by its owner: no clock runs against it."""
        if self._paused_at is None:
            self._paused_at = now

    def resume(self, now: float) -> None:
        """It goes on."""
        if self._paused_at is not None:
            self.paused += now - self._paused_at
            self.started += now - self._paused_at
            self._paused_at = self._progress = None

    def next_look(self, now: float) -> float | None:
        """Seconds until `look` must be called again, or None if only events matter."""
        times = []
        if self._paused_at is not None and not self._stopping:
            return self.bounds.look_interval  # another thread may let it go on
        if not self._stopping:
            if self.bounds.wall is not None:
                times.append(self.started + self.bounds.wall + (self._extra if self.ledger else 0.0))
            if self._wants_a_counter:
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
        if self._stopping or self._paused_at is not None or not self._wants_a_counter:
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
        if self._paused_at is not None:
            return None
        if bounds.memory is not None and memory is not None and memory > bounds.memory:
            return self.stop(now, Verdict.MEMORY_EXCEEDED, f"{memory} bytes seen, limit {bounds.memory}")
        if bounds.cpu is not None and cpu is not None and cpu >= bounds.cpu:
            detail = f"{cpu:.4f} s of CPU time, limit {bounds.cpu} s"
            if order := self._over(now, Verdict.CPU_TIME_EXCEEDED, detail, cpu - bounds.cpu):
                return order
        passed = now - self.started
        if bounds.wall is not None and passed >= bounds.wall:
            detail = f"{passed:.4f} s passed, limit {bounds.wall} s"
            if order := self._over(now, Verdict.WALL_TIME_EXCEEDED, detail, passed - bounds.wall):
                return order
        if bounds.idle is not None and cpu is not None:
            since, seen = self._progress or (now, cpu)
            if cpu > seen + _PROGRESS:
                since, seen = now, cpu
            self._progress = (since, seen)
            if now - since >= bounds.idle:
                detail = f"no CPU time used in {now - since:.4f} s, idle limit {bounds.idle} s"
                return self.stop(now, Verdict.WALL_TIME_EXCEEDED, detail, limit="idle_time")
        if cpu is not None or memory is not None or self.wants_counters(now):
            self._next_cpu_look = now + self._pause(cpu)
        return None

    def _over(self, now: float, verdict: Verdict, detail: str, by: float) -> Order | None:
        """A time limit is past: the verdict is certain, and the end comes when the extra time is used up too."""
        if by >= self._extra:
            return self.stop(now, verdict, detail)
        self.note(now, verdict, detail)
        return None

    def _pause(self, cpu: float | None) -> float:
        """How long no bound can be crossed: with all CPUs busy, the rest of the CPU time lasts at least this long."""
        pause = 3600.0
        if self.bounds.idle is not None:
            pause = max(self.bounds.idle / 8, _SHORTEST_LOOK)
        if self.bounds.cpu is not None and cpu is None:
            pause = self.bounds.look_interval  # the counter could not be read; it may be the next time
        elif self.bounds.cpu is not None and cpu is not None:
            limit = self.bounds.cpu if cpu < self.bounds.cpu else self.bounds.cpu + self.bounds.extra
            pause = min(pause, max(_SHORTEST_LOOK, (limit - cpu) / _CPUS))
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

    def stop(
        self, now: float, verdict: Verdict, detail: str, *, at_once: bool = False, limit: str = ""
    ) -> Order | None:
        """Enter a kill of ours in the ledger, unless one is there; returns the order."""
        if self.ending is not None:
            return None
        self.note(now, verdict, detail, limit=limit)
        if self._stopping and not at_once:
            return None  # the order was given, and the grace period does not begin anew
        self._stopping = True
        if self.bounds.grace > 0 and not at_once:
            self._kill_at = now + self.bounds.grace
            return Order.TERMINATE
        if self._killed_at is None:
            self._killed_at = now
        return Order.KILL

    def end_the_rest(self, now: float) -> Order | None:
        """The kernel has killed a process of the run and counted it, so the verdict is certain; the others go too."""
        if self.ending is not None or self._killed_at is not None:
            return None
        self._stopping, self._killed_at = True, now
        return Order.KILL

    def note(self, now: float, verdict: Verdict, detail: str, *, limit: str = "") -> None:
        """Enter in the ledger what the caller did to the run; only the first entry counts."""
        if self.ledger is None and self.ending is None:
            self.ledger = OwnKill(verdict, now - self.started, detail, limit)

    def end(self, ending: Ending, now: float) -> None:
        """Note the end of the program and of all its processes."""
        if self.ending is None:
            self.resume(now)
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
        by_rlimit = self._killed_by_rlimit(returncode)
        over_cpu |= by_rlimit
        if over_cpu:
            hit.add("cpu_time")
        over_wall = self.bounds.wall is not None and self.wall_time >= self.bounds.wall
        if over_wall:
            hit.add("wall_time")
        verdict = self._cause(readings, returncode, over_cpu, over_wall, evidence)
        if verdict is not Verdict.OK and verdict in _LIMIT_OF:
            own = self.ledger.limit if self.ledger is not None else ""
            hit.add("file_size" if "file_size" in evidence else own or _LIMIT_OF[verdict])
        return verdict, frozenset(hit), evidence

    def _cause(
        self, readings: Readings, returncode: int, over_cpu: bool, over_wall: bool, evidence: dict[str, object]
    ) -> Verdict:
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
            by_rlimit = self._killed_by_rlimit(returncode)
            name = "SIGXCPU" if returncode == -signal.SIGXCPU else "SIGKILL"
            limit = (
                f"{name}, as the kernel sends at RLIMIT_CPU {self.bounds.rlimit_cpu} s"
                if by_rlimit
                else f"{self.bounds.cpu} s"
            )
            evidence["cpu_time_limit"] = limit
            return Verdict.CPU_TIME_EXCEEDED
        if over_wall:  # nobody was there to stop it
            evidence["wall_time_limit"] = f"{self.wall_time:.4f} s passed, limit {self.bounds.wall} s"
            return Verdict.WALL_TIME_EXCEEDED
        if self.truncated and not self.bounds.truncate:
            evidence["output"] = f"more than {self.bounds.output} bytes"
            return Verdict.OUTPUT_EXCEEDED
        if returncode == -signal.SIGXFSZ and self.bounds.rlimit_fsize is not None:
            # The kernel's own SIGXFSZ looks like one that the program sends itself: siginfo says SI_USER for both.
            limit = f"RLIMIT_FSIZE {self.bounds.rlimit_fsize} bytes"
            evidence["file_size"] = f"SIGXFSZ, which the kernel sends at {limit} (or the program to itself)"
            return Verdict.OUTPUT_EXCEEDED
        if returncode == -signal.SIGSYS and self.bounds.is_filtered:
            # No siginfo says of a process that was killed by whom it was.
            evidence["syscall"] = (
                "SIGSYS, which seccomp kills by where nobody listens (or the program sent it to itself)"
            )
            return Verdict.FORBIDDEN_SYSCALL
        if -returncode in self.sent:
            evidence["ledger"] = f"KILLED: send_signal({-returncode})"
            return Verdict.KILLED
        if returncode < 0:
            evidence["signal"] = f"wait status {self.ending.status:#x}; sent by no limit and not by us"
            return Verdict.SIGNALED
        evidence["exit"] = f"wait status {self.ending.status:#x}"
        return Verdict.OK if returncode == 0 else Verdict.NONZERO_EXIT

    def _killed_by_rlimit(self, returncode: int) -> bool:
        """Whether the kernel ended the program at RLIMIT_CPU, and it was not the program itself.

        The kernel compares with times that it samples at timer ticks, which on a busy machine may be half as much again
        as what was used, or less; init has read the same clock.  A program that ignores SIGXCPU gets SIGKILL a second
        later (getrlimit(2); the hard limit).
        """
        assert self.ending is not None
        limit, sampled = self.bounds.rlimit_cpu, self.ending.sampled
        if limit is None or sampled is None:
            return False
        if returncode == -signal.SIGXCPU:
            return sampled >= limit
        return returncode == -signal.SIGKILL and sampled >= limit + 1

    def cpu_time(self, readings: Readings) -> float | None:
        """CPU seconds of the run: the cgroup's, else what was reaped."""
        if readings.cpu_time is not None:
            return readings.cpu_time
        assert self.ending is not None
        return max(self.ending.user + self.ending.system, self.cpu_seen)

    def usage(self, readings: Readings, setup_time: float, evidence: dict[str, object]) -> Usage:
        """The figures; adds each one's source to the evidence."""
        ending, sources = self.ending, readings.sources
        assert ending is not None
        cpu_time = self.cpu_time(readings)
        if readings.cpu_time is not None:
            evidence["cpu_time"] = sources["cpu_time"]
        else:
            watched = cpu_time is not None and cpu_time > ending.user + ending.system
            evidence["cpu_time"] = "the watch, which saw more than was reaped" if watched else _REAPED
        evidence["setup_time"] = "CLOCK_MONOTONIC, by the application"
        user, system = readings.cpu_user, readings.cpu_system
        if user is None or system is None:
            user, system = ending.user, ending.system
            evidence["cpu_user"] = evidence["cpu_system"] = _REAPED
        else:
            evidence["cpu_user"], evidence["cpu_system"] = sources["cpu_user"], sources["cpu_system"]
        peak = readings.memory_peak
        if peak is None:
            peak = max(ending.max_rss, self.memory_seen)
            evidence["memory_peak"] = "the largest of: ru_maxrss of one process, the watched sum"
        else:
            evidence["memory_peak"] = sources["memory_peak"]
        processes = readings.processes_peak
        if processes is not None:
            evidence["processes_peak"] = sources["processes_peak"]
        elif self.processes_seen:
            processes = self.processes_seen
            evidence["processes_peak"] = "the watch"
        read, written = readings.io_read, readings.io_written
        if read is None or written is None:
            read, written = ending.io_read, ending.io_written
            evidence["io_read"] = evidence["io_written"] = "ru_inblock and ru_oublock of the processes reaped"
        else:
            evidence["io_read"], evidence["io_written"] = sources["io_read"], sources["io_written"]
        evidence["voluntary_switches"] = evidence["involuntary_switches"] = _REAPED
        evidence["wall_time"] = "CLOCK_MONOTONIC, by init" if ending.wall is not None else "CLOCK_MONOTONIC"
        return Usage(
            wall_time=self.wall_time,
            cpu_time=cpu_time,
            cpu_user=user,
            cpu_system=system,
            memory_peak=peak,
            io_read=read,
            io_written=written,
            processes_peak=processes,
            setup_time=setup_time,
            voluntary_switches=ending.voluntary,
            involuntary_switches=ending.involuntary,
        )

    @property
    def wall_time(self) -> float:
        """Seconds that the run took, without those in which it was paused."""
        assert self.ending is not None
        if self.ending.wall is not None:
            return max(0.0, self.ending.wall - self.paused)
        return max(0.0, self.ended_at - self.started)

    def starved(self, readings: Readings, evidence: dict[str, object]) -> float | None:
        """The share of wall time in which the run could have run and did not; adds what is known of the host's load."""
        assert self.ending is not None
        wall = max(self.wall_time, 1e-9)
        for resource, waited in readings.pressure.items():
            evidence[f"{resource}_pressure"] = f"{waited:.6f} s ({resource}.pressure, some)"
        if readings.throttled is not None:
            evidence["throttled"] = f"{readings.throttled:.6f} s ({readings.sources.get('throttled', '')})"
        if self.paused:
            evidence["paused"] = f"{self.paused:.4f} s, not counted as wall time"
        if "cpu" in readings.pressure:
            waited = readings.pressure["cpu"] - (readings.throttled or 0.0)  # what a quota held back was asked for
            evidence["starved"] = "cpu.pressure, some, less what the quota held back"
        elif self.ending.delay is not None:
            waited = self.ending.delay - (readings.throttled or 0.0)
            evidence["starved"] = "schedstat of the program's first thread"
        else:
            return None
        return min(1.0, max(0.0, waited / wall))
