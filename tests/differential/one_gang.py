"""Several trainings in one gang of two ranks, one after another: a start costs more than any small training."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from headrace.store.opening import open_store
from headrace.training.attempts import TrainingResult, find_result
from headrace.training.gang import run_gang
from headrace.training.gang_runner import LocalRunner
from headrace.training.launch_plan import plan_launch
from headrace.training.recipe import Recipe
from headrace.training.run_config import RunConfig
from tests.training_builders import Bench, make_recipe, make_run_config

WORLD_SIZE = 2


def training_id(number: int) -> str:
    """Of the gang's `number`th training."""
    return f"{number:032x}"


def gang_config(directory: Path, number: int, bench: Bench, recipe: Recipe, **changes: object) -> RunConfig:
    """The gang's `number`th training: `recipe` on the bench's base and examples, unless `changes` says otherwise."""
    told = {"base_weights_digest": bench.base_digest, "inputs": bench.inputs} | changes
    return make_run_config(
        directory / f"work-{number:02d}",
        training_id=training_id(number),
        attempt=0,
        recipe=recipe,
        store_url=bench.store.url,
        world_size=WORLD_SIZE,
        **told,
    )


def train_in_one_gang(
    directory: Path, configs: Sequence[RunConfig], *, resuming: Mapping[int, int] | None = None
) -> list[TrainingResult]:
    """Trains each of `configs` in its order; those at stage 3 belong last, since what it leaves behind in its process
    must not help the others.

    Args:
        resuming: by a training's place in `configs`, that of the one before whose newest checkpoint it resumes.
    """
    runs = directory / "runs"
    runs.mkdir()
    for number, config in enumerate(configs):
        config.write(runs / f"{number:02d}.json")
        if resuming and number in resuming:
            (runs / f"{number:02d}.resumes").write_text(configs[resuming[number]].training_id)
    plan = plan_launch(
        run_json=runs,
        world_size=WORLD_SIZE,
        device="cpu",
        work_directory=directory / "gang",
        marker=str(directory),
        environment={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    torchrun = plan.argv[: plan.argv.index("headrace.training.train") - 1]
    script = str(Path(__file__).with_name("training_rank.py"))
    # Nothing tells how far they are: all of them are the gang's start.
    gang = make_run_config(directory / "gang", recipe=make_recipe(start_timeout_seconds=1700))
    run_gang(LocalRunner(replace(plan, argv=(*torchrun, script, str(runs))), gang), gang)
    results = [find_result(open_store(config.store_url), config.training_id) for config in configs]
    assert all(results), "a training has left no result"
    return [result for result in results if result]
