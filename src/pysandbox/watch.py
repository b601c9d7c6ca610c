"""Looking at a tree of processes from outside, for runs that no cgroup counts."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Sample:
    """One look: bytes of memory, CPU seconds (of the living, and of the children they have waited for), processes."""

    memory: int
    cpu: float
    processes: int
    cost: float  #: seconds that the look itself took


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    waited_for = float(times.children_user + times.children_system)
    try:
        # The process's own CPU clock, exact to the nanosecond where proc(5) has ticks: clock_getcpuclockid(3).
        return time.clock_gettime((~process.pid << 3) | 2) + waited_for
    except OSError:
        return float(times.user + times.system) + waited_for


def _memory(processes: list[psutil.Process], limit: int | None) -> int:
    """The sum of resident sizes; where that is over the limit, of proportional ones, which count shared pages once."""
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    if limit is None or total <= limit:
        return total
    exact = 0
    for process in processes:
        try:
            exact += process.memory_full_info().pss
        except psutil.Error:
            try:
                info = process.memory_info()
                exact += info.rss - info.shared
            except psutil.Error:
                continue
    return exact


def _inside_pid(pid: int) -> int:
    """A process's pid in its innermost PID namespace (NSpid in proc(5))."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
            for line in status:
                if line.startswith("NSpid:"):
                    return int(line.split()[-1])
    except OSError:
        pass
    return -1


def reaped_by(init: int) -> float:
    """CPU seconds of the processes that init has waited for."""
    try:
        times = psutil.Process(init).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.children_user + times.children_system)


def _tree_of(own: int, children: list[psutil.Process], init: int, others: Collection[int]) -> list[psutil.Process]:
    """Those of a box's processes that belong to one run.

    A run beside which another was going on is below a keeper of its own (native/init.c), and so are its orphans; the
    orphans of the one run that has none are below init itself.
    """
    tops: dict[int, int] = {}  # pid → the process right below init that it descends from
    inside = {}
    for process in children:  # parents come before their children
        try:
            parent = process.ppid()
        except psutil.Error:
            continue
        tops[process.pid] = process.pid if parent == init else tops.get(parent, process.pid)
        inside[_inside_pid(process.pid)] = process.pid
    program = inside.get(own, -1)
    if program in tops and tops[program] != program:
        return [process for process in children if tops.get(process.pid) == tops[program] != process.pid]
    if not others:  # those that were beside it have ended, but for a keeper perhaps, to which their time counts
        return [process for process in children if tops.get(process.pid) == program]
    foreign = {tops[inside[other]] for other in others if inside.get(other) in tops}
    return [process for process in children if tops.get(process.pid) not in foreign]


def look(init: int, own: int, others: Collection[int], memory_limit: int | None, *, alone: bool = False) -> Sample:
    """Look at the processes of one run: `own` is its program's pid inside the box, `others` are those of other runs.

    `alone`: no other run was started in the box since this one was.
    """
    begin = time.monotonic()
    try:
        processes = psutil.Process(init).children(recursive=True)
    except psutil.Error:
        processes = []
    if others or not alone:
        processes = _tree_of(own, processes, init, others)
    cpu = 0.0
    for process in processes:
        try:
            cpu += _cpu(process)
        except psutil.Error:
            continue
    memory = _memory(processes, memory_limit)
    return Sample(memory, cpu, len(processes), time.monotonic() - begin)
