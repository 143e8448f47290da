"""A run's demand computed from its partition, by whoever its step's tag `headrace/demand_from` names.

    [project.entry-points."headrace.demands"]
    training_recipe = "headrace_dagster.recipe_demand:demand_of_recipe"

Asked once, when a run is queued, and written into the run's own tags, where people see and change it. What a run says
itself stays. A source that cannot tell costs nothing: the step's own tags hold. Of a run of several steps only what
they load is asked, all of it: the demand of several is more than the sum of tags.
"""

import logging
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points

from dagster import DagsterRun
from dagster._core.storage.tags import PARTITION_NAME_TAG

from headrace.placement.demand import DEMAND_FROM, LOADS
from headrace_dagster.coordinator.run_needs import RunPlan

GROUP = "headrace.demands"
Source = Callable[[str, bool], Mapping[str, str]]
"""Takes a partition key and whether the fleet has GPUs; gives tags."""

_log = logging.getLogger(__name__)


def computed_demand(run: DagsterRun, plan: RunPlan | None, has_gpus: Callable[[], bool]) -> dict[str, str]:
    """Tags that the run lacks."""
    partition = run.tags.get(PARTITION_NAME_TAG)
    keys = (run.step_keys_to_execute or plan.step_keys_to_execute) if plan else ()
    if plan is None or not partition:
        return {}
    told = [plan.steps[key].tags.get(DEMAND_FROM) for key in keys if key in plan.steps]
    names = {name for name in told if name}
    found = [_asked(name, run, partition, has_gpus) for name in sorted(names)]
    if len(keys) == 1:
        tags = found[0] if found else {}
    else:
        loads = {model for asked in found for model in asked.get(LOADS, "").split("|") if model}
        tags = {LOADS: "|".join(sorted(loads))} if loads else {}
    return {tag: value for tag, value in tags.items() if tag not in run.tags}


def _asked(name: str, run: DagsterRun, partition: str, has_gpus: Callable[[], bool]) -> Mapping[str, str]:
    try:
        return _source(name)(partition, has_gpus())
    except Exception as error:  # noqa: BLE001 (another package's function; no run may be lost by it)
        _log.warning("The demand of run %s is that of its tags: %s cannot tell it: %s", run.run_id, name, error)
        return {}


def _source(name: str) -> Source:
    found = entry_points(group=GROUP, name=name)
    if not found:
        raise LookupError(f"no installed package has {name!r} among its {GROUP}")
    return next(iter(found)).load()
