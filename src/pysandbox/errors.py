"""The exceptions of pysandbox, and nothing else.

::

    SandboxError
    ├── ConfigError            (ValueError)       wrong or conflicting layers, wrong arguments; nothing was made
    ├── UnsupportedError                          this host cannot enforce what was asked for
    ├── SetupError             (OSError)          the kernel refused a step of the set-up; the payload never ran
    │   └── ExecError                             ... the last one, starting the program
    │       ├── CommandNotFoundError       (FileNotFoundError)
    │       └── CommandNotExecutableError  (PermissionError)
    ├── ProcessError           (CalledProcessError)   check=True, and the run was not OK
    ├── SandboxTimeout         (TimeoutExpired)   Popen.wait or communicate waited long enough; the run goes on
    └── CallError                                 a function in a box
        ├── WorkerDied                            ... was killed
        ├── RemoteError                           ... raised something that is not a builtin exception
        ├── ResultEncodingError                   ... returned what cannot be carried
        └── ProtocolError                         ... or its worker sent what is no answer

Limits that were hit are not exceptions but verdicts (`Result.verdict`).  All of these survive pickling.
"""

from __future__ import annotations

import errno as errno_names
import os
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .result import Result

__all__ = [
    "CallError",
    "CommandNotExecutableError",
    "CommandNotFoundError",
    "ConfigError",
    "ExecError",
    "ProcessError",
    "ProtocolError",
    "RemoteError",
    "ResultEncodingError",
    "SandboxError",
    "SandboxTimeout",
    "SetupError",
    "UnsupportedError",
    "WorkerDied",
]


def _rebuild(cls: type[BaseException], args: tuple[Any, ...], keywords: dict[str, Any]) -> BaseException:
    return cls(*args, **keywords)


class SandboxError(Exception):
    """The root of everything pysandbox raises on its own account."""


class ConfigError(SandboxError, ValueError):
    """Layers or arguments that are wrong, or contradict each other.

    Raised before anything is created.  `layers` names the layers concerned.
    """

    def __init__(self, message: str, *, layers: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.layers = layers

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, {"layers": self.layers}), self.__dict__)


class UnsupportedError(SandboxError):
    """Something was asked for that this host cannot enforce, and `degrade` was not allowed.

    `feature` is what is missing, `need` what it takes, `have` what was found, `remedy` what a person can do.
    """

    def __init__(self, feature: str, *, need: str = "", have: str = "", remedy: str = "") -> None:
        super().__init__(feature)
        self.feature = feature
        self.need = need
        self.have = have
        self.remedy = remedy

    def __str__(self) -> str:
        parts = [f"{self.feature} cannot be enforced here"]
        if self.need:
            parts.append(f"it needs {self.need}")
        if self.have:
            parts.append(f"this host has {self.have}")
        if self.remedy:
            parts.append(f"remedy: {self.remedy}")
        return "; ".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        keywords = {"need": self.need, "have": self.have, "remedy": self.remedy}
        return (_rebuild, (type(self), (self.feature,), keywords), self.__dict__)


class SetupError(SandboxError, OSError):
    """The kernel refused a step while the box or a run was being set up; the payload never ran.

    `layer` is whose step it was, `step` the kernel's word for it, `arguments` what it was called with, `errno` the
    kernel's answer, `hint` what usually helps.  Nothing is left behind.
    """

    def __init__(
        self,
        errno: int,
        *,
        layer: str,
        step: str,
        arguments: Mapping[str, object] | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(errno, os.strerror(errno))
        self.layer = layer
        self.step = step
        self.arguments: dict[str, object] = dict(arguments or {})
        self.hint = hint

    def __str__(self) -> str:
        called = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        name = errno_names.errorcode.get(self.errno or 0, str(self.errno))
        text = f"{self.layer}: {self.step}({called}) failed: {self.strerror} [{name}]"
        return f"{text}; hint: {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        keywords = {"layer": self.layer, "step": self.step, "arguments": self.arguments, "hint": self.hint}
        return (_rebuild, (type(self), (self.errno,), keywords), self.__dict__)


class ExecError(SetupError):
    """The box is there, but the program could not be started in it."""


class CommandNotFoundError(ExecError, FileNotFoundError):
    """No such program inside the box (it may well exist outside)."""


class CommandNotExecutableError(ExecError, PermissionError):
    """The program exists inside the box but is not executable: mode, a directory, a script without `#!`."""


class ProcessError(SandboxError, subprocess.CalledProcessError):
    """A run was not OK and `check=True` was asked for; `result` has everything."""

    def __init__(self, result: Result[Any]) -> None:
        super().__init__(result.returncode, list(result.args), result.stdout, result.stderr)
        self.result = result

    def __str__(self) -> str:
        return f"command {self.cmd!r}: {self.result.verdict.name}, returncode {self.returncode}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), (self.result,), {}), self.__dict__)


class SandboxTimeout(SandboxError, subprocess.TimeoutExpired):
    """`Popen.wait` or `Popen.communicate` waited for `timeout` seconds; the program goes on running."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), (self.cmd, self.timeout, self.output, self.stderr), {}), self.__dict__)


class CallError(SandboxError):
    """A function called in a box gave no result."""


class WorkerDied(CallError):
    """The worker was killed or exited before it answered; `result` says why."""

    def __init__(self, result: Result[Any]) -> None:
        super().__init__(f"the worker ended without an answer: {result.verdict.name}")
        self.result = result

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), (self.result,), {}), self.__dict__)


class RemoteError(CallError):
    """The function raised an exception whose type is not carried over; `type_name` is its name."""

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(type_name, message)
        self.type_name = type_name
        self.message = message

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}"


class ResultEncodingError(CallError):
    """The function's value cannot be carried by the data-only encoding, or is over its caps."""


class ProtocolError(CallError):
    """What came from the box is not an answer: broken, hostile, or too large."""
