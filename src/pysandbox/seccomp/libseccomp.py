"""libseccomp, which knows each machine's numbers and compiles filters; the system's, loaded when first needed."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import SetupError, UnsupportedError

_LIBRARY = "libseccomp.so.2"
# <seccomp.h>
_BAD_ARCHITECTURE, _OPTIMIZE = 2, 8
_BINARY_TREE = 2
_UNKNOWN = -1  # what is negative otherwise is another machine's
OPERATORS = {"!=": 1, "<": 2, "<=": 3, "==": 4, ">=": 5, ">": 6, "&": 7}


@dataclass(frozen=True)
class Comparison:
    """Of one argument, all of its 64 bits; with "&", of the bits in `first` with `second`."""

    argument: int
    operator: str
    first: int
    second: int = 0


@dataclass(frozen=True)
class Answer:
    """What a filter says to one call, where the comparisons hold."""

    action: int
    number: int
    comparisons: tuple[Comparison, ...] = ()


@functools.cache
def _library() -> tuple[Any, Any]:
    from .._libseccomp import ffi  # only for those who compile a filter

    try:
        return ffi, ffi.dlopen(_LIBRARY)
    except OSError as error:
        raise UnsupportedError(
            "Seccomp",
            need=f"libseccomp ({_LIBRARY}), which compiles filters",
            have=f"none that can be loaded: {error}",
            remedy="install it: apt-get install libseccomp2, dnf install libseccomp, apk add libseccomp",
        ) from None


@functools.cache
def number(name: str) -> int | None:
    """A system call's number on this machine; None where it has none, or libseccomp is older than the call."""
    _, library = _library()
    found = int(library.seccomp_syscall_resolve_name(name.encode()))
    return found if found >= 0 else None


@functools.cache
def is_known(name: str) -> bool:
    """Whether there is a call of the name on any machine, as far as libseccomp knows."""
    _, library = _library()
    return int(library.seccomp_syscall_resolve_name(name.encode())) != _UNKNOWN


@functools.cache
def name_of(call: int) -> str:
    """The name of a system call of this machine, or its number."""
    ffi, library = _library()
    native = 0  # SCMP_ARCH_NATIVE
    found = library.seccomp_syscall_resolve_num_arch(native, call)
    if found == ffi.NULL:
        return str(call)
    try:
        return str(ffi.string(found).decode())
    finally:
        library.free(found)


def compiled(default: int, answers: Iterable[Answer], bad_architecture: int) -> bytes:
    """A filter as the kernel takes it, a binary tree of the calls' numbers; `default` is for those without answer."""
    ffi, library = _library()
    context = library.seccomp_init(default)
    if context == ffi.NULL:
        raise SetupError(errno.EINVAL, layer="Seccomp", step="seccomp_init", arguments={"default": hex(default)})
    try:
        _check(library.seccomp_attr_set(context, _BAD_ARCHITECTURE, bad_architecture), "seccomp_attr_set", {})
        library.seccomp_attr_set(context, _OPTIMIZE, _BINARY_TREE)  # an older library, before 2.5, makes a longer way
        for answer in answers:
            _add(ffi, library, context, answer)
        return _exported(library, context)
    finally:
        library.seccomp_release(context)


def _add(ffi: Any, library: Any, context: Any, answer: Answer) -> None:
    wanted = [(c.argument, OPERATORS[c.operator], c.first, c.second) for c in answer.comparisons]
    comparisons = ffi.new("struct scmp_arg_cmp[]", wanted) if wanted else ffi.NULL
    error = library.seccomp_rule_add_array(context, answer.action, answer.number, len(wanted), comparisons)
    arguments = {"call": name_of(answer.number), "action": hex(answer.action), "when": answer.comparisons}
    _check(error, "seccomp_rule_add", arguments)


def _exported(library: Any, context: Any) -> bytes:
    fd = os.memfd_create("pysandbox-filter")
    try:
        _check(library.seccomp_export_bpf(context, fd), "seccomp_export_bpf", {})
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)


def _check(error: int, step: str, arguments: Mapping[str, object]) -> None:
    if error:
        raise SetupError(-error, layer="Seccomp", step=step, arguments=arguments)
