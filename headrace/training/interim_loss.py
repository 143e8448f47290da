"""The held-out loss in the middle of a training, on the gang's own ranks and weights; it leaves no trace in them.

The sequences are those of the `evaluation` asset, dealt to the ranks; the loss is the objective's own. No random number
is drawn from the training's state, no dropout is on, and every rank makes as many passes, for under ZeRO stage 3 they
gather parameters together.
"""

from typing import Any

from headrace.training.engine import Gang
from headrace.training.heldout import chosen_numbers
from headrace.training.objective import Objective
from headrace.training.recipe import Recipe


class InterimLoss:
    def __init__(self, recipe: Recipe, objective: Objective) -> None:
        """Args: objective: that of the training, which has begun.

        Raises: InvalidTrainingRun: nothing is held out.
        """
        self._objective = objective.heldout()
        self._numbers = chosen_numbers(len(self._objective), self._objective.weight, recipe.heldout_tokens_min)
        self._weight = self._objective.weight(self._numbers)
        self._size = recipe.micro_batch

    def measure(self, gang: Gang, engine: Any) -> float:
        """In the objective's unit (of texts nats a completion token), the same on every rank; every rank calls it."""
        import torch

        own = self._numbers[gang.rank :: gang.world_size]
        num_passes = -(-len(self._numbers) // (gang.world_size * self._size))
        devices = [gang.accelerator.device] if gang.accelerator.device.type == "cuda" else []
        loss = 0.0
        engine.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=devices):
                for number in range(num_passes):
                    taken = own[number * self._size : (number + 1) * self._size]
                    # A rank that has none left takes part in the others' gathering; what it computes does not count.
                    numbers = taken if len(taken) else self._numbers[:1]
                    found = self._objective.summed_loss(engine, numbers, numbers, gang.accelerator.device)
                    loss += found.item() if len(taken) else 0.0
        finally:
            engine.train()
        [total] = gang.sum_over_ranks(loss)
        return total / self._weight
