"""`ChrootJail`: limit where a process can walk.  See pivot_root(2), mount_namespaces(7), and layers/system.py."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from .. import features, loop, units
from ..errors import ConfigError, UnsupportedError
from ..plan import Blueprint, GivenTree, Phase, PrivatePaths, Verb
from ..result import Enforcement, Level
from . import proc_limits, system
from .base import Layer, Requirements
from .entries import Bind, Devices, Entry, File, Link, Scratch, Tmpfs, by_path, holder, resolved, tuple_of, with_parents

if TYPE_CHECKING:
    from .. import images

# mount_setattr(2)
RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
# native/steps.h
TREE_OPTIONAL, TREE_NO_SYMLINKS, TREE_DEVICE, MASK_OPTIONAL = 1, 2, 4, 1
NO_TREE = 0xFFFFFFFF

_DEVICE_NUMBERS = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "urandom": (1, 9), "tty": (5, 0)}
_DEVICE_LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
    "/dev/ptmx": "pts/ptmx",
    "/dev/random": "urandom",  # the same generator since Linux 5.6
}
#: what container runtimes cover in /proc (the rest of it is read-only as a whole)
_PROC_MASKS = ("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list")
_NO_ID = (1 << 32) - 1  # (gid_t)-1
_PROC_OPTIONS = {
    "hidepid": ("0", "1", "2", "4", "off", "noaccess", "invisible", "ptraceable"),
    "subset": ("pid",),
}
#: top-level names of a prepared root that the box has its own of
_OWN_NAMES = frozenset({"dev", "proc", "tmp"})
_MOST_TOP_LEVEL = 200
_WORKDIR = "/box"
_PAGE = os.sysconf("SC_PAGE_SIZE")
_DEVICE_INODES = len(_DEVICE_NUMBERS) + len(_DEVICE_LINKS) + 4  # with /proc, /dev/pts, and what covers others


@dataclass(frozen=True, kw_only=True)
class ChrootJail(Layer):
    """Give the box a root file system made of exactly what is granted; the host's is detached (pivot_root(2)).

    Without `root`, it is built from the system's read-only folders (/usr, /lib*, /bin, /sbin, what programs and TLS
    need of /etc) and the running Python, so that `sys.executable` works inside.  With `root`, from what a prepared
    folder holds: read-only, unless `writable`.  In both there are a private /tmp, /dev, /dev/shm and /proc, and the
    working directory, private and writable.  Nothing is created on the host, and no path that a root file system
    controls is followed out of it.

    :param root: a prepared root file system; the only argument that may be positional.
    :param image: in place of `root`, an image: an OCI layout (a folder or a tar archive), what `docker save` writes, an
        archive of a root file system (.tar, .gz, .bz2, .xz, .zst), or the name of one that `pysandbox image import` has
        taken; 'path:name' where there are several.  It is unpacked once, into the user's cache folder.  Its variables,
        working directory, user and entrypoint hold unless `Environment`, `workdir`, `Namespaces` and `entrypoint` say
        otherwise.  For root callers also a file that holds a squashfs, erofs or ext4, which the kernel reads: take it
        from nobody you would not trust with the kernel.
    :param entrypoint: words before the arguments of every run, in place of the image's; () for none.
    :param overlay: show `root` or `image` through an overlay: all of it is writable, the folder stays as it is, and
        what was written vanishes with the box; a size says how much of it there may be, as it is kept in memory.  For a
        root caller the files of the root folder's own owner and group are the payload's; those of others (some of
        Debian's) can be read as others may, and not be changed (EOVERFLOW): an `image` has one owner for all.
    :param upper: a folder that keeps what is written through the overlay, in `upper` and `work` inside it; for one box
        at a time.
    :param writable: let the payload write to what `root` holds.
    :param binds: `Bind`s, more of the host's folders and files.
    :param tmpfs: `Tmpfs`, more private writable folders.
    :param files: path inside → content (bytes or str) of read-only files.
    :param symlinks: path inside → what the link says.
    :param hide: paths inside that are covered: a folder by an empty one, a file by an empty one.
    :param env: variables that programs in this root need; `Environment` wins over them.
    :param workdir: where runs start and `write_file` writes; by default the image's, or "/box".
    :param size: what the working directory, /tmp and /dev/shm may hold together; memory, and counted as such.
    :param inodes: how many files they may hold together.
    :param system: show the system's folders (without `root` only).
    :param with_python: bring the running Python along (without `root` only).
    :param proc: "new", or "none" for a box without /proc, which also starts where a container's own /proc is covered
        and the kernel lets no other be mounted; there it has one run at a time.
    :param proc_options: of the new /proc, such as "hidepid=2" or "subset=pid" (proc(5)).
    :param proc_limits: let /proc/meminfo and /proc/cpuinfo show the limits on memory and CPUs that the box is entered
        with in place of the machine's own, for programs that size themselves by them; what is in use is not shown, nor
        what `update` or a single run changes.
    :param pivot: False uses chroot(2) where pivot_root cannot work (a root on the initial ramfs); `enforcement` then
        says partial.

    Linux 5.12 (mount_setattr(2)).  Errors: `ConfigError` (missing root, two entries for one path), `SetupError`.
    """

    root: units.StrPath | None = field(default=None, kw_only=False)
    image: units.StrPath | None = None
    entrypoint: Sequence[str] | None = None
    overlay: bool | int | str = False
    upper: units.StrPath | None = None
    writable: bool = False
    binds: Sequence[Bind] = ()
    tmpfs: Sequence[Tmpfs] = ()
    files: Any = ()
    symlinks: Any = ()
    hide: Sequence[str] = ()
    workdir: str | None = None
    size: int | str = "256M"
    inodes: int = 65536
    system: bool = True
    with_python: bool = True
    env: Any = ()
    proc: str = "new"
    proc_options: str = ""
    proc_limits: bool = False
    pivot: bool = True

    def __post_init__(self) -> None:
        put = object.__setattr__
        if self.root is not None:
            put(self, "root", units.path(self.root, "ChrootJail(root)"))
        put(self, "binds", tuple_of(self.binds, Bind, "binds"))
        put(self, "tmpfs", tuple_of(self.tmpfs, Tmpfs, "tmpfs"))
        files = {}
        for path, content in by_path(self.files, "files"):
            if not isinstance(content, (bytes, str)):
                raise ConfigError(f"ChrootJail(files=): content must be bytes or str: {content!r}")
            files[path] = content.encode() if isinstance(content, str) else content
        put(self, "files", tuple(sorted(files.items())))
        links = {path: units.path(to, "a symlink's text") for path, to in by_path(self.symlinks, "symlinks")}
        put(self, "symlinks", tuple(sorted(links.items())))
        if isinstance(self.hide, str):
            raise ConfigError("ChrootJail(hide=) must be a sequence of paths, not one")
        hidden = units.names(self.hide, "ChrootJail(hide=)")
        put(self, "hide", tuple(units.inside_path(path, "a path of hide") for path in hidden))
        if self.workdir is not None:
            put(self, "workdir", units.inside_path(self.workdir, "ChrootJail(workdir=)"))
        put(self, "size", units.size(self.size, "ChrootJail(size=)", least=4096))
        units.count(self.inodes, "ChrootJail(inodes=)", least=2)
        put(self, "env", units.variables(self.env, "ChrootJail(env=)"))
        for name in ("writable", "system", "with_python", "proc_limits", "pivot"):
            units.flag(getattr(self, name), f"ChrootJail({name}=)")
        if self.writable and self.root is None:
            raise ConfigError("ChrootJail(writable=True) needs a root of your own")
        self._check_image_and_overlay()
        if self.proc not in ("new", "none"):
            raise ConfigError(f"ChrootJail(proc=) must be 'new' or 'none': {self.proc!r}")
        _check_proc_options(units.text(self.proc_options, "ChrootJail(proc_options=)"))
        if self.proc == "none" and (self.proc_options or self.proc_limits):
            raise ConfigError("ChrootJail(proc='none') has no /proc for proc_options= or proc_limits=")

    # --- ready-made ------------------------------------------------------------------------------------------

    @classmethod
    def minimal(cls, **options: Any) -> Self:
        """A root with nothing of the host's in it, for programs that need no library: devices, /etc, /tmp, /proc."""
        return cls(system=False, with_python=False, **options)

    @classmethod
    def for_program(cls, *programs: units.StrPath, binds: Sequence[Bind] = (), **options: Any) -> Self:
        """A root with just these programs, their interpreters and the libraries that they are linked with.

        What a program loads later, or starts, is not known from its file: show it by `binds`, or name it too.  Symlinks
        that lead to these files are there as on the host, also at its top (/lib → usr/lib).
        """
        from . import roots  # as images, below: only for those who ask for them

        found = roots.programs(programs)
        given = tuple_of(binds, Bind, "binds")
        options["symlinks"] = found.links_beside(given, options.pop("symlinks", ()))
        return cls.minimal(binds=_joined([*found.binds.values()], given), **options)

    @classmethod
    def python(
        cls,
        venv: units.StrPath | None = None,
        packages: Iterable[str] | None = None,
        *,
        binds: Sequence[Bind] = (),
        **options: Any,
    ) -> Self:
        """A root with a Python and the system's libraries, and no other program.

        The running one has all of its `sys.path`, PYTHONPATH and editable installs too, but for the current folder and
        that of the running script: show those by `binds`.  A PYTHONPATH of `env` is looked at first.

        :param venv: a virtual environment whose interpreter and packages it has, in place of the running ones.
        :param packages: names of packages installed from wheels; then these and what they require are all that can be
            imported besides the standard library.
        """
        from . import roots

        found = roots.python(venv, packages)
        given = tuple_of(binds, Bind, "binds")
        options["symlinks"] = found.links_beside(given, options.pop("symlinks", ()))
        options["env"] = roots.variables_beside(found.env, options.pop("env", ()))
        hide = options.pop("hide", ())
        if not isinstance(hide, str):  # which is refused, as everywhere
            hide = (*found.hidden, *units.names(hide, "ChrootJail.python(hide=)"))
        return cls.minimal(binds=_joined([*found.binds.values()], given), hide=hide, **options)

    @classmethod
    def host_readonly(cls, hide: Sequence[str] = (), **options: Any) -> Self:
        """The whole host, read-only, with a /tmp, /dev and /proc of the box's own.

        Hidden are the folders of users, of services' sockets and of logs, the machine's id, and what `hide` says: paths
        of the host that exist, symlinks with what they lead to.  Below /tmp, /dev and /proc there is nothing to hide.
        """
        from . import roots

        if isinstance(hide, str):
            raise ConfigError("ChrootJail.host_readonly(hide=) must be a sequence of paths, not one")
        given = units.names(hide, "ChrootJail.host_readonly(hide=)")
        shown = tuple_of(options.get("binds", ()), Bind, "binds")
        return cls("/", hide=roots.secret_paths(given, shown), **options)

    def _check_image_and_overlay(self) -> None:
        put = object.__setattr__
        if self.image is not None:
            put(self, "image", units.path(self.image, "ChrootJail(image=)"))
            if self.root is not None or self.writable:
                raise ConfigError("ChrootJail(image=) goes with neither root= nor writable=; overlay=True is writable")
        if self.entrypoint is not None:
            words = units.argv(self.entrypoint, "ChrootJail(entrypoint=)") if self.entrypoint else ()
            put(self, "entrypoint", words)
        if not isinstance(self.overlay, bool):
            put(self, "overlay", units.size(self.overlay, "ChrootJail(overlay=)", least=4096))
        if self.overlay is not False and self.root is None and self.image is None:
            raise ConfigError("ChrootJail(overlay=) needs a root or an image to lie over")
        if self.overlay is not False and self.writable:
            raise ConfigError("ChrootJail(overlay=) and writable=True contradict each other")
        if self.upper is not None:
            put(self, "upper", os.path.abspath(units.path(self.upper, "ChrootJail(upper=)")))
            if self.overlay is not True:
                raise ConfigError("ChrootJail(upper=) needs overlay=True, without a size: a folder has none")
            if self.files or self.symlinks:
                raise ConfigError(
                    "ChrootJail(upper=) would keep files= and symlinks= too: write them to the box instead"
                )

    @property
    def _lies_over(self) -> bool:
        """Whether the root is an overlay; that of an image is one also where it is read-only, for its owners' sake."""
        return self.image is not None or self.overlay is not False

    @property
    def _type(self) -> str | None:
        """Of the file system that the image is, if it is one."""
        return None if self.image is None else loop.type_of(os.fspath(self.image))

    @property
    def looks_at_host(self) -> bool:
        return self.root is not None or self.image is not None or bool(self.binds)

    def requirements(self) -> Requirements:
        choices: dict[str, Any] = {"has_root": True, "workdir": self.workdir or _WORKDIR, "root_env": self.env}
        if self.image is not None and self._type is None:
            config = self._image().config
            choices["workdir"] = self.workdir or _absolute(config.workdir) or _WORKDIR
            choices["root_env"] = (*config.env, *self.env)
            choices["entrypoint"] = config.entrypoint if self.entrypoint is None else tuple(self.entrypoint)
        if self._lies_over and self._type is None:
            choices["workdir"] = resolved(self._folder(), choices["workdir"])
        return Requirements(namespaces=frozenset({"mount"}), choices=choices)

    def ids(self) -> tuple[int, int] | None:
        """The uid and gid that the image wants its programs to have; None: it says nothing of that, or is none."""
        if self.image is None:
            return None
        if self._type is not None:
            return 0, 0  # root, as of an image that says nothing else
        from .. import images

        return images.ids_of(self._image())

    def _image(self) -> images.Image:
        from .. import images  # only for those who have one: it takes as long to import as all the rest

        return images.load(os.fspath(self.image or ""))

    # --- what the root is made of ---------------------------------------------------------------------------

    def _base(self, facts_uid: int, workdir: str) -> dict[str, Entry]:
        if self._lies_over:
            return {}  # all is in the overlay
        if self.root is not None:
            return self._prepared(workdir)
        entries: dict[str, Entry] = {}
        if self.system:
            for path, destination in system.links():
                entries[path] = Link(destination)
            for source, target in system.folders():
                entries[target] = Bind(source, target, optional=target.startswith("/etc/"))
        for path, content in system.own_files(facts_uid, workdir):
            entries[path] = File(content)
        if self.with_python:
            for source, target in system.python_folders():
                entries.setdefault(target, Bind(source, target))
            for path, destination in system.python_links():
                entries.setdefault(path, Link(destination))
        return entries

    def _folder(self) -> str:
        """The root file system on the host, without symlinks."""
        if self.image is not None:
            return os.path.realpath(self._image().root if self._type is None else os.fspath(self.image))
        root = os.path.realpath(os.fspath(self.root or "/"))
        if not os.path.isdir(root):
            raise ConfigError(f"ChrootJail(root): no such folder: {os.fspath(self.root or '')!r}", layers=(self.name,))
        return root

    def _prepared(self, workdir: str) -> dict[str, Entry]:
        root = self._folder()
        own = _OWN_NAMES | ({workdir[1:]} if workdir.count("/") == 1 else set())
        entries: dict[str, Entry] = {}
        with os.scandir(root) as found:
            for entry in found:
                if entry.name in own:
                    continue
                try:
                    mode = entry.stat(follow_symlinks=False).st_mode
                    if stat.S_ISLNK(mode):
                        entries["/" + entry.name] = Link(os.readlink(entry.path))
                except OSError as error:
                    message = f"ChrootJail(root): {entry.path!r} changed while it was looked at: {error.strerror}"
                    raise ConfigError(message, layers=(self.name,)) from None
                if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
                    entries["/" + entry.name] = Bind(entry.path, "/" + entry.name, writable=self.writable)
                if len(entries) > _MOST_TOP_LEVEL:
                    raise ConfigError(f"ChrootJail(root): more than {_MOST_TOP_LEVEL} entries in {root!r}")
        return entries

    def _wanted(self) -> dict[str, Entry]:
        """What the caller granted, by path inside; two entries for one path contradict each other."""
        wanted: dict[str, Entry] = {}
        everything: list[tuple[str, Entry]] = [(str(bind.target), bind) for bind in self.binds]
        everything += [(str(tmpfs.target), tmpfs) for tmpfs in self.tmpfs]
        everything += [(path, File(content)) for path, content in self.files]
        everything += [(path, Link(to)) for path, to in self.symlinks]
        for path, entry in everything:
            if path in wanted:
                raise ConfigError(
                    f"ChrootJail: two entries for {path}: {wanted[path]} and {entry}", layers=(self.name, self.name)
                )
            wanted[path] = entry
        return wanted

    def entries(self, uid: int, workdir: str) -> dict[str, Entry]:
        """Everything in the root by path inside, the caller's wishes over the defaults."""
        entries = base = self._base(uid, workdir)
        if not self._lies_over:
            entries = base | {"/tmp": Scratch(0o1777), "/dev": Devices(), "/dev/shm": Scratch(0o1777)}
        else:  # file systems of their own, so that nothing of them is among what was changed
            entries = {
                "/tmp": Tmpfs("/tmp", size=self.size, inodes=self.inodes, mode=0o1777),
                "/dev": Devices(),
                "/dev/shm": Tmpfs("/dev/shm", size=self.size, inodes=self.inodes, mode=0o1777),
            }
        entries[workdir] = Scratch()
        wanted = self._wanted()
        self._check_own(base, wanted, workdir)
        for path in wanted:  # a default inside something the caller put there gives way
            for default in [name for name in entries if name == path or name.startswith(path + "/")]:
                del entries[default]
        entries |= wanted
        for path, entry in entries.items():
            self._check_parent(path, entry, entries)
        return entries

    def _check_own(self, base: dict[str, Entry], wanted: dict[str, Entry], workdir: str) -> None:
        """What the box has of its own cannot be had in another way: /proc, the devices, the working directory."""
        own = {f"/dev/{name}" for name in (*_DEVICE_NUMBERS, "pts")} | set(_DEVICE_LINKS)
        names = (self.name, self.name)
        for path, entry in wanted.items():
            if self.proc == "new" and (path == "/proc" or path.startswith("/proc/")):
                raise ConfigError(
                    f"ChrootJail: {entry} would be covered by the new /proc (proc='none' has none)", layers=names
                )
            if "/dev" not in wanted and path in own:
                raise ConfigError(f"ChrootJail: {entry} is in the place of the box's own {path}", layers=names)
            if path == workdir and isinstance(entry, (File, Link)):
                raise ConfigError(f"ChrootJail: workdir={path!r} cannot be {entry}", layers=names)
        taken = base.get(workdir)
        if taken is not None and workdir not in wanted:
            raise ConfigError(f"ChrootJail: workdir={workdir!r} is in the place of {taken}", layers=names)

    def _check_parent(self, path: str, entry: Entry, entries: dict[str, Entry]) -> None:
        """A mount point inside a folder of the host must be there already: nothing is created on the host."""
        parent, above = holder(path, entries)
        if isinstance(above, Bind):
            there = os.fspath(above.source) + path[len(parent) :]
            if isinstance(entry, (File, Link)) or not os.path.lexists(there):
                raise ConfigError(
                    f"ChrootJail: {path} lies inside {above}, where nothing is created; "
                    f"make it in {os.fspath(above.source)!r} first, or put it elsewhere",
                    layers=(self.name, self.name),
                )
        elif isinstance(above, (File, Link)):
            raise ConfigError(
                f"ChrootJail: {path} lies inside {parent}, which is {above}", layers=(self.name, self.name)
            )

    # --- steps ----------------------------------------------------------------------------------------------

    def contribute(self, blueprint: Blueprint) -> None:
        if self.image is not None and self._type is None:
            blueprint.image = self._image().path
        elif self.image is not None and not blueprint.facts.privileged:
            raise UnsupportedError(
                "ChrootJail(image=) of a file system",
                need="a root caller, who may mount it",
                have="another",
                remedy="unpack it (unsquashfs, fsck.erofs --extract, debugfs), and use the folder as root=",
            )
        facts = blueprint.facts
        add = blueprint.add
        entries = self.entries(facts.uid, facts.workdir)
        # The box's own files and folders come on top of what was asked for.
        content = sum(len(entry.content) + _PAGE for entry in entries.values() if isinstance(entry, File))
        links = _PAGE * sum(isinstance(entry, Link) for entry in entries.values())
        names = _DEVICE_INODES + len(with_parents(entries))
        size = content + links + units.size(self.size, "size")
        if not self._lies_over:
            add(self.name, Phase.ROOT, Verb.NEW_ROOT, size, names + self.inodes)
        else:
            room = size if isinstance(self.overlay, bool) else content + links + int(self.overlay)
            self._add_overlay(blueprint, room, names + self.inodes)
        blueprint.private = self._private(entries, facts.workdir)
        for path in sorted(entries, key=lambda path: (path.count("/"), path)):
            entry = entries[path]
            if isinstance(entry, Scratch) and isinstance(holder(path, entries)[1], Bind):
                entry = Tmpfs(path, size=self.size, inodes=self.inodes, mode=entry.mode)  # nothing is ours there
            self._add_entry(blueprint, path, entry)
        self._add_proc(blueprint)
        for path in self.hide:
            add(self.name, Phase.MASKS, Verb.MASK, path, 0)
        if self._lies_over:
            add(self.name, Phase.SEAL, Verb.READ_ONLY, "/dev")
        if self.overlay is False:
            add(self.name, Phase.SEAL, Verb.READ_ONLY, "/")
        add(self.name, Phase.ENTER, Verb.PIVOT_ROOT if self.pivot else Verb.CHROOT)
        kind = "an overlay" if self._lies_over else "a private root"
        blueprint.enforcement[self.name] = Enforcement(
            Level.FULL if self.pivot else Level.PARTIAL,
            f"pivot_root into {kind}" if self.pivot else f"chroot into {kind}",
            self._restriction(),
        )

    def _restriction(self) -> str:
        if not self.pivot:
            return "chroot(2) leaves the host's mounts attached in the box's mount namespace"
        if self.overlay is not False and self.upper is None and not features.tmpfs_keeps_attributes():
            return "folders of the root cannot be removed (EIO): tmpfs keeps no user attributes before Linux 6.6"
        return ""

    def _private(self, entries: dict[str, Entry], workdir: str) -> PrivatePaths:
        areas = [path for path, entry in entries.items() if isinstance(entry, (Scratch, Tmpfs))]
        if self._lies_over:
            areas = [path for path in areas if path != workdir or isinstance(entries[path], Tmpfs)]
        covered = frozenset({*entries, "/proc"} - {workdir})
        made = frozenset(with_parents({*entries, "/proc"}))
        return PrivatePaths(tuple(sorted(areas)), covered, made, self._folder() if self._lies_over else None)

    def _add_overlay(self, blueprint: Blueprint, size: int, inodes: int) -> None:
        facts = blueprint.facts
        lower = self._add_layer(blueprint, self._folder(), writable=False)
        upper = NO_TREE
        if self.upper is not None:
            folder = os.path.realpath(os.fspath(self.upper))
            if not os.path.isdir(folder):
                raise ConfigError(f"ChrootJail(upper=): no such folder: {self.upper!r}", layers=(self.name,))
            blueprint.kept = folder
            upper = self._add_layer(blueprint, folder, writable=True)
        owner = facts.uid | facts.gid << 32
        blueprint.add(self.name, Phase.ROOT, Verb.OVERLAY, size, inodes, lower, upper, owner)

    def _add_layer(self, blueprint: Blueprint, folder: str, *, writable: bool) -> int:
        """A layer of the overlay, in which the caller's files are the payload's."""
        slot = blueprint.tree()
        if blueprint.facts.privileged:
            blueprint.add(self.name, Phase.TREES, Verb.GIVEN_TREE, slot, len(blueprint.given))
            kind = None if writable else self._type
            blueprint.given.append(GivenTree(folder, NOSUID | NODEV | (0 if writable else RDONLY), kind))
        else:
            blueprint.add(self.name, Phase.SOURCES, Verb.OPEN_TREE, slot, folder, TREE_NO_SYMLINKS, 0)
        return slot

    def _add_entry(self, blueprint: Blueprint, path: str, entry: Entry) -> None:
        add = blueprint.add
        facts = blueprint.facts
        if isinstance(entry, Bind):
            attributes = NOSUID | NODEV | (0 if entry.writable else RDONLY)
            flags = TREE_NO_SYMLINKS | (TREE_OPTIONAL if entry.optional else 0)
            slot = blueprint.tree()
            add(self.name, Phase.SOURCES, Verb.OPEN_TREE, slot, os.fspath(entry.source), flags, 0)
            add(self.name, Phase.MOUNTS, Verb.ATTACH_TREE, slot, path, attributes)
        elif isinstance(entry, Tmpfs):
            size = units.size(entry.size, "size")
            attributes = NOSUID | NODEV
            owner = facts.uid | facts.gid << 32
            add(self.name, Phase.MOUNTS, Verb.MOUNT_TMPFS, path, size, entry.inodes, entry.mode, attributes, owner)
        elif isinstance(entry, Scratch):
            owner = facts.uid | facts.gid << 32
            add(self.name, Phase.MOUNTS, Verb.MOUNT_WRITABLE, path, entry.mode, owner, int(self.overlay is not False))
        elif isinstance(entry, File):
            add(self.name, Phase.MOUNTS, Verb.WRITE_FILE, path, entry.content, 0o444)
        elif isinstance(entry, Link):
            add(self.name, Phase.MOUNTS, Verb.SYMLINK, entry.destination, path)
        else:
            self._add_devices(blueprint)

    def _add_devices(self, blueprint: Blueprint) -> None:
        add = blueprint.add
        if self._lies_over:
            owner = blueprint.facts.init_uid | blueprint.facts.init_gid << 32
            room = (_PAGE, 2 * _DEVICE_INODES, 0o755)
            add(self.name, Phase.MOUNTS, Verb.MOUNT_TMPFS, "/dev", *room, NOSUID | NODEV, owner)
        for name, (major, minor) in _DEVICE_NUMBERS.items():
            slot = blueprint.tree()
            device = os.makedev(major, minor)
            add(self.name, Phase.SOURCES, Verb.OPEN_TREE, slot, f"/dev/{name}", TREE_DEVICE, device)
            add(self.name, Phase.MOUNTS, Verb.ATTACH_TREE, slot, f"/dev/{name}", NOSUID | NOEXEC)
        add(self.name, Phase.MOUNTS, Verb.MOUNT_DEVPTS, "/dev/pts", NOSUID | NOEXEC)
        for path, destination in _DEVICE_LINKS.items():
            add(self.name, Phase.MOUNTS, Verb.SYMLINK, destination, path)

    def _add_proc(self, blueprint: Blueprint) -> None:
        add = blueprint.add
        flags = NOSUID | NODEV | NOEXEC
        if "pid" in blueprint.facts.namespaces:
            # Also when it is not shown: init counts its children there.
            shown = "/proc" if self.proc == "new" else ""
            if shown or not features.covered_proc():  # where it is covered, the kernel lets no new one be mounted
                add(self.name, Phase.MOUNTS, Verb.MOUNT_PROC, shown, self.proc_options, flags)
        elif self.proc_options:
            raise ConfigError(
                "ChrootJail(proc_options=) are those of a new /proc, which needs a PID namespace",
                layers=(self.name, "Namespaces"),
            )
        elif self.proc == "new":  # a /proc of the host's processes, as they are not hidden
            slot = blueprint.tree()
            add(self.name, Phase.SOURCES, Verb.OPEN_TREE, slot, "/proc", TREE_NO_SYMLINKS, 0)
            add(self.name, Phase.MOUNTS, Verb.ATTACH_TREE, slot, "/proc", flags)
        if self.proc == "new" and self.proc_limits:
            for path, content in proc_limits.limited_proc(blueprint.cgroup):
                add(self.name, Phase.MASKS, Verb.COVER, path, content)
        if self.proc == "new":
            for name in filter(_is_in_proc, _PROC_MASKS):
                add(self.name, Phase.MASKS, Verb.MASK, f"/proc/{name}", MASK_OPTIONAL)
            add(self.name, Phase.SEAL, Verb.READ_ONLY, "/proc")


@functools.cache
def _is_in_proc(name: str) -> bool:
    return os.path.exists(f"/proc/{name}")


def _check_proc_options(options: str) -> None:
    """See proc(5): what the kernel would refuse, or not take for an option of the file system."""
    seen = set()
    for option in options.split(",") if options else ():
        key, _, value = option.partition("=")
        is_id = value.isascii() and value.isdigit() and int(value[:11]) < _NO_ID
        fits = is_id if key == "gid" else value in _PROC_OPTIONS.get(key, ())
        if not fits or key in seen:
            raise ConfigError(
                f"ChrootJail(proc_options=): {option!r} is none of hidepid=, gid= and subset=pid (proc(5))"
            )
        seen.add(key)


def _absolute(path: str) -> str:
    """A working directory as an image names it; '' for none, or for the root, which is not to be written to."""
    path = os.path.normpath("/" + path.strip("/"))
    return "" if path == "/" or ".." in path.split("/") else path


def _joined(found: Sequence[Bind], given: Sequence[Bind]) -> tuple[Bind, ...]:
    """Binds that were found, but for those inside or in the place of what the caller gives."""
    wanted = tuple_of(given, Bind, "binds")
    targets = [str(bind.target) for bind in wanted]
    kept = [bind for bind in found if not any(f"{bind.target}/".startswith(f"{target}/") for target in targets)]
    return (*kept, *wanted)
