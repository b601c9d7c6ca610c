"""Runs while they go on: readings, other limits, a pause, pressure; and what is said of the host's load."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pysandbox
from pysandbox import (
    DEVNULL,
    PIPE,
    CgroupLimits,
    ConfigError,
    Sandbox,
    SandboxError,
    SetupError,
    Stats,
    UnsupportedError,
    Verdict,
    cgroups,
    cli,
)
from pysandbox.cgroups import v1

Fresh = Callable[..., "subprocess.CompletedProcess[str]"]

MIB = 1 << 20
PATIENCE = 10 if os.environ.get("VMTEST") else 1
SPIN = [sys.executable, "-S", "-E", "-c", "while True: pass"]
LIMITS = CgroupLimits(memory="256M", pids=64)

pytestmark = pytest.mark.cgroup


def test_stats_read_what_a_run_uses_now() -> None:
    code = "x = bytearray(40 << 20)\nprint('there', flush=True)\nwhile True: pass"
    with Sandbox(LIMITS) as box, box.popen([sys.executable, "-S", "-E", "-c", code], stdout=PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        first = box.stats()
        time.sleep(0.2)
        second = box.stats()
        assert first.memory is not None
        assert 40 * MIB < first.memory < 80 * MIB
        assert first.processes == 1
        assert first.cpu_time is not None
        assert second.cpu_time is not None
        assert second.cpu_time > first.cpu_time
        with box.popen(SPIN):
            assert box.stats().processes == 2


def test_stats_of_a_box_in_which_nothing_runs_are_nothing() -> None:
    with Sandbox(LIMITS) as box:
        stats = box.stats()
        assert (stats.processes, stats.memory, stats.cpu_time) == (0, 0, 0)
        box.run(["true"])
        assert box.stats().processes == 0
    with pytest.raises(SandboxError):
        box.stats()


def test_a_watch_gives_readings_until_the_run_has_ended() -> None:
    with (
        Sandbox(LIMITS) as box,
        box.popen([sys.executable, "-S", "-E", "-c", "import time; time.sleep(0.5)"]) as process,
    ):
        readings = list(box.watch(0.05))
        assert 2 <= len(readings) <= 12 * PATIENCE
        assert [reading.time for reading in readings] == sorted(reading.time for reading in readings)
        assert process.poll() == 0
        assert list(box.watch(0.05)) == []


def test_a_watch_looks_after_the_limits_of_the_runs() -> None:
    with Sandbox(LIMITS) as box, box.popen(SPIN, timeout=0.3) as process:
        for _ in box.watch(0.05):
            pass
        assert process.result.verdict is Verdict.WALL_TIME_EXCEEDED


def test_a_watch_can_be_iterated_by_a_task() -> None:
    async def count(box: Sandbox) -> int:
        return len([reading async for reading in box.watch(0.05)])

    with Sandbox(LIMITS) as box, box.popen(["sleep", "0.4"]):
        assert asyncio.run(count(box)) >= 2


def test_a_run_can_be_given_other_limits_while_it_goes_on() -> None:
    code = """
import sys
x = []
print("on", flush=True)
sys.stdin.readline()
for _ in range(100):
    x.append(bytearray(1 << 20))
"""
    for limits, verdict in ((CgroupLimits(memory="48M"), Verdict.MEMORY_EXCEEDED), (None, Verdict.OK)):
        with Sandbox(LIMITS) as box:
            words = [sys.executable, "-S", "-E", "-c", code]
            with box.popen(words, stdin=PIPE, stdout=PIPE, text=True) as process:
                assert process.stdout is not None
                process.stdout.readline()
                if limits is not None:
                    box.update(limits)
                process.communicate("go\n")
                assert process.result.verdict is verdict
            again = box.run([sys.executable, "-S", "-E", "-c", "x = bytearray(100 << 20)"])
            assert again.verdict is verdict, "runs to come have the new limits too"


def test_a_quota_can_be_set_and_lifted_while_a_run_goes_on() -> None:
    with Sandbox(LIMITS) as box, box.popen(SPIN) as process:
        box.update(CgroupLimits(cpus=0.1))
        begin = process.stats()
        time.sleep(0.5)
        slow = (process.stats().cpu_time or 0) - (begin.cpu_time or 0)
        assert slow < 0.3
        assert (process.stats().throttled or 0) > 0
        box.update(CgroupLimits(pids=64))
        begin = process.stats()
        time.sleep(0.5 * PATIENCE)
        assert (process.stats().cpu_time or 0) - (begin.cpu_time or 0) > slow


def test_a_paused_run_uses_no_cpu_time_and_no_clock_runs_against_it() -> None:
    with Sandbox(LIMITS) as box, box.popen(SPIN, timeout=1.0 * PATIENCE, cpu_time=60) as process:
        time.sleep(0.1)
        box.pause()
        before = process.stats().cpu_time
        for _ in range(3 * PATIENCE):
            time.sleep(0.5)
            assert process.poll() is None
        assert process.stats().cpu_time == before
        box.resume()
        process.wait(timeout=30 * PATIENCE)
        assert process.result.verdict is Verdict.WALL_TIME_EXCEEDED
        assert process.result.usage.wall_time < 1.4 * PATIENCE
        assert "paused" in process.result.evidence


def test_a_paused_run_can_be_killed() -> None:
    with Sandbox(LIMITS) as box, box.popen(["sh", "-c", "sleep 100 & sleep 100"]) as process:
        time.sleep(0.1)
        box.pause()
        process.kill()
        assert process.wait(timeout=20 * PATIENCE) == -9


def test_a_thread_that_waits_for_a_paused_run_sees_it_end_after_the_pause() -> None:
    with Sandbox(LIMITS) as box, box.popen(["sleep", "0.3"], timeout=20 * PATIENCE) as process:
        box.pause()
        waiter = threading.Thread(target=process.wait)
        waiter.start()
        time.sleep(0.5)
        assert waiter.is_alive()
        box.resume()
        waiter.join(20 * PATIENCE)
        assert not waiter.is_alive()
        assert process.result.verdict is Verdict.OK


def test_a_pause_without_a_cgroup_is_refused() -> None:
    with Sandbox(base=None) as box, box.popen(["sleep", "100"]):
        for action in (box.pause, box.resume, lambda: box.update(CgroupLimits(pids=5))):
            with pytest.raises(UnsupportedError):
                action()
    with Sandbox(LIMITS) as box:
        with pytest.raises(ConfigError):
            box.update("64M")  # type: ignore[arg-type]
        with pytest.raises(ConfigError):
            box.watch(-1)


def test_memory_running_short_is_told(tmp_path: Path) -> None:
    seen: list[Stats] = []
    code = """
for _ in range(4):
    with open("/disk/file", "wb") as file:
        for _ in range(80):
            file.write(bytes(1 << 20))
x = [bytearray(1 << 20) for _ in range(60)]
"""
    device = os.stat(tmp_path).st_dev
    if not os.path.exists(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"):
        pytest.skip("needs a temporary folder on a block device, so that the page cache is what runs short")
    tmp_path.chmod(0o777)
    jail = pysandbox.ChrootJail(binds=(pysandbox.Bind(os.path.realpath(tmp_path), "/disk", writable=True),))
    words = [sys.executable, "-S", "-E", "-c", code]
    pysandbox.run(words, jail, CgroupLimits(memory="40M"), on_pressure=seen.append, timeout=30 * PATIENCE)
    assert seen
    assert all(isinstance(stats, Stats) for stats in seen)


def test_samples_are_kept_when_asked_for() -> None:
    with Sandbox(LIMITS) as box:
        result = box.run([*SPIN], timeout=0.5, sample_interval=0.05)
        assert 3 <= len(result.samples) <= 12
        assert box.run(["true"]).samples == ()


@pytest.mark.cpuset
def test_a_run_that_has_to_share_its_cpu_is_starved_and_says_so() -> None:
    limits = CgroupLimits(cpuset=(0,))
    work = [sys.executable, "-S", "-E", "-c", "import time\nwhile time.process_time() < 0.3: pass"]
    with Sandbox() as box:
        with box.popen(SPIN, limits=limits), box.popen(SPIN, limits=limits):
            busy = box.run(work, limits=limits, timeout=60 * PATIENCE)
        assert busy.starved is not None
        assert 0.3 < busy.starved <= 1
        assert "starved" in busy.evidence
        free = box.run(["sleep", "0.3"], limits=limits)
        assert free.starved is not None
        assert free.starved < busy.starved


def test_every_figure_names_its_counter() -> None:
    result = pysandbox.run(["true"], CgroupLimits(memory="64M", pids=10))
    usage = result.usage
    figures = {name for name in usage.__dataclass_fields__ if getattr(usage, name) is not None} - {"setup_time"}
    assert figures <= set(result.evidence)
    assert usage.voluntary_switches is not None


def test_limits_that_come_late_leave_the_figures_whole() -> None:
    code = "import time\nwhile time.process_time() < 0.6: pass"
    with Sandbox() as box, box.popen([sys.executable, "-S", "-E", "-c", code]) as process:
        time.sleep(0.3)
        box.update(CgroupLimits(pids=16))
        process.wait()
    assert process.result.usage.cpu_time is not None
    assert process.result.usage.cpu_time >= 0.6


def test_a_refused_update_leaves_the_limits_before_in_force_and_is_refused_again() -> None:
    code = "x = bytearray(100 << 20)\nprint(flush=True)\ninput()"
    words = [sys.executable, "-S", "-E", "-c", code]
    with Sandbox(CgroupLimits(memory="256M")) as box, box.popen(words, stdin=PIPE, stdout=PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        if not isinstance(cgroups.own_group(), v1.Group):
            return  # v2 takes any value, and kills
        for _ in range(2):
            with pytest.raises(SetupError, match="memory"):
                box.update(CgroupLimits(memory="20M"))
        process.communicate(b"\n")
    assert process.result.verdict is Verdict.OK
    assert process.result.limits["memory"] == 256 << 20


DRAWN = """
import sys, pysandbox
from pysandbox import CgroupLimits, ConfigError, cli
folder = sys.argv[1]
code = "x = []\\nfor _ in range(30): x.append(bytearray(1 << 20))\\nwhile True: pass"
words = [sys.executable, "-S", "-E", "-c", code]
limits = CgroupLimits(memory="256M", pids=64)
result = pysandbox.run(words, limits, cpu_time=0.3, timeout=200, sample_interval=0.03)
result.plot(folder + "/run.svg")
print(sorted(result.limits.items()))
for refused in (lambda: pysandbox.run(["true"], limits).plot(folder + "/x.svg"), lambda: result.plot(folder + "/run.docx")):
    try:
        refused()
    except ConfigError as error:
        print("ConfigError")
print(cli.main(["run", "--plot", folder + "/out.svg", "--memory", "64M", "--", "sleep", "0.3"]))
"""


def test_a_run_can_be_drawn_with_its_limits(in_fresh_python: Fresh, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")  # in an interpreter of its own, as it keeps its fonts open
    done = in_fresh_python(DRAWN, str(tmp_path))
    limits = [("cpu_time", 0.3), ("memory", 256 * MIB), ("pids", 64), ("swap", 0), ("wall_time", 200.0)]
    assert done.stdout.splitlines() == [str(limits), "ConfigError", "ConfigError", "0"], done.stderr
    for name in ("run.svg", "out.svg"):
        assert "<svg" in (tmp_path / name).read_text()


def test_a_picture_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = pysandbox.run(["sleep", "0.2"], LIMITS, sample_interval=0.05)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UnsupportedError, match=r"pysandbox\[plot\]"):
        result.plot(tmp_path / "run.svg")


LEAVES_A_LEAF = """
import os, signal, sys, pysandbox
parent = sys.argv[2] if len(sys.argv) > 2 else None
box = pysandbox.Sandbox(pysandbox.CgroupLimits(memory="64M", pids=9, parent=parent)).__enter__()
process = box.popen(["sleep", "100"], stdout=pysandbox.DEVNULL, stderr=pysandbox.DEVNULL)
if sys.argv[1] == "paused":
    box.pause()
print(os.getpid(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("state", ["running", "paused"])
def test_what_a_killed_application_left_is_swept_by_hand_and_the_livings_is_not(
    in_fresh_python: Callable[..., subprocess.CompletedProcess[str]], state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    group = cgroups.own_group()
    assert group is not None
    with Sandbox(LIMITS) as box, box.popen(["sleep", "100"]) as mine:
        pid = in_fresh_python(LEAVES_A_LEAF, state).stdout.strip()

        def left() -> list[str]:
            return [name for folder in group.folders() for name in os.listdir(folder) if f"-{pid}-" in name]

        deadline = time.monotonic() + 20 * PATIENCE
        while left() and time.monotonic() < deadline:
            assert cli.main(["doctor", "--clean"]) == 0
            time.sleep(0.05)
        assert not left()
        assert mine.poll() is None
        assert box.stats().processes == 1
    assert f"-{pid}-" in capsys.readouterr().out
    assert cli.main(["doctor", "--clean"]) == 0


def test_what_was_left_below_a_named_parent_is_swept_by_hand_too(in_fresh_python: Fresh) -> None:
    group = cgroups.own_group()
    assert group is not None
    name = f"swept-{os.getpid()}"
    parents = [f"{folder}/{name}" for folder in group.folders()]
    if isinstance(group, v1.Group):  # one path in all hierarchies
        parents = [f"{point}/{name}" for controller, point in group._points.items() if controller in group._hierarchies]
    for parent in parents:
        os.mkdir(parent)
    try:
        done = in_fresh_python(LEAVES_A_LEAF, "running", parents[0])

        def left() -> list[str]:
            return [name for parent in parents for name in os.listdir(parent) if name.startswith("pysandbox-")]

        assert left(), done.stderr
        deadline = time.monotonic() + 20 * PATIENCE
        while left() and time.monotonic() < deadline:
            assert cli.main(["doctor", "--clean", "--parent", parents[0]]) == 0
            time.sleep(0.05)
        assert not left()
    finally:
        for parent in parents:
            cgroups.base.remove_directory(parent)


FORKS = """
import os, time
made = 0
try:
    for _ in range(400):
        if os.fork() == 0:
            time.sleep(60)
        made += 1
except OSError:
    pass
print(made)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("pids", "made"), [(20, 19), (350, 349)])
def test_a_bound_on_processes_that_is_asked_for_takes_the_place_of_the_defaults(pids: int, made: int) -> None:
    forks = [sys.executable, "-S", "-E", "-c", FORKS]
    with Sandbox() as box:
        one = box.run(forks, limits=CgroupLimits(pids=pids))
        box.update(CgroupLimits(pids=pids))
        other = box.run(forks)
        plain = box.run(["sh", "-c", "ulimit -p"], limits=CgroupLimits(memory="64M"))
    assert (one.stdout, other.stdout) == (b"%d\n" % made,) * 2
    assert one.limits_hit == other.limits_hit == {"pids"}
    assert plain.returncode == 0


def test_an_rlimit_of_a_run_that_goes_on_is_not_called_a_higher_bound() -> None:
    with Sandbox() as box, box.popen(["sleep", "60"]):
        if box.enforcement["CgroupLimits"].mechanism.endswith("refusals not counted"):
            with pytest.raises(UnsupportedError, match="RLIMIT_NPROC"):
                box.update(CgroupLimits(pids=350))
        box.update(CgroupLimits(pids=50))


def test_an_update_of_the_memory_alone_leaves_the_defaults_bound_on_processes() -> None:
    with Sandbox() as box, box.popen(["sleep", "60"]) as process:
        box.update(CgroupLimits(memory="64M"))
        assert process._held.limits["memory"] == 64 << 20


def test_an_update_that_one_run_refuses_changes_none() -> None:
    if not isinstance(cgroups.own_group(), v1.Group):
        return  # v2 takes any value, and kills
    hold = "x = bytearray(b'x') * (%d << 20)\nprint(flush=True)\ninput()\ny = bytearray(b'x') * (150 << 20)"
    with Sandbox(CgroupLimits(memory="400M")) as box:
        runs = [
            box.popen([sys.executable, "-S", "-E", "-c", hold % size], stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
            for size in (1, 200, 1)
        ]
        for run in runs:
            assert run.stdout is not None
            run.stdout.readline()
        with pytest.raises(SetupError):
            box.update(CgroupLimits(memory="100M"))
        for run in runs:
            run.communicate(b"\n")
    assert [run.result.verdict for run in runs] == [Verdict.OK] * 3
    assert [run.result.limits["memory"] for run in runs] == [400 << 20] * 3


def test_a_pause_after_the_end_takes_nothing_off_the_wall_time() -> None:
    with Sandbox() as box, box.popen(["sleep", "0.4"], timeout=0.2) as process:
        time.sleep(1 * PATIENCE)
        box.pause()
        time.sleep(0.3)
        box.resume()
        process.wait()
    assert process.result.verdict is Verdict.WALL_TIME_EXCEEDED
    assert process.result.usage.wall_time >= 0.4
