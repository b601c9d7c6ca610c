"""`Seccomp`: which system calls a program may make, and with which arguments.  See seccomp(2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from typing_extensions import Self

from .. import units
from ..errors import ConfigError, UnsupportedError
from ..plan import Blueprint, Phase, Verb
from ..result import Enforcement, Level
from ..seccomp import policy, presets
from ..seccomp.policy import Arg, Policy, Rule
from .base import Layer


@dataclass(frozen=True, slots=True)
class Seccomp(Layer):
    """Let the program ask the kernel for no more than a list of calls; there is no way back, not for children either.

    What is on no list fails with ENOSYS, as on a kernel that lacks it, and so does every call that the kernel gets
    later; what is known for dangerous fails with EPERM.  Calls of other machines (i386, x32) kill the process.

    Start from a preset and change it; each method returns another policy::

        Seccomp()                                      # "default": what ordinary programs need, of which none can tell
        Seccomp("strict").allow("@sockets")            # a group, a call
        Seccomp().errno("EACCES", "socket", when=Arg(0, "==", socket.AF_INET6))
        Seccomp().kill("ptrace")                       # Verdict.FORBIDDEN_SYSCALL

    Of the rules for one call the last in all cases counts, and of those with comparisons that hold the strictest.

    :param preset: "default"; "strict", a program that computes: it reads files and writes to what it was given;
        "judge", the default without sockets, IPC and file locks, in which what is known for dangerous kills; "python",
        which is the default; "build", the default with debuggers (ptrace(2)); "off", no filter at all.
    :param rules: more of them, in order; the methods write them.
    :param programs: filters of your own (bytes of struct sock_filter), which are to let a call through as well.

    Any Linux that this library runs on.  Errors: `ConfigError` (a name that is no call), `UnsupportedError` (no
    libseccomp, which compiles the rules), `SetupError`.
    """

    preset: str = "default"
    rules: tuple[Rule, ...] = ()
    programs: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.preset, str) or self.preset not in presets.PRESETS:
            known = ", ".join(repr(name) for name in presets.PRESETS)
            raise ConfigError(f"Seccomp: no preset {self.preset!r}; there are {known}")
        if not isinstance(self.rules, tuple) or not all(isinstance(rule, Rule) for rule in self.rules):
            raise ConfigError("Seccomp(rules=) are what its methods write: Seccomp().allow('ptrace')")
        if isinstance(self.programs, (bytes, bytearray)):
            raise ConfigError("Seccomp(programs=) must be a sequence of filters, not one")
        if self.preset == "off" and self.rules:
            raise ConfigError("Seccomp('off') has no rules to be changed; start from another preset")
        programs = tuple(policy.program(given) for given in units.names(self.programs, "Seccomp(programs=)"))
        object.__setattr__(self, "programs", programs)

    def allow(self, *names: str, when: Sequence[Arg] | Arg = ()) -> Self:
        """Let calls through; with comparisons, in those cases, and in the others they fail with ENOSYS."""
        return self._with(policy.rule("allow", names, when=when))

    def deny(self, *names: str, when: Sequence[Arg] | Arg = ()) -> Self:
        """Let calls fail with EPERM."""
        return self.errno("EPERM", *names, when=when)

    def errno(self, number: int | str, *names: str, when: Sequence[Arg] | Arg = ()) -> Self:
        """Let calls fail with an error, by its number or its name."""
        return self._with(policy.rule("errno", names, number=policy.errno_of(number), when=when))

    def kill(self, *names: str, when: Sequence[Arg] | Arg = ()) -> Self:
        """End the run at such a call: `Verdict.FORBIDDEN_SYSCALL`."""
        return self._with(policy.rule("kill", names, when=when))

    def log(self, *names: str, when: Sequence[Arg] | Arg = ()) -> Self:
        """Let calls through, and have them in the kernel's audit log."""
        return self._with(policy.rule("log", names, when=when))

    def _with(self, rule: Rule) -> Self:
        return replace(self, rules=(*self.rules, rule))

    @property
    def policy(self) -> Policy:
        """The rules in full; `print` it, `evaluate` a call without the kernel, look at its `filters`."""
        rules = presets.PRESETS[self.preset]
        if rules is None:
            raise ConfigError("Seccomp('off') has no policy")
        return Policy((*rules, *self.rules), self.programs)

    def contribute(self, blueprint: Blueprint) -> None:
        if self.preset == "off":
            for program in self.programs:
                blueprint.add(self.name, Phase.SECCOMP, Verb.SECCOMP, program)
            level = Level.PARTIAL if self.programs else Level.NONE
            blueprint.enforcement[self.name] = Enforcement(level, "seccomp: off", "switched off by the caller")
            return
        wanted = self.policy
        try:
            wanted.filters()
        except UnsupportedError as error:
            if not blueprint.facts.degrade:
                raise
            blueprint.enforcement[self.name] = Enforcement(Level.NONE, "seccomp: none", error.have)
            return
        if not wanted.may_exec:
            raise ConfigError("Seccomp: a policy that does not allow execve lets no program start", layers=(self.name,))
        if wanted.heard is not None:
            blueprint.add(self.name, Phase.SECCOMP, Verb.SECCOMP_HEARD, *wanted.heard, 0)
        for program in wanted.filters()[wanted.heard is not None :]:
            blueprint.add(self.name, Phase.SECCOMP, Verb.SECCOMP, program)
        own = f", {len(self.rules)} rules more" if self.rules else ""
        blueprint.enforcement[self.name] = Enforcement(Level.FULL, f"seccomp filter: {self.preset}{own}")
