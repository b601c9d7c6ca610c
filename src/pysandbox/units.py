"""Reading what people write: sizes, seconds, counts, paths, argument vectors.  Every refusal is a `ConfigError`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from .errors import ConfigError

StrPath = str | os.PathLike[str]

_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(b|[kmgt](?:i?b)?)\s*", re.IGNORECASE)
_LONGEST = 10**9  # seconds, thirty years
_LONGEST_NUMBER = 100  # digits
_LARGEST = 1 << 62  # what the kernel's signed counters hold


def _shown(value: float) -> str:
    """A number for a message; Python refuses to print an int of thousands of digits."""
    return repr(value) if abs(value) < 10**100 or value != value else "a number beyond all bounds"


def size(value: object, what: str, *, least: int = 1) -> int:
    """Bytes from an int or a string like "256M" (binary units)."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ConfigError(f"{what} must be bytes (int) or a string like '256M', not {type(value).__name__}: {value!r}")
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is None:
            raise ConfigError(f"{what}: {value!r} is no size; write a number with B, K, M, G or T, such as '256M'")
        if len(match[1]) > _LONGEST_NUMBER:
            raise ConfigError(f"{what}: a number of {len(match[1])} digits is no size")
        exact = Fraction(match[1]) * _UNITS[match[2][0].lower()]
        if exact.denominator != 1:
            raise ConfigError(f"{what}: {value!r} is not a whole number of bytes")
        value = exact.numerator
    if not least <= value <= _LARGEST:
        raise ConfigError(f"{what} must be {least} bytes or more (and below 4 EiB), not {_shown(value)}")
    return value


def seconds(value: object, what: str, *, zero: bool = False) -> float:
    """A finite number of seconds above zero (or from zero, with `zero`)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{what} must be a number of seconds, not {type(value).__name__}: {value!r}")
    in_range = value >= 0 if zero else value > 0  # false for NaN too
    if not in_range or value > _LONGEST:
        least = "zero or a" if zero else "a"
        raise ConfigError(f"{what} must be {least} positive number of seconds, {_LONGEST} at most, not {_shown(value)}")
    return float(value)


def count(value: object, what: str, *, least: int, most: int = 1 << 31) -> int:
    """A whole number in a range."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{what} must be an int, not {type(value).__name__}: {value!r}")
    if not least <= value <= most:
        raise ConfigError(f"{what} must be from {least} to {most}, not {_shown(value)}")
    return value


def flag(value: object, what: str) -> bool:
    """True or False, and nothing that is merely true or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{what} must be True or False, not {value!r}")
    return value


def text(value: object, what: str) -> str:
    """A string the kernel can take: no NUL, encodable."""
    if not isinstance(value, str):
        raise ConfigError(f"{what} must be a str, not {type(value).__name__}: {value!r}")
    if "\0" in value:
        raise ConfigError(f"{what} must not contain a NUL: {value!r}")
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise ConfigError(f"{what} cannot be encoded for the file system: {value!r}") from None
    return value


def path(value: object, what: str) -> str:
    """A non-empty path as str."""
    if not isinstance(value, (str, os.PathLike)):
        raise ConfigError(f"{what} must be a path, not {type(value).__name__}: {value!r}")
    result: Any = os.fspath(value)
    if isinstance(result, bytes):
        result = os.fsdecode(result)
    if not text(result, what):
        raise ConfigError(f"{what} must not be empty")
    return str(result)


def inside_path(value: object, what: str) -> str:
    """A normalised absolute path inside the box, other than its root."""
    given = path(value, what)
    if not given.startswith("/") or ".." in given.split("/"):
        raise ConfigError(f"{what} must be absolute and without '..': {given!r}")
    normal = os.path.normpath("/" + given.lstrip("/"))
    if normal == "/":
        raise ConfigError(f"{what} must not be the root itself: {given!r}")
    if any(len(os.fsencode(name)) > 255 for name in normal.split("/")):
        raise ConfigError(f"{what} has a name longer than 255 bytes")
    return normal


def argv(value: object, what: str = "args") -> tuple[str, ...]:
    """A command: a non-empty sequence of strings or paths.  A plain string is refused, as there is no shell."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise ConfigError(f"{what} must be a sequence of strings, such as ['ls', '-l'], not {value!r}")
    if not value:
        raise ConfigError(f"{what} must not be empty")
    words = []
    for word in value:
        if isinstance(word, bytes):
            word = os.fsdecode(word)
        elif isinstance(word, os.PathLike):
            word = os.fspath(word)
        words.append(text(word, f"each of {what}"))
    if not words[0]:
        raise ConfigError(f"the program's name (first of {what}) must not be empty")
    return tuple(words)


def variables(value: object, what: str = "env") -> tuple[tuple[str, str], ...]:
    """Environment variables from a mapping or pairs, sorted by name."""
    pairs: Iterable[Any]
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ConfigError(f"{what} must be a mapping of strings, not {type(value).__name__}")
    else:
        pairs = value
    result = {}
    for pair in pairs:
        try:
            name, content = pair
        except (TypeError, ValueError):
            raise ConfigError(f"{what}: {pair!r} is no pair of name and value") from None
        name = text(name, f"a name in {what}")
        if not name or "=" in name:
            raise ConfigError(f"{what}: {name!r} is no name of a variable")
        if isinstance(content, os.PathLike):
            content = os.fspath(content)
        result[name] = text(content, f"{what}[{name!r}]")
    return tuple(sorted(result.items()))


def names(value: object, what: str) -> tuple[Any, ...]:
    """A sequence as a tuple; one string alone counts as a sequence of one."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise ConfigError(f"{what} must be a sequence, not {value!r}")
    return tuple(value)
