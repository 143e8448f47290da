"""Our trainings of `resume`, in one process that forks their gangs."""

import json
import random
import sys
from pathlib import Path

from benchmarks.training.forks import Trainings, answer, drawn, small_recipe
from benchmarks.training.training_site import Site, make_site
from headrace.training.recipe import Recipe

_STEPS = 24


def main() -> int:
    task = json.loads(sys.argv[1])
    trainings = Trainings(site_of(Path(task["directory"])))
    draw = random.Random(task["seed"])
    runs = []
    for stage in task["stages"]:
        recipe = recipe_of(stage)
        straight = trainings.begin(f"{stage}-straight").run(recipe, 2)
        assert straight
        while sum(run["stage"] == stage for run in runs) < task["kills"]:
            training = trainings.begin(f"{stage}-killed")
            kill = drawn(draw, steps=_STEPS, ranks=2, step_seconds=task["step_seconds"])
            outcome = training.run(recipe, 2, kill)
            if outcome is None:
                outcome = training.run(recipe, 2)
                assert outcome
                equal = (
                    outcome.result.state_digest == straight.result.state_digest
                    and outcome.result.weights_digest == straight.result.weights_digest
                )
                behind = outcome.result.resumed_from_step
                runs.append({"stage": stage, "killed_behind": kill.step, "resumed_behind": behind, "equal": equal})
            training.drop()
    return answer({"runs": runs})


def recipe_of(stage: int) -> Recipe:
    return small_recipe("resume", stage, steps=_STEPS, batch=4, checkpoint_every=4)


def site_of(directory: Path) -> Site:
    """Two examples a row, and dropout: what forgets a random state or a place in the data ends elsewhere."""
    return make_site(directory, hidden=64, layers=2, sequence_length=64, num_sequences=60, dropout=0.1)


if __name__ == "__main__":
    raise SystemExit(main())
