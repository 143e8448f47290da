"""How fast a training is: model FLOPs utilization, and the time that is left.

Utilization is what the model's products need, over what the device can do: the products of the layers' weights,
forward, back to the activations from the first trained layer on, and for the trained weights. Attention's products and
the output layer, which is computed only where there is loss, are left out: so it is a floor. What gradient
checkpointing computes again does not count, as is the custom. A mixture of experts, and a picture model, have no such
number here.

The device's peak is published for known GPUs, dense and in the training's precision. Of a CPU it is measured: the best
of some products of large matrices, on the threads of one rank, before the first step. Of other devices it is unknown,
and so is the utilization.
"""

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from headrace.training.recipe import Precision

# Of a row of the curve.
MFU, LEFT_SECONDS = "mfu", "left_seconds"
_TFLOP = 1e12
# Dense TFLOP/s from the makers' data sheets: of bf16 (of fp16 where there is no bf16), and of fp32 without TF32.
_PUBLISHED: dict[str, tuple[float, float]] = {
    "B200": (2250.0, 75.0),
    "H200": (989.0, 67.0),
    "H100 PCIe": (756.0, 51.0),
    "H100 NVL": (835.0, 60.0),
    "H100": (989.0, 67.0),
    "A100": (312.0, 19.5),
    "L40S": (362.0, 91.6),
    "L4": (121.0, 30.3),
    "A10G": (70.0, 35.0),
    "A10": (125.0, 31.2),
    "T4": (65.0, 8.1),
    "V100": (125.0, 15.7),
}
_MEASURED_SIDE, _MEASURED_TIMES = 512, 8
# A step's time is the mean of so many, evaluations and checkpoints between them included.
_WINDOW = 20


def peak_flops(device: Any, precision: Precision) -> float | None:
    """FLOP/s of one rank's device; None: nobody knows."""
    if device.type == "cpu":
        return _measured_flops(precision)
    import torch

    name = torch.cuda.get_device_name(device)
    of_half, of_single = next((peaks for part, peaks in _PUBLISHED.items() if part in name.split(" ")), (0.0, 0.0))
    return (of_single if precision == "fp32" else of_half) * _TFLOP or None


def _measured_flops(precision: Precision) -> float:
    import torch

    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    # No random numbers: the training's own are drawn from the same state.
    one, other = (torch.full((_MEASURED_SIDE, _MEASURED_SIDE), 0.5, dtype=dtype) for _ in range(2))
    seconds = float("inf")
    for _ in range(_MEASURED_TIMES):
        started = time.perf_counter()
        torch.mm(one, other)
        seconds = min(seconds, time.perf_counter() - started)
    return 2 * _MEASURED_SIDE**3 / seconds


def flops_per_token(model: Any) -> int | None:
    """What one token of an example costs a training step; None: it cannot be said of this model."""
    from torch.nn import Linear

    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else None
    if text is None or any(
        getattr(text, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")
    ):
        return None
    head = model.get_output_embeddings()
    layers = [module for module in model.modules() if isinstance(module, Linear) and module is not head]
    flops, is_behind_trained = 0, model.get_input_embeddings().weight.requires_grad
    for layer in layers:
        weight: Any = layer.weight
        # Under stage 3 the parameter is an empty placeholder.
        num = getattr(weight, "ds_numel", weight.numel())
        flops += 2 * num * (1 + is_behind_trained + weight.requires_grad)
        is_behind_trained = is_behind_trained or weight.requires_grad
    return flops


class Pace:
    """Adds to each step's row the utilization, if it is known, and the seconds that are left."""

    def __init__(self, *, steps: int, flops: int | None, peak: float | None, world_size: int) -> None:
        self._steps = steps
        self._flops = flops
        self._peak = peak
        self._world_size = world_size
        self._ended: deque[float] = deque([time.monotonic()], maxlen=_WINDOW + 1)

    def told(self, row: Mapping[str, Any]) -> dict[str, float]:
        self._ended.append(time.monotonic())
        seconds = (self._ended[-1] - self._ended[0]) / (len(self._ended) - 1)
        told = {LEFT_SECONDS: (self._steps - row["step"]) * seconds}
        if self._flops and self._peak:
            told[MFU] = row["tokens_per_second"] * self._flops / (self._peak * self._world_size)
        return told
