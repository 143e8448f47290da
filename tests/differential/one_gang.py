"""Several trainings in one gang of two ranks: a start is most of a small training."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from headrace.training.attempts import TrainingResult, find_result
from headrace.training.gang import run_gang
from headrace.training.launch_plan import plan_launch
from headrace.training.recipe import Recipe
from tests.training_builders import Bench, make_recipe, make_run_config

WORLD_SIZE = 2


def training_id(number: int) -> str:
    """Of the gang's `number`th training."""
    return f"{number:032x}"


def train_in_one_gang(
    bench: Bench, directory: Path, trainings: Sequence[tuple[Recipe, str, int | None]]
) -> list[TrainingResult | None]:
    """Trains recipes on base digests in order, each from its start or from the newest checkpoint of an earlier one.

    Those at stage 3 belong last: what it leaves behind in its process must not help the others.
    """
    runs = directory / "runs"
    runs.mkdir()
    for number, (recipe, base_digest, resumed) in enumerate(trainings):
        config = make_run_config(
            directory / f"work-{number:02d}",
            training_id=training_id(number),
            attempt=0,
            recipe=recipe,
            base_weights_digest=base_digest,
            store_url=bench.store.url,
            inputs=bench.inputs,
            world_size=WORLD_SIZE,
        )
        config.write(runs / f"{number:02d}.json")
        if resumed is not None:
            (runs / f"{number:02d}.resumes").write_text(training_id(resumed))
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
    run_gang(replace(plan, argv=(*torchrun, script, str(runs))), gang)
    return [find_result(bench.store, training_id(number)) for number in range(len(trainings))]
