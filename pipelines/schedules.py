"""When a night starts, and when the store is freed of what earlier nights superseded."""

from collections.abc import Iterator

import dagster as dg

from headrace_dagster.collection import collection_schedule
from headrace_dagster.partition_keys import register_keys
from headrace_dagster.resources.campaigns import campaigns_resource
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

    Of the campaigns whose files can be read now. The run key is the partition, so a repeated tick, a clock set back or
    a second schedule starts nothing twice.
    """
    day = context.scheduled_execution_time.strftime("%Y-%m-%d")
    campaigns = campaigns_resource(settings_from_environment()).campaigns()
    for problem in campaigns.problems:
        context.log.warning(problem)
    for campaign in campaigns:
        # Dagster would refuse the whole tick for one unknown key.
        register_keys(context.instance, campaign.dynamic_keys)
        for partition in campaign.partition_keys(day):
            yield dg.RunRequest(run_key=f"prompts:{partition}", partition_key=partition)


nightly_collection = collection_schedule(
    COLLECTION, timezone=settings_from_environment().timezone, default_status=running_when_automated()[1]
)
