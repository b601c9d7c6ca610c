"""`Popen`: one running program.  The words are those of `subprocess`."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import select
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import IO, Any, AnyStr, Generic

from typing_extensions import Self

from . import streams, units, watch
from .box import ENDED, ORDER_KILL, ORDER_SIGNAL, ORDER_SIGNAL_GROUP, REPLY, Box, Reply
from .cgroups import Readings
from .command import Command, encoded_input
from .errors import ConfigError, SandboxError, SandboxTimeout, UnsupportedError
from .hostload import HostLoad
from .interrupts import INTERRUPTIBLE, UNINTERRUPTED
from .launch import Held, launch
from .plan import CgroupRequest
from .result import Result, Stats, Verdict
from .seccomp import notify
from .supervise import Ending, Order, Supervisor

_CHUNK = 1 << 16
_NOT_KNOWN = (1 << 64) - 1
_SLICE = 0.05  # seconds that a thread waits for another that steps, before it looks about
_LONGEST_POLL = 86400.0  # seconds; poll(2) takes no more than 24 days
_OOM_LOOKS = 50  # times that the counter of kills is looked at after an OOM, a millisecond apart


class Popen(Generic[AnyStr]):
    """A program running in a box.

    Has the methods and streams of `subprocess.Popen`; leaving its block ends the program, and with it every process of
    the run.  Its `timeout`, `cpu_time` and memory bounds are looked after while the caller is in `wait`, `communicate`
    or `poll` (the kernel keeps cgroup limits and RLIMIT_CPU on its own).  Made by `Sandbox.popen`, never directly, with
    signals held back.
    """

    args: tuple[str, ...]
    stdin: IO[AnyStr] | None
    stdout: IO[AnyStr] | None
    stderr: IO[AnyStr] | None

    def __init__(
        self,
        box: Box,
        command: Command,
        *,
        begun: float,
        others: Callable[[Popen[Any]], set[int]],
        last_of_box: bool = False,
    ) -> None:
        self.args = command.args
        self.stdin = self.stdout = self.stderr = None
        self._box = box
        self._command = command
        self._others = others
        self._result: Result[AnyStr] | None = None
        self._owner = os.getpid()
        self._stepping = threading.RLock()
        self._on_end: list[Callable[[Popen[Any]], None]] = []
        self._trouble: Exception | None = None  # raised to the caller once everything is in order
        self._feed: memoryview | None = None
        self._quiet = False  # poll(2) has just found one thing alone
        self._collected: dict[str, bytearray] = {}
        self._readers: dict[str, streams.Reader] = {}  # below the caller's streams
        self._held: Held = launch(box, command, last_of_box=last_of_box)
        run = self._held.run
        assert run is not None
        self._pid, self._number = run.pid, run.number
        started = time.monotonic()
        self._setup_time = started - begun
        self._supervisor = Supervisor(self._held.bounds, started, counted=self._held.leaf is not None)
        self._poll = select.poll()
        self._watched: dict[int, str] = {}  # descriptor → "init", "stdin", "stdout", "stderr"
        self._watch(run.socket.fileno(), "init", select.POLLIN)
        if run.listener >= 0:
            self._watch(run.listener, "calls", select.POLLIN)
        self._samples: list[Stats] = []
        self._next_sample = started if command.sample_interval is not None else math.inf
        try:
            # What init had waited for before, where the tree is watched; None where another run's would be mixed in.
            watched = self._held.leaf is None and self._held.bounds.cpu is not None and not others(self)
            self._reaped_before = watch.reaped_by(box.pid) if watched else None
            self._load = HostLoad() if self._held.is_measured else None
            self._watch_leaf()
        except BaseException:
            self._held.let_go()
            raise

    def _watch_leaf(self) -> None:
        """Hear of memory running out or short in the run's cgroup."""
        leaf, on_pressure = self._held.leaf, self._command.on_pressure
        if leaf is not None:
            leaf.open_counters()
        if leaf is not None and self._held.is_measured and (event := leaf.oom_event()) is not None:
            self._watch(event, "oom", select.POLLIN)
        if on_pressure is not None:
            if leaf is None:
                raise UnsupportedError("on_pressure", need="a cgroup for the run", have=self._held.why_no_leaf())
            fd, event = leaf.pressure_event()
            self._watch(fd, "pressure", event)

    def open_streams(self) -> None:
        """Make the caller's file objects of the pipes, blocking ones."""
        held, command = self._held, self._command
        held.close_far_ends()  # the caller waits for the end of the streams
        for name in list(held.pipes):
            fd = held.pipes[name]
            os.set_blocking(fd, True)
            raw: streams.Reader | None = None
            if name != "stdin":
                raw = self._readers[name] = streams.Reader(fd, "rb")
            stream = streams.opened(raw or fd, command.encoding, command.errors, command.bufsize)
            del held.pipes[name]
            setattr(self, name, stream)

    # --- watching over it -----------------------------------------------------------------------------------

    def _carry_out(self, order: Order | None) -> None:
        run = self._held.run
        if order is None or run is None:
            return
        if order is Order.TERMINATE:
            run.order(ORDER_SIGNAL_GROUP, signal.SIGTERM)
        elif order is Order.END_BOX:
            self._box.kill()
        else:
            if self._held.leaf is not None:
                self._held.leaf.stop_forks()
                self._held.leaf.thaw()  # what is frozen on cgroup v1 does not die
            run.order(ORDER_KILL)

    def _look(self, now: float) -> None:
        supervisor = self._supervisor
        cpu = memory = None
        if supervisor.wants_counters(now):
            if self._held.leaf is not None:
                cpu = self._held.leaf.cpu_time()
            if cpu is None:  # no cgroup, or none that counts
                others = self._others(self)
                alone = self._box.runs_started == self._number
                sample = watch.look(self._box.pid, self._pid, others, supervisor.bounds.memory, alone=alone)
                cpu, memory = sample.cpu, sample.memory
                if self._reaped_before is not None:
                    cpu += watch.reaped_by(self._box.pid) - self._reaped_before  # orphans that have ended
                    if self._box.runs_started != self._number:
                        self._reaped_before = None  # another run's may be among them
                        cpu = sample.cpu
                supervisor.processes_seen = max(supervisor.processes_seen, sample.processes)
                if sample.cost * 10 > supervisor.bounds.look_interval:  # spend a tenth of one CPU on it at most
                    supervisor.bounds = replace(supervisor.bounds, look_interval=sample.cost * 10)
                now = time.monotonic()
        self._carry_out(supervisor.look(now, cpu, memory))

    def _step(self, patience: float | None, waiting: AbstractContextManager[None] = INTERRUPTIBLE) -> None:
        """Wait for one thing to happen, `patience` seconds at most, and see to it.

        To be called with signals held back; none of it waits but the waiting.
        """
        self._check_owner()
        if not self._stepping.acquire(blocking=False):
            # Another thread is at it: what it waits for wakes it, and then us.
            deadline = math.inf if patience is None else time.monotonic() + patience
            while not self._stepping.acquire(timeout=max(0.0, min(_SLICE, deadline - time.monotonic()))):
                if time.monotonic() >= deadline:
                    return
                with waiting:  # signals that have come meanwhile
                    pass
            patience = None if patience is None else max(0.0, deadline - time.monotonic())
        try:
            if self._held.run is not None:
                self._step_alone(patience, waiting)
        finally:
            self._stepping.release()

    def _step_alone(self, patience: float | None, waiting: AbstractContextManager[None]) -> None:
        wait = patience
        if self._supervisor.watches or self._next_sample != math.inf:
            now = time.monotonic()
            pauses = [patience, self._supervisor.next_look(now), max(0.0, self._next_sample - now)]
            wait = min((pause for pause in pauses if pause is not None), default=math.inf)
            wait = None if wait == math.inf else wait
        with waiting:
            # rounded up to milliseconds
            events = self._poll.poll(None if wait is None else min(wait, _LONGEST_POLL) * 1000)
        self._quiet = len(events) == 1
        for fd, event in events:
            if fd in self._watched:  # `on_pressure` is the caller's code, and may have waited for the run itself
                self._see_to(self._watched[fd], fd, event)
            if self._held.run is None:
                return
        if self._supervisor.watches:
            self._look(time.monotonic())
        if self._next_sample != math.inf and time.monotonic() >= self._next_sample and self._held.run is not None:
            assert self._command.sample_interval is not None
            self._samples.append(self.stats())
            self._next_sample = time.monotonic() + self._command.sample_interval

    def _see_to(self, name: str, fd: int, event: int) -> None:
        if name == "init":
            self._hear()
        elif name == "stdin":
            self._write_input()
        elif name == "oom":
            self._hear_of_oom(fd)
        elif name == "pressure":
            self._hear_of_pressure(fd, event)
        elif name == "calls":
            self._hear_of_call(fd, event)
        elif event & select.POLLIN:
            self._read_output(name)
        else:  # closed at the other end, and empty
            self._unwatch(fd)

    def _hear_of_oom(self, fd: int) -> None:
        """The kernel is killing a process of the run; the others go too, as v2 does by itself (memory.oom.group)."""
        os.read(fd, 8)
        leaf = self._held.leaf
        for _ in range(_OOM_LOOKS):  # the event comes a moment before the kill
            if leaf is None or leaf.oom_kills():
                break
            time.sleep(0.001)
        if leaf is not None and leaf.oom_kills():
            self._carry_out(self._supervisor.end_the_rest(time.monotonic()))

    def _hear_of_call(self, fd: int, event: int) -> None:
        """A process of the run waits in a call that ends it."""
        call = notify.receive(fd) if event & select.POLLIN else None
        if call is not None:
            order = self._supervisor.stop(time.monotonic(), Verdict.FORBIDDEN_SYSCALL, call, at_once=True)
            self._carry_out(order)
        if call is not None or not event & select.POLLIN:  # one is enough; or none is left who could make one
            self._unwatch(fd)

    def _hear_of_pressure(self, fd: int, event: int) -> None:
        if event & select.POLLIN:  # an eventfd, which has a count to take
            os.read(fd, 8)
        if self._command.on_pressure is not None:
            stats = self.stats()
            with INTERRUPTIBLE:  # the caller's code
                self._command.on_pressure(stats)

    def stats(self) -> Stats:
        """Read what the run uses now: memory, CPU time, processes, I/O; None for what nothing counts."""
        if self._held.run is None:
            raise SandboxError("the run has ended; its figures are in result.usage")
        with self._held.leaf_lock:
            if self._held.leaf is not None:
                return self._held.leaf.stats()
        sample = watch.look(
            self._box.pid, self._pid, self._others(self), None, alone=self._box.runs_started == self._number
        )
        return Stats(time=time.monotonic(), processes=sample.processes, memory=sample.memory, cpu_time=sample.cpu)

    def freeze(self, frozen: bool) -> None:
        """Stop every process of the run, or let them go on; the time in between counts against no limit."""
        self.poll()  # a run that has ended already was not paused
        with self._held.leaf_lock:
            leaf = self._held.leaf
            if leaf is None:
                self._refuse_unless_ended("pause")
                return
            leaf.freeze(frozen)
            if frozen:
                self._supervisor.pause(time.monotonic())
            else:
                self._supervisor.resume(time.monotonic())

    def check_update(self, request: CgroupRequest) -> None:
        """Refuse a bound on processes above the one that an rlimit keeps already: that cannot be taken back."""
        self.poll()  # what has ended keeps the limits that it had
        most = self._held.rlimit_pids
        if self._held.leaf is not None and most is not None and request.pids is not None and request.pids >= most:
            raise UnsupportedError(
                "update",
                need=f"pids below {most}, which RLIMIT_NPROC of the run that is going on allows",
                have=f"pids={request.pids}",
                remedy="start the run with limits=CgroupLimits(pids=...)",
            )

    def update(self, request: CgroupRequest) -> CgroupRequest | None:
        """Put other limits in force; returns those before."""
        with self._held.leaf_lock:
            if self._held.leaf is None:
                self._refuse_unless_ended("update")
                return None
            before = self._held.leaf.request
            self._held.leaf.update(request)
            return before

    def _refuse_unless_ended(self, what: str) -> None:
        """A run that has just ended has no cgroup any more, and that is no error."""
        if self._held.run is not None:
            raise UnsupportedError(what, need="a cgroup for the run", have=self._held.why_no_leaf())

    def _watch(self, fd: int, name: str, events: int) -> None:
        self._watched[fd] = name
        self._poll.register(fd, events)

    def _unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def _hear(self) -> None:
        """Take init's report of the end."""
        run = self._held.run
        assert run is not None
        try:
            data = _receive(run.socket)
        except BlockingIOError:
            return
        now = time.monotonic()
        if len(data) == REPLY.size:
            reply = Reply._make(REPLY.unpack(data))
            if reply.kind != ENDED:
                return
            ending = Ending(
                reply.status,
                reply.killed,
                user=reply.user_us / 1e6,
                system=reply.system_us / 1e6,
                max_rss=reply.max_rss_kib << 10,
                voluntary=reply.voluntary,
                involuntary=reply.involuntary,
                io_read=reply.blocks_in * 512,
                io_written=reply.blocks_out * 512,
                wall=reply.wall_ns / 1e9,
                delay=None if reply.delay_ns == _NOT_KNOWN else reply.delay_ns / 1e9,
                sampled=None if reply.sampled_ns == _NOT_KNOWN else reply.sampled_ns / 1e9,
            )
        else:
            # Whoever looked after the run is dead: init, or (by a payload of the same id) the run's keeper.  What the
            # run left behind is nobody's then, so the box ends with it.
            self._box.kill()
            if self._box.closed:
                self._supervisor.note(now, Verdict.KILLED, "the box was closed")
            ending = Ending(int(signal.SIGKILL), 0, 0.0, 0.0, 0, lost=True)
        self._finish(ending, now)

    def _finish(self, ending: Ending, now: float) -> None:
        """Every process of the run is dead: take the rest of the output, read the counters, make the result."""
        supervisor = self._supervisor
        supervisor.end(ending, now)
        readings, limits = Readings(), self._held.limits
        try:
            self._drain()
            if self._held.leaf is not None:
                readings = self._held.leaf.readings()
        except Exception as error:  # the run has ended all the same, and its end is to be told
            self._trouble = error
        finally:
            self._held.let_go(ended=not ending.lost)
        verdict, hit, evidence = supervisor.verdict(readings)
        usage = supervisor.usage(readings, self._setup_time, evidence)
        starved = supervisor.starved(readings, evidence)
        if self._load is not None:
            evidence |= self._load.since(usage.wall_time)
        self._result = Result(
            args=self.args,
            returncode=supervisor.returncode,
            stdout=self._output("stdout"),
            stderr=self._output("stderr"),
            verdict=verdict,
            usage=usage,
            limits_hit=hit,
            evidence=evidence,
            starved=starved,
            limits=limits,
            samples=tuple(self._samples),
            truncated=supervisor.truncated,
            enforcement=self._held.enforcement,
        )
        for callback in self._on_end:
            callback(self)

    def _drain(self) -> None:
        """Take what the pipes still hold: all that this run wrote is in them.

        Init's report comes when every process of the run is dead, and poll(2) looks at its socket first: where it found
        the report and nothing else, the pipes are empty.  Another run may have got hold of such a pipe, keep it open
        and write on, so no more is taken than one holds.
        """
        if self._quiet:
            return
        pipes = self._held.pipes
        left = {name: fcntl.fcntl(pipes[name], fcntl.F_GETPIPE_SZ) for name in self._collected if name in pipes}
        while left:
            ready = [self._watched[fd] for fd, event in self._poll.poll(0) if event & select.POLLIN]
            names = [name for name in ready if left.get(name, 0) > 0]
            if not names:
                return
            taken = {name: self._read_output(name) for name in names}
            if not any(taken.values()):
                return
            for name, count in taken.items():
                left[name] -= count

    def _output(self, name: str) -> Any:
        if name not in self._collected:
            return None
        raw, reader = bytes(self._collected[name]), self._readers.get(name)
        encoding, errors, cut = self._command.encoding, self._command.errors, self._supervisor.truncated
        try:
            if reader is not None and reader.rest is not None:
                return streams.read_on(getattr(self, name), reader, raw)
            return streams.decoded(raw, encoding, "replace" if cut else errors)
        except Exception as error:  # the caller's own codecs and error handlers may raise anything
            if not cut:  # a limit may have cut a character in two; that is not the program's mistake
                self._trouble = error
            return raw.decode("ascii", "replace")  # which no codec can refuse

    # --- input and output -----------------------------------------------------------------------------------

    def collect(self) -> None:
        """Read the pipes ourselves from now on, and feed the input."""
        for name in ("stdout", "stderr"):
            if name in self._held.pipes and name not in self._collected:
                self._collected[name] = bytearray()
                self._watch(self._held.pipes[name], name, select.POLLIN)
        if "stdin" in self._held.pipes and self._feed is None:
            self._feed = memoryview(self._command.input or b"")
            if self._feed:
                self._watch(self._held.pipes["stdin"], "stdin", select.POLLOUT)
            else:
                self._close_pipe("stdin")

    def _close_pipe(self, name: str) -> None:
        fd = self._held.pipes.pop(name, None)
        if fd is not None:
            self._unwatch(fd)
            os.close(fd)

    def _write_input(self) -> None:
        assert self._feed is not None
        try:
            written = streams.write_to_pipe(self._held.pipes["stdin"], self._feed[:_CHUNK])
        except BlockingIOError:
            return
        except OSError:  # EPIPE: the program does not want it, which is its right
            self._feed = self._feed[len(self._feed) :]
        else:
            self._feed = self._feed[written:]
        if not self._feed:
            self._close_pipe("stdin")

    def _read_output(self, name: str) -> int:
        """Take a piece of the output that poll(2) said is there; returns its length."""
        try:
            piece = os.read(self._held.pipes[name], _CHUNK)
        except BlockingIOError:
            return 0
        if not piece:
            self._close_pipe(name)
        keep, order = self._supervisor.add_output(name, len(piece), time.monotonic())
        self._collected[name] += piece[:keep]
        self._carry_out(order)
        return len(piece)

    # --- the caller's side: subprocess.Popen's methods ------------------------------------------------------

    @property
    def pid(self) -> int:
        """The program's pid inside the box."""
        return self._pid

    @property
    def returncode(self) -> int | None:
        """Exit status, minus the signal, or None while it runs (as of the last `poll`, `wait` or `communicate`)."""
        return None if self._result is None else self._result.returncode

    @property
    def result(self) -> Result[AnyStr]:
        """The `Result`, once the program has ended."""
        if self._result is None:
            raise ValueError("the program is still running; wait() for it first")
        return self._result

    def poll(self) -> int | None:
        """Look whether the program has ended; returns `returncode`."""
        if self._result is None:
            with UNINTERRUPTED:
                self._step(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the program; `SandboxTimeout` after `timeout` seconds, and it goes on running.

        A program whose pipes fill up waits for a reader, and so this waits for ever, as in `subprocess`: use
        `communicate` with pipes.
        """
        self._wait(timeout)
        assert self._result is not None
        return self._result.returncode

    def _wait(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + units.seconds(timeout, "timeout", zero=True)
        with UNINTERRUPTED:
            while self._result is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    self._step(0)
                    if self._result is None:
                        assert timeout is not None
                        raise SandboxTimeout(list(self.args), timeout)
                    break
                self._step(left)
        if self._trouble is not None:
            raise self._trouble

    def communicate(
        self, input: AnyStr | None = None, timeout: float | None = None
    ) -> tuple[AnyStr | None, AnyStr | None]:
        """Feed `input`, read both streams (within `max_output`) until the program ends, and return what was read.

        `SandboxTimeout` after `timeout` seconds; the program goes on running, nothing read is lost, and the call can be
        repeated.
        """
        if self._result is None:
            self._take_streams_back(input)
            self.collect()
        self._wait(timeout)
        return self.result.stdout, self.result.stderr

    def _take_streams_back(self, input: AnyStr | None) -> None:
        """From the caller's file objects to bare descriptors that we may poll."""
        if input is not None:
            data = encoded_input(input, self._command.encoding, self._command.errors)
            self._command = replace(self._command, input=data)
        for name in ("stdin", "stdout", "stderr"):
            stream, reader = getattr(self, name), self._readers.get(name)
            if stream is None or stream.closed or (reader is not None and reader.rest is not None):
                continue
            if name == "stdin":
                with contextlib.suppress(OSError):
                    stream.flush()
            with UNINTERRUPTED:
                self._held.pipes[name] = streams.taken_back(stream, reader)

    def send_signal(self, sig: int) -> None:
        """Send a signal to the program; does nothing once it has ended."""
        number = int(signal.Signals(sig)) if not isinstance(sig, bool) and sig in signal.valid_signals() else -1
        if number < 0:
            raise ConfigError(f"not a signal: {sig!r}")
        self.poll()  # a program that has ended already was not ended by this
        if self._held.run is not None:
            self._supervisor.sent.add(number)
            self._held.run.order(ORDER_SIGNAL, number)

    def terminate(self) -> None:
        """Send SIGTERM to the program."""
        self.poll()
        if self._held.run is not None:
            self._supervisor.note(time.monotonic(), Verdict.KILLED, "terminate()")
            self._held.run.order(ORDER_SIGNAL, signal.SIGTERM)

    def kill(self) -> None:
        """Kill the program and every process of its run."""
        self.poll()  # a program that has ended already was not ended by this
        self._kill("kill()")

    def _kill(self, by: str) -> None:
        if self._held.run is not None:
            self._carry_out(self._supervisor.stop(time.monotonic(), Verdict.KILLED, by, at_once=True))

    def on_end(self, callback: Callable[[Popen[Any]], None]) -> None:
        """Call this when the run has ended and everything of it is gone."""
        self._on_end.append(callback)

    def close(self) -> None:
        """End the program if it still runs, and close the streams."""
        if os.getpid() != self._owner:
            return
        if self._result is not None and self.stdin is self.stdout is self.stderr is None:
            return
        with UNINTERRUPTED:  # for ten seconds at most: what cannot be killed takes its box along
            if self._result is None:
                self._step(0, UNINTERRUPTED)
                self._kill("close()")
                while self._result is None and self._held.run is not None:  # no run: its end raised something
                    self._step(None, UNINTERRUPTED)
            for stream in (self.stdin, self.stdout, self.stderr):
                if stream is not None and not stream.closed:
                    with contextlib.suppress(OSError):  # unwritten input for a program that is dead
                        # Another run may hold the other end, and never read: what is left is dropped.
                        os.set_blocking(stream.fileno(), False)
                        stream.close()

    def _check_owner(self) -> None:
        if os.getpid() != self._owner:
            raise SandboxError("a run belongs to the process that started it, and not to a copy that fork made")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Popen: returncode: {self.returncode} args: {list(self.args)!r}>"

    def __del__(self) -> None:
        held = getattr(self, "_held", None)
        if held is None or held.run is None:
            return
        with UNINTERRUPTED:
            if os.getpid() != self._owner:
                held.forget()
            else:
                warnings.warn(f"{self!r} is still running", ResourceWarning, source=self, stacklevel=1)
                held.let_go()


def _receive(ours: socket.socket) -> bytes:
    """What init has said; nothing when it is gone."""
    for _ in range(2):
        try:
            return ours.recv(REPLY.size, socket.MSG_DONTWAIT)
        except ConnectionResetError:
            # init closed its end with an order of ours unread in it.  That is told first, and its report comes after.
            continue
        except BlockingIOError:
            raise
        except OSError:
            break
    return b""
