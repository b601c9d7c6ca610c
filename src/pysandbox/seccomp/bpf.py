"""Classic BPF as seccomp(2) runs it: reading a filter, and running it without the kernel."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_INSTRUCTION = struct.Struct("=HBBI")
_LONGEST = 4096  # BPF_MAXINSNS

# <linux/bpf_common.h>, as far as seccomp lets a filter use it
_LD_W_ABS, _LD_IMM, _LDX_IMM, _LD_MEM, _LDX_MEM, _ST, _STX = 0x20, 0x00, 0x01, 0x60, 0x61, 0x02, 0x03
_LD_LEN, _LDX_LEN = 0x80, 0x81
_RET_K, _RET_A, _TAX, _TXA, _JA = 0x06, 0x16, 0x07, 0x87, 0x05
_JUMPS = {0x10: "jeq", 0x20: "jgt", 0x30: "jge", 0x40: "jset"}
_ALU = {
    0x00: "add",
    0x10: "sub",
    0x20: "mul",
    0x30: "div",
    0x40: "or",
    0x50: "and",
    0x60: "lsh",
    0x70: "rsh",
    0x80: "neg",
}
_ALU |= {0xA0: "xor"}
_WORD = 0xFFFFFFFF

KILL_PROCESS, KILL_THREAD, TRAP, ERRNO = 0x80000000, 0x00000000, 0x00030000, 0x00050000
USER_NOTIF, TRACE, LOG, ALLOW = 0x7FC00000, 0x7FF00000, 0x7FFC0000, 0x7FFF0000
_NAMES = {
    KILL_PROCESS: "kill",
    KILL_THREAD: "kill_thread",
    TRAP: "trap",
    ERRNO: "errno",
    USER_NOTIF: "notify",
    TRACE: "trace",
    LOG: "log",
    ALLOW: "allow",
}
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "i386": 0x40000003, "arm": 0x40000028}


@dataclass(frozen=True)
class Call:
    """A system call as a filter sees it (struct seccomp_data)."""

    number: int
    arguments: tuple[int, ...] = ()
    architecture: int = ARCHITECTURES["x86_64"]
    instruction_pointer: int = 0

    def data(self) -> bytes:
        """The bytes that the kernel shows to the filter."""
        arguments = [value & (1 << 64) - 1 for value in (*self.arguments, *(0,) * (6 - len(self.arguments)))]
        return struct.pack("=iIQ6Q", self.number, self.architecture, self.instruction_pointer, *arguments)


def action_name(value: int) -> str:
    """What a filter's answer means, such as "allow" or "errno 1"."""
    name = _NAMES.get(value & 0xFFFF0000, f"unknown {value:#x}")
    return f"{name} {value & 0xFFFF}" if name in ("errno", "trap", "trace") else name


def strictest(values: list[int]) -> int:
    """The answer that counts of several filters', the newest first (seccomp(2), SECCOMP_SET_MODE_FILTER)."""
    return min(values, key=lambda value: _signed(value & 0xFFFF0000))


def _signed(value: int) -> int:
    return value - (1 << 32) if value & 0x80000000 else value


def instructions(program: bytes) -> list[tuple[int, int, int, int]]:
    """The code, the two jumps and the operand of each; ValueError for what the kernel would not take."""
    if not program or len(program) % _INSTRUCTION.size or len(program) > _LONGEST * _INSTRUCTION.size:
        raise ValueError(
            f"a filter has 1 to {_LONGEST} instructions of {_INSTRUCTION.size} bytes, not {len(program)} bytes"
        )
    return list(_INSTRUCTION.iter_unpack(program))


def chained(first: bytes, second: bytes) -> bytes:
    """One filter that answers as the first does, and where that lets a call through, as the second does.

    It costs half as much to install as two.
    """
    code = instructions(first)
    parts = []
    for at, fields in enumerate(code):
        is_passed_on = fields == (_RET_K, 0, 0, ALLOW)
        parts.append(_INSTRUCTION.pack(*((_JA, 0, 0, len(code) - at - 1) if is_passed_on else fields)))
    return b"".join(parts) + second


def evaluate(program: bytes, call: Call) -> int:
    """What a filter answers to a call, as the kernel would run it (Documentation/networking/filter.rst)."""
    data = call.data()
    code = instructions(program)
    a = x = at = 0
    memory = [0] * 16
    while at < len(code):
        op, yes, no, k = code[at]
        at += 1
        if op == _RET_K:
            return k
        if op == _RET_A:
            return a
        if op == _LD_W_ABS:
            if k % 4 or k > len(data) - 4:
                raise ValueError(f"instruction {at - 1} loads from outside of the call's data")
            a = struct.unpack_from("=I", data, k)[0]
        elif op == _LD_IMM:
            a = k
        elif op == _LDX_IMM:
            x = k
        elif op in (_LD_LEN, _LDX_LEN):
            a, x = (len(data), x) if op == _LD_LEN else (a, len(data))
        elif op in (_LD_MEM, _LDX_MEM):
            a, x = (memory[k], x) if op == _LD_MEM else (a, memory[k])
        elif op in (_ST, _STX):
            memory[k] = a if op == _ST else x
        elif op == _TAX:
            x = a
        elif op == _TXA:
            a = x
        elif op == _JA:
            at += k
        elif op & 0x07 == 0x05 and op & 0xF0 in _JUMPS:
            at += yes if _holds(_JUMPS[op & 0xF0], a, x if op & 0x08 else k) else no
        elif op & 0x07 == 0x04 and op & 0xF0 in _ALU:
            a = _computed(_ALU[op & 0xF0], a, x if op & 0x08 else k)
        else:
            raise ValueError(f"instruction {at - 1} is none of seccomp's: code {op:#x}")
    raise ValueError("the filter comes to its end without an answer")


def _holds(jump: str, a: int, b: int) -> bool:
    return {"jeq": a == b, "jgt": a > b, "jge": a >= b, "jset": bool(a & b)}[jump]


def _computed(operation: str, a: int, b: int) -> int:
    if operation == "div":
        return a // b if b else 0
    found = {
        "add": a + b,
        "sub": a - b,
        "mul": a * b,
        "or": a | b,
        "and": a & b,
        "xor": a ^ b,
        "neg": -a,
        "lsh": a << (b & 31),
        "rsh": a >> (b & 31),
    }[operation]
    return found & _WORD


def disassemble(program: bytes) -> str:
    """A filter as text, an instruction a line."""
    return "\n".join(f"{at:4}  {_shown(at, *fields)}" for at, fields in enumerate(instructions(program)))


def _shown(at: int, op: int, yes: int, no: int, k: int) -> str:
    operand = "x" if op & 0x08 else f"{k:#x}"
    if op == _RET_K:
        return f"return {action_name(k)}"
    if op == _LD_W_ABS:
        names = {0: "number", 4: "architecture", 8: "ip low", 12: "ip high"}
        place = names.get(k) or f"argument {(k - 16) // 8} {'high' if (k - 16) % 8 else 'low'}"
        return f"a = {place}"
    if op & 0x07 == 0x05 and op & 0xF0 in _JUMPS:
        sign = {"jeq": "==", "jgt": ">", "jge": ">=", "jset": "&"}[_JUMPS[op & 0xF0]]
        return f"if a {sign} {operand}: {at + 1 + yes} else {at + 1 + no}"
    if op == _JA:
        return f"go to {at + 1 + k}"
    if op & 0x07 == 0x04 and op & 0xF0 in _ALU:
        return f"a = a {_ALU[op & 0xF0]} {operand}"
    return f"code {op:#x}, {k:#x}"
