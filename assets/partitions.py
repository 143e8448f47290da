"""How each stage is divided into units of work. Mappings between them are beside the assets that use them."""

import dagster as dg

from headrace.generation.campaign import load_campaigns
from headrace.keys import corpus_shard
from headrace.prep.corpus import load_corpus
from resources.settings import settings_from_environment

_settings = settings_from_environment()

corpus_shards = dg.StaticPartitionsDefinition(
    [corpus_shard(index) for index in range(load_corpus(_settings.corpus).num_shards)]
)
# Recipe files define the keys; `pipelines.sensors.partition_keys` and `make demo` register them with the instance.
model_recipes = dg.DynamicPartitionsDefinition(name="model_recipe")
campaigns = dg.DynamicPartitionsDefinition(name="campaign")

days = dg.DailyPartitionsDefinition(
    start_date=_settings.first_day,
    timezone=_settings.timezone,
    # Days end today: tonight's run makes today's partition, not yesterday's.
    end_offset=1,
)
campaign_shards = dg.StaticPartitionsDefinition(
    [shard for campaign in load_campaigns(_settings.campaigns) for shard in campaign.shard_keys]
)
content = dg.MultiPartitionsDefinition({"day": days, "shard": campaign_shards})
