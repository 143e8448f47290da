"""A run's demand computed from its partition, by whoever its step's tag `headrace/demand_from` names.

    [project.entry-points."headrace.demands"]
    training_recipe = "headrace_dagster.recipe_demand:demand_of_recipe"

Asked once, when a run is queued, and written into the run's own tags, where people see and change it. What a run says
itself stays. A source that cannot tell costs nothing: the step's own tags hold.
"""

import logging
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points

from dagster import DagsterRun
from dagster._core.storage.tags import PARTITION_NAME_TAG

from headrace.placement.demand import DEMAND_FROM
from headrace_dagster.coordinator.run_needs import RunPlan

GROUP = "headrace.demands"
Source = Callable[[str, bool], Mapping[str, str]]
"""Takes a partition key and whether the fleet has GPUs; gives tags."""

_log = logging.getLogger(__name__)


def computed_demand(run: DagsterRun, plan: RunPlan | None, has_gpus: Callable[[], bool]) -> dict[str, str]:
    """Tags that the run lacks. Only of a run with one step, whose demand is the run's."""
    partition = run.tags.get(PARTITION_NAME_TAG)
    keys = (run.step_keys_to_execute or plan.step_keys_to_execute) if plan else ()
    if plan is None or not partition or len(keys) != 1 or keys[0] not in plan.steps:
        return {}
    name = plan.steps[keys[0]].tags.get(DEMAND_FROM)
    if name is None:
        return {}
    try:
        asked = _source(name)(partition, has_gpus())
    except Exception as error:  # noqa: BLE001 (another package's function; no run may be lost by it)
        _log.warning("The demand of run %s is that of its tags: %s cannot tell it: %s", run.run_id, name, error)
        return {}
    return {tag: value for tag, value in asked.items() if tag not in run.tags}


def _source(name: str) -> Source:
    found = entry_points(group=GROUP, name=name)
    if not found:
        raise LookupError(f"no installed package has {name!r} among its {GROUP}")
    return next(iter(found)).load()
