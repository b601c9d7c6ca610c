"""What the host can do: one clear error where it cannot, and hints that name the fix."""

from __future__ import annotations

import errno
import platform
import subprocess
import sys

import pytest

from pysandbox import UnsupportedError, features


def test_another_system_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UnsupportedError, match=r"needs Linux.*this host has darwin"):
        features.check_platform()


def test_another_machine_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(UnsupportedError, match="x86-64 or aarch64"):
        features.check_platform()


@pytest.mark.parametrize("release", ["5.11.22", "5.10.0-28-amd64", "4.19.0", "3.2", "5"])
def test_an_old_kernel_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    monkeypatch.setattr(platform, "release", lambda: release)
    with pytest.raises(UnsupportedError, match=r"needs Linux 5\.12 or later; this host has Linux"):
        features.check_platform()


@pytest.mark.parametrize("release", ["5.12.0", "5.15.0-100-generic", "6.1", "6.18.44-fc", "7.3-rc1", "10.0"])
def test_a_new_kernel_is_fine(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    monkeypatch.setattr(platform, "release", lambda: release)
    features.check_platform()


def test_import_itself_raises_it() -> None:
    code = "import platform; platform.release = lambda: '4.19'\nimport pysandbox"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "pysandbox.errors.UnsupportedError: pysandbox cannot be enforced here"
    )


@pytest.mark.parametrize(
    ("content", "fix"),
    [
        ({"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}, "apparmor_restrict_unprivileged_userns=0"),
        ({"/proc/sys/kernel/unprivileged_userns_clone": "0\n"}, "unprivileged_userns_clone=1"),
        ({"/proc/sys/user/max_user_namespaces": "0\n"}, "max_user_namespaces="),
    ],
    ids=["ubuntu", "debian", "sysctl"],
)
def test_what_forbids_user_namespaces_is_named_with_its_fix(
    monkeypatch: pytest.MonkeyPatch, content: dict[str, str], fix: str
) -> None:
    monkeypatch.setattr(features, "_read", lambda path: content.get(path, ""))
    assert fix in features.userns_remedy()
    assert fix in features.hint("clone", errno.EPERM, {})


def test_a_covered_proc_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "36 25 0:22 / /proc/kcore rw,nosuid - tmpfs tmpfs rw\n"
    monkeypatch.setattr(features, "_read", lambda path: line if path.endswith("mountinfo") else "")
    hint = features.hint("mount_proc", errno.EPERM, {})
    assert "/proc/kcore" in hint
    assert "proc='none'" in hint


def test_host_ids_are_high_and_of_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "highest_ids", lambda: (0, 4294967294))
    monkeypatch.setattr(features, "_claimed_ids", lambda: [])
    assert len({features.free_host_ids(pid) for pid in range(1, 5000)}) == 4999
    first = features.free_host_ids(77)
    assert first >= 1879048192
    monkeypatch.setattr(features, "_claimed_ids", lambda: [(first + 1, first + 1)])
    other = features.free_host_ids(77)
    assert not other <= first + 1 <= other + 1


def test_host_ids_fit_into_a_small_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "highest_ids", lambda: (0, 65535))
    monkeypatch.setattr(features, "_claimed_ids", lambda: [])
    assert all(0 < features.free_host_ids(pid) < 65535 for pid in range(1, 100000, 97))
    monkeypatch.setattr(features, "highest_ids", lambda: (0, 0))
    with pytest.raises(UnsupportedError):
        features.free_host_ids(1)
