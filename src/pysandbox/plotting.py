"""Pictures of a run: CPU and memory over time, with the limits as lines.  matplotlib is imported here and only here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, UnsupportedError

if TYPE_CHECKING:
    from .result import Result

_MIB = 1 << 20


def plot(result: Result[Any], path: str | os.PathLike[str]) -> None:
    """Draw a run into a file; its ending says the format."""
    if not result.samples:
        raise ConfigError("there are no readings to draw: run it with sample_interval=0.05, or for longer than that")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UnsupportedError(
            "Result.plot", need="matplotlib", have="none", remedy="pip install 'pysandbox[plot]'"
        ) from None
    begin = result.samples[0].time
    figure = Figure(figsize=(8, 5), layout="constrained")
    cpu_axes, memory_axes = figure.subplots(2, 1, sharex=True)
    for axes, name, unit in ((cpu_axes, "cpu_time", 1), (memory_axes, "memory", _MIB)):
        read = [sample for sample in result.samples if getattr(sample, name) is not None]
        times = [sample.time - begin for sample in read]
        axes.plot(times, [getattr(sample, name) / unit for sample in read], label=name)
    lines = ((cpu_axes, "cpu_time", 1), (memory_axes, "memory", _MIB), (memory_axes, "memory_high", _MIB))
    for axes, name, unit in lines:
        if name in result.limits:
            axes.axhline(result.limits[name] / unit, color="tab:red", linestyle="--", label=f"limit: {name}")
    if "wall_time" in result.limits:
        for axes in (cpu_axes, memory_axes):
            axes.axvline(result.limits["wall_time"], color="tab:gray", linestyle=":", label="limit: wall_time")
    cpu_axes.set_ylabel("CPU seconds")
    memory_axes.set_ylabel("MiB")
    memory_axes.set_xlabel("seconds")
    cpu_axes.set_title(f"{result.args[0]}: {result.verdict.name}")
    for axes in (cpu_axes, memory_axes):
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left")
    try:
        figure.savefig(path)
    except ValueError as error:  # an ending that is no picture's
        raise ConfigError(f"plot({os.fspath(path)!r}): {error}") from None
