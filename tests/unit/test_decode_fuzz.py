from __future__ import annotations

import errno
import functools
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pysandbox._native import ffi, lib
from pysandbox.compose import DEFAULT, compose
from pysandbox.plan import KINDS, Argument, Phase, Plan, Step, Verb

HEAD, STEP = 8, 56  # bytes: the count, and struct pb_step of native/steps.h
MAX_STEPS = 4096
FDS = 8
ANSWERS = {0, errno.EINVAL}

INTERESTING = [0, 1, 2, 7, 8, 55, 56, 255, 4096, 4097, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32]
HOSTILE_64 = [*INTERESTING, 2**33, 2**63 - 1, 2**63, 2**64 - 1, (2**32 - 1) << 32, 1 << 32, (1 << 32) | 0xFFFFFFFF]


def check(plan: bytes, nfds: int = FDS) -> tuple[int, int]:
    """The decoder's answer and the step it found bad."""
    bad = ffi.new("uint32_t *")
    bad[0] = 0xDEAD
    return lib.pb_check_plan(plan, len(plan), nfds, bad), int(bad[0])


def plan_of(*steps: tuple[Verb, tuple[Argument, ...]]) -> bytearray:
    return bytearray(Plan(tuple(Step(Phase.ROOT, verb, args, "x") for verb, args in steps)).encoded)


@functools.cache
def real_plans() -> tuple[bytes, ...]:
    """The plans of a default box and of a run in it, and of a box from nothing."""
    run = [
        Step(Phase.CGROUP, Verb.CGROUP_ATTACH, (1,), "CgroupLimits"),
        Step(Phase.FILES, Verb.STDIO, (2, 0), "stdio"),
        Step(Phase.FILES, Verb.STDIO, (3, 1), "stdio"),
        Step(Phase.DIRECTORY, Verb.CHDIR, ("/box",), "run"),
        Step(Phase.EXEC, Verb.EXEC, (("/bin/a", "/usr/bin/a"), ("a", "", "-x"), ("A=1", "B=2")), "run"),
    ]
    full, bare = compose((), DEFAULT, False), compose((), None, False)
    return (full.box_plan.encoded, full.run_plan(run).encoded, bare.box_plan.encoded, bare.run_plan(run).encoded)


def put_argument(plan: bytearray, step: int, index: int, value: int) -> None:
    struct.pack_into("=Q", plan, HEAD + step * STEP + 8 + 8 * index, value)


def span(offset: int, length: int) -> int:
    return offset | length << 32


# --- valid plans ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(4), ids=["box", "run", "bare-box", "bare-run"])
def test_a_real_plan_is_valid(index: int) -> None:
    assert check(real_plans()[index])[0] == 0


_VALID: dict[str, Argument] = {"u": 2**64 - 1, "f": FDS - 1, "s": "word", "b": b"\0x\0", "l": ("a", "", "b")}


@pytest.mark.parametrize("verb", Verb, ids=[verb.name for verb in Verb])
def test_every_verb_with_arguments_of_its_kinds_is_valid(verb: Verb) -> None:
    assert check(bytes(plan_of((verb, tuple(_VALID[kind[0]] for kind in KINDS[verb])))))[0] == 0


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        (Verb.TIME_OFFSETS, ("",)),
        (Verb.WRITE_FILE, ("/a", b"", 0)),
        (Verb.EXEC, ((), (), ())),
        (Verb.EXEC, (("",), ("", ""), ())),
        (Verb.CGROUP_ATTACH, (0,)),
    ],
)
def test_empty_arguments_are_valid(verb: Verb, args: tuple[Argument, ...]) -> None:
    assert check(bytes(plan_of((verb, args))))[0] == 0


@pytest.mark.parametrize("fault", [1, errno.EPERM, 4095])
def test_a_fault_that_is_an_errno_is_valid(fault: int) -> None:
    assert check(Plan((Step(Phase.ENTER, Verb.CHROOT, (), "x", fault),)).encoded)[0] == 0


def test_an_empty_plan_is_valid() -> None:
    assert check(bytes(8))[0] == 0


def test_as_many_steps_as_allowed_are_valid() -> None:
    assert check(struct.pack("=Q", MAX_STEPS) + struct.pack("=HHI6Q", Verb.CHROOT, *[0] * 8) * MAX_STEPS)[0] == 0


def test_data_that_no_step_points_to_is_valid() -> None:
    assert check(bytes(plan_of((Verb.CHROOT, ()))) + b"anything")[0] == 0


@pytest.mark.parametrize("shift", range(1, 8))
def test_a_plan_at_any_address_is_valid(shift: int) -> None:
    plan = real_plans()[1]
    assert check(memoryview(bytes(shift) + plan)[shift:].tobytes())[0] == 0


# --- each kind of malformation, and the step it is found in ---------------------------------------------------

GOOD = (Verb.CHDIR, ("/box",))


def _no_nul(plan: bytearray) -> None:
    plan[-1] = ord("x")


def _nul_inside(plan: bytearray) -> None:
    plan[-3] = 0


def _empty_span(plan: bytearray) -> None:
    put_argument(plan, 2, 0, span(0, 0))


def _only_half(plan: bytearray) -> None:
    put_argument(plan, 2, 0, span(10, 2))


def _nul_before(plan: bytearray) -> None:
    put_argument(plan, 2, 0, span(8, 7))


def _length_past_the_end(plan: bytearray) -> None:
    put_argument(plan, 2, 0, span(10, 6))


def _offset_past_the_end(plan: bytearray) -> None:
    put_argument(plan, 2, 0, span(15, 1))


def _largest_offset(plan: bytearray) -> None:
    put_argument(plan, 2, 0, span(2**32 - 1, 1))


def _largest_length(plan: bytearray) -> None:
    put_argument(plan, 2, 0, span(0, 2**32 - 1))


def _both_largest(plan: bytearray) -> None:
    put_argument(plan, 2, 0, span(2**32 - 1, 2**32 - 1))


def _sum_that_wraps_in_32_bits(plan: bytearray) -> None:
    put_argument(plan, 2, 0, span(2**32 - 5, 10))


def _unknown_verb(plan: bytearray) -> None:
    struct.pack_into("=H", plan, HEAD + 2 * STEP, len(Verb))


def _largest_verb(plan: bytearray) -> None:
    struct.pack_into("=H", plan, HEAD + 2 * STEP, 0xFFFF)


def _reserved(plan: bytearray) -> None:
    struct.pack_into("=H", plan, HEAD + 2 * STEP + 2, 1)


def _fault_past_the_last_errno(plan: bytearray) -> None:
    struct.pack_into("=I", plan, HEAD + 2 * STEP + 4, 4096)


def _largest_fault(plan: bytearray) -> None:
    struct.pack_into("=I", plan, HEAD + 2 * STEP + 4, 0xFFFFFFFF)


_MALFORMATIONS = [
    _no_nul,
    _nul_inside,
    _empty_span,
    _only_half,
    _nul_before,
    _length_past_the_end,
    _offset_past_the_end,
    _largest_offset,
    _largest_length,
    _both_largest,
    _sum_that_wraps_in_32_bits,
    _unknown_verb,
    _largest_verb,
    _reserved,
    _fault_past_the_last_errno,
    _largest_fault,
]


@pytest.mark.parametrize("malform", _MALFORMATIONS, ids=[malform.__name__.lstrip("_") for malform in _MALFORMATIONS])
def test_a_malformed_step_is_refused_by_its_index(malform: object) -> None:
    plan = plan_of(GOOD, GOOD, GOOD)
    assert check(bytes(plan))[0] == 0
    assert len(plan) == HEAD + 3 * STEP + 15
    assert callable(malform)
    malform(plan)
    assert check(bytes(plan)) == (errno.EINVAL, 2)


def test_the_first_of_two_malformed_steps_is_named() -> None:
    plan = plan_of(GOOD, GOOD, GOOD, GOOD)
    put_argument(plan, 1, 0, span(0, 0))
    put_argument(plan, 3, 0, span(0, 0))
    assert check(bytes(plan)) == (errno.EINVAL, 1)


@pytest.mark.parametrize(("fd", "nfds"), [(1, 1), (0, 0), (8, 8), (2**32, 8), (2**64 - 1, 8), (2**63, 2**32 - 1)])
def test_a_descriptor_out_of_range_is_refused_by_its_index(fd: int, nfds: int) -> None:
    plan = plan_of(GOOD, (Verb.CGROUP_ATTACH, (0,)))
    put_argument(plan, 1, 0, fd)
    assert check(bytes(plan), nfds) == (errno.EINVAL, 1)


@pytest.mark.parametrize(("fd", "nfds"), [(0, 1), (7, 8), (2**32 - 2, 2**32 - 1)])
def test_the_last_descriptor_of_the_range_is_valid(fd: int, nfds: int) -> None:
    plan = plan_of(GOOD, (Verb.CGROUP_ATTACH, (0,)))
    put_argument(plan, 1, 0, fd)
    assert check(bytes(plan), nfds)[0] == 0


@pytest.mark.parametrize("index", range(3), ids=["candidates", "argv", "env"])
def test_a_list_without_its_last_nul_is_refused(index: int) -> None:
    plan = plan_of(GOOD, (Verb.EXEC, (("a",), ("b",), ("c",))))
    put_argument(plan, 1, index, span(5 + 2 * index, 1))
    assert check(bytes(plan)) == (errno.EINVAL, 1)


@pytest.mark.parametrize("value", [span(0, 100), span(2**32 - 1, 1), span(1, 2**32 - 1), 2**64 - 1])
@pytest.mark.parametrize(
    ("verb", "args", "index"),
    [(Verb.WRITE_FILE, ("/a", b"x", 0), 1), (Verb.EXEC, (("a",), ("b",), ("c",)), 1), (Verb.SYSCTL, ("a", "b"), 1)],
    ids=["bytes", "list", "string"],
)
def test_a_span_past_the_end_is_refused_for_every_kind(
    verb: Verb, args: tuple[Argument, ...], index: int, value: int
) -> None:
    plan = plan_of(GOOD, (verb, args))
    put_argument(plan, 1, index, value)
    assert check(bytes(plan)) == (errno.EINVAL, 1)


@pytest.mark.parametrize(
    "count", [2, 3, MAX_STEPS + 1, 2**16, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1, 2**64 // 56 + 1]
)
def test_a_count_of_more_steps_than_there_are_is_refused(count: int) -> None:
    plan = plan_of((Verb.CHROOT, ()))
    struct.pack_into("=Q", plan, 0, count)
    assert check(bytes(plan)) == (errno.EINVAL, 0)


def test_one_step_more_than_allowed_is_refused() -> None:
    count = MAX_STEPS + 1
    assert check(struct.pack("=Q", count) + struct.pack("=HHI6Q", Verb.CHROOT, *[0] * 8) * count) == (errno.EINVAL, 0)


@pytest.mark.parametrize("size", range(8))
def test_less_than_a_count_is_refused(size: int) -> None:
    assert check(bytes(size)) == (errno.EINVAL, 0)


@pytest.mark.parametrize("index", range(4), ids=["box", "run", "bare-box", "bare-run"])
def test_a_real_plan_that_ends_within_its_steps_is_refused(index: int) -> None:
    plan = real_plans()[index]
    steps_end = HEAD + STEP * struct.unpack_from("=Q", plan)[0]
    for size in range(steps_end):
        assert check(plan[:size])[0] == errno.EINVAL, size


@pytest.mark.parametrize("index", range(2), ids=["box", "run"])
def test_a_real_plan_that_ends_within_its_data_is_refused(index: int) -> None:
    plan = real_plans()[index]
    steps_end = HEAD + STEP * struct.unpack_from("=Q", plan)[0]
    for size in range(steps_end, len(plan)):
        assert check(plan[:size])[0] == errno.EINVAL, size


@pytest.mark.parametrize("kind", ["s", "l", "b", "f", "u"])
def test_each_kind_of_argument_is_one_that_a_verb_has(kind: str) -> None:
    assert any(name[0] == kind for names in KINDS.values() for name in names)


# --- anything at all -----------------------------------------------------------------------------------------


def refuse_or_accept(plan: bytes, nfds: int = FDS) -> None:
    error, bad = check(plan, nfds)
    assert error in ANSWERS
    if error:
        count = struct.unpack_from("=Q", plan)[0] if len(plan) >= HEAD else 0
        assert bad == 0 or bad < count


@given(plan=st.binary(max_size=400), nfds=st.integers(0, 2**32 - 1))
@settings(deadline=None, database=None, max_examples=400)
@example(plan=b"", nfds=0)
def test_any_bytes_are_a_plan_or_refused(plan: bytes, nfds: int) -> None:
    refuse_or_accept(plan, nfds)


_ANY_STEP = st.builds(
    lambda verb, reserved, args: struct.pack("=HHI6Q", verb, *reserved, *args),
    st.integers(0, len(Verb) + 1),
    st.sampled_from([(0, 0), (0, 0), (0, 0), (1, 0), (0, 1)]),
    st.lists(
        st.sampled_from(HOSTILE_64) | st.builds(span, st.integers(0, 40), st.integers(0, 40)), min_size=6, max_size=6
    ),
)


@given(steps=st.lists(_ANY_STEP, max_size=6), data=st.binary(max_size=40), more=st.sampled_from([0, 0, 0, 1, 2**60]))
@settings(deadline=None, database=None, max_examples=400)
def test_any_steps_are_a_plan_or_refused(steps: list[bytes], data: bytes, more: int) -> None:
    refuse_or_accept(struct.pack("=Q", len(steps) + more) + b"".join(steps) + data)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real plan with bytes flipped, numbers replaced, cut or lengthened."""
    plan = bytearray(draw(st.sampled_from(real_plans())))
    for _ in range(draw(st.integers(1, 6))):
        how = draw(st.sampled_from(["flip", "number", "half", "verb", "count", "cut", "extend", "swap"]))
        count = max(0, len(plan) - HEAD) // STEP
        if how == "flip" and plan:
            plan[draw(st.integers(0, len(plan) - 1))] ^= draw(st.integers(1, 255))
        elif how == "number" and count:
            at = HEAD + 8 * draw(st.integers(0, count * STEP // 8 - 1))
            struct.pack_into("=Q", plan, at, draw(st.sampled_from(HOSTILE_64)))
        elif how == "half" and count:
            at = HEAD + 4 * draw(st.integers(0, count * STEP // 4 - 1))
            struct.pack_into("=I", plan, at, draw(st.sampled_from(INTERESTING[:-1])))
        elif how == "verb" and count:
            at = HEAD + STEP * draw(st.integers(0, count - 1))
            struct.pack_into("=H", plan, at, draw(st.integers(0, len(Verb) + 2)))
        elif how == "count" and len(plan) >= HEAD:
            struct.pack_into("=Q", plan, 0, draw(st.sampled_from(HOSTILE_64) | st.integers(0, count + 2)))
        elif how == "cut":
            del plan[draw(st.integers(0, len(plan))) :]
        elif how == "extend":
            plan += draw(st.binary(max_size=100))
        elif how == "swap" and count > 1:
            one, two = (HEAD + STEP * draw(st.integers(0, count - 1)) for _ in range(2))
            plan[one : one + STEP], plan[two : two + STEP] = plan[two : two + STEP], plan[one : one + STEP]
    return bytes(plan)


@given(plan=mutated(), nfds=st.sampled_from([0, 1, FDS, 2**32 - 1]))
@settings(deadline=None, database=None, max_examples=800)
def test_a_mutated_real_plan_is_a_plan_or_refused(plan: bytes, nfds: int) -> None:
    refuse_or_accept(plan, nfds)


@given(which=st.integers(0, 3), where=st.integers(0, 2**32), bit=st.integers(0, 7))
@settings(deadline=None, database=None, max_examples=400)
def test_a_flipped_bit_in_a_reserved_field_is_refused_by_its_index(which: int, where: int, bit: int) -> None:
    plan = bytearray(real_plans()[which])
    step = where % int(struct.unpack_from("=Q", plan)[0])
    plan[HEAD + STEP * step + 2 + where % 2] ^= 1 << bit
    assert check(bytes(plan)) == (errno.EINVAL, step)
