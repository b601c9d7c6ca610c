"""Starting a run: its cgroup, its descriptors, its plan; and what of it is held on our side until it has ended."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import resource
import threading
from dataclasses import dataclass, field, replace

from . import cgroups, descriptors, features
from .box import Box, StartedRun
from .cgroups import Leaf
from .command import DEVNULL, PIPE, STDOUT, Command
from .errors import (
    CommandNotExecutableError,
    CommandNotFoundError,
    ConfigError,
    ExecError,
    SandboxError,
    SetupError,
    UnsupportedError,
)
from .plan import CgroupRequest, Phase, Plan, Step, Verb, filled
from .result import Enforcement, Level
from .supervise import Bounds

#: four times what execve(2) takes at most (a quarter of the largest RLIMIT_STACK that it heeds, 6 MiB)
_ROOM_FOR_ANY = 24 << 20
_LIMITS = ("memory", "memory_high", "swap", "cpus", "pids")
_KEPT_PLAN, _KEPT_PLANS = 1 << 16, 32  # bytes of a run's plan that is kept for the next such run, and how many are


@dataclass
class Held:
    """What our side has of a run.  Its methods are to be called with signals held back."""

    box: Box
    bounds: Bounds
    enforcement: dict[str, Enforcement]
    last_of_box: bool  #: the box ends with this run
    run: StartedRun | None = None
    leaf: Leaf | None = None
    rlimit_pids: int | None = None  #: the tightest RLIMIT_NPROC that the run starts with, where we set one
    pipes: dict[str, int] = field(default_factory=dict)  #: our ends: "stdin", "stdout", "stderr"
    #: The program's ends of the pipes.  When we collect the output ourselves they stay open here until the run has
    #: ended, which init tells; else their closing would wake us once more, and earlier, for nothing.
    far_ends: list[int] = field(default_factory=list)
    #: Of the leaf, which other threads may read while the one that steps the run is about to give it back.
    leaf_lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def limits(self) -> dict[str, float]:
        """The limits in force, by name."""
        bounds, request = self.bounds, None if self.leaf is None else self.leaf.request
        found: dict[str, float] = {}
        if bounds.wall is not None:
            found["wall_time"] = bounds.wall
        if bounds.cpu is not None:
            found["cpu_time"] = bounds.cpu
        if bounds.memory is not None:
            found["memory"] = bounds.memory
        if request is not None:
            for name in _LIMITS if request.asked else ("memory",):
                if (limit := getattr(request, name)) is not None:
                    found[name] = limit
        return found

    def why_no_leaf(self) -> str:
        """Why the run has no cgroup, for errors."""
        row = self.enforcement.get("CgroupLimits")
        return "none, as no limits were asked for" if row is None else row.reason or str(row)

    @property
    def is_measured(self) -> bool:
        """Whether limits were asked for, and so the evidence is to be had that costs a little."""
        return self.leaf is not None and self.leaf.request.asked

    def close_far_ends(self) -> None:
        """Leave the program's ends of the pipes to the program."""
        while self.far_ends:
            os.close(self.far_ends.pop())

    def forget(self) -> None:
        """Close the descriptors; in a forked copy of the application that is all, as the run is another process's."""
        self.close_far_ends()
        while self.pipes:
            os.close(self.pipes.popitem()[1])
        run, self.run = self.run, None
        if run is not None:
            run.close()

    def let_go(self, *, ended: bool = False) -> None:
        """Close and remove everything of this run on our side; what is left of it in the box is killed.

        `ended`: nothing is left of it, so its leaf may serve another run.
        """
        if ended and self.last_of_box:
            # init is ending too, and waits for a thread of the kernel's (RCU) that may want this very CPU.
            os.sched_yield()
        self.forget()
        with self.leaf_lock:
            leaf, self.leaf = self.leaf, None
            if leaf is not None:
                self.box.leaves.give_back(leaf, keep=ended and not self.last_of_box)


def launch(box: Box, command: Command, *, last_of_box: bool) -> Held:
    """Start a program in a box; on any error nothing of it is left.  To be called with signals held back."""
    request = box.limits if command.limits is None else filled(command.limits, box.limits)
    _check_room(command, box, request)
    closed = descriptors.closed_ones()
    held = Held(box, command.bounds, dict(box.blueprint.enforcement), last_of_box)
    launcher = _Launcher(held, command, request)
    try:
        with descriptors.reserved(closed):
            launcher.limit()
            launcher.arrange_streams(closed)
            plan = launcher.plan()
            measure = held.is_measured or held.bounds.rlimit_cpu is not None
            held.run = box.start_run(plan, launcher.fds, last=last_of_box, measure=measure, patience=held.bounds.wall)
    except SetupError as error:
        held.let_go()
        raise _exec_error(error, command) from None
    except BaseException:
        held.let_go()
        raise
    return held


def prepare(box: Box) -> None:
    """Make a cgroup for the first run ahead, while init builds the box; what is wrong with it the run will tell."""
    request = box.limits
    if request is None:
        return
    with contextlib.suppress(SandboxError):
        group = cgroups.group_for(request)
        if group is not None and not group.lacks(request):
            box.leaves.make_ahead(group, request)


class _Launcher:
    """Collects what one run needs of its own, and the descriptors that go with it."""

    def __init__(self, held: Held, command: Command, request: CgroupRequest | None) -> None:
        self.held = held
        self.request = request
        self.command = command
        self.box = held.box
        self.fds: list[int] = []
        self.cgroups = 0  # the first of them, which the child joins
        self.numbers: list[int] = []  # the rest of them, by what they are to be in the child
        self.rlimits: list[tuple[str, int, int, int]] = []  # layer, resource, soft, hard
        self.default_pids = True  # with the rlimit of the default's; a bound that was asked for takes its place

    def limit(self) -> None:
        """Make the run's cgroup, or put the watch in its place where that is allowed."""
        held = self.held
        bounds, rlimits = held.bounds, self.box.blueprint.rlimits
        if self.box.blueprint.is_filtered:
            bounds = replace(bounds, is_filtered=True)
        cpu, fsize = rlimits.get(resource.RLIMIT_CPU), rlimits.get(resource.RLIMIT_FSIZE)
        if cpu is not None or fsize is not None:
            bounds = replace(bounds, rlimit_cpu=cpu, rlimit_fsize=fsize)
        if bounds.cpu is not None and bounds.rlimit_cpu is None:
            # A net below the watch, of each process: wide, as it goes by a clock that is sampled at timer ticks, and on
            # a busy machine may be half as much again as what was used.
            bounds = replace(bounds, rlimit_cpu=math.ceil(2 * (bounds.cpu + bounds.extra)) + 1)
            soft = bounds.rlimit_cpu or 0
            most = resource.getrlimit(resource.RLIMIT_CPU)[1]
            if most != resource.RLIM_INFINITY and soft >= most:  # the caller may have no more
                soft = max(1, most - 1)
                bounds = replace(bounds, rlimit_cpu=soft)
            self.rlimits.append(("cpu_time", resource.RLIMIT_CPU, soft, soft + 1))
        held.bounds = bounds
        if self.request is not None:
            self._make_leaf(self.request)
        if bounds.cpu is not None and held.leaf is None:
            every = f"{bounds.look_interval * 1000:.0f} ms"
            held.enforcement["cpu_time"] = Enforcement(
                Level.PARTIAL,
                f"the processes' own counters, looked at every {every} or so while waited for, and RLIMIT_CPU",
                "no cgroup counts it: a child whose parent ignores SIGCHLD is not counted once it has ended, "
                "nor is an orphan beside another run",
            )

    def _make_leaf(self, request: CgroupRequest) -> None:
        held, degrade = self.held, self.box.blueprint.facts.degrade
        if held.bounds.cpu is not None and not request.asked:
            request = replace(request, exact_cpu=True)  # what was asked for is counted anyway
        row = None
        try:
            group = cgroups.group_for(request)
            if group is None:
                raise UnsupportedError(
                    "CgroupLimits",
                    need="a cgroup of one's own that is writable",
                    have=cgroups.why_not(),
                    remedy="run as root, or in a delegated scope (systemd-run --user --scope -p Delegate=yes ...) and "
                    "call pysandbox.vacate_cgroup() first, or accept watching instead: Sandbox(..., degrade=True)",
                )
            row = group.default_enforcement if request.pids_by_rlimit else group.enforcement
            if degrade and (lacking := group.lacks(request)):
                request = cgroups.without(request, lacking)
                reason = "; ".join(f"not kept: {name}, which needs {need}" for name, need in lacking.items())
                row = Enforcement(Level.PARTIAL, row.mechanism, f"{reason}; {row.reason}" if row.reason else reason)
            held.leaf = self.box.leaves.take(group, request)
        except (UnsupportedError, SetupError) as error:
            if request.asked and not degrade:
                raise
            why = error.have if isinstance(error, UnsupportedError) else str(error)
            self._watch_instead(request, why)
            return
        self.default_pids = not request.asked or request.pids is None
        held.rlimit_pids = self.box.blueprint.least_pids(default_pids=self.default_pids)
        self.fds += held.leaf.attach_fds()
        self.cgroups = len(self.fds)
        held.enforcement["CgroupLimits"] = row

    def _watch_instead(self, request: CgroupRequest, why: str) -> None:
        held, namespaces = self.held, self.box.blueprint.facts.namespaces
        kept, missing = [], []
        if request.memory is not None:
            every = f"{held.bounds.look_interval * 1000:.0f} ms"
            kept.append(f"memory watched every {every} or so while waited for, and RLIMIT_DATA")
            self._add_rlimit(resource.RLIMIT_DATA, max(4 * request.memory, request.memory + (256 << 20)))
        if request.pids is not None:
            if features.counts_processes(namespaces):
                kept.append("processes by RLIMIT_NPROC")
                self.default_pids = False
                self._add_rlimit(resource.RLIMIT_NPROC, request.pids + 1)
            else:
                missing.append("pids")
        unwatched = ("memory_high", "cpus", "cpu_weight", "cpuset", "io")
        missing += [name for name in unwatched if getattr(request, name) not in (None, ())]
        reason = f"not kept: {', '.join(missing)}; {why}" if missing else why
        level = Level.PARTIAL if kept else Level.NONE
        held.enforcement["CgroupLimits"] = Enforcement(level, "; ".join(kept) or "nothing", reason)
        held.bounds = replace(held.bounds, memory=request.memory)

    def _add_rlimit(self, kind: int, value: int) -> None:
        """Limit, unless the layers do so more tightly (and would not let it be raised)."""
        own = self.box.blueprint.rlimits.get(kind)
        if own is None or own > value:
            self.rlimits.append(("CgroupLimits", kind, value, value))

    def arrange_streams(self, closed: tuple[int, ...]) -> None:
        """Add the program's descriptors; `closed` are those of the caller's standard ones that are not there."""
        command = self.command
        theirs: dict[int, int] = {}
        streams = (("stdin", command.stdin), ("stdout", command.stdout), ("stderr", command.stderr))
        for number, (name, stream) in enumerate(streams):
            if stream == PIPE:
                fd = self._make_pipe(name)
            elif stream == STDOUT and number == 2:
                fd = theirs[1]
            elif stream == DEVNULL or (stream is None and number in closed):
                fd = self.box.null
            elif stream is None:
                fd = number
            else:
                fd = stream if isinstance(stream, int) else stream.fileno()
            theirs[number] = fd
            self._give(fd, number)
        for fd in command.pass_fds:
            self._give(fd, fd)

    def _make_pipe(self, name: str) -> int:
        """A pipe for a stream; returns the program's end."""
        read, write = os.pipe2(os.O_CLOEXEC)
        self.held.pipes[name], fd = (write, read) if name == "stdin" else (read, write)
        self.held.far_ends.append(fd)
        # Ours never block: the payload can take back from a pipe what poll(2) has just announced.
        os.set_blocking(self.held.pipes[name], False)
        if self.box.has_other_ids:
            os.fchown(fd, *self.box.payload_ids)  # or opening /dev/stdout inside would be refused
        return fd

    def _give(self, fd: int, number: int) -> None:
        self.fds.append(fd)
        self.numbers.append(number)

    def plan(self) -> Plan:
        """The plan of the run; of the last few, those that are the same are made once."""
        command, blueprint = self.command, self.box.blueprint
        key = (command.args, command.cwd, command.env, self.default_pids, self.cgroups, *self.numbers, *self.rlimits)
        plan = blueprint.recent_plans.get(key)
        if plan is None:
            plan = blueprint.run_plan(self._steps(), default_pids=self.default_pids)
            if len(plan.encoded) <= _KEPT_PLAN:
                if len(blueprint.recent_plans) >= _KEPT_PLANS:
                    blueprint.recent_plans.clear()
                blueprint.recent_plans[key] = plan
        return plan

    def _steps(self) -> list[Step]:
        """Everything that the layers do not say: its cgroup, its limits, its descriptors, its program."""
        blueprint, command = self.box.blueprint, self.command
        steps = [Step(Phase.CGROUP, Verb.CGROUP_ATTACH, (at + 1,), "CgroupLimits") for at in range(self.cgroups)]
        if self.cgroups and "cgroup" in blueprint.facts.namespaces:
            steps.append(Step(Phase.CGROUP_NAMESPACE, Verb.UNSHARE_CGROUP, (), "Namespaces"))
        for layer, *limit in self.rlimits:
            steps.append(Step(Phase.LIMITS, Verb.SETRLIMIT, tuple(limit), layer))
        for at, number in enumerate(self.numbers, start=self.cgroups + 1):
            steps.append(Step(Phase.FILES, Verb.STDIO, (at, number), "stdio"))
        directory = os.path.join(blueprint.facts.workdir, command.cwd or "")
        steps.append(Step(Phase.DIRECTORY, Verb.CHDIR, (directory.rstrip("/") or "/",), "run"))
        env = blueprint.environment if command.env is None else command.env
        args = (*blueprint.facts.entrypoint, *command.args)
        program = args[0]
        candidates: tuple[str, ...]
        if "/" in program:
            candidates = (program,)
        else:
            folders = dict(env).get("PATH") or os.defpath
            candidates = tuple(os.path.join(folder or ".", program) for folder in folders.split(":"))
        variables = tuple(f"{name}={value}" for name, value in env)
        steps.append(Step(Phase.EXEC, Verb.EXEC, (candidates, args, variables), "run"))
        return steps


def _check_room(command: Command, box: Box, request: CgroupRequest | None) -> None:
    """Refuse arguments and variables that do not fit well into the run's memory limit.

    While they are copied by execve(2) the child still shares init's memory, and an OOM kill would take both.
    """
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
