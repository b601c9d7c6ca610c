from typing import Any

__file__: str

class _Spawned:
    pid: int
    pidfd: int
    step: int
    error: int

class _Lib:
    def pb_spawn(self, image: int, control: int, application: int, flags: int) -> _Spawned: ...
    def pb_verb_name(self, verb: int) -> Any: ...
    def pb_verb_kinds(self, verb: int) -> Any: ...
    def pb_check_plan(self, plan: bytes, size: int, nfds: int, bad: Any) -> int: ...
    def pb_reply_size(self) -> int: ...

class _FFI:
    def new(self, kind: str) -> Any: ...
    def string(self, text: Any) -> bytes: ...
    NULL: Any

lib: _Lib
ffi: _FFI
