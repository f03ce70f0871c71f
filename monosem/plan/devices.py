"""What devices can do: datasheets of GPUs, and rates that were measured.

Both answer one question, `step_s`: the seconds that the counts of `cost.StepCost` take on one device.

A datasheet's peak is never reached. A step on it takes

    max(FLOPs / (peak FLOP/s), bytes / (memory bandwidth)) / efficiency

with one efficiency for both: what `tests/bench/gpu.py` found on an H200, and assumed, and said to be so, of other
kinds. Rates that were measured (`monosem plan --calibrate`) are seconds per unit of each count, fitted to steps of real
learners:

    sparse:  step_s = a rows + b gathered + c product FLOPs + d parameters + e
    dense:   step_s = f dense FLOPs + g rows + h parameters + i
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from monosem.plan.cost import StepCost

EFFICIENCY = 0.5
"""Share of a datasheet's peak that a step is taken to reach. On an H200 with 8,192 rows of 512, 20 active, bf16, relu:
0.50 at 4,096, at 32,768 and at 131,072 features alike; topk 0.32, 0.42, 0.44 (`tests/bench/RESULTS.md`)."""
GB = 10**9


@dataclass(frozen=True)
class Device:
    """A kind of device, from its vendor's datasheet.

    memory   bytes
    flops    dense matrix products, FLOP/s by precision of the factors
    bandwidth  of its memory, bytes/s
    link     to another device of the same node, bytes/s each way
    network  to another node, bytes/s each way: of the vendor's own machine of eight (400 or 200 Gbit/s per GPU)
    """

    name: str
    memory: int
    flops: Mapping[str, float]
    bandwidth: float
    link: float
    network: float


DATASHEET = {
    d.name: d
    for d in (
        Device("H200", 141 * GB, {"bf16": 989e12, "fp32": 67e12}, 4.8e12, 450e9, 50e9),
        Device("H100", 80 * GB, {"bf16": 989e12, "fp32": 67e12}, 3.35e12, 450e9, 50e9),
        Device("A100", 80 * GB, {"bf16": 312e12, "fp32": 19.5e12}, 2.039e12, 300e9, 25e9),
        Device("L4", 24 * GB, {"bf16": 121e12, "fp32": 30.3e12}, 300e9, 32e9, 1.56e9),
    )
}
"""H100 and H200: SXM; A100: SXM, 80 GB. L4 has no links: PCIe 4 stands for them, and 100 Gbit/s for eight."""


class Rates(Protocol):
    source: str

    def step_s(self, cost: StepCost, variant: str, precision: str) -> float: ...
    def forward_s(self, flops: float, precision: str) -> float: ...


@dataclass(frozen=True)
class Datasheet:
    """Rates by the datasheet of a GPU, times an efficiency."""

    device: Device
    efficiency: float = EFFICIENCY

    @property
    def source(self) -> str:
        told = ", measured on an H200 alone" if self.efficiency == EFFICIENCY and self.device.name != "H200" else ""
        return f"datasheet of {self.device.name} times an efficiency of {self.efficiency:.2f}{told}"

    def compute_s(self, cost: StepCost, precision: str) -> float:
        return cost.flops / (self.device.flops[precision] * self.efficiency)

    def memory_s(self, cost: StepCost, precision: str) -> float:
        return cost.bytes(precision) / (self.device.bandwidth * self.efficiency)

    def step_s(self, cost: StepCost, variant: str, precision: str) -> float:
        return max(self.compute_s(cost, precision), self.memory_s(cost, precision))

    def forward_s(self, flops: float, precision: str) -> float:
        """Seconds of a host's forward pass of so many FLOPs."""
        return flops / (self.device.flops[precision] * self.efficiency)


UNITS = {
    "sparse": ("rows", "gathered", "product", "parameters", "one"),
    "dense": ("dense", "rows", "parameters", "one"),
}
"""The counts that a measured step is fitted to, by its way."""


@dataclass(frozen=True)
class Measured:
    """Rates of this machine, `threads` to a learner.

    seconds     per unit of each count of UNITS, by "variant precision way"
    item_s      seconds of one work item of the job's host, by `stream.threads` cores; 0 if no host was at hand
    commit      bytes/s of a checkpoint: packed, digested and written to the store
    evaluate    FLOP/s of an evaluation (fp32 products of all features)
    draw        parameters/s of an initialisation
    start       seconds of a core until a process has its libraries loaded
    crowd       how many times as long two learners take beside each other as their work over the cores comes to
    misfit      the largest relative distance of a measured step from the fit
    """

    where: str
    threads: int
    seconds: Mapping[str, Mapping[str, float]]
    item_s: float = 0.0
    commit: float = 0.0
    evaluate: float = 0.0
    draw: float = 0.0
    start: float = 0.0
    crowd: float = 1.0
    misfit: float = 0.0

    @property
    def source(self) -> str:
        return f"measured: {self.where}, {self.threads} threads"

    def step_s(self, cost: StepCost, variant: str, precision: str) -> float:
        rates = self.seconds[f"{variant} {precision} {cost.way}"]
        return sum(rates[unit] * cost.count(unit) for unit in UNITS[cost.way])

    def forward_s(self, flops: float, precision: str) -> float:
        return flops / self.evaluate
