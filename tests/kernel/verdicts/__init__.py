"""The behaviours of programs and the verdict of each: the data of test_verdicts.py and of docs/verdicts.md."""

from . import calls, memory, processes, time_and_output
from .rows import Row

HEADINGS: list[tuple[str, list[Row]]] = [
    ("Memory", memory.ROWS),
    ("Signals that are no limit", processes.SIGNALS),
    ("CPU time", time_and_output.CPU_TIME),
    ("Wall time", time_and_output.WALL_TIME),
    ("Output", time_and_output.OUTPUTS),
    ("Processes", processes.PROCESSES),
    ("Ordinary and odd ends", processes.ENDS),
    ("System calls", calls.CALLS),
    ("The caller's doing", processes.BY_THE_CALLER),
]
ROWS = [row for _, rows in HEADINGS for row in rows]
