"""Fixtures of the tests that start boxes."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder of the host that anybody may write to, with a file in it."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "known").write_text("of the host\n")
    (folder / "known").chmod(0o666)
    return folder
