"""Control groups: one interface over cgroup v2 and v1 (cgroups(7)).

A run's leaf lies below the caller's own cgroup, with the calling process in its name, so that what a dead process
left can be recognised.  Nothing above the caller's own cgroup is ever touched, and nothing at all where no
limit was asked for.
"""

from __future__ import annotations

from .base import Group, Leaf, Readings, without
from .find import group_for, own_group, sweep, vacate_cgroup, why_not
from .pool import Leaves

__all__ = [
    "Group",
    "Leaf",
    "Leaves",
    "Readings",
    "group_for",
    "own_group",
    "sweep",
    "vacate_cgroup",
    "why_not",
    "without",
]
