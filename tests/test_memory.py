"""What the C library keeps of freed memory, and gives back when told."""

import subprocess
import sys

import pytest

SCATTERED = """
import torch
from monosem.memory import keep_freed_memory, return_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

assert keep_freed_memory()
before = resident()
blocks = [torch.ones(1 << 26, dtype=torch.uint8) for _ in range(8)]
last = torch.ones(1 << 20, dtype=torch.uint8)  # on top of them: the heap cannot shrink
del blocks
kept = resident() - before
assert return_freed_memory()
print(kept, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_freed_memory_is_kept_until_it_is_asked_back():
    done = subprocess.run([sys.executable, "-c", SCATTERED], capture_output=True, text=True, check=True)
    kept, left = map(int, done.stdout.split())
    assert kept > 500 and left < 50
