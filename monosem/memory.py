"""Ask the C library to keep freed memory instead of returning it to the system at once.

Each training step frees and asks again for the same large blocks. Blocks above 32 MB glibc maps and unmaps
every time, and the page faults then cost more than the arithmetic: a pretraining step of the host model went
from 11 to 27 thousand tokens/s (one thread, bf16).
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """True if the C library took the setting (glibc); elsewhere nothing changes."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1))
