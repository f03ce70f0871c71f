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
        self.coming: dict = {}  # call -> process that has not answered yet: there may be no room for all of them
        self.start: Callable[[], None] | None = None

    def __enter__(self) -> "FeatureTasks":
        return self

    def __exit__(self, *_: object) -> None:
        self.idle, self.coming, self.start = [], {}, None
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
                for call in self._ready([*running, *self.coming]):
                    task, worker = running.pop(call, None) or (None, self.coming.pop(call))
                    if reason := self._died(call):
                        self._count(deaths, task, reason)
                        waiting += [task] if task else []
                        self.start()
                        continue
                    self.idle.append(worker)
                    if task:
                        ended += 1
                        done(ended)
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
        check_room(need, self.threads)
        actor = FeatureWorker.options(num_cpus=self.threads, memory=need.bytes, scheduling_strategy="SPREAD")

        def start() -> None:
            worker = actor.remote(plan)
            self.coming[worker.here.remote()] = worker

        self.start = start
        for _ in range(self.workers):
            start()

    def _count(self, deaths: Counter, task: Task | None, reason: str) -> None:
        deaths[task] += 1
        if deaths[task] >= DEATHS * (1 if task else self.workers):
            what = f"{task[0]} {task[1]}" if task else "a process does not start"
            raise MonosemError(f"feature pass: {what}: {reason}, {deaths[task]} times")

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


def check_room(need: Need, threads: int) -> None:
    """InputError if no node has CPUs or memory for a process of the pass; one that waits for its turn is no error."""
    import ray

    cores = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
    if threads > cores:
        raise InputError(f"learner.threads={threads}: the largest node gives {cores:g} CPUs to Ray")
    most = max((node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]), default=0)
    if need.bytes > most:
        raise InputError(
            f"{need.knobs}: a process of the feature pass takes up to {need.bytes / 2**30:.2f} GiB, the largest node "
            f"gives {most / 2**30:.2f} to Ray; lower them, or start nodes with more --memory"
        )
