"""What every layer is: frozen data that contributes steps, and a context manager that makes it the ambient one."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

if TYPE_CHECKING:
    from ..plan import Blueprint

#: the layers entered around the current code, outermost first; per thread and per task
ambient: ContextVar[tuple[Layer, ...]] = ContextVar("pysandbox_layers", default=())


@dataclass(frozen=True)
class Requirements:
    """What a layer wants to be known before steps are contributed."""

    namespaces: frozenset[str] = frozenset()  #: it cannot do without
    choices: dict[str, Any] = field(default_factory=dict)  #: for `Facts`, by its names


class Layer:
    """One idea of isolation, as frozen data: comparable, picklable, printable, reusable by many boxes at once.

    As a context manager it applies to every `Sandbox`, `run`, `popen` and `call` of the block, in this thread or
    task; the calling process itself never changes.  The order of layers never matters; of one type, the innermost
    counts.
    """

    __slots__ = ()

    @property
    def name(self) -> str:
        """What errors and plans call this layer."""
        return type(self).__name__

    @property
    def looks_at_host(self) -> bool:
        """Whether its steps depend on things outside that may change from one box to the next."""
        return False

    def requirements(self) -> Requirements:
        """Tell what must be known before steps are contributed."""
        return Requirements()

    def contribute(self, blueprint: Blueprint) -> None:
        """Add this layer's steps to the blueprint."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        ambient.set((*ambient.get(), self))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The innermost entry that is this very layer, wherever it stands: blocks of generators need not end in the
        # order in which they began, nor in the context in which they did.
        entered = ambient.get()
        for index in reversed(range(len(entered))):
            if entered[index] is self:
                ambient.set(entered[:index] + entered[index + 1 :])
                break
