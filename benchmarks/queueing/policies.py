"""The policies that are compared, each on one pool of GPUs."""

from collections.abc import Callable

from benchmarks.queueing.ours import Headrace
from benchmarks.queueing.peers import BestEffort, Easy, EasyShortest, Fifo, Shortest
from benchmarks.queueing.simulation import Policy
from headrace.placement.inventory import Gpu, Inventory, Node
from headrace.placement.queueing import Preempting, QueuePolicy

WITH_PREEMPTION = QueuePolicy(order="shortest_first", preemption=Preempting(min_run_seconds=0.0))
WITHOUT_PREEMPTION = QueuePolicy(order="shortest_first")
POLICIES: dict[str, Callable[[Inventory], Policy]] = {
    "headrace": lambda pool: Headrace(pool, WITH_PREEMPTION),
    "headrace_no_preemption": lambda pool: Headrace(pool, WITHOUT_PREEMPTION),
    "headrace_default": lambda pool: Headrace(pool, QueuePolicy()),
    "fifo": lambda pool: Fifo(),
    "best_effort": lambda pool: BestEffort(),
    "easy": lambda pool: Easy(),
    "easy_sjbf": lambda pool: EasyShortest(),
    "sjf": lambda pool: Shortest(),
}


def pool_of(num_gpus: int) -> Inventory:
    gpus = tuple(Gpu(device=f"{index:02d}", model="GPU", memory_mib=81_559) for index in range(num_gpus))
    return Inventory(nodes=(Node(name="pool", gpus=gpus),))
