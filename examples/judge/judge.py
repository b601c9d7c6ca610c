"""A small online judge: every submission is compiled and run in a box of its own.

    python examples/judge/judge.py [--only PATTERN] [--json] [--jobs N]

It needs rich (``pip install 'pysandbox[cli]'``), and the languages that it judges: gcc, g++,
python3 and perl. The tests stay outside: a box holds the source and what came of it, and inputs
and outputs go through pipes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from pysandbox import CgroupLimits, Result, Sandbox, SandboxError, Verdict

HERE = Path(__file__).resolve().parent
COMPILE_LIMITS = CgroupLimits(memory="1G", pids=64)
COMPILE_TIMEOUT = 30.0
WALL_FACTOR = 5
VERDICTS = {
    Verdict.OK: "ACCEPTED",
    Verdict.NONZERO_EXIT: "RUNTIME_ERROR",
    Verdict.SIGNALED: "RUNTIME_ERROR",
    Verdict.FORBIDDEN_SYSCALL: "RUNTIME_ERROR",
    Verdict.CPU_TIME_EXCEEDED: "TIME_LIMIT",
    Verdict.WALL_TIME_EXCEEDED: "WALL_LIMIT",
    Verdict.MEMORY_EXCEEDED: "MEMORY_LIMIT",
    Verdict.OUTPUT_EXCEEDED: "OUTPUT_LIMIT",
    Verdict.KILLED: "INTERNAL_ERROR",
}


@dataclass(frozen=True)
class Language:
    """How to compile a source file (or at least check it), and how to run what came of it."""

    name: str
    source: str
    compile: list[str]
    run: list[str]


GCC = ["gcc", "-O1", "-o", "main", "main.c"]
GXX = ["g++", "-O1", "-std=c++17", "-o", "main", "main.cpp"]
CHECK_PYTHON = ["python3", "-m", "py_compile", "main.py"]
CHECK_PERL = ["perl", "-c", "main.pl"]
LANGUAGES = {
    ".c": Language("C", "main.c", GCC, ["./main"]),
    ".cpp": Language("C++", "main.cpp", GXX, ["./main"]),
    ".py": Language("Python", "main.py", CHECK_PYTHON, ["python3", "main.py"]),
    ".pl": Language("Perl", "main.pl", CHECK_PERL, ["perl", "main.pl"]),
}


@dataclass(frozen=True)
class Problem:
    """A task: its limits, and the answer to each input."""

    title: str
    time_limit: float
    memory: str
    tests: list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Submission:
    """A program that claims to solve a problem, and the verdict that it should get."""

    file: str
    problem: str
    expected: str

    @property
    def language(self) -> Language:
        """Tell the language from the file's name."""
        return LANGUAGES[Path(self.file).suffix]


@dataclass(frozen=True)
class Report:
    """What the judge says of a submission: the verdict, and the most that any run of it used."""

    submission: Submission
    verdict: str
    runs: int
    cpu_time: float
    wall_time: float
    memory_peak: int
    limits_hit: list[str]
    message: str

    @property
    def ok(self) -> bool:
        """Tell whether the verdict is the one that it should be."""
        return self.verdict == self.submission.expected


def read_problem(name: str) -> Problem:
    """Read a problem's folder, with all its tests."""
    folder = HERE / "problems" / name
    inputs = sorted(folder.glob("tests/*.in"))
    tests = [(path.read_bytes(), path.with_suffix(".ans").read_bytes()) for path in inputs]
    return Problem(tests=tests, **json.loads((folder / "problem.json").read_text("utf-8")))


def read_submissions(pattern: str) -> list[Submission]:
    """Read the manifest's submissions whose file name matches a pattern."""
    entries = json.loads((HERE / "submissions.json").read_text("utf-8"))
    return [Submission(**entry) for entry in entries if fnmatch(entry["file"], f"*{pattern}*")]


def run_submission(submission: Submission) -> Iterator[tuple[str, Result[bytes]]]:
    """Compile a submission in a box of its own, then run it on each test until one fails."""
    language, problem = submission.language, read_problem(submission.problem)
    with Sandbox(COMPILE_LIMITS, degrade=True) as box:
        box.write_file(language.source, (HERE / "submissions" / submission.file).read_bytes())
        compiled = box.run(language.compile, timeout=COMPILE_TIMEOUT)
        if not compiled:
            yield "COMPILE_ERROR", compiled
            return
        for data, answer in problem.tests:
            result = box.run(
                language.run,
                input=data,
                timeout=problem.time_limit * WALL_FACTOR,
                cpu_time=problem.time_limit,
                limits=CgroupLimits(memory=problem.memory, pids=32),
                max_output="16M",
            )
            right = (result.stdout or b"").split() == answer.split()
            yield ("WRONG_ANSWER" if result and not right else VERDICTS[result.verdict]), result
            if not (result and right):
                return


def judge(submission: Submission) -> Report:
    """Judge one submission; a box that cannot be had is no fault of the program."""
    verdict, message, results = "INTERNAL_ERROR", "", []
    try:
        for verdict, result in run_submission(submission):  # noqa: B007
            results.append(result)
            message = (result.stderr or b"").decode(errors="replace")[-1000:]
    except SandboxError as error:
        verdict, message = "INTERNAL_ERROR", str(error)
    return Report(
        submission=submission,
        verdict=verdict,
        runs=len(results),
        cpu_time=max((result.usage.cpu_time or 0.0 for result in results), default=0.0),
        wall_time=max((result.usage.wall_time for result in results), default=0.0),
        memory_peak=max((result.usage.memory_peak or 0 for result in results), default=0),
        limits_hit=sorted({limit for result in results for limit in result.limits_hit}),
        message=message,
    )


def make_table(reports: list[Report]) -> Table:
    """Lay the reports out, one a row."""
    table = Table("submission", "language", "verdict", "CPU", "wall", "memory", "as expected")
    for report in reports:
        table.add_row(
            report.submission.file,
            report.submission.language.name,
            report.verdict,
            f"{report.cpu_time:.2f} s",
            f"{report.wall_time:.2f} s",
            f"{report.memory_peak / 2**20:.0f} MiB",
            "[green]ok" if report.ok else f"[red]no: {report.submission.expected}",
        )
    return table


def main() -> int:
    """Judge the submissions, and tell whether each got the verdict that it should."""
    parser = argparse.ArgumentParser(description="Judge the submissions, each in its own box.")
    parser.add_argument("--only", default="", metavar="PATTERN", help="judge the files that match")
    parser.add_argument("--json", action="store_true", help="print the reports as JSON")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="judge N at a time")
    options = parser.parse_args()
    submissions = read_submissions(options.only)
    with Progress(console=Console(stderr=True)) as bar, ThreadPoolExecutor(options.jobs) as pool:
        judged = pool.map(judge, submissions)
        reports = list(bar.track(judged, len(submissions), description="judging"))
    if options.json:
        print(json.dumps([asdict(report) for report in reports], indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else 120).print(make_table(reports))
    failed = [report for report in reports if not report.ok]
    for report in failed:
        print(f"{report.submission.file}: {report.verdict}: {report.message}", file=sys.stderr)
    good = len(reports) - len(failed)
    print(f"{good} of {len(reports)} submissions got the verdict they should", file=sys.stderr)
    return 0 if reports and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
