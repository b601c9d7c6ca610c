from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysandbox import Verdict
from pysandbox.cgroups import Readings
from pysandbox.supervise import PATIENCE, Bounds, Ending, Order, Supervisor

START = 1000.0
CPUS = os.cpu_count() or 1
NOTHING = Readings()


def supervisor(counted: bool = True, **bounds: Any) -> Supervisor:
    return Supervisor(Bounds(**bounds), START, counted=counted)


def exited(code: int = 0, **more: Any) -> Ending:
    return _ending(code << 8, **more)


def killed_by(number: int, **more: Any) -> Ending:
    return _ending(int(number), **more)


def _ending(status: int, **more: Any) -> Ending:
    fields: dict[str, Any] = {"status": status, "killed": 0, "user": 0.0, "system": 0.0, "max_rss": 0}
    return Ending(**(fields | more))


def conclude(run: Supervisor, ending: Ending, readings: Readings = NOTHING) -> tuple[Verdict, Any, dict[str, object]]:
    run.end(ending, START + 1)
    return run.verdict(readings)


# --- wall time -----------------------------------------------------------------------------------------------


def test_without_bounds_only_events_matter() -> None:
    run = supervisor()
    assert run.next_look(START) is None
    assert not run.wants_counters(START)
    assert run.look(START + 1e6) is None


def test_the_wall_limit_is_looked_at_when_it_is_due() -> None:
    run = supervisor(wall=2.0)
    assert run.next_look(START) == 2.0
    assert run.next_look(START + 1.5) == 0.5
    assert run.next_look(START + 3) == 0.0


def test_the_wall_limit_alone_needs_no_counters() -> None:
    assert not supervisor(wall=2.0).wants_counters(START + 3)


@pytest.mark.parametrize(("passed", "order"), [(0.0, None), (1.9999, None), (2.0, Order.KILL), (5.0, Order.KILL)])
def test_the_wall_limit_kills_from_the_limit_on(passed: float, order: Order | None) -> None:
    assert supervisor(wall=2.0).look(START + passed) is order


def test_past_the_wall_limit_the_verdict_says_so_with_evidence() -> None:
    run = supervisor(wall=2.0)
    run.look(START + 2.5)
    verdict, hit, evidence = conclude(run, killed_by(signal.SIGKILL))
    assert (verdict, hit) == (Verdict.WALL_TIME_EXCEEDED, {"wall_time"})
    assert "2.5000 s passed, limit 2.0 s" in str(evidence["ledger"])


def test_after_a_kill_only_its_effect_is_waited_for() -> None:
    run = supervisor(wall=2.0, cpu=1.0, memory=1)
    assert run.look(START + 2) is Order.KILL
    assert run.next_look(START + 3) == PATIENCE - 1
    assert not run.wants_counters(START + 3)
    assert run.look(START + 4, cpu=9.0, memory=9) is None


# --- CPU time ------------------------------------------------------------------------------------------------


def test_the_cpu_limit_wants_counters_as_soon_as_it_can_be_crossed_and_no_earlier() -> None:
    run = supervisor(cpu=1.0)
    first = run.next_look(START)
    assert first == pytest.approx(1.0 / CPUS)
    assert not run.wants_counters(START + first - 0.001)
    assert run.wants_counters(START + first + 0.001)


@pytest.mark.parametrize("bounds", [{"memory": 1 << 20}, {"memory": 1 << 20, "cpu": 60.0}])
def test_a_tree_that_no_cgroup_counts_is_first_looked_at_after_an_interval(bounds: dict[str, Any]) -> None:
    run = supervisor(counted=False, **bounds)
    assert run.next_look(START) == pytest.approx(run.bounds.look_interval)
    assert not run.wants_counters(START + run.bounds.look_interval / 2)


def test_a_run_that_is_idle_from_its_start_is_stopped_at_the_idle_limit() -> None:
    run = supervisor(idle=1.0)
    assert run.look(START + 0.5, cpu=0.0) is None
    assert run.look(START + 1.0, cpu=0.0) is Order.KILL


@pytest.mark.parametrize(("cpu", "order"), [(0.0, None), (0.9999, None), (1.0, Order.KILL), (7.0, Order.KILL)])
def test_the_cpu_limit_kills_from_the_limit_on(cpu: float, order: Order | None) -> None:
    assert supervisor(cpu=1.0).look(START + 0.1, cpu=cpu) is order


@given(limit=st.floats(0.01, 100), used=st.floats(0, 1))
@settings(deadline=None, database=None)
def test_with_all_cpus_busy_no_cpu_limit_is_crossed_unseen(limit: float, used: float) -> None:
    run = supervisor(cpu=limit)
    cpu = limit * used * 0.999
    assert run.look(START, cpu=cpu) is None
    pause = run.next_look(START)
    assert pause is not None
    assert pause > 0
    assert pause <= 0.0011 or cpu + pause * CPUS <= limit + 1e-6


def test_the_looks_become_shorter_towards_the_cpu_limit() -> None:
    run = supervisor(cpu=10.0)
    pauses = []
    for cpu in (0.0, 4.0, 8.0, 9.9):
        run.look(START, cpu=cpu)
        pauses.append(run.next_look(START))
    assert pauses == pytest.approx([10 / CPUS, 6 / CPUS, 2 / CPUS, 0.1 / CPUS])


@given(speeds=st.lists(st.floats(0, CPUS), min_size=1, max_size=30))
@settings(deadline=None, database=None)
def test_however_busy_a_run_is_it_is_stopped_within_a_look_of_its_limit(speeds: list[float]) -> None:
    run = supervisor(cpu=1.0)
    now, cpu = START, 0.0
    for speed in [*speeds, *[float(CPUS)] * 4000]:
        if run.look(now, cpu=cpu) is Order.KILL:
            break
        pause = run.next_look(now)
        assert pause is not None
        assert pause > 0
        now += pause
        cpu += pause * speed
    else:
        pytest.fail("never stopped")
    assert 1.0 <= cpu <= 1.0 + 0.0011 * CPUS


def test_between_two_looks_no_counters_are_wanted() -> None:
    run = supervisor(cpu=1.0)
    run.look(START, cpu=0.0)
    assert not run.wants_counters(START + 0.5 / CPUS)
    assert run.wants_counters(START + 1.0 / CPUS)


def test_the_wall_limit_is_not_put_off_by_the_cpu_limit() -> None:
    run = supervisor(cpu=1000.0, wall=0.5)
    run.look(START, cpu=0.0)
    assert run.next_look(START) == 0.5


def test_a_tree_that_no_cgroup_counts_is_looked_at_no_oftener_than_the_interval() -> None:
    run = supervisor(counted=False, cpu=1.0, look_interval=0.05)
    run.look(START, cpu=0.999)
    assert run.next_look(START) == pytest.approx(0.05)


def test_a_counter_that_cannot_be_read_makes_no_busy_loop() -> None:
    run = supervisor(cpu=1.0)
    assert run.look(START, cpu=None) is None
    pause = run.next_look(START)
    assert pause is None or pause > 0


def test_past_the_cpu_limit_the_verdict_says_so_with_evidence() -> None:
    run = supervisor(cpu=1.0)
    run.look(START + 1, cpu=1.25)
    verdict, hit, evidence = conclude(run, killed_by(signal.SIGKILL), Readings(cpu_time=1.3))
    assert (verdict, hit) == (Verdict.CPU_TIME_EXCEEDED, {"cpu_time"})
    assert "1.2500 s of CPU time, limit 1.0 s" in str(evidence["ledger"])


def test_a_program_that_ended_past_its_cpu_limit_before_any_look_is_told_by_the_counter() -> None:
    verdict, hit, evidence = conclude(supervisor(cpu=1.0), exited(0), Readings(cpu_time=1.0))
    assert (verdict, hit) == (Verdict.CPU_TIME_EXCEEDED, {"cpu_time"})
    assert evidence["cpu_time_limit"] == "1.0 s"


def test_without_a_counter_the_cpu_time_is_what_was_reaped_or_seen() -> None:
    run = supervisor(cpu=10.0)
    run.look(START, cpu=3.0)
    run.end(exited(0, user=1.0, system=0.5), START + 1)
    assert run.cpu_time(NOTHING) == 3.0
    assert run.cpu_time(Readings(cpu_time=2.0)) == 2.0


# --- memory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("memory", "order"), [(0, None), (100, None), (101, Order.KILL)])
def test_the_watched_memory_limit_kills_past_the_limit(memory: int, order: Order | None) -> None:
    assert supervisor(counted=False, memory=100).look(START, memory=memory) is order


def test_past_the_watched_memory_limit_the_verdict_says_so() -> None:
    run = supervisor(counted=False, memory=100)
    run.look(START, memory=150)
    verdict, hit, evidence = conclude(run, killed_by(signal.SIGKILL))
    assert (verdict, hit) == (Verdict.MEMORY_EXCEEDED, {"memory"})
    assert "150 bytes seen, limit 100" in str(evidence["ledger"])


def test_watched_memory_is_looked_at_every_interval() -> None:
    run = supervisor(counted=False, memory=100, look_interval=0.05)
    run.look(START, memory=1)
    assert run.next_look(START) == pytest.approx(0.05)


def test_the_most_memory_seen_is_kept() -> None:
    run = supervisor(counted=False, memory=100)
    for memory in (1, 90, 5):
        run.look(START, memory=memory)
    assert run.memory_seen == 90


# --- grace ---------------------------------------------------------------------------------------------------


def test_with_grace_a_run_is_terminated_and_then_killed() -> None:
    run = supervisor(wall=2.0, grace=1.0)
    assert run.look(START + 2) is Order.TERMINATE
    assert run.next_look(START + 2) == 1.0
    assert run.look(START + 2.9) is None
    assert run.next_look(START + 3.5) == 0.0
    assert run.look(START + 3) is Order.KILL
    assert run.look(START + 4) is None
    assert run.next_look(START + 4) == PATIENCE - 1


def test_a_run_that_ends_within_its_grace_is_not_killed() -> None:
    run = supervisor(wall=2.0, grace=1.0)
    run.look(START + 2)
    run.end(exited(0), START + 2.5)
    assert run.look(START + 3) is None
    assert run.verdict(NOTHING)[0] is Verdict.WALL_TIME_EXCEEDED


def test_a_kill_at_once_does_not_wait_for_the_grace() -> None:
    run = supervisor(wall=2.0, grace=1.0)
    run.look(START + 2)
    assert run.stop(START + 2.1, Verdict.KILLED, "kill()", at_once=True) is Order.KILL
    assert run.look(START + 3) is None


def test_a_second_reason_to_stop_does_not_prolong_the_grace() -> None:
    run = supervisor(wall=2.0, grace=1.0)
    run.look(START + 2)
    run.stop(START + 2.9, Verdict.MEMORY_EXCEEDED, "again")
    assert run.look(START + 3) is Order.KILL


def test_too_much_output_kills_at_once_whatever_the_grace() -> None:
    run = supervisor(output=1, grace=1.0)
    assert run.add_output("stdout", 2, START) == (1, Order.KILL)


# --- output --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "kept", "truncated"),
    [
        ([], [], False),
        ([9], [9], False),
        ([10], [10], False),
        ([4, 6], [4, 6], False),
        ([11], [10], True),
        ([4, 7], [4, 6], True),
        ([10, 1], [10, 0], True),
        ([100, 100], [10, 0], True),
    ],
)
@pytest.mark.parametrize("truncate", [False, True])
def test_output_is_kept_up_to_its_limit_exactly(
    pieces: list[int], kept: list[int], truncated: bool, truncate: bool
) -> None:
    run = supervisor(output=10, truncate=truncate)
    assert [run.add_output("stdout", count, START)[0] for count in pieces] == kept
    assert run.truncated is truncated


def test_one_byte_too_many_stops_the_run() -> None:
    run = supervisor(output=10)
    assert run.add_output("stdout", 10, START) == (10, None)
    assert run.add_output("stdout", 1, START) == (0, Order.KILL)
    verdict, hit, evidence = conclude(run, killed_by(signal.SIGKILL))
    assert (verdict, hit) == (Verdict.OUTPUT_EXCEEDED, {"output"})
    assert "more than 10 bytes on stdout" in str(evidence["ledger"])


def test_each_stream_has_the_whole_limit() -> None:
    run = supervisor(output=10)
    assert run.add_output("stdout", 10, START) == (10, None)
    assert run.add_output("stderr", 10, START) == (10, None)
    assert run.add_output("stderr", 1, START) == (0, Order.KILL)


def test_truncated_output_lets_the_run_go_on() -> None:
    run = supervisor(output=10, truncate=True)
    assert run.add_output("stdout", 50, START) == (10, None)
    verdict, hit, _ = conclude(run, exited(0))
    assert (verdict, hit) == (Verdict.OK, {"output"})


def test_a_limit_of_no_output_allows_silence_only() -> None:
    run = supervisor(output=0)
    assert run.add_output("stdout", 0, START) == (0, None)
    assert run.add_output("stdout", 1, START) == (0, Order.KILL)


def test_output_that_is_found_after_the_end_counts() -> None:
    run = supervisor(output=10)
    run.end(exited(0), START + 1)
    assert run.add_output("stdout", 11, START + 1) == (10, None)
    verdict, hit, evidence = run.verdict(NOTHING)
    assert verdict is Verdict.OUTPUT_EXCEEDED
    assert hit == {"output"}
    assert evidence["output"] == "more than 10 bytes"


def test_output_while_stopping_is_bounded_and_gives_no_new_order() -> None:
    run = supervisor(wall=1.0, grace=1.0, output=10)
    run.look(START + 1)
    assert run.add_output("stdout", 11, START + 1.5) == (10, None)
    verdict, hit, _ = conclude(run, killed_by(signal.SIGKILL))
    assert (verdict, hit) == (Verdict.WALL_TIME_EXCEEDED, {"wall_time", "output"})


# --- the ledger ----------------------------------------------------------------------------------------------


def test_the_first_entry_of_the_ledger_counts() -> None:
    run = supervisor(wall=2.0)
    run.stop(START + 1, Verdict.KILLED, "kill()")
    run.stop(START + 3, Verdict.WALL_TIME_EXCEEDED, "late")
    verdict, _, evidence = conclude(run, killed_by(signal.SIGKILL))
    assert verdict is Verdict.KILLED
    assert str(evidence["ledger"]) == "KILLED at 1.0000 s: kill()"


def test_after_the_caller_s_terminate_the_bounds_still_hold() -> None:
    run = supervisor(wall=2.0, cpu=1.0)
    run.note(START + 0.5, Verdict.KILLED, "terminate()")
    assert run.wants_counters(START + 0.6)
    assert run.look(START + 0.6, cpu=0.1) is None
    assert run.look(START + 2, cpu=0.2) is Order.KILL
    assert conclude(run, killed_by(signal.SIGKILL))[0] is Verdict.KILLED


def test_after_the_caller_s_terminate_the_output_bound_still_holds() -> None:
    run = supervisor(output=10)
    run.note(START + 0.5, Verdict.KILLED, "terminate()")
    assert run.add_output("stdout", 11, START + 0.6) == (10, Order.KILL)


def test_a_stop_after_the_end_is_neither_ordered_nor_noted() -> None:
    run = supervisor()
    run.end(exited(0), START + 1)
    assert run.stop(START + 2, Verdict.KILLED, "kill()", at_once=True) is None
    run.note(START + 2, Verdict.KILLED, "terminate()")
    assert run.verdict(NOTHING)[0] is Verdict.OK


def test_no_bound_is_looked_at_after_the_end() -> None:
    run = supervisor(wall=1.0)
    run.end(exited(0), START + 0.5)
    assert run.look(START + 5) is None
    assert run.verdict(NOTHING)[0] is Verdict.OK


def test_only_the_first_end_counts() -> None:
    run = supervisor()
    run.end(exited(3), START + 1)
    run.end(killed_by(signal.SIGKILL, lost=True), START + 2)
    assert run.returncode == 3
    assert run.usage(NOTHING, 0.0, {}).wall_time == 1.0


# --- which cause comes first ----------------------------------------------------------------------------------

OOM = Readings(oom_kills=2, sources={"oom_kills": "memory.events"})


def test_the_ledger_comes_before_the_kernel_s_oom_counter() -> None:
    run = supervisor(wall=1.0)
    run.look(START + 1)
    verdict, hit, _ = conclude(run, killed_by(signal.SIGKILL), OOM)
    assert (verdict, hit) == (Verdict.WALL_TIME_EXCEEDED, {"wall_time", "memory"})


def test_the_oom_counter_comes_before_a_signal() -> None:
    verdict, hit, evidence = conclude(supervisor(), killed_by(signal.SIGKILL), OOM)
    assert (verdict, hit) == (Verdict.MEMORY_EXCEEDED, {"memory"})
    assert evidence["oom_kills"] == "2 (memory.events)"


def test_the_oom_counter_comes_before_an_exit_status() -> None:
    assert conclude(supervisor(), exited(1), OOM)[0] is Verdict.MEMORY_EXCEEDED


@pytest.mark.parametrize("readings", [Readings(), Readings(oom_kills=0), Readings(memory_peak=1 << 40)])
def test_a_bare_sigkill_is_never_called_out_of_memory(readings: Readings) -> None:
    verdict, hit, evidence = conclude(supervisor(), killed_by(signal.SIGKILL), readings)
    assert (verdict, hit) == (Verdict.SIGNALED, frozenset())
    assert "not by us" in str(evidence["signal"])


def test_sigxcpu_at_the_cpu_rlimit_is_cpu_time() -> None:
    # 1.3 s were used, which the kernel has sampled as 2
    verdict, hit, evidence = conclude(supervisor(rlimit_cpu=2), killed_by(signal.SIGXCPU, user=1.3, sampled=2.0))
    assert (verdict, hit) == (Verdict.CPU_TIME_EXCEEDED, {"cpu_time"})
    assert "RLIMIT_CPU" in str(evidence["cpu_time_limit"])


@pytest.mark.parametrize("bounds", [{}, {"rlimit_cpu": 2}, {"cpu": 5.0, "rlimit_cpu": 6}], ids=str)
def test_sigxcpu_that_a_program_sends_itself_is_a_signal(bounds: dict[str, Any]) -> None:
    # 2.3 s were used, which the kernel has sampled as 1.996
    verdict, hit, _ = conclude(supervisor(**bounds), killed_by(signal.SIGXCPU, user=2.3, sampled=1.996))
    assert (verdict, hit) == (Verdict.SIGNALED, frozenset())


@pytest.mark.parametrize(("sampled", "verdict"), [(2.996, Verdict.SIGNALED), (3.0, Verdict.CPU_TIME_EXCEEDED)])
def test_sigkill_is_the_cpu_rlimit_s_only_where_its_clock_says_so(sampled: float, verdict: Verdict) -> None:
    assert conclude(supervisor(rlimit_cpu=2), killed_by(signal.SIGKILL, user=2.5, sampled=sampled))[0] is verdict


def test_sigxfsz_is_output_past_the_file_size_limit() -> None:
    verdict, hit, evidence = conclude(supervisor(rlimit_fsize=4096), killed_by(signal.SIGXFSZ))
    assert (verdict, hit) == (Verdict.OUTPUT_EXCEEDED, {"file_size"})
    assert "RLIMIT_FSIZE" in str(evidence["file_size"])


def test_sigxfsz_without_that_limit_is_a_signal() -> None:
    assert conclude(supervisor(), killed_by(signal.SIGXFSZ))[:2] == (Verdict.SIGNALED, frozenset())


@pytest.mark.parametrize(
    ("verdict", "name"),
    [
        (Verdict.WALL_TIME_EXCEEDED, "wall_time"),
        (Verdict.CPU_TIME_EXCEEDED, "cpu_time"),
        (Verdict.MEMORY_EXCEEDED, "memory"),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGXCPU, signal.SIGXFSZ])
def test_the_limit_behind_the_verdict_is_among_those_hit_whatever_the_last_signal(
    verdict: Verdict, name: str, number: signal.Signals
) -> None:
    run = supervisor()
    run.stop(START + 1, verdict, "a limit")
    found, hit, _ = conclude(run, killed_by(number))
    assert found is verdict
    assert name in hit


def test_output_stopped_by_us_is_the_output_limit_whatever_the_last_signal() -> None:
    run = supervisor(output=1)
    run.add_output("stdout", 2, START)
    assert conclude(run, killed_by(signal.SIGXFSZ))[:2] == (Verdict.OUTPUT_EXCEEDED, {"output"})


def test_a_kill_by_the_caller_hits_no_limit() -> None:
    run = supervisor()
    run.stop(START + 1, Verdict.KILLED, "kill()", at_once=True)
    assert conclude(run, killed_by(signal.SIGKILL))[:2] == (Verdict.KILLED, frozenset())


def test_refused_forks_are_told_and_end_nothing() -> None:
    readings = Readings(pids_refused=3, sources={"pids_refused": "pids.events"})
    verdict, hit, evidence = conclude(supervisor(), exited(0), readings)
    assert (verdict, hit) == (Verdict.OK, {"pids"})
    assert evidence["pids_refused"] == "3 (pids.events)"


def test_a_lost_box_is_a_signal_with_evidence_and_no_limit() -> None:
    verdict, hit, evidence = conclude(supervisor(), killed_by(signal.SIGKILL, lost=True))
    assert (verdict, hit) == (Verdict.SIGNALED, frozenset())
    assert "init, or the run's keeper" in str(evidence["box"])


def test_a_box_lost_to_our_own_kill_has_our_verdict() -> None:
    run = supervisor()
    run.stop(START + 1, Verdict.KILLED, "kill()")
    assert conclude(run, killed_by(signal.SIGKILL, lost=True))[0] is Verdict.KILLED


def test_processes_that_outlived_the_program_are_told() -> None:
    verdict, _, evidence = conclude(supervisor(), exited(0, killed=3))
    assert verdict is Verdict.OK
    assert str(evidence["left_behind"]).startswith("3 processes")


def test_without_processes_left_behind_nothing_is_said_of_them() -> None:
    assert "left_behind" not in conclude(supervisor(), exited(0))[2]


# --- return codes --------------------------------------------------------------------------------------------


def test_every_exit_status_is_the_returncode() -> None:
    for code in range(256):
        run = supervisor()
        verdict, hit, evidence = conclude(run, exited(code))
        assert run.returncode == code
        assert verdict is (Verdict.OK if code == 0 else Verdict.NONZERO_EXIT)
        assert hit == frozenset()
        assert "exit" in evidence


@pytest.mark.parametrize("core", [0, 0x80], ids=["plain", "core"])
def test_every_signal_is_a_negative_returncode(core: int) -> None:
    for number in set(range(1, 65)) - {signal.SIGXCPU, signal.SIGXFSZ}:
        run = supervisor()
        verdict, hit, _ = conclude(run, killed_by(number | core))
        assert run.returncode == -number
        assert (verdict, hit) == (Verdict.SIGNALED, frozenset())


# --- figures -------------------------------------------------------------------------------------------------


def test_usage_takes_the_cgroup_s_counters_and_names_them() -> None:
    run = supervisor()
    run.end(exited(0, user=9.0, system=9.0, max_rss=9), START + 2.5)
    sources = {"cpu_time": "cpu.stat", "cpu_user": "user_usec", "cpu_system": "system_usec"}
    sources |= {
        "memory_peak": "memory.peak",
        "processes_peak": "pids.peak",
        "io_read": "io.stat",
        "io_written": "io.stat",
    }
    figures: dict[str, Any] = {"cpu_time": 1.5, "cpu_user": 1.0, "cpu_system": 0.5, "io_read": 7, "io_written": 8}
    readings = Readings(**figures, memory_peak=4096, processes_peak=3, sources=sources)
    evidence: dict[str, object] = {}
    usage = run.usage(readings, 0.25, evidence)
    assert (usage.wall_time, usage.setup_time) == (2.5, 0.25)
    assert (usage.cpu_time, usage.cpu_user, usage.cpu_system) == (1.5, 1.0, 0.5)
    assert (usage.memory_peak, usage.processes_peak) == (4096, 3)
    assert (usage.io_read, usage.io_written) == (7, 8)
    assert {name: evidence[name] for name in sources} == sources


def test_usage_without_a_cgroup_comes_from_what_was_reaped_and_says_so() -> None:
    run = supervisor()
    run.end(exited(0, user=1.0, system=0.5, max_rss=4096), START + 1)
    evidence: dict[str, object] = {}
    usage = run.usage(NOTHING, 0.0, evidence)
    assert (usage.cpu_time, usage.cpu_user, usage.cpu_system, usage.memory_peak) == (1.5, 1.0, 0.5, 4096)
    assert "rusage" in str(evidence["cpu_time"])
    assert "ru_maxrss" in str(evidence["memory_peak"])


def test_usage_of_processes_is_none_where_nothing_counted_them() -> None:
    run = supervisor()
    run.end(exited(0), START + 1)
    evidence: dict[str, object] = {}
    assert run.usage(NOTHING, 0.0, evidence).processes_peak is None
    assert "processes_peak" not in evidence


def test_usage_of_processes_comes_from_the_watch_where_it_saw_some() -> None:
    run = supervisor()
    run.processes_seen = 4
    run.end(exited(0), START + 1)
    evidence: dict[str, object] = {}
    assert run.usage(NOTHING, 0.0, evidence).processes_peak == 4
    assert evidence["processes_peak"] == "the watch"


def test_wall_time_is_never_negative() -> None:
    run = supervisor()
    run.end(exited(0), START - 1)
    assert run.usage(NOTHING, 0.0, {}).wall_time == 0.0


# --- anything at all -----------------------------------------------------------------------------------------

_EVENT = st.one_of(
    st.tuples(st.just("look"), st.floats(0, 3), st.integers(0, 300)),
    st.tuples(st.just("output"), st.just(0.0), st.integers(0, 30)),
    st.tuples(st.just("note"), st.just(0.0), st.just(0)),
    st.tuples(st.just("kill"), st.just(0.0), st.just(0)),
)


@given(events=st.lists(_EVENT, max_size=30), grace=st.sampled_from([0.0, 0.5]), truncate=st.booleans())
@settings(deadline=None, database=None)
def test_in_any_order_of_events_kills_are_final_and_the_first_cause_stays(
    events: list[tuple[str, float, int]], grace: float, truncate: bool
) -> None:
    run = supervisor(wall=5.0, cpu=2.0, memory=200, output=50, grace=grace, truncate=truncate)
    now, first, was_killed, orders = START, None, False, []
    for kind, number, count in events:
        now += 0.3
        if kind == "look":
            order = run.look(now, cpu=number, memory=count)
        elif kind == "output":
            kept, order = run.add_output("stdout", count, now)
            assert 0 <= kept <= count
        elif kind == "note":
            order = run.note(now, Verdict.KILLED, "terminate()")  # type: ignore[func-returns-value]
        else:
            order = run.stop(now, Verdict.KILLED, "kill()", at_once=True)
        if kind != "kill":
            assert not (was_killed and order), "an order after the kill"
        was_killed |= order is Order.KILL
        orders.append(order)
        first = first or run.ledger
        assert run.ledger is first
    assert orders.count(Order.TERMINATE) <= 1
    verdict = conclude(run, exited(0))[0]
    assert first is None or verdict is first.verdict


def test_a_tree_that_will_not_die_takes_the_box_with_it() -> None:
    run = supervisor(wall=1.0)
    assert run.look(START + 1) is Order.KILL
    assert run.next_look(START + 1) == PATIENCE
    assert run.look(START + 1 + PATIENCE - 0.1) is None
    assert run.look(START + 1 + PATIENCE) is Order.END_BOX
    assert run.look(START + 2 + PATIENCE) is None
    assert run.next_look(START + 2 + PATIENCE) is None
    verdict, _, evidence = conclude(run, killed_by(signal.SIGKILL, lost=True))
    assert verdict is Verdict.WALL_TIME_EXCEEDED
    assert "not gone" in str(evidence["box"])


def test_time_in_which_a_run_was_paused_to_its_end_is_no_wall_time() -> None:
    run = supervisor(wall=1.0)
    run.pause(START + 0.5)
    run.end(killed_by(signal.SIGKILL, wall=9.0), START + 9)
    assert run.wall_time == 0.5
    assert "wall_time" not in run.verdict(NOTHING)[1]


@pytest.mark.parametrize(("wall", "verdict"), [(1.999, Verdict.OK), (2.0, Verdict.WALL_TIME_EXCEEDED)])
def test_a_run_that_nobody_stopped_at_its_wall_limit_was_late(wall: float, verdict: Verdict) -> None:
    found, hit, _ = conclude(supervisor(wall=2.0), exited(0, wall=wall))
    assert (found, "wall_time" in hit) == (verdict, verdict is not Verdict.OK)


def test_a_program_that_was_asked_to_end_gets_no_extra_time() -> None:
    run = supervisor(wall=2.0, extra=5.0)
    run.note(START + 1, Verdict.KILLED, "terminate()")
    assert run.next_look(START + 1) == 1.0
    assert run.look(START + 2) is Order.KILL
    assert conclude(run, killed_by(signal.SIGKILL, wall=2.1))[:2] == (Verdict.KILLED, {"wall_time"})
