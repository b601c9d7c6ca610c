"""What the filter of system calls costs: a call, a real program, and a run; interleaved, medians and ratios.

    python benchmarks/seccomp.py [--rounds 30]

Quote the ratios; the times are this machine's.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pysandbox
from pysandbox import Bind, ChrootJail, Sandbox, Seccomp

CALLS = 1_000_000
LOOP = f"""
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int main(void)
{{
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int i = 0; i < {CALLS}; i++)
        syscall(SYS_getppid);
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%f\\n", ((end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec)) / {CALLS});
}}
"""
CPP = """
#include <iostream>
#include <map>
#include <string>
int main() { std::map<std::string, int> m; std::cout << m.size(); }
"""
Contestants = dict[str, Callable[[], float]]


def interleaved(contestants: Contestants, rounds: int) -> dict[str, float]:
    """The median of what each measures, in a new random order each round; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds + 1):
        random.shuffle(names)
        for name in names:
            value = contestants[name]()
            if number:
                found[name].append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def report(title: str, medians: dict[str, float], unit: str, floor: str) -> None:
    """Print a table."""
    print(title)
    for name, median in medians.items():
        print(f"  {name:<24}{median:>10.2f} {unit}  {median / medians[floor]:6.2f} x {floor}")


def timed(command: list[str], run: Callable[[list[str]], object]) -> Callable[[], float]:
    """Milliseconds that a program takes."""

    def measure() -> float:
        begin = time.perf_counter()
        run(command)
        return (time.perf_counter() - begin) * 1e3

    return measure


def outside(command: list[str]) -> None:
    """A program without a box."""
    subprocess.run(command, check=True, capture_output=True)


def boxed(box: Sandbox) -> Callable[[list[str]], object]:
    """The same in a living box."""
    return lambda command: box.run(command, check=True, timeout=100)


def per_call(box: Sandbox | None, loop: str) -> Callable[[], float]:
    """Nanoseconds of one getppid(2)."""
    if box is None:
        return lambda: float(subprocess.run([loop], check=True, capture_output=True).stdout)
    return lambda: float(box.run([loop], check=True, timeout=100).stdout or b"nan")


def spawn() -> None:
    """posix_spawn and wait."""
    os.waitpid(os.posix_spawn("/bin/true", ["/bin/true"], {}), 0)


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    who = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"
    print(f"as {who}, {os.cpu_count()} CPUs, Linux {os.uname().release.split('-')[0]}")
    begin = time.perf_counter()
    Seccomp().policy.filters()
    print(f"compiling the default filter, once per process: {(time.perf_counter() - begin) * 1e3:.1f} ms")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        loop, source = f"{folder}/loop", f"{folder}/main.cpp"
        Path(f"{loop}.c").write_text(LOOP)
        Path(source).write_text(CPP)
        subprocess.run(["gcc", "-O2", "-o", loop, f"{loop}.c"], check=True)
        jail = ChrootJail(binds=(Bind(folder),))
        with Sandbox(jail) as filtered, Sandbox(jail, Seccomp("off")) as bare:
            calls: Contestants = {"outside": per_call(None, loop), "without a filter": per_call(bare, loop)}
            report("getppid(2)", interleaved(calls | {"filtered": per_call(filtered, loop)}, rounds), "ns", "outside")
            for title, command in (
                ("starting Python", [sys.executable, "-c", "import json, subprocess, unittest"]),
                ("compiling C++", ["g++", "-O1", "-o", "/dev/null", source]),
            ):
                contestants = {
                    "outside": timed(command, outside),
                    "without a filter": timed(command, boxed(bare)),
                    "filtered": timed(command, boxed(filtered)),
                }
                report(title, interleaved(contestants, rounds), "ms", "outside")
    true = ["/bin/true"]
    runs: Contestants = {
        "posix_spawn": timed(true, lambda _: spawn()),
        "run, without a filter": timed(true, lambda command: pysandbox.run(command, Seccomp("off"))),
        "run": timed(true, pysandbox.run),
    }
    report("one-shot", interleaved(runs, 10 * rounds), "ms", "posix_spawn")


if __name__ == "__main__":
    main()
