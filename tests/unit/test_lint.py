from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src"


def _lint(needs: list[str], words: list[str]) -> None:
    """Run a tool on the checkout, leaving nothing in it; its report is the failure."""
    if not ((ROOT / "pyproject.toml").is_file() and (ROOT / "src" / "pysandbox" / "__init__.py").is_file()):
        pytest.skip(f"no checkout at {ROOT}")
    for name in needs:
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed for {sys.executable}")
    done = subprocess.run(
        words,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},  # not the installed package
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_ruff_finds_nothing() -> None:
    _lint(["ruff"], [sys.executable, "-m", "ruff", "check", "--no-cache", "."])


def test_ruff_would_format_nothing_otherwise() -> None:
    _lint(["ruff"], [sys.executable, "-m", "ruff", "format", "--no-cache", "--check", "."])


def test_mypy_finds_nothing(tmp_path: Path) -> None:
    _lint(["mypy", "types-cffi", "types-psutil"], [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path)])


def test_imports_point_one_way() -> None:
    _lint(["import-linter"], [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"])
