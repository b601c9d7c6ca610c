from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import dataclasses
import functools
import math
import os
import pickle
import threading
from collections.abc import Callable, Generator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from pysandbox import (
    Bind,
    Capabilities,
    CgroupLimits,
    ChrootJail,
    ConfigError,
    Environment,
    Layer,
    Namespaces,
    Rlimits,
    Tmpfs,
)
from pysandbox.layers import ambient

KINDS: list[type[Any]] = [Namespaces, ChrootJail, CgroupLimits, Rlimits, Environment, Capabilities]
NAMES = [kind.__name__ for kind in KINDS]

#: two different ones of each type
PAIRS: dict[str, tuple[Any, Any]] = {
    "Namespaces": (Namespaces(hostname="one", net=False), Namespaces(uid=5, monotonic_offset=1.5)),
    "ChrootJail": (
        ChrootJail("/srv", writable=True, hide=("/a",), tmpfs=Tmpfs("/t", size="1M")),  # type: ignore[arg-type]
        ChrootJail(binds=(Bind("/opt", writable=True),), files={"/a": "text"}, symlinks={"/l": "a"}),
    ),
    "CgroupLimits": (CgroupLimits(memory="64M", pids=3), CgroupLimits(memory="32M", swap="1M", cpus=0.5)),
    "Rlimits": (Rlimits(nofile=64, fsize="16M"), Rlimits(cpu=1, core=None)),
    "Environment": (Environment(allow=("TERM",), set={"A": "1"}), Environment(clean=False)),
    "Capabilities": (Capabilities(keep=("net_bind_service",)), Capabilities(keep=("chown", "kill"))),
}
EXAMPLES = [layer for pair in PAIRS.values() for layer in pair] + [kind() for kind in KINDS]
IDS = [f"{type(layer).__name__}{index}" for index, layer in enumerate(EXAMPLES)]
PARTS = [Bind("/opt", "/data", writable=True, optional=True), Tmpfs("/t", size="1M", inodes=9, mode=0o700)]

# --- frozen data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [*EXAMPLES, *PARTS], ids=[*IDS, "Bind", "Tmpfs"])
def test_a_layer_is_frozen(value: Any) -> None:
    for field in dataclasses.fields(value):
        with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
            setattr(value, field.name, None)


@pytest.mark.parametrize("value", [*EXAMPLES, *PARTS], ids=[*IDS, "Bind", "Tmpfs"])
def test_a_layer_takes_no_new_attributes(value: Any) -> None:
    with pytest.raises((AttributeError, TypeError)):
        value.memroy = 1


@pytest.mark.parametrize("value", [*EXAMPLES, *PARTS], ids=[*IDS, "Bind", "Tmpfs"])
def test_a_layer_survives_pickling_and_copying(value: Any) -> None:
    pickled = [pickle.loads(pickle.dumps(value, p)) for p in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    for twin in (*pickled, copy.copy(value), copy.deepcopy(value), dataclasses.replace(value)):
        assert twin == value
        assert hash(twin) == hash(value)
        assert repr(twin) == repr(value)


@pytest.mark.parametrize("value", [*EXAMPLES, *PARTS], ids=[*IDS, "Bind", "Tmpfs"])
def test_the_repr_of_a_layer_makes_it_again(value: Any) -> None:
    assert eval(repr(value)) == value


@pytest.mark.parametrize("name", NAMES)
def test_layers_with_the_same_fields_are_equal(name: str) -> None:
    one, other = PAIRS[name]
    assert one == dataclasses.replace(one)
    assert one != other
    assert len({one, dataclasses.replace(one), other}) == 2


@pytest.mark.parametrize(
    ("one", "same"),
    [
        (CgroupLimits(memory="64M"), CgroupLimits(memory=64 << 20)),
        (CgroupLimits(cpus=1), CgroupLimits(cpus=1.0)),
        (Rlimits(fsize="1K"), Rlimits(fsize=1024)),
        (ChrootJail("/srv"), ChrootJail(root="/srv")),
        (ChrootJail(PurePosixPath("/srv")), ChrootJail("/srv")),
        (ChrootJail(size="1M"), ChrootJail(size=1 << 20)),
        (ChrootJail(files={"/a": "x", "/b": "y"}), ChrootJail(files={"/b": b"y", "/a": b"x"})),
        (ChrootJail(binds=Bind("/a")), ChrootJail(binds=[Bind("/a", "/a")])),  # type: ignore[arg-type]
        (ChrootJail(hide=["/a/"]), ChrootJail(hide=("/a",))),  # type: ignore[arg-type]
        (Environment(set={"A": "1", "B": "2"}), Environment(set=[("B", "2"), ("A", "1")])),
        (Environment(allow="TERM"), Environment(allow=("TERM",))),  # type: ignore[arg-type]
        (Capabilities(keep="CAP_CHOWN"), Capabilities(keep=("chown",))),  # type: ignore[arg-type]
        (Capabilities(keep=("kill", "chown", "kill")), Capabilities(keep=("chown", "kill"))),
    ],
)
def test_two_spellings_of_one_layer_are_equal(one: Layer, same: Layer) -> None:
    assert one == same
    assert hash(one) == hash(same)


def test_layers_of_different_types_are_unequal() -> None:
    assert len({kind() for kind in KINDS}) == len(KINDS)


def test_a_layer_does_not_change_with_what_it_was_made_of() -> None:
    variables, files, binds = {"A": "1"}, {"/a": "x"}, [Bind("/opt")]
    environment, jail = Environment(set=variables), ChrootJail(files=files, binds=binds)  # type: ignore[arg-type]
    variables["A"] = "2"
    files["/b"] = "y"
    binds.append(Bind("/srv"))
    assert environment == Environment(set={"A": "1"})
    assert jail == ChrootJail(files={"/a": "x"}, binds=(Bind("/opt"),))


@pytest.mark.parametrize("part", ["CgroupLimits(", "memory=67108864", "pids=3"])
def test_the_repr_of_a_layer_says_what_it_is(part: str) -> None:
    assert part in repr(PAIRS["CgroupLimits"][0])


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_a_layer_is_called_by_its_type(kind: type[Any]) -> None:
    assert kind().name == kind.__name__


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not ChrootJail])
def test_a_layer_takes_keywords_only(kind: type[Any]) -> None:
    with pytest.raises(TypeError):
        kind(1)


def test_the_root_of_a_jail_may_be_positional_and_nothing_else() -> None:
    assert ChrootJail("/srv").root == "/srv"
    with pytest.raises(TypeError):
        ChrootJail("/srv", True)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_an_unknown_keyword_is_a_type_error(kind: type[Any]) -> None:
    with pytest.raises(TypeError, match="memroy"):
        kind(memroy=1)


# --- bad values ----------------------------------------------------------------------------------------------

FLAGS = ("user", "pid", "mount", "net", "ipc", "uts", "cgroup", "time", "subordinate")
BAD: list[tuple[type[Any], str, list[Any]]] = [
    *((Namespaces, name, [1, 0, None, "yes"]) for name in FLAGS),
    (Namespaces, "hostname", ["", "-a", "a-", ".a", "a_b", "a b", "a\n", "ä", "a" * 65, "a\0", None, 5, b"a"]),
    (Namespaces, "uid", [-1, (1 << 32) - 1, 1 << 32, True, 1.0, "0", None]),
    (Namespaces, "gid", [-1, (1 << 32) - 1, 1 << 32, True, 1.0, "0", None]),
    (Namespaces, "host_id", [0, -1, (1 << 32) - 2, True, 1.0, "0"]),
    (Namespaces, "monotonic_offset", [math.nan, math.inf, -math.inf, 1e9, -1e9, 10**400, True, "1", None]),
    (Namespaces, "boottime_offset", [math.nan, math.inf, -math.inf, 1e9, -1e9, 10**400, True, "1", None]),
    (CgroupLimits, "memory", ["", "12 parsecs", "-1", 0, -1, 1, "512K", 1 << 61, True, 1.5, math.nan, b"64M"]),
    (CgroupLimits, "swap", ["", -1, True, 1.5, None, 1, "1M"]),  # 1 and "1M" need memory=
    (CgroupLimits, "cpus", [0, -1, 0.001, 1e6, math.nan, math.inf, True, "1", 10**400]),
    (CgroupLimits, "pids", [0, -1, 4194305, True, 1.0, "32"]),
    (Rlimits, "as_", [0, 1, -1, "x", True, 1.5]),
    (Rlimits, "core", [-1, "x", True, 1.5]),
    (Rlimits, "cpu", [0, -1, 1.5, True, "1", math.nan]),
    (Rlimits, "fsize", [-1, "x", True, 1.5, math.nan]),
    (Rlimits, "nofile", [0, 3, -1, True, 1.0, "64"]),
    (Rlimits, "nproc", [0, -1, True, 1.0, "64"]),
    (Rlimits, "stack", [0, 4096, "1K", True]),
    (Rlimits, "nice", [-1, True, "1"]),
    (Environment, "allow", [("A", 1), (b"A",), ("A\0",), ("\ud800",)]),
    (Environment, "allow", [5, None]),
    (Environment, "set", [{"": "1"}, {"A=": "1"}, {"A": 1}, {"A": None}, {"A\0": ""}, {"A": "\0"}, "A=1", 5, None]),
    (Environment, "clean", [1, 0, None, "yes"]),
    (Capabilities, "keep", ["all", "", "cap_", ("chown", "x"), (5,), (None,), ("",), (["chown"],)]),
    (Capabilities, "keep", [5, None]),
    (ChrootJail, "root", ["", "a\0", b"/srv", 5, True]),
    (ChrootJail, "writable", [1, None, "yes", True]),  # True needs a root
    (ChrootJail, "binds", ["/opt", ("/opt",), 5, None, (Tmpfs("/t"),)]),
    (ChrootJail, "tmpfs", ["/t", ("/t",), 5, None, (Bind("/opt"),)]),
    (ChrootJail, "files", ["/a", 5, None, {"a": b""}, {"/": b""}, {"/..": b""}, {"/a": 5}, {"/a": None}, {5: b""}]),
    (
        ChrootJail,
        "symlinks",
        ["/a", 5, None, {"a": "b"}, {"/": "b"}, {"/a": ""}, {"/a": "\0"}, {"/a": 5}, {"/a": b"b"}],
    ),
    (ChrootJail, "hide", ["/a", ("a",), ("/",), ("/a/..",), (5,), ("",)]),
    (ChrootJail, "hide", [5, None]),
    (ChrootJail, "workdir", ["", "box", "/", "/..", "/a/../b", "/" + "n" * 256, 5, b"/box"]),
    (ChrootJail, "size", ["x", 0, 4095, -1, True, 1.5, None]),
    (ChrootJail, "inodes", [0, 1, -1, True, 1.5, "9", None]),
    (ChrootJail, "with_python", [1, None]),
    (ChrootJail, "pivot", [1, None]),
    (ChrootJail, "proc", ["", "host", True, False, None, 5, []]),
    (ChrootJail, "proc_options", ["\0", 5, None, b"subset=pid"]),
]


def _refusal(kind: type[Any], name: str, value: Any) -> str:
    """What is wrong with how a bad value is refused, or nothing."""
    try:
        kind(**{name: value})
    except ConfigError as error:
        told = name.rstrip("s") in str(error) or kind.__name__ in str(error)
        return "" if told else f"{value!r:.60}: the message does not say where: {error}"
    except Exception as error:
        return f"{value!r:.60}: {error!r:.80} instead of ConfigError"
    return f"{value!r:.60}: taken"


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [pytest.param(*row, id=f"{row[0].__name__}-{row[1]}-{index}") for index, row in enumerate(BAD)],
)
def test_each_bad_value_is_a_config_error_that_names_the_layer_or_the_argument(
    kind: type[Any], name: str, values: list[Any]
) -> None:
    assert [told for value in values if (told := _refusal(kind, name, value))] == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: Bind("opt"),
        lambda: Bind(""),
        lambda: Bind("/a/../b"),
        lambda: Bind(5),  # type: ignore[arg-type]
        lambda: Bind("/a\0"),
        lambda: Bind("/"),  # its target would be the root itself
        lambda: Bind("/opt", "data"),
        lambda: Bind("/opt", "/"),
        lambda: Bind("/opt", "/.."),
        lambda: Bind("/opt", writable=1),  # type: ignore[arg-type]
        lambda: Bind("/opt", optional=None),  # type: ignore[arg-type]
        lambda: Tmpfs("t"),
        lambda: Tmpfs("/"),
        lambda: Tmpfs("/t/.."),
        lambda: Tmpfs("/t", size=4095),
        lambda: Tmpfs("/t", size="x"),
        lambda: Tmpfs("/t", inodes=1),
        lambda: Tmpfs("/t", mode=0o10000),
        lambda: Tmpfs("/t", mode=-1),
        lambda: Tmpfs("/t", mode="755"),  # type: ignore[arg-type]
        lambda: Namespaces(monotonic_offset=1.0, time=False),
        lambda: Namespaces(boottime_offset=1.0, time=False),
        lambda: Namespaces(subordinate=True, user=False),
        lambda: CgroupLimits(swap="1M"),
    ],
)
def test_a_bad_part_or_a_contradiction_is_a_config_error(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        make()


@pytest.mark.parametrize("files", [{"/a": b"1", "/a/": b"2"}, {"/a": b"1", "//a": b"2"}])
def test_one_path_of_files_in_two_spellings_is_a_config_error(files: Mapping[str, bytes]) -> None:
    with pytest.raises(ConfigError, match="/a"):
        ChrootJail(files=files)


def test_one_path_of_symlinks_in_two_spellings_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="/a"):
        ChrootJail(symlinks={"/a": "b", "/./a": "c"})


@pytest.mark.parametrize(
    "layer",
    [
        Namespaces(hostname="a" * 64),
        Namespaces(hostname="a.b-c9"),
        Namespaces(uid=0, gid=0),
        Namespaces(uid=(1 << 32) - 2),
        Namespaces(monotonic_offset=-1.5),
        CgroupLimits(memory=1 << 20, pids=1, cpus=0.01),
        CgroupLimits(pids=4194304),
        CgroupLimits(swap=0),
        Rlimits(nofile=4, nproc=1, cpu=1, stack=65536, as_="1M"),
        Rlimits(core=None, fsize=0, nice=0),
        Environment(set={"A": ""}),
        Capabilities(keep=("CAP_NET_ADMIN",)),
        ChrootJail("/srv", writable=True),
        ChrootJail(size=4096, inodes=2),
        ChrootJail(proc="none", pivot=False, with_python=False),
    ],
)
def test_the_least_and_the_most_that_is_allowed_is_taken(layer: Layer) -> None:
    assert dataclasses.replace(layer) == layer  # type: ignore[type-var]


def test_a_bind_without_target_is_shown_at_its_own_path() -> None:
    bind = Bind("/opt/x/")
    assert (bind.source, bind.target) == ("/opt/x", "/opt/x")


def test_a_bind_is_read_only_and_required_unless_said_otherwise() -> None:
    bind = Bind("/opt")
    assert (bind.writable, bind.optional) == (False, False)


@pytest.mark.parametrize(("keep", "mask"), [((), 0), (("chown",), 1), (("net_bind_service", "chown"), 1 | 1 << 10)])
def test_capabilities_are_the_kernel_s_bits(keep: tuple[str, ...], mask: int) -> None:
    assert Capabilities(keep=keep).mask == mask


def test_a_request_has_the_limits_in_numbers() -> None:
    request = CgroupLimits(memory="64M", swap="1M", cpus=1, pids=3).request()
    assert (request.memory, request.swap, request.cpus, request.pids) == (64 << 20, 1 << 20, 1.0, 3)
    assert request.asked is True


# --- the context manager --------------------------------------------------------------------------------------

ONE, TWO, THREE = Namespaces(hostname="one"), Rlimits(nofile=64), Namespaces(hostname="three")


@pytest.mark.parametrize("layer", EXAMPLES, ids=IDS)
def test_a_layer_is_ambient_inside_its_block_and_only_there(layer: Layer) -> None:
    with layer as entered:
        assert entered is layer
        assert ambient.get() == (layer,)
    assert ambient.get() == ()


def test_nested_layers_are_ambient_outermost_first() -> None:
    with ONE:
        with TWO, THREE:
            assert ambient.get() == (ONE, TWO, THREE)
        assert ambient.get() == (ONE,)


def test_an_exception_leaves_the_block_and_is_not_swallowed() -> None:
    with pytest.raises(KeyError), ONE, TWO:
        raise KeyError
    assert ambient.get() == ()


def test_base_exceptions_leave_the_block_too() -> None:
    with pytest.raises(KeyboardInterrupt), ONE:
        raise KeyboardInterrupt
    assert ambient.get() == ()


def test_the_same_object_can_be_entered_twice_at_once() -> None:
    with ONE:
        with ONE:
            assert ambient.get() == (ONE, ONE)
        assert ambient.get() == (ONE,)


def test_the_same_object_can_be_entered_again_later() -> None:
    for _ in range(3):
        with ONE:
            assert ambient.get() == (ONE,)


def test_entering_a_layer_changes_nothing_of_the_process() -> None:
    before = (dict(os.environ), os.getcwd(), os.getuid(), os.getgroups(), os.getpid(), threading.active_count())
    with ChrootJail("/", workdir="/elsewhere"), Environment(set={"PYSANDBOX_TEST": "1"}), Namespaces(), Rlimits(core=1):
        during = (dict(os.environ), os.getcwd(), os.getuid(), os.getgroups(), os.getpid(), threading.active_count())
    after = (dict(os.environ), os.getcwd(), os.getuid(), os.getgroups(), os.getpid(), threading.active_count())
    assert before == during == after


def test_entering_a_layer_does_not_change_the_layer() -> None:
    twin = dataclasses.replace(ONE)
    with ONE:
        assert twin == ONE
        assert pickle.loads(pickle.dumps(ONE)) == twin


def _seen_in_thread(run: Callable[[Callable[[], None]], None]) -> list[tuple[Layer, ...]]:
    seen: list[tuple[Layer, ...]] = []
    thread = threading.Thread(target=lambda: run(lambda: seen.append(ambient.get())))
    thread.start()
    thread.join()
    return seen


def test_a_new_thread_does_not_inherit_the_layers() -> None:
    with ONE:
        assert _seen_in_thread(lambda look: look()) == [()]


def test_a_thread_run_in_a_copy_of_the_context_inherits_the_layers() -> None:
    with ONE:
        assert _seen_in_thread(contextvars.copy_context().run) == [(ONE,)]


def test_a_layer_entered_in_a_thread_is_not_seen_outside_it() -> None:
    entered, looked = threading.Event(), threading.Event()

    def inside() -> None:
        with ONE:
            entered.set()
            looked.wait(30)

    thread = threading.Thread(target=inside)
    thread.start()
    assert entered.wait(30)
    seen = ambient.get()
    looked.set()
    thread.join()
    assert seen == ()


def test_many_threads_may_be_inside_one_layer_at_once() -> None:
    barrier = threading.Barrier(4)
    seen: list[tuple[Layer, ...]] = []

    def inside(mine: Layer) -> None:
        with ONE, mine:
            barrier.wait(30)
            seen.append(ambient.get())
            barrier.wait(30)
        seen.append(ambient.get())

    own = [Rlimits(nofile=64 + index) for index in range(4)]
    threads = [threading.Thread(target=inside, args=(layer,)) for layer in own]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {*((ONE, layer) for layer in own), ()}
    assert seen.count(()) == 4


def test_a_task_inherits_the_layers_around_its_creation() -> None:
    async def look() -> tuple[Layer, ...]:
        await asyncio.sleep(0)
        return ambient.get()

    async def main() -> list[tuple[Layer, ...]]:
        with ONE:
            inside = asyncio.ensure_future(look())
        outside = asyncio.ensure_future(look())
        return [await inside, await outside]

    assert asyncio.run(main()) == [(ONE,), ()]


def test_tasks_do_not_see_each_other_s_layers() -> None:
    async def inside(mine: Layer) -> list[tuple[Layer, ...]]:
        seen = []
        with mine:
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(ambient.get())
        seen.append(ambient.get())
        return seen

    async def main() -> list[list[tuple[Layer, ...]]]:
        return list(await asyncio.gather(inside(ONE), inside(TWO)))

    assert asyncio.run(main()) == [[(ONE,)] * 3 + [()], [(TWO,)] * 3 + [()]]


def test_a_layer_entered_in_a_task_is_gone_after_it() -> None:
    async def inside() -> None:
        with ONE:
            await asyncio.sleep(0)

    async def main() -> tuple[Layer, ...]:
        await asyncio.create_task(inside())
        return ambient.get()

    assert asyncio.run(main()) == ()


# Generators run in their caller's context (PEP 568 was never accepted), so blocks in them need not end in the order
# in which they began.  Leaving one must never take away another's protection.


def in_its_own_context(test: Callable[[], None]) -> Callable[[], None]:
    """What a failing test leaves entered must not reach the next one."""

    @functools.wraps(test)
    def run() -> None:
        try:
            contextvars.Context().run(test)
        finally:
            while _held:
                with contextlib.suppress(ValueError):
                    _held.pop().close()

    return run


_held: list[Generator[tuple[Layer, ...], None, None]] = []


def holding(layer: Layer) -> Generator[tuple[Layer, ...], None, None]:
    """A generator that is inside a layer's block between two items."""
    _held.append(_hold(layer))
    return _held[-1]


def _hold(layer: Layer) -> Generator[tuple[Layer, ...], None, None]:
    with layer:
        while True:
            yield ambient.get()


@in_its_own_context
def test_a_generator_run_to_its_end_leaves_nothing() -> None:
    generator = holding(ONE)
    assert next(generator) == (ONE,)
    generator.close()
    assert ambient.get() == ()


@in_its_own_context
def test_closing_a_generator_inside_a_later_block_keeps_that_block_s_layer() -> None:
    generator = holding(ONE)
    next(generator)
    with TWO:
        generator.close()
        assert ambient.get() == (TWO,)
    assert ambient.get() == ()


@in_its_own_context
def test_two_generators_may_be_closed_in_the_order_they_were_started() -> None:
    first, second = holding(ONE), holding(TWO)
    next(first)
    next(second)
    first.close()
    assert ambient.get() == (TWO,)
    second.close()
    assert ambient.get() == ()


@in_its_own_context
def test_a_block_left_in_another_context_than_it_was_entered_in_is_no_error() -> None:
    generator = holding(ONE)
    assert contextvars.copy_context().run(next, generator) == (ONE,)
    assert ambient.get() == ()
    generator.close()
    assert ambient.get() == ()


@in_its_own_context
def test_a_block_left_in_another_context_keeps_that_context_s_layers() -> None:
    generator = holding(ONE)
    contextvars.copy_context().run(next, generator)
    with TWO:
        generator.close()
        assert ambient.get() == (TWO,)
    assert ambient.get() == ()


@in_its_own_context
def test_a_block_left_in_a_copy_of_its_context_is_left_there() -> None:
    seen: list[tuple[Layer, ...]] = []

    def leave(generator: Generator[object, None, None]) -> None:
        generator.close()
        seen.append(ambient.get())

    def enter_and_leave() -> None:
        generator = holding(ONE)
        next(generator)
        with TWO:
            contextvars.copy_context().run(leave, generator)
            seen.append(ambient.get())

    contextvars.copy_context().run(enter_and_leave)
    assert seen == [(TWO,), (ONE, TWO)]


def test_async_generators_closed_in_another_task_leave_the_layers_there_alone() -> None:
    async def stream() -> Any:
        with ONE:
            while True:
                yield ambient.get()

    async def main() -> list[tuple[Layer, ...]]:
        source = stream()
        seen = [await asyncio.create_task(source.__anext__())]
        with TWO:
            await source.aclose()
            seen.append(ambient.get())
        return seen

    assert asyncio.run(main()) == [(ONE,), (TWO,)]


def test_a_partial_of_a_layer_is_no_surprise() -> None:
    limits = functools.partial(CgroupLimits, memory="64M")
    assert limits(pids=3) == CgroupLimits(memory="64M", pids=3)


@pytest.mark.parametrize("path", [Path("/srv"), PurePosixPath("/srv"), "/srv"])
def test_roots_and_paths_may_be_path_objects(path: str | os.PathLike[str]) -> None:
    assert ChrootJail(path).root == "/srv"
    assert Bind(path).source == "/srv"
    assert Tmpfs(path).target == "/srv"
