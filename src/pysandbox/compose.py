"""From layers to a blueprint: defaults, what is active, what was given; then facts; then everyone's steps."""

from __future__ import annotations

import functools
import os
import resource
import secrets
from collections.abc import Iterable
from dataclasses import replace

from . import features, units
from .errors import ConfigError
from .layers import Capabilities, CgroupLimits, ChrootJail, Environment, Layer, Namespaces, Rlimits, Seccomp, ambient
from .plan import Blueprint, Facts, Phase, Step, Verb, filled
from .result import Enforcement, Level


class _Default:
    """The mark for "the default layers", so that None can mean "no layers"."""

    def __repr__(self) -> str:
        return "<the default layers>"


DEFAULT = _Default()

Base = Iterable[Layer] | None | _Default

#: bounds that nobody asked for but a box without limits should have all the same
DEFAULT_LIMITS = CgroupLimits(
    memory=min(1 << 30, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2), pids=256
)


@functools.cache
def default_layers() -> tuple[Layer, ...]:
    """The layers of `Sandbox()`: the strongest box that runs ordinary programs."""
    return (Namespaces(), ChrootJail(), DEFAULT_LIMITS, Rlimits(), Environment(), Capabilities(), Seccomp())


def merge(given: Iterable[object], base: Base) -> dict[type[Layer], Layer]:
    """One layer of each type: the caller's own win over the active ones, and both over the base."""
    start: Iterable[Layer]
    if base is None:
        start = ()
    elif isinstance(base, _Default):
        start = default_layers()
    else:
        start = base
    merged: dict[type[Layer], Layer] = {}
    for layer in (*start, *ambient.get(), *given):
        if isinstance(layer, type) and issubclass(layer, Layer):
            raise ConfigError(f"a layer must be an object: write {layer.__name__}(), with parentheses")
        if not isinstance(layer, Layer):
            raise ConfigError(f"not a layer: {layer!r}")
        merged[type(layer)] = layer
    return merged


def check_given(given: Iterable[object]) -> None:
    """Two layers of one type in one list contradict each other: which one was meant?"""
    seen: set[type[object]] = set()
    for layer in given:
        if isinstance(layer, Layer) and type(layer) in seen:
            name = type(layer).__name__
            raise ConfigError(f"two {name} layers were given; one of a type is all that can count", layers=(name, name))
        seen.add(type(layer))


def check_base(base: object) -> Base:
    """A base as it may be given: nothing, the default, or layers of different types."""
    if base is None or isinstance(base, (_Default, tuple)):
        layers = base if isinstance(base, tuple) else ()
    elif isinstance(base, Iterable) and not isinstance(base, (str, bytes)):
        layers = base = tuple(base)
    else:
        raise ConfigError(f"base must be None or a sequence of layers; not a layer: {base!r}")
    check_given(layers)
    return base


def compose(given: tuple[object, ...], base: Base, degrade: bool) -> Blueprint:
    """Make the blueprint of a box.  Looks at the host; changes nothing."""
    if degrade is not False:
        units.flag(degrade, "degrade")
    if not given and base is DEFAULT and not ambient.get():
        return _compose_default(degrade, os.getpid(), os.geteuid(), os.getegid())
    base = check_base(base)
    check_given(given)
    layers = tuple(sorted(merge(given, base).values(), key=lambda layer: layer.name))
    asked = not any(layer is DEFAULT_LIMITS for layer in layers)  # an equal layer of the caller's is asked for
    bounded = isinstance(base, _Default)
    if any(layer.looks_at_host for layer in layers) or _draws_ids(layers):
        return _compose(layers, degrade, asked, bounded)
    return _compose_cached(layers, degrade, asked, bounded, *_who())


def _who() -> tuple[int, int, int, str]:
    """All else that a blueprint depends on: who is asking, and from where."""
    return os.getpid(), os.geteuid(), os.getegid(), _working_directory()


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it has been removed
        return "/"


def _draws_ids(layers: tuple[Layer, ...]) -> bool:
    """Whether the payload's host ids are drawn for each box: a root caller's, without a user namespace to map them."""
    own = [layer for layer in layers if isinstance(layer, Namespaces)]
    return bool(own) and not own[0].user and features.is_privileged()


@functools.lru_cache(maxsize=4)
def _compose_default(degrade: bool, *_who: object) -> Blueprint:
    """The same for the default layers, whose hashes and order cost as much as the rest of the way to a box."""
    return _compose(default_layers(), degrade, asked=False, bounded=True)


@functools.lru_cache(maxsize=64)
def _compose_cached(layers: tuple[Layer, ...], degrade: bool, asked: bool, bounded: bool, *_who: object) -> Blueprint:
    return _compose(layers, degrade, asked, bounded)


def _compose(layers: tuple[Layer, ...], degrade: bool, asked: bool, bounded: bool) -> Blueprint:
    merged = {type(layer): layer for layer in layers}
    jail, own = merged.get(ChrootJail), merged.get(Namespaces)
    if isinstance(jail, ChrootJail) and isinstance(own, Namespaces) and (ids := jail.ids()) and _is_default(own):
        merged[Namespaces] = replace(own, uid=ids[0], gid=ids[1])
    namespaces: set[str] = set()
    choices: dict[str, object] = {}
    for layer in merged.values():
        needs = layer.requirements()
        chosen = merged.get(Namespaces)
        if isinstance(chosen, Namespaces):
            for missing in needs.namespaces - chosen.wanted:
                raise ConfigError(
                    f"{layer.name} needs a {missing} namespace, and Namespaces({missing}=False) denies it",
                    layers=(layer.name, "Namespaces"),
                )
        namespaces |= needs.namespaces
        choices |= needs.choices
    privileged = features.is_privileged()
    if namespaces and not privileged and "user" not in namespaces:
        if Namespaces in merged:
            raise ConfigError(
                "Namespaces(user=False) needs root: others may make namespaces in a user namespace only",
                layers=("Namespaces",),
            )
        namespaces.add("user")
    if "user" in namespaces and Capabilities not in merged:
        # A new user namespace brings capabilities that the caller never had; the payload is not to get them.
        merged[Capabilities] = Capabilities()
    if "user" in namespaces and Namespaces not in merged:
        needed = Namespaces(
            user=True,
            mount="mount" in namespaces,
            pid=False,
            net=False,
            ipc=False,
            uts=False,
            cgroup=False,
            time=False,
        )
        merged[Namespaces] = needed
        choices |= needed.requirements().choices
    facts = _facts(frozenset(namespaces), choices, privileged, degrade)
    blueprint = Blueprint(facts)
    for layer in sorted(merged.values(), key=lambda layer: layer.name):
        layer.contribute(blueprint)
    limits = merged.get(CgroupLimits)
    if isinstance(limits, CgroupLimits):
        blueprint.cgroup = limits.request(asked=asked)
        if bounded:  # a layer that is added takes no protection away: what it leaves out stays bounded
            blueprint.cgroup = filled(blueprint.cgroup, DEFAULT_LIMITS.request())
        if not asked:
            _bound_processes(blueprint, limits)
    _leave_out_sysctls(blueprint)
    _add_common(blueprint)
    return blueprint


def _bound_processes(blueprint: Blueprint, limits: CgroupLimits) -> None:
    """Keep the default's own bound on processes by an rlimit, where that does it as surely: it costs a run nothing."""
    request = blueprint.cgroup
    if request is None or request.pids is None or not features.counts_processes(blueprint.facts.namespaces):
        return
    most = request.pids + 1  # init may count too
    own = blueprint.rlimits.get(resource.RLIMIT_NPROC)
    if own is None or own > most:
        limit = (int(resource.RLIMIT_NPROC), most, most)
        blueprint.default_pids = Step(Phase.LIMITS, Verb.SETRLIMIT, limit, limits.name)
    blueprint.cgroup = replace(request, pids=None, pids_by_rlimit=True)


def _leave_out_sysctls(blueprint: Blueprint) -> None:
    """In a container whose /proc/sys is read-only, a box without a /proc of its own has none that it could set."""
    has_proc = any(step.verb is Verb.MOUNT_PROC for step in blueprint.box_steps)
    steps = [step for step in blueprint.box_steps if step.verb is Verb.SYSCTL]
    if has_proc or not steps or not features.has_read_only_sysctls():
        return
    blueprint.box_steps = [step for step in blueprint.box_steps if step not in steps]
    row = blueprint.enforcement["Namespaces"]
    reason = "user namespaces can be made inside: /proc/sys is read-only here, and the box has no /proc of its own"
    blueprint.enforcement["Namespaces"] = replace(
        row, level=Level.PARTIAL, reason="; ".join(filter(None, (row.reason, reason)))
    )


def _is_default(layer: Layer) -> bool:
    """Whether nobody gave this layer; an equal one of the caller's is given."""
    return any(layer is one for one in default_layers())


def _facts(namespaces: frozenset[str], choices: dict[str, object], privileged: bool, degrade: bool) -> Facts:
    uid, gid = int(str(choices.get("uid", os.geteuid()))), int(str(choices.get("gid", os.getegid())))
    if privileged and "user" not in namespaces and "uid" in choices:
        # Without a user namespace inside and outside ids are the same; the payload's is still nobody's.
        uid = gid = features.free_host_ids(features.PIDS + secrets.randbelow(1 << 26)) + 1
    subordinate = bool(choices.get("subordinate"))
    if subordinate and privileged:
        raise ConfigError("Namespaces(subordinate=True) is for ordinary users; root's box maps any ids (host_id=)")
    two_ids = "user" in namespaces and (privileged or subordinate)
    root_without = privileged and "user" not in namespaces
    return Facts(
        caller_uid=os.geteuid(),
        caller_gid=os.getegid(),
        privileged=privileged,
        namespaces=namespaces,
        uid=uid,
        gid=gid,
        has_root=bool(choices.get("has_root")),
        workdir=str(choices.get("workdir") or _working_directory()),
        init_uid=0 if two_ids or root_without else uid,
        init_gid=0 if two_ids or root_without else gid,
        degrade=degrade,
        **{name: choices[name] for name in ("root_env", "entrypoint") if name in choices},  # type: ignore[arg-type]  # of objects
    )


def _add_common(blueprint: Blueprint) -> None:
    """What every box and every run has, whatever the layers."""
    box, run = "init", "run"
    blueprint.add(box, Phase.PRIVILEGES, Verb.NOT_DUMPABLE)
    blueprint.add(run, Phase.SESSION, Verb.NEW_SESSION)
    blueprint.add(run, Phase.SESSION, Verb.UMASK, 0o022)
    # Changing ids may have made the child dumpable (fs.suid_dumpable, proc(5)), and it shares init's memory till exec.
    blueprint.add(run, Phase.PRIVATE, Verb.NOT_DUMPABLE)
    blueprint.add(run, Phase.NO_NEW_PRIVS, Verb.NO_NEW_PRIVS)
    blueprint.add(run, Phase.CLOSE, Verb.CLOSE_FDS)
    blueprint.enforcement["no_new_privs"] = Enforcement(Level.FULL, "prctl(PR_SET_NO_NEW_PRIVS)")
