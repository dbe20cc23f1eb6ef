"""Root without its right to read and write what belongs to others, or what nobody may write."""

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator

VERSION = 0x20080522  # of the kernel's structures for 64 capabilities
OVERRIDES = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


@contextlib.contextmanager
def without_overrides() -> Iterator[None]:
    """Inside the block this thread has the rights of files like everybody, also if it runs as root."""
    if os.geteuid() != 0:
        yield
        return
    before = get_capabilities()
    effective, *others = before
    set_capabilities(effective & ~OVERRIDES, *others)
    try:
        yield
    finally:
        set_capabilities(*before)


def get_capabilities() -> tuple[int, ...]:
    """(effective, permitted, inheritable) of this thread, the first 32 of each; then the others."""
    data = ctypes.create_string_buffer(24)
    call("capget", data)
    return struct.unpack("6I", data.raw)


def set_capabilities(*sets: int) -> None:
    """Sets what get_capabilities returns."""
    call("capset", ctypes.create_string_buffer(struct.pack("6I", *sets), 24))


def call(name: str, data: ctypes.Array[ctypes.c_char]) -> None:
    """One of the two system calls; OSError if it fails."""
    header = ctypes.create_string_buffer(struct.pack("Ii", VERSION, 0))
    if getattr(ctypes.CDLL(None, use_errno=True), name)(header, data) != 0:
        raise OSError(ctypes.get_errno(), name)
