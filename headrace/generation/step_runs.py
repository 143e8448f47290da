"""What a run of one step asks for, where a campaign's steps are made apart: as stated in its file.

A run's demand is the deployment's matter, and no part of a version set: it changes no row.
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

from headrace.errors import InvalidCampaign
from headrace.placement.demand import GPU_MEMORY_MIB, GPU_MODELS, GPUS
from headrace.user_files.ranges import check_ranges


@dataclass(frozen=True, kw_only=True)
class StepRun:
    """What each run of a step asks for; without a key, what the step's asset does."""

    gpus: Annotated[float, Gt(0)] | None = None
    """`2`: whole GPUs; `0.5`: a share of one."""
    gpu_memory_mib: Annotated[int, Ge(1)] | None = None
    """MiB that a share may use, or that each whole GPU must have."""
    gpu_models: tuple[str, ...] = ()
    """Allowed models, such as `L4`; none named: any."""
    turns: bool = False
    """Whether runs that share a GPU work on it one after another: each loads its model while the one before works."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.gpus is not None and self.gpus > 1 and not float(self.gpus).is_integer():
            raise InvalidCampaign(f"gpus must be a whole number, or a share below 1 of one GPU, got {self.gpus}.")

        if self.turns and (self.gpus is None or self.gpus >= 1):
            raise InvalidCampaign(
                f"turns are for runs that share a GPU, got gpus: {self.gpus}: ask for a share, such as 0.5, or leave "
                "turns out."
            )

    @property
    def tags(self) -> dict[str, str]:
        """A run's tags, over those of its asset."""
        told = {
            GPUS: self.gpus and f"{self.gpus:g}",
            GPU_MEMORY_MIB: self.gpu_memory_mib and str(self.gpu_memory_mib),
            GPU_MODELS: "|".join(self.gpu_models),
        }
        return {name: value for name, value in told.items() if value}
