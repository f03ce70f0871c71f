"""On a Ray of its own, or the one at an address: pages that an actor's method gets anew for a block it had before."""

import resource
import sys

from monosem.fleet.cluster import connected, set_environment

BLOCK = 1 << 28


class Method:
    """An actor with several methods at a time, as learners are: Ray runs each in a thread."""

    def faults(self) -> list[int]:
        import numpy as np

        from monosem.memory import keep_freed_memory

        keep_freed_memory()
        found = []
        for _ in range(4):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            np.full(BLOCK, 1, np.uint8)
            found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        return found


def main(address: str | None) -> None:
    set_environment(address)
    import ray

    with connected(address, 100 << 20):
        actor = ray.remote(max_concurrency=3)(Method).remote()
        sys.stdout.write(f"faults {ray.get(actor.faults.remote())}\n")


if __name__ == "__main__":
    main(*sys.argv[1:] or [None])
