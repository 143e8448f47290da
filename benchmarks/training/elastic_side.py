"""The trainings of `elastic`, in one process that forks their gangs."""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.training.forks import Kill, Training, Trainings, answer, small_recipe
from benchmarks.training.training_site import Site, make_site
from headrace.store.sealed_directory import open_directory
from headrace.training.recipe import Recipe
from headrace.training.session import Outcome

_STEPS = 30
# Far enough from the end that a gang is there to be killed.
_KILLS = (7, 16)
_CHAINS = ((2, 1, 2), (1, 2, 1))


def main() -> int:
    task = json.loads(sys.argv[1])
    site = make_site(Path(task["directory"]), hidden=64, layers=2, sequence_length=64, num_sequences=60)
    trainings = Trainings(site)
    cases = []
    for stage in task["stages"]:
        recipe = recipe_of(stage)
        straight = {}
        for ranks in (1, 2):
            training = trainings.begin(f"{stage}-straight-{ranks}")
            straight[ranks] = (training, _ended(training.run(recipe, ranks)))
        for chain in _CHAINS:
            training = trainings.begin(f"{stage}-{'-'.join(map(str, chain))}")
            cases.append(_case(site, training, recipe, chain, *straight[chain[0]]))
    return answer({"cases": cases})


def recipe_of(stage: int) -> Recipe:
    return small_recipe("elastic", stage, steps=_STEPS, batch=2, checkpoint_every=3, micro_batch=1, clip_norm=1.0)


def _case(
    site: Site, training: Training, recipe: Recipe, chain: tuple[int, ...], undisturbed: Training, straight: Outcome
) -> dict[str, Any]:
    resumed = []
    for ranks, step in zip(chain[:-1], _KILLS, strict=True):
        outcome = training.run(recipe, ranks, Kill(step, 0, 0.0))
        if outcome is not None:
            raise RuntimeError(f"the gang of {ranks} ended before it was killed behind step {step}")
    outcome = _ended(training.run(recipe, chain[-1]))
    resumed = [line.split("behind step ")[1].split()[0] for line in training.said if "resumes behind step" in line]
    weights = {"undisturbed": undisturbed, "elastic": training}
    digests = {"undisturbed": straight.result.weights_digest, "elastic": outcome.result.weights_digest}
    return {
        "stage": recipe.zero_stage,
        "chain": "→".join(map(str, chain)),
        "state_equal": outcome.result.state_digest == straight.result.state_digest,
        "weights_equal": outcome.result.weights_digest == straight.result.weights_digest,
        "apart": _apart(
            open_directory(site.store, site.base_digest),
            *(open_directory(weights[side].store, digests[side]) for side in weights),
        ),
        "resumed": resumed,
        "changed": (outcome.result.ranks or "").count(" to step ") == len(chain),
        "ranks": outcome.result.ranks,
    }


def _apart(base: Path, one: Path, other: Path) -> float:
    """The distance of two models, as a share of the distance that the first one moved from its base."""
    from safetensors.torch import load_file

    start, first, second = (load_file(directory / "model.safetensors") for directory in (base, one, other))
    moved = sum(((first[name].double() - start[name].double()) ** 2).sum().item() for name in first)
    apart = sum(((first[name].double() - second[name].double()) ** 2).sum().item() for name in first)
    return (apart / moved) ** 0.5


def _ended(outcome: Outcome | None) -> Outcome:
    assert outcome
    return outcome


if __name__ == "__main__":
    raise SystemExit(main())
