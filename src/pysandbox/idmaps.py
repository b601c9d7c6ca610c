"""The id maps of a box's user namespace: user_namespaces(7)."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from pathlib import Path

from . import features
from .errors import UnsupportedError
from .interrupts import INTERRUPTIBLE
from .plan import Facts, IdRequest

_PATIENCE = 60.0  # seconds that newuidmap may take


def write(pid: int, ids: IdRequest, facts: Facts) -> tuple[int, int] | None:
    """Write the maps of init's namespace; returns the payload's ids on the host where they are not the caller's.

    Errors: `UnsupportedError` (subordinate ids that are not there), `SetupError`.
    """
    if ids.subordinate:
        for kind, inside, own in (("uid", ids.uid, facts.caller_uid), ("gid", ids.gid, facts.caller_gid)):
            _map_by_helper(pid, kind, inside, own)
        return None
    if not facts.privileged:
        _write_map(pid, "setgroups", "deny")  # required before an unprivileged gid_map
        _write_map(pid, "uid_map", f"{ids.uid} {facts.caller_uid} 1\n")
        _write_map(pid, "gid_map", f"{ids.gid} {facts.caller_gid} 1\n")
        return None
    first = ids.host_id if ids.host_id is not None else features.free_host_ids(pid)
    _write_map(pid, "uid_map", _two_ids(ids.uid, first))
    _write_map(pid, "gid_map", _two_ids(ids.gid, first))
    return first + (ids.uid != 0), first + (ids.gid != 0)


def _write_map(pid: int, name: str, content: str) -> None:
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, content.encode())
        finally:
            os.close(fd)
    except OSError as error:
        arguments = {"map": content.strip().replace("\n", ", ")}
        raise features.setup_error(error.errno or errno.EIO, "Namespaces", name, arguments) from None


def _map_by_helper(pid: int, kind: str, inside: int, own: int) -> None:
    helper = shutil.which(f"new{kind}map")
    start, count = _subordinate_range(kind)
    if helper is None or not count:
        raise UnsupportedError(
            "Namespaces(subordinate=True)",
            need=f"new{kind}map(1) and a range for this user in /etc/sub{kind}",
            have="no such program" if helper is None else "no such range",
            remedy=f"install uidmap, and usermod --add-sub{kind}s",
        )
    ranges = [(inside, own, 1), (inside + 1, start + inside, count - inside)]
    if inside:
        ranges.insert(0, (0, start, inside))
    words = [str(number) for line in ranges for number in line if line[2] > 0]
    with INTERRUPTIBLE:
        command = [helper, str(pid), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    if done.returncode:
        arguments = {"command": " ".join([helper, "PID", *words]), "said": done.stderr.strip()}
        raise features.setup_error(errno.EPERM, "Namespaces", f"new{kind}map", arguments)


def _two_ids(inside: int, first: int) -> str:
    """init as 0 and the payload as `inside`, or both as 0."""
    return f"0 {first} 1\n" if inside == 0 else f"0 {first} 1\n{inside} {first + 1} 1\n"


def _subordinate_range(kind: str) -> tuple[int, int]:
    import pwd  # only for this rare case

    names = {str(os.geteuid())}
    with contextlib.suppress(KeyError):
        names.add(pwd.getpwuid(os.geteuid()).pw_name)
    try:
        lines = Path(f"/etc/sub{kind}").read_text(encoding="utf-8").splitlines()
    except OSError:
        return (0, 0)
    for line in lines:
        fields = line.split(":")
        if len(fields) == 3 and fields[0] in names and fields[1].isdigit() and fields[2].isdigit():
            return (int(fields[1]), int(fields[2]))
    return (0, 0)
