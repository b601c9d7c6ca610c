"""`Sandbox`, a box's lifetime, and the one-shot functions `run` and `popen`."""

from __future__ import annotations

import errno
import inspect
import os
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Any, Literal, TypedDict, overload

from typing_extensions import Self, Unpack

from . import units
from .box import Box
from .command import Command, check_command
from .compose import DEFAULT, Base, check_base, check_given, compose
from .errors import ConfigError, SandboxError
from .interrupts import UNINTERRUPTED
from .layers import CgroupLimits
from .plan import Blueprint, CgroupRequest
from .process import Popen
from .result import Enforcement, Level, Result

__all__ = ["Sandbox", "popen", "run"]

_LARGEST_READ = 64 << 20


class _CommonOptions(TypedDict, total=False):
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
    stdin: int | IO[Any] | None
    stdout: int | IO[Any] | None
    stderr: int | IO[Any] | None


class _RunOptions(_CommonOptions, total=False):
    check: bool


class _PopenOptions(_CommonOptions, total=False):
    bufsize: int


class Sandbox:
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
        self._lock = threading.Lock()
        check_given(self._given)
        self._compose()  # complain now about what is wrong

    # --- lifetime -------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._box is not None:
            raise SandboxError("this Sandbox is entered already; use another for another box")
        try:
            with UNINTERRUPTED:
                self._box = _ready(Box(self._compose()))
        except BaseException:
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
        with UNINTERRUPTED:
            box, self._box = self._box, None
            if box is not None:
                self._end_runs()
                box.close()

    def _end_runs(self) -> None:
        with self._lock:
            live = list(self._live)
        for process in live:
            process.close()

    def reset(self) -> None:
        """Bring the box back to the state just after entering: no process, no file of an earlier run is left."""
        with UNINTERRUPTED:
            box = self._entered()
            self._end_runs()
            box.close()
            self._box = None
            self._box = _ready(Box(box.blueprint))

    def _entered(self) -> Box:
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
        **options: Unpack[_RunOptions],
    ) -> Result[str]: ...
    @overload
    def run(
        self,
        args: Sequence[units.StrPath],
        *,
        input: str | None = None,
        text: bool = False,
        encoding: str,
        **options: Unpack[_RunOptions],
    ) -> Result[str]: ...
    @overload
    def run(
        self,
        args: Sequence[units.StrPath],
        *,
        input: bytes | None = None,
        text: Literal[False] = False,
        encoding: None = None,
        **options: Unpack[_RunOptions],
    ) -> Result[bytes]: ...
    @overload
    def run(
        self,
        args: Sequence[units.StrPath],
        *,
        input: bytes | str | None = None,
        text: bool,
        encoding: str | None = None,
        **options: Unpack[_RunOptions],
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
        :param limits: `CgroupLimits` for this run, in place of the box's.
        :param check: raise `ProcessError` unless the verdict is OK.

        Errors: `ConfigError`, `CommandNotFoundError`, `CommandNotExecutableError`, `SetupError`, `UnsupportedError`.
        """
        begun = time.monotonic()
        check = units.flag(options.pop("check", False), "check")
        command = _check(args, options)
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
        **options: Unpack[_PopenOptions],
    ) -> Popen[str]: ...
    @overload
    def popen(
        self,
        args: Sequence[units.StrPath],
        *,
        text: bool = False,
        encoding: str,
        **options: Unpack[_PopenOptions],
    ) -> Popen[str]: ...
    @overload
    def popen(
        self,
        args: Sequence[units.StrPath],
        *,
        text: Literal[False] = False,
        encoding: None = None,
        **options: Unpack[_PopenOptions],
    ) -> Popen[bytes]: ...
    @overload
    def popen(
        self,
        args: Sequence[units.StrPath],
        *,
        text: bool,
        encoding: str | None = None,
        **options: Unpack[_PopenOptions],
    ) -> Popen[Any]: ...
    def popen(self, args: Sequence[units.StrPath], **options: Any) -> Popen[Any]:
        """Start a program and return its handle, a `Popen` with `subprocess.Popen`'s methods and streams.

        The options are those of `run`.  As in `subprocess`, stdout and stderr are the caller's unless given
        (`stdout=PIPE`); stdin, unlike there, is empty unless given.  Leaving the handle's block ends the program.
        """
        begun = time.monotonic()
        options.setdefault("stdout", None)
        options.setdefault("stderr", None)
        command = _check(args, options)
        with UNINTERRUPTED:
            process: Popen[Any] = self._start(command, begun)
            process.open_streams()
        return process

    def _start(self, command: Command, begun: float) -> Popen[Any]:
        process: Popen[Any] = Popen(self._entered(), command, begun=begun, others=self._pids_of_others)
        with self._lock:
            self._live.add(process)
        process.on_end(self._forget)
        return process

    def _forget(self, process: Popen[Any]) -> None:
        with self._lock:
            self._live.discard(process)

    def _pids_of_others(self, process: Popen[Any]) -> set[int]:
        """The other programs running in the box, by their pids inside."""
        with self._lock:
            return {other.pid for other in self._live if other is not process}

    # --- files ----------------------------------------------------------------------------------------------

    def write_file(self, name: units.StrPath, data: bytes | str, *, mode: int = 0o644) -> None:
        """Write a file in the box, the payload's own; `name` is relative to the working directory.

        No symlink of the payload's is followed, and only a regular file is written: anything else there is an OSError.
        """
        path = self._inside(name)
        if isinstance(data, str):
            data = data.encode()
        elif not isinstance(data, (bytes, bytearray, memoryview)):
            raise ConfigError(f"data must be bytes or str, not {type(data).__name__}")
        units.count(mode, "mode", least=0, most=0o777)
        with self._entered().open_file(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode) as file:
            left = memoryview(data).cast("B")
            while left:
                left = left[file.write(left) or 0 :]

    def read_file(self, name: units.StrPath, *, max_size: int | str = _LARGEST_READ) -> bytes:
        """Read a file of the box; `name` is relative to the working directory.

        No symlink of the payload's is followed, and only a regular file is read, at most `max_size` bytes (64 MiB
        unless given): anything else is an OSError (EFBIG for a larger file).  Never blocks.
        """
        path = self._inside(name)
        most = units.size(max_size, "max_size", least=0)
        with self._entered().open_file(path, os.O_RDONLY, 0) as file:
            pieces, total = [], 0
            while piece := file.read(min(1 << 20, most + 1 - total)):  # the size it claims is the payload's word
                pieces.append(piece)
                total += len(piece)
                if total > most:
                    raise OSError(errno.EFBIG, f"more than {most} bytes", path)
        return b"".join(pieces)

    def _inside(self, name: units.StrPath) -> str:
        given = units.path(name, "name")
        return os.path.join(self._entered().blueprint.facts.workdir, given)


def _ready(box: Box) -> Box:
    box.wait_until_ready()
    return box


def _nobody(_: Popen[Any]) -> set[int]:
    return set()


_OPTIONS = frozenset(inspect.signature(check_command).parameters) - {"args"}


def _check(args: Sequence[units.StrPath], options: dict[str, Any]) -> Command:
    for name in options:
        if name not in _OPTIONS:
            raise TypeError(f"unexpected keyword argument {name!r}")
    limits = options.pop("limits", None)
    request = None
    if limits is not None:
        if not isinstance(limits, CgroupLimits):
            raise ConfigError(f"limits must be CgroupLimits, not {limits!r}")
        request = limits.request()
    return check_command(args, limits=request, **options)


def _limits_row(request: CgroupRequest) -> Enforcement:
    from . import cgroups  # only asked for here

    group = cgroups.own_group()
    if group is not None:
        return Enforcement(Level.FULL, group.kind)
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


@overload
def run(
    args: Sequence[units.StrPath],
    *layers: object,
    base: Base = DEFAULT,
    degrade: bool = False,
    input: str | None = None,
    text: Literal[True],
    encoding: str | None = None,
    **options: Unpack[_RunOptions],
) -> Result[str]: ...
@overload
def run(
    args: Sequence[units.StrPath],
    *layers: object,
    base: Base = DEFAULT,
    degrade: bool = False,
    input: str | None = None,
    text: bool = False,
    encoding: str,
    **options: Unpack[_RunOptions],
) -> Result[str]: ...
@overload
def run(
    args: Sequence[units.StrPath],
    *layers: object,
    base: Base = DEFAULT,
    degrade: bool = False,
    input: bytes | None = None,
    text: Literal[False] = False,
    encoding: None = None,
    **options: Unpack[_RunOptions],
) -> Result[bytes]: ...
@overload
def run(
    args: Sequence[units.StrPath],
    *layers: object,
    base: Base = DEFAULT,
    degrade: bool = False,
    input: bytes | str | None = None,
    text: bool,
    encoding: str | None = None,
    **options: Unpack[_RunOptions],
) -> Result[Any]: ...
def run(
    args: Sequence[units.StrPath],
    *layers: object,
    base: Base = DEFAULT,
    degrade: bool = False,
    **options: Any,
) -> Result[Any]:
    """Run a program in a box of its own and wait for its end.

    `layers`, `base` and `degrade` are those of `Sandbox`, everything else is as in `Sandbox.run`.
    """
    begun = time.monotonic()
    check = units.flag(options.pop("check", False), "check")
    command = _check(args, options)
    blueprint = compose(layers, base, units.flag(degrade, "degrade"))
    with UNINTERRUPTED:  # but for the waiting
        box = Box(blueprint)
        try:
            process: Popen[Any] = Popen(box, command, begun=begun, others=_nobody, last_of_box=True)
            try:
                process.collect()
                process._wait(None)
            finally:
                process.close()
        finally:
            box.close()
    if check:
        process.result.check_returncode()
    return process.result


@overload
def popen(
    args: Sequence[units.StrPath],
    *layers: object,
    base: Base = DEFAULT,
    degrade: bool = False,
    text: Literal[True],
    encoding: str | None = None,
    **options: Unpack[_PopenOptions],
) -> Popen[str]: ...
@overload
def popen(
    args: Sequence[units.StrPath],
    *layers: object,
    base: Base = DEFAULT,
    degrade: bool = False,
    text: bool = False,
    encoding: str,
    **options: Unpack[_PopenOptions],
) -> Popen[str]: ...
@overload
def popen(
    args: Sequence[units.StrPath],
    *layers: object,
    base: Base = DEFAULT,
    degrade: bool = False,
    text: Literal[False] = False,
    encoding: None = None,
    **options: Unpack[_PopenOptions],
) -> Popen[bytes]: ...
@overload
def popen(
    args: Sequence[units.StrPath],
    *layers: object,
    base: Base = DEFAULT,
    degrade: bool = False,
    text: bool,
    encoding: str | None = None,
    **options: Unpack[_PopenOptions],
) -> Popen[Any]: ...
def popen(
    args: Sequence[units.StrPath],
    *layers: object,
    base: Base = DEFAULT,
    degrade: bool = False,
    **options: Any,
) -> Popen[Any]:
    """Start a program in a box of its own, which ends with it; see `Sandbox.popen`."""
    options.setdefault("stdout", None)
    options.setdefault("stderr", None)
    command = _check(args, options)
    begun = time.monotonic()
    blueprint = compose(layers, base, units.flag(degrade, "degrade"))
    with UNINTERRUPTED:
        box = Box(blueprint)
        try:
            process: Popen[Any] = Popen(box, command, begun=begun, others=_nobody, last_of_box=True)
        except BaseException:
            box.close()
            raise
        process.on_end(lambda _: box.close())
        process.open_streams()
    return process
