"""A run's demand, computed from its partition when it is queued."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from dagster import DagsterRun

from headrace.placement.demand import DEMAND_FROM, GPU_MEMORY_MIB, GPUS, LOADS
from headrace.placement.needs import PlannedStep
from headrace_dagster.coordinator import computed_demand
from headrace_dagster.coordinator.run_needs import RunPlan, needs_of_run


def of_a_recipe(partition: str, has_gpus: bool) -> Mapping[str, str]:
    """What a package of somebody else's would install."""
    if partition == "broken":
        raise ValueError("no such recipe")
    return {GPUS: "4" if has_gpus else "0", GPU_MEMORY_MIB: "30000"}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*, group: str, name: str) -> list[EntryPoint]:
        assert group == computed_demand.GROUP
        return [EntryPoint(name, f"{__name__}:of_a_recipe", group)] if name == "recipe" else []

    monkeypatch.setattr(computed_demand, "entry_points", found)


def make_plan(*keys: str, demand_from: str = "recipe") -> RunPlan:
    tags = {DEMAND_FROM: demand_from, GPUS: "1"}
    steps = {key: PlannedStep(key=key, tags=tags) for key in keys}
    return RunPlan(steps=steps, step_keys_to_execute=keys, executor_name="in_process", job_execution={})


def make_run(partition: str | None = "tiny.define", **tags: str) -> DagsterRun:
    return DagsterRun(job_name="train", tags={**({"dagster/partition": partition} if partition else {}), **tags})


CASES: dict[str, tuple[DagsterRun, RunPlan, dict[str, Any]]] = {
    "a partition's own": (make_run(), make_plan("train"), {GPUS: "4", GPU_MEMORY_MIB: "30000"}),
    "what the run says itself stays": (make_run(**{GPUS: "2"}), make_plan("train"), {GPU_MEMORY_MIB: "30000"}),
    "without a partition": (make_run(None), make_plan("train"), {}),
    "of several steps": (make_run(), make_plan("train", "evaluate"), {}),
    "from nobody who is installed": (make_run(), make_plan("train", demand_from="others"), {}),
    "that cannot be told": (make_run("broken"), make_plan("train"), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_demand_is_computed_where_it_can_be(case: str) -> None:
    run, plan, tags = CASES[case]
    assert computed_demand.computed_demand(run, plan, lambda: True) == tags


def test_a_computed_demand_goes_before_the_steps_and_behind_the_runs_own() -> None:
    run, plan = make_run(**{GPU_MEMORY_MIB: "50000"}), make_plan("train")
    run = run.with_tags({**run.tags, **computed_demand.computed_demand(run, plan, lambda: True)})
    needs = needs_of_run(run, plan)
    assert (needs.demand.num_gpus, needs.demand.gpu_memory_mib) == (4, 50_000)


def test_a_fleet_is_only_looked_at_for_who_asks() -> None:
    def look() -> bool:
        raise AssertionError("nobody asked")

    plan = make_plan("train")
    without = RunPlan(
        steps={"train": PlannedStep(key="train")},
        step_keys_to_execute=plan.step_keys_to_execute,
        executor_name="",
        job_execution={},
    )
    assert computed_demand.computed_demand(make_run(), without, look) == {}
    assert computed_demand.computed_demand(make_run(), None, look) == {}


def test_of_several_steps_all_that_they_load_is_told_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {
        "writer": lambda partition, has_gpus: {LOADS: "3fa1"},
        "painter": lambda partition, has_gpus: {LOADS: "9b07|3fa1", GPUS: "4"},
        "broken": lambda partition, has_gpus: 1 / 0,
    }
    monkeypatch.setattr(computed_demand, "_source", sources.__getitem__)
    steps = {name: PlannedStep(key=name, tags={DEMAND_FROM: name}) for name in sources}
    plan = RunPlan(steps=steps, step_keys_to_execute=tuple(steps), executor_name="", job_execution={})
    assert computed_demand.computed_demand(make_run(), plan, lambda: True) == {LOADS: "3fa1|9b07"}
    assert computed_demand.computed_demand(make_run(**{LOADS: "77d1"}), plan, lambda: True) == {}
