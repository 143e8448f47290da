"""A moving average of a training's weights, divided among the ranks as the optimizer's state is.

Each rank averages the fp32 parameters that DeepSpeed gave it: no message, and as little memory as one of Adam's
moments. It is part of the checkpoint, so that a resumed training goes on with the same average.
"""

from typing import Any

from headrace.training.engine import Gang
from headrace.training.optimizer import master_parameters

_KEY = "moving_average"


class MovingAverage:
    def __init__(self, engine: Any, decay: float) -> None:
        self._decay = decay
        self._means = [parameter.detach().clone() for parameter in master_parameters(engine)]

    def update(self, engine: Any) -> None:
        """After a step that was applied."""
        import torch

        newest = [parameter.detach() for parameter in master_parameters(engine)]
        # All at once, as torch.optim.swa_utils does it: one by one costs as much again as a small model's step.
        torch._foreach_lerp_(self._means, newest, 1 - self._decay)  # pyright: ignore[reportPrivateImportUsage]

    def state(self) -> dict[str, Any]:
        return {_KEY: self._means}

    def restore(self, state: dict[str, Any]) -> None:
        found = state[_KEY]
        assert [mean.shape for mean in found] == [mean.shape for mean in self._means]
        for mean, kept in zip(self._means, found, strict=True):
            mean.copy_(kept)

    def gathered(self, gang: Gang, engine: Any) -> dict[str, Any]:
        """The averaged weights by name, fp32, on rank 0; empty elsewhere. Every rank calls it.

        Puts them in the place of the engine's fp32 parameters, where DeepSpeed can find a whole one: no step may
        follow.
        """
        import torch
        from deepspeed.utils import safe_get_full_fp32_param

        with torch.no_grad():
            for parameter, mean in zip(master_parameters(engine), self._means, strict=True):
                parameter.copy_(mean)
        weights: dict[str, Any] = {}
        for name, parameter in engine.module.named_parameters():
            # None: stage 0 in fp32, whose parameters are the optimizer's own.
            whole = safe_get_full_fp32_param(parameter)
            if gang.rank == 0:
                weights[name] = (parameter if whole is None else whole).detach().float().cpu().clone()
        return weights
