"""What a run returns: output, verdicts and their evidence, and that nothing of its tree survives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import pysandbox
from pysandbox import DEVNULL, PIPE, STDOUT, CgroupLimits, Environment, ProcessError, Rlimits, Sandbox, Verdict


def test_the_result_has_all_that_completed_process_has(box: Sandbox) -> None:
    result = box.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    done = subprocess.CompletedProcess(result.args, result.returncode, result.stdout, result.stderr)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    assert result.verdict is Verdict.NONZERO_EXIT
    assert not result
    with pytest.raises(ProcessError) as caught:
        result.check_returncode()
    assert caught.value.result is result


@pytest.mark.parametrize("status", [0, 1, 2, 126, 127, 128, 137, 255])
def test_exit_statuses_are_the_programs_own(box: Sandbox, status: int) -> None:
    result = box.run(["sh", "-c", f"exit {status}"])
    assert result.returncode == status
    assert result.verdict is (Verdict.OK if status == 0 else Verdict.NONZERO_EXIT)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGSEGV", "SIGABRT", "SIGFPE", "SIGUSR1", "SIGRTMIN"])
def test_a_signal_that_a_program_sends_itself_is_no_limit(box: Sandbox, name: str) -> None:
    number = getattr(signal, name)
    result = box.run([sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(number)})"], timeout=20)
    assert (result.verdict, result.returncode, result.signal) == (Verdict.SIGNALED, -number, number)
    assert not result.limits_hit
    assert "signal" in result.evidence


def test_memory_timeout_and_self_kill_are_three_verdicts_each_with_evidence() -> None:
    hog = "x = []\nwhile True: x.append(bytearray(1 << 20))"
    with Sandbox(CgroupLimits(memory="64M"), degrade=True) as box:
        memory = box.run([sys.executable, "-c", hog], timeout=60)
        timeout = box.run(["sleep", "100"], timeout=0.2)
        itself = box.run(["sh", "-c", "kill -9 $$"])
    assert [memory.returncode, timeout.returncode, itself.returncode] == [-9, -9, -9]
    assert memory.verdict is Verdict.MEMORY_EXCEEDED
    assert "oom_kills" in memory.evidence or "ledger" in memory.evidence
    assert timeout.verdict is Verdict.WALL_TIME_EXCEEDED
    assert "WALL_TIME_EXCEEDED" in str(timeout.evidence["ledger"])
    assert itself.verdict is Verdict.SIGNALED
    assert "ledger" not in itself.evidence
    assert (memory.limits_hit, timeout.limits_hit, itself.limits_hit) == ({"memory"}, {"wall_time"}, set())


def test_the_wall_limit_ends_a_sleeper_and_the_whole_tree(box: Sandbox) -> None:
    script = "(setsid sh -c 'trap : TERM; while :; do sleep 1; done' &) ; echo up; exec sleep 100"
    result = box.run(["sh", "-c", script], timeout=0.3)
    assert result.verdict is Verdict.WALL_TIME_EXCEEDED
    assert result.stdout == b"up\n"
    assert box.run(["sh", "-c", "ls -d /proc/[0-9]*"]).stdout.count(b"\n") <= 3  # init, sh, ls


def test_a_program_may_end_by_itself_within_the_grace_period(box: Sandbox) -> None:
    script = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done"
    result = box.run(["sh", "-c", script], timeout=0.2, grace=10)
    assert (result.verdict, result.returncode, result.stdout) == (Verdict.WALL_TIME_EXCEEDED, 7, b"up\nbye\n")


def test_a_program_that_ignores_term_is_killed_after_the_grace_period(box: Sandbox) -> None:
    begin = time.monotonic()
    result = box.run(["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"], timeout=0.2, grace=0.3)
    assert (result.verdict, result.returncode) == (Verdict.WALL_TIME_EXCEEDED, -9)
    assert time.monotonic() - begin >= 0.5


def test_the_cpu_limit_counts_all_processes(box: Sandbox) -> None:
    script = "for i in 1 2 3; do (while :; do :; done) & done; wait"
    result = box.run(["sh", "-c", script], cpu_time=0.4, timeout=60)
    assert result.verdict is Verdict.CPU_TIME_EXCEEDED
    assert result.usage.cpu_time is not None
    assert result.usage.cpu_time >= 0.4
    assert "cpu_time" in result.limits_hit


def test_a_sleeper_uses_no_cpu_time(box: Sandbox) -> None:
    result = box.run(["sleep", "0.5"], cpu_time=0.3, timeout=60)
    assert result.verdict is Verdict.OK
    assert result.usage.wall_time >= 0.5


def test_output_past_the_bound_ends_the_run(box: Sandbox) -> None:
    result = box.run(["sh", "-c", "echo first >&2; yes"], max_output="64K", timeout=60)
    assert result.verdict is Verdict.OUTPUT_EXCEEDED
    assert result.stdout == b"y\n" * (1 << 15)
    assert result.stderr == b"first\n"
    assert result.truncated
    assert result.limits_hit == {"output"}


def test_output_of_exactly_the_bound_is_no_excess(box: Sandbox) -> None:
    result = box.run(["head", "-c", "65536", "/dev/zero"], max_output=65536)
    assert result
    assert not result.truncated
    assert len(result.stdout or b"") == 65536


def test_output_can_be_dropped_instead(box: Sandbox) -> None:
    result = box.run(["sh", "-c", "head -c 1000000 /dev/zero; exit 5"], max_output=1000, truncate_output=True)
    assert (result.verdict, result.returncode, result.truncated) == (Verdict.NONZERO_EXIT, 5, True)
    assert result.stdout == b"\0" * 1000
    assert result.limits_hit == {"output"}


def test_a_file_past_rlimit_fsize_is_output_exceeded() -> None:
    result = pysandbox.run(["sh", "-c", "exec head -c 100000 /dev/zero > file"], Rlimits(fsize=4096))
    assert (result.verdict, result.returncode) == (Verdict.OUTPUT_EXCEEDED, -signal.SIGXFSZ)
    assert result.limits_hit == {"file_size"}


def test_processes_past_the_limit_are_refused_and_the_bomb_is_gone_afterwards() -> None:
    bomb = """
import os, time
count = 0
while True:
    try:
        if os.fork() == 0:
            time.sleep(100)
    except OSError:
        break
    count += 1
print(count)
"""
    with Sandbox(CgroupLimits(pids=20), degrade=True) as box:
        result = box.run([sys.executable, "-c", bomb], timeout=60)
        assert result.verdict is Verdict.OK
        assert 15 <= int(result.stdout or 0) <= 20
        assert "left_behind" in result.evidence
        assert box.run(["sh", "-c", "ls -d /proc/[0-9]*"]).stdout.count(b"\n") <= 3


@pytest.mark.cgroup
def test_refused_forks_show_in_limits_hit() -> None:
    result = pysandbox.run(["sh", "-c", "sleep 1 & sleep 1 & sleep 1 & wait"], CgroupLimits(pids=2), timeout=20)
    assert "pids" in result.limits_hit


def test_a_forking_bomb_that_never_stops_is_ended_by_the_timeout() -> None:
    bomb = ":(){ :|:& };:; sleep 100"
    with Sandbox(CgroupLimits(pids=50, memory="256M"), degrade=True) as box:
        result = box.run(["bash", "-c", bomb], timeout=1)
        assert result.verdict is Verdict.WALL_TIME_EXCEEDED
        assert box.run(["sh", "-c", "ls -d /proc/[0-9]*"]).stdout.count(b"\n") <= 3


def test_a_daemon_does_not_delay_the_end_nor_survive(box: Sandbox) -> None:
    begin = time.monotonic()
    result = box.run(["sh", "-c", "(setsid sh -c 'sleep 100; echo late' &) ; echo done"], timeout=60)
    assert (result.verdict, result.stdout) == (Verdict.OK, b"done\n")
    assert time.monotonic() - begin < 30
    assert "left_behind" in result.evidence


def test_a_program_that_kills_all_it_can_harms_itself_only(box: Sandbox) -> None:
    code = "import os, signal\ntry: os.kill(-1, 9)\nexcept ProcessLookupError: pass\nprint('alive')"
    assert box.run([sys.executable, "-c", code], timeout=20).stdout == b"alive\n"
    assert box.run(["/bin/true"])


def test_overlapping_runs_are_trees_of_their_own(box: Sandbox) -> None:
    script = "(setsid sleep 100 &); echo up; sleep {}; (setsid sleep 100 &); echo end"
    results: dict[str, pysandbox.Result[bytes]] = {}

    def work(length: str) -> None:
        results[length] = box.run(["sh", "-c", script.format(length)], timeout=60)

    threads = [threading.Thread(target=work, args=(length,)) for length in ("0.1", "0.2", "0.3", "0.4", "0.5")]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert {result.stdout for result in results.values()} == {b"up\nend\n"}
    assert all("2 processes" in str(result.evidence["left_behind"]) for result in results.values())
    assert box.run(["sh", "-c", "ls -d /proc/[0-9]*"]).stdout.count(b"\n") <= 3


def test_one_runs_kill_spares_the_others(box: Sandbox) -> None:
    with box.popen(["sh", "-c", "sleep 0.6; echo spared"], stdout=PIPE) as spared:
        for _ in range(3):
            assert box.run(["sh", "-c", "sleep 100 & sleep 100"], timeout=0.1).verdict is Verdict.WALL_TIME_EXCEEDED
        assert spared.communicate(timeout=20)[0] == b"spared\n"


def test_input_is_fed_and_both_streams_are_read_without_deadlock(box: Sandbox) -> None:
    data = os.urandom(1 << 20)
    result = box.run(["tee", "/dev/stderr"], input=data, timeout=60)
    assert (result.stdout, result.stderr) == (data, data)


def test_stdin_is_empty_unless_given(box: Sandbox) -> None:
    assert box.run(["cat"], timeout=20).stdout == b""


def test_streams_go_where_they_are_told(box: Sandbox, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        result = box.run(["sh", "-c", "echo out; echo err >&2"], stdout=out, stderr=STDOUT)
    assert (result.stdout, result.stderr) == (None, None)
    assert (tmp_path / "out").read_bytes() == b"out\nerr\n"
    assert box.run(["sh", "-c", "echo out; echo err >&2"], stderr=STDOUT).stdout == b"out\nerr\n"
    assert box.run(["sh", "-c", "echo out"], stdout=DEVNULL).stdout is None
    (tmp_path / "in").write_bytes(b"from a file")
    with (tmp_path / "in").open("rb") as source:
        assert box.run(["cat"], stdin=source).stdout == b"from a file"


def test_text_is_decoded_and_newlines_are_universal(box: Sandbox) -> None:
    result = box.run(["printf", "a\\r\\nä\\n"], text=True, encoding="utf-8")
    assert result.stdout == "a\nä\n"
    assert box.run(["cat"], input="grüß", encoding="latin-1").stdout == "grüß"


def test_undecodable_output_is_no_exception_unless_asked_for(box: Sandbox) -> None:
    command = ["printf", "\\377ok"]
    assert box.run(command, encoding="utf-8").stdout == "\ufffdok"
    with pytest.raises(UnicodeDecodeError):
        box.run(command, encoding="utf-8", errors="strict")
    assert box.run(["/bin/true"])


def test_check_raises_for_anything_but_ok(box: Sandbox) -> None:
    with pytest.raises(ProcessError) as caught:
        box.run(["sleep", "10"], timeout=0.1, check=True)
    assert isinstance(caught.value, subprocess.CalledProcessError)
    assert caught.value.result.verdict is Verdict.WALL_TIME_EXCEEDED
    assert box.run(["true"], check=True)


def test_the_working_directory_is_private_writable_and_can_be_chosen(box: Sandbox) -> None:
    assert box.run(["pwd"]).stdout == b"/box\n"
    box.run(["mkdir", "-p", "sub/dir"]).check_returncode()
    assert box.run(["pwd"], cwd="sub/dir").stdout == b"/box/sub/dir\n"
    assert box.run(["pwd"], cwd="/usr").stdout == b"/usr\n"


def test_programs_are_found_on_the_path_inside(box: Sandbox) -> None:
    box.write_file("tool", "#!/bin/sh\necho tool\n", mode=0o755)
    assert box.run(["./tool"]).stdout == b"tool\n"
    assert box.run(["tool"], env={"PATH": "/nowhere:/box:/bin"}).stdout == b"tool\n"
    assert box.run(["true"], env={}).returncode == 0  # the system's default path


def test_usage_is_measured_with_its_sources_named(box: Sandbox) -> None:
    result = box.run([sys.executable, "-c", "x = bytearray(40 << 20)\nfor _ in range(2000000): pass"], timeout=60)
    usage = result.usage
    assert usage.memory_peak is not None
    assert 40 << 20 <= usage.memory_peak <= 90 << 20
    assert usage.cpu_time is not None
    assert 0.01 < usage.cpu_time <= usage.wall_time * 2
    assert usage.setup_time is not None
    assert {"cpu_time", "memory_peak", "wall_time"} <= result.evidence.keys()


def test_the_peak_of_a_tiny_run_is_tiny_after_a_large_one(box: Sandbox) -> None:
    box.run([sys.executable, "-c", "x = bytearray(100 << 20)"], timeout=60).check_returncode()
    for _ in range(3):
        peak = box.run(["/bin/true"]).usage.memory_peak
        assert peak is not None
        assert peak < 8 << 20


def test_limits_of_one_run_replace_the_boxs(box: Sandbox) -> None:
    code = "x = bytearray(100 << 20)"
    with Sandbox(CgroupLimits(memory="512M"), degrade=True) as sandbox:
        assert sandbox.run([sys.executable, "-c", code], timeout=60)
        small = sandbox.run([sys.executable, "-c", "x = []\nwhile 1: x.append(bytearray(1 << 20))"],
                            limits=CgroupLimits(memory="32M"), timeout=60)  # fmt: skip
        assert small.verdict is Verdict.MEMORY_EXCEEDED
        assert sandbox.run([sys.executable, "-c", code], timeout=60)


@pytest.mark.cgroup
def test_a_share_of_a_cpu_is_kept() -> None:
    code = "import time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass"
    result = pysandbox.run([sys.executable, "-c", code], CgroupLimits(cpus=0.25), timeout=60)
    free = pysandbox.run([sys.executable, "-c", code], timeout=60)
    assert result.usage.cpu_time is not None
    assert free.usage.cpu_time is not None
    assert result.usage.cpu_time / result.usage.wall_time < 0.4
    assert free.usage.cpu_time / free.usage.wall_time > result.usage.cpu_time / result.usage.wall_time


def test_enforcement_tells_of_every_layer(box: Sandbox) -> None:
    rows = box.run(["/bin/true"]).enforcement
    expected = {"Namespaces", "ChrootJail", "CgroupLimits", "Rlimits", "Environment", "Capabilities"}
    expected |= {"Seccomp", "no_new_privs"}
    assert rows.keys() == expected
    assert box.enforcement.keys() == expected


def test_reset_brings_back_the_first_state(box: Sandbox) -> None:
    box.run(["sh", "-c", "echo 1 > file; echo 2 > /tmp/file; echo 3 > /dev/shm/file"]).check_returncode()
    with box.popen(["sleep", "100"]) as running:
        box.reset()
        assert running.poll() is not None
    assert box.run(["sh", "-c", "ls /box /tmp /dev/shm | grep file"]).stdout == b""


def test_base_none_starts_from_nothing() -> None:
    result = pysandbox.run([sys.executable, "-c", "import os; print(os.getuid(), os.getcwd())"], base=None)
    assert result.stdout == f"{os.getuid()} {os.getcwd()}\n".encode()
    assert pysandbox.run(["env"], base=None, env={}).stdout == b""
    assert pysandbox.run(["env"], Environment(), base=None).stdout != b""


def test_a_run_without_a_pid_namespace_is_killed_whole_too() -> None:
    with Sandbox(base=None) as box:
        result = box.run(
            ["sh", "-c", "(setsid sleep 77.125 &); (setsid sleep 77.125 &); echo up; sleep 77.125"], timeout=0.3
        )
    assert result.stdout == b"up\n"
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert b"77.125" not in entry.read_bytes()
        except OSError:
            continue


def test_two_runs_at_once_without_proc_are_refused_and_not_mixed_up() -> None:
    with Sandbox(base=(pysandbox.Namespaces(mount=False),)) as box:
        with box.popen(["sleep", "100"]):
            with pytest.raises(pysandbox.SetupError) as caught:
                box.run(["/bin/true"])
            assert "one run at a time" in caught.value.hint
        assert box.run(["/bin/true"])


def test_a_payload_that_takes_its_output_back_blocks_nobody(box: Sandbox) -> None:
    code = """
import os, time
out, back = os.open("/proc/self/fd/1", os.O_WRONLY), os.open("/proc/self/fd/1", os.O_RDONLY | os.O_NONBLOCK)
end = time.monotonic() + 5
while time.monotonic() < end:
    os.write(out, b"x")
    try:
        os.read(back, 1)
    except BlockingIOError:
        pass
"""
    result = box.run([sys.executable, "-c", code], timeout=1)
    assert result.verdict is Verdict.WALL_TIME_EXCEEDED
    assert result.usage.wall_time < 4


def test_a_box_may_be_reset_while_another_thread_waits_for_a_run(box: Sandbox) -> None:
    results: list[pysandbox.Result[bytes]] = []
    thread = threading.Thread(target=lambda: results.append(box.run(["sleep", "100"])))
    thread.start()
    time.sleep(0.2)
    box.reset()
    thread.join(20)
    assert [result.verdict for result in results] == [Verdict.KILLED]
    assert box.run(["/bin/true"])
