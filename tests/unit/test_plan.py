from __future__ import annotations

import dataclasses
import pickle
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysandbox.compose import DEFAULT, compose
from pysandbox.plan import KINDS, Argument, Blueprint, CgroupRequest, Facts, IdRequest, Phase, Plan, Step, Verb

# --- native/steps.h, read by hand ----------------------------------------------------------------------------

_STEP = struct.Struct("=HHIQQQQQQ")  # struct pb_step: verb, reserved, fault, arg[6]


def decode(encoded: bytes) -> list[tuple[Verb, tuple[Argument, ...], int]]:
    """A plan's steps (verb, arguments, fault), from its bytes alone."""
    (count,) = struct.unpack_from("=Q", encoded)
    data = encoded[8 + count * _STEP.size :]
    found = []
    for index in range(count):
        number, reserved, fault, *numbers = _STEP.unpack_from(encoded, 8 + index * _STEP.size)
        assert reserved == 0
        verb = Verb(number)
        kinds = KINDS[verb]
        assert not any(numbers[len(kinds) :])
        values = tuple(_value(kind[0], at, data) for kind, at in zip(kinds, numbers, strict=False))
        found.append((verb, values, fault))
    return found


def _value(kind: str, number: int, data: bytes) -> Argument:
    if kind in "uf":
        return number
    offset, length = number & 0xFFFFFFFF, number >> 32
    piece = data[offset : offset + length]
    assert len(piece) == length
    if kind == "b":
        return piece
    if kind == "l":
        assert not piece or piece.endswith(b"\0")
        return tuple(word.decode("utf-8", "surrogateescape") for word in piece.split(b"\0")[:-1])
    assert piece.endswith(b"\0")
    assert piece.count(b"\0") == 1
    return piece[:-1].decode("utf-8", "surrogateescape")


_WORD = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20) | st.just("\udcff")
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "u": st.integers(0, (1 << 64) - 1),
    "f": st.integers(0, 250),
    "s": _WORD,
    "b": st.binary(max_size=40),
    "l": st.lists(_WORD, max_size=5).map(tuple),
}


@st.composite
def steps(draw: st.DrawFn) -> Step:
    verb = draw(st.sampled_from(Verb))
    args = tuple(draw(_VALUES[kind[0]]) for kind in KINDS[verb])
    return Step(draw(st.sampled_from(Phase)), verb, args, "test", draw(st.sampled_from([0, 0, 1, 4095])))


@given(made=st.lists(steps(), max_size=12))
@settings(deadline=None, database=None)
def test_an_encoded_plan_decodes_to_its_steps(made: list[Step]) -> None:
    assert decode(Plan(tuple(made)).encoded) == [(step.verb, step.args, step.fault) for step in made]


def test_the_default_box_plan_decodes_to_its_steps() -> None:
    plan = compose((), DEFAULT, False).box_plan
    assert decode(plan.encoded) == [(step.verb, step.args, 0) for step in plan]


def test_an_empty_plan_is_a_count_of_zero() -> None:
    assert Plan(()).encoded == bytes(8)


def test_a_step_takes_56_bytes() -> None:
    assert len(Plan((Step(Phase.ENTER, Verb.PIVOT_ROOT, (), "x"),)).encoded) == 8 + 56


def test_a_negative_number_is_encoded_as_its_two_s_complement() -> None:
    encoded = Plan((Step(Phase.LIMITS, Verb.SETRLIMIT, (1, -1, -1), "x"),)).encoded
    assert decode(encoded) == [(Verb.SETRLIMIT, (1, (1 << 64) - 1, (1 << 64) - 1), 0)]


def test_an_empty_string_still_has_its_nul() -> None:
    encoded = Plan((Step(Phase.SYSTEM, Verb.TIME_OFFSETS, ("",), "x"),)).encoded
    assert encoded.endswith(b"\0")
    assert decode(encoded) == [(Verb.TIME_OFFSETS, ("",), 0)]


def test_names_that_are_no_utf_8_are_carried_as_their_bytes() -> None:
    encoded = Plan((Step(Phase.DIRECTORY, Verb.CHDIR, ("/\udcff",), "x"),)).encoded
    assert encoded.endswith(b"/\xff\0")


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        (Verb.SETRLIMIT, (1, 2)),
        (Verb.SETRLIMIT, (1, 2, 3, 4)),
        (Verb.SETRLIMIT, ()),
        (Verb.CAPBSET, ()),
        (Verb.SYSCTL, ("a",)),
        (Verb.SYSCTL, ("a", "b", "c")),
    ],
)
def test_a_wrong_number_of_arguments_is_no_step_that_can_be_encoded(verb: Verb, args: tuple[Argument, ...]) -> None:
    with pytest.raises(ValueError):
        Plan((Step(Phase.LIMITS, verb, args, "x"),)).encoded  # noqa: B018


# --- order ---------------------------------------------------------------------------------------------------

FACTS = Facts(
    caller_uid=1000,
    caller_gid=1000,
    privileged=False,
    namespaces=frozenset(),
    uid=1000,
    gid=1000,
    has_root=False,
    workdir="/box",
    init_uid=1000,
    init_gid=1000,
)


def test_phases_are_in_the_order_of_the_design() -> None:
    names = (
        "SOURCES MACHINE INIT_IDS ROOT MOUNTS SYSTEM MASKS ENTER SEAL PRIVILEGES "
        "CGROUP IDENTITY LIMITS NO_NEW_PRIVS LANDLOCK SECCOMP EXEC"
    )
    order = [Phase[name] for name in names.split()]
    assert order == sorted(order)


def test_nothing_comes_after_seccomp_but_exec() -> None:
    assert sorted(Phase)[-2:] == [Phase.SECCOMP, Phase.EXEC]


def test_a_step_fails_for_tests_only() -> None:
    assert {step.fault for step in compose((), DEFAULT, False).box_plan} == {0}


@given(phases=st.lists(st.sampled_from([phase for phase in Phase if phase < Phase.CGROUP]), max_size=20))
@settings(deadline=None, database=None)
def test_steps_are_sorted_by_phase_and_keep_their_order_within_one(phases: list[Phase]) -> None:
    blueprint = Blueprint(FACTS)
    for index, phase in enumerate(phases):
        blueprint.add("x", phase, Verb.UMASK, index)
    done = [(step.phase, step.args[0]) for step in blueprint.box_plan]
    assert done == sorted((phase, index) for index, phase in enumerate(phases))


@pytest.mark.parametrize("phase", Phase, ids=[phase.name for phase in Phase])
def test_a_step_goes_to_the_box_or_to_each_run_by_its_phase(phase: Phase) -> None:
    blueprint = Blueprint(FACTS)
    blueprint.add("x", phase, Verb.UMASK, 0)
    in_run = bool(blueprint.run_plan([]).steps)
    assert in_run is (phase >= Phase.CGROUP)
    assert bool(blueprint.box_plan.steps) is not in_run


def test_more_steps_of_a_run_come_after_the_layers_own_of_the_same_phase() -> None:
    blueprint = Blueprint(FACTS)
    blueprint.add("layer", Phase.LIMITS, Verb.SETRLIMIT, 1, 2, 3)
    more = [Step(Phase.LIMITS, Verb.SETRLIMIT, (4, 5, 6), "run"), Step(Phase.FILES, Verb.STDIO, (1, 0), "stdio")]
    assert [step.layer for step in blueprint.run_plan(more)] == ["stdio", "layer", "run"]


def test_a_run_plan_leaves_nothing_of_its_run_in_the_blueprint() -> None:
    blueprint = Blueprint(FACTS)
    blueprint.run_plan([Step(Phase.EXEC, Verb.EXEC, ((), (), ()), "run")])
    assert blueprint.run_plan([]).steps == ()


def test_tree_slots_are_fresh() -> None:
    blueprint = Blueprint(FACTS)
    assert [blueprint.tree() for _ in range(3)] == [0, 1, 2]


# --- printing ------------------------------------------------------------------------------------------------

SECRET = Step(Phase.EXEC, Verb.EXEC, (("/bin/a",), ("a", "-x"), ("TOKEN=hunter2", "A=1")), "run")


def test_printing_a_step_hides_the_environment() -> None:
    assert str(SECRET) == "exec(candidates=('/bin/a',), argv=('a', '-x'), env='<2 variables>')"


def test_printing_a_plan_hides_the_environment() -> None:
    text = str(Plan((SECRET,)))
    assert "hunter2" not in text
    assert "TOKEN" not in text


def test_the_arguments_of_an_error_hide_the_environment() -> None:
    assert "hunter2" not in str(SECRET.arguments())


def test_printing_a_step_hides_the_content_of_files() -> None:
    step = Step(Phase.MOUNTS, Verb.WRITE_FILE, ("/etc/x", b"hunter2", 0o444), "ChrootJail")
    assert str(step) == "write_file(path='/etc/x', content='<7 bytes>', mode='0o444')"


@pytest.mark.parametrize(
    ("verb", "args", "shown"),
    [
        (Verb.UMASK, (0o022,), "umask(mask='0o22')"),
        (Verb.CAPSET, (0x400,), "capset(keep='0x400')"),
        (Verb.ATTACH_TREE, (3, "/usr", 7), "attach_tree(slot=3, target='/usr', attributes='0x7')"),
        (Verb.PIVOT_ROOT, (), "pivot_root()"),
    ],
)
def test_a_step_is_printed_as_a_call_in_the_kernel_s_bases(verb: Verb, args: tuple[Argument, ...], shown: str) -> None:
    assert str(Step(Phase.ROOT, verb, args, "x")) == shown


def test_a_plan_is_printed_one_line_a_step_with_its_layer() -> None:
    plan = Plan(
        (
            Step(Phase.ENTER, Verb.PIVOT_ROOT, (), "ChrootJail"),
            Step(Phase.SYSTEM, Verb.SETHOSTNAME, ("sandbox",), "Namespaces"),
        )
    )
    assert str(plan).splitlines() == ["  ChrootJail  pivot_root()", "  Namespaces  sethostname(name='sandbox')"]


def test_an_empty_plan_prints_as_nothing() -> None:
    assert str(Plan(())) == ""


# --- plain data ----------------------------------------------------------------------------------------------


def test_plans_compare_by_their_steps() -> None:
    assert Plan((SECRET,)) == Plan((dataclasses.replace(SECRET),))
    assert Plan((SECRET,)) != Plan(())


def test_plans_are_hashable_and_survive_pickling() -> None:
    plan = Plan((SECRET,))
    twin = pickle.loads(pickle.dumps(plan))
    assert twin == plan
    assert hash(twin) == hash(plan)
    assert twin.encoded == plan.encoded


def test_iterating_over_a_plan_gives_its_steps() -> None:
    assert list(Plan((SECRET, SECRET))) == [SECRET, SECRET]


@pytest.mark.parametrize("value", [SECRET, Plan(()), FACTS, IdRequest(1, 1), CgroupRequest()])
def test_what_a_plan_is_made_of_is_frozen(value: Any) -> None:
    name = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, 1)


def test_a_cgroup_request_is_asked_for_unless_said_otherwise() -> None:
    assert CgroupRequest().asked is True


def test_an_error_shows_a_piece_of_a_long_command_line() -> None:
    words = ("prog", "x" * 100_000, *map(str, range(1000)))
    step = Step(Phase.EXEC, Verb.EXEC, (("/bin/prog",), words, ()), "run")
    assert len(str(step)) < 1000
    assert "<99700 more>" in str(step)
    assert "<982 more>" in str(step)
    short = Step(Phase.EXEC, Verb.EXEC, (("/bin/prog",), ("prog", "-x"), ()), "run")
    assert short.arguments()["argv"] == ("prog", "-x")
