"""A whole Debian as the root of a box: an archive that mmdebstrap has made, as .ci/run does."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

from pysandbox import ChrootJail, Namespaces, Sandbox, images

ARCHIVE = os.environ.get("PYSANDBOX_TEST_DEBIAN", "")
PROGRAM = """
#include <stdio.h>
int main(void) { puts("compiled inside"); return 0; }
"""


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVE, reason="needs PYSANDBOX_TEST_DEBIAN, the path of an archive that mmdebstrap has made")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["an image", "an image through an overlay", "a folder", "a folder through an overlay"])
def test_debian_runs_its_shell_and_its_compiler(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    overlay = "overlay" in kind
    if "image" in kind:
        jail = ChrootJail(image=ARCHIVE, overlay=overlay)
    else:
        jail = ChrootJail(images.load(ARCHIVE).root, overlay=overlay)
    with Sandbox(jail, Namespaces()) as box:
        listed = box.run(["sh", "-c", "cat /etc/os-release; ls /"], text=True, timeout=60)
        assert "Debian GNU/Linux" in (listed.stdout or ""), listed.stderr
        assert {"bin", "etc", "usr", "var"} <= set((listed.stdout or "").split())
        box.write_file("main.c", textwrap.dedent(PROGRAM))
        compiled = box.run(["sh", "-c", "gcc -O1 main.c -o main && ./main"], text=True, timeout=120)
        assert compiled.stdout == "compiled inside\n", compiled.stderr
        written = box.run(["sh", "-c", "echo x > /etc/new"], text=True, timeout=60)
        assert written.returncode == (0 if overlay else 2)
