"""The tasks of a feature pass on a Ray cluster: processes that each hold the host, and take a task at a time.

Tasks leave files and nothing else, and do what is done already over again for nothing: a process that dies is replaced
and its task is done by another.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

from monosem.config.job import SweepJob
from monosem.errors import InputError, Interrupted, MonosemError
from monosem.fleet.cluster import connected, set_environment
from monosem.stages.budget import Need

STORE_BYTES = 80 * 2**20
"""The least that Ray accepts: tasks talk through the sweep's store."""
POLL_S = 0.5
DEATHS = 4
"""Deaths with the same task, after which the pass ends with the reason."""

Task = tuple[str, int]


class FeatureTasks:
    """`with FeatureTasks(address, job) as run: run_features(..., run=run)`: as many processes as the job has model
    workers (`stream.workers`), on the nodes of the Ray at `address`, or on one of its own (None).

    Ray is reached when the first tasks come. SIGINT and SIGTERM end the processes and raise Interrupted; what tasks
    have left stays.
    """

    def __init__(self, address: str | None, job: SweepJob):
        self.address, self.workers, self.threads = address, job.stream.workers, job.learner.threads
        self.stack = ExitStack()
        self.idle: list = []
        self.start: Callable[[], object] | None = None

    def __enter__(self) -> "FeatureTasks":
        return self

    def __exit__(self, *_: object) -> None:
        self.idle, self.start = [], None
        self.stack.close()

    def __call__(self, state, phase: list[Task], done: Callable[[int], None]) -> None:
        from monosem.stages.signals import stop_on_signal

        self._connect(state)
        waiting, running, deaths, ended = list(reversed(phase)), {}, Counter(), 0
        with stop_on_signal() as should_stop:  # after ray.init, which puts handlers of its own in place
            while waiting or running:
                while waiting and self.idle:
                    task, worker = waiting.pop(), self.idle.pop()
                    running[worker.run.remote(*task)] = task, worker
                for call in self._ready(list(running)):
                    task, worker = running.pop(call)
                    if reason := self._died(call):
                        deaths[task] += 1
                        if deaths[task] >= DEATHS:
                            raise MonosemError(f"feature pass: {task[0]} {task[1]}: {reason}, {DEATHS} times")
                        waiting.append(task)
                        worker = self.start()
                    else:
                        ended += 1
                        done(ended)
                    self.idle.append(worker)
                if should_stop():
                    raise Interrupted("stopped; the same command goes on with the tasks that are not done")

    def _connect(self, state) -> None:
        if self.start is not None:
            return
        set_environment(self.address)
        self.stack.enter_context(connected(self.address, STORE_BYTES))
        import ray

        from monosem.fleet.feature_worker import FeatureWorker
        from monosem.stages.features import features_need

        need, plan = features_need(state), ray.put(state.plan)
        check_room(need)
        actor = FeatureWorker.options(num_cpus=self.threads, memory=need.bytes, scheduling_strategy="SPREAD")
        self.start = lambda: actor.remote(plan)
        self.idle = [self.start() for _ in range(self.workers)]

    def _ready(self, calls: list) -> list:
        import ray

        return ray.wait(calls, num_returns=1, timeout=POLL_S)[0]

    def _died(self, call) -> str | None:
        """Why the process of an ended call died, or None; the error of a task is raised as what it was."""
        import ray

        try:
            ray.get(call)
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, MonosemError) else error from None
        except ray.exceptions.RayActorError as error:
            return str(error).strip().split("\n")[0]
        return None


def check_room(need: Need) -> None:
    """InputError if no node has memory for a process of the pass; one that waits for its turn is no error."""
    import ray

    most = max((node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]), default=0)
    if need.bytes > most:
        raise InputError(
            f"{need.knobs}: a process of the feature pass takes up to {need.bytes / 2**30:.2f} GiB, the largest node "
            f"gives {most / 2**30:.2f} to Ray; lower them, or start nodes with more --memory"
        )
