"""A code location whose assets ask for GPUs; every way to queue a run must find that out."""

import dagster as dg

DAYS = dg.StaticPartitionsDefinition(["mon", "tue"])
TWO_GPUS = {"headrace/gpus": "2", "headrace/gpu_memory_mib": "16000", "headrace/stage": "training"}


@dg.asset(partitions_def=DAYS)
def examples() -> None: ...


@dg.asset(partitions_def=DAYS, deps=[examples], op_tags=TWO_GPUS)
def model() -> None: ...


@dg.asset(op_tags={"headrace/gpus": "0.5"}, automation_condition=dg.AutomationCondition.missing())
def embeddings() -> None: ...


@dg.asset(op_tags={"headrace/gpus": "0.25"})
def scores() -> None: ...


@dg.asset_check(asset=embeddings)
def are_finite() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


@dg.op(tags={"headrace/gpus": "1"})
def heavy() -> None: ...


@dg.op(out=dg.DynamicOut())
def fan_out():  # an annotation would be read as that of its output
    yield dg.DynamicOutput(1, mapping_key="one")


@dg.op(tags={"headrace/gpus": "1"})
def render(number: int) -> int:
    return number


@dg.job
def two_heavy_steps() -> None:
    heavy.alias("left")()
    heavy.alias("right")()


@dg.job(executor_def=dg.in_process_executor)
def two_heavy_steps_in_process() -> None:
    heavy.alias("left")()
    heavy.alias("right")()


@dg.job(config={"execution": {"config": {"multiprocess": {"max_concurrent": 1}}}})
def two_heavy_steps_one_at_a_time() -> None:
    heavy.alias("left")()
    heavy.alias("right")()


@dg.job
def mapped() -> None:
    fan_out().map(render)


@dg.op(tags={"headrace/gpus": "3"}, out=dg.DynamicOut())
def prepare():  # an annotation would be read as that of its output
    for key in "abc":
        yield dg.DynamicOutput(key, mapping_key=key)


@dg.op(tags={"headrace/gpus": "1"})
def fail_but_for_b(key: str) -> str:
    assert key == "b"
    return key


@dg.job
def fails() -> None:
    prepare().map(fail_but_for_b)


nightly = dg.define_asset_job("nightly", [embeddings, scores], tags={"headrace/queue": "nightly"})


@dg.schedule(job=nightly, cron_schedule="0 0 * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
def every_night() -> dg.RunRequest:
    return dg.RunRequest()


defs = dg.Definitions(
    assets=[examples, model, embeddings, scores],
    asset_checks=[are_finite],
    jobs=[two_heavy_steps, two_heavy_steps_in_process, two_heavy_steps_one_at_a_time, mapped, fails, nightly],
    schedules=[every_night],
    sensors=[
        dg.AutomationConditionSensorDefinition(
            "automation", target=dg.AssetSelection.all(), default_status=dg.DefaultSensorStatus.RUNNING
        )
    ],
)
