"""Several trainings in one gang, one after another: a start costs more than any small training."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from headrace.training.gang import run_gang
from headrace.training.gang_runner import LocalRunner
from headrace.training.launch_plan import plan_launch
from headrace.training.run_config import RunConfig
from tests.training_builders import make_recipe, make_run_config


def train_in_one_gang(
    directory: Path, configs: Sequence[RunConfig], *, resuming: Mapping[int, str] | None = None
) -> None:
    """Trains each `configs` in its order.

    Args:
        resuming: by a training's place in `configs`, the training id whose newest checkpoint it resumes.
    """
    runs = directory / "runs"
    runs.mkdir()
    for number, config in enumerate(configs):
        config.write(runs / f"{number:02d}.json")
        if resuming and number in resuming:
            (runs / f"{number:02d}.resumes").write_text(resuming[number])
    plan = plan_launch(
        run_json=runs,
        world_size=configs[0].world_size,
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
