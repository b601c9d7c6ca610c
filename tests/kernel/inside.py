"""What a payload says about itself, asked from inside its box."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pysandbox
from pysandbox import (
    Layer,
)

PRELUDE = """
import errno, json, os, sys
def error_of(action, *args):
    try:
        action(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "allowed"
def write(path, data="x"):
    with open(path, "w") as file:
        file.write(data)
def mounts():
    lines = [line.split() for line in open("/proc/self/mountinfo")]
    return {fields[4]: fields[5].split(",") for fields in lines}
"""


def answer(code: str, *layers: Layer, **options: Any) -> Any:
    """What the code leaves in `answer` when it is run in a box."""
    program = PRELUDE + textwrap.dedent(code) + "\nprint(json.dumps(answer))"
    options.setdefault("timeout", 20)
    result = pysandbox.run([sys.executable, "-S", "-c", program], *layers, **options)
    assert result.stdout is not None
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def processes(marker: str) -> Iterator[int]:
    """The pids, outside, of the processes with a word in their command line."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if marker.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                    yield int(name)


def status(*layers: Layer, **options: Any) -> dict[str, str]:
    """/proc/self/status of a payload that changes nothing itself."""
    result = pysandbox.run(["cat", "/proc/self/status"], *layers, text=True, timeout=20, **options)
    assert result.stdout is not None
    return {name: value.strip() for name, _, value in (line.partition(":") for line in result.stdout.splitlines())}


def prefixes() -> set[str]:
    """The folders of the running Python, by every name they have."""
    given = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, os.path.dirname(sys.executable)}
    return given | {os.path.realpath(path) for path in given}
