from __future__ import annotations

import copy
import dataclasses
import pickle
import signal
import subprocess
from typing import Any

import pytest

from pysandbox import Enforcement, Level, ProcessError, Result, Usage, Verdict


def make(**changes: Any) -> Result[bytes]:
    fields: dict[str, Any] = {
        "args": ("prog", "-x"),
        "returncode": 0,
        "stdout": b"out",
        "stderr": b"err",
        "verdict": Verdict.OK,
        "usage": Usage(wall_time=0.5),
    }
    return Result(**(fields | changes))


def test_verdicts_are_those_of_the_contract_and_no_other() -> None:
    assert [verdict.name for verdict in Verdict] == [
        "OK",
        "NONZERO_EXIT",
        "SIGNALED",
        "CPU_TIME_EXCEEDED",
        "WALL_TIME_EXCEEDED",
        "MEMORY_EXCEEDED",
        "OUTPUT_EXCEEDED",
        "FORBIDDEN_SYSCALL",
        "KILLED",
    ]


@pytest.mark.parametrize("verdict", Verdict)
def test_verdicts_are_named_by_their_values(verdict: Verdict) -> None:
    assert verdict.value == verdict.name
    assert Verdict(verdict.name) is verdict


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("returncode", [0, 1, -9])
def test_a_result_is_true_when_its_verdict_is_ok_whatever_the_returncode(verdict: Verdict, returncode: int) -> None:
    assert bool(make(verdict=verdict, returncode=returncode)) is (verdict is Verdict.OK)


@pytest.mark.parametrize("returncode", [0, 1, 9, 255])
def test_signal_is_none_for_an_exit(returncode: int) -> None:
    assert make(returncode=returncode).signal is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGHUP])
def test_signal_is_a_member_of_signals(number: signal.Signals) -> None:
    found = make(returncode=-number).signal
    assert isinstance(found, signal.Signals)
    assert found is number


@pytest.mark.parametrize("number", [signal.SIGRTMIN, signal.SIGRTMAX])
def test_signal_names_the_real_time_signals_that_have_names(number: signal.Signals) -> None:
    assert make(returncode=-number).signal is number


@pytest.mark.parametrize("number", range(signal.SIGRTMIN + 1, signal.SIGRTMAX, 7))
def test_signal_is_a_number_for_a_real_time_signal_without_name(number: int) -> None:
    found = make(returncode=-number).signal
    assert (type(found), found) == (int, number)


def test_check_returncode_does_nothing_for_ok() -> None:
    make().check_returncode()


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict is not Verdict.OK])
def test_check_returncode_raises_for_every_other_verdict(verdict: Verdict) -> None:
    result = make(verdict=verdict)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        result.check_returncode()
    assert isinstance(caught.value, ProcessError)
    assert caught.value.result is result


def test_a_result_has_all_that_completed_process_has() -> None:
    completed = subprocess.CompletedProcess(["prog", "-x"], 0, b"out", b"err")
    result = make()
    wanted = [name for name in dir(completed) if not name.startswith("_")]
    assert {"args", "returncode", "stdout", "stderr", "check_returncode"} <= set(wanted)
    assert [name for name in wanted if not hasattr(result, name)] == []


def test_a_result_has_the_fields_of_the_contract() -> None:
    names = {field.name for field in dataclasses.fields(Result)}
    contract = "args returncode stdout stderr verdict usage limits_hit evidence truncated enforcement"
    assert names == set(contract.split()) | {"starved", "samples", "limits"}


def test_usage_has_the_fields_of_the_contract() -> None:
    names = {field.name for field in dataclasses.fields(Usage)}
    contract = "wall_time cpu_time cpu_user cpu_system memory_peak io_read io_written processes_peak setup_time"
    assert names == set(contract.split()) | {"voluntary_switches", "involuntary_switches"}


def test_usage_is_none_where_nothing_measured_it() -> None:
    values = dataclasses.asdict(Usage(wall_time=1.0))
    assert values.pop("wall_time") == 1.0
    assert set(values.values()) == {None}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Result)])
def test_a_result_is_frozen(name: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(make(), name, None)


def test_usage_and_enforcement_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Usage(wall_time=1.0).wall_time = 2.0  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Enforcement(Level.FULL, "x").level = Level.NONE  # type: ignore[misc]


@pytest.mark.parametrize("kind", [Result, Usage])
def test_results_take_keywords_only(kind: Any) -> None:
    with pytest.raises(TypeError):
        kind(1)


def test_defaults_are_not_shared_between_results() -> None:
    assert make().evidence is not make().evidence
    assert make().enforcement is not make().enforcement


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stdout": "text", "stderr": None},
        {"verdict": Verdict.KILLED, "returncode": -9, "evidence": {"ledger": "KILLED"}},
        {"limits_hit": frozenset({"pids"}), "truncated": True},
        {"enforcement": {"Namespaces": Enforcement(Level.PARTIAL, "namespaces", "off: net")}},
        {"usage": Usage(wall_time=1.0, cpu_time=0.5, memory_peak=1 << 40)},
    ],
)
def test_a_result_survives_pickling_and_copying(changes: dict[str, Any]) -> None:
    result = make(**changes)
    for twin in (pickle.loads(pickle.dumps(result)), copy.copy(result), copy.deepcopy(result)):
        assert twin == result
        assert twin.verdict is result.verdict


def test_results_that_differ_are_unequal() -> None:
    assert make() != make(returncode=1)
    assert make() == make()


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (Enforcement(Level.FULL, "cgroup v2"), "full: cgroup v2"),
        (Enforcement(Level.PARTIAL, "watching", "no cgroup"), "partial: watching (no cgroup)"),
        (Enforcement(Level.NONE, "nothing", "no kernel"), "none: nothing (no kernel)"),
    ],
)
def test_enforcement_is_printed_in_one_line(row: Enforcement, text: str) -> None:
    assert str(row) == text
    assert f"{row}" == text


@pytest.mark.parametrize("level", Level)
def test_a_level_equals_and_prints_as_its_word(level: Level) -> None:
    assert level == level.value == str(level) == f"{level}"
    assert {level.value for level in Level} == {"full", "partial", "none"}
