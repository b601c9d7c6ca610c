"""The application's side of init: starting it, and the control socket.  native/proto.h is the other side.

A `Box` belongs to the process that made it.  Its lifetime hangs on descriptors: init ends when the control socket
closes or this process dies, by whatever cause.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import io
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from . import descriptors, features, idmaps, trees
from ._native import lib
from .cgroups import Leaves
from .errors import SandboxError, SetupError, UnsupportedError
from .interrupts import INTERRUPTIBLE, UNINTERRUPTED
from .layers.namespaces import CLONE_FLAGS
from .plan import Blueprint, Plan, Step
from .result import Enforcement, Level

_HEAD = struct.Struct("=IIII")
_MAGIC = 0x50594258
_SETUP, _RUN, _OPEN, _LAST_RUN, _PREPARE, _UPPER = 1, 2, 3, 4, 5, 6
_MEASURE = 0x100
_OPEN_BODY = struct.Struct("=IIIII")
REPLY = struct.Struct("=IIiiiI10Q")
READY, FAILED, STARTED, ENDED, LISTENING = 1, 2, 3, 4, 5
_ORDER = struct.Struct("=II")
_MOMENT = struct.pack("@ll", 0, 100_000)  # a timeval, 100 ms
ORDER_SIGNAL, ORDER_SIGNAL_GROUP, ORDER_KILL = 1, 2, 3
_NO_STEP = 0xFFFFFFFF
_PATIENCE = 60.0  # seconds that init may take to answer, before the box is given up
_DYING = 1.0  # seconds after which init, when it is ending, has surely closed all that it had
_LEAST_PATIENCE = 5.0  # the same for the start of a run whose timeout is shorter than that

_LARGEST_BODY = 32 << 20  # PB_MAX_BODY of native/proto.h
_FITS_INTO_SOCKET = (
    64 << 10
)  # bytes that a stream socket surely takes while nobody reads (net.core.wmem_default, socket(7))

_SPAWN_STEPS = ("mmap", "clone", "capset", "dup3", "execveat")

_image_lock = threading.Lock()
_image: int | None = None


def _after_fork() -> None:
    """In the child: another thread of the parent may have held the lock, and it is not there to let go."""
    global _image_lock
    _image_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def _init_image() -> int:
    """The init program in a sealed memfd, made once per process; no file of the host is behind /proc/1/exe."""
    global _image
    with _image_lock:
        if _image is None:
            program = (
                Path(str(sys.modules[f"{__package__}._native"].__file__)).parent / "native" / "pysandbox-init"
            ).read_bytes()
            allow_sealing, executable = 2, 0x10
            try:
                fd = os.memfd_create("pysandbox-init", os.MFD_CLOEXEC | allow_sealing | executable)
            except OSError:  # MFD_EXEC is new in Linux 6.3
                fd = os.memfd_create("pysandbox-init", os.MFD_CLOEXEC | allow_sealing)
            os.write(fd, program)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 1 | 2 | 4 | 8)  # F_SEAL_SEAL, SHRINK, GROW, WRITE
            _image = fd
        return _image


class Reply(NamedTuple):
    """One message of init's (struct pb_reply)."""

    kind: int
    step: int
    error: int
    status: int
    pid: int
    killed: int
    user_us: int
    system_us: int
    max_rss_kib: int
    voluntary: int
    involuntary: int
    blocks_in: int
    blocks_out: int
    wall_ns: int
    delay_ns: int  #: all ones: not known
    sampled_ns: int  #: the same


@dataclass
class StartedRun:
    """A program that has been exec'd: its socket to init, and its pid inside."""

    socket: socket.socket
    pid: int
    number: int  #: of all the runs that were started in the box
    listener: int = -1  #: tells of calls that end the run (seccomp_unotify(2)); -1: none does, or the kernel ends it

    def order(self, kind: int, number: int = 0) -> None:
        """Tell init to signal or kill the run; a run that has ended already is no error."""
        with contextlib.suppress(OSError):
            self.socket.send(_ORDER.pack(kind, number), socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)

    def close(self) -> None:
        """Let go of the run: what is left of it is killed."""
        self.socket.close()
        listener, self.listener = self.listener, -1
        if listener >= 0:
            os.close(listener)


#: how many boxes this process has made; for tests, which look for what is left behind
boxes_made = 0


class Box:
    """A living box: init and everything in it."""

    def __init__(self, blueprint: Blueprint) -> None:
        self.blueprint = blueprint
        own, facts = (os.geteuid(), os.getegid()), blueprint.facts
        # The ids of the payload on the host (with a user namespace, once that has its maps), and if they are not ours.
        self.payload_ids: tuple[int, int] = own if blueprint.ids is not None else (facts.uid, facts.gid)
        self.has_other_ids = self.payload_ids != own
        self.leaves = Leaves()
        self.limits = blueprint.cgroup  # of runs to come; `Sandbox.update` changes them
        self._lower = -1  # what an overlay lies over, where that is a mount that we have made
        self._kept: list[int] = []  # folders that are locked while the box is there
        self.null = -1  # /dev/null, for the streams of runs that go there
        self._owner = os.getpid()
        self._lock = threading.RLock()  # of the conversation on the control socket
        self._ending = threading.Lock()  # of the pidfd, whose number may be another's once it is closed
        self.runs_started = 0
        self.closed = False
        self._control: socket.socket | None = None
        self.pid = -1
        self.pidfd = -1
        self.exit_status: int | None = None  # init's, or its signal, once it has ended
        global boxes_made
        boxes_made += 1
        self._ready = False
        with UNINTERRUPTED:
            try:
                self._build()
            except BaseException:
                self.close()
                raise

    def _build(self) -> None:
        prepare = self.blueprint.prepare_plan
        early = len(prepare.encoded) <= _FITS_INTO_SOCKET
        with descriptors.reserved(descriptors.closed_ones()):
            self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            with theirs:
                self._control.settimeout(_PATIENCE)
                if early:  # init finds it there when it starts, and works on it while the id maps are written
                    self._send(_PREPARE, prepare.encoded)
                self._spawn(theirs)
        if not early:
            self._send(_PREPARE, prepare.encoded)
        try:
            if self.blueprint.ids is not None:
                ids = idmaps.write(self.pid, self.blueprint.ids, self.blueprint.facts)
                if ids is not None:
                    self.payload_ids, self.has_other_ids = ids, True
            self._send_setup()
        except SandboxError:
            if _is_readable(self._control.fileno(), 0):
                self._take_setup_reply()  # init has ended, and said why
            raise
        self.null = descriptors.open_above(os.devnull, os.O_RDWR)

    def _spawn(self, control: socket.socket) -> None:
        flags = _clone_flags(self.blueprint.facts.namespaces)
        image = _init_image()
        application = os.pidfd_open(os.getpid())
        try:
            spawned = lib.pb_spawn(image, control.fileno(), application, flags, self.blueprint.init_capabilities)
        finally:
            os.close(application)
        if spawned.error:
            step = _SPAWN_STEPS[spawned.step]
            arguments: dict[str, object] = {}
            if step == "clone":
                arguments["namespaces"] = " ".join(sorted(self.blueprint.facts.namespaces))
            raise features.setup_error(spawned.error, "Namespaces" if step == "clone" else "init", step, arguments)
        self.pid, self.pidfd = spawned.pid, spawned.pidfd

    def _send_setup(self) -> None:
        plan = self.blueprint.setup_plan.encoded
        trees.hold(self.blueprint.image, self.blueprint.kept, self._kept)
        if not self.blueprint.given:
            self._send(_SETUP, plan)
            return
        facts = self.blueprint.facts
        try:
            with trees.given(self.blueprint.given, self.payload_ids, self._in_user_namespace) as fds:
                self._send(_SETUP, plan, fds)
                self._lower = os.dup(fds[0])
        except UnsupportedError as error:
            if not facts.degrade:
                raise
            row = self.blueprint.enforcement["ChrootJail"]
            reason = f"{error.feature} cannot be had: what is not open to everybody is closed to the payload"
            self.blueprint.enforcement["ChrootJail"] = Enforcement(Level.PARTIAL, row.mechanism, reason)
            with trees.given_unmapped(self.blueprint.given) as fds:
                self._send(_SETUP, plan, fds)
                self._lower = os.dup(fds[0])

    @contextlib.contextmanager
    def _in_user_namespace(self) -> Iterator[int]:
        """The pid of a process that does nothing but to have a user namespace of its own."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        application = os.pidfd_open(os.getpid())
        try:
            spawned = lib.pb_spawn(_init_image(), theirs.fileno(), application, CLONE_FLAGS["user"], 0)
            theirs.close()
            if spawned.error:
                raise features.setup_error(
                    spawned.error, "ChrootJail", _SPAWN_STEPS[spawned.step], {"namespaces": "user"}
                )
            try:
                yield spawned.pid
            finally:
                ours.close()
                signal.pidfd_send_signal(spawned.pidfd, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitid(os.P_PIDFD, spawned.pidfd, os.WEXITED)
                os.close(spawned.pidfd)
        finally:
            os.close(application)
            ours.close()
            theirs.close()

    def wait_until_ready(self) -> None:
        """Wait until init has carried out the box's plan; the error names the step that failed, and the box is gone.

        Apart from the constructor, so that the caller can do its own part of a run meanwhile.
        """
        self._check_owner()
        with UNINTERRUPTED, self._lock:
            if self._ready:
                return
            try:
                self._take_setup_reply()
            except BaseException:
                self.close()
                raise
            self._ready = True

    def _take_setup_reply(self) -> None:
        reply, _ = self._receive_reply(INTERRUPTIBLE)
        if reply.kind != READY:
            plan = self.blueprint.prepare_plan if reply.status else self.blueprint.setup_plan
            raise step_error(plan, reply)

    def _check_owner(self) -> None:
        if os.getpid() != self._owner:  # before any lock: at the time of the fork another thread may have held it
            raise SandboxError("a box belongs to the process that made it; make another after a fork")

    # --- talking to init ------------------------------------------------------------------------------------

    def _send(self, request: int, body: bytes, fds: list[int] | None = None) -> None:
        control = self._control
        if control is None:
            raise SandboxError("the box has ended")
        if len(body) > _LARGEST_BODY:
            raise features.setup_error(errno.E2BIG, "init", "send", {"bytes": len(body)})
        fds = fds or []
        head = _HEAD.pack(_MAGIC, request, len(body), len(fds))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"={len(fds)}i", *fds))] if fds else []
        try:
            sent = control.sendmsg([head, body], rights, socket.MSG_NOSIGNAL)
            rest = memoryview(head + body)[sent:] if sent < len(head) + len(body) else memoryview(b"")
            while rest:
                rest = rest[control.send(rest, socket.MSG_NOSIGNAL) :]
        except OSError as error:
            raise SandboxError(f"the box has ended: {error.strerror}") from None

    def _receive_reply(self, waiting: AbstractContextManager[None]) -> tuple[Reply, int]:
        """A reply on the control socket and the descriptor that came with it, or -1."""
        control = self._control
        if control is None:
            raise SandboxError("the box has ended")
        fds: list[int] = []
        data = b""
        with waiting:
            try:
                data, fds, _, _ = socket.recv_fds(control, REPLY.size, 1)
            except TimeoutError:
                self._give_up("reply", _PATIENCE)
            except OSError:
                pass  # init is gone
        if len(data) != REPLY.size:
            for fd in fds:
                os.close(fd)
            raise features.setup_error(errno.EPIPE, "init", "reply", {"ended": not self.is_alive()})
        return Reply._make(REPLY.unpack(data)), fds[0] if fds else -1

    def _give_up(self, step: str, patience: float) -> NoReturn:
        """A box whose init does not answer is of no more use, and ended."""
        self.kill()
        raise features.setup_error(errno.ETIMEDOUT, "init", step, {"seconds": patience})

    def start_run(
        self,
        plan: Plan,
        fds: list[int],
        *,
        last: bool = False,
        measure: bool = False,
        patience: float | None = None,
    ) -> StartedRun:
        """Start a program.  The plan's descriptors count from 1: 0 is the run's own socket.

        `last`: the box ends with this run.  `measure`: it is looked at between its end and its being waited for.
        `patience`: seconds that starting may take, five at least.  To be called with signals held back.
        """
        self._check_owner()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        run: StartedRun | None = None
        try:
            request = (_LAST_RUN if last else _RUN) | (_MEASURE if measure else 0)
            try:
                with self._lock:
                    self.runs_started += 1
                    number = self.runs_started
                    # It may overtake the answer to the set-up: init takes one after the other, and ends if that failed.
                    self._send(request, plan.encoded, [theirs.fileno(), *fds])
            except SandboxError as error:
                if self._ready or isinstance(error, SetupError):
                    raise  # else the answer to the set-up, below, says why init has ended
            finally:
                os.close(theirs.detach())
            if not self._ready:
                patience = None  # for the rest of the set-up, too
            run = StartedRun(ours, 0, number)
            reply = self._receive_start(run, min(_PATIENCE, max(_LEAST_PATIENCE, patience or _PATIENCE)))
            if reply.kind != STARTED:
                raise step_error(plan, reply)
        except BaseException:
            ours.close()
            if run is not None:
                run.close()
            raise
        run.pid = reply.pid
        return run

    def _receive_start(self, run: StartedRun, patience: float) -> Reply:
        ours = run.socket
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _MOMENT)
        data = b""
        begin = time.monotonic()
        while True:
            try:
                if not self.blueprint.is_heard:
                    data = ours.recv(REPLY.size)
                    break
                data, fds, _, _ = socket.recv_fds(ours, REPLY.size, 1)
                if not fds:
                    break
                run.listener = fds[0]
            except BlockingIOError:
                if time.monotonic() > begin + patience:
                    self._give_up("start", patience)
                with INTERRUPTIBLE:  # it is nearly always there at once, so signals are let in only if it is not
                    pass
            except OSError:
                break  # init is gone
        if len(data) != REPLY.size:
            self.wait_until_ready()  # says why, if it did not come as far as that
            control = self._control
            if control is not None and not _is_readable(control.fileno(), _DYING):  # init is there, and stays
                # The program has killed its keeper, which it can where it has init's id, before that could say that it
                # runs.  So it did run, and what comes of that is told as if it had done so a moment later.
                return Reply(STARTED, *[0] * (len(Reply._fields) - 1))
            raise SandboxError("the box has ended")
        return Reply._make(REPLY.unpack(data))

    def open_file(self, path: str, flags: int, mode: int) -> io.FileIO:
        """Open a regular file inside, with the box's rights; no symlink is followed."""
        return io.FileIO(self._open(path, flags, mode), "rb" if flags & os.O_ACCMODE == os.O_RDONLY else "wb")

    def open_folder(self, path: str, mode: int | None) -> int:
        """Open a folder inside, in the same way; with a mode, its last name is made if it is missing."""
        return self._open(path, os.O_DIRECTORY | (0 if mode is None else os.O_CREAT), mode or 0)

    def _open(self, path: str, flags: int, mode: int) -> int:
        facts = self.blueprint.facts
        name = path.encode("utf-8", "surrogateescape") + b"\0"
        body = _OPEN_BODY.pack(flags, mode, facts.uid, facts.gid, 0) + name
        self.wait_until_ready()
        with UNINTERRUPTED, self._lock:
            try:
                self._send(_OPEN, body)
                reply, fd = self._receive_reply(UNINTERRUPTED)  # or the descriptor might be lost; init answers at once
            except BaseException:
                self.kill()  # interrupted in between, the next answer would be taken for that of another question
                raise
            if reply.kind == READY:
                return fd
        text = os.strerror(reply.error)
        if reply.error == errno.ENXIO:
            text = "Not a regular file"
        elif reply.error == errno.ELOOP:
            text = "A symbolic link is on the way, and none is followed"
        raise OSError(reply.error, text, path)

    def open_lower(self) -> int:
        """What the overlay lies over, as a descriptor of the folder."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        if self._lower >= 0:
            return os.open(".", flags, dir_fd=self._lower)
        return os.open(self.blueprint.private.lower or "/", flags)

    def open_upper(self) -> int:
        """Where the overlay keeps what is written, as a descriptor of the folder; `SandboxError` without an overlay."""
        self.wait_until_ready()
        with UNINTERRUPTED, self._lock:
            try:
                self._send(_UPPER, b"")
                reply, fd = self._receive_reply(UNINTERRUPTED)
            except BaseException:
                self.kill()
                raise
        if reply.kind != READY:
            raise SandboxError("the box has no overlay: ChrootJail(root, overlay=True)")
        return fd

    # --- the end --------------------------------------------------------------------------------------------

    def is_alive(self) -> bool:
        """Whether init still runs."""
        with self._ending:
            return self.pidfd >= 0 and not _is_readable(self.pidfd, 0)

    def kill(self) -> None:
        """End the box at once."""
        with self._ending:
            if self.pidfd >= 0:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def begin_close(self) -> None:
        """Tell init to end the box, and do not wait for it; `close` does."""
        control = self._control
        if control is not None and os.getpid() == self._owner:
            # Not close alone: a forked copy of this process may hold the socket too.
            with contextlib.suppress(OSError):
                control.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the box and wait until nothing is left of it.  In a forked child: just let go of it."""
        if os.getpid() != self._owner:
            self._let_go()
            return
        with UNINTERRUPTED:  # for a few seconds at most
            self.closed = True
            self.begin_close()  # so that whoever waits for an answer gets none, and lets go of the lock
            with self._lock:
                control, self._control = self._control, None
                if control is not None:
                    control.close()
            self._close_null()
            self.leaves.close()  # while init comes to its end
            self._wait_for_end()
            self._let_go_of_folders()

    def _let_go(self) -> None:
        self._close_null()
        self._let_go_of_folders()
        control, self._control = self._control, None
        if control is not None:
            control.close()
        pidfd, self.pidfd = self.pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)

    def _wait_for_end(self) -> None:
        with self._ending:
            pidfd, self.pidfd = self.pidfd, -1
        if pidfd < 0:
            return
        try:
            if not _is_readable(pidfd, 5.0):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                if not _is_readable(pidfd, 5.0):
                    warnings.warn(
                        f"init {self.pid} of a box does not die; it will when the kernel lets it", stacklevel=2
                    )
                    return
            with contextlib.suppress(ChildProcessError):  # a caller that ignores SIGCHLD, or reaps everything
                ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
                self.exit_status = ended.si_status if ended is not None else None
        finally:
            os.close(pidfd)

    def _close_null(self) -> None:
        null, self.null = self.null, -1
        if null >= 0:
            os.close(null)

    def _let_go_of_folders(self) -> None:
        lower, self._lower = self._lower, -1
        if lower >= 0:
            os.close(lower)
        while self._kept:
            os.close(self._kept.pop())

    def __del__(self) -> None:
        if getattr(self, "pidfd", -1) >= 0:
            warnings.warn(f"unclosed box {self.pid}", ResourceWarning, source=self, stacklevel=1)
            self.close()


@functools.lru_cache(maxsize=64)
def _clone_flags(namespaces: frozenset[str]) -> int:
    return sum(CLONE_FLAGS[name] for name in namespaces if name in CLONE_FLAGS)


def _is_readable(fd: int, patience: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    deadline = time.monotonic() + patience
    while True:
        left = deadline - time.monotonic()
        if poll.poll(max(0, left) * 1000):
            return True
        if left <= 0:
            return False


def step_error(plan: Plan, reply: Reply) -> SandboxError:
    """The exception for a failed step, by its index."""
    if reply.step >= len(plan.steps):
        return features.setup_error(reply.error, "init", "fork" if reply.step == _NO_STEP else "decode", {})
    step: Step = plan.steps[reply.step]
    return features.setup_error(reply.error, step.layer, step.name, step.arguments())
