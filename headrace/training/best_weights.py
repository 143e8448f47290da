"""The weights behind the best evaluation, kept beside those that training goes on with.

Rank 0 holds whole trained parameters in the machine's memory, in the training's precision, whatever the stage; each
rank holds its part of what the objective keeps. Both are in every checkpoint, so that a resumed training exports the
same.
The price: rank 0 needs the trained weights' size once more, and so does a checkpoint.
"""

from typing import Any

from headrace.training.engine import Gang
from headrace.training.objective import Kept, Objective

_WEIGHTS, _OBJECTIVE = "best_weights", "best_of_objective/"


class BestWeights(Kept):
    """`objective`'s state together with the best one so far: what a checkpoint keeps beside DeepSpeed's files."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._weights: list[Any] = []
        self._of_objective: dict[str, list[Any]] = {}

    def take(self, gang: Gang, engine: Any) -> None:
        """Keeps the weights as they are; every rank calls it."""
        whole = [_whole(parameter, gang.rank) for parameter in _trained(engine)]
        self._weights = whole if gang.rank == 0 else []
        self._of_objective = {
            name: [tensor.detach().cpu().clone() for tensor in tensors]
            for name, tensors in self._objective.state().items()
        }

    def put_back(self, gang: Gang, engine: Any) -> None:
        """Gives rank 0's model the kept weights, for the export: no step may follow. Every rank calls it."""
        import torch
        from deepspeed import zero

        for number, parameter in enumerate(_trained(engine)):
            with torch.no_grad(), zero.GatheredParameters([parameter], modifier_rank=0):
                if gang.rank == 0:
                    parameter.copy_(self._weights[number])
        self._objective.restore(self._of_objective)

    def state(self) -> dict[str, Any]:
        of_objective = {f"{_OBJECTIVE}{name}": tensors for name, tensors in self._of_objective.items()}
        return self._objective.state() | {_WEIGHTS: self._weights} | of_objective

    def restore(self, state: dict[str, Any]) -> None:
        self._objective.restore(state)
        self._weights = state[_WEIGHTS]
        self._of_objective = {
            name.removeprefix(_OBJECTIVE): tensors for name, tensors in state.items() if name.startswith(_OBJECTIVE)
        }


def _trained(engine: Any) -> list[Any]:
    return [parameter for parameter in engine.module.parameters() if parameter.requires_grad]


def _whole(parameter: Any, rank: int) -> Any:
    """A copy of one whole parameter, on rank 0."""
    from deepspeed import zero

    with zero.GatheredParameters([parameter]):
        return parameter.detach().cpu().clone() if rank == 0 else None
