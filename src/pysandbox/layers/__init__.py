"""The layers, one file each; none imports another."""

from .base import Layer, ambient
from .capabilities import Capabilities
from .entries import Bind, Tmpfs
from .environment import Environment
from .jail import ChrootJail
from .limits import CgroupLimits, IoLimit
from .namespaces import Namespaces
from .rlimits import Rlimits
from .seccomp import Seccomp

__all__ = [
    "Bind",
    "Capabilities",
    "CgroupLimits",
    "ChrootJail",
    "Environment",
    "IoLimit",
    "Layer",
    "Namespaces",
    "Rlimits",
    "Seccomp",
    "Tmpfs",
    "ambient",
]
