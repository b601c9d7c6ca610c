"""What is remembered of commands that are run again and again, and what never is."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pysandbox import CgroupLimits, ConfigError, Sandbox
from pysandbox.command import DEVNULL, PIPE, check_command, recall_command
from pysandbox.compose import DEFAULT, compose
from pysandbox.sandbox import checked


def test_a_command_that_was_checked_is_not_checked_again() -> None:
    first = recall_command(["prog", "-x"], {"timeout": 2.5, "stdout": DEVNULL})
    assert recall_command(("prog", "-x"), {"timeout": 2.5, "stdout": DEVNULL}) is first
    assert first == check_command(["prog", "-x"], timeout=2.5, stdout=DEVNULL)


@pytest.mark.parametrize("other", [{"timeout": 3.5}, {"timeout": 2.5, "cwd": "sub"}, {}])
def test_other_options_are_another_command(other: dict[str, Any]) -> None:
    first = recall_command(["prog"], {"timeout": 2.5})
    assert recall_command(["prog"], dict(other)) == check_command(["prog"], **other) != first


@pytest.mark.parametrize(
    ("right", "wrong"), [({"timeout": 1}, {"timeout": True}), ({"truncate_output": True}, {"truncate_output": 1})]
)
def test_a_value_of_the_wrong_type_is_refused_after_an_equal_one_was_right(
    right: dict[str, Any], wrong: dict[str, Any]
) -> None:
    recall_command(["prog"], right)
    with pytest.raises(ConfigError):
        recall_command(["prog"], wrong)


def test_a_descriptor_is_looked_at_each_time() -> None:
    fd = os.open(os.devnull, os.O_RDWR)
    try:
        assert recall_command(["prog"], {"stdout": fd}).stdout == fd
    finally:
        os.close(fd)
    with pytest.raises(ConfigError, match=f"{fd} is not open"):
        recall_command(["prog"], {"stdout": fd})


def test_the_input_and_limits_of_one_run_are_not_the_next_one_s() -> None:
    first = checked(["prog"], {"input": b"one", "limits": CgroupLimits(memory="64M")})
    second = checked(["prog"], {"input": b"two"})
    third = checked(["prog"], {})
    assert (first.input, second.input, third.input) == (b"one", b"two", None)
    assert (first.stdin, second.stdin, third.stdin) == (PIPE, PIPE, DEVNULL)
    assert first.limits is not None
    assert first.limits.memory == 64 << 20
    assert second.limits is None


def test_each_run_gets_its_own_words_input_and_environment() -> None:
    with Sandbox() as box:
        for word in ("a", "b", "a"):
            assert box.run(["/bin/echo", word]).stdout == f"{word}\n".encode()
            assert box.run(["/bin/cat"], input=word.encode()).stdout == word.encode()
            assert box.run(["/usr/bin/env"], env={"WORD": word}).stdout == f"WORD={word}\n".encode()
            assert box.run(["/bin/sh", "-c", "ulimit -t"], cpu_time=5 + len(word)).stdout == b"13\n"
        assert box.run(["/bin/sh", "-c", "ulimit -t"]).stdout == b"unlimited\n"


def test_plans_that_are_kept_are_few_and_small() -> None:
    with Sandbox() as box:
        for number in range(100):
            box.run(["/bin/true", str(number)])
        box.run(["/bin/true", "x" * 100_000])
    kept = compose((), DEFAULT, False).recent_plans
    assert 0 < len(kept) <= 32
    assert all(len(plan.encoded) <= 1 << 16 for plan in kept.values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"errors": "xmlcharrefreplace", "encoding": "ascii"}, "cannot decode"),
        ({"errors": "namereplace", "encoding": "ascii"}, "cannot decode"),
        ({"encoding": "undefined"}, "unknown encoding"),
        ({"input": "\u00e9", "encoding": "ascii"}, "cannot be encoded"),
        ({"input": 5}, "input must be bytes"),
        ({"stdin": -1.0}, "stdin must be"),
        ({"stdout": -3.0}, "stdout must be"),
        ({"bufsize": -7}, "bufsize"),
        ({"max_output": "9" * 5000 + "M"}, "digits"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_before_anything_is_created(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        checked(["prog"], options)


@pytest.mark.parametrize("errors", ["strict", "ignore", "replace", "surrogateescape", "backslashreplace"])
def test_an_error_handler_that_decodes_is_taken(errors: str) -> None:
    assert checked(["prog"], {"errors": errors, "encoding": "utf-8"}).errors == errors
