"""A job whose steps each run in a process of their own, which Dagster imports by this module's name."""

import os
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa

from headrace.handoff.versions import Handoff
from headrace_dagster.handoff_io import ArrowHandoffIOManager

STORE_VARIABLE = "TWO_PROCESSES_STORE"
LETTERS = dg.StaticPartitionsDefinition(["a", "b"])


@dg.asset(partitions_def=LETTERS, backfill_policy=dg.BackfillPolicy.single_run())
def letters(context: dg.AssetExecutionContext) -> Any:
    return {key: pa.table({"letter": [key], "process": [os.getpid()]}) for key in context.partition_keys}


@dg.asset(partitions_def=LETTERS, backfill_policy=dg.BackfillPolicy.single_run())
def followed(letters: dict[str, Handoff]) -> dict[str, pl.DataFrame]:
    return {
        key: handoff.polars().with_columns(reader=pl.lit(os.getpid()), read=pl.lit(handoff.content_digest))
        for key, handoff in letters.items()
    }


def two_processes() -> dg.JobDefinition:
    definitions = dg.Definitions(
        assets=[letters, followed],
        resources={"io_manager": ArrowHandoffIOManager(url=os.environ[STORE_VARIABLE])},
        jobs=[
            dg.define_asset_job(
                "both",
                selection=[letters, followed],
                executor_def=dg.multiprocess_executor.configured({"max_concurrent": 1}),
            )
        ],
    )
    return definitions.resolve_job_def("both")
