"""What a run needs of a fleet, and the names of its tags; assets write them, coordinators read them.

The text below each name is its line in docs/reference.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

STAGE = "headrace/stage"
"""Name of the stage, such as `training`, for floors and ceilings. Without it: none."""
GPUS = "headrace/gpus"
"""`4`: whole GPUs; `0.5`: a share of one. Without it: none, and `CUDA_VISIBLE_DEVICES` is empty."""
GPU_MEMORY_MIB = "headrace/gpu_memory_mib"
"""MiB that a share may use, or that each whole GPU must have; alone, it asks for a share by memory."""
GPU_MODELS = "headrace/gpu_models"
"""Allowed models, `H100` or `H100|A100`; a MIG slice is a model of its own. Without it: any."""
GANG = "headrace/gang"
"""`node`: all GPUs on one node; `any`: across nodes. Without it: `node`."""
CPUS = "headrace/cpus"
"""CPUs for the whole run: `8`, `0.5`. Without it: not counted."""
MEMORY_MIB = "headrace/memory_mib"
"""MiB of the host's memory, for the whole run. Without it: not counted."""
EXPECTED_SECONDS = "headrace/expected_seconds"
"""How long the run should take. Without it: the median of the last ten successful runs of its kind, else 10 minutes."""
QUEUE = "headrace/queue"
"""Name of a queue that shares the fleet with others by weight. Without it: `default`."""
PREEMPTIBLE = "headrace/preemptible"
"""`true`: may be stopped for others, and is queued again. Without it: `false`."""
VERSION_SET = "headrace/version_set"
"""What the run loads, by a name of your own; a GPU that last loaded the same is preferred."""
LOADS = "headrace/loads"
"""Ids of the models that the run loads, `3fa1c2…|9b07de…`; a GPU on which an engine host has them is preferred.
Without it: what `headrace/demand_from` tells, else `headrace/version_set`."""
DEMAND_FROM = "headrace/demand_from"
"""Who computes what a run of one step needs, from its partition: `training_recipe`, `campaign_writer`,
`campaign_painter`, `campaign_speaker`. The tags of a run go before it. Without it: what the step's tags say."""
REQUESTED_BY = "headrace/requested_by"
"""Who asked for the run: a sensor's name, a command."""
REASON = "headrace/reason"
"""Why the run was asked for, for people: "version set 2b0611613a83 was rolled back"."""

# Shares of one GPU are counted in thousandths, so sums stay exact.
WHOLE = 1000

Gang = Literal["node", "any"]


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What one run holds from its admission to its end. The default run needs nothing that is counted.

    `num_gpus` devices, `gpu_milli` thousandths of each: 1000, unless it is a share of a single one. For a shared GPU,
    `gpu_memory_mib` is the memory that the run may fill, and its share grows on a small GPU; for whole GPUs it is each
    GPU's minimum. `cpu_milli` and `memory_mib` are for the whole run; a gang that spans nodes needs them on each node
    in proportion to its GPUs there.
    """

    num_gpus: int = 0
    gpu_milli: int = WHOLE
    gpu_memory_mib: int = 0
    gpu_models: frozenset[str] = field(default_factory=frozenset)  # allowed ones; none named: any
    gang: Gang = "node"
    cpu_milli: int = 0
    memory_mib: int = 0

    def __hash__(self) -> int:
        # A plan looks each run's demand up several times.
        known = self.__dict__.get(_HASH)
        if known is None:
            known = hash(tuple(getattr(self, name) for name in _FIELDS))
            object.__setattr__(self, _HASH, known)
        return known

    def __getstate__(self) -> dict[str, Any]:
        # Hashes of text differ between processes.
        return {name: value for name, value in self.__dict__.items() if name != _HASH}

    @property
    def is_shared(self) -> bool:
        """Whether it takes a part of one GPU beside other runs."""
        return self.num_gpus == 1 and self.gpu_milli < WHOLE

    def milli_on(self, gpu_memory_mib: int) -> int:
        """Thousandths of a GPU with that memory that each of its devices takes; above 1000: it does not fit."""
        if self.gpu_memory_mib > gpu_memory_mib:
            return WHOLE + 1
        if not self.is_shared:
            return WHOLE
        by_memory = math.ceil(self.gpu_memory_mib * WHOLE / gpu_memory_mib) if self.gpu_memory_mib else 0
        return max(self.gpu_milli, by_memory)


_HASH = "_hash"
_FIELDS = tuple(field.name for field in fields(Demand))


def stage_tags(
    stage: str, *, gpus: int | float = 0, gpu_memory_mib: int = 0, demand_from: str | None = None
) -> dict[str, str]:
    """The op tags of one asset.

    `gpus` is a number of whole GPUs, or a fraction below 1 of one; `gpu_memory_mib` is per GPU. Both only matter on a
    machine with GPUs and with a coordinator that reads them. `demand_from`: who computes both from a run's partition
    (`DEMAND_FROM`); they are for whoever cannot.
    """
    tags = {STAGE: stage}
    if demand_from:
        tags[DEMAND_FROM] = demand_from
    if gpus:
        tags[GPUS] = f"{gpus:g}"
    if gpu_memory_mib:
        tags[GPU_MEMORY_MIB] = str(gpu_memory_mib)
    return tags
