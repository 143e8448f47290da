"""What a service and a recipe that can be read will do: the steps of a rollout, the engines, the batch of a gang."""

from collections.abc import Iterator
from pathlib import Path

from headrace.command_line.checking.engines import engine_findings
from headrace.command_line.checking.named_files import model_finding, weights_findings
from headrace.command_line.checking.report import FileFinding, finding
from headrace.command_line.output import age_text
from headrace.errors import InvalidTrainingRun
from headrace.rollout.status import percent
from headrace.serving.service import Service
from headrace.training.recipe import Recipe


def examine_service(service: Service, home: Path, *, offline: bool) -> list[FileFinding]:
    steps = []
    for step in service.plan.steps:
        more = [f"for {age_text(step.soak_seconds)} at least"] if step.soak_seconds else []
        more += [f"at most {step.cap:,} units"] if step.cap else []
        more += ["then approved"] if step.approval else []
        steps.append(percent(step.weight) + (f" ({', '.join(more)})" if more else ""))
    listed = ", then ".join(steps)
    return [
        finding("rollout", "ok", f"the candidate gets {listed} of the units, then all."),
        *weights_findings(service.roles, home, in_roles=True),
        *engine_findings(service.roles, service.replicas, in_roles=True, offline=offline),
    ]


def examine_recipe(recipe: Recipe, base_model: str) -> Iterator[FileFinding]:
    """Args: base_model: the project's, for a recipe without one of its own."""
    key = "base_model" if recipe.base_model else None
    yield model_finding(recipe.base_model or base_model, Path.cwd(), key=key, what="base model")
    if recipe.ranks is None:
        return
    try:
        passes = recipe.gradient_accumulation(recipe.ranks)
    except InvalidTrainingRun as error:
        yield finding("batch", "fail", str(error), key="batch")
        return
    sentence = f"each of {recipe.ranks} ranks runs {passes} times {recipe.micro_batch} sequences a step."
    yield finding("batch", "ok", sentence)
