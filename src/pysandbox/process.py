"""`Popen`: one running program.  The words are those of `subprocess`."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import math
import os
import resource
import select
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import IO, Any, AnyStr, Generic

from typing_extensions import Self

from . import cgroups, descriptors, features, units, watch
from .box import ENDED, ORDER_KILL, ORDER_SIGNAL, ORDER_SIGNAL_GROUP, REPLY, Box, Reply, StartedRun
from .cgroups import Leaf, Readings
from .command import DEVNULL, PIPE, STDOUT, Command
from .errors import (
    CommandNotExecutableError,
    CommandNotFoundError,
    ConfigError,
    ExecError,
    SandboxTimeout,
    SetupError,
    UnsupportedError,
)
from .plan import CgroupRequest, Phase, Step, Verb
from .result import Enforcement, Level, Result, Verdict
from .supervise import Bounds, Ending, Order, Supervisor

_CHUNK = 1 << 16


#: four times what execve(2) takes at most (a quarter of the largest RLIMIT_STACK that it heeds, 6 MiB)
_ROOM_FOR_ANY = 24 << 20
_UNSHARE_CGROUP = Step(Phase.CGROUP_NAMESPACE, Verb.UNSHARE_CGROUP, (), "Namespaces")


class Popen(Generic[AnyStr]):
    """A program running in a box.

    Has the methods and streams of `subprocess.Popen`; leaving its block ends the program, and with it every process of
    the run.  Its `timeout`, `cpu_time` and memory bounds are looked after while the caller is in `wait`, `communicate`
    or `poll` (the kernel keeps cgroup limits and RLIMIT_CPU on its own).  Made by `Sandbox.popen`, never directly.
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
        self._last_of_box = last_of_box
        self._on_end: list[Callable[[Popen[Any]], None]] = []
        self._undecodable: UnicodeDecodeError | None = None
        self._feed: memoryview | None = None
        self._collected: dict[str, bytearray] = {}
        self._pipes: dict[str, int] = {}  # our ends: "stdin", "stdout", "stderr"
        # The program's ends of the pipes.  When we collect the output ourselves they stay open here until the run has
        # ended, which init tells; else their closing would wake us once more, and earlier, for nothing.
        self._far_ends: list[int] = []
        self._run: StartedRun | None = None
        self._leaf: Leaf | None = None
        self._enforcement = dict(box.blueprint.enforcement)
        _check_room(command, box)
        closed = [number for number in descriptors.STANDARD if not descriptors.is_open(number)]
        theirs: list[int] = []
        steps: list[Step] = []
        try:
            with descriptors.reserved() if closed else contextlib.nullcontext():
                bounds = self._limit(command, steps, theirs)
                self._arrange_streams(command, steps, theirs, closed)
                self._add_program(command, steps)
                self._run = box.start_run(box.blueprint.run_plan(steps), theirs, last=last_of_box)
        except SetupError as error:
            self._let_go()
            raise _exec_error(error, command) from None
        except BaseException:
            self._let_go()
            raise
        self._pid = self._run.pid
        started = time.monotonic()
        self._setup_time = started - begun
        self._supervisor = Supervisor(bounds, started, counted=self._leaf is not None)
        self._poll = select.poll()
        self._watched: dict[int, str] = {}  # descriptor → "init", "stdin", "stdout", "stderr"
        self._watch(self._run.socket.fileno(), "init", select.POLLIN)

    # --- starting -------------------------------------------------------------------------------------------

    def _limit(self, command: Command, steps: list[Step], fds: list[int]) -> Bounds:
        """Make the run's cgroup, or put the watch in its place where that is allowed."""
        bounds, rlimits = command.bounds, self._box.blueprint.rlimits
        cpu, fsize = rlimits.get(resource.RLIMIT_CPU), rlimits.get(resource.RLIMIT_FSIZE)
        if cpu is not None or fsize is not None:
            bounds = replace(bounds, rlimit_cpu=cpu, rlimit_fsize=fsize)
        request = command.limits if command.limits is not None else self._box.blueprint.cgroup
        if bounds.cpu is not None and bounds.rlimit_cpu is None:
            # A net below the watch: whole seconds, of each process.
            bounds = replace(bounds, rlimit_cpu=math.ceil(bounds.cpu) + 1)
            args = (resource.RLIMIT_CPU, bounds.rlimit_cpu or 0, (bounds.rlimit_cpu or 0) + 1)
            steps.append(Step(Phase.LIMITS, Verb.SETRLIMIT, args, "cpu_time"))
        if request is None:
            return bounds
        if bounds.cpu is not None:
            request = replace(request, exact_cpu=True)
        try:
            group = cgroups.own_group()
            if group is None:
                raise UnsupportedError(
                    "CgroupLimits",
                    need="a cgroup of one's own that is writable",
                    have=cgroups.why_not(),
                    remedy="run as root, or in a delegated scope (systemd-run --user --scope -p Delegate=yes ...) and "
                    "call pysandbox.vacate_cgroup() first, or accept watching instead: Sandbox(..., degrade=True)",
                )
            self._leaf = self._box.leaves.take(group, request)
        except (UnsupportedError, SetupError) as error:
            if request.asked and not self._box.blueprint.facts.degrade:
                raise
            why = error.have if isinstance(error, UnsupportedError) else str(error)
            return self._watch_instead(request, bounds, steps, why)
        for fd in self._leaf.attach_fds():
            fds.append(fd)
            steps.append(Step(Phase.CGROUP, Verb.CGROUP_ATTACH, (len(fds),), "CgroupLimits"))
        if "cgroup" in self._box.blueprint.facts.namespaces:
            steps.append(_UNSHARE_CGROUP)
        self._enforcement["CgroupLimits"] = group.enforcement
        return bounds

    def _add_rlimit(self, steps: list[Step], kind: int, value: int) -> None:
        """Limit, unless the layers do so more tightly (and would not let it be raised)."""
        own = self._box.blueprint.rlimits.get(kind)
        if own is None or own > value:
            steps.append(Step(Phase.LIMITS, Verb.SETRLIMIT, (kind, value, value), "CgroupLimits"))

    def _watch_instead(self, request: CgroupRequest, bounds: Bounds, steps: list[Step], why: str) -> Bounds:
        kept = []
        missing = []
        if request.memory is not None:
            every = f"{bounds.look_interval * 1000:.0f} ms"
            kept.append(f"memory watched every {every} or so while waited for, and RLIMIT_DATA")
            data = max(4 * request.memory, request.memory + (256 << 20))
            self._add_rlimit(steps, resource.RLIMIT_DATA, data)
        if request.pids is not None:
            if features.counts_processes(self._box.blueprint.facts.namespaces):
                kept.append("processes by RLIMIT_NPROC")
                self._add_rlimit(steps, resource.RLIMIT_NPROC, request.pids + 1)
            else:
                missing.append("pids")
        if request.cpus is not None:
            missing.append("cpus")
        reason = f"not kept: {', '.join(missing)}; {why}" if missing else why
        level = Level.PARTIAL if kept else Level.NONE
        self._enforcement["CgroupLimits"] = Enforcement(level, "; ".join(kept) or "nothing", reason)
        return replace(bounds, memory=request.memory)

    def _arrange_streams(self, command: Command, steps: list[Step], fds: list[int], closed: list[int]) -> None:
        """Add the program's descriptors; `closed` are those of the caller's standard ones that are not there."""
        uid, gid = self._box.payload_ids

        def give(fd: int, number: int) -> None:
            fds.append(fd)
            steps.append(Step(Phase.FILES, Verb.STDIO, (len(fds), number), "stdio"))

        theirs: dict[int, int] = {}
        streams = (("stdin", command.stdin), ("stdout", command.stdout), ("stderr", command.stderr))
        for number, (name, stream) in enumerate(streams):
            if stream == PIPE:
                read, write = os.pipe2(os.O_CLOEXEC)
                self._pipes[name], fd = (write, read) if number == 0 else (read, write)
                self._far_ends.append(fd)
                # Ours never block: the payload can take back from a pipe what poll(2) has just announced.
                os.set_blocking(self._pipes[name], False)
                if uid != os.geteuid():
                    os.fchown(fd, uid, gid)  # or opening /dev/stdout inside would be refused
            elif stream == STDOUT and number == 2:
                fd = theirs[1]
            elif stream == DEVNULL or (stream is None and number in closed):
                fd = self._box.null
            elif stream is None:
                fd = number
            else:
                fd = stream if isinstance(stream, int) else stream.fileno()
            theirs[number] = fd
            give(fd, number)
        for fd in command.pass_fds:
            give(fd, fd)

    def _add_program(self, command: Command, steps: list[Step]) -> None:
        blueprint = self._box.blueprint
        env = blueprint.environment if command.env is None else command.env
        directory = os.path.join(blueprint.facts.workdir, command.cwd or "")
        steps.append(Step(Phase.DIRECTORY, Verb.CHDIR, (directory.rstrip("/") or "/",), "run"))
        program = command.args[0]
        candidates: tuple[str, ...]
        if "/" in program:
            candidates = (program,)
        else:
            folders = dict(env).get("PATH") or os.defpath
            candidates = tuple(os.path.join(folder or ".", program) for folder in folders.split(":"))
        variables = tuple(f"{name}={value}" for name, value in env)
        steps.append(Step(Phase.EXEC, Verb.EXEC, (candidates, command.args, variables), "run"))

    def _let_go(self) -> None:
        """Close and remove everything of this run on our side."""
        self._close_far_ends()
        for fd in self._pipes.values():
            os.close(fd)
        self._pipes.clear()
        if self._run is not None:
            self._run.close()
            self._run = None
        self._remove_leaf()

    def _close_far_ends(self) -> None:
        far_ends, self._far_ends = self._far_ends, []
        for fd in far_ends:
            os.close(fd)

    def _remove_leaf(self) -> None:
        leaf, self._leaf = self._leaf, None
        if leaf is not None:
            self._box.leaves.give_back(leaf, keep=not self._last_of_box)

    def open_streams(self) -> None:
        """Make the caller's file objects of the pipes, blocking ones."""
        self._close_far_ends()  # the caller waits for the end of the streams
        encoding, errors, bufsize = self._command.encoding, self._command.errors, self._command.bufsize
        by_line = encoding is not None and bufsize == 1
        for name, fd in self._pipes.items():
            os.set_blocking(fd, True)
            raw: Any = open(fd, "wb" if name == "stdin" else "rb", -1 if by_line else bufsize)  # noqa: SIM115
            if encoding is not None:
                writes_through = name == "stdin" and not by_line
                raw = io.TextIOWrapper(raw, encoding, errors, line_buffering=by_line, write_through=writes_through)
            setattr(self, name, raw)
        self._pipes.clear()

    # --- watching over it -----------------------------------------------------------------------------------

    def _carry_out(self, order: Order | None) -> None:
        if order is None or self._run is None:
            return
        if order is Order.TERMINATE:
            self._run.order(ORDER_SIGNAL_GROUP, signal.SIGTERM)
        elif order is Order.END_BOX:
            self._box.kill()
        else:
            if self._leaf is not None:
                self._leaf.stop_forks()
            self._run.order(ORDER_KILL)

    def _look(self, now: float) -> None:
        supervisor = self._supervisor
        cpu = memory = None
        if supervisor.wants_counters(now):
            if self._leaf is not None:
                cpu = self._leaf.cpu_time()
            if cpu is None:  # no cgroup, or none that counts
                sample = watch.look(self._box.pid, self._others(self), supervisor.bounds.memory)
                cpu, memory = sample.cpu, sample.memory
                supervisor.processes_seen = max(supervisor.processes_seen, sample.processes)
                if sample.cost * 10 > supervisor.bounds.look_interval:  # spend a tenth of one CPU on it at most
                    supervisor.bounds = replace(supervisor.bounds, look_interval=sample.cost * 10)
                now = time.monotonic()
        self._carry_out(supervisor.look(now, cpu, memory))

    def _step(self, patience: float | None) -> None:
        """Wait for one thing to happen, `patience` seconds at most, and see to it."""
        with self._stepping:  # another thread may be at it; what it waits for wakes us both
            if self._run is not None:
                self._step_alone(patience)

    def _step_alone(self, patience: float | None) -> None:
        wait = patience
        if self._supervisor.watches:
            pause = self._supervisor.next_look(time.monotonic())
            wait = pause if patience is None else patience if pause is None else min(pause, patience)
        for fd, event in self._poll.poll(None if wait is None else wait * 1000):  # rounded up to milliseconds
            name = self._watched[fd]
            if name == "init":
                self._hear()
            elif name == "stdin":
                self._write_input()
            elif event & select.POLLIN:
                self._read_output(name)
            else:  # closed at the other end, and empty
                self._unwatch(fd)
            if self._run is None:
                return
        if self._supervisor.watches:
            self._look(time.monotonic())

    def _watch(self, fd: int, name: str, events: int) -> None:
        self._watched[fd] = name
        self._poll.register(fd, events)

    def _unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def _hear(self) -> None:
        """Take init's report of the end."""
        assert self._run is not None
        try:
            data = self._run.socket.recv(REPLY.size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        now = time.monotonic()
        if len(data) == REPLY.size:
            reply = Reply(*REPLY.unpack(data))
            if reply.kind != ENDED:
                return
            user, system = reply.user_us / 1e6, reply.system_us / 1e6
            ending = Ending(reply.status, reply.killed, user, system, reply.max_rss_kib << 10)
        else:
            ending = Ending(int(signal.SIGKILL), 0, 0.0, 0.0, 0, lost=True)
        self._finish(ending, now)

    def _finish(self, ending: Ending, now: float) -> None:
        """Every process of the run is dead: take the rest of the output, read the counters, make the result."""
        supervisor = self._supervisor
        supervisor.end(ending, now)
        self._drain()
        readings = Readings() if self._leaf is None else self._leaf.readings()
        self._let_go()
        verdict, hit, evidence = supervisor.verdict(readings)
        usage = supervisor.usage(readings, self._setup_time, evidence)
        stdout, stderr = self._output("stdout"), self._output("stderr")
        self._result = Result(
            args=self.args,
            returncode=supervisor.returncode,
            stdout=stdout,
            stderr=stderr,
            verdict=verdict,
            usage=usage,
            limits_hit=hit,
            evidence=evidence,
            truncated=supervisor.truncated,
            enforcement=self._enforcement,
        )
        for callback in self._on_end:
            callback(self)

    def _drain(self) -> None:
        """Take what the pipes still hold: all that this run wrote is in them.

        Another run may have got hold of such a pipe, keep it open and write on, so no more is taken than one holds.
        """
        left = {
            name: fcntl.fcntl(self._pipes[name], fcntl.F_GETPIPE_SZ) for name in self._collected if name in self._pipes
        }
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
        raw = bytes(self._collected[name])
        encoding = self._command.encoding
        if encoding is None:
            return raw
        try:
            # A limit may have cut a character in two; that is not the program's mistake.
            text = raw.decode(encoding, "replace" if self._supervisor.truncated else self._command.errors)
        except UnicodeDecodeError as error:
            self._undecodable = error  # raised to the caller once everything is in order
            text = raw.decode(encoding, "replace")
        return text.replace("\r\n", "\n").replace("\r", "\n")

    # --- input and output -----------------------------------------------------------------------------------

    def collect(self) -> None:
        """Read the pipes ourselves from now on, and feed the input."""
        for name in ("stdout", "stderr"):
            if name in self._pipes and name not in self._collected:
                self._collected[name] = bytearray()
                self._watch(self._pipes[name], name, select.POLLIN)
        if "stdin" in self._pipes and self._feed is None:
            self._feed = memoryview(self._command.input or b"")
            if self._feed:
                self._watch(self._pipes["stdin"], "stdin", select.POLLOUT)
            else:
                self._close_pipe("stdin")

    def _close_pipe(self, name: str) -> None:
        fd = self._pipes.pop(name, None)
        if fd is not None:
            self._unwatch(fd)
            os.close(fd)

    def _write_input(self) -> None:
        assert self._feed is not None
        try:
            written = _write_to_pipe(self._pipes["stdin"], self._feed[:_CHUNK])
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
            piece = os.read(self._pipes[name], _CHUNK)
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
        while self._result is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                self._step(0)
                if self._result is None:
                    assert timeout is not None
                    raise SandboxTimeout(list(self.args), timeout)
                break
            self._step(left)
        if self._undecodable is not None:
            raise self._undecodable

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
            if isinstance(input, str):
                data: bytes = input.encode(self._command.encoding or "utf-8", self._command.errors)
            else:
                data = bytes(input)
            self._command = replace(self._command, input=data)
        for name in ("stdin", "stdout", "stderr"):
            stream = getattr(self, name)
            if stream is None or stream.closed:
                continue
            if name == "stdin":
                with contextlib.suppress(OSError):
                    stream.flush()
            fd = os.dup(stream.fileno())
            os.set_inheritable(fd, False)
            os.set_blocking(fd, False)
            with contextlib.suppress(OSError):
                stream.close()
            self._pipes[name] = fd

    def send_signal(self, sig: int) -> None:
        """Send a signal to the program; does nothing once it has ended."""
        number = int(signal.Signals(sig)) if not isinstance(sig, bool) and sig in signal.valid_signals() else -1
        if number < 0:
            raise ConfigError(f"not a signal: {sig!r}")
        if self._run is not None:
            self._run.order(ORDER_SIGNAL, number)

    def terminate(self) -> None:
        """Send SIGTERM to the program."""
        if self._run is not None:
            self._supervisor.note(time.monotonic(), Verdict.KILLED, "terminate()")
            self._run.order(ORDER_SIGNAL, signal.SIGTERM)

    def kill(self) -> None:
        """Kill the program and every process of its run."""
        if self._run is not None:
            self._carry_out(self._supervisor.stop(time.monotonic(), Verdict.KILLED, "kill()", at_once=True))

    def on_end(self, callback: Callable[[Popen[Any]], None]) -> None:
        """Call this when the run has ended and everything of it is gone."""
        self._on_end.append(callback)

    def close(self) -> None:
        """End the program if it still runs, and close the streams."""
        if os.getpid() != self._owner:  # a forked copy of the application: the run is not ours to end
            return
        if self._result is None:
            self.kill()
            while self._result is None and self._run is not None:  # no run: its end was interrupted
                self._step(None)
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None and not stream.closed:
                with contextlib.suppress(OSError):  # unwritten input for a program that is dead
                    stream.close()

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
        if getattr(self, "_run", None) is not None and self._result is None:
            warnings.warn(f"{self!r} is still running", ResourceWarning, source=self, stacklevel=1)
            self._let_go()


def _write_to_pipe(fd: int, data: memoryview) -> int:
    """write(2), without a SIGPIPE for an application that does not ignore it as Python does."""
    if signal.getsignal(signal.SIGPIPE) is not signal.SIG_DFL:
        return os.write(fd, data)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        return os.write(fd, data)
    except BrokenPipeError:
        signal.sigtimedwait({signal.SIGPIPE}, 0)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check_room(command: Command, box: Box) -> None:
    """Refuse arguments and variables that do not fit well into the run's memory limit.

    While they are copied by execve(2) the child still shares init's memory, and an OOM kill would take both.
    """
    request = command.limits if command.limits is not None else box.blueprint.cgroup
    if request is None or request.memory is None or request.memory > _ROOM_FOR_ANY:
        return
    env = box.blueprint.environment if command.env is None else command.env
    room = sum(len(word) for word in command.args) + sum(len(name) + len(value) for name, value in env)
    if 4 * room > request.memory:
        raise ConfigError(
            f"args and env have {room} characters, too many for a memory limit of {request.memory} bytes",
            layers=("CgroupLimits",),
        )


def _exec_error(error: SetupError, command: Command) -> SetupError:
    """The kind of error that says what is the matter with the program."""
    if error.step != "exec":
        return error
    number = error.errno or 0
    kind: type[ExecError] = ExecError
    if number in (errno.ENOENT, errno.ENOTDIR):
        kind = CommandNotFoundError
    elif number in (errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.EISDIR):
        kind = CommandNotExecutableError
    arguments = {"program": command.args[0], **error.arguments}
    return kind(number, layer=error.layer, step=error.step, arguments=arguments, hint=error.hint)
