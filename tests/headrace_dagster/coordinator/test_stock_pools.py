"""Pools hold runs back as they do without our gate, at op and at run granularity, and what they hold takes no GPU."""

import logging
from typing import Any

import dagster as dg
import pytest

from tests.headrace_dagster.coordinator.conftest import Deploy

OP = {"pools": {"granularity": "op"}}
RUN = {"pools": {"granularity": "run"}}


def job_of(*pools: str | None, then: str | None = None) -> dg.JobDefinition:
    """One root op for each of `pools` (None: in no pool); `then`: the pool of an op behind the first."""

    def op_in(pool: str | None, name: str, behind: bool = False) -> Any:
        ins = {"before": dg.In(dg.Nothing)} if behind else {}
        return dg.op(name=name, pool=pool, ins=ins)(lambda: None)

    @dg.job(name="pooled")
    def pooled() -> None:
        outputs = [op_in(pool, f"root_{number}")() for number, pool in enumerate(pools)]
        if then:
            op_in(then, "behind", behind=True)(before=outputs[0])

    return pooled


@pytest.mark.parametrize("concurrency", [OP, RUN], ids=["op", "run"])
def test_a_full_pool_holds_back_its_runs_and_gives_their_gpus_to_others(
    deploy_shape: Deploy, concurrency: dict[str, Any]
) -> None:
    deployment = deploy_shape(concurrency=concurrency)
    deployment.instance.event_log_storage.set_concurrency_slots("gold", 1)
    first, held = (deployment.submit(gpus=2, job=job_of("gold")) for _ in range(2))
    other = deployment.submit(gpus=2)

    assert sorted(deployment.iterate()) == sorted([first, other])
    assert deployment.admission(held) is None
    assert "pool gold" in deployment.why(held)
    deployment.finish(first)
    assert deployment.iterate() == [held]


@pytest.mark.parametrize("concurrency", [OP, RUN], ids=["op", "run"])
def test_raising_the_limit_releases(deploy_shape: Deploy, concurrency: dict[str, Any]) -> None:
    deployment = deploy_shape(concurrency=concurrency)
    deployment.instance.event_log_storage.set_concurrency_slots("gold", 0)
    run_id = deployment.submit(gpus=1, job=job_of("gold"))
    for _ in range(3):
        assert deployment.iterate() == []

    deployment.instance.event_log_storage.set_concurrency_slots("gold", 1)
    assert deployment.iterate() == [run_id]


def test_one_root_outside_pools_is_enough_at_op_granularity(deploy: Deploy) -> None:
    for concurrency, num_launched in ((OP, 1), (RUN, 0)):
        deployment = deploy(concurrency=concurrency)
        deployment.instance.event_log_storage.set_concurrency_slots("gold", 0)
        deployment.submit(gpus=1, job=job_of("gold", None))

        assert len(deployment.iterate()) == num_launched


def test_a_pool_behind_the_root_counts_at_run_granularity_alone(deploy: Deploy) -> None:
    for concurrency, num_launched in ((OP, 1), (RUN, 0)):
        deployment = deploy(concurrency=concurrency)
        deployment.instance.event_log_storage.set_concurrency_slots("gold", 0)
        deployment.submit(gpus=1, job=job_of(None, then="gold"))

        assert len(deployment.iterate()) == num_launched


def test_slots_of_roots_in_progress_count(deploy_shape: Deploy) -> None:
    deployment = deploy_shape(concurrency=OP)
    deployment.instance.event_log_storage.set_concurrency_slots("gold", 3)
    pair, one, late = (
        deployment.submit(gpus=1, job=job) for job in (job_of("gold", "gold"), job_of("gold"), job_of("gold"))
    )

    assert sorted(deployment.iterate()) == sorted([pair, one])
    assert deployment.iterate() == []
    deployment.finish(pair)
    assert deployment.iterate() == [late]


@pytest.mark.parametrize(("buffer", "num_launched"), [(0, 1), (1, 2), (2, 3)])
def test_a_buffer_lets_more_runs_in(deploy: Deploy, buffer: int, num_launched: int) -> None:
    pools = {"pools": {"granularity": "op", "op_granularity_run_buffer": buffer}}
    deployment = deploy(concurrency=pools)
    deployment.instance.event_log_storage.set_concurrency_slots("gold", 1)
    for _ in range(4):
        deployment.submit(gpus=1, job=job_of("gold"))

    assert len(deployment.iterate()) == num_launched


@pytest.mark.parametrize("granularity", ["op", "run"])
def test_a_default_limit_counts(deploy: Deploy, granularity: str) -> None:
    deployment = deploy(concurrency={"pools": {"granularity": granularity, "default_limit": 1}})
    for _ in range(2):
        deployment.submit(gpus=1, job=job_of("gold"))
        deployment.submit(gpus=1, job=job_of("silver"))

    assert len(deployment.iterate()) == 2
    assert deployment.iterate() == []


def test_steps_that_wait_for_a_slot_count(deploy: Deploy) -> None:
    deployment = deploy(concurrency=OP)
    storage = deployment.instance.event_log_storage
    storage.set_concurrency_slots("gold", 2)
    under_way = deployment.submit(job=job_of(None))
    deployment.iterate()
    deployment.start(under_way)
    for step in ("a", "b", "c"):
        storage.claim_concurrency_slot("gold", under_way, step)
    held = deployment.submit(gpus=1, job=job_of("gold"))
    assert deployment.iterate() == []

    for step in ("a", "b", "c"):
        storage.free_concurrency_slot_for_step(under_way, step)
        storage.free_concurrency_slots_for_run(under_way)
    assert deployment.iterate() == [held]


def test_a_pool_can_be_left_out_of_the_queue(deploy: Deploy) -> None:
    deployment = deploy({"block_op_concurrency_limited_runs": {"enabled": False}})
    deployment.instance.event_log_storage.set_concurrency_slots("gold", 0)
    run_id = deployment.submit(gpus=1, job=job_of("gold"))

    assert deployment.iterate() == [run_id]


def test_a_blocked_run_is_not_logged_over_and_over(deploy: Deploy, caplog: pytest.LogCaptureFixture) -> None:
    deployment = deploy(concurrency=OP)
    deployment.instance.event_log_storage.set_concurrency_slots("gold", 0)
    run_id = deployment.submit(gpus=1, job=job_of("gold"))
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            deployment.iterate()

    assert sum(run_id in message for message in caplog.messages) <= 1


@pytest.mark.parametrize("concurrency", [OP, RUN], ids=["op", "run"])
def test_each_pool_is_read_once_an_iteration_however_many_pages_and_plans(
    deploy_shape: Deploy, concurrency: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = deploy_shape(concurrency=concurrency)
    storage = deployment.instance.event_log_storage
    for pool in ("gold", "silver"):
        storage.set_concurrency_slots(pool, 1)
    # Two of each, so that a limit is reached while it plans, and it plans again.
    runs = [deployment.submit(gpus=1, job=job_of(pool)) for pool in ("gold", "silver", "gold", "silver")]
    read: list[str] = []
    infos = storage.get_concurrency_infos
    monkeypatch.setattr(storage, "get_concurrency_infos", lambda pools: (read.extend(pools), infos(pools))[1])

    assert sorted(deployment.iterate()) == sorted(runs[:2])
    assert sorted(read) == ["gold", "silver"]
    deployment.finish(runs[0])
    read.clear()
    assert deployment.iterate() == [runs[2]]
    assert sorted(read) == ["gold", "silver"]
