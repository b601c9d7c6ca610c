"""Ready-made roots: what one program needs, what a Python needs, the whole host; for `ChrootJail`'s class methods."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

from .. import units
from ..errors import ConfigError
from . import elf, system
from .entries import Bind

#: what a program that reaches them could reach its host by, or learn of its users: sockets of services, homes
HIDDEN = ("/boot", "/home", "/media", "/mnt", "/root", "/run", "/srv", "/sys", "/var/log", "/var/spool")
PACKAGES = "/opt/python-packages"  # where chosen packages are inside


def loader_folders() -> list[str]:
    """Where the dynamic loader looks by its configuration (ld.so.conf(5)'s files, read as ldconfig(8) does)."""
    return [line for line in system.linker_folders().decode("utf-8", "surrogateescape").splitlines() if line]


def program_binds(programs: Sequence[units.StrPath]) -> list[Bind]:
    """The programs with their interpreters and libraries, each file under every name that leads to it."""
    if not programs:
        raise ConfigError("ChrootJail.for_program() takes one program or more", layers=("ChrootJail",))
    folders = loader_folders()
    binds: dict[str, Bind] = {}
    for program in programs:
        name = units.path(program, "a program")
        path = shutil.which(name)
        if path is None:
            raise ConfigError(f"ChrootJail.for_program(): no such program: {name!r}", layers=("ChrootJail",))
        for file in elf.files_of(os.path.abspath(path), folders):
            for name in names_of(file):
                binds[name] = Bind(os.path.realpath(file), name)
    cache = "/etc/ld.so.cache"  # by which the loader finds what is not in its own folders
    if os.path.exists(cache):
        binds[cache] = Bind(cache)
    return list(binds.values())


def names_of(path: str) -> list[str]:
    """The paths by which a file is asked for: the one given, those its symlinks go by, and its own."""
    found = [os.path.normpath(path)]
    for _ in range(40):
        if not os.path.islink(found[-1]):
            break
        found.append(os.path.normpath(os.path.join(os.path.dirname(found[-1]), os.readlink(found[-1]))))
    return list(dict.fromkeys([*found, os.path.realpath(path)]))


# --- Python -------------------------------------------------------------------------------------------------------


def python_binds(venv: units.StrPath | None) -> list[Bind]:
    """An interpreter, its standard library and its packages, the system's libraries, and what TLS and clocks need."""
    executable, prefixes = _interpreter(venv)
    binds = {str(bind.target): bind for bind in program_binds([executable])}
    for source, target in system.folders():
        if os.path.basename(target).startswith("lib") or target.startswith("/etc/"):
            binds[target] = Bind(source, target, optional=True)
    paths = [*prefixes, *_standard_library(), "/usr/lib", "/usr/share/zoneinfo", "/usr/share/ca-certificates"]
    for path in paths:
        if os.path.exists(path):
            for name in names_of(path):
                binds[name] = Bind(os.path.realpath(path), name)
    return _outermost(binds)


def _interpreter(venv: units.StrPath | None) -> tuple[str, list[str]]:
    """The interpreter, and the folders that are its own."""
    if venv is None:
        own = [path for path, _ in system.python_folders()]
        return sys.executable, own
    folder = os.path.abspath(units.path(venv, "ChrootJail.python(venv=)"))
    executable = os.path.join(folder, "bin", "python")
    try:
        text = Path(folder, "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError:
        raise ConfigError(
            f"ChrootJail.python(venv=): no virtual environment: {folder!r}", layers=("ChrootJail",)
        ) from None
    home = re.search(r"^home\s*=\s*(.+)$", text, re.MULTILINE)
    bases = {os.path.dirname(os.path.dirname(os.path.realpath(executable)))}  # where the interpreter looks in the end
    if home:
        bases.add(os.path.dirname(os.path.realpath(home.group(1).strip())))
    return executable, [folder, *sorted(bases - {"/", "/usr"})]


def _standard_library() -> list[str]:
    """That of the running Python where it is the system's, below /usr."""
    found = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return sorted(path for path in found if path and path.startswith("/usr/"))


def _outermost(binds: dict[str, Bind]) -> list[Bind]:
    """Without those inside of others: nothing can be made in what is bound."""
    names = sorted(binds)
    return [binds[name] for name in names if not any(name.startswith(f"{other}/") for other in names)]


def package_binds(packages: Iterable[str]) -> list[Bind]:
    """Installed packages with all that they require, each at its place in `PACKAGES`."""
    waiting, seen, binds = [_normal(name) for name in packages], set(), {}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise ConfigError(
                f"ChrootJail.python(packages=): {name!r} is not installed", layers=("ChrootJail",)
            ) from None
        for file in found.files or ():
            top = file.parts[0]
            if top != ".." and not top.startswith("__pycache__"):
                source = os.path.realpath(str(found.locate_file(top)))
                binds[f"{PACKAGES}/{top}"] = Bind(source, f"{PACKAGES}/{top}")
        for line in found.requires or ():
            required, _, marker = line.partition(";")
            if "extra" not in marker:
                match = re.match(r"[A-Za-z0-9._-]+", required)
                if match and _is_installed(match.group()):  # one that a marker leaves out here is not there
                    waiting.append(_normal(match.group()))
    return list(binds.values())


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", units.text(name, "a name of ChrootJail.python(packages=)")).lower()


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def package_folders() -> list[str]:
    """Where installed packages are, which are hidden when some are chosen."""
    found = {os.path.realpath(path) for name in ("purelib", "platlib") if (path := sysconfig.get_path(name))}
    found |= {path for path in sys.path if path.endswith(("site-packages", "dist-packages")) and os.path.isdir(path)}
    return sorted(found)


def secret_folders(hide: Iterable[str]) -> tuple[str, ...]:
    """What is hidden of the whole host: the usual, and what the caller says; what is not there needs no hiding."""
    there = [path for path in (*HIDDEN, *hide) if os.path.lexists(path)]
    # Of a symlink (/home on some systems) what it leads to is what matters; what is inside of others is gone with them.
    found = dict.fromkeys([path for name in there for path in (name, os.path.realpath(name))])
    return tuple(path for path in found if not any(path.startswith(f"{other}/") for other in found))
