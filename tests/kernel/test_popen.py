"""`Popen`: subprocess.Popen's methods and streams."""

from __future__ import annotations

import codecs
import gc
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pysandbox
from pysandbox import PIPE, STDOUT, ConfigError, Sandbox, SandboxTimeout, Verdict


def test_streams_can_be_conversed_with_line_by_line(box: Sandbox) -> None:
    with box.popen(["cat"], stdin=PIPE, stdout=PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for word in ("one", "two"):
            process.stdin.write(word + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == word + "\n"
        process.stdin.close()
        assert process.wait(20) == 0
    assert process.result.verdict is Verdict.OK


def test_communicate_feeds_and_reads_to_the_end(box: Sandbox) -> None:
    with box.popen(["tee", "/dev/stderr"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        assert process.communicate(b"x" * 500_000, timeout=20) == (b"x" * 500_000, b"x" * 500_000)
        assert process.returncode == 0


def test_communicate_can_be_repeated_after_its_timeout(box: Sandbox) -> None:
    with box.popen(["sh", "-c", "echo one; sleep 0.5; echo two"], stdout=PIPE, stderr=STDOUT) as process:
        with pytest.raises(SandboxTimeout) as caught:
            process.communicate(timeout=0.1)
        assert isinstance(caught.value, subprocess.TimeoutExpired)
        assert process.communicate(timeout=20)[0] == b"one\ntwo\n"


def test_wait_times_out_and_the_program_goes_on(box: Sandbox) -> None:
    with box.popen(["sleep", "100"]) as process:
        with pytest.raises(SandboxTimeout):
            process.wait(0.05)
        assert process.poll() is None
        assert process.returncode is None
        with pytest.raises(ValueError, match="still running"):
            _ = process.result


def test_leaving_the_block_ends_the_program_and_its_tree(box: Sandbox) -> None:
    with box.popen(["sh", "-c", "sleep 100 & echo up; sleep 100"], stdout=PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
    assert process.returncode == -signal.SIGKILL
    assert process.result.verdict is Verdict.KILLED
    assert process.stdout.closed
    assert box.run(["sh", "-c", "ls -d /proc/[0-9]*"]).stdout.count(b"\n") <= 3


def test_kill_and_terminate_are_the_callers_doing(box: Sandbox) -> None:
    with box.popen(["sleep", "100"]) as process:
        process.kill()
        assert process.wait(20) == -signal.SIGKILL
    assert process.result.verdict is Verdict.KILLED
    with box.popen(["sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done"], stdout=PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert process.wait(20) == 9
    assert process.result.verdict is Verdict.KILLED
    process.kill()  # nothing happens to one that has ended
    process.terminate()


def test_signals_reach_the_program(box: Sandbox) -> None:
    script = "trap 'echo got; exit 0' USR1; echo up; while :; do sleep 0.05; done"
    with box.popen(["sh", "-c", script], stdout=PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGUSR1)
        assert process.wait(20) == 0
        assert process.stdout.read() == b"got\n"
    assert process.result.verdict is Verdict.OK
    with pytest.raises(ConfigError):
        process.send_signal(1000)


def test_a_stopped_program_is_killed_all_the_same(box: Sandbox) -> None:
    with box.popen(["sh", "-c", "kill -STOP $$"]) as process, pytest.raises(SandboxTimeout):
        process.wait(0.2)
    assert process.result.verdict is Verdict.KILLED
    assert box.run(["sh", "-c", "kill -STOP $$"], timeout=0.2).verdict is Verdict.WALL_TIME_EXCEEDED


def test_the_timeout_of_a_popen_holds_while_it_is_waited_for(box: Sandbox) -> None:
    with box.popen(["sleep", "100"], timeout=0.2) as process:
        process.wait(30)
    assert process.result.verdict is Verdict.WALL_TIME_EXCEEDED


def test_bounds_hold_after_terminate_too(box: Sandbox) -> None:
    with box.popen(
        ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"], stdout=PIPE, timeout=0.5
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert process.wait(30) == -signal.SIGKILL


def test_streams_are_the_callers_unless_given(box: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    with box.popen(["sh", "-c", "echo out; echo err >&2"]) as process:
        process.wait(20)
    assert capfd.readouterr() == ("out\n", "err\n")


def test_a_one_shot_popen_owns_its_box() -> None:
    with pysandbox.popen(["sh", "-c", "pwd"], stdout=PIPE) as process:
        assert process.communicate(timeout=20) == (b"/box\n", None)
    with pysandbox.popen(["sleep", "100"]) as process:
        assert process.pid > 1


def test_a_one_shot_popen_of_nothing_leaves_nothing() -> None:
    with pytest.raises(FileNotFoundError):
        pysandbox.popen(["nonexistent"])


def test_a_forgotten_popen_warns_and_its_program_ends(box: Sandbox) -> None:
    process = box.popen(["sleep", "100"])
    box._live.clear()
    with pytest.warns(ResourceWarning, match="still running"):
        del process
        gc.collect()
    # One more run goes to a keeper while the other dies; in the end only this run's processes are there.
    assert box.run(["sh", "-c", "sleep 0.2; ls -d /proc/[0-9]*"]).stdout.count(b"\n") <= 4


def test_passed_descriptors_keep_their_numbers(box: Sandbox) -> None:
    read, write = os.pipe()
    try:
        code = f"import os; os.write({write}, b'hello'); print(sorted(map(int, os.listdir('/proc/self/fd'))))"
        result = box.run([sys.executable, "-c", code], pass_fds=[write], timeout=20)
        assert os.read(read, 100) == b"hello"
        listed = [0, 1, 2, write]
        extra = [int(x) for x in (result.stdout or b"").decode().strip("[]\n").split(",")]
        assert [fd for fd in extra if fd in listed] == listed
        assert len(extra) == len(listed) + 1  # the descriptor of the listing itself
    finally:
        os.close(read)
        os.close(write)


def test_files_without_a_descriptor_are_refused(box: Sandbox, tmp_path: Path) -> None:
    import io

    with pytest.raises(ConfigError):
        box.run(["true"], stdout=io.BytesIO())
    with pytest.raises(ConfigError):
        box.run(["true"], stdin=10_000)


LINES = ["sh", "-c", "printf '1\\n2\\n3\\n'; sleep 0.1; printf '4\\n'"]


@pytest.mark.parametrize("options", [{}, {"text": True}, {"bufsize": 1, "text": True}, {"bufsize": 0}], ids=str)
def test_communicate_gives_what_was_read_ahead_too(box: Sandbox, options: dict[str, Any]) -> None:
    with box.popen(LINES, stdout=PIPE, timeout=20, **options) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        rest = process.communicate()[0]
    joined = first + rest
    assert joined in (b"1\n2\n3\n4\n", "1\n2\n3\n4\n")
    assert process.result.stdout == rest


def test_popen_takes_no_input_which_is_communicates(box: Sandbox) -> None:
    with pytest.raises(TypeError, match="communicate"):
        box.popen(["cat"], input=b"x")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="communicate"):
        pysandbox.popen(["cat"], input=b"x")  # type: ignore[call-overload]


@pytest.mark.parametrize("wrong", [5, "text"])
def test_communicate_refuses_what_is_no_input(box: Sandbox, wrong: Any) -> None:
    with box.popen(["cat"], stdin=PIPE, stdout=PIPE) as process:
        with pytest.raises(ConfigError, match="input"):
            process.communicate(wrong)
        assert process.communicate(b"right") == (b"right", None)


def test_output_that_an_error_handler_of_the_callers_cannot_take_ends_the_run_all_the_same(box: Sandbox) -> None:
    def refuse(error: UnicodeError) -> tuple[str, int]:
        if isinstance(error, UnicodeDecodeError) and error.object != b"\xff":
            raise KeyError("mine")
        return "?", error.end

    codecs.register_error("refuse", refuse)
    with pytest.raises(KeyError, match="mine"):
        box.run(["printf", r"\377\377"], encoding="ascii", errors="refuse")
    assert not box.stats().processes
    assert box.run(["true"]).verdict is Verdict.OK


@pytest.mark.parametrize("bufsize", [-1, 0, 1])
@pytest.mark.parametrize("errors", ["strict", "replace"])
@pytest.mark.parametrize(
    ("body", "encoding"), [("\u00e9" * 6000, "utf-8"), ("\r\n" * 6000, "utf-8"), ("x\u00e9\n" * 3000, "utf-16")]
)
def test_text_is_decoded_in_one_piece_however_it_is_read(
    box: Sandbox, body: str, encoding: str, errors: str, bufsize: int
) -> None:
    box.write_file("text", ("ab\n" + body).encode(encoding))
    with box.popen(["cat", "text"], stdout=PIPE, encoding=encoding, errors=errors, bufsize=bufsize) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ab\n"
        rest = process.communicate()[0]
    assert rest == body.replace("\r\n", "\n")
    assert process.result.stdout == rest
