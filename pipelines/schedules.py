"""When a night starts, and when the store is freed of what earlier nights superseded."""

from collections.abc import Iterator

import dagster as dg

from assets.partitions import campaign_shards
from headrace.keys import ContentPartition
from headrace_dagster.collection import collection_schedule
from pipelines.automation import running_when_automated
from pipelines.jobs import COLLECTION, JOBS
from resources.settings import settings_from_environment

# After midnight, so that the day exists in the stated time zone, and before the office asks for its content.
NIGHTLY_CRON = "0 1 * * *"


@dg.schedule(
    job=JOBS["list_prompts"],
    cron_schedule=NIGHTLY_CRON,
    execution_timezone=settings_from_environment().timezone,
    default_status=running_when_automated()[1],
)
def nightly_campaigns(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    """Lists the day's prompts, one run for each campaign shard; generation, review and report follow automatically.

    The run key is the partition, so a repeated tick, a clock set back or a second schedule starts nothing twice.
    """
    day = context.scheduled_execution_time.strftime("%Y-%m-%d")
    for shard in campaign_shards.get_partition_keys():
        partition = f"{day}|{shard}"
        ContentPartition.parse(partition)
        yield dg.RunRequest(run_key=f"prompts:{partition}", partition_key=partition)


nightly_collection = collection_schedule(
    COLLECTION, timezone=settings_from_environment().timezone, default_status=running_when_automated()[1]
)
