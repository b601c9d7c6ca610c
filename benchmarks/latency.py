"""Latency of a box beside posix_spawn and bubblewrap, interleaved in one run: medians and ratios.

    python benchmarks/latency.py [--rounds 200] [--resident GIB]

Every round runs each contestant once, in a new random order, so that a machine whose speed drifts slows all alike.
Quote the ratios; the milliseconds are this machine's.  bubblewrap (`apt-get install
bubblewrap`) is left out when absent.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import time
from collections.abc import Callable

import pysandbox

PROGRAM = "/bin/true"
PAGE = 4096

#: the same isolation as the default box has, as far as bubblewrap offers it
BUBBLEWRAP = [
    *("bwrap", "--unshare-all", "--new-session", "--die-with-parent", "--clearenv", "--cap-drop", "ALL"),
    *("--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/sbin", "/sbin"),
    *("--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"),
    *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/box", "--chdir", "/box"),
]


def spawn(path: str, words: list[str]) -> None:
    """posix_spawn and wait, stdio on /dev/null."""
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    pid = os.posix_spawn(path, words, {}, file_actions=null)
    status = os.waitpid(pid, 0)[1]
    if status:
        raise SystemExit(f"{words[0]} failed: wait status {status:#x}")


Contestants = dict[str, Callable[[], object]]


def contestants(live: pysandbox.Sandbox) -> tuple[Contestants, Contestants]:
    """What is measured, by name: runs in a box that is there, and boxes made for one run.

    Two groups, each beside the floor, as the kernel clears away the network namespaces of the second in the background
    and so slows whatever comes next.
    """
    floor: Contestants = {"posix_spawn": lambda: spawn(PROGRAM, [PROGRAM])}
    runs = floor | {"box.run, live box": lambda: live.run([PROGRAM]).check_returncode()}
    boxes = floor | {"pysandbox.run, one-shot": lambda: pysandbox.run([PROGRAM]).check_returncode()}
    bwrap = shutil.which("bwrap")
    if bwrap:
        boxes["bubblewrap"] = lambda: spawn(bwrap, [*BUBBLEWRAP, PROGRAM])
    return runs, boxes


def measure(runs: Contestants, rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, after ten rounds of warming up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for number in range(rounds + 10):
        random.shuffle(names)
        for name in names:
            begin = time.perf_counter()
            runs[name]()
            if number >= 10:
                times[name].append(time.perf_counter() - begin)
    return times


def report(title: str, times: dict[str, list[float]]) -> dict[str, float]:
    """Print a table; returns the medians."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{title} ({len(next(iter(times.values())))} rounds)")
    print(f"  {'':<26}{'median ms':>10}{'p90 ms':>9}{'x posix_spawn':>15}{'x bubblewrap':>14}")
    for name, median in sorted(medians.items(), key=lambda item: item[1]):
        p90 = statistics.quantiles(times[name], n=10)[-1]
        beside = f"{median / medians['bubblewrap']:.2f}" if "bubblewrap" in medians else "-"
        print(f"  {name:<26}{median * 1e3:>10.2f}{p90 * 1e3:>9.2f}{median / medians['posix_spawn']:>15.2f}{beside:>14}")
    return medians


def main() -> None:
    """Measure small, then with much memory resident."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--resident", type=float, default=4.0, metavar="GIB", help="memory to hold in the second part")
    options = parser.parse_args()
    who = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"
    print(f"as {who}, {os.cpu_count()} CPUs, Linux {os.uname().release}")
    with pysandbox.Sandbox() as live:
        groups = contestants(live)
        small = [report("small parent", measure(runs, options.rounds)) for runs in groups]
        if options.resident > 0:
            held = bytearray(int(options.resident * (1 << 30)))
            held[::PAGE] = b"x" * len(held[::PAGE])
            title = f"{options.resident:g} GiB resident in the parent"
            for before, runs in zip(small, groups, strict=True):
                after = report(title, measure(runs, options.rounds))
                for name in before:
                    print(f"  {name}: {after[name] / before[name]:.2f} x the small parent")


if __name__ == "__main__":
    main()
