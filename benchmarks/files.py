"""Unpacking an image beside tar(1), and bringing a box back beside posix_spawn, interleaved: medians and ratios.

    python benchmarks/files.py [--rounds 100] [--unpack-rounds 5] [--megabytes 200]

The archive is made of files of the system's, and is in the page cache.  Quote the ratios; the seconds are this
machine's.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pysandbox
from pysandbox import images

SOURCES = ("/usr/lib/python3", "/usr/lib/python3.11", "/usr/include", "/usr/share/doc", "/usr/lib/gcc", "/usr/bin")
PROGRAM = "/bin/true"


def make_archive(path: Path, megabytes: int) -> None:
    """An archive of files of the system's, up to so many megabytes."""
    left = megabytes << 20
    with tarfile.open(path, "w") as archive:
        for source in SOURCES:
            for folder, _, names in os.walk(source):
                for name in names:
                    file = os.path.join(folder, name)
                    if left > 0 and os.path.isfile(file) and not os.path.islink(file):
                        archive.add(file, file.lstrip("/"), recursive=False)
                        left -= os.path.getsize(file)


def interleaved(contestants: dict[str, Callable[[], object]], rounds: int, warm: int) -> dict[str, float]:
    """Median seconds of each, in a new random order each round."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds + warm):
        random.shuffle(names)
        for name in names:
            begin = time.perf_counter()
            contestants[name]()
            if number >= warm:
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(found) for name, found in times.items()}


def report(title: str, medians: dict[str, float], floor: str) -> None:
    """Print a table."""
    print(title)
    for name, median in sorted(medians.items(), key=lambda item: item[1]):
        print(f"  {name:<28}{median * 1e3:>10.2f} ms  {median / medians[floor]:6.2f} x {floor}")


def unpacking(folder: Path, archive: Path) -> dict[str, Callable[[], None]]:
    """tar into a folder, and our own into the cache; both have nothing there before."""
    into = folder / "by-tar"

    def by_tar() -> None:
        into.mkdir()
        subprocess.run(["tar", "-xf", archive, "-C", into], check=True)

    def by_us() -> None:
        images.load(str(archive))

    return {"tar -x": by_tar, "images.load": by_us}


def spawn() -> object:
    """posix_spawn and wait."""
    return os.waitpid(os.posix_spawn(PROGRAM, [PROGRAM], {}), 0)


def clear(folder: Path) -> None:
    """Remove what both have unpacked."""
    shutil.rmtree(folder / "by-tar", ignore_errors=True)
    for image in images.list_images():
        images.remove(image)


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--unpack-rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=200)
    options = parser.parse_args()
    print(f"as uid {os.geteuid()}, {os.cpu_count()} CPUs, Linux {os.uname().release}")
    with pysandbox.Sandbox() as box, pysandbox.Sandbox() as other:

        def savepoint_and_back() -> None:
            other.rollback(other.savepoint())

        other.write_file("file", b"x" * 10_000)
        contestants = {"posix_spawn": spawn, "reset": box.reset, "savepoint, rollback": savepoint_and_back}
        report("a small box", interleaved(contestants, options.rounds, 10), "posix_spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        plain = folder / "root.tar"
        make_archive(plain, options.megabytes)
        subprocess.run(["gzip", "-k", plain], check=True)
        for archive in (plain, folder / "root.tar.gz"):
            times: dict[str, list[float]] = {}
            for _ in range(options.unpack_rounds):
                contestants_ = list(unpacking(folder, archive).items())
                random.shuffle(contestants_)
                for who, unpack in contestants_:
                    os.sync()
                    begin = time.perf_counter()
                    unpack()
                    times.setdefault(who, []).append(time.perf_counter() - begin)
                clear(folder)
            medians = {who: statistics.median(found) for who, found in times.items()}
            report(f"{archive.name}, {archive.stat().st_size >> 20} MiB", medians, "tar -x")


if __name__ == "__main__":
    main()
