"""Each behaviour of a program has one right verdict, one right cause in the evidence, and the right limits hit.

The rows are the data of docs/verdicts.md too, which this file writes: python tests/kernel/test_verdicts.py > docs/verdicts.md
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from verdicts import ROWS
from verdicts.page import render
from verdicts.rows import GENEROUS, Row

from pysandbox import PIPE, Result, Sandbox, Verdict

PAGE = Path(__file__).parents[2] / "docs" / "verdicts.md"
ROUNDS = int(os.environ.get("PYSANDBOX_VERDICT_ROUNDS", "2"))

#: what the evidence has about the cause of an end; any other key is a figure's source, or tells of something besides
CAUSES = frozenset(
    {
        "ledger",
        "box",
        "oom_kills",
        "cpu_time_limit",
        "wall_time_limit",
        "memory_limit",
        "output",
        "file_size",
        "signal",
        "syscall",
        "exit",
    }
)

# --- running a row -----------------------------------------------------------------------------------------------


def _on_disk(folder: str) -> bool:
    """Whether files there are cached in memory, rather than being there alone."""
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    path = Path(os.path.realpath(folder))
    kind = next((mounts[str(at)] for at in (path, *path.parents) if str(at) in mounts), "")
    in_memory = {"tmpfs", "ramfs", ""} | (
        {"overlay"} if os.environ.get("VMTEST") else set()
    )  # a test VM's disk is none
    return kind not in in_memory


def run(row: Row, box: Sandbox) -> Result[bytes]:
    with ExitStack() as stack:
        options = {"timeout": GENEROUS, **row.options}
        if row.file is not None:
            folder = tempfile.gettempdir()
            if not _on_disk(folder):
                pytest.skip(f"{folder} is not on a disk, so its files are no page cache")
            file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            file.truncate(row.file)  # a hole: it is read as zeros, and cached like anything else
            options["stdin"] = file
        if row.caller is None:
            return box.run(row.argv, **options)
        with box.popen(row.argv, **options) as process:
            row.caller(process)
        return process.result


def box_for(row: Row) -> Sandbox:
    return Sandbox(*row.layers, degrade=row.degrade)


def wrong(row: Row, result: Result[bytes]) -> list[str]:
    """What is not as the row says."""
    found = result.evidence.keys()
    named = {row.evidence} if isinstance(row.evidence, str) else set(row.evidence)
    causes = (CAUSES & found) - row.besides
    checks = {
        f"verdict {result.verdict.name}": result.verdict is row.verdict,
        f"limits_hit {sorted(result.limits_hit)}": result.limits_hit == row.hit,
        f"returncode {result.returncode}": row.returncode in (None, result.returncode),
        f"causes {sorted(CAUSES & found)}": len(causes) == 1 and causes <= named and row.besides <= found,
        f"left_behind {result.evidence.get('left_behind')}": row.left_behind in (None, "left_behind" in found),
        f"pids_refused {result.evidence.get('pids_refused')}": ("pids" in row.hit) == ("pids_refused" in found),
        f"truncated {result.truncated}": result.truncated == row.truncated,
        f"stdout {(result.stdout or b'')[:100]!r}": row.stdout in (None, result.stdout),
    }
    problems = [what for what, right in checks.items() if not right]
    if problems:
        problems.append(f"{row.id}: {result.evidence} {result.usage} {(result.stderr or b'')[-300:]!r}")
    return problems


def parameters(*marks: pytest.MarkDecorator) -> list[Any]:
    return [pytest.param(row, id=row.id, marks=[*marks, *([pytest.mark.cgroup] * row.cgroup)]) for row in ROWS]


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Processes that spin meanwhile; they are in a box, so that they end with us whatever happens."""
    with Sandbox() as box, ExitStack() as stack:
        for _ in range(processes):
            stack.enter_context(box.popen(["sh", "-c", "while :; do :; done"]))
        yield


# --- tests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", parameters())
def test_a_behaviour_gets_its_one_right_verdict(row: Row) -> None:
    with box_for(row) as box:
        assert wrong(row, run(row, box)) == []
        assert box.run(["true"], timeout=GENEROUS), "the box is of use after that"


@pytest.mark.slow
@pytest.mark.timeout(120 + 10 * ROUNDS)
@pytest.mark.parametrize("row", parameters())
def test_a_verdict_is_the_same_under_load_and_each_time(row: Row) -> None:
    """In one box, so that nothing of a run (its cgroup's counters, its files, its orphans) is seen in the next."""
    rounds = max(1, ROUNDS // 2) if row.long else ROUNDS
    beside = max(1, 2 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))  # two over all of xdist's workers
    with busy(beside), box_for(row) as box:
        problems = [problem for _ in range(rounds) if (problem := wrong(row, run(row, box)))]
    assert problems == [], f"{len(problems)} of {rounds} rounds"


def test_every_exit_status_is_the_programs_own() -> None:
    with Sandbox() as box:
        results = [box.run(["sh", "-c", f"exit {status}"], timeout=GENEROUS) for status in range(256)]
    assert [result.returncode for result in results] == list(range(256))
    assert [result.verdict for result in results] == [Verdict.OK] + [Verdict.NONZERO_EXIT] * 255
    assert all(CAUSES & result.evidence.keys() == {"exit"} and not result.limits_hit for result in results)


def test_an_order_that_comes_when_the_program_has_just_ended_spares_its_box_and_the_runs_beside_it() -> None:
    """The kill for too much output often crosses init's report of the end: neither may get lost."""
    with Sandbox() as box, box.popen(["cat"], stdin=PIPE) as beside:
        for _ in range(50):
            result = box.run(["head", "-c", "2K", "/dev/zero"], max_output="1K", timeout=GENEROUS)
            assert (result.verdict, result.stdout) == (Verdict.OUTPUT_EXCEEDED, bytes(1024))
        assert beside.poll() is None
        beside.communicate(timeout=GENEROUS)
    assert beside.result.verdict is Verdict.OK


def test_each_row_has_a_name_of_its_own() -> None:
    assert len(ROWS) >= 48
    assert len({row.id for row in ROWS}) == len(ROWS)
    assert {row.verdict for row in ROWS} == set(Verdict)


def test_the_page_says_what_the_rows_say() -> None:
    assert PAGE.read_text() == render(), "write it anew: python tests/kernel/test_verdicts.py > docs/verdicts.md"


if __name__ == "__main__":
    sys.stdout.write(render())
