"""The C code: free of warnings, of libc where it must be, and of what ASan and UBSan find."""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pysandbox import ChrootJail, CommandNotFoundError, Namespaces, Sandbox, SandboxError, SetupError, box
from pysandbox.box import _HEAD, _MAGIC, _RUN, REPLY, Box, Reply
from pysandbox.compose import DEFAULT, compose
from pysandbox.plan import Plan

CHECKOUT = Path(__file__).parents[2]
NATIVE = CHECKOUT / "src" / "pysandbox" / "native"
WARNINGS = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wvla", "-Wstrict-prototypes"]
FREESTANDING = ["-ffreestanding", "-fno-stack-protector", "-fno-tree-loop-distribute-patterns", "-nostdlib", "-static"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1"]

needs_source = pytest.mark.skipif(not NATIVE.is_dir(), reason="needs the source tree; this is an installed copy")

INIT = [NATIVE / f"{name}.c" for name in ("init", "messages", "files", "decode", "steps", "mounts", "paths", "filters")]


def compile_c(output: Path, sources: list[Path], *flags: str) -> None:
    command = ["gcc", *flags, f"-I{NATIVE}", "-o", str(output), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_source
@pytest.mark.parametrize("level", ["-O0", "-O2", "-O3"])
def test_init_compiles_without_a_warning_and_without_libc(tmp_path: Path, level: str) -> None:
    sources = [NATIVE / "start.c", *INIT]
    compile_c(tmp_path / "init", sources, *WARNINGS, *FREESTANDING, level)


@needs_source
def test_spawn_compiles_without_a_warning(tmp_path: Path) -> None:
    for name in ("signals.c", "spawn.c", "spawn_child.c", "trees.c"):
        compile_c(tmp_path / "object.o", [NATIVE / name], *WARNINGS, "-O2", "-c")


def test_the_installed_init_needs_no_loader() -> None:
    program = Path(str(sys.modules["pysandbox._native"].__file__)).parent / "native" / "pysandbox-init"
    image = program.read_bytes()
    assert image[:4] == b"\x7fELF"
    offset, size, count = *struct.unpack_from("<Q", image, 32), *struct.unpack_from("<HH", image, 54)
    kinds = [struct.unpack_from("<I", image, offset + index * size)[0] for index in range(count)]
    interpreter, dynamic = 3, 2
    assert interpreter not in kinds
    assert dynamic not in kinds


@needs_source
def test_spawn_is_clean_under_the_sanitizers(tmp_path: Path) -> None:
    sources = [Path(__file__).with_name("spawn_driver.c"), NATIVE / "spawn.c", NATIVE / "spawn_child.c"]
    compile_c(tmp_path / "driver", sources, *SANITIZERS)
    done = subprocess.run([str(tmp_path / "driver")], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def sanitized_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int | None]]:
    """Boxes of this test have an init built with the sanitizers; their exit statuses are checked at the end."""
    if not NATIVE.is_dir():
        pytest.skip("needs the source tree; this is an installed copy")
    sources = [Path(__file__).with_name("hosted_init.c"), *INIT]
    compile_c(tmp_path / "init", sources, *SANITIZERS)
    image = os.memfd_create("sanitized-init")
    os.write(image, (tmp_path / "init").read_bytes())
    statuses: list[int | None] = []
    original = Box.close

    def close(self: Box) -> None:
        original(self)
        statuses.append(self.exit_status)

    monkeypatch.setattr(box, "_init_image", lambda: image)
    monkeypatch.setattr(Box, "close", close)
    yield statuses
    os.close(image)
    assert statuses, "no box was made"
    assert set(statuses) == {0}, "init died: run it by hand to see the sanitizer's report"


def test_a_crash_of_init_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the fixture above: a box whose init is killed has another exit status."""
    statuses = []
    original = Box.close
    monkeypatch.setattr(Box, "close", lambda self: (original(self), statuses.append(self.exit_status)))
    with Sandbox() as sandbox:
        assert sandbox._box is not None
        sandbox._box.kill()
    assert statuses == [9]


def test_boxes_and_runs_are_clean_under_the_sanitizers(sanitized_init: list[int | None]) -> None:
    with Sandbox() as sandbox:
        sandbox.write_file("file", "x" * 100_000)
        assert len(sandbox.read_file("file")) == 100_000
        assert sandbox.run(["sh", "-c", "(setsid sleep 100 &); cat file"]).stdout == b"x" * 100_000
        assert sandbox.run(["true", *["argument" * 100] * 500], env={f"V{i}": "v" * 100 for i in range(500)})
        with pytest.raises(CommandNotFoundError):
            sandbox.run(["nothing"])
        with pytest.raises(OSError, match="regular"):
            sandbox.read_file("/dev/null")
        threads = [
            threading.Thread(target=sandbox.run, args=(["sh", "-c", "sleep 0.1 & sleep 0.2"],)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        read, write = os.pipe()
        os.dup2(write, 300)
        assert sandbox.run([sys.executable, "-c", "import os; os.write(300, b'x')"], pass_fds=[300])
        for fd in (read, write, 300):
            os.close(fd)
        assert sandbox.run(["sleep", "100"], timeout=0.1).returncode == -9
    with pytest.raises(SetupError):
        Sandbox(ChrootJail(hide=("/nonexistent",))).__enter__()
    with Sandbox(base=(Namespaces(),)) as sandbox:
        sandbox.run(["true"]).check_returncode()


def mutated(encoded: bytes, chance: random.Random) -> bytes:
    """A plan with something wrong in it, most of the time."""
    broken = bytearray(encoded)
    kind = chance.randrange(5)
    if kind == 0:
        return bytes(broken[: chance.randrange(len(broken))])
    if kind == 1:
        return bytes(broken) + chance.randbytes(chance.randrange(200))
    if kind == 2:
        return chance.randbytes(chance.randrange(400))
    for _ in range(chance.randrange(1, 8)):
        broken[chance.randrange(len(broken))] = chance.choice([0, 1, 255, chance.randrange(256)])
    return bytes(broken)


def request_run(target: Box, body: bytes) -> Reply | None:
    """Send a RUN with this body; the reply, or None when init gave up on us."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        null = os.open(os.devnull, os.O_RDWR)
        try:
            target._send(_RUN, body, [theirs.fileno(), null, null, null])
        finally:
            os.close(null)
        theirs.close()
        ours.settimeout(20)
        data = ours.recv(REPLY.size)
        return Reply(*REPLY.unpack(data)) if len(data) == REPLY.size else None


def test_malformed_runs_end_in_an_error_and_never_in_a_crash(sanitized_init: list[int | None]) -> None:
    chance = random.Random(7)
    blueprint = compose((), DEFAULT, False)
    harmless = [step for step in blueprint.run_plan([]).steps if step.name != "exec"]
    encoded = Plan(tuple(harmless)).encoded
    with Sandbox() as sandbox:
        target = sandbox._box
        assert target is not None
        target.wait_until_ready()
        for _ in range(400):
            reply = request_run(target, mutated(encoded, chance))
            assert reply is not None
            assert reply.kind in (2, 3)  # refused, or so little changed that it ran
        assert sandbox.run(["/bin/true"])


@pytest.mark.parametrize("seed", range(12))
def test_malformed_requests_end_the_box_and_never_crash_init(sanitized_init: list[int | None], seed: int) -> None:
    chance = random.Random(seed)
    with Sandbox() as sandbox:
        target = sandbox._box
        assert target is not None
        assert target._control is not None
        target.wait_until_ready()
        head = [_MAGIC, chance.randrange(6), chance.randrange(1 << 12), 0]
        head[chance.randrange(4)] = chance.choice([0, 1, 0xFFFFFFFF, 1 << 25, chance.randrange(1 << 32)])
        target._control.sendall(_HEAD.pack(*head) + chance.randbytes(chance.randrange(100)))
        target._control.shutdown(socket.SHUT_WR)
        with pytest.raises((SandboxError, OSError)):
            sandbox.run(["/bin/true"])


def test_a_malformed_plan_of_the_box_is_refused_with_its_step(sanitized_init: list[int | None]) -> None:
    layers = (ChrootJail(size="1M"),)
    for part in ("prepare_plan", "setup_plan"):
        compose.__globals__["_compose_cached"].cache_clear()
        blueprint = compose(layers, DEFAULT, False)
        plan = Plan(getattr(blueprint, part).steps)
        encoded = bytearray(plan.encoded)
        encoded[8 + 56 * 2] = 0xFF  # the third step's verb
        plan.__dict__["encoded"] = bytes(encoded)
        blueprint.__dict__[part] = plan
        try:
            with pytest.raises(SetupError) as caught:
                Box(blueprint).wait_until_ready()
        finally:
            compose.__globals__["_compose_cached"].cache_clear()
        assert caught.value.errno == errno.EINVAL
        assert caught.value.step == plan.steps[2].name
