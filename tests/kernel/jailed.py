"""A jail as it is from inside, and folders of the host to show in it."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from typing import Any

import pysandbox
from pysandbox import Layer

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


def prefixes() -> set[str]:
    """The folders of the running Python, by every name they have."""
    given = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, os.path.dirname(sys.executable)}
    return given | {os.path.realpath(path) for path in given}
