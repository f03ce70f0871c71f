"""An object store that is too small spills to disk, and that is said."""

import subprocess
import sys

SCRIPT = """
import numpy as np
from monosem.fleet.cluster import connected, set_environment
set_environment(None)
with connected(None, 80_000_000):
    import time
    import ray
    from monosem.fleet import spilling
    spilling.LOOK_S = 0
    watch = spilling.SpillWatch()

    def look():  # what the next answer says
        watch.look()
        while True:
            said = watch.look()
            if said or not watch.asking:
                return said
            time.sleep(0.1)

    kept = [ray.put(np.zeros(2_000_000)) for _ in range(2)]
    print("before:", look())
    kept += [ray.put(np.zeros(2_000_000)) for _ in range(12)]
    deadline = time.monotonic() + 60
    while not (said := look()):
        assert time.monotonic() < deadline, "nothing was said"
        time.sleep(0.5)
    print("after:", said[0])
    while look():  # until all that is going to disk is there
        time.sleep(2)
    print("again:", look())
"""


def test_spilling_is_said_once():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert "before: []" in done.stdout and "again: []" in done.stdout
    assert "object store was full" in done.stdout and "MiB went to disk" in done.stdout
