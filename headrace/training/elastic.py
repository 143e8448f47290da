"""Whether a training may change its number of ranks, and what is said of one that did."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from headrace.training.checkpoints import Checkpoint
from headrace.training.recipe import Recipe

# Whose state is two moments and numbers: all that DeepSpeed's universal form of stage 3 has a place for.
_TWO_MOMENTS = ("adamw", "adam", "nadam", "radam")


def why_fixed(recipe: Recipe) -> str | None:
    """Why a checkpoint of this recipe fits its own number of ranks alone; None: any number resumes it."""
    optimizer = recipe.optimizer
    if recipe.zero_stage < 3 or (optimizer.name in _TWO_MOMENTS and not optimizer.amsgrad):
        return None
    told = f"{optimizer.name!r}{' with amsgrad' if optimizer.amsgrad else ''}"
    return (
        f"DeepSpeed's universal form of zero_stage 3 holds two moments, not the state of optimizer {told}; resume with "
        f"as many ranks, or take one of {', '.join(_TWO_MOMENTS)}"
    )


def describe_resume(resume: Checkpoint, world_size: int) -> str | None:
    """A sentence about a checkpoint of another number of ranks; None: these ranks made it, and nothing differs."""
    if resume.is_made_by(world_size):
        return None
    return (
        f"{_ranks(world_size).capitalize()} {'goes' if world_size == 1 else 'go'} on from a checkpoint of "
        f"{_ranks(resume.world_size)}: weights, moments and the order of examples are its own bit for bit; from here "
        "on sums over ranks may round in another order (about 1e-7 of the distance that the weights move), and dropout "
        "draws other numbers."
    )


def describe_ranks(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """`2 ranks to step 40, 1 rank to step 80`; None: the number never changed."""
    spans = [
        (world_size, list(of_one)[-1]["step"])
        # Rows of earlier releases do not say it.
        for world_size, of_one in groupby(rows, key=lambda row: row.get("world_size"))
    ]
    if len(spans) < 2:
        return None
    return ", ".join(f"{_ranks(world_size)} to step {step}" for world_size, step in spans)


def _ranks(count: int | None) -> str:
    return "unknown ranks" if count is None else f"{count} rank{'' if count == 1 else 's'}"
