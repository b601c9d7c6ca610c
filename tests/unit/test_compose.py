from __future__ import annotations

import contextlib
import contextvars
import os
import pickle
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pysandbox
from pysandbox import (
    Bind,
    Capabilities,
    CgroupLimits,
    ChrootJail,
    ConfigError,
    Environment,
    Layer,
    Level,
    Namespaces,
    Rlimits,
    Sandbox,
    SandboxError,
    Tmpfs,
    features,
)
from pysandbox import compose as composing
from pysandbox.compose import DEFAULT, DEFAULT_LIMITS, compose, default_layers
from pysandbox.plan import Argument, Blueprint, Phase, Plan, Verb

KINDS: list[type[Any]] = [Namespaces, ChrootJail, CgroupLimits, Rlimits, Environment, Capabilities]
NAMES = [kind.__name__ for kind in KINDS]
ALL_NAMESPACES = {"user", "pid", "mount", "net", "ipc", "uts", "cgroup", "time"}


@pytest.fixture(autouse=True)
def _fresh_cache() -> Iterator[None]:
    for cached in (composing._compose_cached, composing._compose_default):
        cached.cache_clear()
    yield
    for cached in (composing._compose_cached, composing._compose_default):
        cached.cache_clear()


@pytest.fixture(params=[True, False], ids=["root", "user"])
def privileged(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the caller is root, whoever runs the tests."""
    monkeypatch.setattr(features, "is_privileged", lambda: request.param)
    return bool(request.param)


def everything(blueprint: Blueprint) -> tuple[object, ...]:
    """All that a blueprint says, comparable."""
    plans = (str(blueprint.box_plan), str(blueprint.run_plan([])))
    rows = {name: str(row) for name, row in blueprint.enforcement.items()}
    return (*plans, blueprint.facts, blueprint.environment, blueprint.cgroup, blueprint.ids, rows)


def calls(plan: Plan, verb: Verb) -> list[tuple[Argument, ...]]:
    """The arguments of each step with this verb."""
    return [step.args for step in plan if step.verb is verb]


def hostname(*given: object, base: Any = DEFAULT) -> object:
    return calls(compose(given, base, False).box_plan, Verb.SETHOSTNAME)[0][0]


def verbs(plan: Plan) -> list[Verb]:
    return [step.verb for step in plan]


# --- the order of layers never matters -------------------------------------------------------------------------

_CHOICES: dict[str, list[Layer]] = {
    "Namespaces": [Namespaces(), Namespaces(hostname="one", net=False), Namespaces(uid=5, gid=6, monotonic_offset=1.5)],
    "ChrootJail": [
        ChrootJail(),
        ChrootJail(workdir="/job", tmpfs=Tmpfs("/t"), files={"/a": "x"}, symlinks={"/l": "a"}),  # type: ignore[arg-type]
        ChrootJail(binds=Bind("/dev", "/host", optional=True), hide=("/proc/cmdline",), proc="none"),  # type: ignore[arg-type]
    ],
    "CgroupLimits": [CgroupLimits(), CgroupLimits(memory="64M", pids=3)],
    "Rlimits": [Rlimits(), Rlimits(nofile=64, cpu=2, fsize="1M")],
    "Environment": [Environment(), Environment(set={"B": "2", "A": "1"}), Environment(clean=False, allow=("PATH",))],
    "Capabilities": [Capabilities(), Capabilities(keep=("net_bind_service", "chown"))],
}
_LAYERS = st.lists(st.sampled_from(NAMES), unique=True).flatmap(
    lambda names: st.tuples(*(st.sampled_from(_CHOICES[name]) for name in names))
)


@given(layers=_LAYERS, data=st.data(), from_nothing=st.booleans())
@settings(deadline=None, database=None)
def test_any_order_of_the_layers_gives_the_same_box(
    layers: tuple[Layer, ...], data: st.DataObject, from_nothing: bool
) -> None:
    base = None if from_nothing else DEFAULT
    shuffled = tuple(data.draw(st.permutations(layers)))
    assert everything(compose(shuffled, base, False)) == everything(compose(layers, base, False))


@given(layers=_LAYERS, data=st.data(), cut=st.integers(0, 6))
@settings(deadline=None, database=None)
def test_layers_entered_around_are_as_good_as_layers_given_in_any_order(
    layers: tuple[Layer, ...], data: st.DataObject, cut: int
) -> None:
    shuffled = data.draw(st.permutations(layers))
    with contextlib.ExitStack() as stack:
        for layer in shuffled[:cut]:
            stack.enter_context(layer)
        stacked = everything(compose(tuple(shuffled[cut:]), DEFAULT, False))
    assert stacked == everything(compose(layers, DEFAULT, False))


@given(order=st.permutations(default_layers()))
@settings(deadline=None, database=None, max_examples=20)
def test_any_order_of_the_base_gives_the_same_box(order: list[Layer]) -> None:
    assert everything(compose((), order, False)) == everything(compose((), DEFAULT, False))


def test_steps_are_in_the_order_of_their_phases() -> None:
    blueprint = compose((), DEFAULT, False)
    for plan in (blueprint.box_plan, blueprint.run_plan([])):
        phases = [step.phase for step in plan]
        assert phases == sorted(phases)


# --- which layer counts ---------------------------------------------------------------------------------------


def test_the_innermost_of_one_type_counts() -> None:
    with Namespaces(hostname="outer"):
        with Namespaces(hostname="inner"):
            assert hostname() == "inner"
        assert hostname() == "outer"
    assert hostname() == "sandbox"


def test_given_wins_over_ambient_and_ambient_over_base() -> None:
    base = [Namespaces(hostname="base")]
    assert hostname(base=base) == "base"
    with Namespaces(hostname="ambient"):
        assert hostname(base=base) == "ambient"
        assert hostname() == "ambient"
        assert hostname(Namespaces(hostname="given"), base=base) == "given"


def test_ambient_layers_apply_without_a_base_too() -> None:
    with Rlimits(nofile=64):
        blueprint = compose((), None, False)
    assert (7, 64, 64) in calls(blueprint.run_plan([]), Verb.SETRLIMIT)


def test_a_thread_or_context_without_the_layers_gets_the_default() -> None:
    with Namespaces(hostname="ambient"):
        assert contextvars.Context().run(hostname) == "sandbox"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not CgroupLimits])
def test_giving_a_layer_as_it_is_by_default_changes_nothing(kind: type[Any]) -> None:
    assert everything(compose((kind(),), DEFAULT, False)) == everything(compose((), DEFAULT, False))


@pytest.mark.parametrize(
    "layer",
    [
        CgroupLimits(memory="64M"),
        Rlimits(nofile=64, core=None),
        Environment(set={"A": "1"}),
        Capabilities(keep=("chown",)),
        ChrootJail(proc="none"),
        Namespaces(hostname="other"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_giving_a_layer_leaves_every_other_layer_s_steps_as_they_are(layer: Layer) -> None:
    def others(blueprint: Blueprint) -> list[str]:
        steps = [*blueprint.box_plan, *blueprint.run_plan([])]
        return [f"{step.layer} {step}" for step in steps if step.layer != layer.name]

    assert others(compose((layer,), DEFAULT, False)) == others(compose((), DEFAULT, False))


def test_a_layer_of_the_caller_s_own_type_is_composed_like_the_others() -> None:
    @dataclass(frozen=True)
    class Quiet(Layer):
        level: int = 3

        def contribute(self, blueprint: Blueprint) -> None:
            blueprint.add(self.name, Phase.SYSTEM, Verb.SYSCTL, "sys/kernel/printk", str(self.level))

    blueprint = compose((Quiet(),), DEFAULT, False)
    assert ("sys/kernel/printk", "3") in calls(blueprint.box_plan, Verb.SYSCTL)
    assert Quiet().name in {step.layer for step in blueprint.box_plan}


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_two_of_one_type_in_one_list_are_refused_by_name(kind: type[Any]) -> None:
    with pytest.raises(ConfigError, match=f"two {kind.__name__}") as caught:
        compose((kind(), kind()), DEFAULT, False)
    assert caught.value.layers == (kind.__name__, kind.__name__)


def test_two_of_one_type_in_the_base_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="Rlimits"):
        compose((), [Rlimits(nofile=64), Rlimits(nofile=128)], False)


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
@pytest.mark.parametrize("use", [lambda kind: compose((kind,), None, False), lambda kind: compose((), [kind], False)])
def test_a_class_instead_of_a_layer_is_refused_with_advice(use: Callable[[Any], object], kind: type[Any]) -> None:
    with pytest.raises(ConfigError, match=rf"{kind.__name__}\(\)"):
        use(kind)


@pytest.mark.parametrize(
    "value", [None, 5, "Namespaces", ["x"], {"memory": 1}, Bind("/opt"), Tmpfs("/t"), dict, object()]
)
def test_what_is_not_a_layer_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="not a layer"):
        compose((value,), DEFAULT, False)


@pytest.mark.parametrize("value", [5, object(), Namespaces(), True])
def test_a_base_that_is_no_list_of_layers_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="base"):
        Sandbox(base=value)


@pytest.mark.parametrize("value", [[5], "Namespaces", [None], [Bind("/opt")]])
def test_a_base_of_something_else_than_layers_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="not a layer"):
        Sandbox(base=value)


def test_a_jail_without_mount_namespace_is_refused_and_names_both(privileged: bool) -> None:
    for layers, base in (
        ((ChrootJail(), Namespaces(mount=False)), None),
        ((Namespaces(mount=False),), DEFAULT),
    ):
        with pytest.raises(ConfigError, match="ChrootJail needs a mount namespace") as caught:
            compose(layers, base, False)
        assert set(caught.value.layers) == {"ChrootJail", "Namespaces"}
        assert "Namespaces(mount=False)" in str(caught.value)


def test_without_a_jail_no_mount_namespace_is_needed(privileged: bool) -> None:
    blueprint = compose((Namespaces(mount=False),), None, False)
    assert blueprint.facts.namespaces == ALL_NAMESPACES - {"mount"}


@pytest.mark.parametrize("privileged", [False], indirect=True)
def test_namespaces_without_a_user_namespace_are_refused_for_an_ordinary_user(privileged: bool) -> None:
    with pytest.raises(ConfigError, match="user=False") as caught:
        compose((Namespaces(user=False),), DEFAULT, False)
    assert caught.value.layers == ("Namespaces",)


@pytest.mark.parametrize("privileged", [True], indirect=True)
def test_subordinate_ids_are_refused_for_root(privileged: bool) -> None:
    with pytest.raises(ConfigError, match="subordinate"):
        compose((Namespaces(subordinate=True),), DEFAULT, False)


@pytest.mark.parametrize("wrong", [Namespaces, 5, (Rlimits(),)])
def test_a_sandbox_complains_when_it_is_made_and_not_when_it_is_entered(wrong: object) -> None:
    with pytest.raises(ConfigError):
        Sandbox(wrong)


@pytest.mark.parametrize("call", [pysandbox.run, pysandbox.popen])
def test_the_one_shot_functions_refuse_what_is_no_layer(call: Any) -> None:
    with pytest.raises(ConfigError, match="not a layer"):
        call(["true"], 5)


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_degrade_is_true_or_false(value: Any) -> None:
    with pytest.raises(ConfigError, match="degrade"):
        Sandbox(degrade=value)


def test_degrade_is_a_fact_that_layers_may_know() -> None:
    assert compose((), DEFAULT, True).facts.degrade is True
    assert compose((), DEFAULT, False).facts.degrade is False


# --- nothing but what was given -------------------------------------------------------------------------------


def test_from_nothing_a_run_has_only_what_every_run_has(privileged: bool) -> None:
    blueprint = compose((), None, False)
    assert verbs(blueprint.box_plan) == [Verb.NOT_DUMPABLE]
    common = [Verb.NEW_SESSION, Verb.UMASK, Verb.CLOSE_FDS, Verb.NOT_DUMPABLE, Verb.NO_NEW_PRIVS]
    assert sorted(verbs(blueprint.run_plan([]))) == sorted(common)


def test_from_nothing_there_are_no_namespaces_limits_variables_or_ids(privileged: bool) -> None:
    blueprint = compose((), None, False)
    assert blueprint.facts.namespaces == frozenset()
    assert (blueprint.cgroup, blueprint.ids, blueprint.environment) == (None, None, ())
    assert (blueprint.facts.uid, blueprint.facts.gid) == (os.geteuid(), os.getegid())
    assert set(blueprint.enforcement) == {"no_new_privs"}


def test_an_empty_base_is_nothing_too(privileged: bool) -> None:
    assert everything(compose((), [], False)) == everything(compose((), None, False))


def test_from_nothing_one_layer_adds_its_own_steps_only() -> None:
    blueprint = compose((Rlimits(nofile=64),), None, False)
    layers = {step.layer for step in [*blueprint.box_plan, *blueprint.run_plan([])]}
    assert layers == {"init", "run", "Rlimits"}


@pytest.mark.parametrize("privileged", [False], indirect=True)
def test_an_ordinary_user_s_jail_brings_a_user_namespace_without_its_capabilities(privileged: bool) -> None:
    blueprint = compose((ChrootJail(),), None, False)
    assert blueprint.facts.namespaces == {"user", "mount"}
    assert calls(blueprint.run_plan([]), Verb.CAPSET) == [(0,)]
    assert calls(blueprint.box_plan, Verb.CAPBSET) == [(0,)]


@pytest.mark.parametrize("privileged", [True], indirect=True)
def test_root_s_jail_brings_a_mount_namespace_only(privileged: bool) -> None:
    blueprint = compose((ChrootJail(),), None, False)
    assert blueprint.facts.namespaces == {"mount"}
    assert blueprint.ids is None


def test_a_user_namespace_never_gives_the_payload_capabilities(privileged: bool) -> None:
    blueprint = compose((Namespaces(),), None, False)
    assert calls(blueprint.run_plan([]), Verb.CAPSET) == [(0,)]


def test_the_working_directory_without_a_jail_is_the_caller_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compose((), None, False)
    monkeypatch.chdir(tmp_path)
    assert compose((), None, False).facts.workdir == str(tmp_path)


# --- the default ----------------------------------------------------------------------------------------------


def test_by_default_a_box_has_every_namespace_and_a_root_of_its_own(privileged: bool) -> None:
    blueprint = compose((), DEFAULT, False)
    assert blueprint.facts.namespaces == ALL_NAMESPACES
    assert blueprint.facts.has_root
    assert verbs(blueprint.box_plan).count(Verb.PIVOT_ROOT) == 1
    assert ("/",) in calls(blueprint.box_plan, Verb.READ_ONLY)


def test_by_default_the_payload_is_unprivileged_and_has_no_capability(privileged: bool) -> None:
    blueprint = compose((), DEFAULT, False)
    assert (blueprint.facts.uid, blueprint.facts.gid) == (1000, 1000)
    assert calls(blueprint.run_plan([]), Verb.CAPSET) == [(0,)]
    assert calls(blueprint.box_plan, Verb.CAPBSET) == [(0,)]
    assert ("sys/user/max_user_namespaces", "0") in calls(blueprint.box_plan, Verb.SYSCTL)


def test_by_default_root_s_payload_leaves_its_groups_and_ids_before_its_capabilities() -> None:
    order = [Verb.SETGROUPS, Verb.SETRESGID, Verb.SETRESUID, Verb.CAPSET, Verb.NO_NEW_PRIVS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "is_privileged", lambda: True)
        plan = compose((), DEFAULT, False).run_plan([])
    assert [verb for verb in verbs(plan) if verb in order] == order


@pytest.mark.parametrize("privileged", [True], indirect=True)
def test_root_without_user_namespace_still_runs_the_payload_as_nobody_s_id(privileged: bool) -> None:
    blueprint = compose((Namespaces(user=False),), DEFAULT, False)
    assert blueprint.facts.uid >= 1000
    assert calls(blueprint.run_plan([]), Verb.SETRESUID) == [(blueprint.facts.uid,)]
    assert calls(blueprint.run_plan([]), Verb.SETRESGID) == [(blueprint.facts.gid,)]


def test_by_default_the_environment_is_the_usual_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    environment = dict(compose((), DEFAULT, False).environment)
    assert set(environment) == {"PATH", "HOME", "LANG"}
    assert environment["HOME"] == "/box"


def test_by_default_nothing_of_the_host_is_writable() -> None:
    attached = calls(compose((), DEFAULT, False).box_plan, Verb.ATTACH_TREE)
    assert attached
    assert all(int(str(flags)) & 1 for _, target, flags in attached if not str(target).startswith("/dev/"))


def test_everything_mounted_by_default_is_nosuid() -> None:
    plan = compose((), DEFAULT, False).box_plan
    attributes = [args[2] for args in calls(plan, Verb.ATTACH_TREE)]
    attributes += [args[4] for args in calls(plan, Verb.MOUNT_TMPFS)]
    attributes += [args[2] for args in calls(plan, Verb.MOUNT_PROC)]
    assert len(attributes) > 5
    assert all(int(str(flags)) & 2 for flags in attributes)


def test_every_tree_that_is_opened_is_attached_once() -> None:
    plan = compose((), DEFAULT, False).box_plan
    opened = [args[0] for args in calls(plan, Verb.OPEN_TREE)]
    attached = [args[0] for args in calls(plan, Verb.ATTACH_TREE)]
    assert sorted(opened) == sorted(attached) == list(range(len(opened)))


# --- limits: asked for or not ---------------------------------------------------------------------------------


def asked(*given: object) -> bool:
    request = compose(given, DEFAULT, False).cgroup
    assert request is not None
    return request.asked


def equal_to_default() -> CgroupLimits:
    return CgroupLimits(memory=DEFAULT_LIMITS.memory, swap=DEFAULT_LIMITS.swap, pids=DEFAULT_LIMITS.pids)


def test_the_default_s_own_limits_are_not_asked_for() -> None:
    assert asked() is False
    assert asked(Rlimits(nofile=64)) is False


def test_limits_of_the_caller_are_asked_for() -> None:
    assert asked(CgroupLimits(memory="64M")) is True


def test_limits_of_the_caller_that_equal_the_default_s_are_asked_for_all_the_same() -> None:
    assert equal_to_default() == DEFAULT_LIMITS
    assert asked(equal_to_default()) is True
    assert asked() is False
    assert asked(equal_to_default()) is True


def test_entered_limits_that_equal_the_default_s_are_asked_for() -> None:
    with equal_to_default():
        assert asked() is True
    assert asked() is False


def test_limits_that_were_pickled_are_asked_for() -> None:
    assert asked(pickle.loads(pickle.dumps(equal_to_default()))) is True


def test_the_default_limits_bound_memory_and_processes() -> None:
    blueprint = compose((), DEFAULT, False)
    assert blueprint.cgroup is not None
    assert blueprint.cgroup.memory is not None
    by_rlimit = [args for args in calls(blueprint.run_plan([]), Verb.SETRLIMIT) if args[0] == resource.RLIMIT_NPROC]
    assert by_rlimit or blueprint.cgroup.pids is not None


# --- environment and clocks ------------------------------------------------------------------------------------


def test_set_variables_win_over_allowed_and_usual_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSANDBOX_A", "caller")
    monkeypatch.setenv("PYSANDBOX_B", "caller")
    layer = Environment(
        allow=("PYSANDBOX_A", "PYSANDBOX_B", "PYSANDBOX_UNSET"), set={"PYSANDBOX_A": "set", "HOME": "/x"}
    )
    environment = dict(compose((layer,), DEFAULT, False).environment)
    assert environment.pop("PATH")
    assert environment == {"PYSANDBOX_A": "set", "PYSANDBOX_B": "caller", "HOME": "/x", "LANG": "C.UTF-8"}


def test_an_allowed_variable_is_taken_anew_for_each_box(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Environment(clean=False, allow=("PYSANDBOX_A",))
    for value in ("1", "2"):
        monkeypatch.setenv("PYSANDBOX_A", value)
        assert compose((layer,), DEFAULT, False).environment == (("PYSANDBOX_A", value),)


def test_an_environment_that_is_not_clean_is_empty() -> None:
    assert compose((Environment(clean=False),), DEFAULT, False).environment == ()


@given(offset=st.floats(-1e6, 1e6) | st.sampled_from([0.9999999999, -1e-10, 1 - 2**-53, 5.9999999996]))
@settings(deadline=None, database=None)
def test_clock_offsets_are_whole_seconds_and_less_than_a_second_of_nanoseconds(offset: float) -> None:
    (text,) = calls(compose((Namespaces(monotonic_offset=offset),), None, False).box_plan, Verb.TIME_OFFSETS)[0]
    if not text:
        assert offset == 0
        return
    clock, whole, nanoseconds = str(text).split()
    assert clock == "monotonic"
    assert 0 <= int(nanoseconds) < 1_000_000_000
    assert int(whole) + int(nanoseconds) / 1e9 == pytest.approx(offset, abs=2e-9)


# --- the jail --------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A prepared root file system."""
    made = tmp_path / "root"
    for name in ("bin", "etc", "proc", "dev", "tmp", "box"):
        (made / name).mkdir(parents=True)
    (made / "file").write_text("x")
    (made / "link").symlink_to("bin")
    return made


def box_plan(jail: ChrootJail) -> Plan:
    return compose((jail,), DEFAULT, False).box_plan


def attached(plan: Plan) -> dict[str, tuple[str, int]]:
    """Path inside → source and attributes."""
    sources = {slot: source for slot, source, _, _ in calls(plan, Verb.OPEN_TREE)}
    return {str(to): (str(sources[slot]), int(str(flags))) for slot, to, flags in calls(plan, Verb.ATTACH_TREE)}


def test_a_prepared_root_is_shown_read_only_but_for_the_box_s_own_folders(root: Path) -> None:
    shown = {
        path: found for path, found in attached(box_plan(ChrootJail(root))).items() if not path.startswith("/dev/")
    }
    assert shown == {f"/{name}": (str(root / name), 7) for name in ("bin", "etc", "file")}


def test_a_writable_root_is_not_read_only(root: Path) -> None:
    assert attached(box_plan(ChrootJail(root, writable=True)))["/bin"] == (str(root / "bin"), 6)


def test_a_symlink_at_the_top_of_a_root_is_made_anew_and_not_followed(root: Path) -> None:
    assert ("bin", "/link") in calls(box_plan(ChrootJail(root)), Verb.SYMLINK)


def test_a_root_is_looked_at_anew_for_each_box(root: Path) -> None:
    jail = ChrootJail(root)
    before = attached(box_plan(jail))
    (root / "new").mkdir()
    assert set(attached(box_plan(jail))) - set(before) == {"/new"}


@pytest.mark.parametrize("name", ["missing", "file", "link/missing"])
def test_a_root_that_is_no_folder_is_refused_by_name(root: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no such folder") as caught:
        compose((ChrootJail(root / name),), DEFAULT, False)
    assert str(root / name) in str(caught.value)
    assert caught.value.layers == ("ChrootJail",)


def test_a_root_of_too_many_names_is_refused(tmp_path: Path) -> None:
    for index in range(201):
        (tmp_path / str(index)).touch()
    with pytest.raises(ConfigError, match="more than 200"):
        compose((ChrootJail(tmp_path),), DEFAULT, False)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ChrootJail(binds=(Bind("/opt", "/x"), Bind("/srv", "/x"))),
        lambda: ChrootJail(binds=(Bind("/opt", "/x"), Bind("/opt", "/x/"))),
        lambda: ChrootJail(binds=Bind("/opt", "/x"), tmpfs=Tmpfs("/x")),  # type: ignore[arg-type]
        lambda: ChrootJail(tmpfs=(Tmpfs("/x"), Tmpfs("//x"))),
        lambda: ChrootJail(binds=Bind("/opt", "/x"), files={"/x": ""}),  # type: ignore[arg-type]
        lambda: ChrootJail(files={"/x": ""}, symlinks={"/x": "y"}),
        lambda: ChrootJail(tmpfs=Tmpfs("/x"), symlinks={"/x": "y"}),  # type: ignore[arg-type]
    ],
)
def test_two_entries_for_one_path_are_refused_by_that_path(make: Callable[[], ChrootJail]) -> None:
    with pytest.raises(ConfigError, match="two entries for /x"):
        compose((make(),), DEFAULT, False)


def test_a_bind_onto_a_missing_path_inside_another_bind_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    jail = ChrootJail(binds=(Bind(tmp_path / "one", "/data"), Bind(tmp_path / "two", "/data/missing")))
    with pytest.raises(ConfigError, match="/data/missing lies inside") as caught:
        compose((jail,), DEFAULT, False)
    assert str(tmp_path / "one") in str(caught.value)


def test_a_bind_onto_a_path_that_is_there_inside_another_bind_is_taken(tmp_path: Path) -> None:
    for name in ("one/there", "two"):
        (tmp_path / name).mkdir(parents=True)
    jail = ChrootJail(binds=(Bind(tmp_path / "two", "/data/there"), Bind(tmp_path / "one", "/data")))
    plan = box_plan(jail)
    targets = [str(args[1]) for args in calls(plan, Verb.ATTACH_TREE)]
    assert targets.index("/data") < targets.index("/data/there")


@pytest.mark.parametrize(
    "more", [{"tmpfs": Tmpfs("/data/missing")}, {"files": {"/data/f": ""}}, {"symlinks": {"/data/l": "x"}}]
)
def test_nothing_is_created_inside_a_folder_of_the_host(tmp_path: Path, more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="lies inside"):
        compose((ChrootJail(binds=Bind(tmp_path, "/data"), **more),), DEFAULT, False)  # type: ignore[arg-type]


@pytest.mark.parametrize("more", [{"files": {"/a": "x"}}, {"symlinks": {"/a": "b"}}])
def test_nothing_lies_inside_a_file_or_a_symlink(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="/a/t lies inside /a"):
        compose((ChrootJail(tmpfs=Tmpfs("/a/t"), **more),), DEFAULT, False)  # type: ignore[arg-type]


def test_parents_are_mounted_before_what_lies_inside_them() -> None:
    plan = box_plan(ChrootJail(tmpfs=(Tmpfs("/a/b/c"), Tmpfs("/a"), Tmpfs("/a/b"))))
    targets = [str(args[0]) for args in calls(plan, Verb.MOUNT_TMPFS)]
    assert [target for target in targets if target.startswith("/a")] == ["/a", "/a/b", "/a/b/c"]


def test_what_the_caller_puts_somewhere_replaces_the_default_there_and_below(tmp_path: Path) -> None:
    plan = box_plan(ChrootJail(binds=(Bind(tmp_path, "/etc"), Bind(tmp_path, "/tmp"))))
    found = attached(plan)
    assert found["/etc"] == found["/tmp"] == (str(tmp_path), 7)
    written = [str(args[0]) for args in calls(plan, Verb.WRITE_FILE)]
    assert [path for path in (*found, *written) if path.startswith("/etc/")] == []


def test_a_file_of_the_caller_s_replaces_the_default_s() -> None:
    written = calls(box_plan(ChrootJail(files={"/etc/passwd": "mine"})), Verb.WRITE_FILE)
    assert [content for path, content, _ in written if path == "/etc/passwd"] == [b"mine"]


@pytest.mark.parametrize(("writable", "flags"), [(False, 7), (True, 6)])
def test_a_bind_is_nosuid_and_nodev_and_read_only_unless_writable(tmp_path: Path, writable: bool, flags: int) -> None:
    plan = box_plan(ChrootJail(binds=Bind(tmp_path, "/data", writable=writable)))  # type: ignore[arg-type]
    assert attached(plan)["/data"] == (str(tmp_path), flags)


@pytest.mark.parametrize(("optional", "flags"), [(False, 2), (True, 3)])
def test_no_symlink_on_the_way_to_a_bind_s_source_is_followed(tmp_path: Path, optional: bool, flags: int) -> None:
    plan = box_plan(ChrootJail(binds=Bind(tmp_path, "/data", optional=optional)))  # type: ignore[arg-type]
    assert [args[2] for args in calls(plan, Verb.OPEN_TREE) if args[1] == str(tmp_path)] == [flags]


def test_the_working_directory_of_a_jail_is_private_and_home(privileged: bool) -> None:
    blueprint = compose((ChrootJail(workdir="/job"),), DEFAULT, False)
    assert blueprint.facts.workdir == "/job"
    assert dict(blueprint.environment)["HOME"] == "/job"
    owners = [args[2] for args in calls(blueprint.box_plan, Verb.MOUNT_WRITABLE) if args[0] == "/job"]
    assert owners == [blueprint.facts.uid | blueprint.facts.gid << 32]


def test_a_jail_without_proc_shows_none() -> None:
    plan = box_plan(ChrootJail(proc="none"))
    assert [args[0] for args in calls(plan, Verb.MOUNT_PROC)] == [""]
    assert ("/proc",) not in calls(plan, Verb.READ_ONLY)


def test_without_a_pid_namespace_proc_is_the_host_s() -> None:
    plan = compose((Namespaces(pid=False),), DEFAULT, False).box_plan
    assert calls(plan, Verb.MOUNT_PROC) == []
    assert attached(plan)["/proc"] == ("/proc", 14)


def test_chroot_instead_of_pivot_root_is_told() -> None:
    blueprint = compose((ChrootJail(pivot=False),), DEFAULT, False)
    assert Verb.CHROOT in verbs(blueprint.box_plan)
    assert Verb.PIVOT_ROOT not in verbs(blueprint.box_plan)
    assert blueprint.enforcement["ChrootJail"].level is Level.PARTIAL


# --- what is in force is always told ----------------------------------------------------------------------------


def test_every_layer_of_the_default_has_a_row_in_full() -> None:
    rows = compose((), DEFAULT, False).enforcement
    assert set(NAMES) - {"CgroupLimits"} <= set(rows)
    assert {row.level for row in rows.values()} == {Level.FULL}


@pytest.mark.parametrize(
    ("layer", "reason"),
    [(Namespaces(net=False, ipc=False), "off: net, ipc"), (Capabilities(keep=("chown",)), "kept: chown")],
)
def test_a_layer_that_was_weakened_says_partial_and_why(layer: Layer, reason: str) -> None:
    row = compose((layer,), DEFAULT, False).enforcement[layer.name]
    assert (row.level, row.reason) == (Level.PARTIAL, reason)


# --- a sandbox that is not entered ------------------------------------------------------------------------------


def test_a_sandbox_explains_itself_without_being_entered() -> None:
    text = Sandbox(CgroupLimits(memory="64M"), Namespaces(hostname="told")).explain()
    for part in ("sethostname(name='told')", "memory=67108864", "no_new_privs()", "in force:", "pivot_root()"):
        assert part in text


def test_a_sandbox_has_the_layers_around_it_when_it_is_asked() -> None:
    sandbox = Sandbox()
    with Namespaces(hostname="around"):
        assert "around" in sandbox.explain()
    assert "around" not in sandbox.explain()


def test_a_sandbox_that_is_not_entered_runs_nothing() -> None:
    with pytest.raises(SandboxError, match="with block"):
        Sandbox().run(["true"])


def test_closing_a_sandbox_that_is_not_entered_does_nothing() -> None:
    sandbox = Sandbox()
    sandbox.close()
    assert "not entered" in repr(sandbox)


def test_a_base_from_a_generator_serves_a_sandbox_more_than_once() -> None:
    sandbox = Sandbox(base=(layer for layer in (Namespaces(hostname="once"),)))
    assert "once" in sandbox.explain()
    assert "once" in sandbox.explain()


def test_the_default_box_and_the_same_layers_given_by_hand_have_one_plan(privileged: bool) -> None:
    by_hand = compose((Namespaces(), ChrootJail(), Rlimits(), Environment(), Capabilities()), DEFAULT, False)
    assert compose((), DEFAULT, False).box_plan == by_hand.box_plan
    with Namespaces(hostname="around"):
        assert compose((), DEFAULT, False).box_plan != by_hand.box_plan


def test_init_has_the_capabilities_that_it_needs_and_those_it_hands_on() -> None:
    names = Capabilities(keep=("net_raw", "sys_admin")).mask
    more = compose((Capabilities(keep=("net_raw", "sys_admin")),), DEFAULT, False).init_capabilities
    less = compose((), DEFAULT, False).init_capabilities
    assert more & names == names
    assert more & ~less == Capabilities(keep=("net_raw",)).mask
    assert less & Capabilities(keep=("sys_module", "sys_rawio", "sys_ptrace", "mknod", "bpf")).mask == 0
