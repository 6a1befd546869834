"""Memory that is freed stays with the process while the clock runs."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Parameters of glibc's `mallopt`."""

MIB = 1 << 20

WHILE_TIMED = ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1))
AFTERWARDS = ((MMAP_MAX, 65_536), (MMAP_THRESHOLD, 32 * MIB), (TRIM_THRESHOLD, 64 * MIB))
"""The thresholds at which glibc's own adaptation ends; the adaptation itself cannot be resumed."""


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep glibc from handing freed tensors back to the system, and from fetching them anew.

    Whether it does so depends on all that a process has freed before, and every page that comes
    back costs a fault: the same network took up to a fifth longer in one process than in another.
    Allocators made for servers (jemalloc, tcmalloc) keep memory anyway; with another C library
    than glibc nothing is changed.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in WHILE_TIMED:
        mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in AFTERWARDS:
            mallopt(parameter, value)
