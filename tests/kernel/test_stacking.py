"""Layers as context managers: what is entered applies to what runs inside, in this thread or task, until it is left."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator

import pytest

import pysandbox
from pysandbox import (
    PIPE,
    Bind,
    Capabilities,
    CgroupLimits,
    ChrootJail,
    Environment,
    Namespaces,
    Rlimits,
    Sandbox,
    Verdict,
)
from pysandbox.layers import ambient

ASK = ["sh", "-c", "echo $(uname -n) $WHO $(ulimit -n) $(ls -d /given 2>/dev/null)"]


def said(result: pysandbox.Result[bytes]) -> list[str]:
    return (result.stdout or b"").decode().split()


def who(name: str) -> Environment:
    return Environment(set={"WHO": name})


def ask() -> list[str]:
    """What a one-shot run says of the layers that apply to it: host name, $WHO, open files, /given."""
    return said(pysandbox.run(ASK, timeout=20))


@pytest.fixture(autouse=True)
def nothing_active() -> Iterator[None]:
    assert ambient.get() == ()
    yield
    assert ambient.get() == ()


def test_a_run_obeys_the_layers_around_it() -> None:
    with Namespaces(hostname="outer"), ChrootJail(binds=(Bind("/usr", "/given"),)), Rlimits(nofile=33), who("me"):
        assert ask() == ["outer", "me", "33", "/given"]


def test_a_popen_obeys_the_layers_around_it() -> None:
    with Namespaces(hostname="outer"), who("me"), pysandbox.popen(ASK, stdout=PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read().split()[:2] == [b"outer", b"me"]


def test_a_sandbox_obeys_the_layers_around_it() -> None:
    with Namespaces(hostname="outer"), Sandbox() as box:
        assert said(box.run(ASK, timeout=20))[0] == "outer"


@pytest.mark.cgroup
def test_a_run_obeys_the_cgroup_limits_around_it() -> None:
    hog = ["sh", "-c", "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"]
    with Namespaces(), ChrootJail(), CgroupLimits(memory="32M"):
        assert pysandbox.run(hog, timeout=20).verdict is Verdict.MEMORY_EXCEEDED


def test_entering_a_layer_takes_no_protection_away() -> None:
    with who("me"):
        assert Sandbox().enforcement.keys() == Sandbox(who("me")).enforcement.keys()
        assert not pysandbox.run(["test", "-e", "/sys"], timeout=20)


def test_the_order_of_layers_does_not_matter() -> None:
    layers = (Namespaces(hostname="x"), ChrootJail(binds=(Bind("/usr", "/given"),)), Rlimits(nofile=33), who("me"))
    plans = set()
    for one, two, three, four in itertools.permutations(layers):
        with one, two, three, four:
            plans.add(Sandbox().explain())
    assert len(plans) == 1
    assert plans == {Sandbox(*layers).explain()}


@pytest.mark.parametrize("turned", [False, True])
def test_runs_in_either_order_say_the_same(turned: bool) -> None:
    first, second = Namespaces(hostname="x"), who("me")
    if turned:
        first, second = second, first  # type: ignore[assignment]
    with first, second:
        assert ask()[:2] == ["x", "me"]


def test_the_inner_of_two_layers_of_a_type_counts() -> None:
    with Namespaces(hostname="outer"), Namespaces(hostname="inner"):
        assert ask()[0] == "inner"


def test_the_outer_one_counts_again_after_the_inner_block() -> None:
    with Namespaces(hostname="outer"):
        with Namespaces(hostname="inner"):
            pass
        assert ask()[0] == "outer"


def test_an_inner_layer_replaces_the_outer_one_whole() -> None:
    with Namespaces(hostname="outer", uid=5, gid=5), Namespaces(hostname="inner"):
        assert pysandbox.run(["id", "-u"], timeout=20).stdout == b"1000\n"


def test_layers_that_are_passed_win_over_those_around() -> None:
    with Namespaces(hostname="around"), who("around"):
        assert said(pysandbox.run(ASK, Namespaces(hostname="passed"), timeout=20))[:2] == ["passed", "around"]


def test_a_sandboxs_own_layers_win_over_those_around() -> None:
    with Namespaces(hostname="around"), who("around"), Sandbox(Namespaces(hostname="own")) as box:
        assert said(box.run(ASK, timeout=20))[:2] == ["own", "around"]


def test_layers_around_win_over_an_explicit_base() -> None:
    with Environment(set={"WHO": "around"}):
        result = pysandbox.run(["/bin/sh", "-c", "echo $WHO"], base=[who("base")], timeout=20)
    assert result.stdout == b"around\n"


def test_layers_around_apply_where_the_base_is_nothing() -> None:
    with who("around"):
        assert pysandbox.run(["/bin/sh", "-c", "echo $WHO"], base=None, timeout=20).stdout == b"around\n"


def test_an_env_of_the_run_wins_over_all() -> None:
    with who("around"):
        result = pysandbox.run(["/bin/sh", "-c", "echo $WHO"], env={"WHO": "run"}, timeout=20)
    assert result.stdout == b"run\n"


def test_a_sandbox_made_outside_obeys_where_it_is_entered() -> None:
    sandbox = Sandbox()
    with Namespaces(hostname="there"), sandbox as box:
        assert said(box.run(ASK, timeout=20))[0] == "there"


def test_a_box_that_is_there_already_does_not_change() -> None:
    with Sandbox() as box, Namespaces(hostname="later"), who("later"):
        assert said(box.run(ASK, timeout=20))[0] == "sandbox"


def test_after_the_block_nothing_is_active() -> None:
    with Namespaces(hostname="gone"):
        assert len(ambient.get()) == 1
    assert ambient.get() == ()
    assert ask()[0] == "sandbox"


def test_after_an_exception_nothing_is_active() -> None:
    with pytest.raises(ZeroDivisionError), Namespaces(hostname="gone"), who("gone"):
        raise ZeroDivisionError
    assert ambient.get() == ()
    assert ask()[0] == "sandbox"


def test_entering_gives_the_layer_itself() -> None:
    layer = Namespaces(hostname="x")
    with layer as entered:
        assert entered is layer


def test_one_layer_object_can_be_entered_twice_at_once() -> None:
    layer = Namespaces(hostname="twice")
    with layer:
        with layer:
            assert ask()[0] == "twice"
        assert ask()[0] == "twice"


def test_the_calling_process_does_not_change() -> None:
    import os

    before = (os.uname().nodename, os.getcwd(), dict(os.environ), os.listdir("/"), os.getresuid())
    with Namespaces(hostname="other"), ChrootJail(), Rlimits(nofile=33), who("me"), Capabilities():
        ask()
        assert (os.uname().nodename, os.getcwd(), dict(os.environ), os.listdir("/"), os.getresuid()) == before


def test_another_thread_is_not_affected() -> None:
    heard: list[str] = []

    def other() -> None:
        heard.extend(ask())

    with Namespaces(hostname="mine"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert ask()[0] == "mine"
    # threads inherit the context from Python 3.14 on where so configured (sys.flags.thread_inherit_context)
    assert heard[0] in ("sandbox", "mine") if _threads_inherit() else heard[0] == "sandbox"


def _threads_inherit() -> bool:
    import sys

    return bool(getattr(sys.flags, "thread_inherit_context", 0))


def test_threads_with_layers_of_their_own_do_not_mix() -> None:
    heard: dict[str, set[str]] = {}
    both_inside = threading.Barrier(2, timeout=60)

    def other(name: str) -> None:
        with Namespaces(hostname=name):
            both_inside.wait()
            heard[name] = {ask()[0] for _ in range(3)}
            both_inside.wait()

    threads = [threading.Thread(target=other, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == {"one": {"one"}, "two": {"two"}}


def test_tasks_with_layers_of_their_own_do_not_mix() -> None:
    async def task(name: str, started: asyncio.Event, other: asyncio.Event) -> str:
        with Namespaces(hostname=name):
            started.set()
            await other.wait()
            return ask()[0]

    async def both() -> list[str]:
        one, two = asyncio.Event(), asyncio.Event()
        return list(await asyncio.gather(task("one", one, two), task("two", two, one)))

    assert asyncio.run(both()) == ["one", "two"]


def test_a_task_obeys_the_layers_that_were_active_when_it_was_made() -> None:
    async def task(go: asyncio.Event) -> str:
        await go.wait()
        return ask()[0]

    async def main() -> str:
        go = asyncio.Event()
        with Namespaces(hostname="then"):
            made = asyncio.create_task(task(go))
        go.set()
        return await made

    assert asyncio.run(main()) == "then"


def test_a_call_handed_to_a_thread_by_asyncio_obeys_the_tasks_layers() -> None:
    async def main() -> list[str]:
        with Namespaces(hostname="task"):
            return await asyncio.to_thread(ask)

    assert asyncio.run(main())[0] == "task"


def test_a_cancelled_task_leaves_nothing_active() -> None:
    async def task(started: asyncio.Event) -> None:
        with Namespaces(hostname="gone"):
            started.set()
            await asyncio.sleep(1000)

    async def main() -> list[str]:
        started = asyncio.Event()
        made = asyncio.create_task(task(started))
        await started.wait()
        made.cancel()
        with pytest.raises(asyncio.CancelledError):
            await made
        return ask()

    assert asyncio.run(main())[0] == "sandbox"


def test_blocks_that_are_left_in_another_order_than_entered_leave_nothing_active() -> None:
    def steps(name: str) -> Iterator[None]:
        with Namespaces(hostname=name):
            yield

    one, two = steps("one"), steps("two")
    next(one)
    next(two)
    assert next(one, "left") == "left"
    assert next(two, "left") == "left"
    assert ambient.get() == ()
