import platform
import subprocess
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "search" / "clock" / "glibc.py"
PROGRAM = """
import resource, runpy, sys
from contextlib import nullcontext

kept_memory = runpy.run_path(sys.argv[1])["kept_memory"]

def fewest_faults(memory):
    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        bytearray(64 << 20)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    with memory:
        return min(faults() for _ in range(5))

print(fewest_faults(nullcontext()) > 0, fewest_faults(kept_memory()))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left alone")
def test_what_is_freed_is_not_fetched_anew():
    # In a process of its own: this one's allocator has seen too much.
    command = [sys.executable, "-c", PROGRAM, FILE]
    output = subprocess.run(command, capture_output=True, check=True)
    assert output.stdout.split() == [b"True", b"0"]
