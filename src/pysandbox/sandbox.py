"""`Sandbox`: a box's lifetime, and what can be done in it."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import IO, Any, Literal, TypedDict, overload

from typing_extensions import Self, Unpack

from . import cgroups, units
from .box import Box
from .changes import Upper
from .command import PIPE, Command, check_command, recall_command
from .compose import DEFAULT, Base, check_base, check_given, compose
from .errors import ConfigError, SandboxError, UnsupportedError
from .files import BoxFiles
from .gate import Gate
from .interrupts import UNINTERRUPTED
from .launch import prepare
from .layers import CgroupLimits
from .live import Watch, total
from .plan import Blueprint, CgroupRequest, PrivatePaths, filled
from .process import Popen
from .result import Enforcement, Level, Result, Stats
from .savepoints import Savepoint
from .walking import Budget


class CommonOptions(TypedDict, total=False):
    """What `run` and `popen` both take; see `Sandbox.run`."""

    cwd: units.StrPath | None
    env: Mapping[str, str] | None
    errors: str | None
    pass_fds: Sequence[int]
    timeout: float | None
    cpu_time: float | None
    max_output: int | str
    truncate_output: bool
    grace: float
    limits: CgroupLimits | None
    idle_time: float | None
    extra_time: float
    sample_interval: float | None
    on_pressure: Callable[[Stats], object] | None
    stdin: int | IO[Any] | None
    stdout: int | IO[Any] | None
    stderr: int | IO[Any] | None


class RunOptions(CommonOptions, total=False):
    """What `run` takes."""

    check: bool


class PopenOptions(CommonOptions, total=False):
    """What `popen` takes."""

    bufsize: int


class Sandbox(BoxFiles):
    """A box that lives as long as the `with` block; runs in it share its files.

    :param layers: replace the default layer of their own type; the rest of the default stays.
    :param base: what to start from, instead of the default layers; None: nothing but what is given.
    :param degrade: take the strongest that this host allows where a layer cannot be enforced in full, and say so in
        `enforcement`, instead of raising.

    Entering builds the box, leaving ends it with every process in it; it can be entered again.  Safe to use from
    several threads at once.  Layers entered around it apply to it; its own win over them.  Errors on entering:
    `ConfigError`, `UnsupportedError`, `SetupError`; nothing is left behind.
    """

    def __init__(self, *layers: object, base: Base = DEFAULT, degrade: bool = False) -> None:
        self._given = layers
        self._base = check_base(base)
        self._degrade = units.flag(degrade, "degrade")
        self._box: Box | None = None
        self._live: set[Popen[Any]] = set()
        self._lock = threading.Lock()  # of the set of runs
        self._gate = Gate()  # of the box: runs start and files are opened side by side, its end is alone
        self._owner = 0
        check_given(self._given)
        self._compose()  # complain now about what is wrong

    # --- lifetime -------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._owner != os.getpid():  # a forked copy's locks may be held by threads that it has not got
            self._lock, self._gate, self._owner = threading.Lock(), Gate(), os.getpid()
        made = False
        try:
            with UNINTERRUPTED, self._gate.alone():
                if self._box is not None:
                    raise SandboxError("this Sandbox is entered already; use another for another box")
                self._box = _ready(Box(self._compose()))
                made = True
        except BaseException:
            if made:
                self.close()
            raise
        return self

    def _compose(self) -> Blueprint:
        return compose(self._given, self._base, self._degrade)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the box and everything in it.  Does nothing if it is not entered."""
        if self._owner != os.getpid():  # never entered, or a forked copy, which just lets go
            box, self._box = self._box, None
            if box is not None:
                box.close()
            return
        with UNINTERRUPTED, self._gate.alone(self._kill_box):
            box, self._box = self._box, None
            if box is not None:
                self._end_runs()
                box.close()

    def _kill_box(self) -> None:
        """What is being started in it and does not come to an end ends with it."""
        box = self._box
        if box is not None:
            box.kill()

    def _end_runs(self) -> None:
        with self._lock:
            live = list(self._live)
        for process in live:
            process.close()

    def reset(self) -> None:
        """Bring the box back to the state just after entering: no process, no file of an earlier run is left.

        But for what is written to writable binds, and to an `upper` folder that keeps it.
        """
        self._check_owner()
        with UNINTERRUPTED, self._gate.alone(self._kill_box):
            box = self._entered()
            self._end_runs()
            self._box = None
            if box.blueprint.kept is None:  # which two boxes cannot have at once
                box.begin_close()  # it comes to its end while the next is built
                try:
                    self._box = _ready(Box(box.blueprint))
                finally:
                    box.close()
            else:
                box.close()
                self._box = _ready(Box(box.blueprint))

    def savepoint(self, *, max_files: int = 100_000, max_size: int | str = "1G") -> Savepoint:
        """Remember the files of the box that a payload can write, as they are; `rollback` brings them back.

        It costs as much as what was written since the box was entered, in memory too.  Files, folders and symlinks are
        remembered, hard links as files of their own; not FIFOs, sockets, or what is in writable binds.  No run may be
        going on.  Errors: `SandboxError`, OSError (EFBIG, E2BIG: more than the bounds allow).
        """
        budget = Budget(units.count(max_files, "max_files", least=1), units.size(max_size, "max_size", least=0))
        if self._entered().blueprint.kept is not None:
            raise ConfigError(
                "a box that keeps its files (ChrootJail(upper=)) has no savepoints: commit() what it has made"
            )
        if self._running():
            raise SandboxError("a run is going on, and might change files while they are read: wait for it first")
        private = self._entered().blueprint.private
        with contextlib.ExitStack() as stack:
            parts = []
            if private.lower is not None:
                upper, lower, _ = self._open_overlay()
                stack.callback(os.close, upper)
                stack.callback(os.close, lower)
                parts.append(Upper(upper, lower, private, budget))
            for path in private.areas:
                folder = self._open_folder(path)
                stack.callback(os.close, folder)
                parts.append(Upper(folder, None, private, budget, path))
            return Savepoint(self, parts)

    def rollback(self, savepoint: Savepoint) -> None:
        """End all runs, and bring the files of the box back to what they were at a savepoint of it.

        All else is as after `reset`.  The savepoint can be gone back to again.
        """
        if not isinstance(savepoint, Savepoint) or not savepoint.is_of(self):
            raise ConfigError(f"not a savepoint of this box: {savepoint!r}")
        self.reset()
        try:
            root = self._open_folder("/")
            try:
                box = self._entered()
                savepoint.restore(root, box.payload_ids, box.blueprint.private.covered)
            finally:
                os.close(root)
        except BaseException:
            self.reset()  # nothing half
            raise

    def _entered(self) -> Box:
        self._check_owner()
        if self._box is None:
            raise SandboxError("the box is not there: use the Sandbox in a with block")
        return self._box

    # --- what it is -----------------------------------------------------------------------------------------

    @property
    def enforcement(self) -> dict[str, Enforcement]:
        """What is in force of each layer, by which mechanism, and why not in full; of limits, what a run will have."""
        blueprint = self._box.blueprint if self._box else self._compose()
        rows = dict(blueprint.enforcement)
        if blueprint.cgroup is not None:
            rows["CgroupLimits"] = _limits_row(blueprint.cgroup)
        return rows

    def explain(self) -> str:
        """The plan of the box and of a run in it, as text; the box need not be entered."""
        return explain(self._box.blueprint if self._box else self._compose())

    def __repr__(self) -> str:
        state = "entered" if self._box else "not entered"
        return f"<Sandbox {state}: {', '.join(repr(layer) for layer in self._given) or 'default layers'}>"

    # --- runs -----------------------------------------------------------------------------------------------

    @overload
    def run(
        self,
        args: Sequence[units.StrPath],
        *,
        input: str | None = None,
        text: Literal[True],
        encoding: str | None = None,
        **options: Unpack[RunOptions],
    ) -> Result[str]: ...
    @overload
    def run(
        self,
        args: Sequence[units.StrPath],
        *,
        input: str | None = None,
        text: bool = False,
        encoding: str,
        **options: Unpack[RunOptions],
    ) -> Result[str]: ...
    @overload
    def run(
        self,
        args: Sequence[units.StrPath],
        *,
        input: bytes | None = None,
        text: Literal[False] = False,
        encoding: None = None,
        **options: Unpack[RunOptions],
    ) -> Result[bytes]: ...
    @overload
    def run(
        self,
        args: Sequence[units.StrPath],
        *,
        input: bytes | str | None = None,
        text: bool,
        encoding: str | None = None,
        **options: Unpack[RunOptions],
    ) -> Result[Any]: ...
    def run(self, args: Sequence[units.StrPath], **options: Any) -> Result[Any]:
        """Run a program and wait for its end; returns a `Result`, whatever the program did.

        Output is captured (`stdout=PIPE, stderr=PIPE`) and bounded; stdin is empty unless `input` or `stdin` is given.

        :param input, stdin, stdout, stderr, cwd, env, text, encoding, errors, pass_fds: as in `subprocess`; `cwd` is
            relative to the working directory inside, `env` replaces the whole environment.
        :param timeout: wall-clock seconds; then SIGTERM, `grace` seconds, and SIGKILL to the whole tree
            (`Verdict.WALL_TIME_EXCEEDED`).
        :param cpu_time: CPU seconds over all processes and threads of the run (`Verdict.CPU_TIME_EXCEEDED`).
        :param grace: seconds between SIGTERM and SIGKILL; 0 kills at once.
        :param max_output: bytes of each captured stream, 16 MiB unless given; past it the run is stopped
            (`Verdict.OUTPUT_EXCEEDED`), or with `truncate_output=True` the rest is dropped (`Result.truncated`).
        :param limits: `CgroupLimits` for this run, in place of the box's; memory and pids that it leaves out stay as
            the box's.
        :param idle_time: seconds without using CPU time (a millisecond of it) after which the run is stopped
            (`Verdict.WALL_TIME_EXCEEDED`, "idle_time" in `limits_hit`).
        :param extra_time: seconds that a run past its `timeout` or `cpu_time` may go on, to show how long it really
            takes; the verdict stays.
        :param sample_interval: seconds between readings that are kept in `Result.samples`, for `Result.plot`.
        :param on_pressure: called with a `Stats` when memory runs short in the run's cgroup (memory.pressure,
            memory.pressure_level), while the run is waited for.
        :param check: raise `ProcessError` unless the verdict is OK.

        Errors: `ConfigError`, `CommandNotFoundError`, `CommandNotExecutableError`, `SetupError`, `UnsupportedError`.
        """
        begun = time.monotonic()
        check = options.pop("check", False)
        if check is not False:
            units.flag(check, "check")
        command = checked(args, options)
        with UNINTERRUPTED:  # but for the waiting
            process: Popen[Any] = self._start(command, begun)
            try:
                process.collect()
                process._wait(None)
            finally:
                process.close()
        if check:
            process.result.check_returncode()
        return process.result

    @overload
    def popen(
        self,
        args: Sequence[units.StrPath],
        *,
        text: Literal[True],
        encoding: str | None = None,
        **options: Unpack[PopenOptions],
    ) -> Popen[str]: ...
    @overload
    def popen(
        self,
        args: Sequence[units.StrPath],
        *,
        text: bool = False,
        encoding: str,
        **options: Unpack[PopenOptions],
    ) -> Popen[str]: ...
    @overload
    def popen(
        self,
        args: Sequence[units.StrPath],
        *,
        text: Literal[False] = False,
        encoding: None = None,
        **options: Unpack[PopenOptions],
    ) -> Popen[bytes]: ...
    @overload
    def popen(
        self,
        args: Sequence[units.StrPath],
        *,
        text: bool,
        encoding: str | None = None,
        **options: Unpack[PopenOptions],
    ) -> Popen[Any]: ...
    def popen(self, args: Sequence[units.StrPath], **options: Any) -> Popen[Any]:
        """Start a program and return its handle, a `Popen` with `subprocess.Popen`'s methods and streams.

        The options are those of `run`.  As in `subprocess`, stdout and stderr are the caller's unless given
        (`stdout=PIPE`); stdin, unlike there, is empty unless given.  Leaving the handle's block ends the program.
        """
        begun = time.monotonic()
        command = checked(args, for_popen(options))
        with UNINTERRUPTED:
            process: Popen[Any] = self._start(command, begun)
            process.open_streams()
        return process

    def _start(self, command: Command, begun: float) -> Popen[Any]:
        self._check_owner()
        with self._gate.shared:  # also so that it is among the live ones before anybody ends the box
            process: Popen[Any] = Popen(self._entered(), command, begun=begun, others=self._pids_of_others)
            with self._lock:
                self._live.add(process)
            process.on_end(self._forget)
        return process

    def _check_owner(self) -> None:
        if self._box is not None and self._owner != os.getpid():
            raise SandboxError("a box belongs to the process that made it; make another after a fork")

    def _forget(self, process: Popen[Any]) -> None:
        with self._lock:
            self._live.discard(process)

    def _pids_of_others(self, process: Popen[Any]) -> set[int]:
        """The other programs running in the box, by their pids inside."""
        with self._lock:
            return {other.pid for other in self._live if other is not process}

    # --- live -----------------------------------------------------------------------------------------------

    def _running(self) -> list[Popen[Any]]:
        self._check_owner()
        with UNINTERRUPTED, self._gate.shared:
            self._entered()
        with self._lock:
            return list(self._live)

    def stats(self) -> Stats:
        """Read once what the runs of the box use now, all together; None for what nothing counts."""
        readings = []
        for process in self._running():
            with contextlib.suppress(SandboxError):  # it has just ended
                readings.append(process.stats())
        return total(readings)

    def watch(self, interval: float = 0.1) -> Watch:
        """Iterate over `stats()`, a reading every `interval` seconds, for as long as a run of the box is going on.

        For `for` and for `async for`.  Ends and limits of the runs are looked after on the way.
        """
        self._entered()
        return Watch(self._look_after, units.seconds(interval, "interval"))

    def _look_after(self) -> Stats | None:
        for process in self._running():
            process.poll()
        return self.stats() if self._running() else None

    def update(self, limits: CgroupLimits) -> None:
        """Put other limits in force, for the runs that are going on and for those to come, in place of the box's own.

        Errors: `ConfigError`, `UnsupportedError` (a limit that this host does not have, a run without a cgroup),
        `SetupError` (one that the kernel refuses, such as a memory limit far below what is in use).
        """
        if not isinstance(limits, CgroupLimits):
            raise ConfigError(f"limits must be CgroupLimits, not {limits!r}")
        box = self._entered()
        request = filled(limits.request(), box.blueprint.cgroup)
        group = cgroups.group_for(request)
        if group is None:
            raise UnsupportedError("CgroupLimits", need="a cgroup of one's own", have=cgroups.why_not())
        group.check(request)
        running = self._running()
        for process in running:
            process.check_update(request)
        done: list[tuple[Popen[Any], CgroupRequest | None]] = []
        try:
            for process in running:
                before = process.update(request)
                done.append((process, before))
        except BaseException:
            for process, before in done:
                if before is not None:
                    with contextlib.suppress(SandboxError):
                        process.update(before)
            raise
        box.limits = request

    def pause(self) -> None:
        """Stop every process of the runs that are going on (cgroup freezer); the time counts against no limit.

        Errors: `UnsupportedError` where a run has no cgroup.
        """
        for process in self._running():
            process.freeze(True)

    def resume(self) -> None:
        """Let paused runs go on."""
        for process in self._running():
            process.freeze(False)

    # --- files ----------------------------------------------------------------------------------------------

    def _open(self, path: str, flags: int, mode: int) -> io.FileIO:
        self._check_owner()
        with UNINTERRUPTED, self._gate.shared:
            return self._entered().open_file(path, flags, mode)

    def _open_folder(self, path: str, mode: int | None = None) -> int:
        self._check_owner()
        with UNINTERRUPTED, self._gate.shared:
            return self._entered().open_folder(path, mode)

    def _open_overlay(self) -> tuple[int, int, PrivatePaths]:
        self._check_owner()
        with UNINTERRUPTED, self._gate.shared:
            box = self._entered()
            if box.blueprint.private.lower is None:
                raise SandboxError("the box has no overlay that would tell: ChrootJail(root, overlay=True)")
            upper = box.open_upper()
            try:
                return upper, box.open_lower(), box.blueprint.private
            except BaseException:
                os.close(upper)
                raise

    def _inside(self, name: units.StrPath) -> str:
        given = units.path(name, "name")
        self._check_owner()
        with UNINTERRUPTED, self._gate.shared:
            return os.path.join(self._entered().blueprint.facts.workdir, given)


def _ready(box: Box) -> Box:
    try:
        prepare(box)
        box.wait_until_ready()
    except BaseException:
        box.close()
        raise
    return box


_OPTIONS = frozenset(inspect.signature(check_command).parameters) - {"args"}


def for_popen(options: dict[str, Any]) -> dict[str, Any]:
    """The options of `popen`: as in `subprocess`, the streams are the caller's own, and `input` is `communicate`'s."""
    if "input" in options:
        raise TypeError("popen takes no 'input': pass it to communicate()")
    return {"stdout": None, "stderr": None, **options}


def checked(args: Sequence[units.StrPath], options: dict[str, Any]) -> Command:
    """A command and its options, all checked."""
    for name in options:
        if name not in _OPTIONS:
            raise TypeError(f"unexpected keyword argument {name!r}")
    limits = options.pop("limits", None)
    if limits is not None and not isinstance(limits, CgroupLimits):
        raise ConfigError(f"limits must be CgroupLimits, not {limits!r}")
    # What differs from run to run where all else is the same, in a judge's for instance.
    more: dict[str, Any] = {} if limits is None else {"limits": limits.request()}
    if type(options.get("input")) is bytes and not options.keys() & {"stdin", "text", "encoding", "errors"}:
        more["input"] = options.pop("input")
        options["stdin"] = PIPE
    command = recall_command(args, options)
    return replace(command, **more) if more else command


def _limits_row(request: CgroupRequest) -> Enforcement:
    group = cgroups.own_group()
    if group is not None:
        return group.default_enforcement if request.pids_by_rlimit else group.enforcement
    return Enforcement(Level.PARTIAL, "watching and rlimits", cgroups.why_not())


def explain(blueprint: Blueprint) -> str:
    """A blueprint as text."""
    facts = blueprint.facts
    lines = [
        f"namespaces: {', '.join(sorted(facts.namespaces)) or 'none'}",
        f"payload: uid {facts.uid}, gid {facts.gid}, starts in {facts.workdir}",
        "environment: " + (", ".join(f"{name}={value}" for name, value in blueprint.environment) or "empty"),
    ]
    if blueprint.cgroup is not None:
        limits = blueprint.cgroup
        named = {"memory": limits.memory, "swap": limits.swap, "cpus": limits.cpus, "pids": limits.pids}
        shown = ", ".join(f"{name}={value}" for name, value in named.items() if value is not None)
        lines.append(f"each run's cgroup: {shown}{'' if limits.asked else ' (by default, not asked for)'}")
    lines += ["", "once, in init:", str(blueprint.box_plan), "", "for each run, in its child, before exec:"]
    lines += [str(blueprint.run_plan([])), "", "in force:"]
    lines += [f"  {name}: {row}" for name, row in sorted(blueprint.enforcement.items())]
    return "\n".join(lines)
