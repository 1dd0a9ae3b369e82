"""What an ELF file says about itself before anyone loads it."""

from __future__ import annotations

import struct
from typing import NamedTuple

from ascend_patch.kernels.loading.targets import DEVICE_MACHINE, Target

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_MACHINES = {62: "x86-64", 183: "aarch64", DEVICE_MACHINE: "AscendC device code"}


class BadBinary(ValueError):
    """A file is not what it should be; the message says in what."""


class Header(NamedTuple):
    """The fields of the ELF header that matter here."""

    machine: int
    flags: int
    end: int
    """Bytes up to the end of both header tables and all segments' tables: a shorter file was cut off."""


def read_header(data: bytes) -> Header:
    """Header of a 64-bit little-endian ELF file.

    Raises:
        BadBinary: something else.
    """
    if len(data) < _HEADER.size or data[:4] != b"\x7fELF":
        raise BadBinary(f"{len(data)} bytes that are no ELF file")
    if data[4:6] != b"\x02\x01":
        raise BadBinary("not a 64-bit little-endian ELF file")
    (_, _, machine, _, _, programs, sections, flags, _, program_size, program_count, section_size, section_count, _) = (
        _HEADER.unpack_from(data)
    )
    return Header(machine, flags, max(programs + program_size * program_count, sections + section_size * section_count))


def check(data: bytes, target: Target) -> None:
    """Accepts only a whole file for `target`.

    Raises:
        BadBinary: not ELF, another machine, another architecture, or truncated.
    """
    header = read_header(data)
    if header.machine != target.machine:
        raise BadBinary(f"for {_machine(header.machine)}, needed is {_machine(target.machine)}")
    if target.flags is not None and header.flags != target.flags:
        raise BadBinary(f"e_flags {header.flags:#x}, vector code for {target.architecture} has {target.flags:#x}")
    if header.end > len(data):
        raise BadBinary(f"truncated: {len(data)} of at least {header.end} bytes")


def _machine(number: int) -> str:
    return f"{_MACHINES.get(number, 'an unknown machine')} (ELF machine {number:#x})"
