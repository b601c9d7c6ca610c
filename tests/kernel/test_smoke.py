"""A box can be had at all: what is looked at first when everything fails."""

from __future__ import annotations

import pysandbox
from pysandbox import Sandbox, Verdict


def test_one_shot_run_captures_output() -> None:
    result = pysandbox.run(["sh", "-c", "echo out; echo err >&2"], timeout=20)
    assert result.verdict is Verdict.OK
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")


def test_runs_of_one_box_share_files(box: Sandbox) -> None:
    box.run(["sh", "-c", "echo 1 > file"]).check_returncode()
    assert box.run(["cat", "file"]).stdout == b"1\n"
