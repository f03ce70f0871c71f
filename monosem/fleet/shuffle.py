"""The tasks of a shuffle on Ray: so many at a time, again when a worker is killed, nothing through the object store.

Imports neither torch nor anything that does: a worker imports this module, and its memory is part of the plan.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from monosem.dataset.pieces import Task
from monosem.errors import Interrupted, MonosemError

STORE_BYTES = 80 * 2**20
"""The least that Ray accepts: tasks talk through the dataset's store."""
POLL_S = 0.5
RETRIES = 8
"""How often Ray runs a task again whose worker was killed."""
CPUS = 0.1
"""Asked of Ray's scheduler for each; how many run at once is bounded here."""


class RayTasks:
    """Runs at most `at_once` tasks on a Ray of its own (`address` None) or on the one at `address`.

    `with RayTasks(None, 2) as run: run_shuffle(..., run=run)`. Ray is reached when the first tasks come, so that
    bad input does not wait for it. SIGINT and SIGTERM end the tasks and raise Interrupted; what is committed stays.
    """

    def __init__(self, address: str | None, at_once: int):
        self.address, self.at_once = address, at_once
        self.stack = ExitStack()
        self.start = None

    def __enter__(self) -> "RayTasks":
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()
        self.start = None

    def __call__(self, tasks: Sequence[Task], done: Callable[[Task], None]) -> None:
        if not tasks:
            return
        from monosem.stages.signals import stop_on_signal

        start = self._connect()
        waiting, running = list(reversed(tasks)), {}
        with stop_on_signal() as should_stop:  # after ray.init, which puts handlers of its own in place
            while waiting or running:
                while waiting and len(running) < self.at_once:
                    task = waiting.pop()
                    running[start(task)] = task
                for call in self._ended(list(running)):
                    done(running.pop(call))
                if should_stop():
                    self._cancel(list(running))
                    raise Interrupted("stopped; the same command goes on from what is committed")

    def _connect(self) -> Callable[[Task], object]:
        """Starts a task; the call that ends with it is returned."""
        if self.start is None:
            from monosem.fleet.cluster import connected, set_environment

            set_environment(self.address)
            self.stack.enter_context(connected(self.address, STORE_BYTES))
            import ray

            options = {"num_cpus": CPUS, "max_retries": RETRIES, "scheduling_strategy": "SPREAD"}
            self.start = ray.remote(**options)(run_task).remote
        return self.start

    def _ended(self, calls: list) -> list:
        """Calls that have ended well; of one that has not, its error is raised as what it was."""
        import ray

        ended, _ = ray.wait(calls, num_returns=1, timeout=POLL_S)
        try:
            ray.get(ended)
        except ray.exceptions.RayTaskError as error:
            self._cancel(calls)
            raise error.cause if isinstance(error.cause, MonosemError) else error from None
        except ray.exceptions.RayError as error:
            self._cancel(calls)
            reason = str(error).strip().split("\n")[0]
            raise MonosemError(f"the worker of a task died {RETRIES + 1} times: {reason}") from error
        return ended

    def _cancel(self, calls: list) -> None:
        """On a cluster of others no task of ours goes on."""
        import ray

        for call in calls:
            ray.cancel(call, force=True)


def run_task(task: Task) -> None:
    """What a Ray worker does."""
    task.run()
