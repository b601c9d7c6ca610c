"""A command with its options, checked before anything is created.  The words are those of `subprocess`."""

from __future__ import annotations

import codecs
import functools
import locale
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from . import units
from .errors import ConfigError
from .plan import CgroupRequest
from .result import Stats
from .supervise import Bounds

PIPE = subprocess.PIPE
STDOUT = subprocess.STDOUT
DEVNULL = subprocess.DEVNULL

File = int | IO[Any] | None

DEFAULT_MAX_OUTPUT = 16 << 20
_LARGEST_FD = (1 << 31) - 1


@dataclass(frozen=True)
class Command:
    """A command with its options, all checked: nothing here can fail any more for being the wrong type."""

    args: tuple[str, ...]
    stdin: File
    stdout: File
    stderr: File
    input: bytes | None
    cwd: str | None
    env: tuple[tuple[str, str], ...] | None
    pass_fds: tuple[int, ...]
    encoding: str | None  #: None: bytes
    errors: str
    bounds: Bounds
    limits: CgroupRequest | None
    bufsize: int = -1
    sample_interval: float | None = None
    on_pressure: Callable[[Stats], object] | None = None


def check_command(
    args: Sequence[units.StrPath],
    *,
    input: bytes | str | None = None,
    stdin: File = DEVNULL,
    stdout: File = PIPE,
    stderr: File = PIPE,
    cwd: units.StrPath | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    text: bool = False,
    encoding: str | None = None,
    errors: str | None = None,
    pass_fds: Sequence[int] = (),
    cpu_time: float | None = None,
    max_output: int | str = DEFAULT_MAX_OUTPUT,
    truncate_output: bool = False,
    grace: float = 0.0,
    idle_time: float | None = None,
    extra_time: float = 0.0,
    sample_interval: float | None = None,
    on_pressure: Callable[[Stats], object] | None = None,
    limits: CgroupRequest | None = None,
    bufsize: int = -1,
) -> Command:
    """Check everything about a command, before anything is created."""
    words = units.argv(args)
    if units.flag(text, "text") or errors is not None:
        encoding = encoding or locale.getpreferredencoding(False)
    if encoding is not None:
        try:
            "".encode(units.text(encoding, "encoding"))
        except (LookupError, UnicodeError):
            raise ConfigError(f"unknown encoding: {encoding!r}") from None
    if errors is not None:
        try:
            codecs.lookup_error(units.text(errors, "errors"))
        except LookupError:
            raise ConfigError(f"unknown error handler: {errors!r}") from None
        try:
            b"\xff".decode("ascii", errors)
        except UnicodeDecodeError:
            pass  # "strict"
        except Exception:
            raise ConfigError(f"an error handler that cannot decode: {errors!r}") from None
    if isinstance(bufsize, bool) or not isinstance(bufsize, int) or bufsize < -1:
        raise ConfigError(f"bufsize must be an int from -1 up, not {bufsize!r}")
    if input is not None:
        if stdin not in (DEVNULL, PIPE):
            raise ConfigError("input and stdin exclude each other")
        stdin = PIPE
        input = encoded_input(input, encoding, errors or "strict")
    for name, stream in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr)):
        _check_stream(name, stream)
    if isinstance(pass_fds, (str, bytes)) or not isinstance(pass_fds, Iterable):
        raise ConfigError(f"pass_fds must be a sequence of descriptors, not {pass_fds!r}")
    passed = tuple(units.count(fd, "each of pass_fds", least=3, most=_LARGEST_FD) for fd in pass_fds)
    for fd in passed:
        _check_open(fd, "pass_fds")
    if len(set(passed)) != len(passed) or len(passed) > 200:
        raise ConfigError("pass_fds must be different descriptors, 200 at most")
    bounds = Bounds(
        wall=None if timeout is None else units.seconds(timeout, "timeout"),
        cpu=None if cpu_time is None else units.seconds(cpu_time, "cpu_time"),
        grace=units.seconds(grace, "grace", zero=True),
        output=units.size(max_output, "max_output", least=0),
        truncate=units.flag(truncate_output, "truncate_output"),
        idle=None if idle_time is None else units.seconds(idle_time, "idle_time"),
        extra=units.seconds(extra_time, "extra_time", zero=True),
    )
    if on_pressure is not None and not callable(on_pressure):
        raise ConfigError(f"on_pressure must be callable, not {on_pressure!r}")
    return Command(
        args=words,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        input=input,
        cwd=None if cwd is None else units.path(cwd, "cwd"),
        env=None if env is None else units.variables(env),
        pass_fds=passed,
        encoding=encoding,
        errors=errors or "replace",  # the payload chooses the bytes: no exception of its making, unless asked for
        bounds=bounds,
        limits=limits,
        bufsize=bufsize,
        sample_interval=None if sample_interval is None else units.seconds(sample_interval, "sample_interval"),
        on_pressure=on_pressure,
    )


def encoded_input(input: object, encoding: str | None, errors: str) -> bytes:
    """What is to be fed to a program, as bytes; str where there is an encoding, bytes always."""
    if isinstance(input, str):
        if encoding is None:
            raise ConfigError("input must be bytes, unless text or encoding is given")
        try:
            return input.encode(encoding, errors)
        except UnicodeError as error:
            raise ConfigError(f"input cannot be encoded: {error}") from None
    try:
        return bytes(memoryview(input))  # type: ignore[arg-type]  # anything but a buffer is a TypeError
    except TypeError:
        also = "" if encoding is None else "str or "
        raise ConfigError(f"input must be {also}bytes, not {type(input).__name__}") from None


#: options whose value alone says whether they are right: no descriptor, nothing of the locale's, nothing large
_LASTING = frozenset(
    {
        *("stdin", "stdout", "stderr", "cwd", "encoding", "bufsize", "timeout", "cpu_time", "grace", "idle_time"),
        *("extra_time", "max_output", "truncate_output", "sample_interval"),
    }
)
_PLAIN = frozenset({int, float, str, bool, type(None)})
_STREAMS = ("stdin", "stdout", "stderr")
_SHORT = 4096  # characters of a command that is worth remembering


def recall_command(args: Sequence[units.StrPath], options: dict[str, Any]) -> Command:
    """`check_command`, which remembers: who runs a program over and over need not have the same words checked again."""
    plain = (
        type(args) in (list, tuple)
        and set(map(type, args)) == {str}
        and sum(map(len, args)) < _SHORT  # type: ignore[arg-type]  # all of them are str
        and options.keys() <= _LASTING
        and _PLAIN.issuperset(map(type, options.values()))
        and not any(type(options.get(name)) is int and options[name] >= 0 for name in _STREAMS if name in options)
    )
    return _check_and_keep(tuple(args), **options) if plain else check_command(args, **options)


@functools.lru_cache(maxsize=64, typed=True)  # typed: True is no number of seconds, and 1 no flag
def _check_and_keep(args: tuple[str, ...], **options: Any) -> Command:
    return check_command(args, **options)


def _check_open(fd: int, what: str) -> None:
    try:
        os.fstat(fd)
    except OSError:
        raise ConfigError(f"{what}: descriptor {fd} is not open") from None


def _check_stream(name: str, stream: File) -> None:
    if stream is None or (type(stream) is int and stream in (PIPE, DEVNULL)):
        return
    if isinstance(stream, bool):
        raise ConfigError(f"{name} must be PIPE, DEVNULL, None, a descriptor or a file, not {stream!r}")
    if isinstance(stream, int):
        if stream == STDOUT and name == "stderr":
            return
        if not 0 <= stream <= _LARGEST_FD:
            raise ConfigError(f"{name}: {stream} is no descriptor")
        _check_open(stream, name)
        return
    try:
        _check_open(stream.fileno(), name)
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise ConfigError(f"{name} must be a real file (with a descriptor), not {stream!r}: {error}") from None
