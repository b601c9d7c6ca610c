"""Run untrusted work in isolation, straight on the Linux kernel.

result = pysandbox.run(["python3", "main.py"], input=b"3 4\\n", timeout=2)

with Sandbox(CgroupLimits(memory="256M", pids=32)) as box:
    box.write_file("main.py", source)
    result = box.run(["python3", "main.py"], timeout=2, cpu_time=1)
"""

from .features import check_platform as _check_platform

_check_platform()

# The rest is imported only once it is clear that it can work here; hence each noqa below, E402 being an import that is
# not at the top.
from .cgroups import vacate_cgroup  # noqa: E402
from .changes import Change  # noqa: E402
from .command import DEVNULL, PIPE, STDOUT  # noqa: E402
from .errors import (  # noqa: E402
    CallError,
    CommandNotExecutableError,
    CommandNotFoundError,
    ConfigError,
    ExecError,
    ProcessError,
    ProtocolError,
    RemoteError,
    ResultEncodingError,
    SandboxError,
    SandboxTimeout,
    SetupError,
    UnsupportedError,
    WorkerDied,
)
from .layers import (  # noqa: E402
    Bind,
    Capabilities,
    CgroupLimits,
    ChrootJail,
    Environment,
    IoLimit,
    Layer,
    Namespaces,
    Rlimits,
    Seccomp,
    Tmpfs,
)
from .oneshot import popen, run  # noqa: E402
from .process import Popen  # noqa: E402
from .result import Enforcement, Level, Result, Stats, Usage, Verdict  # noqa: E402
from .sandbox import Sandbox  # noqa: E402
from .savepoints import Savepoint  # noqa: E402
from .seccomp.policy import Arg  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "Arg",
    "Bind",
    "CallError",
    "Capabilities",
    "CgroupLimits",
    "Change",
    "ChrootJail",
    "CommandNotExecutableError",
    "CommandNotFoundError",
    "ConfigError",
    "Enforcement",
    "Environment",
    "ExecError",
    "IoLimit",
    "Layer",
    "Level",
    "Namespaces",
    "Popen",
    "ProcessError",
    "ProtocolError",
    "RemoteError",
    "Result",
    "ResultEncodingError",
    "Rlimits",
    "Sandbox",
    "SandboxError",
    "SandboxTimeout",
    "Savepoint",
    "Seccomp",
    "SetupError",
    "Stats",
    "Tmpfs",
    "UnsupportedError",
    "Usage",
    "Verdict",
    "WorkerDied",
    "__version__",
    "popen",
    "run",
    "vacate_cgroup",
]
