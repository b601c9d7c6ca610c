"""The main job: the judge gives each of its submissions the verdict that it should get."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

JUDGE = Path(__file__).parents[2] / "examples" / "judge" / "judge.py"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_submission_gets_the_verdict_it_should() -> None:
    missing = [name for name in ("gcc", "g++", "perl", "python3") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    done = subprocess.run(
        [sys.executable, str(JUDGE), "--json", "--jobs", "1"], capture_output=True, text=True, check=False, timeout=390
    )
    rows = json.loads(done.stdout)
    wrong = [row for row in rows if row["verdict"] != row["submission"]["expected"]]
    assert not wrong
    assert len(rows) >= 30
    assert done.returncode == 0
