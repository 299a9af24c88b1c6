"""The filter of system calls, run by an interpreter of its own: what the kernel would answer."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from search.sandbox import seccomp

X86, ARM = 0xC000003E, 0xC00000B7
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
#: where the headers of a system have the numbers
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def answer(machine: str, architecture: int, number: int, first: int = 0) -> int:
    """What the filter says of a call: classic BPF, by the manual of seccomp."""
    instructions = list(struct.iter_unpack("=HBBI", seccomp.compiled(machine)))
    data = struct.pack("=iIQQQQQQQ", number, architecture, 0, first, 0, 0, 0, 0, 0)
    word = place = 0
    for _ in range(len(instructions)):
        code, when, otherwise, constant = instructions[place]
        place += 1
        if code == 0x20:
            (word,) = struct.unpack_from("=I", data, constant)
        elif code == 0x06:
            return constant
        else:
            compared = {0x15: word == constant, 0x25: word > constant, 0x45: bool(word & constant)}
            place += when if compared[code] else otherwise
    raise AssertionError("a filter must return")


@pytest.mark.parametrize(("machine", "architecture"), [("x86_64", X86), ("aarch64", ARM)])
def test_what_is_named_is_refused_and_nothing_else(machine: str, architecture: int) -> None:
    column = ["x86_64", "aarch64"].index(machine)
    refused = {numbers[column] for numbers in seccomp.REFUSED.values()} - {None}
    said = {number: answer(machine, architecture, number) for number in range(520)}
    assert {number for number, told in said.items() if told == EPERM} == refused | {
        {"x86_64": 53, "aarch64": 199}[machine]  # socketpair of no family
    }
    missing = {number for number, told in said.items() if told == ENOSYS}
    assert missing == {435, *range(451, 520)}


@pytest.mark.parametrize(
    ("machine", "architecture", "clone", "pair"),
    [("x86_64", X86, 56, 53), ("aarch64", ARM, 220, 199)],
)
def test_arguments_count(machine: str, architecture: int, clone: int, pair: int) -> None:
    fork, thread = 0x01200011, 0x003D0F00  # flags of fork and of pthread_create in glibc
    assert answer(machine, architecture, clone, fork) == ALLOW
    assert answer(machine, architecture, clone, thread) == ALLOW
    for bit in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert answer(machine, architecture, clone, fork | bit) == EPERM
    assert answer(machine, architecture, pair, 1) == ALLOW
    assert answer(machine, architecture, pair, 2) == EPERM


def test_calls_of_another_architecture_are_fatal() -> None:
    assert answer("x86_64", 0x40000003, 11) == KILL  # i386, by int 0x80
    assert answer("aarch64", 0x40000028, 11) == KILL  # arm
    assert answer("x86_64", X86, 0x40000000 | 41) == ENOSYS  # x32


@pytest.mark.parametrize("machine", HEADERS)
def test_the_numbers_are_those_of_the_system(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("the headers of the kernel are not installed")
    text = HEADERS[machine].read_text()
    found = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$", text, re.MULTILINE)
    known = {name: int(number) for name, number in found}
    column = ["x86_64", "aarch64"].index(machine)
    mine = {name: numbers[column] for name, numbers in seccomp.REFUSED.items()}
    assert mine == {name: known.get(name) for name in mine}


def test_other_machines_have_none() -> None:
    assert not seccomp.supported("riscv64")
