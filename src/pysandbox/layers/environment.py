"""`Environment`: the variables a payload starts with.  See environ(7)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import units
from ..errors import ConfigError
from ..plan import Blueprint
from ..result import Enforcement, Level
from .base import Layer

_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def _default_path() -> str:
    own = os.path.dirname(sys.executable or "")
    return ":".join(_PATH if own in ("", *_PATH) else (own, *_PATH))


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment(Layer):
    """Start programs with a clean environment: PATH, HOME, LANG, and what is named here.

    :param allow: names of the caller's variables to pass on, where they are set.
    :param set: variables with their values; they win over everything else.
    :param clean: False leaves out even the usual few.

    `run(env=...)` replaces all of it, as in `subprocess`.
    """

    allow: Sequence[str] = ()
    set: Any = field(default=())
    clean: bool = True

    def __post_init__(self) -> None:
        names = units.names(self.allow, "Environment(allow=)")
        object.__setattr__(self, "allow", tuple(units.text(name, "a name of Environment(allow=)") for name in names))
        for name in self.allow:
            if not name or "=" in name:
                raise ConfigError(f"Environment(allow=): {name!r} is no name of a variable")
        object.__setattr__(self, "set", units.variables(self.set, "Environment(set=)"))
        units.flag(self.clean, "Environment(clean=)")

    @property
    def looks_at_host(self) -> bool:
        return bool(self.allow)

    def contribute(self, blueprint: Blueprint) -> None:
        values: dict[str, str] = {}
        if self.clean:
            values = {"PATH": _default_path(), "HOME": blueprint.facts.workdir, "LANG": "C.UTF-8"}
        values |= dict(blueprint.facts.root_env)
        values |= {name: os.environ[name] for name in self.allow if name in os.environ}
        values |= dict(self.set)
        blueprint.environment = tuple(sorted(values.items()))
        blueprint.enforcement[self.name] = Enforcement(Level.FULL, "a clean environment")
