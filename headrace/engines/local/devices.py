"""Where a local engine computes, and what makes its sums the same each time."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def prepared_device(num_threads: int) -> "torch.device":
    """A GPU if there is one, else the CPU with so many threads; set for the whole process."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        # The number of threads changes how sums are split, so the version set contains it.
        torch.set_num_threads(num_threads)
    else:
        # Without it cuBLAS may add in a different order in each run.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    return device
