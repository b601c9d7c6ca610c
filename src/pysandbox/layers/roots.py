"""Ready-made roots: what one program needs, what a Python needs, the whole host; for `ChrootJail`'s class methods."""

from __future__ import annotations

import json
import os
import re
import shutil
import site
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .. import units
from ..errors import ConfigError
from . import elf, system
from .entries import Bind, by_path

#: what a program could reach its host by, know it by, or learn of its users: sockets of services, homes, its number
HIDDEN = (
    *("/boot", "/home", "/media", "/mnt", "/root", "/run", "/srv", "/sys", "/var/log", "/var/spool"),
    *("/etc/machine-id", "/var/lib/dbus/machine-id"),
)
PACKAGES = "/opt/python-packages"  # where chosen packages are inside
_OWN = ("/dev", "/proc", "/tmp")  # which every box has of its own


def _is_in(path: str, folders: Iterable[str]) -> bool:
    return any(f"{path}/".startswith(f"{folder}/") for folder in folders)


@dataclass
class Found:
    """What a root is made of: files and folders of the host, at their own paths, and the symlinks that lead to them."""

    binds: dict[str, Bind] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)

    def add(self, path: str, *, optional: bool = False) -> None:
        """Bring a file or folder, with every symlink on the way to it, so that all of its names lead to one."""
        waiting, at = path.split("/")[::-1], ""
        while waiting:
            name = waiting.pop()
            if name in ("", "."):
                continue
            if name == "..":
                at = os.path.dirname(at).rstrip("/")
                continue
            try:
                text = os.readlink(f"{at}/{name}")
            except OSError:  # no symlink
                at = f"{at}/{name}"
                continue
            if not _is_in(at, ("/dev", "/proc")):  # where the box has its own
                self.links[f"{at}/{name}"] = text
            at = "" if text.startswith("/") else at
            waiting += text.split("/")[::-1]
        self.binds.setdefault(at, Bind(at, optional=optional))

    def outermost(self) -> None:
        """Leave out what is inside of others: nothing can be made in what is bound."""
        folders = list(self.binds)
        self.binds = {path: bind for path, bind in self.binds.items() if not _is_in(os.path.dirname(path), folders)}
        self.links = {path: text for path, text in self.links.items() if not _is_in(path, folders)}

    def links_beside(self, binds: Iterable[Bind], given: object) -> dict[str, Any]:
        """The symlinks that are not inside or in the place of what is bound, and those that the caller gives."""
        targets = [str(bind.target) for bind in binds]
        kept = {path: text for path, text in self.links.items() if not _is_in(path, targets)}
        return kept | dict(by_path(given, "symlinks"))


# --- programs -----------------------------------------------------------------------------------------------------


def loader_folders() -> list[str]:
    """Where the dynamic loader looks by its configuration (ld.so.conf(5)'s files, read as ldconfig(8) does)."""
    return [line for line in system.linker_folders().decode("utf-8", "surrogateescape").splitlines() if line]


def programs(names: Sequence[units.StrPath]) -> Found:
    """The programs with their interpreters and libraries, and the host's own symlinks (/lib → usr/lib)."""
    if not names:
        raise ConfigError("ChrootJail.for_program() takes one program or more", layers=("ChrootJail",))
    folders = loader_folders()
    found = Found(links={path: text for path, text in system.links() if path.count("/") == 1})
    for program in names:
        name = units.path(program, "a program")
        path = shutil.which(name)
        if path is None:
            raise ConfigError(f"ChrootJail.for_program(): no such program: {name!r}", layers=("ChrootJail",))
        for file in elf.files_of(os.path.abspath(path), folders):
            found.add(file)
    cache = "/etc/ld.so.cache"  # by which the loader finds what is not in its own folders
    if os.path.exists(cache):
        found.add(cache)
    return found


# --- Python -------------------------------------------------------------------------------------------------------


def python(venv: units.StrPath | None, packages: Iterable[str] | None) -> Found:
    """An interpreter, its standard library and its packages, the system's libraries, and what TLS and clocks need."""
    if packages is not None and venv is not None:
        raise ConfigError("ChrootJail.python() takes venv= or packages=, not both", layers=("ChrootJail",))
    executable, prefixes = _interpreter(venv)
    found = programs([executable])
    paths = [path for path, _ in system.links() if path.startswith("/etc/")]
    paths += [path for _, path in system.folders() if os.path.basename(path).startswith("lib") or path[:5] == "/etc/"]
    paths += [*prefixes, *_standard_library(), "/usr/lib", "/usr/share/zoneinfo", "/usr/share/ca-certificates"]
    paths += [sysconfig.get_config_var("WHEEL_PKG_DIR") or "", "/usr/share/python-wheels"]  # ensurepip's, on Debian
    if venv is None and packages is None:
        imports = import_paths()
        paths += imports
        found.env = variables(imports)
    for path in filter(os.path.exists, paths):
        found.add(path, optional=path.startswith("/etc/"))
    found.outermost()
    if packages is not None:
        found.hidden = [path for path in package_folders() if _is_in(path, found.binds)]
        found.binds |= {str(bind.target): bind for bind in package_binds(packages)}
        found.env = {"PYTHONPATH": PACKAGES}
    return found


def _interpreter(venv: units.StrPath | None) -> tuple[str, list[str]]:
    """The interpreter, and the folders that are its own."""
    if venv is None:
        return sys.executable, [path for path, _ in system.python_folders()]
    folder = os.path.abspath(units.path(venv, "ChrootJail.python(venv=)"))
    executable = os.path.join(folder, "bin", "python")
    try:
        text = Path(folder, "pyvenv.cfg").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        raise ConfigError(
            f"ChrootJail.python(venv=): no virtual environment: {folder!r}", layers=("ChrootJail",)
        ) from None
    if shutil.which(executable) is None:
        raise ConfigError(
            f"ChrootJail.python(venv=): {folder!r} has no interpreter: {executable!r} is missing, leads nowhere "
            "or is no program",
            layers=("ChrootJail",),
        )
    home = re.search(r"^home\s*=\s*(.+)$", text, re.MULTILINE)
    bases = {os.path.dirname(os.path.dirname(os.path.realpath(executable)))}  # where the interpreter looks in the end
    if home:
        bases.add(os.path.dirname(os.path.realpath(home.group(1).strip())))
    return executable, [folder, *sorted(bases - {"/", "/usr"})]


def _standard_library() -> list[str]:
    """That of the running Python where it is the system's, below /usr."""
    found = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return sorted(path for path in found if path and path.startswith("/usr/"))


def import_paths() -> list[str]:
    """Where the running Python imports from, but for what is the application's own; with what is being developed."""
    left_out = _folders_of_the_application()
    paths = [path for path in (*sys.path, *_python_path()) if isinstance(path, str) and os.path.isabs(path)]
    folders = [path for path in paths if os.path.isdir(path)]  # without archives, which would be left open
    paths = [path for path in paths if os.path.realpath(path) not in left_out]
    paths += [folder for found in metadata.distributions(path=folders) if (folder := _project_of(found))]
    return [path for path in paths if os.path.exists(path) and not _is_the_boxes(os.path.realpath(path))]


def _folders_of_the_application() -> set[str]:
    """The current folder and that of the running script, which Python puts on its path by itself."""
    found = {_current_folder()}
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script and not getattr(sys.flags, "safe_path", False):  # Python 3.11
        found.add(os.path.dirname(os.path.realpath(script)))
    return found


def _current_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was removed
        return ""


def _is_the_boxes(path: str) -> bool:
    return path in ("/", "/dev/shm", *_OWN) or _is_in(path, ("/proc",))


def _project_of(found: metadata.Distribution) -> str | None:
    """The folder of an editable install (PEP 610), from which it imports."""
    try:
        origin = json.loads(found.read_text("direct_url.json") or "{}")
        url = urlsplit(origin["url"]) if origin["dir_info"]["editable"] is True else None
    except (OSError, ValueError, LookupError, TypeError):  # it says nothing of that
        return None
    return unquote(url.path) if url is not None and url.scheme == "file" else None


def _python_path() -> list[str]:
    given = "" if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "")
    return [os.path.normpath(os.path.join(_current_folder(), path)) for path in given.split(os.pathsep) if path]


def variables(shown: Sequence[str]) -> dict[str, str]:
    """Variables that name more places to import from: the caller's PYTHONPATH, and the folder of the user's own."""
    found = {}
    if paths := [path for path in _python_path() if path in shown]:
        found["PYTHONPATH"] = os.pathsep.join(paths)
    if site.ENABLE_USER_SITE and site.getusersitepackages() in shown:
        found["PYTHONUSERBASE"] = site.getuserbase()  # by which the box's HOME is not asked
    return found


def variables_beside(found: dict[str, str], given: object) -> dict[str, str]:
    """Variables of a root and the caller's, which win; of PYTHONPATH, whose entries come first."""
    own = dict(units.variables(given, "ChrootJail.python(env=)"))
    paths = [path for path in (own.get("PYTHONPATH"), found.get("PYTHONPATH")) if path]
    return found | own | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})


# --- packages -----------------------------------------------------------------------------------------------------


def package_binds(packages: Iterable[str]) -> list[Bind]:
    """Installed packages with all that they require, each at its place in `PACKAGES`."""
    waiting = [_normal(name) for name in units.names(packages, "ChrootJail.python(packages=)")]
    seen, binds = set(), {}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise _refusal(name, "is not installed") from None
        for top in _tops_of(name, found):
            source = os.path.realpath(str(found.locate_file(top)))
            binds[f"{PACKAGES}/{top}"] = Bind(source, f"{PACKAGES}/{top}")
        for line in found.requires or ():
            required, _, marker = line.partition(";")
            if "extra" not in marker:
                match = re.match(r"[A-Za-z0-9._-]+", required)
                if match and _is_installed(match.group()):  # one that a marker leaves out here is not there
                    waiting.append(_normal(match.group()))
    return list(binds.values())


def _tops_of(name: str, found: metadata.Distribution) -> set[str]:
    """The names in its folder that an installed package consists of."""
    remedy = "; install it from a wheel, or show its files by binds= and env="
    if _project_of(found) is not None:
        raise _refusal(name, f"is an editable install, whose files are not where packages are{remedy}")
    if found.read_text("RECORD") is None:  # without, `files` would be none, or those of its sources
        raise _refusal(name, f"has no record of its files (RECORD), as packages of a distribution have none{remedy}")
    tops = {file.parts[0] for file in found.files or ()}
    return {top for top in tops if top not in ("..", "/") and not top.startswith("__pycache__")}


def _refusal(name: str, why: str) -> ConfigError:
    return ConfigError(f"ChrootJail.python(packages=): {name!r} {why}", layers=("ChrootJail",))


def _normal(name: str) -> str:
    text = units.text(name, "a name of ChrootJail.python(packages=)")
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", text):
        raise _refusal(text, "is no name of a package")
    return re.sub(r"[-_.]+", "-", text).lower()


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def package_folders() -> list[str]:
    """Where installed packages are, which are hidden when some are chosen."""
    paths = [path for name in ("purelib", "platlib") if (path := sysconfig.get_path(name))]
    paths += [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    return sorted({os.path.realpath(path) for path in paths if os.path.isdir(path)})


# --- the host -----------------------------------------------------------------------------------------------------


def secret_paths(hide: Iterable[object], binds: Iterable[Bind]) -> tuple[str, ...]:
    """What is hidden of the whole host: the usual where it is there, and what the caller says, which must be."""
    shown = [str(bind.target) for bind in binds]
    found = [os.path.realpath(path) for path in HIDDEN if os.path.exists(path)]
    for given in hide:
        path = units.inside_path(given, "a path of ChrootJail.host_readonly(hide=)")
        if not os.path.exists(path) and not _is_in(path, shown):
            raise ConfigError(
                f"ChrootJail.host_readonly(hide=): {path!r} does not exist, leads nowhere or is closed to you "
                "(patterns are not expanded)",
                layers=("ChrootJail",),
            )
        # Of a symlink, both its name and what it leads to, by paths without symlinks, as those are not followed.
        found += [os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)), os.path.realpath(path)]
    found = [path for path in found if not _is_in(path, _OWN) or _is_in(path, shown)]
    return tuple(path for path in dict.fromkeys(found) if not _is_in(os.path.dirname(path), found))
