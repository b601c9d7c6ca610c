"""What callers do to a running program."""

from __future__ import annotations

import signal
import time

from pysandbox import Popen

from .rows import GENEROUS


def up(process: Popen[bytes]) -> None:
    """Wait until the program says that it is there."""
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"


def kill(process: Popen[bytes]) -> None:
    up(process)
    process.kill()
    process.wait(GENEROUS)


def terminate(process: Popen[bytes]) -> None:
    up(process)
    process.terminate()
    process.wait(GENEROUS)


def terminate_and_kill(process: Popen[bytes]) -> None:
    up(process)
    process.terminate()
    process.kill()  # at once: it may come when the first has ended the program
    process.wait(GENEROUS)


def send_sigkill(process: Popen[bytes]) -> None:
    up(process)
    process.send_signal(signal.SIGKILL)
    process.wait(GENEROUS)


def send_sigusr1(process: Popen[bytes]) -> None:
    up(process)
    process.send_signal(signal.SIGUSR1)
    process.wait(GENEROUS)


def kill_what_has_ended(process: Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.read() == b"up\n"  # to its end: the program has closed it by ending
    time.sleep(0.3)  # init has told by now; were it later still, the row would be wrong for the machine's sake
    process.kill()
    process.wait(GENEROUS)


def close_stdout(process: Popen[bytes]) -> None:
    up(process)
    assert process.stdout is not None
    process.stdout.close()
    process.wait(GENEROUS)


def wait(process: Popen[bytes]) -> None:
    process.wait(GENEROUS)
