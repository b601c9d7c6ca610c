"""What a payload may ask of the kernel: rules on system calls, and the filters that they make."""

from __future__ import annotations

import errno
import functools
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from .. import units
from ..errors import ConfigError
from . import bpf, libseccomp
from .groups import GROUPS
from .libseccomp import OPERATORS, Answer, Comparison

_LOW = 0xFFFFFFFF
_LARGEST_ERRNO = 4095
ACTIONS = ("allow", "errno", "kill", "log")
_ANSWERS = {"allow": bpf.ALLOW, "kill": bpf.KILL_PROCESS, "log": bpf.LOG}


@dataclass(frozen=True, slots=True)
class Arg:
    """A comparison of a call's argument, counted from 0: `Arg(0, "==", socket.AF_UNIX)`.

    Of its low 32 bits, as most arguments are an int, whose upper half means nothing; with `bits=64` of all, which all
    operators but "==" and "&" need.  `Arg(2, "&", mask, value)` holds where the bits in `mask` are those of `value`.
    """

    index: int
    operator: str
    value: int
    masked: int | None = None
    bits: int = 32

    def __post_init__(self) -> None:
        units.count(self.index, "Arg(index)", least=0, most=5)
        if self.operator not in OPERATORS:
            raise ConfigError(f"Arg(operator) must be one of {', '.join(OPERATORS)}: {self.operator!r}")
        if self.bits not in (32, 64):
            raise ConfigError(f"Arg(bits=) must be 32 or 64: {self.bits!r}")
        if self.bits == 32 and self.operator not in ("==", "&"):
            raise ConfigError(f"Arg({self.index}, {self.operator!r}, ...) needs bits=64: only == and & look at 32")
        if (self.operator == "&") != (self.masked is not None):
            raise ConfigError('Arg takes a mask and a value with "&", and a value alone without')
        for number in (self.value, self.masked or 0):
            units.count(number, "Arg(value)", least=-(1 << self.bits - 1), most=(1 << self.bits) - 1)

    def comparison(self) -> Comparison:
        """As libseccomp has it."""
        every = _LOW if self.bits == 32 else (1 << 64) - 1
        if self.operator == "&":
            return Comparison(self.index, "&", self.value & every, (self.masked or 0) & every)
        if self.bits == 32:
            return Comparison(self.index, "&", every, self.value & every)
        return Comparison(self.index, self.operator, self.value & every)


@dataclass(frozen=True, slots=True)
class Rule:
    """What is answered to some calls, in all cases or where comparisons of different arguments all hold."""

    action: str
    names: tuple[str, ...]
    errno: int = 0
    when: tuple[Arg, ...] = ()

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ConfigError(f"Seccomp: an action is one of {', '.join(ACTIONS)}, not {self.action!r}")
        if self.action == "errno":
            units.count(self.errno, "Seccomp: an errno", least=1, most=_LARGEST_ERRNO)
        for arg in self.when:
            if not isinstance(arg, Arg):
                raise ConfigError(f"Seccomp: a comparison must be an Arg, not {arg!r}")
        if len({arg.index for arg in self.when}) < len(self.when):
            raise ConfigError("Seccomp: one rule compares an argument once; make a rule of each comparison")

    @property
    def answer(self) -> int:
        """The value that the filter returns."""
        return bpf.ERRNO | self.errno if self.action == "errno" else _ANSWERS[self.action]


def rule(action: str, names: Iterable[object], *, number: int = 0, when: Sequence[Arg] | Arg = ()) -> Rule:
    """A rule from what a caller writes: names of calls, and of groups with an @ before them."""
    checked = []
    for name in names:
        plain = units.text(name, "Seccomp: the name of a call")
        if plain.startswith("@"):
            if plain[1:] not in GROUPS:
                raise ConfigError(
                    f"Seccomp: no group {plain!r}; there are {', '.join(f'@{group}' for group in GROUPS)}"
                )
        elif not libseccomp.is_known(plain):
            raise ConfigError(f"Seccomp: no system call {plain!r} that libseccomp knows; see syscalls(2)")
        checked.append(plain)
    if not checked:
        raise ConfigError("Seccomp: a rule needs the name of a call, or of a group (@sockets)")
    return Rule(action, tuple(checked), number, (when,) if isinstance(when, Arg) else tuple(when))


def errno_of(number: object) -> int:
    """An error's number by its name; a number as it is."""
    if not isinstance(number, str):
        return units.count(number, "Seccomp: an errno", least=1, most=_LARGEST_ERRNO)
    found = getattr(errno, number, None)
    if not isinstance(found, int):
        raise ConfigError(f"Seccomp: no error {number!r}; see errno(3)")
    return found


def members(names: Iterable[str]) -> list[str]:
    """The calls of names, those of groups in their places."""
    return [call for name in names for call in (GROUPS[name[1:]] if name.startswith("@") else (name,))]


@dataclass(frozen=True)
class Policy:
    """Rules in order: of those for a call in all cases the last counts, and of comparisons that hold the strictest.

    What no rule names fails with ENOSYS, as on a kernel without it; so does what comparisons of "allow" leave over.
    """

    rules: tuple[Rule, ...]
    programs: tuple[bytes, ...] = ()  #: filters of the caller's own, which count besides

    def filters(self) -> tuple[bytes, ...]:
        """The filters in the order in which they are installed: what kills first, and the list last.

        So each lets the next be installed, whatever the list says of seccomp(2).
        """
        made = _compiled(self.rules)
        return (*([made.killing] if made.killing else []), *self.programs, made.listing)

    @property
    def heard(self) -> tuple[bytes, bytes] | None:
        """The filter that kills in two forms: one asks whoever listens, one does it by itself; None: nothing kills."""
        made = _compiled(self.rules)
        return (made.asking, made.killing) if made.killing else None

    def evaluate(self, name: str, *arguments: int, architecture: str | None = None) -> str:
        """What the filters answer to a call, found without the kernel: "allow", "errno 1", "kill", "log"."""
        number = libseccomp.number(name)
        if number is None:
            raise ConfigError(f"no system call {name!r} on this machine")
        return self.evaluate_number(number, *arguments, architecture=architecture)

    def evaluate_number(self, number: int, *arguments: int, architecture: str | None = None) -> str:
        """The same by the call's number."""
        machine = bpf.ARCHITECTURES[architecture or os.uname().machine]
        call = bpf.Call(number, arguments, machine)
        return bpf.action_name(bpf.strictest([bpf.evaluate(program, call) for program in reversed(self.filters())]))

    @property
    def may_exec(self) -> bool:
        """Whether a program can be started at all, as the filters are installed before."""
        return self.evaluate("execve") in ("allow", "log", "notify")

    def __str__(self) -> str:
        lines = []
        for rule in self.rules:
            cases = " and ".join(
                f"argument {arg.index} {arg.operator} {arg.value:#x}"
                + (f" is {arg.masked:#x}" if arg.masked is not None else "")
                for arg in rule.when
            )
            action = f"errno {errno.errorcode.get(rule.errno, rule.errno)}" if rule.action == "errno" else rule.action
            lines.append(f"{action}: {' '.join(rule.names)}" + (f" where {cases}" if cases else ""))
        lines += [f"and a filter of {len(program) // 8} instructions" for program in self.programs]
        return "\n".join([*lines, "errno ENOSYS: everything else"])


def program(value: object) -> bytes:
    """A filter that a caller brings, as bytes of struct sock_filter; `ConfigError` for what can be none."""
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise ConfigError(f"Seccomp: a filter must be bytes, not {type(value).__name__}")
    try:
        bpf.evaluate(bytes(value), bpf.Call(0))
    except (ValueError, IndexError, struct.error) as error:
        raise ConfigError(f"Seccomp: no filter that the kernel would take: {error}") from None
    return bytes(value)


class _Filters(NamedTuple):
    listing: bytes  #: which calls there are, with which arguments
    killing: bytes = b""
    asking: bytes = b""  #: the same, with a notification in place of the kill (seccomp_unotify(2))


#: what the child calls after the first filter is there, and before the program is: nobody listens yet
_OF_THE_CHILD = ("sendmsg", "close", "seccomp")
_DEFAULT = bpf.ERRNO | errno.ENOSYS


@functools.lru_cache(maxsize=64)
def _compiled(rules: tuple[Rule, ...]) -> _Filters:
    """The filters of rules.

    libseccomp lets a rule for all cases cover those with comparisons, so it makes two, which we join.  A notification
    gives way to an error, so what kills must be let through by the others.
    """
    usual, cases = _by_call(rules)
    listed: list[Answer] = []
    refused: list[Answer] = []
    killed: list[Answer] = []
    for name in sorted({*usual, *cases}):
        call = libseccomp.number(name)
        if call is None:
            continue
        always, sometimes = usual.get(name), cases.get(name, [])
        is_killed = always is not None and always.action == "kill"
        is_open = always is not None and (
            always.action in ("allow", "log") or (is_killed and name not in _OF_THE_CHILD)
        )
        allowed = [case for case in sometimes if case.action == "allow" and not is_open]
        listed += [_answer(case, call) for case in allowed]
        if is_killed and name not in _OF_THE_CHILD:
            killed.append(Answer(bpf.KILL_PROCESS, call))
            listed.append(Answer(bpf.ALLOW, call))
        elif always is not None and not allowed and always.answer != _DEFAULT:
            listed.append(Answer(always.answer, call))
        for case in sometimes:
            if case.action == "kill" and name not in _OF_THE_CHILD:
                killed.append(_answer(case, call))
            elif case.action != "allow":
                refused.append(_answer(case, call))
    asked = [replace(answer, action=bpf.USER_NOTIF) for answer in killed]
    over = (
        libseccomp.compiled(bpf.ALLOW, answers, bpf.KILL_PROCESS) if answers else b""
        for answers in (refused, killed, asked)
    )
    refusing, killing, asking = over
    listing = libseccomp.compiled(_DEFAULT, listed, bpf.KILL_PROCESS)
    return _Filters(bpf.chained(refusing, listing) if refusing else listing, killing, asking)


def _by_call(rules: tuple[Rule, ...]) -> tuple[dict[str, Rule], dict[str, list[Rule]]]:
    """For each call the rule for all cases, and those with comparisons that come after it."""
    usual: dict[str, Rule] = {}
    cases: dict[str, list[Rule]] = {}
    for one in rules:
        for name in members(one.names):
            if one.when:
                cases.setdefault(name, []).append(one)
            else:
                usual[name] = one
                cases.pop(name, None)
    return usual, cases


def _answer(rule: Rule, call: int) -> Answer:
    return Answer(rule.answer, call, tuple(arg.comparison() for arg in rule.when))
