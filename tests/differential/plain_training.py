"""The reference: one process, plain PyTorch, no DeepSpeed, no accelerate, and nothing of `headrace.training.engine`.

Written from the meaning of the recipe's fields; shares with the library the data, their order and nothing else.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from headrace.training.examples import NO_LOSS, PackedExamples
from headrace.training.order import SampleOrder
from headrace.training.recipe import Recipe

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PlainTraining:
    """Weights in the recipe's precision, behind the last step; one loss and one gradient norm a step."""

    weights: Weights
    losses: list[float]
    norms: list[float]


def train_plainly(
    base: Path,
    examples: PackedExamples,
    recipe: Recipe,
    *,
    world_size: int,
    optimizer_class: Any = torch.optim.AdamW,
    options: Mapping[str, Any] | None = None,
    rates: Sequence[float] = (),
    prepared: Callable[[Any], Any] = lambda model: model,
) -> PlainTraining:
    """On fp32 master weights; the model itself runs in the recipe's precision.

    Args:
        options: of the optimizer; without them the recipe's betas.
        rates: one a step; without them the recipe's cosine.
        prepared: lays something onto the loaded model.
    """
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[recipe.precision]
    model: Any = prepared(AutoModelForCausalLM.from_pretrained(base, dtype=dtype)).train()
    trained = [
        p for name, p in model.named_parameters() if p.requires_grad and not name.startswith(recipe.freeze or ("\0",))
    ]
    masters = [p.detach().float().clone().requires_grad_() for p in trained]
    optimizer = optimizer_class(
        [
            {"params": [p for p in masters if p.dim() > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in masters if p.dim() == 1], "weight_decay": 0.0},
        ],
        lr=0.0,
        **({"betas": (recipe.beta1, recipe.beta2)} if options is None else options),
    )
    order = SampleOrder.of(recipe, num_sequences=len(examples), world_size=world_size)
    losses, norms = [], []
    for step in range(recipe.steps):
        numbers = order.batch(step)
        loss = mean_loss(model, examples, numbers)
        loss.backward()
        losses.append(loss.item())
        for master, parameter in zip(masters, trained, strict=True):
            assert parameter.grad is not None
            master.grad, parameter.grad = parameter.grad.float(), None
        norms.append(torch.nn.utils.clip_grad_norm_(masters, recipe.clip_norm or math.inf).item())
        for group in optimizer.param_groups:
            group["lr"] = rates[step] if rates else cosine_with_warmup(recipe, step)
        optimizer.step()
        with torch.no_grad():
            for master, parameter in zip(masters, trained, strict=True):
                parameter.copy_(master)
    return PlainTraining({name: p.detach().clone() for name, p in model.named_parameters()}, losses, norms)


def mean_loss(model: Any, examples: PackedExamples, numbers: Any) -> torch.Tensor:
    """Over every completion token of the batch, from the logits of every position."""
    rows = examples.take(numbers)
    logits = model(
        input_ids=torch.from_numpy(rows.input_ids_BT),
        position_ids=torch.from_numpy(rows.position_ids_BT),
        use_cache=False,
    ).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1),
        torch.from_numpy(rows.labels_BT[:, 1:]).flatten(),
        ignore_index=NO_LOSS,
    )


def cosine_with_warmup(recipe: Recipe, step: int) -> float:
    assert recipe.schedule == "cosine"
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / (recipe.steps - recipe.warmup_steps)
    low = recipe.learning_rate * recipe.learning_rate_end
    return low + (recipe.learning_rate - low) * 0.5 * (1 + math.cos(math.pi * done))


def distance_share(weights: Weights, reference: Weights, start: Weights) -> float:
    """How far `weights` end from the reference, as a share of the way that the reference came from `start`.

    Over the names of `start`: a file names tied weights once.
    """

    def distance(one: Weights, other: Weights) -> float:
        return math.sqrt(sum((one[name].double() - other[name].double()).square().sum().item() for name in start))

    return distance(weights, reference) / distance(reference, start)
