"""`run` and `popen`: one program in a box of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal, overload

from typing_extensions import Unpack

from . import units
from .box import Box
from .compose import DEFAULT, Base, compose
from .interrupts import UNINTERRUPTED
from .process import Popen
from .result import Result
from .sandbox import PopenOptions, RunOptions, checked, for_popen

__all__ = ["popen", "run"]


def _nobody(_: Popen[Any]) -> set[int]:
    return set()


@overload
def run(
    args: Sequence[units.StrPath],
    *layers: object,
    base: Base = DEFAULT,
    degrade: bool = False,
    input: str | None = None,
    text: Literal[True],
    encoding: str | None = None,
    **options: Unpack[RunOptions],
) -> Result[str]: ...
@overload
def run(
    args: Sequence[units.StrPath],
    *layers: object,
    base: Base = DEFAULT,
    degrade: bool = False,
    input: str | None = None,
    text: bool = False,
    encoding: str,
    **options: Unpack[RunOptions],
) -> Result[str]: ...
@overload
def run(
    args: Sequence[units.StrPath],
    *layers: object,
    base: Base = DEFAULT,
    degrade: bool = False,
    input: bytes | None = None,
    text: Literal[False] = False,
    encoding: None = None,
    **options: Unpack[RunOptions],
) -> Result[bytes]: ...
@overload
def run(
    args: Sequence[units.StrPath],
    *layers: object,
    base: Base = DEFAULT,
    degrade: bool = False,
    input: bytes | str | None = None,
    text: bool,
    encoding: str | None = None,
    **options: Unpack[RunOptions],
) -> Result[Any]: ...
def run(
    args: Sequence[units.StrPath],
    *layers: object,
    base: Base = DEFAULT,
    degrade: bool = False,
    **options: Any,
) -> Result[Any]:
    """Run a program in a box of its own and wait for its end.

    `layers`, `base` and `degrade` are those of `Sandbox`, everything else is as in `Sandbox.run`.
    """
    begun = time.monotonic()
    check = options.pop("check", False)
    if check is not False:
        units.flag(check, "check")
    command = checked(args, options)
    blueprint = compose(layers, base, degrade)
    with UNINTERRUPTED:  # but for the waiting
        box = Box(blueprint)
        try:
            process: Popen[Any] = Popen(box, command, begun=begun, others=_nobody, last_of_box=True)
            try:
                process.collect()
                process._wait(None)
            finally:
                process.close()
        finally:
            box.close()
    if check:
        process.result.check_returncode()
    return process.result


@overload
def popen(
    args: Sequence[units.StrPath],
    *layers: object,
    base: Base = DEFAULT,
    degrade: bool = False,
    text: Literal[True],
    encoding: str | None = None,
    **options: Unpack[PopenOptions],
) -> Popen[str]: ...
@overload
def popen(
    args: Sequence[units.StrPath],
    *layers: object,
    base: Base = DEFAULT,
    degrade: bool = False,
    text: bool = False,
    encoding: str,
    **options: Unpack[PopenOptions],
) -> Popen[str]: ...
@overload
def popen(
    args: Sequence[units.StrPath],
    *layers: object,
    base: Base = DEFAULT,
    degrade: bool = False,
    text: Literal[False] = False,
    encoding: None = None,
    **options: Unpack[PopenOptions],
) -> Popen[bytes]: ...
@overload
def popen(
    args: Sequence[units.StrPath],
    *layers: object,
    base: Base = DEFAULT,
    degrade: bool = False,
    text: bool,
    encoding: str | None = None,
    **options: Unpack[PopenOptions],
) -> Popen[Any]: ...
def popen(
    args: Sequence[units.StrPath],
    *layers: object,
    base: Base = DEFAULT,
    degrade: bool = False,
    **options: Any,
) -> Popen[Any]:
    """Start a program in a box of its own, which ends with it; see `Sandbox.popen`."""
    command = checked(args, for_popen(options))
    begun = time.monotonic()
    blueprint = compose(layers, base, degrade)
    with UNINTERRUPTED:
        box = Box(blueprint)
        try:
            process: Popen[Any] = Popen(box, command, begun=begun, others=_nobody, last_of_box=True)
        except BaseException:
            box.close()
            raise
        process.on_end(lambda _: box.close())
        process.open_streams()
    return process
