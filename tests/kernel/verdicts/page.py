"""The text of docs/verdicts.md, made from the rows."""

from __future__ import annotations

import dataclasses
from typing import Any

from pysandbox import PIPE

from . import HEADINGS
from .rows import GENEROUS, MEGABYTES, Row


def _value(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1024 and value % 1024 == 0:
        return f"{value >> 20}M" if value % MEGABYTES == 0 else f"{value >> 10}K"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return "PIPE" if value == PIPE else f"{value}"


def _layer(layer: Any) -> str:
    """A layer by what differs from its defaults."""
    own = [field for field in dataclasses.fields(layer) if getattr(layer, field.name) != field.default]
    return f"{type(layer).__name__}({', '.join(f'{f.name}={_value(getattr(layer, f.name))}' for f in own)})"


def _under(row: Row) -> str:
    """What the row is run with."""
    words = [_layer(layer) for layer in row.layers]
    words += [f"{name}={_value(value)}" for name, value in row.options.items() if value != PIPE]
    words += ["degrade=True"] * row.degrade
    words += [] if row.file is None else ["a file on a disk as stdin"]
    return ", ".join([f"`{word}`" if "=" in word else word for word in words] + [row.caller_does] * bool(row.caller))


def _code(words: Any) -> str:
    return ", ".join(f"`{word}`" for word in sorted(words))


def _line(row: Row) -> str:
    causes = [row.evidence] if isinstance(row.evidence, str) else list(row.evidence)
    evidence = " or ".join(f"`{cause}`" for cause in causes)
    extra = [*row.besides, *(["pids_refused"] if "pids" in row.hit else []), *(["left_behind"] * bool(row.left_behind))]
    evidence += "".join(f", `{key}`" for key in extra)
    code = "" if row.returncode is None else str(row.returncode)
    cells = [f"`{row.id}`", row.does, _under(row), f"`{row.verdict.name}`", _code(row.hit), code, evidence]
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def render() -> str:
    """docs/verdicts.md."""
    lines = [
        "# Verdicts",
        "",
        "What a run of a program that behaves so gets: its verdict, the limits that it hit, its return code (exit status or minus",
        "the signal; left out where hosts differ) and the keys of the evidence. Each row is a test; this page is written by",
        "`python tests/kernel/test_verdicts.py > docs/verdicts.md`, and a test compares the two.",
        "",
        f"Unless something else is said: `timeout={GENEROUS:.0f}`, the default layers. A program that exits with any status from 1 to",
        "255 is `NONZERO_EXIT`, whatever the status says to shells.",
    ]
    for heading, rows in HEADINGS:
        lines += ["", f"## {heading}", "", "| row | the program | run with | verdict | limits hit | code | evidence |"]
        lines += ["|---|---|---|---|---|---|---|", *map(_line, rows)]
    return "\n".join(lines) + "\n"
