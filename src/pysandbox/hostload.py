"""How busy the host was while a run went on, so that a judge can tell a slow program from a busy machine."""

from __future__ import annotations

import os

_TICKS = os.sysconf("SC_CLK_TCK")


def _steal() -> float | None:
    """Seconds that a hypervisor has given to others, over all CPUs (proc_stat(5))."""
    try:
        with open("/proc/stat", "rb") as file:
            fields = file.readline().split()
    except OSError:
        return None
    return int(fields[8]) / _TICKS if len(fields) > 8 and fields[0] == b"cpu" else None


def _pressure() -> float | None:
    """Seconds in which some process of the whole host waited for a CPU (the kernel's psi.rst)."""
    try:
        with open("/proc/pressure/cpu", encoding="ascii") as file:
            line = file.readline()
    except OSError:  # no PSI in this kernel, or switched off
        return None
    total = line.rpartition("total=")[2].strip()
    return int(total) / 1e6 if total.isdigit() else None


class HostLoad:
    """The host's counters at the start of a run."""

    def __init__(self) -> None:
        self._steal = _steal()
        self._pressure = _pressure()

    def since(self, wall: float) -> dict[str, object]:
        """What was counted in the `wall` seconds of the run, as evidence."""
        found: dict[str, object] = {}
        steal, pressure = _steal(), _pressure()
        if steal is not None and self._steal is not None:
            found["host_steal"] = f"{steal - self._steal:.2f} s over all CPUs in {wall:.4f} s (/proc/stat)"
        if pressure is not None and self._pressure is not None:
            found["host_cpu_pressure"] = f"{pressure - self._pressure:.6f} s in {wall:.4f} s (/proc/pressure/cpu, some)"
        return found
