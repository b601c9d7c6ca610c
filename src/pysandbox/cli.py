"""The `pysandbox` command: run, doctor, explain, image.

Exit status of `run`: the program's own; 128 and the signal's number for a signal; 124 for a time limit, 125 when the
box could not be set up, 126 and 127 for a program that cannot be executed or is not there, as in env(1) and timeout(1);
122 for memory, 123 for output.  130 when it was interrupted, 141 when nobody reads what it prints.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from .command import PIPE
from .errors import CommandNotExecutableError, CommandNotFoundError, ConfigError, SandboxError
from .layers import Bind, CgroupLimits, ChrootJail, Environment, Layer, Namespaces
from .oneshot import run
from .result import Level, Result, Verdict
from .sandbox import Sandbox

_STATUS = {
    Verdict.WALL_TIME_EXCEEDED: 124,
    Verdict.CPU_TIME_EXCEEDED: 124,
    Verdict.MEMORY_EXCEEDED: 122,
    Verdict.OUTPUT_EXCEEDED: 123,
}


def _layers(options: argparse.Namespace) -> list[Layer]:
    layers: list[Layer] = []
    binds = [Bind(path) for path in options.ro] + [Bind(path, writable=True) for path in options.rw]
    if binds or options.root is not None or options.image is not None or options.overlay:
        layers.append(ChrootJail(options.root, image=options.image, overlay=bool(options.overlay), binds=tuple(binds)))
    if options.net:
        layers.append(Namespaces(net=False))
    limits = {"memory": options.memory, "pids": options.pids, "cpus": options.cpus}
    given = {name: value for name, value in limits.items() if value is not None}
    if given:
        layers.append(CgroupLimits(**given))
    if options.env:
        layers.append(Environment(set=dict(_variable(text) for text in options.env)))
    return layers


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--env takes NAME=VALUE, not {text!r}")
    return name, value


def _add_box_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--memory", metavar="SIZE", help="memory of the run as a whole, such as 256M")
    parser.add_argument("--pids", type=int, metavar="N", help="processes and threads at once")
    parser.add_argument("--cpus", type=float, metavar="N", help="CPUs' time, such as 0.5")
    parser.add_argument("--root", metavar="DIR", help="a prepared root file system")
    parser.add_argument("--image", metavar="IMAGE", help="a root file system from an image: a path, or a name")
    parser.add_argument("--overlay", action="store_true", help="let all of the root be written; it vanishes at the end")
    parser.add_argument("--ro", action="append", default=[], metavar="PATH", help="show this path, read-only")
    parser.add_argument("--rw", action="append", default=[], metavar="PATH", help="show this path, writable")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="set a variable")
    parser.add_argument("--net", action="store_true", help="keep the host's network")
    parser.add_argument("--degrade", action="store_true", help="take the strongest that this host allows")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pysandbox", description="Run untrusted programs in isolation.")
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="run a program in a box of its own", description=__doc__)
    _add_box_options(runner)
    runner.add_argument("--timeout", type=float, metavar="S", help="wall-clock seconds")
    runner.add_argument("--cpu-time", type=float, metavar="S", help="CPU seconds over all processes of the run")
    runner.add_argument("--plot", metavar="FILE", help="draw CPU and memory over time (needs matplotlib)")
    runner.add_argument("--json", action="store_true", help="capture the output and print the whole result as JSON")
    runner.add_argument("--verbose", "-v", action="store_true", help="print verdict and usage to stderr at the end")
    runner.add_argument("args", nargs="+", metavar="-- PROGRAM [ARG...]")
    doctor = commands.add_parser("doctor", help="what this host can enforce, what is missing, and the fix")
    doctor.add_argument("--clean", action="store_true", help="remove the cgroups that dead applications have left")
    doctor.add_argument("--parent", action="append", default=[], metavar="CGROUP", help="with --clean: also below this")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    _add_image_parser(commands)
    explain = commands.add_parser("explain", help="print the plan of a box without building it")
    _add_box_options(explain)
    return parser


def _add_image_parser(commands: Any) -> None:
    parser = commands.add_parser("image", help="images that boxes stand on: import, list, rm, prune")
    actions = parser.add_subparsers(dest="action", required=True)
    taking = actions.add_parser("import", help="unpack an image into the cache")
    taking.add_argument("source", help="an OCI layout, a docker save archive, an archive of a root file system")
    taking.add_argument("--name", default="", help="what to call it: ChrootJail(image=NAME)")
    listing = actions.add_parser("list", help="the images in the cache, the newest first")
    listing.add_argument("--json", action="store_true", help="print them as JSON")
    removing = actions.add_parser("rm", help="remove images from the cache")
    removing.add_argument("names", nargs="+", metavar="NAME", help="a name, a digest, or the beginning of one")
    actions.add_parser("prune", help="remove the images without a name, and what was left half unpacked")


def as_json(result: Result[Any]) -> str:
    """A result as JSON; output that is no UTF-8 is shown with replacement characters."""
    usage = result.usage
    shown = {
        "args": list(result.args),
        "verdict": result.verdict.name,
        "returncode": result.returncode,
        "stdout": (result.stdout or b"").decode("utf-8", "replace"),
        "stderr": (result.stderr or b"").decode("utf-8", "replace"),
        "truncated": result.truncated,
        "limits_hit": sorted(result.limits_hit),
        "usage": {name: getattr(usage, name) for name in usage.__dataclass_fields__},
        "evidence": dict(result.evidence),
        "enforcement": {name: str(row) for name, row in result.enforcement.items()},
    }
    return json.dumps(shown, indent=2)


def exit_status(result: Result[Any]) -> int:
    """The command's exit status for a result."""
    if result.verdict in _STATUS:
        return _STATUS[result.verdict]
    return result.returncode if result.returncode >= 0 else 128 - result.returncode


def _run(options: argparse.Namespace) -> int:
    words = options.args[1:] if options.args[0] == "--" else options.args
    stream = PIPE if options.json else None
    result: Result[Any] = run(
        words,
        *_layers(options),
        degrade=options.degrade,
        stdin=None,
        stdout=stream,
        stderr=stream,
        timeout=options.timeout,
        cpu_time=options.cpu_time,
        sample_interval=0.02 if options.plot else None,
    )
    if options.plot and result.samples:
        result.plot(options.plot)
    elif options.plot:
        print(f"pysandbox: too short a run to draw; {options.plot} was not written", file=sys.stderr)
    if options.json:
        print(as_json(result))
    if options.verbose:
        usage = result.usage
        memory = "?" if usage.memory_peak is None else f"{usage.memory_peak / (1 << 20):.1f} MiB"
        print(
            f"pysandbox: {result.verdict.name}, returncode {result.returncode}, wall {usage.wall_time:.3f} s, "
            f"CPU {usage.cpu_time or 0:.3f} s, memory {memory}",
            file=sys.stderr,
        )
    return exit_status(result)


def _doctor(options: argparse.Namespace) -> int:
    from .doctor import clean, examine  # it builds boxes; nobody else pays for its import

    if options.clean:
        removed = clean(options.parent)
        if not options.json:
            print("\n".join(f"removed {path}" for path in removed) or "nothing was left behind")
            return 0
        print(json.dumps(removed, indent=2))
        return 0
    findings = examine()
    if options.json:
        print(json.dumps([vars(finding) | {"level": str(finding.level)} for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{finding.level!s:<8} {finding.name}: {finding.detail}")
            if finding.fix:
                print(f"{'':<8} fix: {finding.fix}")
    return 0 if findings[-1].level is not Level.NONE else 1


def _explain(options: argparse.Namespace) -> int:
    print(Sandbox(*_layers(options), degrade=options.degrade).explain())
    return 0


def _image(options: argparse.Namespace) -> int:
    from .cli_image import image_command  # as above: nobody else needs to read archives

    return image_command(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    action = {"run": _run, "doctor": _doctor, "explain": _explain, "image": _image}[options.command]
    try:
        status = action(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # nobody reads what we print
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's last flush would complain
        return 128 + signal.SIGPIPE
    except CommandNotFoundError as error:
        print(f"pysandbox: {error}", file=sys.stderr)
        return 127
    except CommandNotExecutableError as error:
        print(f"pysandbox: {error}", file=sys.stderr)
        return 126
    except SandboxError as error:
        print(f"pysandbox: {error}", file=sys.stderr)
        return 125
