"""Every example in README and docs runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PAGES = [path for path in [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))] if path.is_file()]


def blocks(language: str) -> list[object]:
    """The fenced blocks of a language, each with a name to show."""
    found = []
    for page in PAGES:
        for number, text in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL), 1):
            found.append(pytest.param(text, id=f"{page.stem}-{number}"))
    return found


@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_run(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "example", "exec"), {"__name__": "example"})


@pytest.mark.parametrize("command", [p for p in blocks("sh") if "pysandbox " in str(p)])
def test_commands_run(command: str) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}"
    done = subprocess.run(
        ["sh", "-ec", command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_pages_have_examples() -> None:
    assert len(blocks("python")) >= 4
