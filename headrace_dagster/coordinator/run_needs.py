"""A queued run's needs, from its execution plan, which UI, backfill, automation and schedule runs all have.

The plan's steps carry their assets' `op_tags`; run and job tags alone would miss ad hoc runs of assets. The executor
decides how many steps run together: `in_process` runs one at a time; every other executor runs up to its
`max_concurrent`, from the run's config or else the job's, or without either as many as the order of steps allows.
(Dagster's own default, the number of CPUs, depends on a machine that is not chosen yet; values bound to an executor by
`.configured` cannot be read from outside.)
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dagster import DagsterInstance, DagsterRun
from dagster._core.snap import ExecutionPlanSnapshot, JobSnap

from headrace.placement.needs import PlannedStep, RunNeeds, StepLimit, read_needs

KIND_TAG = ".dagster/headrace/kind"
"""Runs of the same steps of the same job, with any partitions, have the same: their durations predict each other's."""

_KIND_LENGTH = 16
# A deployment queues many runs of few plans.
_NUM_PLANS_KEPT = 1000
_ONE_AT_A_TIME = {"in_process", "execute_in_process_executor"}


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The relevant part of an execution plan's snapshot, small enough to keep many."""

    steps: Mapping[str, PlannedStep]
    step_keys_to_execute: tuple[str, ...]
    executor_name: str
    # From the job's `execution` config; the run's own takes precedence.
    job_execution: Mapping[str, Any]

    @classmethod
    def from_snapshots(cls, plan: ExecutionPlanSnapshot, job: JobSnap | None = None) -> "RunPlan":
        upstream = plan.step_deps
        return cls(
            steps={
                step.key: PlannedStep(key=step.key, tags=dict(step.tags or {}), upstream=frozenset(upstream[step.key]))
                for step in plan.steps
            },
            step_keys_to_execute=tuple(plan.step_keys_to_execute),
            executor_name=plan.executor_name or "",
            job_execution=_execution_default(job) if job else {},
        )


class RunPlans:
    """Plans of runs; each is read once from the instance."""

    def __init__(self, instance: DagsterInstance) -> None:
        @lru_cache(maxsize=_NUM_PLANS_KEPT)
        def read(plan_id: str, job_id: str | None) -> RunPlan | None:
            plan: ExecutionPlanSnapshot | None = instance.get_execution_plan_snapshot(plan_id)
            job: JobSnap | None = instance.get_job_snapshot(job_id) if job_id else None
            return RunPlan.from_snapshots(plan, job) if plan else None

        self._read = read

    def of(self, run: DagsterRun) -> RunPlan | None:
        """None for a run that was created without a plan, or whose plan the instance has lost."""
        if run.execution_plan_snapshot_id is None:
            return None
        return self._read(run.execution_plan_snapshot_id, run.job_snapshot_id)


def needs_of_run(run: DagsterRun, plan: RunPlan | ExecutionPlanSnapshot | None) -> RunNeeds:
    """The run's needs: the peak of the steps that it will execute; its own tags take precedence over theirs.

    A re-execution needs only its remaining steps. A run without a plan needs what its own tags say.

    Raises:
        InvalidNeeds: a tag cannot be read, or the steps' needs exclude each other.
    """
    if isinstance(plan, ExecutionPlanSnapshot):
        plan = RunPlan.from_snapshots(plan)
    if plan is None:
        return read_needs([], run.tags)
    steps = _steps_to_execute(run, plan)
    steps_at_once, tag_limits = _executor_bounds(run, plan)
    return read_needs(steps, run.tags, steps_at_once=steps_at_once, limits=_step_limits(steps, tag_limits))


def kind_of(run: DagsterRun, plan: RunPlan | ExecutionPlanSnapshot | None) -> str:
    """A short digest of code location, job and steps; the value of `headrace/kind`."""
    if isinstance(plan, ExecutionPlanSnapshot):
        plan = RunPlan.from_snapshots(plan)
    origin = run.remote_job_origin
    location = origin.location_name if origin else ""
    steps = sorted(_keys_to_execute(run, plan)) if plan else []
    text = json.dumps([location, run.job_name, steps])
    return hashlib.sha256(text.encode()).hexdigest()[:_KIND_LENGTH]


def _keys_to_execute(run: DagsterRun, plan: RunPlan) -> Sequence[str]:
    return plan.step_keys_to_execute if run.step_keys_to_execute is None else run.step_keys_to_execute


def _steps_to_execute(run: DagsterRun, plan: RunPlan) -> list[PlannedStep]:
    """The plan's steps that the run executes. Named instances of a mapped step (in a retry) are counted."""
    counts = Counter(key if key in plan.steps else _mapped_key(key) for key in _keys_to_execute(run, plan))
    steps = []
    for key, count in counts.items():
        step = plan.steps.get(key)
        if step is None:
            continue
        copies = count if key not in _keys_to_execute(run, plan) else None if key.endswith("[?]") else 1
        steps.append(PlannedStep(key=step.key, tags=step.tags, upstream=step.upstream, copies=copies))
    return steps


def _mapped_key(key: str) -> str:
    """For "work[a]", a retry's name, the plan's "work[?]"."""
    return f"{key[: key.rindex('[')]}[?]" if key.endswith("]") and "[" in key else key


def _executor_bounds(run: DagsterRun, plan: RunPlan) -> tuple[int | None, object]:
    """The most steps that run together, and the executor's `tag_concurrency_limits`."""
    executor = _executor_config(run.run_config.get("execution")) or _executor_config(plan.job_execution)
    # The default executor can be one of two, and its config says which.
    if plan.executor_name in _ONE_AT_A_TIME or "in_process" in executor:
        return 1, None
    chosen = executor.get("multiprocess", executor)
    if not isinstance(chosen, Mapping):
        return None, None
    most = chosen.get("max_concurrent")
    return most if type(most) is int and most > 0 else None, chosen.get("tag_concurrency_limits")


def _step_limits(steps: Sequence[PlannedStep], tag_limits: object) -> list[StepLimit]:
    """Dagster checked the config before it created the run; values with an unknown later meaning are ignored."""
    found = []
    for limit in tag_limits if isinstance(tag_limits, list) else ():
        tag, most, value = limit.get("key"), limit.get("limit"), limit.get("value")
        if type(most) is not int or most < 1:
            continue
        tagged = {step.key: step.tags[tag] for step in steps if tag in step.tags}
        if isinstance(value, str):
            groups = [{key for key, text in tagged.items() if text == value}]
        elif value and value.get("applyLimitPerUniqueValue"):
            groups = [{key for key, text in tagged.items() if text == one} for one in sorted(set(tagged.values()))]
        else:
            groups = [set(tagged)]
        found += [StepLimit(step_keys=frozenset(keys), most=most) for keys in groups]
    return found


def _executor_config(execution: object) -> Mapping[str, Any]:
    config = execution.get("config") if isinstance(execution, Mapping) else None
    return config if isinstance(config, Mapping) else {}


def _execution_default(job: JobSnap) -> Mapping[str, Any]:
    root_key = job.mode_def_snaps[0].root_config_key
    if root_key is None:
        return {}
    root = job.config_schema_snapshot.get_config_snap(root_key)
    field = next((field for field in root.fields or [] if field.name == "execution"), None)
    if field is None or field.default_value_as_json_str is None:
        return {}
    default = json.loads(field.default_value_as_json_str)
    return default if isinstance(default, Mapping) else {}
