"""`Savepoint`: the files of a box as they were, as a layer that is kept in memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from . import trees
from .changes import Upper
from .walking import DEEPEST


class Savepoint:
    """The files of a box at some moment; made by `Sandbox.savepoint`, for `Sandbox.rollback` of the same one."""

    def __init__(self, owner: object, parts: Sequence[Upper]) -> None:
        self._owner = owner
        self._file = open(os.memfd_create("pysandbox-savepoint"), "w+b")  # noqa: SIM115  # as long as the savepoint
        from .committing import add_to_layer, new_layer  # and tarfile, only for those who have savepoints

        try:
            with new_layer(self._file) as archive:
                for part in parts:
                    add_to_layer(part, archive, own=True)
            self._file.flush()
        except BaseException:
            self._file.close()
            raise

    def is_of(self, owner: object) -> bool:
        """Whether it was made of this box."""
        return self._owner is owner and not self._file.closed

    def restore(self, root: int, ids: tuple[int, int], covered: frozenset[str]) -> None:
        """Write the files below a folder, as those of these ids, and nothing to what else is mounted there."""
        from .images.readers import telling  # only for those who go back
        from .images.unpack import Bounds, Unpacker

        self._file.seek(0)
        with trees.acting_as(ids), telling("the savepoint"):
            unpacker = Unpacker(root, Bounds(depth=2 * DEEPEST, name=1 << 20), covered=covered)
            try:
                unpacker.layer(self._file)
                unpacker.finish()
            finally:
                unpacker.close()

    def close(self) -> None:
        """Forget the files; nobody can go back to them any more."""
        self._file.close()

    def __repr__(self) -> str:
        size = "closed" if self._file.closed else f"{os.fstat(self._file.fileno()).st_size} bytes"
        return f"<Savepoint: {size}>"

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self._file.close()
