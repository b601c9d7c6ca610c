"""`Rlimits`: limits of each process.  See getrlimit(2)."""

from __future__ import annotations

import resource
from dataclasses import dataclass, fields

from .. import units
from ..errors import ConfigError
from ..plan import Blueprint, Phase, Verb
from ..result import Enforcement, Level
from .base import Layer

_BYTES = frozenset({"as_", "core", "data", "fsize", "memlock", "msgqueue", "rss", "stack"})
#: fds 0 to 2 and one more for the dynamic loader
_LEAST = {"nofile": 4, "stack": 65536, "as_": 1 << 20, "data": 1 << 16, "cpu": 1, "nproc": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rlimits(Layer):
    """Limit each process of a run on its own, soft and hard alike (`cpu`: one second apart), just before exec.

    The names are the kernel's in lower case (`as_` for RLIMIT_AS, as `as` is a keyword); sizes are bytes or strings
    like "16M", `cpu` whole seconds.  None leaves the caller's.  For a run as a whole use `CgroupLimits`.
    See getrlimit(2).  Raising a limit above the caller's hard limit is a `SetupError` (EPERM).
    """

    as_: int | str | None = None
    core: int | str | None = 0
    cpu: int | None = None
    data: int | str | None = None
    fsize: int | str | None = None
    memlock: int | str | None = None
    msgqueue: int | str | None = None
    nice: int | None = None
    nofile: int | None = None
    nproc: int | None = None
    rss: int | str | None = None
    rtprio: int | None = None
    sigpending: int | None = None
    stack: int | str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            what = f"Rlimits({field.name}=)"
            least = _LEAST.get(field.name, 0)
            if field.name in _BYTES:
                value = units.size(value, what, least=least)
            else:
                value = units.count(value, what, least=least, most=1 << 40)
            object.__setattr__(self, field.name, value)

    def contribute(self, blueprint: Blueprint) -> None:
        set_here = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            name = field.name.rstrip("_")
            number = getattr(resource, f"RLIMIT_{name.upper()}", None)
            if number is None:
                raise ConfigError(f"Rlimits({field.name}=) is not known here", layers=(self.name,))
            if name == "core" and value == 0:
                value = (
                    1  # 0 would still start a core_pattern pipe; at 1 the kernel refuses it (core(5), kernel 2.6.31)
                )
            # At the hard limit of CPU time the kernel sends SIGKILL, at the soft one SIGXCPU, which tells its cause.
            hard = value + 1 if name == "cpu" else value
            blueprint.add(self.name, Phase.LIMITS, Verb.SETRLIMIT, number, value, hard)
            set_here.append(name)
        blueprint.enforcement[self.name] = Enforcement(Level.FULL, f"setrlimit: {', '.join(set_here) or 'nothing'}")
