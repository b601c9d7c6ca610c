"""Every step of a full plan fails in turn: the error names exactly that step, and nothing is left (see conftest)."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

import pysandbox
from pysandbox import Bind, Capabilities, ChrootJail, Environment, Namespaces, Rlimits, Sandbox, SetupError, Tmpfs
from pysandbox.compose import DEFAULT, compose
from pysandbox.launch import _Launcher
from pysandbox.plan import Plan, Step


def full_layers() -> tuple[object, ...]:
    """Layers that use nearly every verb."""
    jail = ChrootJail(
        binds=(Bind("/usr/share", "/data"),),
        tmpfs=(Tmpfs("/scratch", size="1M"),),
        files={"/etc/greeting": "hello"},
        symlinks={"/greeting": "/etc/greeting"},
        hide=("/usr/include",),
    )
    return (Namespaces(), jail, Rlimits(nofile=64, fsize="16M"), Environment(set={"A": "1"}), Capabilities())


def faulty(plan: Plan, index: int) -> Plan:
    steps = list(plan.steps)
    steps[index] = replace(steps[index], fault=errno.EXDEV)
    return Plan(tuple(steps))


BOX_STEPS = len(compose(full_layers(), DEFAULT, False).box_plan.steps)


def test_every_failing_step_of_the_box_is_named_and_leaves_nothing() -> None:
    for index in range(BOX_STEPS):
        blueprint = compose(full_layers(), DEFAULT, False)
        expected = blueprint.box_plan.steps[index]
        broken = replace(
            blueprint, box_steps=[replace(s, fault=errno.EXDEV * (s is expected)) for s in blueprint.box_steps]
        )
        with pytest.raises(SetupError) as caught:
            pysandbox.sandbox._ready(pysandbox.sandbox.Box(broken))
        assert (caught.value.layer, caught.value.step) == (expected.layer, expected.name)
        assert caught.value.arguments == expected.arguments()
        assert caught.value.errno == errno.EXDEV


def test_every_failing_step_of_a_run_is_named_and_leaves_the_box_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    original = _Launcher.plan
    failing = -1
    seen: list[Step] = []

    def plan(launcher: _Launcher) -> Plan:
        plan = original(launcher)
        seen[:] = plan.steps
        return faulty(plan, failing) if failing >= 0 else plan

    monkeypatch.setattr(_Launcher, "plan", plan)
    with Sandbox(*full_layers()) as box:
        box.run(["/bin/true"]).check_returncode()
        for index in range(len(seen)):
            failing = index
            with pytest.raises(SetupError) as caught:
                box.run(["/bin/true"], input=b"x", timeout=10, cpu_time=5)
            assert (caught.value.layer, caught.value.step) == (seen[index].layer, seen[index].name)
            assert caught.value.errno == errno.EXDEV
        failing = -1
        box.run(["/bin/true"]).check_returncode()


def test_a_failing_one_shot_run_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    original = _Launcher.plan
    monkeypatch.setattr(_Launcher, "plan", lambda self: faulty(original(self), 0))
    with pytest.raises(SetupError):
        pysandbox.run(["/bin/true"])


def test_a_step_that_the_kernel_refuses_is_reported_with_its_errno() -> None:
    with pytest.raises(SetupError) as caught:
        pysandbox.run(["/bin/true"], ChrootJail(binds=(Bind("/nonexistent/folder"),)))
    assert caught.value.errno == errno.ENOENT
    assert caught.value.step == "open_tree"
    assert caught.value.arguments["source"] == "/nonexistent/folder"
    assert "optional" in caught.value.hint
