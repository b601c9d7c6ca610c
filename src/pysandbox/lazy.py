"""A property that is computed once.

`functools.cached_property` does the same under a lock, up to Python 3.11: one that another thread may hold at the
moment of a fork, and then the copy waits for it for ever.  Computing twice does no harm here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class lazy(Generic[T]):
    """Written like `property`, for a method without arguments, whose value is kept in the object's own dictionary."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    def __get__(self, instance: Any, owner: type[Any]) -> T:
        if instance is None:
            return self  # type: ignore[return-value]  # asked of the class: for help() and the like
        value = self._compute(instance)
        instance.__dict__[self._name] = value
        return value
