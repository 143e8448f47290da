"""What a training asks of its objective: what a batch is, what the loss is, what is kept and what is exported.

The loop, the checkpoints, the gang and the result are the same for all; an objective knows nothing of steps, ranks'
shares or storage. `headrace.training.sft` continues texts, `headrace.training.preference` prefers one answer to
another, `headrace.training.flow_matching` paints pictures.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from headrace.store.objects import ObjectStore
from headrace.training.engine import Gang
from headrace.training.recipe import FLOW_MATCHING, PREFERENCE
from headrace.training.run_config import RunConfig


class Kept(Protocol):
    """What a checkpoint keeps beside weights, moments and random state: lists of tensors by name.

    What is divided among the ranks is a list with one tensor for each of `master_parameters`, of its shape: another
    number of ranks then divides it anew. Everything else is rank 0's alone.
    """

    def state(self) -> dict[str, Any]:
        """This rank's part; may be empty."""
        ...

    def restore(self, state: dict[str, Any]) -> None: ...


class Objective(Kept, Protocol):
    """One rank's end of it. Calls come in this order: `load_model`, `begin`, perhaps `restore`, steps, `export`.

    Attributes:
        feeding: how examples reach the model, for the result.
    """

    @property
    def feeding(self) -> str: ...

    def __len__(self) -> int:
        """Examples in an epoch."""
        ...

    def load_model(self, base: Path) -> Any:
        """The model before its first step, the same on every rank."""
        ...

    def begin(self, gang: Gang, engine: Any) -> str | None:
        """Once the engine exists; every rank calls it. Returns what is worth a line in the log."""
        ...

    def weight(self, numbers: np.ndarray) -> int:
        """By what the sum of these examples' losses is divided."""
        ...

    def num_tokens(self, numbers: np.ndarray) -> int:
        """Tokens of these examples, without padding; of a picture, its patches."""
        ...

    def summed_loss(self, model: Any, numbers: np.ndarray, draws: np.ndarray, device: Any) -> Any:
        """The sum of these examples' losses.

        Args:
            draws: of each example, its number among all that the training draws: what is random about it follows from
                that, so that a resumed run, or another number of ranks, draws the same.
        """
        ...

    def after_step(self, engine: Any, *, applied: bool) -> None: ...

    def heldout(self) -> "Objective":
        """The same objective over the held-out examples, once it has begun: for their loss alone.

        Raises:
            InvalidTrainingRun: nothing is held out.
        """
        ...

    def export(self, gang: Gang, engine: Any, base: Path, out: Path) -> None:
        """Rank 0 writes the model directory `out`; every rank calls it, and no step follows."""
        ...


def open_objective(config: RunConfig, store: ObjectStore) -> Objective:
    """Raises: as the opening of its examples."""
    if config.recipe.objective == FLOW_MATCHING:
        from headrace.training.flow_matching import FlowMatchingObjective

        return FlowMatchingObjective(config, store)
    if config.recipe.objective == PREFERENCE:
        from headrace.training.preference import PreferenceObjective

        return PreferenceObjective(config, store)
    from headrace.training.sft import SftObjective

    return SftObjective(config, store)
