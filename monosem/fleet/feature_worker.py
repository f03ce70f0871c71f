"""The process of a feature pass on Ray."""

import ray

from monosem.features.plan import Plan
from monosem.features.state import State
from monosem.features.tasks import run_task


@ray.remote(max_restarts=0, max_task_retries=0)
class FeatureWorker:
    """Holds hosts, dictionaries and token index from task to task. What a task leaves depends on the plan alone."""

    def __init__(self, plan: Plan):
        from monosem.memory import keep_freed_memory

        keep_freed_memory()
        self.state = State(plan)

    def here(self) -> None:
        """Answers once there is room for this process and it has begun."""

    def run(self, phase: str, number: int) -> None:
        run_task(self.state, phase, number)
