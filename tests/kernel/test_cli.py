"""The `pysandbox` command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from pysandbox.cli import main


def command(*words: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pysandbox", *words],
        input=input,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_run_passes_the_streams_and_the_status_on() -> None:
    done = command("run", "--", "sh", "-c", "cat; echo err >&2; exit 7", input="in\n")
    assert (done.stdout, done.stderr, done.returncode) == ("in\n", "err\n", 7)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--timeout", "0.2", "--", "sleep", "10"], 124),
        (["--cpu-time", "0.2", "--", "sh", "-c", "while :; do :; done"], 124),
        (["--", "no-such-program"], 127),
        (["--", "/usr"], 126),
        (["--root", "/no/such/root", "--", "true"], 125),
        (["--memory", "12 parsecs", "--", "true"], 125),
        (["--", "sh", "-c", "kill -TERM $$"], 143),
    ],
    ids=str,
)
def test_the_exit_status_tells_what_happened(words: list[str], status: int) -> None:
    done = command("run", *words)
    assert done.returncode == status
    assert status in (124, 143) or done.stderr.startswith("pysandbox: ")


def test_memory_is_told_by_its_own_status() -> None:
    code = "x = []\nwhile True: x.append(bytearray(1 << 20))"
    done = command("run", "-v", "--degrade", "--memory", "64M", "--", sys.executable, "-c", code)
    assert done.returncode == 122
    assert "MEMORY_EXCEEDED" in done.stderr


def test_run_options_reach_the_box() -> None:
    script = "echo $A; cat /proc/self/uid_map >/dev/null; ls /usr/share/doc >/dev/null && echo seen"
    done = command("run", "--env", "A=1", "--ro", "/usr/share", "--", "sh", "-c", script)
    assert done.stdout == "1\nseen\n"


def test_the_result_as_json() -> None:
    done = command("run", "--json", "--", "sh", "-c", "echo hello; exit 2")
    shown = json.loads(done.stdout)
    assert (shown["verdict"], shown["returncode"], shown["stdout"]) == ("NONZERO_EXIT", 2, "hello\n")
    assert shown["usage"]["wall_time"] > 0
    assert shown["enforcement"]["Namespaces"].startswith("full")


def test_doctor_names_what_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for line in ("host", "namespaces", "root file system", "limits", "Sandbox()"):
        assert f" {line}: " in text
    assert main(["doctor", "--json"]) == 0
    assert {finding["level"] for finding in json.loads(capsys.readouterr().out)} <= {"full", "partial"}


def test_doctor_says_how_to_mend_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pysandbox.cgroups.own_group", lambda: None)
    monkeypatch.setattr("pysandbox.cgroups.why_not", lambda: "nothing is mounted")
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "partial  limits: no cgroup: nothing is mounted" in text
    assert "fix: run as root" in text


def test_explain_prints_the_plan_and_builds_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pysandbox.box.Box._spawn", None)
    assert main(["explain", "--memory", "64M"]) == 0
    text = capsys.readouterr().out
    assert "memory=67108864" in text
    assert text.index("open_tree") < text.index("pivot_root") < text.index("no_new_privs")


def test_no_command_is_an_error_with_the_usage() -> None:
    done = command()
    assert done.returncode == 2
    assert "usage: pysandbox" in done.stderr


def test_an_interrupt_ends_the_program_and_says_nothing_more() -> None:
    code = """
import signal, sys
from pysandbox.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
sys.exit(main())
"""
    words = [sys.executable, "-c", code, "run", "--", "sh", "-c", "echo started; exec sleep 60"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 128 + signal.SIGINT


def test_a_reader_that_is_gone_is_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pysandbox", "explain"],
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(write)
    assert (done.stderr, done.returncode) == (b"", 128 + signal.SIGPIPE)


def test_images_are_imported_listed_used_and_removed(
    busybox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    archive = tmp_path / "root.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(busybox, ".")
    digest = command("image", "import", str(archive), "--name", "small").stdout.strip()
    assert digest.startswith("sha256:")
    assert "small" in command("image", "list").stdout
    (found,) = json.loads(command("image", "list", "--json").stdout)
    assert (found["digest"], found["names"]) == (digest, ["small"])
    done = command("run", "--image", "small", "--overlay", "--", "sh", "-c", "echo x >> /etc/hello; cat /etc/hello")
    assert (done.stdout, done.stderr) == ("hello\nx\n", "")
    assert command("image", "prune").stdout == ""
    assert command("image", "rm", digest[:20]).returncode == 0
    assert command("image", "list").stdout == ""
    failed = command("image", "rm", "small")
    assert failed.returncode == 125
    assert "no imported image" in failed.stderr
    hostile = tmp_path / "hostile.tar"
    with tarfile.open(hostile, "w") as file:
        file.addfile(tarfile.TarInfo("../evil"))
    failed = command("image", "import", str(hostile))
    assert failed.returncode == 125
    assert "'../evil' leads upwards" in failed.stderr
