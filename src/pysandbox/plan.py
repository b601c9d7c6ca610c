"""Plans: what is to be done to build a box or to start a run, as plain data.

A `Step` is a verb of the kernel with arguments that are numbers, strings and bytes, so a plan can be printed,
compared and tested on any machine.  Layers contribute steps to a `Blueprint`; `Phase` alone decides their order,
so the order of layers never matters.  The C side (native/steps.c) carries steps out and reports the index of the
one that failed; the index leads back to the step, its layer and its arguments.

Imports nothing that needs a kernel.
"""

from __future__ import annotations

import enum
import resource
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from .lazy import lazy
from .result import Enforcement

__all__ = ["Blueprint", "CgroupRequest", "Facts", "IdRequest", "IoRequest", "Phase", "Plan", "Step", "Verb"]


class Phase(enum.IntEnum):
    """When a step is carried out.  The one place where order is decided, and why."""

    # in init, once per box
    SOURCES = 10  # copies of the host's mounts, with the caller's rights: before init leaves its id
    MACHINE = 15  # host name, clocks, loopback: matters of the new namespaces alone, before init has ids in them
    INIT_IDS = 20  # from here on what init makes belongs to the box
    TREES = 25  # mounts that the application has made, which knows the ids by now
    ROOT = 30  # the new root, before anything goes into it
    MOUNTS = 40
    SYSTEM = 50  # sysctls: needs the box's /proc, still writable
    MASKS = 55  # covers over what is mounted, made in the root while it is writable
    ENTER = 60  # pivot_root
    SEAL = 70  # read-only: nothing more is made
    PRIVILEGES = 80  # of init itself
    # in the child of init that becomes the program, once per run
    CGROUP = 110  # first, so that all that follows is counted
    CGROUP_NAMESPACE = 115  # of which the leaf is the top, once we are in it
    SESSION = 120
    CLOSE = 125  # everything is to close on exec; what FILES then puts in place does not
    FILES = 130  # stdio and passed descriptors, while the numbers are ours to give
    DIRECTORY = 135
    IDENTITY = 140  # groups, gid, uid: needs capabilities
    PRIVATE = 145  # closed to ptrace(2), after the ids have changed and before the capabilities go
    LIMITS = 150  # after setresuid(2), which counts against RLIMIT_NPROC at exec
    CAPABILITIES = 160
    NO_NEW_PRIVS = 170  # Landlock and seccomp need it or a capability
    LANDLOCK = 180  # seccomp may forbid its calls
    SECCOMP = 190
    EXEC = 210


class Verb(enum.IntEnum):
    """The verbs of native/steps.h, in its order; `KINDS` has the names and kinds of their arguments."""

    MOUNT_PRIVATE = 0
    OPEN_TREE = 1
    SESSION_KEYRING = 2
    INIT_IDS = 3
    NEW_ROOT = 4
    SYMLINK = 5
    WRITE_FILE = 6
    ATTACH_TREE = 7
    MOUNT_TMPFS = 8
    MOUNT_WRITABLE = 9
    MOUNT_PROC = 10
    MOUNT_DEVPTS = 11
    MASK = 12
    READ_ONLY = 13
    PIVOT_ROOT = 14
    CHROOT = 15
    SETHOSTNAME = 16
    LOOPBACK_UP = 17
    TIME_OFFSETS = 18
    SYSCTL = 19
    OWN_IPC = 20
    CAPBSET = 21
    NOT_DUMPABLE = 22
    CGROUP_ATTACH = 23
    UNSHARE_CGROUP = 24
    SETRLIMIT = 25
    NEW_SESSION = 26
    UMASK = 27
    CHDIR = 28
    STDIO = 29
    SETGROUPS = 30
    SETRESGID = 31
    SETRESUID = 32
    CAPSET = 33
    NO_NEW_PRIVS = 34
    CLOSE_FDS = 35
    GIVEN_TREE = 36
    OVERLAY = 37
    COVER = 38
    SECCOMP = 39
    SECCOMP_HEARD = 40
    EXEC = 41


#: s string, b bytes, l list of strings, f descriptor (index into those sent along), u number
KINDS: dict[Verb, tuple[str, ...]] = {
    verb: tuple(line.split())
    for verb, line in {
        Verb.MOUNT_PRIVATE: "",
        Verb.OPEN_TREE: "u:slot s:source u:flags u:device",
        Verb.SESSION_KEYRING: "",
        Verb.INIT_IDS: "u:uid u:gid",
        Verb.NEW_ROOT: "u:size u:inodes",
        Verb.SYMLINK: "s:target s:path",
        Verb.WRITE_FILE: "s:path b:content u:mode",
        Verb.ATTACH_TREE: "u:slot s:target u:attributes",
        Verb.MOUNT_TMPFS: "s:target u:size u:inodes u:mode u:attributes u:owner",
        Verb.MOUNT_WRITABLE: "s:target u:mode u:owner u:flags",
        Verb.MOUNT_PROC: "s:target s:options u:attributes",
        Verb.MOUNT_DEVPTS: "s:target u:attributes",
        Verb.MASK: "s:path u:flags",
        Verb.READ_ONLY: "s:path",
        Verb.PIVOT_ROOT: "",
        Verb.CHROOT: "",
        Verb.SETHOSTNAME: "s:name",
        Verb.LOOPBACK_UP: "",
        Verb.TIME_OFFSETS: "s:offsets",
        Verb.SYSCTL: "s:path s:value",
        Verb.OWN_IPC: "",
        Verb.CAPBSET: "u:keep",
        Verb.NOT_DUMPABLE: "",
        Verb.CGROUP_ATTACH: "f:tasks",
        Verb.UNSHARE_CGROUP: "",
        Verb.SETRLIMIT: "u:resource u:soft u:hard",
        Verb.NEW_SESSION: "",
        Verb.UMASK: "u:mask",
        Verb.CHDIR: "s:path",
        Verb.STDIO: "f:descriptor u:number",
        Verb.SETGROUPS: "",
        Verb.SETRESGID: "u:gid",
        Verb.SETRESUID: "u:uid",
        Verb.CAPSET: "u:keep",
        Verb.NO_NEW_PRIVS: "",
        Verb.CLOSE_FDS: "",
        Verb.GIVEN_TREE: "u:slot f:mount",
        Verb.OVERLAY: "u:size u:inodes u:lower u:upper u:owner",
        Verb.COVER: "s:path b:content",
        Verb.SECCOMP: "b:filter",
        Verb.SECCOMP_HEARD: "b:filter b:killing f:socket",
        Verb.EXEC: "l:candidates l:argv l:env",
    }.items()
}

_LETTERS = {verb: "".join(kind[0] for kind in kinds) for verb, kinds in KINDS.items()}

Argument = int | str | bytes | tuple[str, ...]

_IN_OCTAL = frozenset({"mode", "mask"})
_IN_HEX = frozenset({"attributes", "keep"})


_MANY, _LONG = 20, 300  # words of a list and characters of a word, of which an error shows no more

_STEP = struct.Struct("=HHI6Q")
_ALL_BITS = 0xFFFFFFFFFFFFFFFF
_PADS = [(0,) * (6 - used) for used in range(7)]


@dataclass(frozen=True, repr=False)
class Step:
    """One verb with its arguments, the phase it belongs to and the layer that asked for it."""

    phase: Phase
    verb: Verb
    args: tuple[Argument, ...]
    layer: str
    fault: int = 0  #: an errno to fail with in place of doing it, for tests

    @property
    def name(self) -> str:
        """The verb as people write it: `open_tree`."""
        return self.verb.name.lower()

    def arguments(self) -> dict[str, object]:
        """The arguments by name, as errors show them."""
        shown: dict[str, object] = {}
        for kind, value in zip(KINDS[self.verb], self.args, strict=True):
            name = kind[2:]
            if isinstance(value, int) and name in _IN_OCTAL:
                shown[name] = oct(value)
            elif isinstance(value, int) and name in _IN_HEX:
                shown[name] = hex(value)
            elif isinstance(value, bytes):
                shown[name] = f"<{len(value)} bytes>"
            elif name == "env" and isinstance(value, tuple):
                shown[name] = f"<{len(value)} variables>"  # may hold what a log must not
            elif isinstance(value, tuple):
                more = (f"<{len(value) - _MANY} more>",) if len(value) > _MANY else ()
                shown[name] = (*map(_shortened, value[:_MANY]), *more)
            else:
                shown[name] = _shortened(value) if isinstance(value, str) else value
        return shown

    def __str__(self) -> str:
        called = ", ".join(f"{name}={value!r}" for name, value in self.arguments().items())
        return f"{self.name}({called})"

    __repr__ = __str__  # the dataclass's would show the environment


@dataclass(frozen=True)
class Plan:
    """Steps in the order in which they are carried out."""

    steps: tuple[Step, ...]

    @lazy
    def encoded(self) -> bytes:
        """The plan as native/decode.c reads it: a count, fixed-size steps, then the data they point into."""
        head = [struct.pack("=Q", len(self.steps))]
        data: list[bytes] = []
        at = 0
        for step in self.steps:
            numbers: list[int] = []
            kinds = _LETTERS[step.verb]
            if len(step.args) != len(kinds):
                raise ValueError(f"{step.name} takes {len(kinds)} arguments, not {len(step.args)}")
            for kind, value in zip(kinds, step.args, strict=True):
                if isinstance(value, int):
                    numbers.append(value & _ALL_BITS)
                    continue
                raw = _raw(kind, value)
                numbers.append(at | len(raw) << 32)
                data.append(raw)
                at += len(raw)
            head.append(_STEP.pack(step.verb, 0, step.fault, *numbers, *_PADS[len(numbers)]))
        return b"".join(head + data)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __str__(self) -> str:
        width = max((len(step.layer) for step in self.steps), default=0)
        return "\n".join(f"  {step.layer:<{width}}  {step}" for step in self.steps)


def _shortened(word: str) -> str:
    return word if len(word) <= _LONG else f"{word[:_LONG]}<{len(word) - _LONG} more>"


def _raw(kind: str, value: str | bytes | tuple[str, ...]) -> bytes:
    if kind == "l":
        return b"".join(word.encode("utf-8", "surrogateescape") + b"\0" for word in value if isinstance(word, str))
    if isinstance(value, bytes):
        return value
    assert isinstance(value, str)
    return value.encode("utf-8", "surrogateescape") + b"\0"


@dataclass(frozen=True)
class Facts:
    """What every layer may know of the whole before it contributes: the host's side and the other layers' choices."""

    caller_uid: int
    caller_gid: int
    privileged: bool  #: the caller may map any id: root of the initial user namespace, or like it
    namespaces: frozenset[str]  #: those the box has of its own
    uid: int  #: the payload's, inside
    gid: int
    has_root: bool  #: a root of its own
    workdir: str  #: where runs start
    init_uid: int  #: of init inside: 0 beside the payload's where two ids are mapped, else the same
    init_gid: int
    degrade: bool = False
    root_env: tuple[tuple[str, str], ...] = ()  #: variables that the image of the root asks for
    entrypoint: tuple[str, ...] = ()  #: words before the arguments of each run


@dataclass(frozen=True)
class GivenTree:
    """A folder of which the application makes a mount for the box, with the owner's ids as the payload's."""

    folder: str
    attributes: int  #: of mount_setattr(2)
    type: str | None = None  #: of the file system, where it is no folder but an image of one


@dataclass(frozen=True)
class PrivatePaths:
    """Where a payload can write that is the box's own, and what in it is the box's doing and not the payload's."""

    areas: tuple[str, ...] = ()  #: folders inside that are file systems of the box's; an overlay is not among them
    covered: frozenset[str] = frozenset()  #: paths inside that something else is mounted on, or that were given
    made: frozenset[str] = frozenset()  #: folders that were made on the way to those
    lower: str | None = None  #: the folder (or image) on the host that an overlay lies over


@dataclass(frozen=True)
class IdRequest:
    """Which ids the box's user namespace is to map."""

    uid: int
    gid: int
    host_id: int | None = None  #: a privileged caller's choice of the first host id
    subordinate: bool = False  #: map the caller's subordinate ranges, by newuidmap


@dataclass(frozen=True)
class IoRequest:
    """Limits on one block device, per second; None: no limit."""

    device: str  #: "major:minor"
    read_bps: int | None = None
    write_bps: int | None = None
    read_iops: int | None = None
    write_iops: int | None = None


@dataclass(frozen=True)
class CgroupRequest:
    """What a run's cgroup is to enforce; bytes, CPUs, processes.  None: no limit."""

    memory: int | None = None
    memory_high: int | None = None
    swap: int | None = None
    cpus: float | None = None
    cpu_weight: int | None = None
    cpuset: tuple[int, ...] | None = None
    pids: int | None = None
    io: tuple[IoRequest, ...] = ()
    pids_by_rlimit: bool = False  #: RLIMIT_NPROC bounds the processes, and no cgroup counts them
    parent: str | None = None  #: the cgroup below which the leaf goes; None: the caller's own
    asked: bool = True  #: by the caller, and so an error where it cannot be had
    exact_cpu: bool = False  #: CPU time is to be counted while it runs


def filled(request: CgroupRequest, bounds: CgroupRequest | None) -> CgroupRequest:
    """The request, bounded in memory and processes by others where it has no bound of its own."""
    if bounds is None:
        return request
    memory = request.memory if request.memory is not None else bounds.memory
    if request.memory is None and memory is not None and request.memory_high is not None:
        memory = max(memory, request.memory_high)
    return replace(request, memory=memory, pids=bounds.pids if request.pids is None else request.pids)


@dataclass
class Blueprint:
    """What the layers together make: steps for the box, steps for each run, and what the parent side must do."""

    facts: Facts
    ids: IdRequest | None = None
    cgroup: CgroupRequest | None = None
    environment: tuple[tuple[str, str], ...] = ()
    enforcement: dict[str, Enforcement] = field(default_factory=dict)
    box_steps: list[Step] = field(default_factory=list)
    run_steps: list[Step] = field(default_factory=list)
    init_capabilities: int = 0  #: of init in a user namespace of its own, as the kernel's bits
    rlimits: dict[int, int] = field(default_factory=dict)  #: soft limits that the layers set, by the kernel's number
    default_pids: Step | None = None  #: a run's step that bounds processes unasked, tighter than the layers do
    given: list[GivenTree] = field(default_factory=list)  #: in the order in which GIVEN_TREE counts their descriptors
    private: PrivatePaths = PrivatePaths()
    kept: str | None = None  #: the folder that keeps what is written through an overlay
    image: str | None = None  #: the folder of the image that the box stands on
    is_filtered: bool = False  #: runs have filters of system calls
    is_heard: bool = False  #: and some of the calls end a run, of which we are to hear
    next_tree: int = 0
    recent_plans: dict[tuple[object, ...], Plan] = field(default_factory=dict)  #: of runs, by what made them differ

    def add(self, layer: str, phase: Phase, verb: Verb, *args: Argument) -> None:
        """Contribute a step; the phase says whether to the box or to each run."""
        step = Step(phase, verb, args, layer)
        (self.run_steps if phase >= Phase.CGROUP else self.box_steps).append(step)
        self.is_filtered |= verb in (Verb.SECCOMP, Verb.SECCOMP_HEARD)
        self.is_heard |= verb is Verb.SECCOMP_HEARD
        if verb is Verb.SETRLIMIT:
            self.rlimits[int(str(args[0]))] = int(str(args[1]))

    def tree(self) -> int:
        """A fresh slot for OPEN_TREE and ATTACH_TREE."""
        self.next_tree += 1
        return self.next_tree - 1

    @lazy
    def box_plan(self) -> Plan:
        """The steps of the box, in the order of their phases."""
        return Plan(tuple(sorted(self.box_steps, key=lambda step: step.phase)))

    @lazy
    def prepare_plan(self) -> Plan:
        """The part of the box's plan that needs no id maps."""
        return Plan(tuple(step for step in self.box_plan if step.phase < Phase.INIT_IDS))

    @lazy
    def setup_plan(self) -> Plan:
        """The rest of it."""
        return Plan(tuple(step for step in self.box_plan if step.phase >= Phase.INIT_IDS))

    def run_plan(self, more: list[Step], *, default_pids: bool = True) -> Plan:
        """The steps of one run: those of the layers and `more`, in the order of their phases.

        `default_pids`: with the rlimit that bounds the processes where nobody asked for a bound.
        """
        own = [*self.run_steps, self.default_pids] if default_pids and self.default_pids else self.run_steps
        return Plan(tuple(sorted([*own, *more], key=lambda step: step.phase)))

    def least_pids(self, *, default_pids: bool) -> int | None:
        """The tightest RLIMIT_NPROC of a run that is planned so."""
        if default_pids and self.default_pids is not None:
            return int(str(self.default_pids.args[1]))
        return self.rlimits.get(resource.RLIMIT_NPROC)
