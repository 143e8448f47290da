"""What a service and a recipe that can be read will do: the steps of a rollout, the engines, the batch of a gang."""

from collections.abc import Iterator
from pathlib import Path

from headrace.command_line.checking.engines import engine_findings
from headrace.command_line.checking.report import finding
from headrace.command_line.output import age_text
from headrace.errors import InvalidTrainingRun
from headrace.rollout.status import percent
from headrace.serving.service import Service
from headrace.store.mounts import Finding
from headrace.training.recipe import Recipe
from headrace.user_files.finding import nearest_existing


def examine_service(service: Service, *, offline: bool) -> list[Finding]:
    steps = []
    for step in service.plan.steps:
        more = [f"for {age_text(step.soak_seconds)} at least"] if step.soak_seconds else []
        more += [f"at most {step.cap:,} units"] if step.cap else []
        more += ["then approved"] if step.approval else []
        steps.append(percent(step.weight) + (f" ({', '.join(more)})" if more else ""))
    listed = ", then ".join(steps)
    return [
        finding("rollout", "ok", f"the candidate gets {listed} of the units, then all."),
        *engine_findings(service.roles, service.replicas, offline=offline),
    ]


def examine_recipe(recipe: Recipe, base_model: str) -> Iterator[Finding]:
    """Args: base_model: the project's, for a recipe without one of its own."""
    name = recipe.base_model or base_model
    if Path(name).is_dir():
        yield finding("model", "ok", f"the base model is {name}.")
    elif Path(name).is_absolute() or name.startswith("."):
        nearest = nearest_existing(name, Path.cwd())
        yield finding("model", "fail", f"there is no base model {name}. {nearest}")
    else:
        sentence = f"the base model {name} is no directory here: training will fetch it from the hub."
        yield finding("model", "warn", sentence)
    if recipe.ranks is None:
        return
    try:
        passes = recipe.gradient_accumulation(recipe.ranks)
    except InvalidTrainingRun as error:
        yield finding("batch", "fail", str(error))
        return
    sentence = f"each of {recipe.ranks} ranks runs {passes} times {recipe.micro_batch} sequences a step."
    yield finding("batch", "ok", sentence)
