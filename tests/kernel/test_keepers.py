"""Runs side by side in one box, one of them hostile to what looks after the others."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

import pysandbox
from pysandbox import PIPE, CommandNotFoundError, Namespaces, Sandbox, SandboxError, SetupError, Verdict, features
from pysandbox.box import Box, Reply, StartedRun

#: with which the payload has the same id as init and the keepers, as always where the caller is an ordinary user
SAME_ID = (Namespaces(uid=0, gid=0),) if features.is_privileged() else ()

KILL_THE_PARENT = "import os, time; os.kill(os.getppid(), 9); time.sleep(100)"

pytestmark = pytest.mark.usefixtures("without_seccomp")

STOP_EVERYBODY = """
import os, signal, sys
print("on", flush=True)
while True:
    try:
        os.kill(-1, signal.SIGSTOP)
    except ProcessLookupError:
        pass
"""


def test_a_keeper_that_is_killed_before_it_can_say_that_its_program_runs_is_no_failed_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Sandbox(*SAME_ID) as box, box.popen(["sleep", "100"]) as other:
        receive = Box._receive_start

        def cut_off(self: Box, run: StartedRun, patience: float) -> Reply:
            """As if the keeper had died first: nothing has come, and nothing will."""
            run.socket.shutdown(socket.SHUT_RDWR)
            while run.socket.recv(1024):
                pass
            return receive(self, run, patience)

        monkeypatch.setattr(Box, "_receive_start", cut_off)
        result = box.run(["sleep", "100"], timeout=20)
        assert (result.verdict, result.returncode) == (Verdict.SIGNALED, -9)
        assert other.wait(20) == -9


def test_a_run_that_kills_its_keeper_takes_the_box_along() -> None:
    with Sandbox(*SAME_ID) as box:
        with box.popen(["sleep", "100"]) as other:
            result = box.run([sys.executable, "-S", "-c", KILL_THE_PARENT], timeout=20)
            assert (result.verdict, result.returncode) == (Verdict.SIGNALED, -9)
            assert "keeper" in str(result.evidence["box"])
            assert other.wait(timeout=20) == -9
        with pytest.raises(SandboxError, match="ended"):
            box.run(["true"])
        box.reset()
        assert box.run(["true"]).verdict is Verdict.OK


@pytest.mark.root  # an ordinary user's box has one id
def test_a_keeper_of_another_id_cannot_be_killed() -> None:
    with Sandbox() as box, box.popen(["sleep", "100"]) as other:
        result = box.run([sys.executable, "-S", "-c", KILL_THE_PARENT], timeout=20)
        assert b"PermissionError" in (result.stderr or b"")
        assert other.poll() is None


@pytest.mark.slow
def test_a_run_that_stops_whoever_it_can_holds_up_the_next_for_a_bounded_time() -> None:
    with Sandbox(*SAME_ID) as box:
        with box.popen([sys.executable, "-S", "-c", STOP_EVERYBODY], stdout=PIPE) as hostile:
            assert hostile.stdout is not None
            hostile.stdout.readline()
            begin = time.monotonic()
            # One that starts between two of its blows is stopped later, and its timeout hits; if its keeper is stopped
            # too, the box ends with it.
            with pytest.raises(SandboxError) as caught:
                for _ in range(100):
                    box.run(["true"], timeout=1)
        assert time.monotonic() - begin < 100
        if isinstance(caught.value, SetupError):
            assert (caught.value.errno, caught.value.step) == (errno.ETIMEDOUT, "start")
            assert "SIGSTOP" in (caught.value.hint or "")
        else:
            assert "the box has ended" in str(caught.value)
        box.reset()
        assert box.run(["true"]).verdict is Verdict.OK


def test_a_program_that_is_missing_is_that_also_beside_another_run(box: Sandbox) -> None:
    with box.popen(["sleep", "100"]) as other:
        with pytest.raises(CommandNotFoundError):
            box.run(["no-such-program"])
        assert other.poll() is None
        assert box.run(["true"]).verdict is Verdict.OK


def test_a_run_has_what_init_needs_of_capabilities_and_no_more() -> None:
    with Sandbox() as box:
        assert box._box is not None
        with open(f"/proc/{box._box.pid}/status", encoding="ascii") as file:
            fields = dict(line.split(":\t") for line in file.read().splitlines() if line.startswith("Cap"))
        wanted = box._box.blueprint.init_capabilities
        assert int(fields["CapPrm"], 16) == int(fields["CapEff"], 16) == wanted
        assert int(fields["CapBnd"], 16) == 0


def test_a_cpu_limit_that_no_cgroup_counts_is_named() -> None:
    result = pysandbox.run(["true"], cpu_time=5, base=None)
    assert result.enforcement["cpu_time"].level is pysandbox.Level.PARTIAL
    counted = pysandbox.run(["true"], cpu_time=5)
    assert ("cpu_time" in counted.enforcement) == (
        counted.enforcement["CgroupLimits"].level is not pysandbox.Level.FULL
    )


def test_what_another_run_uses_beside_it_is_not_a_runs_own(
    in_fresh_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """Where no cgroup counts: not a run that comes and goes between two looks, nor an orphan that lives on."""
    code = """
import sys, pysandbox
from pysandbox import Sandbox, Namespaces, ChrootJail
burn = [sys.executable, "-S", "-c", "import time\\nwhile time.process_time() < 0.5: pass"]
with Sandbox(Namespaces(), ChrootJail(), base=None) as box:
    with box.popen(["sleep", "1.5"], cpu_time=0.3) as sleeper:
        box.run(burn)
        sleeper.wait()
    print(sleeper.result.verdict.name, sleeper.result.usage.cpu_time < 0.2)
    with box.popen(["sh", "-c", "(sh -c 'while :; do :; done' &); sleep 30"]) as noisy:
        quiet = box.run(["sleep", "1.5"], cpu_time=0.4)
    print(quiet.verdict.name, quiet.usage.cpu_time < 0.2)
"""
    done = in_fresh_python(code)
    assert done.stdout.split() == ["OK", "True", "OK", "True"], done.stdout + done.stderr
