from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysandbox import ConfigError, SandboxError, units

HUGE = 10**400  # no float holds it
VAST = 10**5000  # Python 3.11 refuses to print it

# --- sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1),
        (4096, 4096),
        (1 << 62, 1 << 62),
        ("007B", 7),
        ("12b", 12),
        ("12B", 12),
        ("256M", 256 << 20),
        ("256m", 256 << 20),
        ("256MB", 256 << 20),
        ("256MiB", 256 << 20),
        ("1K", 1024),
        ("1 KiB", 1024),
        ("  2 kib  ", 2048),
        ("1.5G", 3 << 29),
        ("0.5K", 512),
        ("2.0 b", 2),
        ("1T", 1 << 40),
    ],
)
def test_size_reads_bytes_and_binary_units(value: int | str, expected: int) -> None:
    assert units.size(value, "memory") == expected


@pytest.mark.parametrize(
    "value",
    [
        "12 parsecs",
        "1",
        "268435456",
        "2.0",
        "12ib",
        "",
        " ",
        "M",
        "-1",
        "+1",
        "-1M",
        "1e3",
        "1.M",
        ".5M",
        "1,5M",
        "1_000",
        "0x10",
        "1 M B",
        "1MM",
        "1iM",
        "nan",
        "inf",
        "1.5",
        "0.3K",
        "1M\0",
        "١٢",  # digits, but not ASCII ones
        "9" * 400 + "G",
        "5000000T",
        True,
        False,
        None,
        1.5,
        1.0,
        math.nan,
        math.inf,
        b"1M",
        [1],
        1j,
        0,
        -1,
        (1 << 62) + 1,
        HUGE,
        -HUGE,
    ],
)
def test_size_refuses_what_is_no_size(value: object) -> None:
    with pytest.raises(ConfigError, match="memory"):
        units.size(value, "memory")


def test_size_refuses_a_number_too_long_to_print() -> None:
    with pytest.raises(ConfigError, match="memory"):
        units.size(VAST, "memory")


@pytest.mark.parametrize(("value", "least"), [(0, 0), ("0B", 0), ("0K", 0), (4096, 4096), ("4K", 4096)])
def test_size_takes_its_least(value: int | str, least: int) -> None:
    assert units.size(value, "x", least=least) == least


@pytest.mark.parametrize(("value", "least"), [(-1, 0), (4095, 4096), ("3K", 4096)])
def test_size_refuses_less_than_its_least(value: int | str, least: int) -> None:
    with pytest.raises(ConfigError, match=str(least)):
        units.size(value, "x", least=least)


@given(number=st.integers(1, 1 << 62))
@settings(deadline=None, database=None)
def test_size_reads_the_decimal_of_a_number_as_that_number(number: int) -> None:
    assert units.size(f"{number}B", "x") == number


@given(
    number=st.integers(1, 1 << 20), unit=st.sampled_from(["k", "m", "g", "t"]), tail=st.sampled_from(["", "b", "iB"])
)
@settings(deadline=None, database=None)
def test_size_multiplies_by_its_unit(number: int, unit: str, tail: str) -> None:
    assert units.size(f"{number}{unit}{tail}", "x") == number << {"k": 10, "m": 20, "g": 30, "t": 40}[unit]


@given(text=st.text(max_size=12))
@settings(deadline=None, database=None)
def test_size_takes_or_refuses_any_text_and_never_fails_otherwise(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert units.size(text, "x") >= 1


# --- seconds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, 0.5, 1e-9, 1e9, 1000000000])
def test_seconds_gives_a_float(value: float) -> None:
    seconds = units.seconds(value, "timeout")
    assert (type(seconds), seconds) == (float, float(value))


@pytest.mark.parametrize(
    "value",
    [0, 0.0, -0.0, -1, -1e-9, math.nan, math.inf, -math.inf, 1.1e9, True, False, "1", "1s", b"1", None, [1], 1j],
)
def test_seconds_refuses_what_is_no_time(value: object) -> None:
    with pytest.raises(ConfigError, match="timeout"):
        units.seconds(value, "timeout")


@pytest.mark.parametrize("value", [HUGE, -HUGE], ids=["huge", "-huge"])
def test_seconds_refuses_an_int_that_no_float_holds(value: int) -> None:
    with pytest.raises(ConfigError, match="timeout"):
        units.seconds(value, "timeout")


@pytest.mark.parametrize("value", [0, 0.0])
def test_seconds_takes_zero_where_it_means_something(value: float) -> None:
    assert units.seconds(value, "grace", zero=True) == 0.0


@pytest.mark.parametrize("value", [-1, -1e-9, math.nan, math.inf, False, "0"])
def test_seconds_refuses_the_rest_also_where_zero_is_allowed(value: object) -> None:
    with pytest.raises(ConfigError, match="grace"):
        units.seconds(value, "grace", zero=True)


# --- counts and flags ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, 2, 10])
def test_count_takes_whole_numbers_of_its_range(value: int) -> None:
    assert units.count(value, "pids", least=1, most=10) == value


@pytest.mark.parametrize("value", [0, -1, 11, HUGE, True, 1.0, math.nan, "1", None, b"1"])
def test_count_refuses_the_rest(value: object) -> None:
    with pytest.raises(ConfigError, match="pids"):
        units.count(value, "pids", least=1, most=10)


@pytest.mark.parametrize("value", [True, False])
def test_flag_takes_true_and_false(value: bool) -> None:
    assert units.flag(value, "check") is value


@pytest.mark.parametrize("value", [0, 1, None, "", "yes", 1.0, []])
def test_flag_refuses_what_is_merely_true_or_false(value: object) -> None:
    with pytest.raises(ConfigError, match="check"):
        units.flag(value, "check")


# --- text and paths ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "a", "ä", "a b\n", "\udcff"])
def test_text_takes_strings_the_kernel_can_take(value: str) -> None:
    assert units.text(value, "x") == value


@pytest.mark.parametrize("value", ["\0", "a\0b", "\ud800", b"a", 5, None, PurePosixPath("a")])
def test_text_refuses_the_rest(value: object) -> None:
    with pytest.raises(ConfigError, match="x"):
        units.text(value, "x")


class _BytesPath:
    def __fspath__(self) -> bytes:
        return b"/tmp/\xff"


def test_path_decodes_a_path_object_of_bytes() -> None:
    assert units.path(_BytesPath(), "x") == "/tmp/\udcff"


@pytest.mark.parametrize("value", ["a", "/a/b", PurePosixPath("/a/b"), Path("a")])
def test_path_gives_a_str(value: str | os.PathLike[str]) -> None:
    assert units.path(value, "x") == str(value)


@pytest.mark.parametrize("value", ["", "a\0", "\ud800", b"a", 5, None, True, ["a"]])
def test_path_refuses_what_is_no_path(value: object) -> None:
    with pytest.raises(ConfigError, match="x"):
        units.path(value, "x")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/a", "/a"),
        ("/a/", "/a"),
        ("//a", "/a"),
        ("///a//b/./c/", "/a/b/c"),
        ("/..a/b..", "/..a/b.."),
        ("/" + "n" * 255, "/" + "n" * 255),
        (PurePosixPath("/a/b"), "/a/b"),
    ],
)
def test_inside_path_is_normalised(value: str | os.PathLike[str], expected: str) -> None:
    assert units.inside_path(value, "target") == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "a",
        "./a",
        "..",
        "/..",
        "/a/..",
        "/a/../b",
        "/a/..//b",
        "/",
        "//",
        "/.",
        "/./.",
        "/" + "n" * 256,
        "/" + "ä" * 128,  # 256 bytes
        "/a\0b",
        "/\ud800",
        b"/a",
        5,
        None,
        PurePosixPath("a"),
        PurePosixPath("/"),
    ],
)
def test_inside_path_refuses_what_is_not_below_the_root(value: object) -> None:
    with pytest.raises(ConfigError, match="target"):
        units.inside_path(value, "target")


@given(path=st.text(st.sampled_from("/.ab"), max_size=12))
@settings(deadline=None, database=None)
def test_inside_path_never_leads_out(path: str) -> None:
    try:
        normal = units.inside_path(path, "x")
    except ConfigError:
        return
    assert normal.startswith("/")
    assert normal == os.path.normpath(normal) != "/"
    assert ".." not in normal.split("/")
    assert units.inside_path(normal, "x") == normal


# --- argument vectors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["ls"], ("ls",)),
        (("ls", "-l"), ("ls", "-l")),
        (["ls", ""], ("ls", "")),
        ([PurePosixPath("/bin/ls"), b"-l"], ("/bin/ls", "-l")),
        ([b"\xff"], ("\udcff",)),
        (["\udcff", "ä"], ("\udcff", "ä")),
    ],
)
def test_argv_gives_a_tuple_of_str(value: object, expected: tuple[str, ...]) -> None:
    assert units.argv(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "ls -l",
        b"ls",
        "",
        [],
        (),
        None,
        5,
        {"ls"},
        {"ls": 1},
        iter(["ls"]),
        bytearray(b"ls"),
        range(2),
        [1],
        ["ls", 1],
        ["ls", None],
        ["ls", True],
        ["ls", ["-l"]],
        [""],
        [b""],
        ["ls", "a\0b"],
        ["ls", b"a\0b"],
        ["ls", "\ud800"],
        PurePosixPath("/bin/ls"),
    ],
)
def test_argv_refuses_what_is_no_command(value: object) -> None:
    with pytest.raises(ConfigError, match="args"):
        units.argv(value)


# --- variables -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, ()),
        ({"A": "1"}, (("A", "1"),)),
        ({"B": "2", "A": "1"}, (("A", "1"), ("B", "2"))),
        ([("B", "2"), ("A", "1")], (("A", "1"), ("B", "2"))),
        ([("A", "1"), ("A", "2")], (("A", "2"),)),
        ({"A": ""}, (("A", ""),)),
        ({"A": "x=y"}, (("A", "x=y"),)),
        ({"A": PurePosixPath("/a")}, (("A", "/a"),)),
        ({"A": "\udcff"}, (("A", "\udcff"),)),
    ],
)
def test_variables_are_pairs_sorted_by_name(value: object, expected: tuple[tuple[str, str], ...]) -> None:
    assert units.variables(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        {"": "1"},
        {"A=B": "1"},
        {"=": "1"},
        {"A\0": "1"},
        {"A": "1\0"},
        {"\ud800": "1"},
        {"A": "\ud800"},
        {"A": 1},
        {"A": None},
        {"A": b"1"},
        {b"A": "1"},
        {1: "1"},
        "A=1",
        b"A=1",
        5,
        None,
        ["A=1"],
        [("A",)],
        [("A", "1", "2")],
        [5],
    ],
)
def test_variables_refuses_what_is_no_environment(value: object) -> None:
    with pytest.raises(ConfigError, match="env"):
        units.variables(value)


# --- what every refusal is -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "refuse",
    [
        lambda: units.size("x", "it"),
        lambda: units.seconds("x", "it"),
        lambda: units.count("x", "it", least=1),
        lambda: units.flag("x", "it"),
        lambda: units.text(1, "it"),
        lambda: units.path("", "it"),
        lambda: units.inside_path("x", "it"),
        lambda: units.argv("x", "it"),
        lambda: units.variables("x", "it"),
    ],
    ids=["size", "seconds", "count", "flag", "text", "path", "inside_path", "argv", "variables"],
)
def test_every_refusal_is_a_value_error_of_pysandbox_that_names_the_argument(refuse: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="it") as caught:
        refuse()
    assert isinstance(caught.value, ConfigError)
    assert isinstance(caught.value, SandboxError)
